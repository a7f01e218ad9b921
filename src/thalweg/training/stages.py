"""The stages of a pre-training. Each stage starts from what the stage before hands on."""

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
from thalweg.training.run import Evaluation, Run
from thalweg.whole_file import require_writable


@dataclass(frozen=True)
class Stage:
    """One training of a pre-training.

    task: the task with the stage's own name, model and budget. before: the number of steps of all
    stages before. anew: prefixes of the names of parameters that always start at random. buffers:
    whether buffers are taken from the stage before, as parameters are.
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
    """The result of a pre-training.

    runs: the runs of the stages, in order. fresh: for each stage, the names of the parameters that
    started at random. In the first stage these are all; in a later one, those that the stage before
    does not have, or has in another shape. gradient_evaluations: the sum over all stages, one for
    each step. checkpoint: the file of the last model's parameters and buffers, as evaluation uses
    them.
    """

    runs: tuple[Run, ...]
    fresh: tuple[tuple[str, ...], ...]
    gradient_evaluations: int
    checkpoint: Path


@dataclass(frozen=True)
class Handed:
    """What a finished stage hands on: tensors by the model's names.

    last: the parameters and buffers after the last step. evaluated: the parameters and buffers that
    evaluation uses. states: the optimizer's states of all parameters that were trained so far.
    """

    last: Tensors
    evaluated: Tensors
    states: Tensors


@dataclass(frozen=True)
class Done:
    """A stage that was trained. plan: the descriptions of this stage and of those before it."""

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

    optimizer_state: whether the optimizer's state is taken from the stage before, as the parameters
    are. The files are safetensors. Before anything is trained, raises UserError for a stage that
    cannot be trained, for recipes between which the optimizer's state cannot be handed on, and for
    a folder that cannot be written to. Later, raises it for a stage that diverges, that has no
    parameter in common with the stage before, or whose file belongs to another pre-training.
    """
    checkpoint = folder / "model.safetensors"
    require_writable(checkpoint)
    if optimizer_state:
        require_one_state(recipes)
    for stage in stages:
        check(stage.task)
    paths = [folder / f"stage-{number}.safetensors" for number in range(1, len(stages) + 1)]
    done = list(through(stages, recipes, seed=seed, paths=paths, optimizer_state=optimizer_state))
    save(done[-1].handed.evaluated, checkpoint, {"plan": json.dumps(done[-1].plan)})
    return Pretrained(
        runs=tuple(one.run for one in done),
        fresh=tuple(one.fresh for one in done),
        gradient_evaluations=stages[-1].before + stages[-1].steps,
        checkpoint=checkpoint,
    )


def require_one_state(recipes: Sequence[Recipe]) -> None:
    """Raises UserError unless the optimizer's state can be handed on between these recipes."""
    for before, recipe in pairwise(recipes):
        if shape_of(before) != shape_of(recipe):
            raise UserError(
                f"the optimizer's state cannot be handed from recipe {before.name} to recipe"
                f" {recipe.name}, because their rules differ; give recipes of the same rules, or"
                " optimizer_state=False."
            )


def through(
    stages: Sequence[Stage],
    recipes: Sequence[Recipe],
    seed: int,
    paths: Sequence[Path],
    optimizer_state: bool = False,
) -> Iterator[Done]:
    """Yields the stages in turn, and trains each that has no file at its path yet."""
    handed = Handed({}, {}, {})
    plan: list[dict[str, Any]] = []
    for stage, recipe, path in zip(stages, recipes, paths, strict=True):
        carrying = {"optimizer_state": optimizer_state, "buffers": stage.buffers}
        plan = [*plan, described(stage.task, recipe, seed) | carrying]
        if not path.exists():
            train_stage(stage, Member(recipe, seed), before=handed, path=path, plan=plan)
        groups, record = read_state(path, plan)
        handed = Handed(groups["last"], groups["evaluated"], groups.get("states", {}))
        points = [Evaluation(**point) for point in record["curve"]]
        yield Done(Run(Member(recipe, seed), tuple(points)), tuple(record["fresh"]), handed, plan)


def train_stage(
    stage: Stage, member: Member, before: Handed, path: Path, plan: list[dict[str, Any]]
) -> None:
    """Trains a stage from what the stage before handed on, and writes its file."""
    optimizer_state = plan[-1]["optimizer_state"]
    with failure_in_training(stage.task), drawing(member.seed):
        alone = Single(stage.task, [member])
        parameters = before.last if optimizer_state else before.evaluated
        (model,), (optimizer,) = alone.models, alone.optimizers
        fresh = start_from(parameters, stage, model, population=alone, place=0)
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
    """Starts each member from the parameters that evaluation uses after the stage before.

    Members that diverged in that stage do not go on.
    """
    fresh.diverged = list(before.diverged)
    model = initial_model(stage.task, seed=0)
    with torch.no_grad(), before.evaluation():
        for place, diverged in enumerate(before.diverged):
            if diverged is None:
                start_from(before.state_dict(place), stage, model, population=fresh, place=place)


def start_from(
    handed: Mapping[str, Tensor],
    stage: Stage,
    model: nn.Module,
    population: Population,
    place: int,
) -> list[str]:
    """Puts the handed tensors into a fresh member. Returns the parameters that got none.

    model: a model of the stage; only its names and shapes matter.
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
            f"no parameter of {stage.task.name} has the name and shape of a parameter in the stage"
            " before, so nothing can be handed on."
        )
    population.load_state_dict(place, fitting)
    return fresh
