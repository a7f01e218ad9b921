"""Pages as a browser opens them, for the tests of all reports."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")


class Links(HTMLParser):
    """Collects whatever a page could load, and the words that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden = tag in ("script", "style")
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]
        if tag in ("link", "iframe", "object", "embed", "base"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)


def parsed(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


def opened(browser: Browser, report: Path, width: int = 1400) -> tuple[Page, list[str]]:
    """The page, and a list of whatever goes wrong in it or asks for the network."""
    page, wrong = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(report.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.plot')].every(p => p.data)")
    wrong.remove(report.as_uri())
    return page, wrong


WIDER_THAN_PAGE = """
() => [...document.querySelectorAll("body *")]
  .filter(e => !e.closest("defs, thead, .legend input, #js-plotly-tester"))
  .filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
  })
  .map(e => e.tagName + "." + e.getAttribute("class"))
"""
"""What sticks out of the page; Plotly measures text in a place of its own beside it."""
