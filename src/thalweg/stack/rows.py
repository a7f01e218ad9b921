"""Rows of a stack that share a chain: their hyperparameters as columns, their state, their step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.fuse.kernel import Kernel, Table, kernel_of, labelled
from thalweg.optim.base import starting
from thalweg.optim.settings import at, base, holds_schedule, memory, observed
from thalweg.recipes import Recipe
from thalweg.rules.row import Row


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
        self.states: dict[str, Any] = {}
        self.table: Table | None = None

    @property
    def places(self) -> range:
        return range(self.start, self.start + len(self.settings))

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.settings))

    def step(
        self, rows: Float[Tensor, "k P"], gradients: Float[Tensor, "k P"], step: int
    ) -> Tensor:
        """The rows after a step, counted from 0; `rows` stay as they are."""
        kernel = kernel_of(self.chain, rows.dtype) if rows.device.type == "cpu" else None
        if kernel:
            return self.step_fused(kernel, rows, gradients, step)
        cell = self.cell(rows, gradients, step)
        cell.values["t"] += 1
        eager.step(self.chain, [cell], row_norms)
        self.states = cell.states
        return cell.param

    def step_fused(self, kernel: Kernel, rows: Tensor, gradients: Tensor, step: int) -> Tensor:
        table = self.table or self.laid_out(kernel, rows, step)
        self.moved.copy_(rows)
        values = labelled(self.values(step))
        hypers = np.empty((len(rows), len(kernel.layout.hypers)))
        for i, label in enumerate(kernel.layout.hypers):
            value = values[label]
            hypers[:, i] = value.column[:, 0].numpy() if isinstance(value, Row) else value
        table.step([row.data_ptr() for row in gradients], hypers)
        return self.moved

    def laid_out(self, kernel: Kernel, rows: Tensor, step: int) -> Table:
        """The table of the rows, whose states are from now on moved where they are."""
        states = self.cell(rows, rows, step).states
        names = [name for rule in self.chain for name in rule.row_states]
        numbers = torch.empty(len(rows), len(names), dtype=torch.float64)
        for i, name in enumerate(names):
            numbers[:, i : i + 1] = states[name].column
        self.states = {name: state for name, state in states.items() if name not in names}
        self.states |= {name: Row(numbers[:, i : i + 1]) for i, name in enumerate(names)}
        self.moved = torch.empty_like(rows)
        labels = [label for label in kernel.layout.tensors if label != "grad"]
        tensors = [self.moved if label == "param" else self.states[label] for label in labels]
        ages = torch.full((len(rows),), float(step))
        each = range(len(rows))
        self.table = kernel.table(list(zip(*tensors, strict=True)), each, each, ages, numbers)
        return self.table

    def evaluated(self, rows: Float[Tensor, "k P"], step: int) -> Tensor:
        """The rows that evaluation uses, after `step` steps."""
        return eager.evaluated(self.chain, self.cell(rows, rows, step)) if step else rows

    def cell(self, rows: Tensor, gradients: Tensor, step: int) -> Cell:
        values = self.values(step)
        return Cell(rows, gradients, values, self.states or self.starting(rows, values))

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
        for name, state in self.states.items():
            if isinstance(state, Row):
                self.states[name] = Row(state.column[within])
            else:
                self.states[name] = state[..., within, :]


def row_norms(tensors: list[Tensor]) -> list[Tensor]:
    """The norm over each row, which is a whole member."""
    return [torch.linalg.vector_norm(tensor, dim=1, keepdim=True) for tensor in tensors]


def in_columns(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(in_columns(list(parts)) for parts in zip(*values, strict=True))
    return Row.of(values)
