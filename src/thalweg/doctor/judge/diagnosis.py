"""A diagnosis: a training watched, judged by all criteria, and the advice tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from thalweg.arguments import require_flag, require_function, require_whole
from thalweg.doctor.criteria import CRITERIA
from thalweg.doctor.criteria.criterion import Suspicion
from thalweg.doctor.judge import wording
from thalweg.doctor.judge.finding import Finding, Severity
from thalweg.doctor.trials.trial import State, Trial, Trials, on_one_scale, state_of
from thalweg.doctor.watch.budget import Looks, require_share
from thalweg.doctor.watch.course import Case, following
from thalweg.doctor.watch.watcher import Watcher
from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.stack.batches import length_of
from thalweg.stack.member import Member
from thalweg.stack.single import Single
from thalweg.tasks.check import check, check_recipe
from thalweg.tasks.find import find
from thalweg.tasks.groups import with_groups
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.learn import learn, scores

Say = Callable[[str], None]


def silently(words: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor has found of a training.

    findings: the ill ones first. case: what was seen. unread: instruments that could not be read,
    and why. looks: by name, those that there were; `share`: of the training's own time that they
    took together.
    """

    task: str
    recipe: str
    metric: str
    findings: tuple[Finding, ...]
    case: Case
    unread: Mapping[str, str]
    looks: Mapping[str, Looks]
    share: float

    def of(self, *severities: Severity) -> list[Finding]:
        """The findings of these severities."""
        return [finding for finding in self.findings if finding.severity in severities]

    def __str__(self) -> str:
        return "\n".join(wording.lines(self))


def diagnose(
    task: Task | str,
    recipe: AnyRecipe = "adam",
    *,
    seed: int = 0,
    try_remedies: bool = True,
    trial_steps: int | None = None,
    budget: float | None = None,
    say: Say = silently,
) -> Diagnosis:
    """Trains a task once under the doctor's eyes, says what is wrong, and tries its advice.

    task: a task, the name of a bundled one, or `path/to/file.py:task`. recipe: a recipe, the name
    of an optimizer, or the path of a recipe file. seed: fixes the weights and the batches of the
    training that is watched. try_remedies: whether they are tried, each over 8 seeds. trial_steps:
    how many steps a trial goes on at most; to the end of the task's budget if not given. budget:
    the share of the training's time that looks may take, such as 0.03; not bounded if not given.
    say: is told in a few words what is being done.

    Raises UserError for a task that cannot be trained, for a recipe with a pre-training, and as
    `Doctor` for the budget.
    """
    require_flag("try_remedies", try_remedies)
    require_function("say", say, "a function that takes a text")
    require_share(budget)
    recipe, task = recipe_of(recipe), find(task)
    seed = require_whole("seed", seed, 0)
    if trial_steps is not None:
        trial_steps = require_whole("trial_steps", trial_steps, 1)
    if recipe.pretrain:
        raise UserError("the doctor watches one training; give a recipe without its pre-training.")
    check(task)
    recipe = with_groups(task, recipe)
    check_recipe(task, recipe)
    steps = task.total_steps(length_of(task))
    with failure_in_training(task), drawing(seed):
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
            states = watched(task, alone, watcher, say)
    diverged = alone.diverged[0]
    why = f"{diverged.reason} at step {diverged.step}" if diverged else ""
    case = watcher.case(recipe, steps, why)
    found = suspicions(case)
    if try_remedies:
        findings = tried(task, recipe, found, states, start, trial_steps, say)
    else:
        findings = [judged(one) for one in found]
    return told(task.name, task.metric_name, watcher, case, findings)


diagnose.__doc__ = "\n    - ".join(
    [f"{diagnose.__doc__}\n    It looks for:\n", *map(str, CRITERIA)]
)


def watched(task: Task, alone: Single, watcher: Watcher, say: Say) -> dict[int, State]:
    """Trains a lone member to its end; where it stood at each close look, by step."""
    steps = task.total_steps(length_of(task))
    say(f"watching {task.name} train for {steps} steps")
    given = alone.batches.each
    batches = watcher.loading(iter(lambda: given()[0], None))
    alone.batches.each = lambda: [next(batches)]  # type: ignore[method-assign]
    states = {0: state_of(alone)}

    def keep(step: int, _: Sequence[float]) -> None:
        if not alone.diverged[0] and step == following(max(states)):
            states[step] = state_of(alone)
            say(f"watching {task.name} train: step {step} of {steps}")

    learn(task, alone, keep)
    return states


def told(
    task: str, metric: str, watcher: Watcher, case: Case, findings: Sequence[Finding]
) -> Diagnosis:
    looks = {name: own for name, own in watcher.budget.looks.items() if own.count}
    recipe = case.recipe.name if case.recipe else type(watcher.optimizer).__name__
    unread = dict(watcher.course.refusals)
    share = watcher.budget.used
    return Diagnosis(task, recipe, metric, merged(findings), case, unread, looks, share)


@np.errstate(all="ignore")
def suspicions(case: Case) -> list[Suspicion]:
    return [found for one in CRITERIA if (found := one.judge(case))]


def tried(
    task: Task,
    recipe: Recipe,
    found: Sequence[Suspicion],
    states: Mapping[int, State],
    start: float,
    most: int | None = None,
    say: Say = silently,
) -> list[Finding]:
    """The findings after trials of their remedies, each from the last state before its first sign.

    What a proven one explains that stands before it needs none.
    """
    trials = Trials(task, recipe, start, most)
    outcomes: list[tuple[list[Trial], str]] = []
    for place, one in enumerate(found):
        before = found[:place]
        causes = [cause.name for cause in before if cause.proven and one.name in cause.explains]
        if causes and not one.proven:
            outcomes.append(([], f"{causes[0]} may explain it"))
        elif one.remedies:
            say(f"trying what may help against {one.name}")
            state = states[max(step for step in states if step <= one.since)]
            outcomes.append(outcome(trials, one, state))
        else:
            outcomes.append(([], "nothing of it can be tried on this training"))
    done = on_one_scale([own for own, _ in outcomes])
    reasons = [why for _, why in outcomes]
    return [judged(*each) for each in zip(found, done, reasons, strict=True)]


def outcome(trials: Trials, suspicion: Suspicion, state: State) -> tuple[list[Trial], str]:
    """Those of its remedies, or why they could not be had."""
    try:
        return trials.of(suspicion.remedies, state), ""
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
    """The share of the way down that is missed for it; 1 for a proven one that explains others."""
    if finding.suspicion.proven and finding.suspicion.explains:
        return 1.0
    return finding.best.share if finding.best else 0.0


def explains(cause: Finding, symptom: Finding) -> bool:
    """Whether an ill finding accounts for another, one with an earlier place among equals."""
    return cause.severity == "ill" and symptom.name in cause.suspicion.explains
