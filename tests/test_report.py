"""The report is one page that stands alone, and reads well wherever it is opened."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from made_record import made_record
from pages import WIDER_THAN_PAGE, needs_chromium, opened, parsed
from thalweg.errors import UserError
from thalweg.racing.measures import Measures
from thalweg.racing.record import Certainty, Edge, Record, Stop
from thalweg.racing.repeat import doctor_call
from thalweg.racing.verdict import verdict
from thalweg.report import write_report
from thalweg.report.figure import Picture
from thalweg.report.pictures import pictures
from thalweg.report.search import searches
from thalweg.report.strokes import strokes

MARKUP = "<script>document.title = 'run'</script>"
NAME = "<script>alert(1)</script><b>%{x} $x$ & co</b>"

RECORD = made_record(
    {"sgd": 0.2, "adam": 0.1, "adamw": 0.101, "lion": 0.2, NAME: 0.3, "nadam": 0.25},
    task=MARKUP,
    target=0.11,
    baseline="sgd",
    failing={"lion": 1, "nadam": 0.3},
    edges=[Edge("sgd", "lr", 2.9, 1e-3, 3.0)],
    stops=[Stop("lion", 8, 0.02)],
)
TWELVE = made_record({f"entrant {i}": 0.1 + 0.01 * i for i in range(12)}, target=0.15, seeds=12)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(RECORD, tmp_path_factory.mktemp("report") / "report.html")


# The file


def test_nothing_is_loaded_from_elsewhere(report: Path) -> None:
    assert parsed(report).loads == []
    assert "url(" not in re.sub(r"<script>.*?</script>", "", report.read_text(), flags=re.DOTALL)


def test_what_a_person_needs_is_in_words(report: Path) -> None:
    words = " ".join(" ".join(parsed(report).words).split())
    judged = verdict(RECORD)
    for text in (
        judged.sentence,
        *judged.advice,
        *judged.limits,
        "Not in the final round: none of its 8 trainings in tuning ended well.",
        "loss is not finite",
        "torch.optim.Adam",
        "python 3.11.7",
        RECORD.command,
        "accuracy 0.9",
        "out at 12 seeds, beaten by adam",
        "only the seeds that all entrants ran count",
    ):
        assert " ".join(text.split()) in words


def test_plotly_is_inlined_once(report: Path) -> None:
    assert report.read_text().count("* plotly.js v") == 1


def test_twenty_entrants_all_look_different() -> None:
    drawn = strokes([str(i) for i in range(20)])
    assert len({(s.colour, s.dash, s.symbol) for s in drawn.values()}) == 20
    assert len({(s.colour, s.dash) for s in drawn.values()}) == 20


def test_every_picture_draws_an_entrant_in_its_one_colour() -> None:
    drawn = strokes(RECORD.settings.entrants)
    colour_of = {i: drawn[name].colour for i, name in enumerate(RECORD.settings.entrants)}
    shown = pictures(Measures(RECORD), verdict(RECORD))
    assert [p.name for p in shown] == ["ends", "curves", "target", "tunability"]
    for picture in shown:
        for trace in picture.figure["data"]:
            if "name" in trace:
                style = trace.get("line") or trace["marker"]
                assert style["color"] == colour_of[trace["meta"]]


def test_band_holds_the_middle_half_of_the_seeds() -> None:
    figure = next(p for p in pictures(Measures(TWELVE), verdict(TWELVE)) if p.name == "curves")
    band, line = (
        next(t for t in figure.figure["data"] if t["meta"] == 0 and ("name" in t) is named)
        for named in (False, True)
    )
    finals = sorted(
        run.score for run in TWELVE.runs if run.round == "final" and run.entrant == "entrant 0"
    )
    assert len(finals) == 12
    half = len(band["x"]) // 2
    assert line["y"][-1] == pytest.approx((finals[5] + finals[6]) / 2)
    assert band["y"][half - 1] == pytest.approx((finals[8] + finals[9]) / 2)
    assert band["y"][half] == pytest.approx((finals[2] + finals[3]) / 2)


# The search


def search_of(record: Record, entrant: str) -> Picture:
    return next(p for p in searches(Measures(record), [entrant]) if p.title == entrant)


def traces(picture: Picture) -> dict[str, dict[str, list[float]]]:
    """By name; the band, which has none, under "band"."""
    return {trace.get("name", "band"): trace for trace in picture.figure["data"]}


def test_every_configuration_is_marked_by_what_became_of_it() -> None:
    drawn = traces(search_of(RECORD, "adam"))
    rates = {
        kind: sorted(
            one.values["lr"]
            for one in RECORD.configurations
            if one.entrant == "adam" and one.refined == (kind == "refined")
            if one.values["lr"] <= 0.5
        )
        for kind in ("explored", "refined")
    }
    assert len(rates["refined"]) == 16
    for kind, lrs in rates.items():
        assert sorted(drawn[kind]["x"]) == lrs
    every = [one.values["lr"] for one in RECORD.configurations if one.entrant == "adam"]
    assert sorted(drawn["diverged"]["x"]) == sorted(lr for lr in every if lr > 0.5)
    assert drawn["chosen"]["x"] == [every[RECORD.chosen["adam"]]]
    assert len(drawn["tried again"]["x"]) == 3


def test_what_was_tried_again_is_drawn_at_its_median_over_the_further_seeds() -> None:
    chosen = RECORD.chosen["adam"]
    scores = [
        run.score
        for run in RECORD.runs
        if (run.round, run.entrant, run.configuration) == ("tuning", "adam", chosen)
    ]
    assert len(scores) == 5
    drawn = traces(search_of(RECORD, "adam"))["chosen"]
    assert drawn["y"] == [pytest.approx(np.median(scores[1:]))]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_band_of_the_model_holds_the_curve_that_the_scores_come_from(direction: str) -> None:
    record = made_record({"sgd": 0.2, "adam": 0.1}, trials=48, direction=direction)
    drawn = traces(search_of(record, "adam"))
    model, band = drawn["the model"], drawn["band"]
    lr, mean = np.array(model["x"]), np.array(model["y"])
    high, low = np.split(np.array(band["y"]), 2)
    low = low[::-1]
    if direction == "max":
        mean, low, high = 1 - mean, 1 - low, 1 - high
    assert (lr.min(), lr.max()) == (pytest.approx(1e-4), pytest.approx(1))
    trained = lr <= 0.5
    truth = 0.1 + 0.1 * (np.log10(lr) + 2) ** 2
    assert ((low < truth) & (truth < high))[trained].mean() >= 0.8
    assert lr[mean.argmin()] == pytest.approx(0.01, rel=0.5)
    assert (high - mean > mean - low)[trained].mean() >= 0.8, "the scale is logarithmic"


def test_the_model_is_drawn_beyond_a_space_that_was_widened() -> None:
    picture = search_of(RECORD, "adam")
    assert "shapes" not in picture.figure["layout"]
    assert max(traces(picture)["the model"]["x"]) == pytest.approx(1)
    *others, last = RECORD.configurations
    widened = replace(last, values={"lr": 4.0})
    wider = replace(RECORD, configurations=(*others, widened))
    picture = search_of(wider, last.entrant)
    assert [shape["x0"] for shape in picture.figure["layout"]["shapes"]] == [1]
    assert max(traces(picture)["the model"]["x"]) == pytest.approx(4)


def test_the_search_says_who_was_stopped_and_why() -> None:
    went_on, ended = search_of(RECORD, "adam").summary, search_of(stopped(), "adam").summary
    assert went_on.startswith("8 explored, 16 refined and 3 tried again. Chosen: lr 0.00999, ")
    assert ended.startswith("8 explored and 3 tried again. Chosen: lr 0.00999, ")
    assert "Stopped" not in went_on
    assert ended.endswith(
        " Stopped after 8: the probability to come close to the best result of all was 2\u00a0%."
    )


def stopped() -> Record:
    return made_record({"sgd": 0.1, "adam": 0.2}, stops=[Stop("adam", 8, 0.02)])


def test_high_walls_leave_room_for_the_valleys() -> None:
    """One loss in a thousand tells nothing of where the others lie."""
    runs = list(RECORD.runs)
    runs[0] = replace(runs[0], score=1e9)
    before, after = (
        search_of(record, "sgd") for record in (RECORD, replace(RECORD, runs=tuple(runs)))
    )
    ranges = [picture.figure["layout"]["yaxis"]["range"] for picture in (before, after)]
    assert ranges[1] == pytest.approx(ranges[0], abs=0.2)
    drawn = traces(after)["explored"]
    assert max(drawn["y"]) < 10 ** ranges[1][1]
    assert any(text.startswith("1e+09") for text in drawn["text"])


def test_an_entrant_whose_lr_was_not_tuned_has_no_search() -> None:
    spaces = {**RECORD.settings.spaces, "adam": {}}
    record = replace(RECORD, settings=replace(RECORD.settings, spaces=spaces))
    shown = [picture.title for picture in searches(Measures(record), record.settings.entrants)]
    assert shown == [name for name in record.settings.entrants if name != "adam"]


def test_the_table_says_what_tuning_cost_and_how_sure_it_is(tmp_path: Path) -> None:
    sure = (Certainty("sgd", 0.93, 0.0), Certainty("adam", 0.002, 0.15))
    page = parsed(write_report(replace(stopped(), certainties=sure), tmp_path / "report.html"))
    words = " ".join(" ".join(page.words).split())
    assert "With other tuning draws sgd would be named again in 9 of 10 races." in words
    assert "36 93 % —" in words
    assert "20 < 1 % 15 %" in words


# Every record


@pytest.mark.parametrize(
    "record",
    [
        made_record({"sgd": 0.2, "adam": 0.1}, trials=1),
        made_record({"sgd": 0.2, "adam": 0.1}, finished=False),
        made_record({"sgd": 0.2, "adam": 0.1}, seeds=1),
        made_record({"sgd": 0.2, "adam": 0.1}, failing={"sgd": 1, "adam": 1}, target=0.1),
        made_record({"sgd": 0.2, "lion": 0.1}, failing={"sgd": 0.99, "lion": 0.99}),
        made_record({"sgd": 0.2, "lion": 0.1}, direction="max", target=0.9),
        replace(made_record({"sgd": 0.2, "lion": 0.1}, finished=False), runs=(), chosen={}),
    ],
    ids=["one trial", "unfinished", "one seed", "none trained", "all diverged", "max", "no runs"],
)
def test_any_record_has_a_report(record: Record, tmp_path: Path) -> None:
    page = write_report(record, tmp_path / "new" / "report.html")
    assert verdict(record).sentence in " ".join(parsed(page).words)


def test_nothing_is_drawn_where_nothing_trained(tmp_path: Path) -> None:
    record = made_record({"sgd": 0.2, "adam": 0.1}, failing={"sgd": 1, "adam": 1}, target=0.1)
    assert pictures(Measures(record), verdict(record)) == []
    words = parsed(write_report(record, tmp_path / "report.html")).words
    assert "Pictures" not in words
    assert "The search for each recipe" not in words


def test_only_one_that_is_left_alone_is_called_the_best(tmp_path: Path) -> None:
    """Of several left, the first has the best median and no more."""
    pages = [
        parsed(write_report(made_record(losses, seeds=20), tmp_path / "report.html")).words
        for losses in ({"sgd": 0.3, "adam": 0.1}, {"sgd": 0.1, "adam": 0.1})
    ]
    assert ["best" in words for words in pages] == [True, False]
    assert ["best median" in words for words in pages] == [False, True]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "report.html", tmp_path):
        with pytest.raises(UserError, match="cannot be written: "):
            write_report(TWELVE, place)


def test_a_report_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    place = write_report(TWELVE, tmp_path / "report.html")
    before = place.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written: File too large"):
            write_report(TWELVE, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert place.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("command", "folder", "told"),
    [
        (
            "thalweg race digits --entrants sgd,adam --trials 2",
            "runs/digits",
            "thalweg doctor digits --recipe runs/digits/winner.toml",
        ),
        (
            "thalweg race 'my nets.py:task' --entrants sgd,adam",
            "/data/second",
            "thalweg doctor 'my nets.py:task' --recipe /data/second/winner.toml --name second"
            " --runs /data",
        ),
        (
            "thalweg.race(<Task net>, entrants=['sgd', 'adam'], trials=2)",
            "runs/net",
            "thalweg.diagnose(<Task net>, 'runs/net/winner.toml').report('runs/net/doctor.html')",
        ),
    ],
    ids=["bundled", "another folder", "from Python"],
)
def test_the_doctor_is_called_as_the_race_was(command: str, folder: str, told: str) -> None:
    settings = replace(TWELVE.settings, task="digits")
    record = replace(TWELVE, settings=settings, command=command)
    assert doctor_call(record, Path(folder)) == told


# In a browser


@pytest.fixture(scope="module")
def desktop(browser: Browser, report: Path) -> tuple[Page, list[str]]:
    """One open page for the tests that leave it as it was."""
    return opened(browser, report)


@needs_chromium
@pytest.mark.parametrize(("width", "searches_beside"), [(390, 1), (820, 3), (1400, 5)])
def test_the_page_uses_its_width_and_nothing_is_wider(
    browser: Browser, report: Path, width: int, searches_beside: int
) -> None:
    page, wrong = opened(browser, report, width)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(WIDER_THAN_PAGE) == []
    tops = page.evaluate(
        """() => [...document.querySelectorAll("[aria-labelledby=search] figure")]
             .map(figure => figure.getBoundingClientRect().top)"""
    )
    assert tops.count(min(tops)) == searches_beside
    assert page.evaluate("document.querySelectorAll('table').length") == 2
    assert page.evaluate("document.querySelectorAll('.plot > * .main-svg').length") >= 5
    assert wrong == []
    page.close()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_pictures_stand_out_from_the_paper(
    desktop: tuple[Page, list[str]], scheme: str
) -> None:
    page, _ = desktop
    page.emulate_media(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    inks = page.evaluate(
        """() => [...document.querySelectorAll("h1, td, caption, pre, .plot text")]
             .map(e => getComputedStyle(e)[e.closest("svg") ? "fill" : "color"])"""
    )
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    assert all(contrast(ink, paper) >= 4.5 for ink in set(inks))
    for stroke in strokes(RECORD.settings.entrants).values():
        assert contrast(rgb(stroke.colour), paper) >= 2.3


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@needs_chromium
def test_names_with_markup_show_as_text(desktop: tuple[Page, list[str]]) -> None:
    page, wrong = desktop
    assert page.title() == f"{MARKUP}: a race of optimizers"
    assert MARKUP in page.inner_text("h1")
    assert NAME in page.inner_text("table >> nth=0")
    assert NAME in texts(page, "#ends ~ .plot .ytick text")
    hover(page, NAME)
    assert any(NAME in said for said in texts(page, "#ends ~ .plot .hovertext"))
    assert wrong == []


def texts(page: Page, selector: str) -> list[str]:
    """The texts there, without the mark that keeps Plotly from reading a template."""
    found = page.locator(selector).all_text_contents()
    return [text.replace("\u2060", "") for text in found]


def hover(page: Page, name: str) -> None:
    """Points at an entrant in the first picture."""
    page.evaluate(
        """place => {
             const plot = document.querySelector("#ends ~ .plot");
             const curve = plot.data.findIndex(trace => trace.meta === place);
             Plotly.Fx.hover(plot, [{curveNumber: curve, pointNumber: 0}]);
           }""",
        RECORD.settings.entrants.index(name),
    )


@needs_chromium
def test_pictures_are_drawn_and_described(desktop: tuple[Page, list[str]]) -> None:
    page, _ = desktop
    marks = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].map(
             plot => plot.querySelectorAll(".scatterlayer path[d]").length)"""
    )
    assert len(marks) == 4 + len(RECORD.settings.entrants)
    assert all(count >= 5 for count in marks)
    summaries = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].map(
             plot => document.getElementById(plot.getAttribute("aria-describedby")).innerText)"""
    )
    assert all(len(summary) > 60 for summary in summaries)


@needs_chromium
def test_legend_switches_an_entrant_in_all_pictures(desktop: tuple[Page, list[str]]) -> None:
    page, _ = desktop
    shown = """() =>
      [...document.querySelectorAll("[aria-labelledby=pictures] .plot")].map(plot =>
        plot.data.filter(t => t.meta === 1).every(t => t.visible !== false))"""
    assert page.evaluate(shown) == [True] * 4
    page.locator("label:has([data-entrant='1'])").first.click()
    assert page.evaluate(shown) == [False] * 4
    page.locator("label:has([data-entrant='1'])").last.click()
    assert page.evaluate(shown) == [True] * 4


@needs_chromium
def test_it_prints_within_white_paper(browser: Browser, report: Path) -> None:
    page, wrong = opened(browser, report)
    page.emulate_media(color_scheme="dark")
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
             const pictures = [...document.querySelectorAll(".main-svg")];
             window.widest = Math.max(...pictures.map(p => p.getBoundingClientRect().width)) })"""
    )
    pdf = page.pdf(format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "15mm"))
    assert pdf.startswith(b"%PDF")
    assert 0 < page.evaluate("widest") <= 180 / 25.4 * 96
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert wrong == []
    page.close()


@needs_chromium
def test_twelve_entrants_fit_a_phone(browser: Browser, tmp_path: Path) -> None:
    page, wrong = opened(browser, write_report(TWELVE, tmp_path / "report.html"), 390)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(WIDER_THAN_PAGE) == []
    assert wrong == []
    page.close()
