"""Writing a report as one HTML file that opens without a network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from thalweg.racing import wording
from thalweg.whole_file import write_text


def write_page(path: str | Path, template: str, **shown: Any) -> Path:
    """Fills in a template of this package, writes the page to one file and returns its path.

    The page loads nothing from elsewhere. Missing folders are made. Raises UserError if the file
    cannot be written.
    """
    path = Path(path)
    write_text(path, html(template, **shown))
    return path


def html(template: str, **shown: Any) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("thalweg.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **shown,
        wording=wording,
        style=packaged("report.css"),
        script=packaged("report.js"),
        plotly=Markup(get_plotlyjs()),
    )


def packaged(name: str) -> Markup:
    """A file of this package, which goes into the page unchanged."""
    return Markup(files("thalweg.report").joinpath(name).read_text(encoding="utf-8"))
