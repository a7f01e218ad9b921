"""Members of a stack that are stepped at once, each of their parameters by the routes it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.choice import kernel_on
from thalweg.fuse.passes import (
    BranchPart,
    Kinds,
    Numbers,
    Part,
    Whole,
    by_branches,
    over_model,
    shared_sums,
)
from thalweg.recipe import Recipe
from thalweg.routes import Parameter, Track
from thalweg.rules.rule import with_settings
from thalweg.stack.rows import Rows, Tensors, of, say_that_they_go_one_by_one


class Routed(NamedTuple):
    """Parameters that take the same routes, by name, and their rows of a stack."""

    branch: str
    names: list[str]
    rows: Rows

    def of(self, tensors: Mapping[str, Tensor]) -> Tensors:
        return {name: tensors[name] for name in self.names}


class Neighbours:
    """The members of a stack in the rows `[start, stop)`, whose recipes have the same rules and
    routes.
    """

    def __init__(
        self, recipes: Sequence[Recipe], start: int, parameters: Mapping[str, Parameter]
    ) -> None:
        by_member = [recipe.tracks(list(parameters.values())) for recipe in recipes]
        found: dict[str, tuple[list[str], tuple[Track, ...]]] = {}
        for name, *tracks in zip(parameters, *by_member, strict=True):
            found.setdefault(tracks[0].name, ([], tuple(tracks)))[0].append(name)
        self.shared = len(recipes[0].rules) if recipes[0].branches else 0
        self.parts = [
            Routed(tracks[0].branch, names, Rows([alone(track) for track in tracks], start))
            for names, tracks in found.values()
        ]

    @property
    def start(self) -> int:
        return self.parts[0].rows.start

    @property
    def places(self) -> range:
        return self.parts[0].rows.places

    @property
    def members(self) -> slice:
        return self.parts[0].rows.members

    @property
    def averages(self) -> bool:
        """Whether evaluation is at an average of the iterates."""
        return any(eager.averages(each.rows.chain) for each in self.parts)

    def step(self, params: Tensors, gradients: Tensors) -> None:
        """Moves the members' rows of each parameter where they are."""
        first = next(iter(params.values()))
        chains = [each.rows.chain for each in self.parts]
        kernels = [kernel_on(first.device, chain, first.dtype) for chain in chains]
        if all(kernels):
            parts = [
                each.rows.stepping(kernel, each.of(params), each.of(gradients))
                for each, kernel in zip(self.parts, kernels, strict=True)
                if kernel
            ]
            self.together(parts, self.over_members)
            return
        for chain, kernel in zip(chains, kernels, strict=True):
            if kernel is None:
                say_that_they_go_one_by_one(chain)
        for i in range(len(self.places)):
            parts = [
                each.rows.stepping_one(i, each.of(params), each.of(gradients))
                for each in self.parts
            ]
            self.together(parts, over_model)

    def together(self, parts: Sequence[Part], whole: Whole) -> None:
        """Runs the parts side by side; their sums go over branches, or over all of them."""
        by_branches(
            [
                BranchPart(each.branch, part, shared_sums(each.rows.chain, self.shared))
                for each, part in zip(self.parts, parts, strict=True)
            ],
            lambda _: whole,
        )

    def over_members(self, kinds: Kinds, sums: Numbers) -> Numbers:
        """The sums over each member, a row for each parameter of each, from those over these."""
        by_member = sums.reshape(-1, len(self.places), len(kinds))
        return over_model(kinds, by_member).reshape(sums.shape)

    def begin(self, params: Tensors, steps: int, states: Tensors, memory: dict[str, Any]) -> None:
        """Goes on from what a training has left behind after so many steps, as far as it fits."""
        for each in self.parts:
            each.rows.begin(each.of(params), steps, of(states, each.names), memory)

    def evaluated(self, params: Tensors) -> Tensors:
        """The members' rows of each parameter as evaluation uses them."""
        found: Tensors = {}
        for each in self.parts:
            found |= each.rows.evaluated(each.of(params))
        return {name: found[name] for name in params}

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for each in self.parts:
            each.rows.observe(training, validation)


def alone(track: Track) -> Recipe:
    """A recipe of this track alone."""
    return Recipe(with_settings(track.rules, track.settings()))


def neighbours_of(
    recipes: Sequence[Recipe], parameters: Mapping[str, Parameter]
) -> list[Neighbours]:
    """Members side by side that can be stepped at once."""
    found: list[Neighbours] = []
    start = 0
    for _, those in groupby(recipes, key=shape_of):
        found.append(Neighbours(list(those), start, parameters))
        start = found[-1].members.stop
    return found


def shape_of(recipe: Recipe) -> tuple[Any, ...]:
    """What members must share to be stepped at once: rules, routes, and the shapes of states."""
    rules = [rule for chain in recipe.chains for rule in chain]
    shapes = [(type(rule), *(getattr(rule, name) for name in rule.options)) for rule in rules]
    return *shapes, *((one.to, one.name, *one.settings) for one in recipe.routes)
