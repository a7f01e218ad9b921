"""Pre-training: a simple task before the hard one, or a simple network before the complex one.

    random start -> simple task -> hard task                                            `by_task`
    random start -> shallow network -> new layers on frozen ones -> fine-tuning of all  `by_network`

Bengio et al. 2007 (greedy, layer by layer); Bengio et al. 2009 (curricula); Goodfellow, Bengio and
Courville 2016, chapter 8. The stages together spend the task's budget of gradient evaluations, one
for each step, unless their steps are given. Each finished stage leaves a file in the folder. The
same call goes on after the last finished stage, with the same result as without a stop.

A recipe with `pretrain` set is trained through the stages that its task offers, in a race as well
as by `thalweg.train`. The stages then have equal shares of the budget. Each stage is a training of
its own: the optimizer starts fresh, and schedules start at their first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from torch import nn

from thalweg.arguments import (
    require_flag,
    require_function,
    require_list,
    require_path,
    require_whole,
    short,
    word,
)
from thalweg.errors import UserError
from thalweg.random_numbers import random_numbers_kept
from thalweg.recipe import PRETRAINING, Recipe
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.stack.batches import length_of
from thalweg.stack.population import initial_model
from thalweg.tasks.failure import describe, failure_as_sentence
from thalweg.tasks.find import find
from thalweg.tasks.task import Task
from thalweg.training.stages import Pretrained, Stage, run

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
    """Trains the model on simpler tasks one after the other, and then on the task itself.

    task: a task with a `difficulty`, or the name of one, such as waveform, adding or digits.
    recipe: one for all stages, or a list with one for each; each is a recipe, a name, or the path
    of
        a file.
    folder: the folder for the stages' files and the last checkpoint, `model.safetensors`.
    curriculum: values of the difficulty, from simple to hard; the task's own if not given. steps:
    the gradient evaluations of each stage, of which the last is the task itself; equal shares
        of the task's budget if not given.
    optimizer_state: if true, a stage hands on the optimizer's state and the parameters after the
        last step; otherwise it hands on the parameters that evaluation uses, which are averaged if
        the recipe averages.
    statistics: whether a stage also hands on the model's buffers, which hold the statistics of
    batch
        normalization.
    seed: from 0 to 2^32 - 1, fixes the initial weights and the batches.

    Raises UserError for a task without simpler ones; for a stage that cannot be trained, that
    diverges, or whose model has no parameter in common with the stage before; and for a folder that
    cannot be used.
    """
    require_path("folder", folder)
    require_flag("optimizer_state", optimizer_state)
    require_flag("statistics", statistics)
    seed = require_whole("seed", seed, 0)
    folder, task = Path(folder).absolute(), find(task)
    values = task.curriculum if curriculum is None else curriculum
    values = require_list("curriculum", values, "a list of difficulties")
    stages = [replace(one, buffers=statistics) for one in simpler_first(task, values, steps)]
    return run(
        stages,
        recipes_of(recipe, stages),
        seed=seed,
        folder=folder,
        optimizer_state=optimizer_state,
    )


def by_network(
    task: Task | str,
    recipe: AnyRecipe | Sequence[AnyRecipe],
    folder: str | Path,
    *,
    blocks: Blocks | None = None,
    head: Head | None = None,
    steps: Sequence[int] | None = None,
    optimizer_state: bool = True,
    seed: int = 0,
) -> Pretrained:
    """Trains the first block, then each further block on frozen earlier blocks, then all blocks.

        def blocks():
            return [
                nn.Sequential(nn.Linear(64, 64), nn.ReLU()),
                nn.Sequential(nn.Linear(64, 32), nn.ReLU()),
            ]

        def head(depth):
            return nn.Linear((64, 32)[depth - 1], 10)

        by_network("digits", "adam", "grown", blocks=blocks, head=head)

    task: gives the data, the loss, the metric and the budget; its own model is not used.
    recipe: one for all stages, or a list with one for each block and one for fine-tuning.
    folder, seed: as for `by_task`.
    blocks: a function that makes the hidden layers, in two blocks or more, with torch's random
        numbers; the task's own if not given.
    head: `head(depth)` makes the output layer after the first `depth` blocks; the task's own if not
        given. Each stage has its own head, but fine-tuning goes on with the last one.
    steps: the gradient evaluations of each stage; equal shares of the task's budget if not given.
    optimizer_state: if true, a parameter has its optimizer state again in the next stage that
    trains
        it, and parameters are handed on as they are after the last step; otherwise parameters are
        handed on as evaluation uses them.

    The checkpoint is one of `nn.Sequential(*blocks(), head(len(blocks())))`. Frozen blocks cost no
    gradients, and are in evaluation mode: their batch normalization keeps its statistics, and their
    dropout is off.

    Raises UserError for fewer than two blocks, and as `by_task` does.
    """
    require_path("folder", folder)
    require_flag("optimizer_state", optimizer_state)
    seed = require_whole("seed", seed, 0)
    for name, maker in (("blocks", blocks), ("head", head)):
        if maker is not None:
            require_function(name, maker, "a function that makes layers")
    folder, task = Path(folder).absolute(), find(task)
    stages = shallow_first(task, blocks or task.blocks, head or task.head, steps)
    return run(
        stages,
        recipes_of(recipe, stages),
        seed=seed,
        folder=folder,
        optimizer_state=optimizer_state,
    )


def offered(task: Task) -> tuple[str, ...]:
    """The kinds of `PRETRAINING` that a task offers. Raises UserError if it offers none."""
    able = bool(task.curriculum), task.blocks is not None
    kinds = tuple(kind for kind, can in zip(PRETRAINING, able, strict=True) if can)
    if not kinds:
        raise UserError(
            f"Task '{task.name}' offers no pre-training: it has neither a curriculum of simpler"
            " tasks nor blocks from which a network can grow."
        )
    return kinds


def pretrained(task: Task, recipe: Recipe) -> Recipe:
    """The recipe with the pre-training that the task offers. UserError unless it offers one."""
    first, *others = offered(task)
    if others:
        raise UserError(
            f"Task '{task.name}' offers two pre-trainings: choose one in the recipe, such as"
            f' pretrain = "{first}".'
        )
    return replace(recipe, pretrain=first)


def stages_for(task: Task, pretrain: str | None) -> Sequence[Stage]:
    """The stages of a training. The last is on the task; without pre-training it is the only one.

    Raises UserError for a pre-training that the task does not offer.
    """
    return [Stage(task)] if pretrain is None else offered_stages(task, pretrain)


# The stages and their data are made once, because a race asks for them for every block.
@lru_cache(maxsize=len(PRETRAINING))
def offered_stages(task: Task, pretrain: str) -> Sequence[Stage]:
    if pretrain == "by task":
        return simpler_first(task, task.curriculum)
    stages = shallow_first(task, task.blocks, task.head)
    if shapes(stages[-1].task) != shapes(task):
        raise UserError(
            f"The blocks and the head of task '{task.name}' do not make its model; write"
            " model=lambda: nn.Sequential(*blocks(), head(len(blocks())))."
        )
    return stages


def simpler_first(
    task: Task, values: Sequence[Any], steps: Sequence[int] | None = None
) -> list[Stage]:
    """A stage for the task at each of these difficulties, and then one for the task itself."""
    if task.difficulty is None or not values:
        raise UserError(
            f"Task '{task.name}' has no simpler tasks; give it a difficulty, and a curriculum of"
            " its values."
        )
    tasks = [*(at_difficulty(task, value) for value in values), with_its_data(task)]
    return stages_of(task, tasks, steps)


def shallow_first(
    task: Task, blocks: Blocks | None, head: Head | None, steps: Sequence[int] | None = None
) -> list[Stage]:
    """A stage for the first block, one for each further block on frozen ones, and one for all."""
    if blocks is None or head is None:
        raise UserError(
            f"Task '{task.name}' has no blocks from which a network can grow: give blocks and head."
        )
    with failure_as_sentence("The blocks cannot be made"), random_numbers_kept():
        count = len(blocks())
    if count < 2:
        raise UserError(f"by_network needs two blocks or more, not {count}.")
    networks = [(depth, depth - 1) for depth in range(1, count + 1)] + [(count, 0)]
    tasks = [
        replace(
            with_its_data(task),
            name=f"{task.name} by {depth} blocks, {frozen} of them frozen",
            model=partial(network, blocks, head, depth=depth, frozen=frozen),
        )
        for depth, frozen in networks
    ]
    *growing, tuning = (replace(one, buffers=True) for one in stages_of(task, tasks, steps))
    # A new block takes the place of a head, whose parameters may have had the same names.
    growing = [
        replace(stage, anew=(f"{depth - 1}.", f"{depth}."))
        for depth, stage in enumerate(growing, 1)
    ]
    return [*growing, tuning]


def at_difficulty(task: Task, value: Any) -> Task:
    assert task.difficulty is not None  # the callers require a difficulty
    with failure_as_sentence(f"Task '{task.name}' cannot be made at difficulty {short(value)}"):
        made = task.difficulty(value)
    if not isinstance(made, Task):
        raise UserError(
            f"The difficulty of task '{task.name}' must be a function that makes a thalweg.Task,"
            f" not {describe(made)}."
        )
    return replace(made, name=f"{task.name} at {word(value)}")


def with_its_data(task: Task) -> Task:
    """A copy of the task that does not make its data again."""
    return replace(task, data=lambda: task.splits)


def stages_of(task: Task, tasks: Sequence[Task], steps: Sequence[int] | None) -> list[Stage]:
    """A stage for each of the tasks, with its steps."""
    wanted = shares(task, len(tasks)) if steps is None else steps
    budgets = require_list("steps", wanted, "a list of numbers, one for each stage")
    require_one_each("steps", budgets, tasks)
    budgets = [require_whole("each stage's steps", budget, 1) for budget in budgets]
    return [
        Stage(replace(stage, epochs=None, steps=budget), before)
        for stage, budget, before in zip(
            tasks, budgets, accumulate(budgets[:-1], initial=0), strict=True
        )
    ]


def recipes_of(recipe: AnyRecipe | Sequence[AnyRecipe], stages: Sequence[Stage]) -> list[Recipe]:
    """A recipe for each stage."""
    given: Any = recipe if isinstance(recipe, list | tuple) else [recipe] * len(stages)
    require_one_each("recipes", given, stages)
    return [recipe_of(each) for each in given]


def require_one_each(what: str, given: Sequence[Any], stages: Sequence[Any]) -> None:
    count = len(stages)
    if len(given) != count:
        raise UserError(f"there are {count} stages, but {len(given)} {what}; give {count}.")


def shares(task: Task, count: int) -> list[int]:
    """Divides the task's budget into equal shares; the last one also gets the remainder."""
    with failure_as_sentence(f"The data of task '{task.name}' failed"):
        total = task.total_steps(length_of(task))
    return [total // count] * (count - 1) + [total - total // count * (count - 1)]


def shapes(task: Task) -> dict[str, Any]:
    """The shapes of the parameters, by name."""
    return {n: param.shape for n, param in initial_model(task, seed=0).named_parameters()}


class PartlyFrozen(nn.Sequential):
    """A sequence of layers of which the first `frozen` are not trained and cost no gradients."""

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
