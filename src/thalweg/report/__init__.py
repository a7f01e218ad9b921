"""The HTML reports of a race and of a diagnosis, drawn from what they found alone."""

from thalweg.report.report import write_report

__all__ = ["write_report"]
