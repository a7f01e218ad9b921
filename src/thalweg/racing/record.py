"""The record of a race as plain data, which the ledger keeps and the verdict reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from thalweg.routes import Parameter
from thalweg.rules.space import Space
from thalweg.stack.way import Way
from thalweg.training.run import Evaluation

Round = Literal["tuning", "final"]

Key: TypeAlias = tuple[str, int, int]
"""What identifies a member within a round: entrant, configuration, seed."""


@dataclass(frozen=True)
class Settings:
    """All that decides what a race does. The same settings repeat the same race.

    task: the name of the task. metric, direction, target, steps: those of the task.
    entrants: the names in order. trials: the configurations of an entrant that is tuned.
    tuning_seeds: the seeds over which the trials are spread. seeds: the most seeds of the final
    round.
    cooling: the schedule of every tuned lr ("none", "linear", "cosine", "tune"). baseline: the
    entrant that is used now. baseline_tuned: the entrant that is the baseline, tuned; None if
    nothing of it can be tuned. alpha: the risk that the best entrant is missing from the shortlist.
    seed: the seed from which all others are derived. width: the members of a block.
    step: how members are stepped, "measured" if the race chooses. lanes: the processes that train
    blocks at once, None if the race chooses.
    spaces: by entrant, the search space of each tuned setting; an entrant that is not tuned is
    missing. recipes: by entrant, the recipe with which it begins, as TOML. cooled: the entrants
    whose lr follows the cooling. earlier: each number of trials after which tuning was added.
    parameters: the names and shapes of the model's parameters.
    fingerprint: checksums of the task's data, model, loss and metrics. They show if another task
    has the same name.
    """

    task: str
    metric: str
    direction: Literal["min", "max"]
    target: float | None
    steps: int
    entrants: tuple[str, ...]
    trials: int
    tuning_seeds: int
    seeds: int
    cooling: str
    baseline: str | None
    alpha: float
    seed: int
    width: int
    baseline_tuned: str | None = None
    step: str = "measured"
    lanes: int | None = None
    spaces: Mapping[str, Mapping[str, Space]] = field(default_factory=dict)
    recipes: Mapping[str, str] = field(default_factory=dict)
    cooled: tuple[str, ...] = ()
    earlier: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    @property
    def further_seeds(self) -> int:
        """The number of further seeds for the best configurations: half of the tuning seeds."""
        return math.ceil(self.tuning_seeds / 2)


@dataclass(frozen=True)
class Plan:
    """How a race trains its members. The same plan gives the same results, to the bit.

    way: how members are stepped. lanes: the processes that train blocks at once. width: the members
    of a block. seconds: the most seconds that the race will take. why: what was measured.
    """

    way: Way
    lanes: int
    width: int
    seconds: float
    why: str


@dataclass(frozen=True)
class Configuration:
    """One configuration of an entrant.

    index: its place among the entrant's trials. values: the tuned hyperparameters by name (the
    parts of a pair are `betas[0]` and `betas[1]`). recipe: the whole recipe as TOML, cooling
    included. refined: whether the search chose it by earlier scores, and did not draw it.
    """

    entrant: str
    index: int
    values: dict[str, float]
    recipe: str
    refined: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return self.entrant, self.index


@dataclass(frozen=True)
class RunRecord:
    """A run: one member that was trained.

    score: the validation metric at the end of the budget; nan if the run diverged.
    diverged_step, reason: where and why the run diverged; None if it did not. A run that failed
    counts as diverged, and has only a reason. curve: the evaluations in order.
    test: the metrics on test data by name; empty while the record is sealed, in the tuning round,
    and for a run that diverged.
    """

    round: Round
    entrant: str
    configuration: int
    seed: int
    score: float
    diverged_step: int | None
    reason: str | None
    curve: tuple[Evaluation, ...]
    test: dict[str, float] = field(default_factory=dict)

    @property
    def member(self) -> Key:
        return self.entrant, self.configuration, self.seed

    @property
    def failed(self) -> bool:
        """Whether the run ended by an error, and not because its numbers diverged."""
        return self.reason is not None and self.diverged_step is None


@dataclass(frozen=True)
class Stop:
    """An entrant that got no further configurations.

    trials: the number of configurations that it had. chance: its probability to come close to the
    best result that was found.
    """

    entrant: str
    trials: int
    chance: float


@dataclass(frozen=True)
class Certainty:
    """How sure the tuning of an entrant is.

    named: the probability that the entrant has the best median if all entrants are tuned anew, with
    other draws. ahead: the probability that it is better than this race's best entrant if all are
    tuned twice as much.
    """

    entrant: str
    named: float
    ahead: float


@dataclass(frozen=True)
class Departure:
    """An entrant that left the shortlist at a look, the entrant that beat it, and the p-value."""

    entrant: str
    by: str
    p: float


@dataclass(frozen=True)
class Look:
    """A look: a comparison of the entrants on the shortlist after some seeds of the final round.

    seeds: the number of seeds so far. level: the one-sided level for each pair, already divided by
    the number of rivals: a_n / (m - 1). on: the entrants before the look. left: those that the look
    removed.
    """

    seeds: int
    level: float
    on: tuple[str, ...]
    left: tuple[Departure, ...]


@dataclass(frozen=True)
class Cost:
    """What a training step of an entrant costs, measured alone with its drop-in optimizer.

    It holds the seconds of a step with its forward and backward pass (the median of several, with
    its 95 % interval), the seconds of `optimizer.step`, and the memory of the optimizer in numbers
    per parameter. All entrants took turns.
    """

    entrant: str
    step_seconds: float
    step_seconds_low: float
    step_seconds_high: float
    optimizer_seconds: float
    state_per_parameter: float


@dataclass(frozen=True)
class Edge:
    """A chosen value that lies at the edge of its search space [low, high]."""

    entrant: str
    hyper: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Record:
    """The record of a whole race.

    stops: the entrants that got no further configurations. chosen: each entrant's best
    configuration. finished: whether the final round has ended and the test scores were opened.
    notes: lines that a reader of the verdict should know, such as why members ran one by one.
    command: the command that repeats the race. folder: the folder that keeps it.

    If tuning was added, all of these belong to the last tuning. The final runs in `runs` are then
    those of the configurations that were chosen last.
    """

    settings: Settings
    configurations: tuple[Configuration, ...]
    runs: tuple[RunRecord, ...]
    stops: tuple[Stop, ...]
    chosen: dict[str, int]
    looks: tuple[Look, ...]
    costs: dict[str, Cost]
    edges: tuple[Edge, ...]
    certainties: tuple[Certainty, ...]
    notes: tuple[str, ...]
    finished: bool
    machine: dict[str, str]
    command: str
    folder: Path
