"""Rows of a stack that share a chain: what is kept for them, and their step."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.choice import AnyKernel
from thalweg.fuse.matrices import check_matrices
from thalweg.fuse.passes import Part
from thalweg.optim.rows import Held, Launch, Row, stepped
from thalweg.optim.state import complete
from thalweg.recipes import Recipe
from thalweg.rules.rule import Rule

Tensors = dict[str, Tensor]


class Rows:
    """The members of a stack in the places `[start, stop)`, which run one chain with one shape.

    states: of each parameter, what is kept by name, a row of the tensor for each member.
    """

    def __init__(self, recipes: Sequence[Recipe], start: int) -> None:
        self.start = start
        self.chain = tuple(type(rule) for rule in recipes[0].rules)
        self.rows = [Row.of(recipe.settings) for recipe in recipes]
        self.states: list[Tensors] = []
        self.launch: Launch | None = None

    @property
    def places(self) -> range:
        return range(self.start, self.start + len(self.rows))

    @property
    def members(self) -> slice:
        return slice(self.start, self.start + len(self.rows))

    def stepping(self, kernel: AnyKernel, params: Tensors, gradients: Tensors) -> Part:
        """Moves its rows of each parameter, `[R, *shape]`, where they are."""
        launch = self.launch or self.laid_out(kernel, params)
        for place, row in enumerate(self.rows):
            if row.schedules:
                launch.renew(place, row.scheduled(self.chain))
        self.pointers[:, kernel.layout.column("grad")] = self.addresses(gradients)

        def held() -> Iterator[Held]:
            members = [self.held(i, params, gradients) for i in range(len(self.rows))]
            return (one for of_param in zip(*members, strict=True) for one in of_param)

        yield from launch.step(self.pointers, held)
        for row in self.rows:
            row.advance()

    def stepping_one(self, i: int, params: Tensors, gradients: Tensors) -> Part:
        """Steps a member as it is stepped alone, by its chain's arithmetic."""
        yield from stepped(self.chain, self.held(i, params, gradients))
        self.rows[i].advance()

    def begin(
        self, params: Tensors, steps: int, states: Mapping[str, Tensor], memory: dict[str, Any]
    ) -> None:
        """Goes on from what a training has left behind after so many steps, as far as it fits."""
        self.start_states(params, fitting_states(self.chain, states))
        for row in self.rows:
            row.begin(steps, memory)

    def start_states(self, params: Tensors, states: Mapping[str, Tensor]) -> None:
        """What is kept for the rows of each parameter: what there is of it, the rest at its start.

        states: by `state.parameter`.
        """
        mine = part(params, self.members)
        check_matrices(self.chain, [rows[0] for rows in mine.values()])
        values = [row.values(self.chain) for row in self.rows]
        self.states = []
        for name, rows in mine.items():
            known = {key.split(".", 1)[0]: x for key, x in of(states, [name]).items()}
            each = [{state: x.clone() for state, x in known.items()} for _ in rows]
            for saved, row, own in zip(each, rows, values, strict=True):
                complete(saved, self.chain, row, own, row.device)
            kept = names_of(self.chain)
            self.states.append({n: torch.stack([saved[n] for saved in each]) for n in kept})

    def addresses(self, gradients: Tensors) -> NDArray[np.int64]:
        """Where each of its rows of each gradient is, whose numbers lie one after the other."""
        firsts = np.array([[x.data_ptr()] for x in gradients.values()])
        strides = np.array([[x.stride(0) * x.element_size()] for x in gradients.values()])
        addresses: NDArray[np.int64] = firsts + strides * np.arange(self.start, self.members.stop)
        return addresses.ravel()

    def laid_out(self, kernel: AnyKernel, params: Tensors) -> Launch:
        """What steps the rows, which stay where they are, as does what is kept for them."""
        if not self.states:
            self.start_states(params, {})
        mine = part(params, self.members)
        held = [
            {"param": param, "grad": param, **states}
            for param, states in zip(mine.values(), self.states, strict=True)
        ]
        columns = [
            [row.data_ptr() for one in held for row in one[name]] for name in kernel.layout.columns
        ]
        self.pointers = np.array(columns, np.int64).T.copy()
        self.launch = Launch(
            kernel,
            sizes=[row.numel() for param in mine.values() for row in param],
            row_of=[*range(len(self.rows))] * len(mine),
            wide=[x.dtype == torch.float64 for one in self.states for x in one["step"]],
        )
        for place, row in enumerate(self.rows):
            self.launch.renew(place, row.values(self.chain))
        return self.launch

    def evaluated(self, params: Tensors) -> Tensors:
        """Its rows of each parameter as evaluation uses them."""
        mine = part(params, self.members)
        if not self.states or not eager.elsewhere(self.chain):
            return mine
        members = [self.held(i, params, params) for i in range(len(self.rows))]
        found = {name: param.clone() for name, param in mine.items()}
        for i, own in enumerate(members):
            for param, one in zip(found.values(), own, strict=True):
                value = one.evaluated(self.chain)
                if value is not None:
                    param[i] = value
        return found

    def held(self, i: int, params: Tensors, gradients: Tensors) -> list[Held]:
        """The parameters of a member before their coming step."""
        if not self.states:
            self.start_states(params, {})
        values, place = self.rows[i].values(self.chain), self.start + i
        return [
            Held(param[place], gradient[place], {name: x[i] for name, x in states.items()}, values)
            for param, gradient, states in zip(
                params.values(), gradients.values(), self.states, strict=True
            )
        ]

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for place, row in zip(self.places, self.rows, strict=True):
            row.observe(training=training[place], validation=validation[place])


def part(tensors: Tensors, rows: slice | int | Tensor) -> Tensors:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def names_of(chain: Sequence[type[Rule]]) -> set[str]:
    """What a chain keeps for a tensor, by name."""
    return {"step"}.union(*(rule.states for rule in chain), *(rule.row_states for rule in chain))


def of(states: Mapping[str, Tensor], names: Collection[str]) -> Tensors:
    """The states of these parameters, of all by `state.parameter`."""
    return {key: x for key, x in states.items() if key.split(".", 1)[1] in names}


@cache
def say_that_they_go_one_by_one(chain: tuple[type[Rule], ...]) -> None:
    warnings.warn(
        f"no kernel can be made of {', '.join(rule.__name__ for rule in chain)} here, so the"
        " members of a stack are stepped one after the other: kernels take float32, float64 and"
        " bfloat16, and chains that can be traced.",
        stacklevel=2,
    )


def fitting_states(
    chain: Sequence[type[Rule]], states: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The states that another training has left, where the rule that steps finds its own there.

    Without them it is as young as its states, and so is all that stands with it in a chain.
    """
    (stepping,) = (rule for rule in chain if "lr" in rule.hypers)
    return states if {key.split(".")[0] for key in states} >= set(stepping.states) else {}
