"""A training loop in a race."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from thalweg.checksum import checksum
from thalweg.command import RECIPE, Command, variable
from thalweg.errors import UserError
from thalweg.foreign import where
from thalweg.fuse import eager
from thalweg.lanes.lanes import Lanes, Made, Work, most_lanes
from thalweg.loops.loop import Loop
from thalweg.loops.program import OPTIMIZER, Program
from thalweg.loops.roles import for_roles
from thalweg.loops.run import Given
from thalweg.loops.trial import STEPS, Trial, check_recipe, evaluates_aside, tried
from thalweg.racing import wording
from thalweg.racing.entrants import Entrant
from thalweg.racing.piece import Piece
from thalweg.racing.plan import MEASURED
from thalweg.racing.record import Cost, Plan, Settings
from thalweg.racing.spaces import Spaces
from thalweg.recipe import Recipe
from thalweg.tasks.code_of import code_of
from thalweg.training.fingerprint import Fingerprint, of_own_rules, unchanged
from thalweg.training.learn import AfterStep
from thalweg.training.run import Run


@dataclass
class LoopSubject:
    """See `Subject`. Each run has a process of its own.

    timeout: seconds without a step after which a run has failed. trial: what a trial has shown of
    the loop; None before the trial.
    """

    loop: Loop
    timeout: float | None = None
    trial: Trial | None = None

    @property
    def name(self) -> str:
        return self.loop.name

    @property
    def called(self) -> str:
        return f"loop '{self.name}'"

    def pretrainings(self) -> Sequence[str]:
        raise UserError(f"{self.called} offers no pre-training: leave pretrain out.")

    def of_entrants(self, spaces: Spaces) -> Spaces:
        declared = self.loop.declared or {}
        return {name: space for name, space in spaces.items() if name not in declared}

    def entrants(self, field: Sequence[Entrant]) -> list[Entrant]:
        """The entrants. Tuned entrants also have the loop's own settings in their space."""
        for one in field if self.loop.declared is None else ():
            require_ours(one.recipe)
        field = [self.for_roles(one) for one in field]
        params = self.known(field[0].recipe).params
        values = {name: param.default for name, param in params.items()}
        spaces = {name: param.space for name, param in params.items()}
        return [
            replace(
                one,
                recipe=replace(one.recipe, params={**values, **one.recipe.params}),
                space={**one.space, **spaces} if one.space else {},
                cooled=one.cooled and self.loop.steps > 1,
            )
            for one in field
        ]

    def for_roles(self, one: Entrant) -> Entrant:
        """The entrant with settings for each role, if the roles have recipes of their own."""
        recipe, roles = for_roles(one.recipe, self.loop.roles), self.loop.roles
        if recipe == one.recipe:
            return one
        space = {f"{role}.{name}": where for role in roles for name, where in one.space.items()}
        return replace(one, recipe=recipe, space=space)

    def settings(self, field: Sequence[Entrant]) -> dict[str, Any]:
        loop = self.loop
        return {
            "task": loop.name,
            "metric": loop.metric,
            "direction": loop.direction,
            "target": loop.target,
            "steps": loop.steps,
            "parameters": self.known(field[0].recipe).parameters,
            "fingerprint": {
                **fingerprint(loop),
                **of_own_rules(one.recipe for one in field),
            },
        }

    def cooled(self, field: Sequence[Entrant]) -> Mapping[str | None, int]:  # noqa: ARG002
        return {None: self.loop.steps}

    def check_recipe(self, recipe: Recipe) -> None:
        check_recipe(self.loop, recipe)

    def known(self, recipe: Recipe) -> Trial:
        """What a trial shows about the loop. recipe: the recipe of the trial.

        Raises UserError for a loop that fails.
        """
        if self.trial is None:
            declared = self.loop.declared
            self.trial = self.tried_with(recipe) if declared is None else Trial(dict(declared))
        return self.trial

    def tried_with(self, recipe: Recipe) -> Trial:
        def work(_: None, watch: AfterStep) -> Trial:
            return tried(self.loop, recipe, watch)

        (made,) = self.made_apart(work, [None])
        if made.failure:
            raise UserError(f"{self.called} fails in a trial of {STEPS} steps: {made.failure}.")
        found: Trial = made.value
        return found

    def made_apart(self, work: Work, pieces: Sequence[Any]) -> list[Made]:
        """The results of pieces, in their order. Each runs in a process of its own."""
        with Lanes(work, min(len(pieces), most_lanes()), self.timeout, apart=True) as lanes:
            return [made for _, made in sorted(lanes.run(pieces), key=lambda one: one[0])]

    def notes(self, field: Sequence[Entrant], begun: bool) -> Iterator[str]:
        trial = self.known(field[0].recipe)
        if self.loop.declared is not None and not begun:
            trial = self.trial = self.run_twice(field[0].recipe, trial)
        if isinstance(self.loop.function, Program):
            yield from untold(self.loop.function.command)
        if trial.params:
            spaces = [
                f"{name} ({one.space.low:g} to {one.space.high:g})"
                for name, one in trial.params.items()
            ]
            verb = "is a setting" if len(spaces) == 1 else "are settings"
            yield f"{wording.listed(spaces)} {verb} of {self.called}, tuned with each entrant."
        aside = [one.name for one in field if elsewhere(one.recipe)]
        if aside and self.loop.declared is None and not evaluates_aside(self.loop):
            verb = "evaluates" if len(aside) == 1 else "evaluate"
            yield (
                f"{wording.listed(aside)} {verb} at another point than gradients are taken at, and"
                f" {self.called} does not: evaluate within optimizer.evaluation()."
            )
        if not trial.agrees:
            yield (
                f"Two runs of {self.called} with one seed do not come to the same, so pairs are not"
                " paired: it takes more seeds to tell entrants apart."
            )
        yield f"{self.called.capitalize()} tells one metric, so there are no test data beside it."

    def run_twice(self, recipe: Recipe, known: Trial) -> Trial:
        """What two whole runs with one seed show about a program. UserError if they fail."""

        def work(_: None, watch: AfterStep) -> tuple[float, float]:
            began = perf_counter()
            score = self.loop.trained(Given(recipe, 0, self.loop.steps, watch=watch)).score
            return score, perf_counter() - began

        runs = self.made_apart(work, [None, None])
        for one in runs:
            if one.failure:
                raise UserError(f"{self.called} fails: {one.failure}.")
        scores, seconds = zip(*(one.value for one in runs), strict=True)
        if not all(map(math.isfinite, scores)):
            raise UserError(f"{self.called} gives {scores[0]} with {recipe.name} as it stands.")
        return replace(known, start=max(seconds), step=0.0, agrees=scores[0] == scores[1])

    def plan(
        self,
        recipes: Sequence[Recipe],
        settings: Settings,
        rounds: Sequence[int],
        timeout: float | None,  # noqa: ARG002
    ) -> Plan:
        if settings.step not in (MEASURED, "single"):
            raise UserError(f"{settings.step} steps cannot be had: {self.called} steps by itself.")
        trial = self.known(recipes[0])
        lanes = settings.lanes or self.most_lanes()
        seconds = trial.start + trial.step * settings.steps
        turns = sum(math.ceil(members / lanes) for members in rounds)
        side_by_side = f"{wording.counted(lanes, 'run')} at a time"
        why = f"Each run has a process of its own, {side_by_side}."
        return Plan("single", lanes, 1, turns * seconds, why)

    def most_lanes(self) -> int:
        """The number of threads of this process, or of GPUs if the loop uses one."""
        return self.gpus or most_lanes()

    @property
    def gpus(self) -> int:
        """The number of GPUs for its runs. A program is assumed to use one."""
        uses = self.loop.declared is not None or (self.trial is not None and self.trial.on_gpu)
        return torch.cuda.device_count() if uses else 0

    def costs(self, recipes: Mapping[str, Recipe], timeout: float | None) -> list[Cost]:  # noqa: ARG002
        return []

    def lanes(self, work: Work, plan: Plan, timeout: float | None) -> Lanes:
        threads = max(1, torch.get_num_threads() // plan.lanes)
        begin = partial(begin_lane, threads, self.gpus)
        return Lanes(work, plan.lanes, timeout, begin, apart=True)

    def trained(self, piece: Piece, plan: Plan, place: Path, watch: AfterStep) -> list[Run]:  # noqa: ARG002
        (member,) = piece.members
        return [self.loop.trained(Given(member.recipe, member.seed, self.loop.steps, place, watch))]


def require_ours(recipe: Recipe) -> None:
    """UserError for an optimizer of another package, which `run.optimizer` cannot make."""
    if recipe.foreign:
        raise UserError(
            f"{where(recipe.foreign.optimizer)} cannot race in a loop, whose run.optimizer makes"
            " optimizers of thalweg: race it in a task, or make it in the loop yourself and tune"
            " its settings by run.param."
        )


def elsewhere(recipe: Recipe) -> bool:
    """Whether evaluation uses another point than the gradients."""
    return any(eager.elsewhere([type(rule) for rule in rules]) for rules in recipe.chains)


def untold(command: Command) -> Iterator[str]:
    """A line for a command that may not say which optimizer the program must use."""
    if not command.names & {OPTIMIZER, RECIPE}:
        yield (
            "The command names neither {optimizer} nor {recipe}: unless the program reads"
            f" {variable(OPTIMIZER)}, all entrants are the same optimizer."
        )


def begin_lane(threads: int, gpus: int, number: int) -> None:
    """Gives a process its share of the threads, and one GPU if there is one."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of a program that it runs
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % gpus]


def fingerprint(loop: Loop) -> Fingerprint:
    """Changes with a loop's code and constants, or with a program's command and files."""
    if not isinstance(loop.function, Program):
        code = code_of(loop.function)
        return {"another loop": unchanged(code, code)}
    command = loop.function.command
    folder = command.folder or Path()
    files = [folder / word for word in shlex.split(command.template)]
    return {
        "another command": [command.template, command.metric],
        "another program": {
            str(file): checksum([file.read_bytes()]) for file in files if file.is_file()
        },
    }
