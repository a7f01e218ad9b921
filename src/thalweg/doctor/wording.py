"""A diagnosis in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from thalweg.doctor.finding import Finding
from thalweg.doctor.trial import Trial
from thalweg.statistics import Interval

if TYPE_CHECKING:
    from thalweg.doctor.diagnosis import Diagnosis


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The whole diagnosis, line by line."""
    yield headline(diagnosis)
    for number, finding in enumerate(diagnosis.of("ill", "suspected"), 1):
        kind = "" if finding.severity == "ill" else " (suspected)"
        yield f"\n{number}. {finding.name}{kind}. {finding.suspicion.sentence}"
        yield f"   What may help: {finding.suspicion.prescription}."
        yield from (f"   Tried: {outcome(trial, diagnosis.metric)}" for trial in finding.trials)
        if finding.untried:
            yield f"   Not tried: {finding.untried}."
        if finding.symptoms:
            yield f"   It may explain: {', '.join(one.name for one in finding.symptoms)}."
    notes = diagnosis.of("note")
    if notes:
        yield "\nSeen, and no cause for alarm:"
        yield from (f"   {note(finding)}" for finding in notes)
    if diagnosis.unread:
        yield "\nNot measured:"
        yield from (f"   {name}: {why}" for name, why in diagnosis.unread.items())
    yield f"\nLooking took {diagnosis.share:.3g} times the training's own time."


def headline(diagnosis: Diagnosis) -> str:
    ill, suspected = diagnosis.of("ill"), diagnosis.of("suspected")
    if ill:
        return f"{diagnosis.task} with {diagnosis.recipe}: {', '.join(one.name for one in ill)}."
    if suspected:
        named = ", ".join(one.name for one in suspected)
        return f"{diagnosis.task} with {diagnosis.recipe}: nothing is proven; suspected: {named}."
    return f"{diagnosis.task} with {diagnosis.recipe}: no fault found."


def outcome(trial: Trial, metric: str) -> str:
    """What a trial has come to."""
    gain, seeds = trial.gain, len(trial.without)
    begin = f"from step {trial.since}" if trial.since else "from the start"
    kind = "better" if gain.estimate >= 0 else "worse"
    if trial.helps:
        ends = f"helps: {metric}"
    elif gain.better:
        ends = f"helps too little to matter: {metric}"
    else:
        ends = f"did not help: {metric}"
    size = Interval(gain.estimate, gain.low, gain.high)
    return (
        f"{trial.words} {ends} {abs(gain.estimate):.3g} {kind} ({within(size)}; {seeds} seeds,"
        f" {trial.steps} steps {begin})."
    )


def note(finding: Finding) -> str:
    if finding.trials:
        tried = ", ".join(trial.words for trial in finding.trials)
        return f"{finding.name}: {finding.suspicion.sentence} Tried without gain: {tried}."
    return f"{finding.name}: {finding.suspicion.sentence}"


def within(interval: Interval) -> str:
    """The ends of an interval."""
    return f"{interval.low:.3g} to {interval.high:.3g}"
