"""The HTML reports of a race and of a diagnosis, made only from a record or a diagnosis."""

from thalweg.report.report import write_report

__all__ = ["write_report"]
