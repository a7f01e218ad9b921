"""What a change from the baseline gains, and which part of the gain is by tuning alone."""

from __future__ import annotations

import math

from thalweg.racing import wording
from thalweg.racing.measures import Difference, Measures
from thalweg.racing.record import Settings


def gain(measures: Measures, baseline: str) -> str:
    """Says what a change from the baseline gains: to the best, or to the entrant that beat it."""
    best, metric = measures.best, measures.settings.metric
    if baseline not in measures.final:
        what = wording.lost(measures, [baseline])
        return f"The recipe that you use now, {baseline}, {what} in the tuning round."
    if best is None or baseline == best:
        return f"Changing from {baseline} gains nothing that can be measured."
    for other in (best, measures.beaten_by(baseline)):
        found = measures.difference(baseline, other)
        if other and found and worse(found, measures.settings):
            whole = gain_in_words(measures, baseline, other, found)
            return f"{whole}{parts(measures, baseline, other, found)}."
    found = measures.difference(baseline, best)
    assert found is not None, "all entrants of the final round share its first seeds"
    return (
        f"Changing from {baseline} to {best} gains nothing that can be measured: {metric} differs "
        f"by {difference_in_words(found)}."
    )


def parts(measures: Measures, baseline: str, other: str, whole: Difference) -> str:
    """Says which part of a gain is by tuning alone, and which is by changing the optimizer.

    A part is named only if its own interval excludes 0.
    """
    tuned = measures.settings.baseline_tuned
    if tuned is None:
        return ""
    if other == tuned:
        return ", all of it by tuning alone"
    if tuned not in measures.final:
        what = wording.lost(measures, [tuned])
        return (
            f"; the gain by tuning alone is not known, because {tuned} {what} in the tuning round"
        )
    by_tuning = measures.difference(baseline, tuned)
    by_change = measures.difference(tuned, other)
    assert by_tuning and by_change, "all entrants of the final round share its first seeds"
    match worse(by_tuning, measures.settings), worse(by_change, measures.settings):
        case True, True if math.isinf(whole.estimate) and math.isinf(by_tuning.estimate):
            return f", and so does tuning alone. {gain_in_words(measures, tuned, other, by_change)}"
        case True, True:
            return both_parts(whole, by_tuning, by_change, f"changing from {tuned} to {other}")
        case True, False:
            differs = f"{tuned} differs from {other} by {difference_in_words(by_change)}"
            return f", all that can be measured of it by tuning alone: {differs}"
        case False, True:
            differs = f"{baseline} differs from {tuned} by {difference_in_words(by_tuning)}"
            return f", and tuning alone gains nothing that can be measured: {differs}"
    return ", and it cannot be measured how much of it is by tuning alone"


def both_parts(whole: Difference, by_tuning: Difference, by_change: Difference, change: str) -> str:
    """Names both parts of a gain.

    The estimates of three differences need not add up. The change of the optimizer, which is mostly
    the smaller part, is told by its own estimate, which the table shows too. The gain by tuning is
    told as the rest of the whole gain, if its interval allows that.
    """
    rest = rounded(whole) - rounded(by_change)
    near, far = sizes(by_tuning)
    round_off = 0.01 * rounded(whole)
    if math.isinf(rest) or not near - round_off <= rest <= far + round_off:
        return f", a part of it by tuning alone and a part by {change}"
    return (
        f": {rest:.3g} of it ({reach_in_words(by_tuning)}) by tuning alone, and"
        f" {size_in_words(by_change)} by {change}"
    )


def gains_by_tuning_alone(measures: Measures) -> bool:
    """Whether the tuned baseline is better than the baseline, and on the shortlist."""
    settings = measures.settings
    if settings.baseline not in measures.final or settings.baseline_tuned not in measures.shortlist:
        return False
    found = measures.difference(settings.baseline, settings.baseline_tuned)
    return found is not None and worse(found, settings)


def gain_in_words(measures: Measures, baseline: str, other: str, found: Difference) -> str:
    if math.isinf(found.estimate):
        return f"Changing from {baseline} to {other} gains runs that do not diverge"
    verb = "lowers" if measures.settings.direction == "min" else "raises"
    metric = measures.settings.metric
    return f"Changing from {baseline} to {other} {verb} {metric} by {size_in_words(found)}"


def size_in_words(found: Difference) -> str:
    """The size of a difference that excludes 0, and its interval, without the sign."""
    size = f"{abs(found.estimate):.3g} ({reach_in_words(found)}"
    return f"{size}; {wording.level(found)})"


def reach_in_words(found: Difference) -> str:
    near, far = sizes(found)
    return f"{near:.3g} or more" if math.isinf(far) else f"{near:.3g} to {far:.3g}"


def sizes(found: Difference) -> tuple[float, float]:
    """The ends of an interval that excludes 0, without the sign; the end nearer to 0 is first."""
    near, far = sorted((abs(found.low), abs(found.high)))
    return near, far


def rounded(found: Difference) -> float:
    """The size of a difference with the digits that are shown."""
    return float(f"{abs(found.estimate):.3g}")


def difference_in_words(found: Difference) -> str:
    infinite = math.isinf(found.estimate)
    size = "runs that diverged" if infinite else wording.difference(found)
    return f"{size}, {wording.level(found)}"


def worse(found: Difference, settings: Settings) -> bool:
    """Whether the whole interval lies on the worse side of 0."""
    return found.low > 0 if settings.direction == "min" else found.high < 0
