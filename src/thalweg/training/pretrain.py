"""Pre-training: a simple task before the hard one, or a simple network before the complex one.

    random start -> simple task -> hard task                                            `by_task`
    random start -> shallow network -> new layers on frozen ones -> fine-tuning of all  `by_network`

Bengio et al. 2007 (greedy, layer by layer); Bengio et al. 2009 (curricula); Goodfellow, Bengio and
Courville 2016, chapter 8. The stages together spend the task's own budget of gradient evaluations,
one a step, unless their steps are given. Each stage leaves a file in the folder when it is done;
the same call goes on after the last of them, and ends as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from thalweg.arguments import require_whole
from thalweg.errors import UserError
from thalweg.recipes import Recipe, recipe_of
from thalweg.stack.batches import length_of
from thalweg.tasks.check import describe, failure_as_sentence
from thalweg.tasks.find import find
from thalweg.tasks.task import Task
from thalweg.training.stages import Pretrained, Stage, run

AnyRecipe = Recipe | str | Path
Blocks = Callable[[], Sequence[nn.Module]]
Head = Callable[[int], nn.Module]


def by_task(
    task: Task | str,
    recipe: AnyRecipe | Sequence[AnyRecipe],
    folder: str | Path,
    *,
    curriculum: Sequence[Any] | None = None,
    steps: Sequence[int] | None = None,
    optimizer_state: bool = False,
    statistics: bool = False,
    seed: int = 0,
) -> Pretrained:
    """Trains the model on simpler tasks, one after the other, and then on the task itself.

    task: a task with a `difficulty`, or the name of one, such as waveform, adding or digits.
    recipe: one for all stages, or one for each; each a recipe, a name, or the path of a file.
    folder: where the stages' files and the last one's checkpoint, `model.safetensors`, are kept.
    curriculum: values of the difficulty, from simple to hard; the task's own if not given.
    steps: gradient evaluations for each stage, the task itself being the last; equal shares of its
        budget if not given.
    optimizer_state: carries it over too, and the parameters as the last step left them; otherwise
        they are carried as evaluation uses them, averaged where the recipe averages.
    statistics: carries the model's buffers over too, which are batch normalization's statistics.
    seed: from 0 to 2^32 - 1, fixes the initial weights and the batches.

    Raises UserError for a task without simpler ones, a stage that cannot be trained, that diverges,
    or whose model has nothing in common with that of the stage before, and a folder that cannot be
    used.
    """
    task = find(task)
    values = task.curriculum if curriculum is None else curriculum
    if task.difficulty is None or not values:
        raise UserError(
            f"Task '{task.name}' has no simpler tasks; give it a difficulty, and a curriculum of"
            " its values."
        )
    tasks = [*(at_difficulty(task, value) for value in values), task]
    stages = stages_of(task, tasks, recipe, steps, optimizer_state, buffers=statistics)
    return run(stages, seed, Path(folder))


def by_network(
    task: Task | str,
    recipe: AnyRecipe | Sequence[AnyRecipe],
    folder: str | Path,
    *,
    blocks: Blocks,
    head: Head,
    steps: Sequence[int] | None = None,
    optimizer_state: bool = True,
    seed: int = 0,
) -> Pretrained:
    """Trains the first block, then each further one on frozen ones before it, and then all.

        def blocks():
            return [
                nn.Sequential(nn.Linear(64, 64), nn.ReLU()),
                nn.Sequential(nn.Linear(64, 32), nn.ReLU()),
            ]

        def head(depth):
            return nn.Linear((64, 32)[depth - 1], 10)

        by_network("digits", "adam", "grown", blocks=blocks, head=head)

    task: gives the data, the loss, the metric and the budget; its own model is not used.
    recipe: one for all stages, or one for each: a stage a block, and fine-tuning.
    folder, seed: as for `by_task`.
    blocks: makes the hidden layers, in two blocks or more, from torch's random state.
    head: `head(depth)` makes the output layer behind the first `depth` blocks. Each stage has its
        own, but for fine-tuning, which goes on with that of all blocks.
    steps: gradient evaluations for each stage; equal shares of the task's budget if not given.
    optimizer_state: that of each parameter follows it into the stage in which it is trained again,
        and parameters are carried as the last step left them; otherwise as evaluation uses them.

    The checkpoint is one of `nn.Sequential(*blocks(), head(len(blocks())))`. Frozen blocks cost no
    gradients, and are in evaluation mode: their batch normalization keeps its statistics, and their
    dropout rests.

    Raises UserError for fewer than two blocks, and as `by_task`.
    """
    task = find(task)
    with failure_as_sentence("The blocks cannot be made"), torch.random.fork_rng(devices=[]):
        count = len(blocks())
    if count < 2:
        raise UserError(f"by_network needs two blocks or more to grow a network of, not {count}.")
    networks = [(depth, depth - 1) for depth in range(1, count + 1)] + [(count, 0)]
    tasks = [
        replace(
            task,
            name=f"{task.name} by {depth} blocks, {frozen} of them frozen",
            model=partial(network, blocks, head, depth, frozen),
        )
        for depth, frozen in networks
    ]
    *growing, tuning = stages_of(task, tasks, recipe, steps, optimizer_state, buffers=True)
    # Where a new block stands, there was a head, which may have had parameters of its names.
    growing = [
        replace(stage, anew=(f"{depth - 1}.", f"{depth}."))
        for depth, stage in enumerate(growing, 1)
    ]
    return run([*growing, tuning], seed, Path(folder))


def at_difficulty(task: Task, value: Any) -> Task:
    assert task.difficulty is not None  # asked for only where there is one
    with failure_as_sentence(f"Task '{task.name}' cannot be made at difficulty {value!r}"):
        made = task.difficulty(value)
    if not isinstance(made, Task):
        raise UserError(
            f"The difficulty of task '{task.name}' must be a function that makes a thalweg.Task,"
            f" not {describe(made)}."
        )
    return replace(made, name=f"{task.name} at {value}")


def stages_of(
    task: Task,
    tasks: Sequence[Task],
    recipe: AnyRecipe | Sequence[AnyRecipe],
    steps: Sequence[int] | None,
    optimizer_state: bool,
    buffers: bool,
) -> list[Stage]:
    """A stage for each of the tasks, with its recipe and its steps."""
    count = len(tasks)
    recipes: list[Any] = list(recipe) if isinstance(recipe, list | tuple) else [recipe] * count
    budgets = shares(task, count) if steps is None else list(steps)
    for what, given in (("recipes", recipes), ("steps", budgets)):
        if len(given) != count:
            raise UserError(f"there are {count} stages, but {len(given)} {what}; give {count}.")
    for budget in budgets:
        require_whole("each stage's steps", budget, 1)
    stages = []
    for stage, budget, each in zip(tasks, budgets, recipes, strict=True):
        bounded = replace(stage, epochs=None, steps=budget)
        stages.append(Stage(bounded, recipe_of(each), (), optimizer_state, buffers))
    return stages


def shares(task: Task, count: int) -> list[int]:
    """The task's budget in so many equal shares, the last with what is left over."""
    total = task.total_steps(length_of(task))
    return [total // count] * (count - 1) + [total - total // count * (count - 1)]


class PartlyFrozen(nn.Sequential):
    """Layers in a row, of which the first `frozen` are held still and cost no gradients."""

    def __init__(self, *layers: nn.Module, frozen: int) -> None:
        super().__init__(*layers)
        self.frozen = frozen
        for layer in layers[:frozen]:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in list(self)[: self.frozen]:
            layer.eval()
        return self


def network(blocks: Blocks, head: Head, depth: int, frozen: int) -> nn.Module:
    return PartlyFrozen(*blocks()[:depth], head(depth), frozen=frozen)
