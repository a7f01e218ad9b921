"""Stages of a pre-training: each is trained once, and starts from what the one before hands on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from thalweg.arguments import require_whole
from thalweg.errors import UserError
from thalweg.recipes import Recipe
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.single import Single
from thalweg.stack.stacked import shape_of
from thalweg.tasks.check import check, failure_in_training
from thalweg.tasks.task import Task
from thalweg.training.run import Point, Run
from thalweg.training.train import learn, own_random_state, require_finite, require_writable, save

Tensors = dict[str, Tensor]


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
        return self.task.total_steps(len(self.task.splits.train))  # type: ignore[arg-type]


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
    states: dict[str, Tensors]


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
        plan.append(described(stage, seed))
        if not path.exists():
            train_stage(stage, seed, handed, path, plan)
        handed, record = read(path, plan)
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


def described(stage: Stage, seed: int) -> dict[str, Any]:
    """What makes a stage another one when it changes."""
    model = initial_model(stage.task, seed)
    return {
        "task": stage.task.name,
        "parameters": {name: list(param.shape) for name, param in model.named_parameters()},
        "recipe": stage.recipe.to_toml(),
        "steps": stage.steps,
        "optimizer_state": stage.optimizer_state,
        "buffers": stage.buffers,
        "seed": seed,
    }


def train_stage(stage: Stage, seed: int, before: Handed, path: Path, plan: list[Any]) -> None:
    """Trains a stage from what was handed on, and writes its file."""
    with failure_in_training(stage.task), own_random_state(seed):
        alone = Single(stage.task, [Member(stage.recipe, seed)])
        fresh = start_from(before, stage, alone)
        (curve,) = learn(stage.task, alone)
        require_finite(stage.task, alone)
        with alone.evaluation():
            evaluated = alone.state_dict(0)
    tensors = {f"last.{name}": x for name, x in alone.state_dict(0).items()}
    tensors |= {f"evaluated.{name}": x for name, x in evaluated.items()}
    for name, states in (before.states | states_of(alone)).items():
        tensors |= {f"states.{state}.{name}": x for state, x in states.items()}
    record = {"plan": plan, "fresh": fresh, "curve": [asdict(point) for point in curve]}
    save(tensors, path, {key: json.dumps(value) for key, value in record.items()})


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
        (optimizer,) = alone.optimizers
        for name, param in model.named_parameters():
            if name in fitting and name in before.states and param.requires_grad:
                optimizer.state[param] = before.states[name]
    return fresh


def states_of(alone: Single) -> dict[str, Tensors]:
    """The optimizer's state of each parameter that was trained."""
    (model,), (optimizer,) = alone.models, alone.optimizers
    return {
        name: {state: x.clone() for state, x in optimizer.state[param].items()}
        for name, param in model.named_parameters()
        if param in optimizer.state
    }


def read(path: Path, plan: list[Any]) -> tuple[Handed, dict[str, Any]]:
    """What a finished stage has left; UserError where it is of another pre-training."""
    try:
        with safe_open(path, "pt") as file:
            record = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it to train its stage again."
        ) from None
    if record.get("plan") != plan:
        raise UserError(
            f"{path} is of another pre-training: of another task, model, recipe, seed or budget;"
            " give another folder, or delete it to train again."
        )
    handed = Handed({}, {}, {})
    for key, x in tensors.items():
        group, name = key.split(".", 1)
        if group == "states":
            state, name = name.split(".", 1)
            handed.states.setdefault(name, {})[state] = x
        else:
            getattr(handed, group)[name] = x
    return handed, record
