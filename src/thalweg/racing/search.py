"""The search for each entrant's best recipe: explore, refine, try again, choose.

Each entrant begins with the same number of points: its own settings, then quasi-random ones, spread
over tuning seeds that all share. A Gaussian process learns from an entrant's scores, and further
points are where curves drawn from it are the least (Thompson 1933), for all entrants at once, so
that they fill blocks. An entrant that is unlikely to come close to the best that was found gets no
further points, and the others get what they would have cost. At the end the best few of each are
tried again on further seeds, and the median chooses.

Where tuning is added, the points that explored stay the only ones, and the search goes on from all
that is on record: it refines further, looks again at entrants that got no further points, tries
again the best by now, and chooses among all that were tried again.

What is asked depends on the settings of the race and on what is on record, and on nothing else.
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
"""Points of each entrant that explore: a third of its trials, where that is more."""

REFINEMENTS = 4
"""The fewest stages in which further points are asked for."""

TOGETHER = 64
"""The most points, of all entrants, that one of these stages asks for."""

CURVES = 256
"""Curves that are drawn from a model: a chance is a share of them."""

MOST_TRIALS = 1_000
"""Configurations of an entrant that a search of minutes can ask for."""

AGAIN = 3
"""Configurations of each entrant that are tried again."""

HOPE = 0.05
"""An entrant stops where its chance to come close to the best that was found is below this."""

ALL_REFINED = 2
"""All entrants are refined in so many stages before one may stop: a model of fewer points is too
sure of itself.
"""

FEWEST = EXPLORED + ALL_REFINED
"""An entrant that has tried fewer points does not stop: where tuning is added to a small race, all
have few at first.
"""

EDGE = 0.05
"""The share of a search space, in quantiles, that counts as its edge, at either end."""

WIDER, WIDEST = 0.25, 0.5
"""How far beyond a best point at an edge points are asked for, and how far beyond the edge, in
widths of the space.
"""


@dataclass
class Asked:
    """What is to be trained next: members, some with new configurations; and who gets no more."""

    configurations: list[Configuration] = field(default_factory=list)
    members: list[Key] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)


class Search:
    """The search of one race.

    entrants: those that race; of these, the `field` is tuned. steps: that a cooling takes, by the
    pre-training.
    """

    def __init__(
        self, entrants: Sequence[Entrant], settings: Settings, steps: Mapping[str | None, int]
    ) -> None:
        self.field = {one.name: one for one in entrants if one.space}
        self.settings, self.steps, self.seeds = settings, steps, seeds_from(settings)

    @property
    def explored(self) -> int:
        """Points of an entrant that explore, which the race began with."""
        trials, *_ = *self.settings.earlier, self.settings.trials
        return exploring(trials)

    @property
    def again(self) -> int:
        """Configurations of an entrant that are tried again; one alone has nothing to decide."""
        return min(AGAIN, self.settings.trials) if self.settings.trials > 1 else 0

    @cached_property
    def sizes(self) -> list[int]:
        """The members of each stage, at most: to explore, to refine, to try again. Where tuning was
        added, only the new ones, of which none explore.
        """
        count, earlier = len(self.field), self.settings.earlier
        refined = count * (self.settings.trials - (earlier[-1] if earlier else self.explored))
        times = min(refined, max(REFINEMENTS, math.ceil(refined / TOGETHER)))
        tried_again = count * self.again * len(self.seeds.further)
        explored = [] if earlier else [count * self.explored]
        return [*explored, *parts(refined, times), tried_again]

    def asked(self, stage: int, record: Record) -> Asked:
        """What a stage, from 0, asks for, all before it being on record."""
        if stage == len(self.sizes) - 1:
            return self.try_again(record)
        if stage == 0 and not self.settings.earlier:
            return Asked(members=self.explore())
        return self.refine(stage, record)

    @cached_property
    def first_points(self) -> list[Configuration]:
        """The settings that each entrant comes with, then quasi-random points, the same for all."""
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
        """Further points, as many for each entrant that may still come close to the best."""
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
        # Who has fewer gets one more, where the points do not come out even.
        going_on.sort(key=lambda found: len(found[0].points))
        counts = parts(self.sizes[stage], len(going_on)) if going_on else []
        for (one, candidates, curves), count in zip(going_on, counts, strict=True):
            for point in least(candidates, curves, count):
                self.add(asked, one, point)
        return asked

    def may_stop(self, stage: int, known: Landscape) -> bool:
        """Whether a model has seen points and seeds enough to be believed."""
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
        """The ends of the space in which points are asked for, in quantiles; it is wider where the
        best point lies at an edge.
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
        """A documented space and half its width beyond each end, as far as the setting may go; one
        that a person gave as it is.
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
        """The seed on which a point is tried first: in turn, the same for all entrants."""
        return self.seeds.tuning[index % len(self.seeds.tuning)]

    def try_again(self, record: Record) -> Asked:
        """The best few of each entrant, on further seeds."""
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
        """The entrants that this one is with weight decay, so that it can do what they do."""
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
        """The other's best configuration, with the least weight decay of the entrant's space."""
        one = self.field[own.entrant]
        values = {**best.values, "weight_decay": one.space["weight_decay"].low}
        found = self.configured(one, len(own.points), values, cooling_of(best.recipe))
        return replace(found, refined=True)

    def chosen(self, record: Record) -> dict[str, int]:
        """Each entrant's best configuration: of those that were tried again, the one with the best
        median over the further seeds. An entrant of which none ended well is not among them.
        """
        scale = Scale.of(record)
        found = {name: self.best_of(Landscape(name, record, scale)) for name in self.field}
        return {name: index for name, index in found.items() if index is not None}

    def edges(self, record: Record, chosen: Mapping[str, int]) -> list[Edge]:
        """The chosen values that lie at the edge of where they may be looked for, at either end."""
        values = {one.key: one.values for one in record.configurations}
        found = [
            (name, hyper, value, self.widest(name, hyper))
            for name, index in chosen.items()
            for hyper, value in values[name, index].items()
        ]
        return [
            Edge(name, hyper, value, space.low, space.high)
            for name, hyper, value, space in found
            if not EDGE < quantile_of(space, value) < 1 - EDGE
        ]

    def at(self, one: Entrant, index: int, point: Mapping[str, float]) -> Configuration:
        """An entrant at a point: a quantile of its space for each setting.

        A cooling that is tuned is drawn too, as a third of the unit interval each for `COOLINGS`.
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
        # Round-off may leave what a setting may be.
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
    """The seeds of a race, all different: to explore and refine on, to try again on, and those of
    the final round.
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
    """How many of an entrant's trials explore."""
    return min(trials, max(EXPLORED, trials // 3))


def usual(one: Entrant) -> dict[str, float]:
    """Where the settings lie that the recipe comes with, the nearest of its space."""
    known = one.recipe.tunables
    point = {"cooling": (COOLINGS.index("linear") + 0.5) / len(COOLINGS)}
    for name, space in one.space.items():
        value = known[name].value
        held = value.base if isinstance(value, Schedule) else value
        point[name] = quantile_of(space, min(max(held, space.low), space.high))
    return point


def kinds(one: Entrant) -> set[type[Rule]]:
    """The rules of an entrant that do something: a decay of 0 does nothing unless it is tuned."""
    decays = "weight_decay" in one.space or one.recipe.settings.get("weight_decay") != 0
    idle = () if decays else (L2Decay, DecoupledDecay)
    return {type(rule) for rule in one.recipe.rules if not isinstance(rule, idle)}


def as_it_stands(one: Entrant) -> Configuration:
    """The one configuration of an entrant that is not tuned."""
    return Configuration(one.name, 0, {}, one.recipe.to_toml())


def least(candidates: Array, curves: Array, count: int) -> Iterator[Array]:
    """So many different candidates, each where one of the curves is the least."""
    left = curves.copy()
    for curve in left[:count]:
        found = int(curve.argmin())
        left[:, found] = np.inf
        yield candidates[found]


def parts(total: int, count: int) -> list[int]:
    """A whole number in so many parts that differ by one at most, the larger ones first."""
    return [total // count + (i < total % count) for i in range(count)]
