"""What a race trains: a task, or a loop of a person's own, and all that a race asks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from thalweg.lanes.lanes import Lanes, Work
from thalweg.racing.entrants import Entrant
from thalweg.racing.piece import Piece
from thalweg.racing.record import Cost, Plan, Settings
from thalweg.racing.spaces import Spaces
from thalweg.recipe import Recipe
from thalweg.training.learn import AfterStep
from thalweg.training.run import Run


class Subject(Protocol):
    """A task or a loop, as a race sees it. Each method raises UserError for what cannot race."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def called(self) -> str:
        """What it is called in messages, such as "task 'digits'"."""

    def pretrainings(self) -> Sequence[str]:
        """The ways of pre-training that it offers."""

    def of_entrants(self, spaces: Spaces) -> Spaces:
        """Those of the spaces that a person gives which are not of settings of its own."""

    def entrants(self, field: Sequence[Entrant]) -> list[Entrant]:
        """The same entrants with what it adds to their recipes and spaces."""

    def settings(self, field: Sequence[Entrant]) -> dict[str, Any]:
        """The settings of a race that follow from it, by name; it is checked first."""

    def cooled(self, field: Sequence[Entrant]) -> Mapping[str | None, int]:
        """The steps that a cooling takes, by the pre-training."""

    def check_recipe(self, recipe: Recipe) -> None:
        """UserError for a recipe that cannot train it."""

    def notes(self, field: Sequence[Entrant], begun: bool) -> Iterator[str]:
        """What a reader of the verdict should know of it, a line each.

        begun: whether the race goes on from an earlier start.
        """

    def plan(
        self,
        recipes: Sequence[Recipe],
        settings: Settings,
        rounds: Sequence[int],
        timeout: float | None,
    ) -> Plan:
        """How its members are trained, and for how long at most; see `planned`."""

    def costs(self, recipes: Mapping[str, Recipe], timeout: float | None) -> list[Cost]:
        """What a step of each entrant costs; nothing of those where that is not known."""

    def lanes(self, work: Work, plan: Plan, timeout: float | None) -> Lanes:
        """The processes that train its members."""

    def trained(self, piece: Piece, plan: Plan, folder: Path, watch: AfterStep) -> list[Run]:
        """What becomes of the members of a piece; in a lane. folder: the race's."""
