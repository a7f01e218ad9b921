"""A diagnosis: a training watched, judged by all criteria, and the advice tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from thalweg.arguments import require_whole
from thalweg.doctor import wording
from thalweg.doctor.case import Case
from thalweg.doctor.course import following
from thalweg.doctor.criteria import CRITERIA
from thalweg.doctor.finding import Finding, Severity, Suspicion
from thalweg.doctor.trial import State, Trial, state_of, trials
from thalweg.doctor.watcher import Watcher
from thalweg.errors import UserError
from thalweg.recipes import Recipe, recipe_of
from thalweg.stack.batches import length_of
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.tasks.check import check, failure_in_training
from thalweg.tasks.find import find
from thalweg.tasks.task import Task
from thalweg.training.train import learn, own_random_state, scores


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor has found of a training.

    findings: the ill ones first. case: what was seen. unread: instruments that could not be read,
    and why. looks: by name, how many there were and their seconds; `share`: of the training's own
    time that they took together.
    """

    task: str
    recipe: str
    metric: str
    findings: tuple[Finding, ...]
    case: Case
    unread: Mapping[str, str]
    looks: Mapping[str, tuple[int, float]]
    share: float

    def of(self, *severities: Severity) -> list[Finding]:
        """The findings of these severities."""
        return [finding for finding in self.findings if finding.severity in severities]

    def __str__(self) -> str:
        return "\n".join(wording.lines(self))


def diagnose(
    task: Task | str,
    recipe: Recipe | str | Path = "adam",
    *,
    seed: int = 0,
    try_remedies: bool = True,
    budget: float | None = None,
) -> Diagnosis:
    """Trains a task once under the doctor's eyes, says what is wrong, and tries its advice.

    task: a task, the name of a bundled one, or `path/to/file.py:task`. recipe: a recipe, the name
    of an optimizer, or the path of a recipe file. seed: fixes the weights and the batches of the
    training that is watched. trials: whether remedies are tried, each over 8 seeds. budget: the
    share of the training's time that looks may take, such as 0.03; not bounded if not given.

    Raises UserError for a task that cannot be trained, and as `Doctor` for the budget.
    """
    task, recipe = find(task), recipe_of(recipe)
    require_whole("seed", seed, 0)
    check(task)
    steps = task.total_steps(length_of(task))
    with failure_in_training(task), own_random_state(seed):
        alone = Single(task, [Member(recipe, seed)])
        start = scores(alone, task.splits.validation)[0][task.metric_name]
        watcher = Watcher(
            alone.models[0],
            task.loss,
            alone.optimizers[0],
            every=min(10, max(1, steps // 50)),
            budget=budget,
        )
        with watcher:
            states = watched(task, alone, watcher)
    diverged = alone.diverged[0]
    why = f"{diverged.reason} at step {diverged.step}" if diverged else ""
    case = watcher.case(recipe, steps, why)
    findings = [
        judged(one, *tried(task, recipe, one, states, start)) if try_remedies else judged(one)
        for one in suspicions(case)
    ]
    return told(task.name, task.metric_name, watcher, case, findings)


def watched(task: Task, alone: Single, watcher: Watcher) -> dict[int, State]:
    """Trains a lone member to its end; where it stood at each close look, by step."""
    alone.batches[0] = watcher.loading(iter(alone.batches[0].__next__, None))  # type: ignore[call-overload]
    states = {0: state_of(alone)}

    def keep(step: int, _: Sequence[float]) -> None:
        if not alone.diverged[0] and step == following(max(states)):
            states[step] = state_of(alone)

    learn(task, alone, keep)
    return states


def told(
    task: str, metric: str, watcher: Watcher, case: Case, findings: Sequence[Finding]
) -> Diagnosis:
    looks = {n: (len(taken), sum(taken)) for n, taken in watcher.budget.taken.items() if taken}
    recipe = case.recipe.name if case.recipe else type(watcher.optimizer).__name__
    unread = dict(watcher.course.refusals)
    share = watcher.budget.used
    return Diagnosis(task, recipe, metric, merged(findings), case, unread, looks, share)


def suspicions(case: Case) -> list[Suspicion]:
    return [found for criterion in CRITERIA if (found := criterion(case))]


def tried(
    task: Task,
    recipe: Recipe,
    suspicion: Suspicion,
    states: Mapping[int, State],
    start: float,
) -> tuple[list[Trial], str]:
    """What became of its remedies, from the last state before its first sign; or why they could
    not be tried.
    """
    if not suspicion.remedies:
        return [], "nothing of it can be tried on this training"
    since = max(step for step in states if step <= suspicion.since)
    try:
        return trials(task, recipe, suspicion.remedies, states[since], start), ""
    except UserError as error:
        return [], str(error)


def judged(
    suspicion: Suspicion, done: Sequence[Trial] = (), untried: str = "trials were not asked for"
) -> Finding:
    if suspicion.proven or any(trial.helps for trial in done):
        severity: Severity = "ill"
    elif suspicion.remedies and not done:
        severity = "suspected"
    else:
        severity = "note"
    return Finding(suspicion, severity, tuple(done), untried)


def merged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Symptoms of one cause as one finding, the strongest cause first; the ill ones in front."""
    left = sorted(findings, key=lambda finding: -round(strength(finding), 1))
    causes: list[Finding] = []
    while left:
        cause = left.pop(0)
        symptoms = [finding for finding in left if explains(cause, finding)]
        left = [finding for finding in left if finding not in symptoms]
        causes.append(replace(cause, symptoms=tuple(symptoms)))
    order = get_args(Severity)
    return tuple(sorted(causes, key=lambda finding: order.index(finding.severity)))


def strength(finding: Finding) -> float:
    """The share of the way down that is missed for it; 1 where it is proven."""
    if finding.suspicion.proven:
        return 1.0
    return finding.best.share if finding.best else 0.0


def explains(cause: Finding, symptom: Finding) -> bool:
    """Whether an ill finding accounts for another, one with an earlier place among equals."""
    return cause.severity == "ill" and symptom.name in cause.suspicion.explains
