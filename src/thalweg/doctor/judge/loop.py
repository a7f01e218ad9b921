"""The diagnosis of a task or of a training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import wraps
from itertools import islice
from typing import Any

from torch import nn
from torch.optim import Optimizer

from thalweg.arguments import require_flag, require_whole
from thalweg.doctor.judge import diagnose as of_task
from thalweg.doctor.judge.diagnose import Say, silently
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.judge.doctor import Doctor
from thalweg.errors import UserError
from thalweg.loops.find import find
from thalweg.loops.loop import Loop
from thalweg.loops.run import Given
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Score, Task

COMING = 40
"""The number of batches after the end of a loop on which remedies are tried."""


@wraps(of_task.diagnose)
def diagnose(task: Task | Loop | str, recipe: AnyRecipe = "adam", **given: Any) -> Diagnosis:
    found = find(task)
    if isinstance(found, Loop):
        return diagnose_loop(found, recipe, **given)
    return of_task.diagnose(found, recipe, **given)


diagnose.__doc__ = (
    f"{of_task.diagnose.__doc__}\n\n    A training loop (see `thalweg.loop`) says by `run.watch`"
    " what is watched; its remedies are tried\n    on the batches that would come next, and"
    " trial_steps is not for it.\n"
)


class Watched:
    """Makes the doctor of a loop when the loop calls `run.watch`."""

    def __init__(self, every: int, budget: float | None) -> None:
        self.every, self.budget = every, budget
        self.doctor: Doctor | None = None
        self.batches: Iterator[Batch] = iter(())

    def examine(
        self, batches: Iterable[Batch], model: nn.Module, loss: Score, optimizer: Optimizer
    ) -> Iterable[Batch]:
        if self.doctor is not None:
            raise UserError("the doctor watches one training: call run.watch once in a run.")
        self.batches = iter(batches)
        self.doctor = Doctor(model, loss, optimizer, every=self.every, budget=self.budget)
        return self.doctor.loading(self.batches)


def diagnose_loop(
    loop: Loop,
    recipe: AnyRecipe,
    *,
    seed: int = 0,
    try_remedies: bool = True,
    trial_steps: int | None = None,
    budget: float | None = None,
    say: Say = silently,
) -> Diagnosis:
    """Runs a loop once while the doctor watches it; see `diagnose`."""
    require_flag("try_remedies", try_remedies)
    if trial_steps is not None:
        raise UserError("trial_steps is for a task: a loop's remedies are tried on coming batches.")
    watched = Watched(min(10, max(1, loop.steps // 50)), budget)
    say(f"watching {loop.name} train for {loop.steps} steps")
    seed = require_whole("seed", seed, 0)
    loop.trained(Given(recipe_of(recipe), seed, loop.steps, examine=watched.examine))
    if watched.doctor is None:
        raise UserError(
            f"loop '{loop.name}' does not say what the doctor is to watch: write"
            " batches = run.watch(batches, model, loss, optimizer) in it, where"
            " loss(outputs, targets) is the mean over a batch."
        )
    with watched.doctor as doctor:
        coming = list(islice(watched.batches, COMING)) if try_remedies else None
        found = doctor.diagnosis(coming)
    return replace(found, task=loop.name, recipe=recipe_of(recipe).name)
