"""Stages of a pre-training: each is trained once, and starts from what the one before hands on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from thalweg.arguments import require_whole
from thalweg.errors import UserError
from thalweg.recipes import Recipe
from thalweg.stack.batches import length_of
from thalweg.stack.member import Member
from thalweg.stack.rows import Tensors
from thalweg.stack.single import Single
from thalweg.stack.stacked import shape_of
from thalweg.tasks.check import check, failure_in_training
from thalweg.tasks.task import Task
from thalweg.training.files import (
    optimizer_states,
    put_optimizer_states,
    read_state,
    require_writable,
    save,
    write_state,
)
from thalweg.training.run import Point, Run
from thalweg.training.train import described, learn, own_random_state, require_finite


@dataclass(frozen=True)
class Stage:
    """One training on the way.

    task: with the stage's own name, model and budget. anew: how the names of those parameters begin
    that start at random in any case. optimizer_state, buffers: whether these are taken over from
    the stage before, as the parameters are.
    """

    task: Task
    recipe: Recipe
    anew: tuple[str, ...] = ()
    optimizer_state: bool = False
    buffers: bool = False

    @property
    def steps(self) -> int:
        return self.task.total_steps(length_of(self.task))


@dataclass(frozen=True)
class Pretrained:
    """What a pre-training has come to.

    runs: the stages' learning curves, in order. fresh: for each stage, the parameters that started
    at random: all of them in the first, and then those that the stage before has not, or in
    another shape. gradient_evaluations: of all stages, one a step. checkpoint: the file of the last
    model's parameters and buffers, as evaluation uses them.
    """

    runs: tuple[Run, ...]
    fresh: tuple[tuple[str, ...], ...]
    gradient_evaluations: int
    checkpoint: Path


@dataclass(frozen=True)
class Handed:
    """What a finished stage hands on: tensors by the model's names.

    last: parameters and buffers after the last step. evaluated: as evaluation uses them. states:
    the optimizer's, of all parameters that were trained so far.
    """

    last: Tensors
    evaluated: Tensors
    states: Tensors


def run(stages: Sequence[Stage], seed: int, folder: Path) -> Pretrained:
    """Trains the stages that have no file in the folder yet, and writes the last one's checkpoint.

    The files are safetensors. Raises UserError, before anything is trained, for a stage that cannot
    be trained, for recipes between which the optimizer's state cannot be taken over, and for a
    folder that cannot be written to; and for a stage that diverges, to which nothing can be handed
    on, or whose file is of another pre-training.
    """
    require_whole("seed", seed, 0)
    require_writable(folder / "model.safetensors")
    require_one_state(stages)
    for stage in stages:
        check(stage.task)
    handed = Handed({}, {}, {})
    runs, fresh, plan = [], [], []
    for number, stage in enumerate(stages, 1):
        path = folder / f"stage-{number}.safetensors"
        plan.append(planned(stage, seed))
        if not path.exists():
            train_stage(stage, seed, handed, path, plan)
        groups, record = read_state(path, plan)
        handed = Handed(groups["last"], groups["evaluated"], groups.get("states", {}))
        points = [Point(**point) for point in record["curve"]]
        runs.append(Run(Member(stage.recipe, seed), tuple(points)))
        fresh.append(tuple(record["fresh"]))
    save(handed.evaluated, folder / "model.safetensors", {"plan": json.dumps(plan)})
    cost = sum(stage.steps for stage in stages)
    return Pretrained(tuple(runs), tuple(fresh), cost, folder / "model.safetensors")


def require_one_state(stages: Sequence[Stage]) -> None:
    """UserError where the optimizer's state is to be taken over between recipes of other rules."""
    for before, stage in pairwise(stages):
        if stage.optimizer_state and shape_of(before.recipe) != shape_of(stage.recipe):
            raise UserError(
                f"the optimizer's state cannot be carried from recipe {before.recipe.name} to"
                f" {stage.recipe.name}, whose rules differ; give recipes of the same rules, or"
                " optimizer_state=False."
            )


def planned(stage: Stage, seed: int) -> dict[str, Any]:
    """What makes a stage another one when it changes."""
    carrying = {"optimizer_state": stage.optimizer_state, "buffers": stage.buffers}
    return described(stage.task, stage.recipe, seed) | carrying


def train_stage(stage: Stage, seed: int, before: Handed, path: Path, plan: list[Any]) -> None:
    """Trains a stage from what was handed on, and writes its file."""
    with failure_in_training(stage.task), own_random_state(seed):
        alone = Single(stage.task, [Member(stage.recipe, seed)])
        fresh = start_from(before, stage, alone)
        (curve,) = learn(stage.task, alone)
        require_finite(stage.task, alone)
        with alone.evaluation():
            evaluated = alone.state_dict(0)
    handed = Handed(alone.state_dict(0), evaluated, before.states | optimizer_states(alone))
    record = {"plan": plan, "fresh": fresh, "curve": [asdict(point) for point in curve]}
    write_state(path, vars(handed), record)


def start_from(before: Handed, stage: Stage, alone: Single) -> list[str]:
    """Puts what was handed on into a fresh member; the parameters that nothing was put into."""
    (model,) = alone.models
    handed = before.last if stage.optimizer_state else before.evaluated
    tensors = model.state_dict()
    fitting = {
        name: x
        for name, x in handed.items()
        if name in tensors and tensors[name].shape == x.shape and not name.startswith(stage.anew)
    }
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    fresh = [name for name in parameters if name not in fitting]
    if handed and len(fresh) == len(parameters):
        raise UserError(
            f"no parameter of {stage.task.name} has the name and shape of one in the stage before,"
            " so nothing can be carried over."
        )
    for name, x in fitting.items():
        if name in parameters or stage.buffers:
            tensors[name].copy_(x)
    if stage.optimizer_state:
        put_optimizer_states(before.states, alone, fitting)
    return fresh
