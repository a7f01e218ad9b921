"""What a race has on record: plain data, as the ledger keeps it and the verdict reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from thalweg.routes import Parameter
from thalweg.rules.space import Space
from thalweg.stack.way import Way
from thalweg.training.run import Point

Round = Literal["tuning", "final"]

Key: TypeAlias = tuple[str, int, int]
"""A member within a round: entrant, configuration, seed."""


@dataclass(frozen=True)
class Settings:
    """All that decides what a race does; the same settings repeat the same race.

    task: its name. metric, direction, target, steps: the task's.
    entrants: their names in order. trials: configurations an entrant that is tuned. tuning_seeds:
    over which they are spread. seeds: final seeds at most.
    cooling: the schedule of every tuned lr ("none", "linear", "cosine", "tune"). baseline: the
    entrant that stands for what the person uses now. baseline_tuned: the one that is the same but
    tuned, None where nothing of it can be. alpha: the risk that the best entrant is missing from
    the shortlist. seed: where all other seeds come from. width: members in a block.
    step: the way of stepping them, "measured" where the race chooses. lanes: processes that train
    blocks side by side, None where the race chooses.
    spaces: by entrant, where each of its tuned settings is looked for; none for one that is not
    tuned. recipes: by entrant, the one that it comes with, as TOML. cooled: the entrants whose lr
    is under the cooling. earlier: the trials after which tuning was added, each time.
    parameters: of the task's model.
    fingerprint: of the task's data, model, loss and metrics; another task under an old name shows.
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
        """Seeds on which the best configurations are tried again: half as many as tuning has."""
        return math.ceil(self.tuning_seeds / 2)


@dataclass(frozen=True)
class Plan:
    """How a race trains its members; with the same plan it comes to the same bits.

    way: in which they are stepped. lanes: processes that train blocks side by side. width: members
    in a block. seconds: that the race takes at the most. why: what was measured.
    """

    way: Way
    lanes: int
    width: int
    seconds: float
    why: str


@dataclass(frozen=True)
class Configuration:
    """One configuration of an entrant.

    index: its place among the entrant's trials. values: the tuned hyperparameters by name (a pair's
    parts are `betas[0]` and `betas[1]`). recipe: the whole recipe as TOML, cooling included.
    refined: whether it was asked for because of others' scores, and was no draw.
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
    """One member that was trained.

    score: the ranked validation metric at the end of the budget, nan when it diverged.
    diverged_step, reason: where and why it diverged, else none; a run that failed, which counts as
    diverged, has a reason alone. curve: its evaluations in order.
    test: metrics on test data by name, the ranked one under the task's metric name; empty while the
    record is sealed, in the tuning round, and for a diverged run.
    """

    round: Round
    entrant: str
    configuration: int
    seed: int
    score: float
    diverged_step: int | None
    reason: str | None
    curve: tuple[Point, ...]
    test: dict[str, float] = field(default_factory=dict)

    @property
    def member(self) -> Key:
        return self.entrant, self.configuration, self.seed

    @property
    def failed(self) -> bool:
        """Whether it ended by an error, and not by its numbers."""
        return self.reason is not None and self.diverged_step is None


@dataclass(frozen=True)
class Stop:
    """An entrant that got no further configurations. trials: how many it had got. chance: that it
    came close to the best that was found.
    """

    entrant: str
    trials: int
    chance: float


@dataclass(frozen=True)
class Certainty:
    """How sure an entrant's tuning is. named: the chance that it has the best median where all are
    tuned anew on other draws. ahead: that it is ahead of this race's best where all are tuned
    twice as much.
    """

    entrant: str
    named: float
    ahead: float


@dataclass(frozen=True)
class Departure:
    """An entrant that left the shortlist at a look: by whom it was beaten, and the p-value."""

    entrant: str
    by: str
    p: float


@dataclass(frozen=True)
class Look:
    """A comparison of all entrants still on, after `seeds` seeds, each pair at `level`.

    level is one-sided and already divided by the rivals: a_n / (m - 1). on: the entrants before the
    look. left: those that it removed.
    """

    seeds: int
    level: float
    on: tuple[str, ...]
    left: tuple[Departure, ...]


@dataclass(frozen=True)
class Cost:
    """What an entrant costs: seconds for a lone training step of its drop-in form (median of
    several with its 95 % interval, forward and backward included), of those in `optimizer.step`,
    and the optimizer's memory in numbers kept a parameter. All entrants took turns.
    """

    entrant: str
    step_seconds: float
    step_seconds_low: float
    step_seconds_high: float
    optimizer_seconds: float
    state_per_parameter: float


@dataclass(frozen=True)
class Edge:
    """A winning value at the edge of its search space [low, high]."""

    entrant: str
    hyper: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Record:
    """A whole race. `stops` is who got no further configurations; `chosen` is each entrant's best
    configuration after it; `finished` when the final round has ended and the test scores were
    opened; `notes` are lines a reader of the verdict should know (why members ran one by one);
    `command` repeats the race; `folder` keeps it.

    Where tuning was added, all of these are of the last time, and so are the final runs among
    `runs`: those of what was chosen.
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
