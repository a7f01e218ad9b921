"""The sentences of a verdict: who is best, what a person should do, where the evidence stops."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from thalweg.racing import wording
from thalweg.racing.measures import Difference, Measures, Row
from thalweg.racing.record import RunRecord, Settings
from thalweg.racing.wording import counted, listed
from thalweg.statistics import Interval, more_seeds_needed, visible_margin

NEARLY_ALL = 0.75
"""With more than this share of the entrants left, a race has no clear winner."""

CHEAPER = 0.9
"""A step is called cheaper where its time, interval and all, is at most this much of another's."""


def sentence(measures: Measures) -> str:
    """Who is the best; against a baseline, a sentence before it says what changing would gain."""
    baseline = measures.settings.baseline
    if baseline is None or not measures.record.finished:
        return standing(measures)
    return f"{gain(measures, baseline)} {standing(measures)}"


def standing(measures: Measures) -> str:
    """Who is the best, or who cannot be told apart, in one sentence."""
    settings, left = measures.settings, measures.shortlist
    field = len(settings.entrants)
    if not measures.record.finished:
        runs = counted(len(measures.record.runs), "run")
        return f"The race is not finished: {runs} are on record, and there is no verdict yet."
    if not left:
        what = lost(measures, settings.entrants)
        return f"There is no clear winner: every configuration of every entrant {what} in tuning."
    if measures.best is None:
        what = lost(measures, left)
        return f"There is no clear winner: most runs {what}, whatever the entrant."
    seeds = counted(len(measures.final[measures.best]), "seed")
    recipes = recipes_in_words(measures)
    metric = f"by {settings.metric} ({wording.better(settings.direction)})"
    ground = f"on {settings.task} {metric}, over {seeds}{cooling_in_words(measures)}"
    if len(left) == 1:
        return f"{left[0]} is the best of these {recipes} {ground}."
    if len(left) > NEARLY_ALL * field:
        return f"There is no clear winner among these {recipes} {ground}."
    return f"{listed(left)} cannot be told apart; the rest are worse ({recipes} {ground})."


def recipes_in_words(measures: Measures) -> str:
    """How many recipes raced, and how many of them were tuned."""
    count, tuned = len(measures.settings.entrants), len(measures.tuned)
    if tuned == count:
        return f"{count} tuned recipes"
    return f"{count} recipes, {tuned or 'none'} of them tuned,"


def cooling_in_words(measures: Measures) -> str:
    """The common cooling, which is that of every lr that was tuned."""
    if not any("lr" in one.values for one in measures.record.configurations):
        return ""
    some = "" if all_tuned(measures) else "the tuned "
    return f", {some}{wording.COOLINGS[measures.settings.cooling]}"


def all_tuned(measures: Measures) -> bool:
    return len(measures.tuned) == len(measures.settings.entrants)


def advice(measures: Measures) -> Iterator[str]:
    """What a person should do."""
    best = measures.best
    if not measures.record.finished:
        yield "The same command again goes on from the last finished block."
        return
    if best is None and failures(measures, measures.settings.entrants):
        yield "Mend what failed, which is told below, and race again under another name."
        return
    if best is None:
        wider = "Widen the search spaces towards smaller lr"
        smaller = "Give a smaller lr, or have it tuned"
        yield f"{wider if measures.tuned else smaller}, or clip the gradient, and race again."
        return
    others = [name for name in measures.shortlist if name != best]
    yield which(measures, best)
    yield from unsafe(measures, best)
    yield from beside(measures, best, others)
    if others:
        yield separation(measures, best, others)


def which(measures: Measures, best: str) -> str:
    """Which recipe to use; what is used now is kept where no change is sure to gain."""
    values, baseline = measures.values(best), measures.settings.baseline
    if best == baseline:
        return f"Keep {baseline}."
    tuned = f"{best} ({wording.values(values)})" if values else best
    if baseline in measures.shortlist:
        return f"Keep {baseline}, or try {tuned}: of those left it has the best median."
    why = ": of those left it has the best median" if len(measures.shortlist) > 1 else ""
    return f"Use {tuned}{why}."


def unsafe(measures: Measures, best: str) -> Iterator[str]:
    """A warning where some runs of the best diverged."""
    found = measures.diverged(best)
    if found.count:
        yield f"{found.count} of {counted(found.n, 'seed')} of {best} diverged."


def gain(measures: Measures, baseline: str) -> str:
    """What changing from the baseline would gain: to the best, or else to who beat the baseline."""
    best, metric = measures.best, measures.settings.metric
    if baseline not in measures.final:
        return f"What you use now, {baseline}, {lost(measures, [baseline])} in the tuning round."
    if best is None or baseline == best:
        return f"Changing from {baseline} gains nothing that can be seen."
    for other in (best, measures.beaten_by(baseline)):
        found = measures.difference(baseline, other)
        if found and worse(found, measures.settings):
            return gain_in_words(measures, baseline, other, found)
    found = measures.difference(baseline, best)
    assert found is not None, "all entrants of the final round share its first seeds"
    return (
        f"Changing from {baseline} to {best} gains nothing that can be seen: {metric} differs "
        f"by {difference_in_words(found)}."
    )


def gain_in_words(measures: Measures, baseline: str, other: str | None, found: Difference) -> str:
    if math.isinf(found.estimate):
        return f"Changing from {baseline} to {other} gains runs that do not diverge."
    verb = "lowers" if measures.settings.direction == "min" else "raises"
    metric = measures.settings.metric
    return f"Changing from {baseline} to {other} {verb} {metric} by {size_in_words(found)}."


def worse(found: Difference, settings: Settings) -> bool:
    """Whether the whole interval lies on the side of what is worse."""
    return found.low > 0 if settings.direction == "min" else found.high < 0


def difference_in_words(found: Difference) -> str:
    return f"{wording.difference(found)}, {wording.level(found)}"


def size_in_words(found: Difference) -> str:
    """The size of a difference that is there, and its interval, without the sign."""
    near, far = sorted((abs(found.low), abs(found.high)))
    reach = "or more" if math.isinf(far) else f"to {far:.3g}"
    size = f"{abs(found.estimate):.3g} ({near:.3g} {reach}"
    return f"{size}; {wording.level(found)})"


def beside(measures: Measures, best: str, others: list[str]) -> Iterator[str]:
    """Who of the others left is cheaper, safer or simpler than the best."""
    rows = {name: measures.row(name) for name in (best, *others)}
    mine = rows[best]
    for name in others:
        merits = list(merits_over(rows[name], mine))
        if merits:
            yield f"{name} is {listed(merits)}{less_safe(rows[name], mine)}."


def merits_over(row: Row, best: Row) -> Iterator[str]:
    if cheaper(row.step_seconds, best.step_seconds):
        own, its = map(wording.milliseconds_between, (row.step_seconds, best.step_seconds))
        yield f"cheaper ({own} a step against {its})"
    if row.diverged and best.diverged and row.diverged.count < best.diverged.count:
        yield (
            f"safer ({row.diverged.count} of {row.diverged.n} seeds diverged against "
            f"{best.diverged.count})"
        )
    if lighter(row.state_per_parameter, best.state_per_parameter):
        own, its = map(wording.memory, (row.state_per_parameter, best.state_per_parameter))
        yield f"lighter (numbers kept a parameter: {own} against {its})"
    if row.values and len(row.values) < len(best.values):
        yield f"simpler ({len(row.values)} tuned against {len(best.values)})"


def less_safe(row: Row, best: Row) -> str:
    """The end of a sentence on what else speaks for it, where more of its seeds diverged."""
    assert row.diverged is not None
    assert best.diverged is not None
    count, of_best = row.diverged.count, best.diverged.count
    if count <= of_best:
        return ""
    return f", but {count} of its {counted(row.diverged.n, 'seed')} diverged, against {of_best}"


def cheaper(own: Interval | None, its: Interval | None) -> bool:
    return own is not None and its is not None and own.high <= CHEAPER * its.low


def lighter(own: float | None, its: float | None) -> bool:
    return own is not None and its is not None and own < its


def separation(measures: Measures, best: str, others: list[str]) -> str:
    """About how many more seeds would part the best from the next of those left."""
    ranked = [row.entrant for row in measures.rows() if row.entrant in others]
    nearest = ranked[0]
    level, seeds = measures.level(best, nearest), len(measures.shared_seeds(best, nearest))
    if level is None or 2.0**-seeds > level:
        return f"{counted(seeds, 'seed')} cannot tell any two apart at this risk: race with more."
    pair = measures.paired(best, nearest)
    more = more_seeds_needed(*pair, measures.settings.direction, level)
    if more is None:
        return f"Which of {best} and {nearest} is better is open: no number of seeds can be named."
    return f"About {counted(more, 'more seed')} would tell {best} from {nearest}."


def limits(measures: Measures) -> Iterator[str]:
    """Where the evidence stops."""
    settings, record = measures.settings, measures.record
    recipes = "tuned recipes" if all_tuned(measures) else "recipes"
    yield (
        f"This speaks of these {recipes} on {settings.task}, {counted(settings.steps, 'step')} "
        f"each{cooling_in_words(measures)}, and not of the optimizers as such."
    )
    if measures.tuned:
        entrant = "entrant" if all_tuned(measures) else "tuned entrant"
        yield (
            f"Each {entrant} was tried with {counted(settings.trials, 'configuration')} on one "
            "seed; what a smaller budget would have given is the tunability curve's business, in "
            "optimistic scores."
        )
    if settings.baseline is not None:
        yield f"{settings.baseline} raced as it is used now, with its own settings and schedule."
    yield from as_given(measures)
    if record.finished and len(measures.raced) > 1:
        yield reach(settings, len(measures.raced))
    for name in settings.entrants:
        if record.finished and name not in measures.final:
            what = lost(measures, [name])
            yield f"{name} {what} with every configuration in tuning, and was not in the final."
    for name in settings.entrants:
        yield from failed(measures, name)
    yield from against_the_choice(measures)
    for edge in record.edges:
        yield (
            f"The best {edge.hyper} of {edge.entrant}, {edge.value:.4g}, lies at the edge of its "
            f"search space {edge.low:g} to {edge.high:g}: widen it and race again."
        )
    yield from record.notes


def as_given(measures: Measures) -> Iterator[str]:
    """Who was not tuned, beside the baseline."""
    used = {*measures.tuned, measures.settings.baseline}
    names = [name for name in measures.settings.entrants if name not in used]
    if names:
        yield f"{listed(names)} raced untuned, with the settings and schedules that were given."


def failures(measures: Measures, entrants: Iterable[str]) -> list[RunRecord]:
    """The runs of these entrants that ended by an error."""
    return [run for run in measures.record.runs if run.failed and run.entrant in entrants]


def lost(measures: Measures, entrants: Iterable[str]) -> str:
    """What became of runs of these entrants that have no score."""
    without = [
        run
        for run in measures.record.runs
        if run.entrant in entrants and not math.isfinite(run.score)
    ]
    words = {"failed" if run.failed else "diverged" for run in without}
    return " or ".join(sorted(words)) or "diverged"


def failed(measures: Measures, entrant: str) -> Iterator[str]:
    """How many of an entrant's runs ended by an error, and the first of them."""
    runs = failures(measures, [entrant])
    if not runs:
        return
    count = sum(run.entrant == entrant for run in measures.record.runs)
    values = measures.configuration(entrant, runs[0].configuration).values
    settings = f", the first with {wording.values(values)}" if values else ""
    yield (
        f"{len(runs)} of {counted(count, 'run')} of {entrant} failed and {counts(len(runs))} as"
        f" diverged{settings}: {runs[0].reason}."
    )


def counts(number: int) -> str:
    return "counts" if number == 1 else "count"


def against_the_choice(measures: Measures) -> Iterator[str]:
    """A warning where the opened test data point to others of those left than the best."""
    if measures.best is None:
        return
    found = {name: measures.test(name) for name in measures.shortlist}
    best, metric = found.pop(measures.best), measures.settings.metric
    lower = measures.settings.direction == "min"
    ahead = [
        f"{wording.interval(other)} with {name}"
        for name, other in found.items()
        if best and other and (other.high < best.low if lower else other.low > best.high)
    ]
    if best and ahead:
        yield (
            f"The test data, opened after the choice, point the other way: the test {metric} is "
            f"{listed(ahead)}, and {wording.interval(best)} with {measures.best}. {measures.best} "
            "stays the choice: data that choose can no longer test it."
        )


def reach(settings: Settings, entrants: int) -> str:
    """What this many seeds can see."""
    margin = visible_margin(settings.seeds, entrants, settings.alpha)
    risk = wording.percent(settings.alpha)
    at_most = f"At most {counted(settings.seeds, 'seed')}, with {entrants} entrants"
    if math.isinf(margin):
        return f"{at_most}, cannot tell any two apart at a risk of {risk}: race with more seeds."
    return (
        f"{at_most}, can see a lead of {margin:.2g} standard deviations of the paired difference; "
        f"the truly best is missing from those left in at most {risk} of such races."
    )
