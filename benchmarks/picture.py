"""Pictures for the documentation, taken by Chromium."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import plotly.graph_objects as go

DOCS = Path(__file__).parents[1] / "docs"


def blank(width: int = 800, height: int = 360) -> go.Figure:
    """A figure of this size in pixels."""
    margin = {"l": 60, "r": 20, "t": 20, "b": 50}
    layout = {"template": "plotly_white", "width": width, "height": height, "margin": margin}
    return go.Figure(layout=layout)


def take(figure: go.Figure, name: str) -> None:
    """Writes `docs/NAME.png`, where Chromium is there to take it."""
    chromium, path = shutil.which("chromium"), DOCS / f"{name}.png"
    if chromium is None:
        print("no picture: it is taken by Chromium, which is not here")
        return
    with TemporaryDirectory() as folder:
        page = Path(folder, "picture.html")
        figure.write_html(page, config={"displayModeBar": False})
        size = f"--window-size={figure.layout.width + 16},{figure.layout.height + 16}"
        options = ["--headless", "--no-sandbox", size, "--hide-scrollbars"]
        waiting = "--virtual-time-budget=5000"
        taken = [chromium, *options, waiting, f"--screenshot={path}", page.as_uri()]
        subprocess.run(taken, check=True, capture_output=True)
    print(f"drawn in {path}")
