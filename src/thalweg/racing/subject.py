"""The interface of what a race trains: a task or a training loop."""

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
    """A task or a loop in a race. Each method raises UserError if it cannot race."""

    @property
    def name(self) -> str:
        """The name in reports."""

    @property
    def called(self) -> str:
        """The name in messages, such as "task 'digits'"."""

    def pretrainings(self) -> Sequence[str]:
        """The kinds of pre-training that it offers."""

    def of_entrants(self, spaces: Spaces) -> Spaces:
        """The given spaces without those of its own settings."""

    def entrants(self, field: Sequence[Entrant]) -> list[Entrant]:
        """The entrants, with its own settings in their recipes and spaces."""

    def settings(self, field: Sequence[Entrant]) -> dict[str, Any]:
        """Checks it, and returns the settings of a race that follow from it, by name."""

    def cooled(self, field: Sequence[Entrant]) -> Mapping[str | None, int]:
        """The number of steps of a cooling, by kind of pre-training."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises UserError for a recipe that cannot train it."""

    def notes(self, field: Sequence[Entrant], begun: bool) -> Iterator[str]:
        """Lines that a reader of the verdict should know.

        begun: whether the race goes on from an earlier start.
        """

    def plan(
        self,
        recipes: Sequence[Recipe],
        settings: Settings,
        rounds: Sequence[int],
        timeout: float | None,
    ) -> Plan:
        """The plan of its race; see `planned`."""

    def costs(self, recipes: Mapping[str, Recipe], timeout: float | None) -> list[Cost]:
        """The costs of a step of each entrant, as far as they are known."""

    def lanes(self, work: Work, plan: Plan, timeout: float | None) -> Lanes:
        """The processes that train its members."""

    def trained(self, piece: Piece, plan: Plan, place: Path, watch: AfterStep) -> list[Run]:
        """Trains the members of a piece, in a lane.

        place: the file from which they continue if they are stopped.
        """
