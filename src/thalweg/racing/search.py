"""The search for each entrant's best recipe: it explores, refines, tries again and chooses.

Each entrant begins with the same number of points: its own settings, then quasi-random points. The
points are spread over tuning seeds that all entrants share. A Gaussian process learns from an
entrant's scores. Further points are the minima of curves that are drawn from the process (Thompson
1933). Points of all entrants are asked for together, so that they fill blocks. An entrant that is
unlikely to come close to the best result gets no further points, and the others get more. At the
end the best few configurations of each entrant are tried again on further seeds, and the one with
the best median is chosen.

If tuning is added, no more points explore, and the search goes on from all that is on record. It
refines further, also for entrants that had stopped. It tries again the configurations that are now
the best, and chooses among all that were tried again.

The points depend only on the settings of the race and on its record.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median

import numpy as np

from thalweg.racing.draws import quantile_of, quantiles, value_at
from thalweg.racing.entrants import COOLINGS, Entrant, cooling_of, with_cooling
from thalweg.racing.gaussian_process import Array
from thalweg.racing.landscape import Landscape, Scale
from thalweg.racing.measures import as_loss
from thalweg.racing.record import Configuration, Edge, Key, Record, Settings, Stop
from thalweg.rules.decay import DecoupledDecay, L2Decay
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.rules.tuning import documented
from thalweg.schedules import Schedule

EXPLORED = 8
"""The fewest points of each entrant that explore; it is a third of the trials if that is more."""

REFINEMENTS = 4
"""The fewest stages that refine."""

TOGETHER = 64
"""The most points that a stage that refines asks for, over all entrants."""

CURVES = 256
"""The curves that are drawn from a model. A probability is a share of these curves."""

MOST_TRIALS = 1_000
"""The most configurations of an entrant for which a search takes only minutes."""

AGAIN = 3
"""The number of configurations of each entrant that are tried again."""

HOPE = 0.05
"""An entrant stops if its probability to come close to the best result is below this."""

ALL_REFINED = 2
"""The number of stages in which all entrants are refined before one may stop. A model of fewer
points is too sure of its predictions.
"""

FEWEST = EXPLORED + ALL_REFINED
"""An entrant with fewer points does not stop. This matters if tuning is added to a small race,
whose entrants all have few points at first.
"""

EDGE = 0.05
"""The share of a search space, in quantiles, that counts as its edge at each end."""

WIDER, WIDEST = 0.25, 0.5
"""How far beyond a best point at an edge the search may go, and how far beyond the edge at most, in
widths of the space.
"""


@dataclass
class Asked:
    """What a stage asks for: members to train, their new configurations, and entrants that stop."""

    configurations: list[Configuration] = field(default_factory=list)
    members: list[Key] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)


class Search:
    """The search of one race.

    entrants: all entrants of the race. field: those that are tuned. steps: the steps of a cooling,
    by pre-training.
    """

    def __init__(
        self, entrants: Sequence[Entrant], settings: Settings, steps: Mapping[str | None, int]
    ) -> None:
        self.field = {one.name: one for one in entrants if one.space}
        self.settings, self.steps, self.seeds = settings, steps, seeds_from(settings)

    @property
    def explored(self) -> int:
        """The number of points of an entrant that explore."""
        trials, *_ = *self.settings.earlier, self.settings.trials
        return exploring(trials)

    @property
    def again(self) -> int:
        """The configurations of an entrant that are tried again; none if there is only one."""
        return min(AGAIN, self.settings.trials) if self.settings.trials > 1 else 0

    @cached_property
    def sizes(self) -> list[int]:
        """The most members of each stage, which explores, refines or tries again.

        If tuning was added, only its own stages count, of which none explores.
        """
        count, earlier = len(self.field), self.settings.earlier
        refined = count * (self.settings.trials - (earlier[-1] if earlier else self.explored))
        times = min(refined, max(REFINEMENTS, math.ceil(refined / TOGETHER)))
        tried_again = count * self.again * len(self.seeds.further)
        explored = [] if earlier else [count * self.explored]
        return [*explored, *parts(refined, times), tried_again]

    def asked(self, stage: int, record: Record) -> Asked:
        """What a stage, counted from 0, asks for when all earlier stages are on record."""
        if stage == len(self.sizes) - 1:
            return self.try_again(record)
        if stage == 0 and not self.settings.earlier:
            return Asked(members=self.explore())
        return self.refine(stage, record)

    @cached_property
    def first_points(self) -> list[Configuration]:
        """Each entrant's own settings, then quasi-random points that all entrants share."""
        names = {name for one in self.field.values() for name in one.space}
        points = quantiles(self.explored - 1, self.settings.seed, names)
        return [
            self.at(one, index, point)
            for one in self.field.values()
            for index, point in enumerate([usual(one), *points])
        ]

    def explore(self) -> list[Key]:
        return [(one.entrant, one.index, self.seed_of(one.index)) for one in self.first_points]

    def refine(self, stage: int, record: Record) -> Asked:
        """Further points, equally many for each entrant that may still come close to the best."""
        generator = np.random.default_rng([self.settings.seed, stage, len(self.settings.earlier)])
        scale, out = Scale.of(record), {stop.entrant for stop in record.stops}
        landscapes = [Landscape(name, record, scale) for name in self.field]
        close = min((one.close for one in landscapes), default=math.inf)
        asked, going_on = Asked(), []
        for one in landscapes:
            if one.entrant in out:
                continue
            candidates = one.candidates(generator, *self.box(one))
            curves = one.model.draws(candidates, CURVES, generator)
            chance = float((curves.min(axis=1) < close).mean())
            if self.may_stop(stage, one) and chance < HOPE:
                asked.stops.append(Stop(one.entrant, len(one.points), chance))
            else:
                going_on.append((one, candidates, curves))
        # If the points cannot be shared equally, the entrants with fewer points get one more.
        going_on.sort(key=lambda found: len(found[0].points))
        counts = parts(self.sizes[stage], len(going_on)) if going_on else []
        for (one, candidates, curves), count in zip(going_on, counts, strict=True):
            for point in least(candidates, curves, count):
                self.add(asked, one, point)
        return asked

    def may_stop(self, stage: int, known: Landscape) -> bool:
        """Whether a model has enough points and seeds to be trusted."""
        late = stage > ALL_REFINED or bool(self.settings.earlier)
        return late and len(known.points) >= FEWEST and len(self.seeds.tuning) > 1

    def add(self, asked: Asked, known: Landscape, point: Array) -> None:
        one = self.field[known.entrant]
        index = len(known.points)
        known.points[index] = point
        by_name = dict(zip(known.names, point.tolist(), strict=True))
        asked.configurations.append(replace(self.at(one, index, by_name), refined=True))
        asked.members.append((one.name, index, self.seed_of(index)))

    def box(self, known: Landscape) -> tuple[Array, Array]:
        """The ends of the space for further points, in quantiles.

        The space is wider than documented if the best point lies at an edge.
        """
        ends = [self.ends(known.entrant, name) for name in known.names]
        low, high = np.array(ends).T
        reached_low = np.maximum(low, known.best - WIDER)
        reached_high = np.minimum(high, known.best + WIDER)
        return (
            np.where(known.best < EDGE, np.minimum(reached_low, 0), 0),
            np.where(known.best > 1 - EDGE, np.maximum(reached_high, 1), 1),
        )

    def ends(self, entrant: str, name: str) -> tuple[float, float]:
        """How far a space may be widened, in quantiles."""
        space = self.field[entrant].space.get(name)
        if space is None:  # the cooling
            return 0.0, 1.0
        widest = self.widest(entrant, name)
        return quantile_of(space, widest.low), quantile_of(space, widest.high)

    def widest(self, entrant: str, name: str) -> Space:
        """The widest space of a setting.

        A documented space may grow by half its width beyond each end, within the range of the
        setting. A space that a person gave stays as it is.
        """
        one = self.field[entrant]
        space = one.space[name]
        if documented(one.recipe.tunables).get(name) != space:
            return space
        hyper = one.recipe.tunables[name].hyper
        low, high = value_at(space, -WIDEST), value_at(space, 1 + WIDEST)
        beyond = high >= hyper.high if hyper.below else high > hyper.high
        return Space(max(low, hyper.low), space.high if beyond else high, space.scale)

    def seed_of(self, index: int) -> int:
        """The seed on which a point is tried first. Points take the seeds in turn."""
        return self.seeds.tuning[index % len(self.seeds.tuning)]

    def try_again(self, record: Record) -> Asked:
        """The best few configurations of each entrant, on further seeds."""
        scale, asked = Scale.of(record), Asked()
        configurations = {one.key: one for one in record.configurations}
        known = {name: Landscape(name, record, scale) for name in self.field}
        for name, own in known.items():
            indices = list(own.expected)[: self.again]
            others = [
                (expected, (other, index))
                for other in self.without_decay(name)
                for index, expected in known[other].expected.items()
            ]
            expected, best = min(others, default=(math.inf, None))
            if best and len(indices) > 1 and expected < own.expected[indices[-1]]:
                found = self.as_without_decay(own, configurations[best])
                asked.configurations.append(found)
                indices[-1] = found.index
            if len(indices) > 1:
                asked.members += [(name, i, seed) for i in indices for seed in self.seeds.further]
        return asked

    def without_decay(self, name: str) -> list[str]:
        """The entrants that equal this one without its weight decay."""
        one = self.field[name]
        if "weight_decay" not in one.space:
            return []
        space = {hyper: found for hyper, found in one.space.items() if hyper != "weight_decay"}
        return [
            other.name
            for other in self.field.values()
            if kinds(other) < kinds(one)
            and other.space == space
            and other.recipe.pretrain == one.recipe.pretrain
            and other.comes_under_cooling == one.comes_under_cooling
        ]

    def as_without_decay(self, own: Landscape, best: Configuration) -> Configuration:
        """Another entrant's best configuration, with the least weight decay of this one's space."""
        one = self.field[own.entrant]
        values = {**best.values, "weight_decay": one.space["weight_decay"].low}
        found = self.configured(one, len(own.points), values, cooling_of(best.recipe))
        return replace(found, refined=True)

    def chosen(self, record: Record) -> dict[str, int]:
        """Each entrant's best configuration of those that were tried again.

        It is the one with the best median over the further seeds. An entrant is missing if all its
        configurations diverged.
        """
        scale = Scale.of(record)
        found = {name: self.best_of(Landscape(name, record, scale)) for name in self.field}
        return {name: index for name, index in found.items() if index is not None}

    def edges(self, record: Record, chosen: Mapping[str, int]) -> list[Edge]:
        """The chosen values that lie at an edge of their widest space."""
        values = {one.key: one.values for one in record.configurations}
        found = [
            (name, hyper, value, self.widest(name, hyper))
            for name, index in chosen.items()
            for hyper, value in values[name, index].items()
        ]
        return [
            Edge(name, hyper, value=value, low=space.low, high=space.high)
            for name, hyper, value, space in found
            if not EDGE < quantile_of(space, value) < 1 - EDGE
        ]

    def at(self, one: Entrant, index: int, point: Mapping[str, float]) -> Configuration:
        """The configuration of an entrant at a point, which has a quantile for each setting.

        A cooling that is tuned has a quantile too; each of the `COOLINGS` has a third of [0, 1].
        """
        values = {name: value_at(space, point[name]) for name, space in one.space.items()}
        cooling = self.settings.cooling
        if cooling == "tune" and one.comes_under_cooling:
            cooling = COOLINGS[min(int(len(COOLINGS) * point["cooling"]), len(COOLINGS) - 1)]
        return self.configured(one, index, values, cooling)

    def configured(
        self, one: Entrant, index: int, values: Mapping[str, float], cooling: str
    ) -> Configuration:
        hypers = {name: known.hyper for name, known in one.recipe.tunables.items()}
        # Round-off may move a value out of the range of its setting.
        held = {
            name: min(max(value, hypers[name].low), hypers[name].high)
            for name, value in values.items()
        }
        recipe = one.configured(held)
        if one.comes_under_cooling:
            recipe = with_cooling(recipe, cooling, self.steps[recipe.pretrain])
        return Configuration(one.name, index, held, recipe.to_toml())

    def best_of(self, known: Landscape) -> int | None:
        losses: dict[int, list[float]] = {}
        for run in known.runs:
            if run.seed in self.seeds.further:
                losses.setdefault(run.configuration, []).append(as_loss(run.score, self.settings))
        if not losses:
            return next(iter(known.expected), None)
        return min(sorted(losses), key=lambda index: median(losses[index]))


@dataclass(frozen=True)
class Seeds:
    """The seeds of a race for exploring and refining, for trying again, and for the final round.

    All of them are different.
    """

    tuning: Sequence[int]
    further: Sequence[int]
    final: Sequence[int]


def seeds_from(settings: Settings) -> Seeds:
    count = settings.tuning_seeds
    further = count + settings.further_seeds
    every = random.Random(settings.seed).sample(range(2**31), further + settings.seeds)
    return Seeds(every[:count], every[count:further], every[further:])


def exploring(trials: int) -> int:
    """The number of an entrant's trials that explore."""
    return min(trials, max(EXPLORED, trials // 3))


def usual(one: Entrant) -> dict[str, float]:
    """The quantiles of the recipe's own settings, moved into the space if they lie outside."""
    known = one.recipe.tunables
    point = {"cooling": (COOLINGS.index("linear") + 0.5) / len(COOLINGS)}
    for name, space in one.space.items():
        value = known[name].value
        held = value.base if isinstance(value, Schedule) else value
        point[name] = quantile_of(space, min(max(held, space.low), space.high))
    return point


def kinds(one: Entrant) -> set[type[Rule]]:
    """The rules of an entrant that have an effect; a decay of 0 has none unless it is tuned."""
    decays = "weight_decay" in one.space or one.recipe.settings.get("weight_decay") != 0
    idle = () if decays else (L2Decay, DecoupledDecay)
    return {type(rule) for rule in one.recipe.rules if not isinstance(rule, idle)}


def as_it_stands(one: Entrant) -> Configuration:
    """The one configuration of an entrant that is not tuned."""
    return Configuration(one.name, 0, {}, one.recipe.to_toml())


def least(candidates: Array, curves: Array, count: int) -> Iterator[Array]:
    """At most `count` different candidates, each the minimum of one of the curves."""
    left = curves.copy()
    for curve in left[:count]:
        found = int(curve.argmin())
        left[:, found] = np.inf
        yield candidates[found]


def parts(total: int, count: int) -> list[int]:
    """Divides a whole number into parts that differ by one at most, the larger ones first."""
    return [total // count + (i < total % count) for i in range(count)]
