"""What a race measures, as a person reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from thalweg.racing.measures import Difference, Measures, Share, Summary, ToTarget
from thalweg.statistics import Interval
from thalweg.wording import PERCENT
from thalweg.wording import better as better
from thalweg.wording import counted as counted
from thalweg.wording import listed as listed
from thalweg.wording import number as number
from thalweg.wording import percent as percent
from thalweg.wording import signed as signed

COOLINGS = {
    "none": "without cooling",
    "linear": "under linear cooling to a hundredth",
    "cosine": "under cosine cooling to zero",
    "tune": "with the cooling tuned",
}


def test_score(one: Summary) -> str:
    """The median test score. It can be not a number although the runs did not diverge."""
    if one.test is None:
        return "—"
    assert one.validation is not None
    finished = math.isfinite(one.validation.estimate)
    return (
        "not a number" if finished and math.isnan(one.test.estimate) else number(one.test.estimate)
    )


def chance(share: float | None) -> str:
    """A probability in whole percent, which is never shown as certain."""
    if share is None:
        return "—"
    whole = round(100 * share)
    sign = {0: "<\u00a0", 100: ">\u00a0"}.get(whole, "")
    return f"{sign}{min(max(whole, 1), 99)}{PERCENT}"


def interval(found: Interval) -> str:
    """An estimate with its interval, such as 0.12 (0.11 to 0.13)."""
    between = ends(found)
    return f"{number(found.estimate)} ({between})" if between else number(found.estimate)


def ends(found: Interval) -> str:
    """An interval such as 0.11 to 0.13; empty if there are too few scores, or some diverged."""
    if math.isnan(found.estimate) or (math.isinf(found.low) and math.isinf(found.high)):
        return ""
    return f"{number(found.low)} to {number(found.high)}"


def difference(found: Difference) -> str:
    """A difference such as +0.01 (+0.002 to +0.03); `level` gives the level of the interval."""
    return f"{difference_alone(found)} ({difference_ends(found)})"


def difference_alone(found: Difference) -> str:
    return "diverged" if math.isinf(found.estimate) else signed(found.estimate)


def difference_ends(found: Difference, digits: int = 3) -> str:
    """The interval of a difference, such as +0.002 to +0.03."""
    if math.isinf(found.low) and math.isinf(found.high):
        return "no bound yet"
    return f"{signed(found.low, digits)} to {signed(found.high, digits)}"


def level(found: Difference) -> str:
    """The confidence level of a difference's interval, in words."""
    if found.one_comparison:
        return f"one comparison at {percent(found.confidence)}, {counted(found.seeds, 'seed')}"
    return f"{percent(found.confidence)}, {counted(found.seeds, 'seed')}"


def count(found: Share) -> str:
    """A count such as 6 of 12, which no line breaks."""
    return f"{found.count}\u00a0of\u00a0{found.n}"


def share(found: Share) -> str:
    """The interval of a share, such as 1 to 17 %."""
    return f"{100 * found.interval.low:.0f} to {100 * found.interval.high:.0f}{PERCENT}"


def to_target(found: ToTarget | None) -> str:
    """The median number of steps to the target, and how many runs did not reach it."""
    if found is None:
        return "—"
    if math.isnan(found.median):
        return f"{found.missed} of {found.n} never"
    never = f"\u00a0({found.missed}\u00a0never)" if found.missed else ""
    return f"{found.median:,.0f}{never}"


def milliseconds(seconds: float) -> str:
    return f"{thousandths(seconds)} ms"


def milliseconds_between(found: Interval | None, unit: str = " ms", to: str = " to ") -> str:
    """An interval such as 1.21 to 1.24 ms; empty if there is none."""
    if found is None or math.isinf(found.low):
        return ""
    return f"{thousandths(found.low)}{to}{thousandths(found.high)}{unit}"


def thousandths(seconds: float) -> str:
    """A time in thousandths of a second, with three significant digits."""
    return f"{float(f'{1e3 * seconds:.3g}'):g}"


def memory(state_per_parameter: float | None) -> str:
    """The numbers that the optimizer keeps for each parameter."""
    return "—" if state_per_parameter is None else f"{state_per_parameter:.3g}"


def out(one: Summary) -> str:
    """When an entrant left the shortlist, and why."""
    return f"out at {one.out_at} seeds, beaten by {one.beaten_by}"


def values(tuned: Mapping[str, float | str]) -> str:
    """The tuned values, such as lr 0.003, cooling linear."""
    return ", ".join(f"{name} {setting(value)}" for name, value in tuned.items())


def setting(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def lost(measures: Measures, entrants: Iterable[str]) -> str:
    """Why runs of these entrants have no score: they diverged, or failed."""
    without = [
        run
        for run in measures.record.runs
        if run.entrant in entrants and not math.isfinite(run.score)
    ]
    words = {"failed" if run.failed else "diverged" for run in without}
    return " or ".join(sorted(words)) or "diverged"
