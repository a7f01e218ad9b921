"""The report of a diagnosis is one page that stands alone, and shows all that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from made_diagnosis import WITHOUT, made_diagnosis, nothing_seen, shifted
from pages import WIDER_THAN_PAGE, needs_chromium, opened, parsed
from thalweg.doctor.judge import diagnosis as wording
from thalweg.report.along import along
from thalweg.report.diagnosis import write_diagnosis
from thalweg.report.evidence import tried

MARKUP = "<script>document.title = 'run'</script><b>%{x} $x$</b>"
MADE = made_diagnosis(MARKUP)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diagnosis(MADE, tmp_path_factory.mktemp("page") / "new" / "doctor.html")


def words_of(page: Path) -> str:
    return " ".join(" ".join(parsed(page).words).split())


def test_all_that_was_found_is_in_words(page: Path) -> None:
    words = words_of(page)
    cause, suspected, note = MADE.findings
    told = [wording.headline(MADE), wording.watched(MADE), *MADE.unread.values()]
    for one in (cause, *cause.symptoms, suspected, note):
        told += [one.name, one.suspicion.sentence, one.suspicion.prescription]
        told += [one.suspicion.standing, *(fact.what for fact in one.suspicion.facts)]
        told += [one.untried, *(trial.words for trial in one.trials)]
    told += ["0.25 0.125 to 0.375", "17", "not finite", "rule = &quot;Adam&quot;"]
    told += ["helps too little to matter", "did not help", "training diverges with it"]
    told += ["8 with it", "162 from step 30", "stability 3 400 ms 1.2 s 80"]
    for text in told:
        assert " ".join(text.replace("&quot;", '"').split()) in words


def test_symptoms_and_notes_are_folded_and_alarms_are_not(page: Path) -> None:
    folded = " ".join(
        part.partition("</details>")[0] for part in page.read_text().split("<details>")[1:]
    )
    cause, suspected, note = (f"The sentence of {one.name[:4]}" for one in MADE.findings)
    assert "The sentence of nois" in folded
    assert note in folded
    assert cause not in folded
    assert suspected not in folded


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    assert parsed(page).loads == []


def test_every_seed_is_drawn_where_it_ended() -> None:
    trials = [trial for trial in MADE.findings[0].trials if "0.1" in trial.words]
    picture = tried("tried", trials, "log-loss")
    assert picture is not None
    _, without, with_it = picture.figure["data"]
    assert without["x"] == list(WITHOUT)
    assert with_it["x"] == pytest.approx(shifted(1.0))
    assert without["y"] == with_it["y"]


def test_a_trial_that_diverged_on_every_seed_has_no_mark() -> None:
    picture = tried("tried", MADE.findings[0].trials[2:], "log-loss")
    assert picture is not None
    *_, with_it = picture.figure["data"]
    assert with_it["x"] == [None] * 8


def test_pictures_along_the_way_show_what_was_seen() -> None:
    drawn = {picture.name: picture.figure["data"] for picture in along(MADE.case.history)}
    assert list(drawn) == ["loss", "norm", "change", "best", "cosines", "rates"]
    assert drawn["loss"][0]["y"] == pytest.approx([3.0 - step / 30 for step in range(0, 30, 3)])
    assert drawn["best"][0]["y"][:3] == [pytest.approx(2.5), 0.5, None]
    promised, became = (trace["y"] for trace in drawn["change"])
    assert promised[:3] == [-1.0, -1.0, -1.0]
    assert became[:3] == pytest.approx([-0.8, 0.0, -2.0])


def test_of_many_parameters_a_few_are_drawn() -> None:
    rates = along(made_diagnosis(parameters=100).case.history)[-1]
    assert rates.name == "rates"
    assert 6 <= len(rates.figure["data"]) <= 12
    assert f"{len(rates.figure['data'])} of 100 parameters" in rates.summary


def test_nothing_is_drawn_of_a_training_that_was_not_seen(tmp_path: Path) -> None:
    page = write_diagnosis(nothing_seen(), tmp_path / "doctor.html")
    assert "no fault found" in words_of(page)
    assert 'class="plot"' not in page.read_text()
    assert "<table" not in page.read_text()


OPEN_ALL = "() => document.querySelectorAll('details').forEach(part => part.open = true)"
WIDTHS = """() => [...document.querySelectorAll("details .plot")].map(
  plot => plot.querySelector(".main-svg").clientWidth - plot.clientWidth)"""


@needs_chromium
@pytest.mark.parametrize("width", [390, 1400])
def test_it_opens_without_an_error_and_fits_the_page(
    browser: Browser, page: Path, width: int
) -> None:
    sheet, wrong = opened(browser, page, width)
    assert sheet.title() == f"digits {MARKUP} with adam: a diagnosis"
    assert sheet.locator("h2").first.inner_text() == f"1. rate {MARKUP}"
    assert MARKUP in legend(sheet)
    sheet.evaluate(OPEN_ALL)
    sheet.wait_for_function(f"({WIDTHS})().every(apart => apart === 0)")
    for scheme in ("light", "dark"):
        sheet.emulate_media(color_scheme=scheme)
        assert sheet.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert sheet.evaluate(WIDER_THAN_PAGE) == []
    plots = sheet.locator(".plot")
    assert plots.count() == 2 + 2 + 1 + 6
    assert sheet.locator(".plot .scatterlayer .trace").count() >= plots.count()
    assert wrong == []
    sheet.close()


def legend(sheet: Any) -> str:
    return str(sheet.locator(".legend").first.inner_text())
