"""The sentences of a verdict: which entrant is best, what to do, and the limits of the evidence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from thalweg.racing import wording
from thalweg.racing.draws import ROUND_OFF, quantile_of
from thalweg.racing.gain import gain, gains_by_tuning_alone
from thalweg.racing.measures import Measures, Summary
from thalweg.racing.record import Record, RunRecord, Settings, Stop
from thalweg.racing.repeat import resume_call
from thalweg.racing.search import AGAIN, HOPE, MOST_TRIALS
from thalweg.racing.wording import counted, listed
from thalweg.rules.tuning import is_rate
from thalweg.statistics import Interval, more_seeds_needed, visible_margin

NEARLY_ALL = 0.75
"""If more than this share of the entrants is on the shortlist, a race has no clear winner."""

SURE = 0.8
"""The verdict is called open if the best entrant is named again with a smaller probability."""

CHEAPER = 0.9
"""A step is called cheaper if even the upper end of its time is at most this share of the lower end
of another step's time."""


def sentence(measures: Measures) -> str:
    """Says which entrant is the best; with a baseline, first what changing from it would gain."""
    baseline = measures.settings.baseline
    said = [standing(measures), *tuning_certainty(measures)]
    if baseline is not None and measures.record.finished:
        said.insert(0, gain(measures, baseline))
    return " ".join(said)


def standing(measures: Measures) -> str:
    """Says in one sentence which entrant is the best, or which ones cannot be distinguished."""
    settings, left = measures.settings, measures.shortlist
    field = len(settings.entrants)
    if not measures.record.finished:
        runs = counted(len(measures.record.runs), "run")
        return f"The race is not finished: {runs} are on record, and there is no verdict yet."
    if not left:
        what = wording.lost(measures, settings.entrants)
        return f"There is no clear winner: every configuration of every entrant {what} in tuning."
    if measures.best is None:
        what = wording.lost(measures, left)
        return f"There is no clear winner: most runs of each entrant {what}."
    seeds = counted(len(measures.final[measures.best]), "seed")
    recipes = recipes_in_words(measures)
    metric = f"by {settings.metric} ({wording.better(settings.direction)})"
    ground = f"on {settings.task} {metric}, over {seeds}{cooling_in_words(measures)}"
    if len(left) == 1:
        return f"{left[0]} is the best of these {recipes} {ground}."
    if len(left) > NEARLY_ALL * field:
        return f"There is no clear winner among these {recipes} {ground}."
    worse = f"the rest are worse{' as tuned here' if all_tuned(measures) else ''}"
    return f"{listed(left)} cannot be distinguished; {worse} ({recipes} {ground})."


def tuning_certainty(measures: Measures) -> Iterator[str]:
    """Says how likely other tuning draws name the same entrant, or which ones they may name."""
    if measures.best is None or not measures.certainties:
        return
    chances = {name: one.named for name, one in measures.certainties.items()}
    if chances[measures.best] >= SURE:
        races = in_ten(chances[measures.best])
        yield f"With other tuning draws {measures.best} would be named again in {races} races."
        return
    names, total = [], 0.0
    for name in sorted(chances, key=lambda name: -chances[name]):
        if total < SURE:
            names.append(name)
            total += chances[name]
    yield (
        f"It is open which entrant is best: with other tuning draws {listed(names, 'or')} would be"
        f" named in {in_ten(total)} races.{more_trials(measures.record)}"
    )


def more_trials(record: Record) -> str:
    """Gives the command that tunes twice as much; empty if a race cannot."""
    twice = 2 * record.settings.trials
    if twice > MOST_TRIALS:
        return ""
    command = resume_call(record.command, record.folder, twice)
    return f" More trials may decide it: `{command}` adds them."


def in_ten(share: float) -> str:
    """A probability in words, which is never called certain."""
    return f"{min(9, round(10 * share))} of 10" if share < 0.95 else "more than 9 of 10"


def recipes_in_words(measures: Measures) -> str:
    """The number of recipes that raced, and how many of them were tuned."""
    count, tuned = len(measures.settings.entrants), len(measures.tuned)
    if tuned == count:
        return f"{count} tuned recipes"
    return f"{count} recipes, {tuned or 'none'} of them tuned,"


def cooling_in_words(measures: Measures) -> str:
    """The cooling that every tuned lr follows."""
    cooled = measures.settings.cooled
    tried = [one.values for one in measures.record.configurations if one.entrant in cooled]
    if not any(is_rate(name) for values in tried for name in values):
        return ""
    some = "" if all_tuned(measures) else "the tuned "
    return f", {some}{wording.COOLINGS[measures.settings.cooling]}"


def all_tuned(measures: Measures) -> bool:
    return len(measures.tuned) == len(measures.settings.entrants)


def advice(measures: Measures) -> Iterator[str]:
    """What a person should do."""
    best = measures.best
    if not measures.record.finished:
        yield "The same command again goes on from the last checkpoint."
        return
    if best is None and failures(measures, measures.settings.entrants):
        yield "Correct the errors that are listed below, and race again under another name."
        return
    if best is None:
        wider = "Widen the search spaces towards smaller lr"
        smaller = "Give a smaller lr, or let it be tuned"
        yield f"{wider if measures.tuned else smaller}, or clip the gradient, and race again."
        return
    others = [name for name in measures.shortlist if name != best]
    yield which(measures, best)
    yield from unsafe(measures, best)
    yield from beside(measures, best, others)
    if others:
        yield separation(measures, best, others)


def which(measures: Measures, best: str) -> str:
    """Says which recipe to use. The baseline is kept unless a change surely gains."""
    baseline, tuned = measures.settings.baseline, measures.settings.baseline_tuned
    if best == baseline:
        return f"Keep {baseline}."
    used = with_values(measures, best)
    why = ": of the shortlist it has the best median" if len(measures.shortlist) > 1 else ""
    if baseline in measures.shortlist:
        return f"Keep {baseline}, or try {used}{why}."
    if tuned and tuned != best and gains_by_tuning_alone(measures):
        own = with_values(measures, tuned)
        return f"Use {own}, which is {baseline} after tuning, or try {used}{why}."
    return f"Use {used}{why}."


def with_values(measures: Measures, entrant: str) -> str:
    values = measures.values(entrant)
    return f"{entrant} ({wording.values(values)})" if values else entrant


def unsafe(measures: Measures, best: str) -> Iterator[str]:
    """Warns if some runs of the best entrant diverged."""
    found = measures.diverged(best)
    if found.count:
        yield f"{found.count} of {counted(found.n, 'seed')} of {best} diverged."


def beside(measures: Measures, best: str, others: list[str]) -> Iterator[str]:
    """Says which others on the shortlist are cheaper, safer, lighter or simpler than the best."""
    found = {name: measures.summary(name) for name in (best, *others)}
    mine = found[best]
    for name in others:
        merits = list(merits_over(found[name], mine))
        if merits:
            yield f"{name} is {listed(merits)}{less_safe(found[name], mine)}."


def merits_over(one: Summary, best: Summary) -> Iterator[str]:
    if cheaper(one.step_seconds, best.step_seconds):
        own, its = map(wording.milliseconds_between, (one.step_seconds, best.step_seconds))
        yield f"cheaper ({own} a step against {its})"
    if one.diverged and best.diverged and one.diverged.count < best.diverged.count:
        yield (
            f"safer ({one.diverged.count} of {one.diverged.n} seeds diverged against "
            f"{best.diverged.count})"
        )
    if lighter(one.state_per_parameter, best.state_per_parameter):
        own, its = map(wording.memory, (one.state_per_parameter, best.state_per_parameter))
        yield f"lighter (numbers kept for each parameter: {own} against {its})"
    if one.values and len(one.values) < len(best.values):
        yield f"simpler ({len(one.values)} tuned settings against {len(best.values)})"


def less_safe(one: Summary, best: Summary) -> str:
    """The end of a sentence about an entrant's merits, if more of its seeds diverged."""
    assert one.diverged is not None
    assert best.diverged is not None
    count, of_best = one.diverged.count, best.diverged.count
    if count <= of_best:
        return ""
    return f", but {count} of its {counted(one.diverged.n, 'seed')} diverged, against {of_best}"


def cheaper(own: Interval | None, its: Interval | None) -> bool:
    return own is not None and its is not None and own.high <= CHEAPER * its.low


def lighter(own: float | None, its: float | None) -> bool:
    return own is not None and its is not None and own < its


def separation(measures: Measures, best: str, others: list[str]) -> str:
    """Says about how many more seeds would distinguish the best from the next on the shortlist."""
    ranked = [one.entrant for one in measures.summaries() if one.entrant in others]
    nearest = ranked[0]
    level, seeds = measures.level(best, nearest), len(measures.shared_seeds(best, nearest))
    if level is None or 2.0**-seeds > level:
        return (
            f"{counted(seeds, 'seed')} cannot distinguish any two entrants at this risk: race with"
            " more."
        )
    pair = measures.paired(best, nearest)
    more = more_seeds_needed(*pair, measures.settings.direction, level)
    if more is None:
        return (
            f"It is open whether {best} or {nearest} is better, and how many seeds would decide it."
        )
    return f"About {counted(more, 'more seed')} would distinguish {best} from {nearest}."


def limits(measures: Measures) -> Iterator[str]:
    """The limits of the evidence."""
    settings, record = measures.settings, measures.record
    recipes = "tuned recipes" if all_tuned(measures) else "recipes"
    yield (
        f"This verdict is about these {recipes} on {settings.task}, with"
        f" {counted(settings.steps, 'step')} each{cooling_in_words(measures)}. It is not about the"
        " optimizers in general."
    )
    yield from tuning(measures)
    if settings.baseline is not None:
        yield f"{settings.baseline} raced as it is used now, with its own settings and schedule."
    if settings.baseline_tuned is not None:
        cooled = settings.baseline_tuned in settings.cooled
        yield (
            f"The gain by tuning alone is the gain of {settings.baseline_tuned} over"
            f" {settings.baseline}{', which includes the common cooling' if cooled else ''}."
        )
    yield from as_given(measures)
    if record.finished and len(measures.raced) > 1:
        yield reach(settings, len(measures.raced))
    for name in settings.entrants:
        if record.finished and name not in measures.final:
            what = wording.lost(measures, [name])
            yield f"{name} {what} with every configuration in tuning, so it has no final runs."
    for name in settings.entrants:
        yield from failed(measures, name)
    yield from against_the_choice(measures)
    yield from opened_again(settings)
    for edge in record.edges:
        yield (
            f"The best {edge.hyper} of {edge.entrant}, {edge.value:.4g}, lies at the edge of its "
            f"search space {edge.low:g} to {edge.high:g}: widen it and race again."
        )
    yield from widened(measures)
    yield from record.notes


def tuning(measures: Measures) -> Iterator[str]:
    """Says how many configurations were tried, on which seeds, and which entrants stopped."""
    if not measures.tuned:
        return
    settings, stops = measures.settings, measures.record.stops
    entrant = "entrant" if all_tuned(measures) else "tuned entrant"
    tried = Counter(one.entrant for one in measures.record.configurations if one.values).values()
    fewest, most = min(tried), max(tried)
    seeds = min(most, settings.tuning_seeds)
    yield (
        f"Each {entrant} was tried with {f'{fewest} to ' if fewest < most else ''}"
        f"{counted(most, 'configuration')}"
        f"{f', spread over {seeds} seeds' if seeds > 1 else ''}"
        f"{tried_again(settings)}; the tunability curve shows what fewer would have given, in"
        " optimistic scores."
    )
    if stops:
        yield stopped(stops)


def opened_again(settings: Settings) -> Iterator[str]:
    """Says how often the test data were opened, if that was more than once."""
    if settings.earlier:
        trials = counted(settings.earlier[-1], "trial")
        yield (
            f"The test data were opened {len(settings.earlier) + 1} times, the last time after"
            f" tuning was added to a race of {trials}: the earlier test scores may have influenced"
            " the decision to add it."
        )


def tried_again(settings: Settings) -> str:
    if settings.trials == 1:
        return " on one seed"
    best = min(AGAIN, settings.trials)
    further = counted(settings.further_seeds, "further seed")
    then = ", each time after the search had ended" if settings.earlier else ""
    return f", and the best {best} again on {further}{then}"


def stopped(stops: Iterable[Stop]) -> str:
    """Says which entrants got no further configurations, and why."""
    by_trials: dict[int, list[str]] = {}
    for stop in stops:
        by_trials.setdefault(stop.trials, []).append(stop.entrant)
    told = [f"{listed(names)} after {trials}" for trials, names in sorted(by_trials.items())]
    return (
        f"No further configurations were tried of {', of '.join(told)}: the probability that one"
        f" would come close to the best result by then was below {wording.percent(HOPE)}."
    )


def widened(measures: Measures) -> Iterator[str]:
    """Names the chosen values that lie beyond their search space, which was widened."""
    for entrant, spaces in measures.settings.spaces.items():
        chosen = measures.chosen(entrant)
        for hyper, value in chosen.values.items() if chosen else ():
            space = spaces[hyper]
            if abs(quantile_of(space, value) - 0.5) > 0.5 + ROUND_OFF:
                yield (
                    f"The best {hyper} of {entrant}, {value:.6g}, lies beyond its search space"
                    f" {space.low:g} to {space.high:g}, which was widened because the best value"
                    " lay at its edge."
                )


def as_given(measures: Measures) -> Iterator[str]:
    """Names the entrants other than the baseline that were not tuned."""
    used = {*measures.tuned, measures.settings.baseline}
    names = [name for name in measures.settings.entrants if name not in used]
    if names:
        yield f"{listed(names)} raced without tuning, with the given settings and schedules."


def failures(measures: Measures, entrants: Iterable[str]) -> list[RunRecord]:
    """The runs of these entrants that ended by an error."""
    return [run for run in measures.record.runs if run.failed and run.entrant in entrants]


def failed(measures: Measures, entrant: str) -> Iterator[str]:
    """Says how many of an entrant's runs ended by an error, and shows the first error."""
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
    """Warns if the test data favour another entrant of the shortlist than the best."""
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
            "The test data, which were opened after the choice, favour another entrant: the test"
            f" {metric} is {listed(ahead)}, and {wording.interval(best)} with {measures.best}."
            f" {measures.best} stays the choice, because data that choose cannot test the choice."
        )


def reach(settings: Settings, entrants: int) -> str:
    """Says which lead this number of seeds can detect, and the risk of the shortlist."""
    margin = visible_margin(settings.seeds, entrants, settings.alpha)
    risk = wording.percent(settings.alpha)
    at_most = f"At most {counted(settings.seeds, 'seed')}, with {entrants} entrants,"
    if math.isinf(margin):
        return f"{at_most} cannot distinguish any two at a risk of {risk}: race with more seeds."
    return (
        f"{at_most} can detect a lead of {margin:.2g} standard deviations of the paired difference;"
        f" the truly best entrant is missing from the shortlist in at most {risk} of such races."
    )
