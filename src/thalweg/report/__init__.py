"""The HTML report of a race, drawn from its record alone."""

from thalweg.report.report import write_report

__all__ = ["write_report"]
