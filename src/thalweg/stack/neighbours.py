"""Members of a stack that are stepped at once, because their recipes have the same rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.choice import kernel_on
from thalweg.fuse.passes import (
    BranchPart,
    Combine,
    Kinds,
    Numbers,
    Part,
    by_branches,
    over_model,
    shared_sums,
)
from thalweg.recipe import Recipe
from thalweg.routes import Parameter, Track
from thalweg.rules.rule import with_settings
from thalweg.stack.rows import Rows, Tensors, states_of, warn_of_single_steps


class Routed(NamedTuple):
    """The names of the parameters that have the same track, and the rows that step them."""

    branch: str
    names: list[str]
    rows: Rows

    def of(self, tensors: Mapping[str, Tensor]) -> Tensors:
        return {name: tensors[name] for name in self.names}


class Neighbours:
    """Members that lie next to each other in a stack and whose recipes have the same rules.

    start: the place of the first member. parameters: the model's parameters, by name. routed: for
    each track, its parameters and rows.
    """

    def __init__(
        self, recipes: Sequence[Recipe], start: int, parameters: Mapping[str, Parameter]
    ) -> None:
        by_member = [recipe.tracks(list(parameters.values())) for recipe in recipes]
        found: dict[str, tuple[list[str], tuple[Track, ...]]] = {}
        for name, *tracks in zip(parameters, *by_member, strict=True):
            found.setdefault(tracks[0].name, ([], tuple(tracks)))[0].append(name)
        self.shared_rules = len(recipes[0].rules) if recipes[0].branches else 0
        self.routed = [
            Routed(tracks[0].branch, names, Rows([alone(track) for track in tracks], start))
            for names, tracks in found.values()
        ]

    @property
    def start(self) -> int:
        return self.routed[0].rows.start

    @property
    def places(self) -> range:
        return self.routed[0].rows.places

    @property
    def members(self) -> slice:
        return self.routed[0].rows.members

    @property
    def averages(self) -> bool:
        """Whether evaluation uses an average of the iterates."""
        return any(eager.averages(each.rows.chain) for each in self.routed)

    def step(self, params: Tensors, gradients: Tensors) -> None:
        """Steps the members in place. params, gradients: `[R, *shape]`, a row for each member."""
        first = next(iter(params.values()))
        chains = [each.rows.chain for each in self.routed]
        kernels = [kernel_on(first.device, chain, first.dtype) for chain in chains]
        if all(kernels):
            parts = [
                each.rows.step(kernel, each.of(params), each.of(gradients))
                for each, kernel in zip(self.routed, kernels, strict=True)
                if kernel
            ]
            self.run(parts, self.over_members)
            return
        for chain, kernel in zip(chains, kernels, strict=True):
            if kernel is None:
                warn_of_single_steps(chain)
        for i in range(len(self.places)):
            parts = [
                each.rows.step_one(i, each.of(params), each.of(gradients)) for each in self.routed
            ]
            self.run(parts, over_model)

    def run(self, parts: Sequence[Part], combine: Combine) -> None:
        """Runs the parts of a step, one for each track, pass by pass."""
        by_branches(
            [
                BranchPart(each.branch, part, shared_sums(each.rows.chain, self.shared_rules))
                for each, part in zip(self.routed, parts, strict=True)
            ],
            lambda _: combine,
        )

    def over_members(self, kinds: Kinds, sums: Numbers) -> Numbers:
        """The sums over the model of each member.

        sums: the sums over each tensor, with a row for each parameter of each member.
        """
        by_member = sums.reshape(-1, len(self.places), len(kinds))
        return over_model(kinds, by_member).reshape(sums.shape)

    def begin(self, params: Tensors, steps: int, states: Tensors, memory: dict[str, Any]) -> None:
        """Begins with the states and the schedules of another training, as far as they fit."""
        for each in self.routed:
            each.rows.begin(each.of(params), steps, states_of(each.names, states), memory)

    def saved(self) -> list[Any]:
        """The states and the schedules of the members, as tensors and plain data."""
        return [each.rows.saved() for each in self.routed]

    def restore(self, saved: Sequence[Any]) -> None:
        """Continues from what `saved` returned."""
        for each, own in zip(self.routed, saved, strict=True):
            each.rows.restore(own)

    def evaluated(self, params: Tensors) -> Tensors:
        """The members' rows of each parameter for evaluation."""
        found: Tensors = {}
        for each in self.routed:
            found |= each.rows.evaluated(each.of(params))
        return {name: found[name] for name in params}

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for each in self.routed:
            each.rows.observe(training, validation)


def alone(track: Track) -> Recipe:
    """A recipe without routes that has the rules and settings of a track."""
    return Recipe(with_settings(track.rules, track.settings()))


def neighbours_of(
    recipes: Sequence[Recipe], parameters: Mapping[str, Parameter]
) -> list[Neighbours]:
    """Groups the members of a stack: each group lies side by side and is stepped at once."""
    found: list[Neighbours] = []
    start = 0
    for _, alike in groupby(recipes, key=shape_of):
        found.append(Neighbours(list(alike), start, parameters))
        start = found[-1].members.stop
    return found


def shape_of(recipe: Recipe) -> tuple[Any, ...]:
    """A key for recipes that can be stepped at once: rules, options and routes are the same."""
    rules = [rule for chain in recipe.chains for rule in chain]
    shapes = [(type(rule), *(getattr(rule, name) for name in rule.options)) for rule in rules]
    return *shapes, *((one.to, one.name, *one.settings) for one in recipe.routes)
