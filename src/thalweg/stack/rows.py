"""Rows of a stack that share a chain: their hyperparameters as columns, their state, their step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.fuse.kernel import Kernel, Table, kernel_of, labelled
from thalweg.optim.base import starting
from thalweg.optim.settings import at, base, holds_schedule, memory, observed
from thalweg.recipes import Recipe
from thalweg.rules.row import Row

Tensors = dict[str, Tensor]


class Rows:
    """The members of a stack in the rows `[start, stop)`, which run one chain with one shape.

    `t` is one number, because members of a stack start together.
    """

    def __init__(self, recipes: Sequence[Recipe], start: int) -> None:
        self.start = start
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
        """Moves the rows of each parameter, `[k, *shape]`, where they are; steps count from 0."""
        first = next(iter(params.values()))
        kernel = kernel_of(self.chain, first.dtype) if first.device.type == "cpu" else None
        if kernel:
            self.step_fused(kernel, params, gradients, step)
            return
        cells = self.cells(params, gradients, step)
        for cell in cells:
            cell.values["t"] += 1
        eager.step(self.chain, cells, row_norms)
        for param, cell in zip(params.values(), cells, strict=True):
            flat(param).copy_(cell.param)
        self.states = [cell.states for cell in cells]

    def step_fused(self, kernel: Kernel, params: Tensors, gradients: Tensors, step: int) -> None:
        table = self.table or self.laid_out(kernel, params, step)
        values = labelled(self.values(step))
        hypers = np.empty((len(self.settings), len(kernel.layout.hypers)))
        for i, label in enumerate(kernel.layout.hypers):
            value = values[label]
            hypers[:, i] = value.column[:, 0].numpy() if isinstance(value, Row) else value
        table.step(addresses(gradients.values()), hypers)

    def laid_out(self, kernel: Kernel, params: Tensors, step: int) -> Table:
        """The table of the rows, which stay where they are, as do their states from now on."""
        cells = self.cells(params, params, step)
        names = [name for rule in self.chain for name in rule.row_states]
        count, height = len(cells), len(self.settings)
        numbers = torch.empty(count, height, len(names), dtype=torch.float64)
        for own, cell in zip(numbers, cells, strict=True):
            for i, name in enumerate(names):
                own[:, i : i + 1] = cell.states[name].column
                cell.states[name] = Row(own[:, i : i + 1])
        self.states = [cell.states for cell in cells]
        labels = [label for label in kernel.layout.tensors if label != "grad"]
        held = [cell.states | {"param": cell.param} for cell in cells]
        columns = [row for one in held for row in zip(*(one[name] for name in labels), strict=True)]
        each = [*range(height)] * count
        ages = torch.full((len(each),), float(step))
        self.table = kernel.table(columns, each, each, ages, numbers.view(len(each), -1))
        return self.table

    def evaluated(self, params: Tensors, step: int) -> Tensors:
        """The rows that evaluation uses, after `step` steps."""
        if not step:
            return params
        cells = self.cells(params, params, step)
        return {
            name: eager.evaluated(self.chain, cell).view_as(param)
            for (name, param), cell in zip(params.items(), cells, strict=True)
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
        values = {"t": step, **self.options}
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


def kept(state: Any, within: Sequence[int]) -> Any:
    """A state of these rows alone."""
    return Row(state.column[within]) if isinstance(state, Row) else state[..., within, :]


def flat(rows: Float[Tensor, "k ..."]) -> Float[Tensor, "k n"]:
    """One parameter's numbers in a row for each member."""
    return rows.reshape(len(rows), -1)


def addresses(tensors: Iterable[Tensor]) -> NDArray[np.int64]:
    """Where each row of each tensor is; its numbers lie one after the other."""
    each = [x.data_ptr() + x.stride(0) * x.element_size() * np.arange(len(x)) for x in tensors]
    return np.concatenate(each)


def row_norms(tensors: list[Tensor]) -> list[Tensor]:
    """The norm of each member over all its parameters, once for each of them."""
    each = [torch.linalg.vector_norm(tensor, dim=1, keepdim=True) for tensor in tensors]
    norm = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return [norm] * len(tensors)


def in_columns(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(in_columns(list(parts)) for parts in zip(*values, strict=True))
    return Row.of(values)
