"""Rows of a stack that share a chain: their states and their step."""

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
from thalweg.optim.rows import Held, Launch, Row, advance, stepped
from thalweg.optim.state import complete
from thalweg.recipes import Recipe
from thalweg.rules.rule import Rule

Tensors = dict[str, Tensor]


class Rows:
    """Members at the places `[start, stop)` of a stack, whose recipes have the same chain.

    rows: a row for each member. states: for each parameter, its states by name; each tensor has a
    row for each member.
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

    def step(self, kernel: AnyKernel, params: Tensors, gradients: Tensors) -> Part:
        """A part that steps the members in place with a kernel.

        params, gradients: `[R, *shape]`, with the rows of the whole stack.
        """
        launch = self.launch or self.new_launch(kernel, params)
        for place, row in enumerate(self.rows):
            if row.schedules:
                launch.renew(place, row.scheduled(self.chain))
        self.pointers[:, kernel.layout.column("grad")] = self.addresses(gradients)

        def held() -> Iterator[Held]:
            members = [self.held(i, params, gradients) for i in range(len(self.rows))]
            return (one for of_param in zip(*members, strict=True) for one in of_param)

        yield from launch.step(self.pointers, held)
        advance(row.group for row in self.rows)

    def step_one(self, i: int, params: Tensors, gradients: Tensors) -> Part:
        """A part that steps one member eagerly, as a drop-in optimizer does."""
        yield from stepped(self.chain, self.held(i, params, gradients))
        advance([self.rows[i].group])

    def begin(
        self, params: Tensors, steps: int, states: Mapping[str, Tensor], memory: dict[str, Any]
    ) -> None:
        """Begins with the states and the schedules of another training, as far as they fit.

        steps: the number of steps of that training. memory: what its schedules remember.
        """
        self.start_states(params, fitting_states(self.chain, states))
        for row in self.rows:
            row.begin(steps, memory)

    def saved(self) -> dict[str, Any]:
        """The states and the schedules of the members, as tensors and plain data."""
        groups = [dict(row.group) for row in self.rows]
        return {"states": [copies(states) for states in self.states], "groups": groups}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continues from what `saved` returned."""
        # New tensors are aligned in memory. Those that a file was read into may not be.
        self.states, self.launch = [copies(states) for states in saved["states"]], None
        for row, group in zip(self.rows, saved["groups"], strict=True):
            row.group.update(group)

    def start_states(self, params: Tensors, states: Mapping[str, Tensor]) -> None:
        """Creates the states of all parameters; given states are copied to every member.

        states: tensors by the key `state.parameter`.
        """
        mine = rows_of(params, self.members)
        check_matrices(self.chain, [rows[0] for rows in mine.values()])
        values = [row.values(self.chain) for row in self.rows]
        self.states = []
        for name, rows in mine.items():
            known = {key.split(".", 1)[0]: x for key, x in states_of([name], states).items()}
            each = [{state: x.clone() for state, x in known.items()} for _ in rows]
            for saved, row, own in zip(each, rows, values, strict=True):
                complete(saved, chain=self.chain, param=row, values=own, device=row.device)
            kept = names_of(self.chain)
            self.states.append({n: torch.stack([saved[n] for saved in each]) for n in kept})

    def addresses(self, gradients: Tensors) -> NDArray[np.int64]:
        """The address of each member's row of each gradient; the rows are contiguous."""
        firsts = np.array([[x.data_ptr()] for x in gradients.values()])
        strides = np.array([[x.stride(0) * x.element_size()] for x in gradients.values()])
        addresses: NDArray[np.int64] = firsts + strides * np.arange(self.start, self.members.stop)
        return addresses.ravel()

    def new_launch(self, kernel: AnyKernel, params: Tensors) -> Launch:
        """The launch for these members, and the addresses of their parameters and states.

        The addresses are read once, because these tensors stay in place.
        """
        if not self.states:
            self.start_states(params, {})
        mine = rows_of(params, self.members)
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
        """The members' rows of each parameter for evaluation."""
        mine = rows_of(params, self.members)
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
        """The parameters of a member before their next step."""
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


def copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: x.detach().clone() for name, x in tensors.items()}


def rows_of(tensors: Tensors, rows: slice | int | Tensor) -> Tensors:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def names_of(chain: Sequence[type[Rule]]) -> set[str]:
    """The names of the states that a chain keeps for a tensor."""
    return {"step"}.union(*(rule.states for rule in chain), *(rule.row_states for rule in chain))


def states_of(names: Collection[str], states: Mapping[str, Tensor]) -> Tensors:
    """The states of the parameters with these names. states: by the key `state.parameter`."""
    return {key: x for key, x in states.items() if key.split(".", 1)[1] in names}


@cache
def warn_of_single_steps(chain: tuple[type[Rule], ...]) -> None:
    """Warns, once for a chain, that it has no kernel for a stack."""
    warnings.warn(
        f"no kernel can be made of {', '.join(rule.__name__ for rule in chain)} here, so the"
        " members of a stack are stepped one after the other. A kernel needs parameters of float32,"
        " float64 or bfloat16, and a chain that can be traced.",
        stacklevel=2,
    )


def fitting_states(
    chain: Sequence[type[Rule]], states: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The states of another training, if they have all states of the rule that takes the step.

    Otherwise none of them: this rule then begins fresh, and the rules beside it must do so too.
    """
    (stepping,) = (rule for rule in chain if "lr" in rule.hypers)
    return states if {key.split(".")[0] for key in states} >= set(stepping.states) else {}
