"""The sentences of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from thalweg.comparing.looks import MOST_SEEDS, Looks, fewest
from thalweg.comparing.scores import Answer, Scores
from thalweg.comparing.sides import Outcome
from thalweg.statistics import Comparison
from thalweg.wording import better, counted, number, percent, signed

UNPAIRED = (
    "The runs share no seeds, so what a seed does to both is counted as noise: runs in pairs, with"
    " the same seeds, would show as much with fewer."
)


def said(scores: Scores, answer: Answer, found: Comparison, margin: float | None) -> str:
    old, new = scores.names
    metric, size = scores.metric, in_words(scores, found)
    if answer in ("better", "worse"):
        if math.isinf(found.estimate):
            diverges = old if answer == "better" else new
            seen = f"{percent(found.confidence)}, {number_of_runs(scores, found)}"
            return f"{new} is {answer} than {old}: runs of {diverges} diverge more ({seen})."
        return (
            f"{new} is {answer} than {old}: {metric} differs by {size}; {better(scores.direction)}."
        )
    if answer == "cannot tell":
        return f"It cannot be told which is better: {new} differs from {old} by {size} in {metric}."
    return (
        f"There is no difference worth the margin of {margin:g}: {new} differs from {old} by {size}"
        f" in {metric}."
    )


def in_words(scores: Scores, found: Comparison) -> str:
    """New minus old, in units of the metric, with its interval."""
    sign = -1 if scores.direction == "min" else 1
    low, high = sorted((sign * found.low + 0.0, sign * found.high + 0.0))
    open_ended = math.isinf(low) and math.isinf(high)
    ends = "no bound yet" if open_ended else f"{signed(low)} to {signed(high)}"
    seen = f"{percent(found.confidence)}, {number_of_runs(scores, found)}"
    return f"{signed(sign * found.estimate + 0.0)} ({ends}; {seen})"


def number_of_runs(scores: Scores, found: Comparison) -> str:
    return counted(found.n, "pair" if scores.paired else "run")


def steps_in_words(scores: Scores, saved: Comparison) -> str:
    """A sentence about the steps that new saves or needs in addition."""
    saves = saved.estimate >= 0
    sign = 1 if saves else -1
    low, high = sorted((sign * saved.low + 0.0, sign * saved.high + 0.0))
    ends = f"{low:,.0f} to {high:,.0f}".replace("inf", "∞")
    return (
        f"{scores.names[1]} {'saves' if saves else 'takes'} {abs(saved.estimate):,.0f}"
        f" {'' if saves else 'more '}steps ({ends}; {percent(saved.confidence)}) to where the worse"
        " run of each pair ends."
    )


def advice(
    scores: Scores, found: Comparison, plan: Looks, margin: float | None, goes_on: bool
) -> Iterator[str]:
    """Sentences about what would decide an open comparison.

    found: the gain that is shown. goes_on: whether more pairs can be run.
    """
    if scores.alike:
        yield (
            f"Every run of {scores.alike} has the same {scores.metric}, so its seed changes nothing"
            " and all its runs are one: let it use the seed, or compare a finer metric."
        )
        return
    if scores.all_diverged:
        yield f"Every run of {' and of '.join(scores.names)} diverged: there is nothing to compare."
        return
    if found.ties == 1:
        yield (
            f"Both have the same {scores.metric} in every pair: what differs between them has no"
            " effect on it, or is not in use."
        )
        return
    needed = scores.more_needed(margin, plan.last_level) if scores.paired else None
    if needed is None:
        yield from open_sign(found)
        return
    yield (
        f"About {counted(needed, 'more pair')} would decide it, if what was seen so far is the"
        f" truth{how(found.n + needed, plan, goes_on)}."
    )


def how(pairs: int, plan: Looks, goes_on: bool) -> str:
    """How a user gets so many pairs."""
    if pairs > MOST_SEEDS:
        return f", and here {MOST_SEEDS:,} is the most: a --margin may settle it with fewer"
    if not goes_on:
        return ""
    added = f" with --seeds {pairs} adds them" if pairs > plan.totals[-1] else " goes on"
    return f": the same command{added}"


def open_sign(found: Comparison) -> Iterator[str]:
    """A sentence for a difference whose sign is open."""
    most = max(-found.low, found.high)
    if math.isinf(most):
        yield "The sign of the difference is open, and so is its size: more pairs are needed."
        return
    margin = number(rounded_up(most))
    yield (
        f"The sign of the difference is open, but it is smaller than {margin}: if that is not worth"
        f" having, --margin {margin} settles it."
    )


def rounded_up(value: float) -> float:
    """A number, rounded up to two digits."""
    unit = 10 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return float(f"{(math.floor(value / unit) + 1) * unit:.2g}")


def too_few(scores: Scores, alpha: float) -> str:
    """A sentence if there are too few scores for any answer; else ""."""
    least = fewest(alpha)
    if min(len(scores.old), len(scores.new)) == 1:
        return (
            "A single run cannot show how much the seed changes a score, and so not whether a"
            " difference is more than that: of two that are equally good, either may come out"
            f" ahead. Run both with the same {least} seeds or more."
        )
    if scores.paired and len(scores.old) < least:
        few = counted(len(scores.old), "pair")
        return f"{few} cannot show it with a risk of {alpha:g}: it takes {least} or more."
    return ""


def failed(outcomes: Mapping[str, Sequence[Outcome]]) -> Iterator[str]:
    """A line for each side with runs that diverged or failed."""
    for name, runs in outcomes.items():
        lost = [one for one in runs if not math.isfinite(one.score)]
        reasons = [one.reason for one in lost if one.reason]
        if lost:
            why = f"; one failed: {reasons[0].rstrip('.')}" if reasons else ""
            share = f"{len(lost)} of {counted(len(runs), 'run')}"
            yield f"{share} of {name} diverged or failed, and count as worse than all others{why}."


def not_paired(name: str, seed: int, first: float, again: float) -> str:
    """A sentence about a side of which two runs with one seed differ."""
    return (
        f"Two runs of {name} with seed {seed} do not come to the same, but to {first!r} and"
        f" {again!r}: something random does not follow the seed, or a run begins with what the one"
        " before it left. So pairs are not paired, and it takes more of them to see a difference."
    )
