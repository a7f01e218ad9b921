"""A task in a race."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from thalweg.errors import UserError
from thalweg.foreign import where
from thalweg.lanes.lanes import Lanes, Work
from thalweg.racing import cost, wording
from thalweg.racing.entrants import Entrant
from thalweg.racing.piece import Piece
from thalweg.racing.plan import MEASURED, planned
from thalweg.racing.record import Cost, Plan, Settings
from thalweg.racing.spaces import Spaces
from thalweg.random_numbers import drawing
from thalweg.recipe import Recipe
from thalweg.routes import parameters_of
from thalweg.stack.batches import length_of
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.single import Single, outputs_over
from thalweg.stack.way import way_of
from thalweg.tasks.check import check, check_recipe
from thalweg.tasks.evaluation import Parts
from thalweg.tasks.groups import with_groups
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.fingerprint import fingerprint, of_own_rules
from thalweg.training.learn import AfterStep
from thalweg.training.pretrain import offered, stages_for
from thalweg.training.resume import CHECKPOINT_EVERY, Checkpoints
from thalweg.training.run import Run
from thalweg.training.stages import Stage
from thalweg.training.train import train_members


@dataclass(frozen=True)
class TaskSubject:
    """See `Subject`. checkpoint_every: the seconds between two checkpoints of a block."""

    task: Task
    checkpoint_every: float = CHECKPOINT_EVERY

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def called(self) -> str:
        return f"task '{self.name}'"

    def pretrainings(self) -> Sequence[str]:
        return offered(self.task)

    def of_entrants(self, spaces: Spaces) -> Spaces:
        return spaces

    def entrants(self, field: Sequence[Entrant]) -> list[Entrant]:
        return [replace(one, recipe=with_groups(self.task, one.recipe)) for one in field]

    def settings(self, field: Sequence[Entrant]) -> dict[str, Any]:
        task = self.task
        check(task)
        stages = self.stages(field).values()
        others = [one.task for some in stages for one in some if one.task is not task]
        for other in others:
            check(other)
        for one in field:
            try_step(task, one.recipe)
        return {
            "task": task.name,
            "metric": task.metric_name,
            "direction": task.better,
            "target": task.target,
            "steps": task.total_steps(length_of(task)),
            "parameters": tuple(parameters_of(initial_model(task, seed=0))),
            "fingerprint": {
                **fingerprint([task, *others]),
                **of_own_rules(one.recipe for one in field),
            },
        }

    def stages(self, field: Sequence[Entrant]) -> dict[str | None, Sequence[Stage]]:
        """The stages of each pre-training in the field."""
        kinds = dict.fromkeys(one.recipe.pretrain for one in field)
        return {kind: stages_for(self.task, kind) for kind in kinds}

    def cooled(self, field: Sequence[Entrant]) -> Mapping[str | None, int]:
        return {kind: some[-1].steps for kind, some in self.stages(field).items()}

    def check_recipe(self, recipe: Recipe) -> None:
        check_recipe(self.task, recipe)

    def notes(self, field: Sequence[Entrant], begun: bool) -> Iterator[str]:  # noqa: ARG002
        steps = self.task.total_steps(length_of(self.task))
        yield from pretraining_notes(self.stages(field), steps)
        _, reason = way_of(self.task)
        if reason:
            yield reason[0].upper() + reason[1:]
        yield from self.task.sharing
        yield from one_start(self.task)
        yield from by_batches(self.task)
        yield from one_by_one(field)

    def plan(
        self,
        recipes: Sequence[Recipe],
        settings: Settings,
        rounds: Sequence[int],
        timeout: float | None,
    ) -> Plan:
        ours = [recipe for recipe in recipes if recipe.foreign is None]
        if not ours and settings.step == MEASURED:
            settings = replace(settings, step="single")
        return planned(self.task, ours or recipes, settings, rounds, timeout)

    def costs(self, recipes: Mapping[str, Recipe], timeout: float | None) -> list[Cost]:
        return cost.costs(self.task, recipes, timeout)

    def lanes(self, work: Work, plan: Plan, timeout: float | None) -> Lanes:
        return Lanes(work, plan.lanes, timeout)

    def trained(self, piece: Piece, plan: Plan, place: Path, watch: AfterStep) -> list[Run]:
        identity = [{"recipes": list(piece.recipes), "width": plan.width, "way": plan.way}]
        return train_members(
            self.task,
            piece.members,
            width=plan.width,
            way=plan.way,
            test=piece.round == "final",
            watch=watch,
            checkpoints=Checkpoints(place, identity, self.checkpoint_every),
        )


def try_step(task: Task, recipe: Recipe) -> None:
    """UserError where an optimizer of another package cannot take a step of the task."""
    if recipe.foreign is None:
        return
    with drawing(0):
        try:
            with failure_in_training(task):
                Single(task, [Member(recipe, seed=0)]).step()
        except UserError as error:
            raise UserError(f"{where(recipe.foreign.optimizer)} cannot race: {error}") from error


def one_by_one(field: Sequence[Entrant]) -> Iterator[str]:
    """A line on the entrants that cannot be stacked."""
    foreign = [one.name for one in field if one.recipe.foreign]
    if foreign:
        verb = "runs" if len(foreign) == 1 else "run"
        yield (
            f"{wording.listed(foreign)} {verb} one by one, because optimizers of other packages"
            " step by themselves."
        )


def by_batches(task: Task) -> Iterator[str]:
    """A line where the outputs of batches cannot be joined to those of a split."""
    outputs, _ = outputs_over(task, initial_model(task, seed=0).eval(), task.splits.validation)
    if isinstance(outputs, Parts):
        yield (
            "Metrics are means over batches, weighted by samples: the outputs of batches cannot be"
            " joined, because they differ in shape, are not by sample, or are differentiated."
        )


def one_start(task: Task) -> Iterator[str]:
    """A line where seeds do not change the weights that a training begins with."""
    first, second = (initial_model(task, seed).parameters() for seed in (0, 1))
    if all(map(torch.equal, first, second)):
        yield (
            "Every seed begins with the same weights, so the verdict speaks of this start alone;"
            " seeds change the order of the data, and what training draws at random."
        )


def pretraining_notes(stages: Mapping[str | None, Sequence[Stage]], steps: int) -> Iterator[str]:
    """A line for each pre-training: what it does with the budget."""
    for kind, some in stages.items():
        if kind:
            yield (
                f"Pre-trained ({kind}): {steps} steps in {len(some)} equal stages, of which the"
                " last trains the task itself; each is a training of its own, cooling included."
            )
