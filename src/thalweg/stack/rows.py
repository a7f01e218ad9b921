"""Rows of a stack that share a chain: their hyperparameters as columns, their state, their step."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.choice import AnyKernel, AnyTable
from thalweg.fuse.eager import Cell
from thalweg.fuse.matrices import check_matrices
from thalweg.fuse.passes import Part, eagerly
from thalweg.fuse.staged_kernel import StagedTable
from thalweg.optim.settings import at, base, holds_schedule, memory, observed
from thalweg.optim.state import starting, working
from thalweg.recipes import Recipe
from thalweg.rules.rule import Rule

Tensors = dict[str, Tensor]


class Rows:
    """The members of a stack in the rows `[start, stop)`, which run one chain with one shape.

    `t` is one number, because members of a stack start together. born: after which step their
    states began. states: of each parameter, `[R, *shape]` each, or `[R]` for numbers of the row.
    """

    def __init__(self, recipes: Sequence[Recipe], start: int) -> None:
        self.start = start
        self.born = 0
        self.chain = tuple(type(rule) for rule in recipes[0].rules)
        self.options = {name: recipes[0].settings[name] for r in self.chain for name in r.options}
        self.settings = [recipe.settings for recipe in recipes]
        self.memories = [{n: memory(value) for n, value in s.items()} for s in self.settings]
        self.columns: dict[str, NDArray[np.float64]] = {}
        self.states: list[Tensors] = []
        self.table: AnyTable | None = None

    @property
    def places(self) -> range:
        return range(self.start, self.start + len(self.settings))

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.settings))

    def stepping(self, kernel: AnyKernel, params: Tensors, gradients: Tensors, step: int) -> Part:
        """Moves its rows of each parameter, `[R, *shape]`, where they are; steps count from 0."""
        table = self.table or self.laid_out(kernel, params, step)
        self.pointers[:, kernel.layout.column("grad")] = self.addresses(gradients)
        given = self.pointers, self.numbers(kernel, step)
        if isinstance(table, StagedTable):
            mine, theirs = part(params, self.rows), part(gradients, self.rows)
            age = step - self.born + 1
            members = [self.cells(i, mine, theirs, step, age) for i in range(len(self.settings))]
            cells = [cell for of_param in zip(*members, strict=True) for cell in of_param]
            yield from table.step(*given, cells)
        else:
            yield from table.step(*given)

    def stepping_one(self, i: int, params: Tensors, gradients: Tensors, step: int) -> Part:
        """Steps a member as it is stepped alone, by its chain's arithmetic."""
        mine, grads = part(params, self.rows), part(gradients, self.rows)
        cells = self.cells(i, mine, grads, step, age=step - self.born + 1)
        yield from eagerly(self.chain, cells)
        for param, states, cell in zip(mine.values(), self.states, cells, strict=True):
            param[i] = cell.param
            for name, state in states.items():
                state[i] = cell.states[name]

    def begin(self, params: Tensors, steps: int, states: Tensors, memory: dict[str, Any]) -> None:
        """Goes on from what a training has left behind after so many steps, as far as it fits."""
        states = fitting_states(self.chain, states)
        self.born = 0 if states else steps
        self.start_states(part(params, self.rows), steps)
        for name, own in zip(params, self.states, strict=True):
            for state, rows in own.items():
                if f"{state}.{name}" in states:
                    rows[:] = states[f"{state}.{name}"].to(rows).view(rows.shape[1:])
        self.memories = [{n: memory.get(n, own) for n, own in m.items()} for m in self.memories]

    def start_states(self, params: Tensors, step: int) -> None:
        """States before their first step, for the rows of each parameter."""
        check_matrices(self.chain, [rows[0] for rows in params.values()])
        values = [self.values(i, step) for i in range(len(self.settings))]
        self.states = [{} for _ in params]
        for rows, states in zip(params.values(), self.states, strict=True):
            for rule in self.chain:
                for name, state in rule.states.items():
                    each = zip(rows, values, strict=True)
                    states[name] = torch.stack([starting(x, state, own) for x, own in each])
                for name, row_state in rule.row_states.items():
                    numbers = [row_state.init] * len(rows)
                    states[name] = torch.tensor(numbers, dtype=torch.float64, device=rows.device)

    def addresses(self, gradients: Tensors) -> NDArray[np.int64]:
        """Where each of its rows of each gradient is, whose numbers lie one after the other."""
        firsts = np.array([[x.data_ptr()] for x in gradients.values()])
        strides = np.array([[x.stride(0) * x.element_size()] for x in gradients.values()])
        addresses: NDArray[np.int64] = firsts + strides * np.arange(self.start, self.rows.stop)
        return addresses.ravel()

    def numbers(self, kernel: AnyKernel, step: int) -> NDArray[np.float64]:
        """The hyperparameters of its rows at a step, `[k, h]`."""
        columns: dict[str, Any] = {**self.options}
        for name, column in self.hypers(step).items():
            parts = {f"{name}[{i}]": part for i, part in enumerate(column.T)}
            columns |= {name: column} if column.ndim == 1 else parts
        numbers = np.empty((len(self.settings), len(kernel.layout.hypers)))
        for i, label in enumerate(kernel.layout.hypers):
            numbers[:, i] = columns[label]
        return numbers

    def laid_out(self, kernel: AnyKernel, params: Tensors, step: int) -> AnyTable:
        """The table of the rows, which stay where they are, as do their states from now on."""
        mine = part(params, self.rows)
        if not self.states:
            self.start_states(mine, step)
        count, height = len(mine), len(self.settings)
        device = next(iter(mine.values())).device
        self.ages = torch.full((count, height), float(step - self.born), device=device)
        held = [
            {"param": param, "grad": param, "step": ages, **states}
            for param, ages, states in zip(mine.values(), self.ages, self.states, strict=True)
        ]
        labels = kernel.layout.columns
        columns = [[row.data_ptr() for one in held for row in one[name]] for name in labels]
        self.pointers = np.array(columns, np.int64).T.copy()
        each = [*range(height)] * count
        sizes = [param[0].numel() for param in mine.values() for _ in range(height)]
        self.table = kernel.table(sizes, each, [False] * len(each))
        return self.table

    def evaluated(self, params: Tensors, step: int) -> Tensors:
        """Its rows of each parameter as evaluation uses them, after `step` steps."""
        mine = part(params, self.rows)
        if step == self.born or not eager.elsewhere(self.chain):
            return mine
        members = [
            self.cells(i, mine, mine, step, age=step - self.born) for i in range(len(self.settings))
        ]
        return {
            name: torch.stack([eager.evaluated(self.chain, cell) for cell in cells])
            for name, cells in zip(mine, zip(*members, strict=True), strict=True)
        }

    def cells(self, i: int, params: Tensors, gradients: Tensors, step: int, age: int) -> list[Cell]:
        """The parameters of a member on their way through a step."""
        if not self.states:
            self.start_states(params, step)
        values = self.values(i, step) | {"t": age}
        numbers = {name for rule in self.chain for name in rule.row_states}
        return [
            Cell(
                working(param[i]),
                working(gradient[i]),
                values | {"dtype": param.dtype},
                {n: float(x[i]) if n in numbers else x[i] for n, x in states.items()},
            )
            for param, gradient, states in zip(
                params.values(), gradients.values(), self.states, strict=True
            )
        ]

    def values(self, i: int, step: int) -> dict[str, Any]:
        """The hyperparameters and options of a member at a step."""
        found = {name: column[i].tolist() for name, column in self.hypers(step).items()}
        pairs = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
        return self.options | found | pairs

    def hypers(self, step: int) -> dict[str, NDArray[np.float64]]:
        """The hyperparameters of its rows at a step, `[R]` or, for pairs, `[R, 2]`."""
        found: dict[str, NDArray[np.float64]] = {}
        for rule in self.chain:
            found |= {name: self.column(name, step) for name in rule.hypers}
            for name, following in rule.coming.items():
                found[name] = self.column(following.hyper, step + 1)
        return found

    def column(self, name: str, step: int) -> NDArray[np.float64]:
        """A hyperparameter of every row at a step."""
        if name in self.columns:
            return self.columns[name]
        settings = [setting[name] for setting in self.settings]
        kept = [memories[name] for memories in self.memories]
        values = [
            at(base(setting), setting if holds_schedule(setting) else None, step, remembered)
            for setting, remembered in zip(settings, kept, strict=True)
        ]
        made = np.array(values, np.float64)
        if not any(holds_schedule(setting) for setting in settings):
            self.columns[name] = made
        return made

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for i, settings in enumerate(self.settings):
            for name, value in settings.items():
                self.memories[i][name] = observed(
                    value,
                    self.memories[i][name],
                    training=training[self.start + i],
                    validation=validation[self.start + i],
                )

    def keep(self, within: Sequence[int], start: int) -> None:
        """Drops all rows but these, counted from the first; they begin at `start` from now on."""
        self.start = start
        self.settings = [self.settings[i] for i in within]
        self.memories = [self.memories[i] for i in within]
        self.columns = {}
        self.table = None
        self.states = [{name: x[within] for name, x in own.items()} for own in self.states]


def part(tensors: Tensors, rows: slice | int | Tensor) -> Tensors:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def of(states: Tensors, names: Collection[str]) -> Tensors:
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


def fitting_states(chain: Sequence[type[Rule]], states: Tensors) -> Tensors:
    """The states that another training has left, where the rule that steps finds its own there.

    Without them it is as young as its states, and so is all that stands with it in a chain.
    """
    (stepping,) = (rule for rule in chain if "lr" in rule.hypers)
    return states if {key.split(".")[0] for key in states} >= set(stepping.states) else {}
