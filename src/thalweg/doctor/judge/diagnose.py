"""Making a diagnosis: watch a training, judge it by all criteria, and try the remedies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

import numpy as np
import torch

from thalweg.arguments import require_flag, require_function, require_whole
from thalweg.doctor.criteria import CRITERIA
from thalweg.doctor.criteria.criterion import Suspicion
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.judge.finding import Finding, Severity
from thalweg.doctor.trials.trial import Trial, Trials, on_one_scale
from thalweg.doctor.watch.budget import require_share
from thalweg.doctor.watch.history import Case, mark_after
from thalweg.doctor.watch.watcher import Watcher
from thalweg.errors import UserError
from thalweg.optim.foreign import Foreign
from thalweg.random_numbers import drawing
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.stack.batches import length_of
from thalweg.stack.checkpoint import Checkpoint
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
    """Ignores the words."""


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
    """Watches one training of a task, says what is wrong with it, and tries remedies.

    task: a task, the name of a bundled one, or `path/to/file.py:task`.
    recipe: a recipe, the name of an optimizer, or the path of a recipe file.
    seed: fixes the initial weights and the batches of the training that is watched.
    try_remedies: whether remedies are tried, each over 8 seeds.
    trial_steps: the most steps of a trial; if not given, trials end with the task's budget.
    budget: the share of the training's time that measurements may take, such as 0.03; if not given,
        their time is not limited.
    say: a function that is called with a few words about what is being done.

    Raises UserError for a task that cannot be trained, for a recipe with a pre-training, and for a
    budget outside (0, 1).
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
            optimizer_of(alone),
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
        findings = tried(Trials(task, recipe, start, trial_steps), found, states, say)
    else:
        findings = [judged(one) for one in found]
    return told(case, findings, watcher, task=task.name, metric=task.metric_name)


diagnose.__doc__ = "\n    - ".join(
    [f"{diagnose.__doc__}\n    It looks for:\n", *map(str, CRITERIA)]
)


def optimizer_of(alone: Single) -> torch.optim.Optimizer:
    """The only optimizer of a population."""
    (one,) = alone.optimizers
    return one.optimizer if isinstance(one, Foreign) else cast("torch.optim.Optimizer", one)


def watched(task: Task, alone: Single, watcher: Watcher, say: Say) -> dict[int, Checkpoint]:
    """Trains a member alone to its end. Returns its checkpoints at the marked steps, by step."""
    steps = task.total_steps(length_of(task))
    say(f"watching {task.name} train for {steps} steps")
    batches = watcher.loading(batch for (batch,) in alone.batches)
    alone.batches = ([batch] for batch in batches)
    states = {0: alone.checkpoint(0)}

    def keep(step: int, _: Sequence[float]) -> None:
        if not alone.diverged[0] and step == mark_after(max(states)):
            states[step] = alone.checkpoint(0)
            say(f"watching {task.name} train: step {step} of {steps}")

    learn(task, alone, keep)
    return states


def told(
    case: Case, findings: Sequence[Finding], watcher: Watcher, *, task: str, metric: str
) -> Diagnosis:
    return Diagnosis(
        task=task,
        recipe=case.recipe.name if case.recipe else type(watcher.optimizer).__name__,
        metric=metric,
        findings=merged(findings),
        case=case,
        unread=dict(case.history.refusals),
        time_spent={name: own for name, own in watcher.budget.by_name.items() if own.count},
        share=watcher.budget.used,
    )


@np.errstate(all="ignore")
def suspicions(case: Case) -> list[Suspicion]:
    return [found for one in CRITERIA if (found := one.judge(case))]


def tried(
    trials: Trials,
    found: Sequence[Suspicion],
    states: Mapping[int, Checkpoint],
    say: Say = silently,
) -> list[Finding]:
    """The findings after trials of the remedies.

    Trials begin at the last state before the first sign of a suspicion. A suspicion that an earlier
    and proven one explains needs no trial.
    """
    done: list[list[Trial]] = []
    reasons = []
    for place, one in enumerate(found):
        why = untried(one, found[:place])
        done.append([])
        if not why:
            say(f"trying remedies against {one.name}")
            state = states[max(step for step in states if step <= one.since)]
            try:
                done[-1] = trials.of(one.remedies, state)
            except UserError as error:
                why = str(error)
        reasons.append(why)
    return [judged(*each) for each in zip(found, on_one_scale(done), reasons, strict=True)]


def untried(suspicion: Suspicion, before: Sequence[Suspicion]) -> str:
    """Why no remedy is tried against a suspicion; empty if remedies are tried."""
    for cause in before:
        if cause.proven and suspicion.name in cause.explains and not suspicion.proven:
            return f"{cause.name} may explain it"
    return "" if suspicion.remedies else "it has no remedy to try"


def judged(
    suspicion: Suspicion, done: Sequence[Trial] = (), untried: str = "trials were switched off"
) -> Finding:
    if suspicion.proven or any(trial.helps for trial in done):
        severity: Severity = "ill"
    elif suspicion.remedies and not done:
        severity = "suspected"
    else:
        severity = "note"
    return Finding(suspicion, severity, tuple(done), untried)


def merged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings by severity and strength; each cause holds the findings that it explains."""
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
    """The part of the descent that training misses; 1 for a proven finding that explains others."""
    if finding.suspicion.proven and finding.suspicion.explains:
        return 1.0
    return finding.best.share if finding.best else 0.0


def explains(cause: Finding, symptom: Finding) -> bool:
    """Whether a finding is ill and names the other as a symptom."""
    return cause.severity == "ill" and symptom.name in cause.suspicion.explains
