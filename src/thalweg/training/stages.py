"""Stages of a pre-training: each is trained once, and starts from what the one before hands on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.stack.batches import length_of
from thalweg.stack.checkpoint import put_states
from thalweg.stack.member import Member
from thalweg.stack.neighbours import shape_of
from thalweg.stack.population import Population, initial_model
from thalweg.stack.rows import Tensors
from thalweg.stack.single import Single
from thalweg.tasks.check import check
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.files import (
    described,
    read_state,
    save,
    write_state,
)
from thalweg.training.learn import learn, require_finite
from thalweg.training.run import Point, Run
from thalweg.whole_file import require_writable


@dataclass(frozen=True)
class Stage:
    """One training on the way.

    task: with the stage's own name, model and budget. before: steps of all stages before it. anew:
    how the names of those parameters begin that start at random in any case. buffers: whether these
    are taken over from the stage before, as the parameters are.
    """

    task: Task
    before: int = 0
    anew: tuple[str, ...] = ()
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


@dataclass(frozen=True)
class Done:
    """A stage that was trained alone. plan: what it and those before it were."""

    run: Run
    fresh: tuple[str, ...]
    handed: Handed
    plan: list[dict[str, Any]]


def run(
    stages: Sequence[Stage],
    recipes: Sequence[Recipe],
    seed: int,
    folder: Path,
    optimizer_state: bool,
) -> Pretrained:
    """Trains the stages that have no file in the folder yet, and writes the last one's checkpoint.

    optimizer_state: whether it is taken over from the stage before, as the parameters are. The
    files are safetensors. Raises UserError, before anything is trained, for a stage that cannot
    be trained, for recipes between which the optimizer's state cannot be taken over, and for a
    folder that cannot be written to; and for a stage that diverges, to which nothing can be handed
    on, or whose file is of another pre-training.
    """
    checkpoint = folder / "model.safetensors"
    require_writable(checkpoint)
    if optimizer_state:
        require_one_state(recipes)
    for stage in stages:
        check(stage.task)
    paths = [folder / f"stage-{number}.safetensors" for number in range(1, len(stages) + 1)]
    done = list(through(stages, recipes, seed, paths, optimizer_state))
    save(done[-1].handed.evaluated, checkpoint, {"plan": json.dumps(done[-1].plan)})
    return Pretrained(
        runs=tuple(one.run for one in done),
        fresh=tuple(one.fresh for one in done),
        gradient_evaluations=stages[-1].before + stages[-1].steps,
        checkpoint=checkpoint,
    )


def require_one_state(recipes: Sequence[Recipe]) -> None:
    """UserError where the optimizer's state is to be taken over between recipes of other rules."""
    for before, recipe in pairwise(recipes):
        if shape_of(before) != shape_of(recipe):
            raise UserError(
                f"the optimizer's state cannot be carried from recipe {before.name} to"
                f" {recipe.name}, whose rules differ; give recipes of the same rules, or"
                " optimizer_state=False."
            )


def through(
    stages: Sequence[Stage],
    recipes: Sequence[Recipe],
    seed: int,
    paths: Sequence[Path],
    optimizer_state: bool = False,
) -> Iterator[Done]:
    """Each stage in turn, trained alone if it has no file at its path yet."""
    handed = Handed({}, {}, {})
    plan: list[dict[str, Any]] = []
    for stage, recipe, path in zip(stages, recipes, paths, strict=True):
        carrying = {"optimizer_state": optimizer_state, "buffers": stage.buffers}
        plan = [*plan, described(stage.task, recipe, seed) | carrying]
        if not path.exists():
            train_stage(stage, Member(recipe, seed), handed, path, plan)
        groups, record = read_state(path, plan)
        handed = Handed(groups["last"], groups["evaluated"], groups.get("states", {}))
        points = [Point(**point) for point in record["curve"]]
        yield Done(Run(Member(recipe, seed), tuple(points)), tuple(record["fresh"]), handed, plan)


def train_stage(
    stage: Stage, member: Member, before: Handed, path: Path, plan: list[dict[str, Any]]
) -> None:
    """Trains a stage from what was handed on, and writes its file."""
    optimizer_state = plan[-1]["optimizer_state"]
    with failure_in_training(stage.task), drawing(member.seed):
        alone = Single(stage.task, [member])
        parameters = before.last if optimizer_state else before.evaluated
        (model,), (optimizer,) = alone.models, alone.optimizers
        fresh = start_from(parameters, stage, model, alone, 0)
        if optimizer_state:
            kept = parameters.keys() - set(fresh)
            taken = {key: x for key, x in before.states.items() if key.split(".", 1)[1] in kept}
            put_states(taken, model, optimizer)
        (curve,) = learn(stage.task, alone)
        require_finite(stage.task, alone)
        with alone.evaluation():
            evaluated = alone.state_dict(0)
    now = alone.checkpoint(0)
    handed = Handed(now.weights, evaluated, before.states | now.states)
    record = {"plan": plan, "fresh": fresh, "curve": [asdict(point) for point in curve]}
    write_state(path, vars(handed), record)


def hand_on(before: Population, stage: Stage, fresh: Population) -> None:
    """Starts members from what evaluation uses of theirs after the stage before.

    Those that have diverged in it go no further.
    """
    fresh.diverged = list(before.diverged)
    model = initial_model(stage.task, seed=0)
    with torch.no_grad(), before.evaluation():
        for place, diverged in enumerate(before.diverged):
            if diverged is None:
                start_from(before.state_dict(place), stage, model, fresh, place)


def start_from(
    handed: Mapping[str, Tensor],
    stage: Stage,
    model: nn.Module,
    population: Population,
    place: int,
) -> list[str]:
    """Puts what was handed on into a fresh member; the parameters that nothing was put into.

    model: one of the stage's, of which the names and shapes count.
    """
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    fitting = {
        name: handed[name]
        for name, x in model.state_dict().items()
        if name in handed and x.shape == handed[name].shape and not name.startswith(stage.anew)
        if name in parameters or stage.buffers
    }
    fresh = [name for name in parameters if name not in fitting]
    if handed and len(fresh) == len(parameters):
        raise UserError(
            f"no parameter of {stage.task.name} has the name and shape of one in the stage before,"
            " so nothing can be carried over."
        )
    population.load_state_dict(place, fitting)
    return fresh
