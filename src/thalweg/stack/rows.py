"""Rows of a stack that share a chain: their hyperparameters as columns, their state, their step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.fuse.kernel import Kernel, Table, kernel_of, labelled
from thalweg.optim.settings import at, base, holds_schedule, memory, observed
from thalweg.optim.state import starting, working
from thalweg.recipes import Recipe
from thalweg.rules.row import Row
from thalweg.rules.rule import Rule

Tensors = dict[str, Tensor]


class Rows:
    """The members of a stack in the rows `[start, stop)`, which run one chain with one shape.

    `t` is one number, because members of a stack start together. born: after which step their
    states began.
    """

    def __init__(self, recipes: Sequence[Recipe], start: int) -> None:
        self.start = start
        self.born = 0
        self.chain = tuple(type(rule) for rule in recipes[0].rules)
        self.options = {name: recipes[0].settings[name] for r in self.chain for name in r.options}
        self.settings = [recipe.settings for recipe in recipes]
        self.memories = [{n: memory(value) for n, value in s.items()} for s in self.settings]
        self.columns: dict[str, Any] = {}
        self.states: list[dict[str, Any]] = []
        self.table: Table | None = None

    @property
    def places(self) -> range:
        return range(self.start, self.start + len(self.settings))

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.settings))

    def step(self, params: Tensors, gradients: Tensors, step: int) -> None:
        """Moves its rows of each parameter, `[R, *shape]`, where they are; steps count from 0."""
        first = next(iter(params.values()))
        kernel = kernel_of(self.chain, first.dtype, False) if first.device.type == "cpu" else None
        if kernel:
            table = self.table or self.laid_out(kernel, params, step)
            grad = kernel.layout.column("grad")
            self.pointers[:, grad] = self.addresses(gradients)
            table.step(self.pointers, self.numbers(kernel, step))
            return
        mine = part(params, self.rows)
        cells = self.cells(mine, part(gradients, self.rows), step)
        for cell in cells:
            cell.values |= {"t": step - self.born + 1, "dtype": cell.param.dtype}
            cell.param, cell.grad = working(cell.param), working(cell.grad)
        eager.step(self.chain, cells, row_norms)
        for param, cell in zip(mine.values(), cells, strict=True):
            flat(param).copy_(cell.param)
        self.states = [cell.states for cell in cells]

    def begin(self, params: Tensors, steps: int, states: Tensors, memory: dict[str, Any]) -> None:
        """Goes on from what a training has left behind after so many steps, as far as it fits."""
        states = fitting_states(self.chain, states)
        self.born = 0 if states else steps
        values = self.values(steps)
        self.states = [
            {
                state: spread(states.get(f"{state}.{name}"), fresh)
                for state, fresh in self.starting(flat(param), values).items()
            }
            for name, param in part(params, self.rows).items()
        ]
        self.memories = [{n: memory.get(n, own) for n, own in m.items()} for m in self.memories]

    def addresses(self, gradients: Tensors) -> NDArray[np.int64]:
        """Where each of its rows of each gradient is, whose numbers lie one after the other."""
        firsts = np.array([[x.data_ptr()] for x in gradients.values()])
        strides = np.array([[x.stride(0) * x.element_size()] for x in gradients.values()])
        addresses: NDArray[np.int64] = firsts + strides * np.arange(self.start, self.rows.stop)
        return addresses.ravel()

    def numbers(self, kernel: Kernel, step: int) -> NDArray[np.float64]:
        """The hyperparameters of its rows at a step, `[k, h]`."""
        values = labelled(self.values(step))
        numbers = np.empty((len(self.settings), len(kernel.layout.hypers)))
        for i, label in enumerate(kernel.layout.hypers):
            value = values[label]
            numbers[:, i] = value.column[:, 0].numpy() if isinstance(value, Row) else value
        return numbers

    def laid_out(self, kernel: Kernel, params: Tensors, step: int) -> Table:
        """The table of the rows, which stay where they are, as do their states from now on."""
        mine = part(params, self.rows)
        cells = self.cells(mine, mine, step)
        names = [name for rule in self.chain for name in rule.row_states]
        count, height = len(cells), len(self.settings)
        numbers = torch.empty(count, height, len(names), dtype=torch.float64)
        for own, cell in zip(numbers, cells, strict=True):
            for i, name in enumerate(names):
                own[:, i : i + 1] = cell.states[name].column
                cell.states[name] = Row(own[:, i : i + 1])
        self.states = [cell.states for cell in cells]
        self.ages = torch.full((count, height), float(step - self.born))
        held = [
            {"param": cell.param, "grad": cell.param, "step": ages, **cell.states}
            for cell, ages in zip(cells, self.ages, strict=True)
        ]
        labels = kernel.layout.columns
        columns = [[place for one in held for place in row_addresses(one[name])] for name in labels]
        self.pointers = np.array(columns, np.int64).T.copy()
        each = [*range(height)] * count
        sizes = [cell.param[0].numel() for cell in cells for _ in range(height)]
        self.table = kernel.table(sizes, each, each, [False] * len(each))
        return self.table

    def evaluated(self, params: Tensors, step: int) -> Tensors:
        """Its rows of each parameter as evaluation uses them, after `step` steps."""
        mine = part(params, self.rows)
        if step == self.born:
            return mine
        cells = self.cells(mine, mine, step)
        return {
            name: eager.evaluated(self.chain, cell).view_as(param)
            for (name, param), cell in zip(mine.items(), cells, strict=True)
        }

    def cells(self, params: Tensors, gradients: Tensors, step: int) -> list[Cell]:
        """Each parameter, the rows of it as a matrix, on its way through a step."""
        values = self.values(step)
        rows = [flat(param) for param in params.values()]
        states = self.states or [self.starting(each, values) for each in rows]
        return [
            Cell(each, flat(gradient), dict(values), own)
            for each, gradient, own in zip(rows, gradients.values(), states, strict=True)
        ]

    def values(self, step: int) -> dict[str, Any]:
        values = {"t": step - self.born, **self.options}
        for rule in self.chain:
            for name in rule.hypers:
                values[name] = self.column(name, step)
            for name, following in rule.coming.items():
                values[name] = self.column(following.hyper, step + 1)
        return values

    def column(self, name: str, step: int) -> Any:
        """A hyperparameter of every row at a step; for a pair, two."""
        if name in self.columns:
            return self.columns[name]
        settings = [setting[name] for setting in self.settings]
        kept = [memories[name] for memories in self.memories]
        values = [
            at(base(setting), setting if holds_schedule(setting) else None, step, remembered)
            for setting, remembered in zip(settings, kept, strict=True)
        ]
        made = in_columns(values)
        if not any(holds_schedule(setting) for setting in settings):
            self.columns[name] = made
        return made

    def starting(self, rows: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for rule in self.chain:
            states |= {name: starting(rows, state, values) for name, state in rule.states.items()}
            for name, row_state in rule.row_states.items():
                states[name] = Row.of([row_state.init] * len(rows))
        return states

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
        self.states = [{n: kept(x, within) for n, x in own.items()} for own in self.states]


def row_addresses(state: Tensor | Row) -> list[int]:
    """Where each row of a parameter or of a state lies."""
    column = state.column if isinstance(state, Row) else state
    return [row.data_ptr() for row in column]


def part(tensors: Tensors, rows: slice | int | Tensor) -> Tensors:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def kept(state: Any, within: Sequence[int]) -> Any:
    """A state of these rows alone."""
    return Row(state.column[within]) if isinstance(state, Row) else state[..., within, :]


def fitting_states(chain: Sequence[type[Rule]], states: Tensors) -> Tensors:
    """The states that another training has left, where the rule that steps finds its own there.

    Without them it is as young as its states, and so is all that stands with it in a chain.
    """
    (stepping,) = (rule for rule in chain if "lr" in rule.hypers)
    return states if {key.split(".")[0] for key in states} >= set(stepping.states) else {}


def spread(kept: Tensor | None, fresh: Any) -> Any:
    """The state of one training for every row of a stack; the fresh one where it has none."""
    if kept is None:
        return fresh
    if isinstance(fresh, Row):
        return Row(torch.full_like(fresh.column, float(kept)))
    copies, (rows, numbers) = fresh.shape[:-2], fresh.shape[-2:]
    return kept.to(fresh).view(*copies, 1, numbers).expand(*copies, rows, numbers).clone()


def flat(rows: Float[Tensor, "k ..."]) -> Float[Tensor, "k n"]:
    """One parameter's numbers in a row for each member."""
    return rows.reshape(len(rows), -1)


def row_norms(tensors: list[Tensor]) -> list[Tensor]:
    """The norm of each member over all its parameters, summed in float64; once for each of them."""
    norms = [torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float64) for x in tensors]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return [norm.to(tensor) for tensor in tensors]


def in_columns(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(in_columns(list(parts)) for parts in zip(*values, strict=True))
    return Row.of(values)
