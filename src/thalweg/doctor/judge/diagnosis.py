"""A diagnosis, and its text in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import wrap

from thalweg.doctor.judge.finding import Finding, Severity
from thalweg.doctor.trials.trial import Trial
from thalweg.doctor.watch.budget import TimeSpent
from thalweg.doctor.watch.history import Case

WIDTH = 88
"""The most letters on a line."""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor has found about a training.

    findings: by severity. case: what was measured. unread: why an instrument could not be read, by
    its name. time_spent: the number and the seconds of measurements, by name. share: the time of
    all measurements over the training's own time.
    """

    task: str
    recipe: str
    metric: str
    findings: tuple[Finding, ...]
    case: Case
    unread: Mapping[str, str]
    time_spent: Mapping[str, TimeSpent]
    share: float

    def of(self, *severities: Severity) -> list[Finding]:
        """The findings of these severities."""
        return [finding for finding in self.findings if finding.severity in severities]

    def __str__(self) -> str:
        return "\n".join(lines(self))


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The whole diagnosis, line by line."""
    yield from wrap(headline(diagnosis), WIDTH)
    for number, finding in enumerate(diagnosis.of("ill", "suspected"), 1):
        yield ""
        yield f"{number}. {titled(finding)}"
        yield from told(finding.suspicion.sentence)
        yield from told(f"What may help: {finding.suspicion.prescription}.")
        for trial in finding.trials:
            yield from told(f"- {outcome(trial, diagnosis.metric)}")
        for how in dict.fromkeys(map(conditions, finding.trials)):
            yield from told(f"Tried {how}.")
        if finding.untried:
            yield from told(f"Not tried: {finding.untried}.")
        if finding.symptoms:
            yield from told(f"It may explain: {', '.join(one.name for one in finding.symptoms)}.")
    notes = diagnosis.of("note")
    if notes:
        yield "\nSeen, but no reason for an alarm:"
        for finding in notes:
            yield from told(f"- {note(finding)}")
    if diagnosis.unread:
        yield "\nNot measured:"
        for name, why in diagnosis.unread.items():
            yield from told(f"- {name}: {why}")
    yield ""
    yield from wrap(watched(diagnosis), WIDTH)


def told(text: str) -> list[str]:
    """The indented lines of a paragraph, or of an item, which begins with a dash."""
    further = 5 if text.startswith("- ") else 3
    return wrap(text, WIDTH, initial_indent=3 * " ", subsequent_indent=further * " ")


def headline(diagnosis: Diagnosis) -> str:
    ill, suspected = diagnosis.of("ill"), diagnosis.of("suspected")
    if ill:
        return f"{diagnosis.task} with {diagnosis.recipe}: {', '.join(one.name for one in ill)}."
    if suspected:
        named = ", ".join(one.name for one in suspected)
        return f"{diagnosis.task} with {diagnosis.recipe}: nothing is proven; suspected: {named}."
    return f"{diagnosis.task} with {diagnosis.recipe}: no fault found."


def titled(finding: Finding) -> str:
    return finding.name if finding.severity == "ill" else f"{finding.name} (suspected)"


def outcome(trial: Trial, metric: str) -> str:
    """The outcome of a trial."""
    return f"{trial.words} {verdict(trial)}: {gain(trial, metric)}"


def verdict(trial: Trial) -> str:
    if trial.helps:
        return "helps"
    return "helps too little to matter" if trial.gain.better else "did not help"


def gain(trial: Trial, metric: str) -> str:
    """By how much a remedy is better or worse, with the interval."""
    found = trial.gain
    if not math.isfinite(found.estimate):
        which = "without it" if found.estimate > 0 else "with it"
        return f"training diverges {which}"
    kind, sign = ("better", 1) if found.estimate >= 0 else ("worse", -1)
    low, high = sorted((sign * found.low, sign * found.high))
    return f"{metric} {kind} by {abs(found.estimate):.3g} ({low:.3g} to {high:.3g})"


def conditions(trial: Trial) -> str:
    """The seeds and the steps of a trial."""
    begin = f"from step {trial.since} on" if trial.since else "from the start"
    return f"on {len(trial.without)} seeds, for {trial.steps} steps {begin}"


def note(finding: Finding) -> str:
    if finding.trials:
        tried = ", ".join(trial.words for trial in finding.trials)
        return f"{finding.name}: {finding.suspicion.sentence} These did not help: {tried}."
    return f"{finding.name}: {finding.suspicion.sentence}"


def watched(diagnosis: Diagnosis) -> str:
    """How many steps were watched and measured, and the time that measuring took."""
    history = diagnosis.case.history
    seconds = sum(spent.seconds for spent in diagnosis.time_spent.values())
    return (
        f"Watched {history.length} steps, and measured the loss along {len(history.steps)} of them;"
        f" measuring took {seconds:.2g} s, which is {diagnosis.share:.2g} times the time of the"
        " training itself."
    )
