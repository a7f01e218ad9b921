"""Rows and what stands in them: what a drop-in optimizer and a stack are made of alike.

A row is a parameter group of a member, with a number of its own for each setting. A drop-in
optimizer is one member, and has a row for each of its groups; a stack has the rows of many members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import increment_version

from thalweg.arguments import short
from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.choice import AnyKernel
from thalweg.fuse.eager import Cell
from thalweg.fuse.kernel import labelled
from thalweg.fuse.matrices import OnMatrices, step_matrices
from thalweg.fuse.passes import Part, eagerly
from thalweg.fuse.staged_kernel import StagedTable
from thalweg.optim.settings import at, base, holds_schedule, is_numeric, memory, number, observed
from thalweg.optim.sharded import local
from thalweg.optim.state import Chain, age, age_in, as_real, working

Group = dict[str, Any]


@dataclass(eq=False)
class Row:
    """A parameter group of a member.

    group: its settings by name, as plain numbers, and, where some follow schedules, `step_count`,
    the steps that it has taken, and `memory`, what the schedules remember. schedules: by setting,
    factors of its number.
    """

    group: Group
    schedules: dict[str, Any]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Row:
        """A row before its first step, from settings of which some are schedules."""
        schedules = {name: value for name, value in settings.items() if holds_schedule(value)}
        group = {**settings, **{name: base(value) for name, value in schedules.items()}}
        if schedules:
            group["step_count"] = 0
            group["memory"] = {name: memory(value) for name, value in schedules.items()}
        return cls(group, schedules)

    def begin(self, steps: int, memory: Mapping[str, Any]) -> None:
        """Goes on with the schedules behind so many steps, with what they remember from there."""
        if self.schedules:
            self.group["step_count"] = steps
            self.group["memory"] |= {n: memory[n] for n in self.group["memory"] if n in memory}

    def advance(self) -> None:
        if "step_count" in self.group:
            self.group["step_count"] += 1

    def observe(self, **metrics: float | None) -> None:
        """Tells plateau schedules the metrics that they watch."""
        for name, schedule in self.schedules.items():
            kept = self.group["memory"][name]
            self.group["memory"][name] = observed(schedule, kept, **metrics)

    def now(self, name: str, ahead: int = 0) -> Any:
        """A setting at the coming step, or `ahead` steps after it (before it, below 0).

        UserError for one that has been changed to what is no number.
        """
        value = number(self.group[name])
        if not is_numeric(value):
            raise UserError(
                f"{name} of a parameter group must be a number, not {short(value)}; a schedule is"
                " given to the optimizer, or to its add_param_group."
            )
        if name not in self.schedules:
            return value
        step = self.group["step_count"] + ahead
        return at(value, self.schedules[name], step, self.group["memory"][name])

    def values(self, chain: Chain) -> dict[str, Any]:
        """The hyperparameters and options of a chain at the coming step."""
        options = {name: self.group[name] for rule in chain for name in rule.options}
        return options | {name: self.now(*read) for name, read in read_by(chain).items()}

    def scheduled(self, chain: Chain) -> dict[str, Any]:
        """Those of the values that follow schedules."""
        own = self.schedules
        return {name: self.now(*read) for name, read in read_by(chain).items() if read[0] in own}


@cache
def read_by(chain: Chain) -> dict[str, tuple[str, int]]:
    """What a chain reads: by name, a hyperparameter, and how many steps after the coming one."""
    hypers = {name: (name, 0) for rule in chain for name in rule.hypers}
    return hypers | {n: (after.hyper, 1) for rule in chain for n, after in rule.coming.items()}


class Held(NamedTuple):
    """A tensor that stands in a row, before its coming step.

    grad: what is here of the gradient of what is to be made small. saved: what is kept for the
    tensor, all that its chain needs. values: its row's.
    """

    param: Tensor
    grad: Tensor
    saved: dict[str, Any]
    values: Mapping[str, Any]

    def cell(self, chain: Chain) -> Cell:
        """The tensor on its way through the step."""
        states: dict[str, Any] = {
            name: as_real(local(self.saved[name])) for rule in chain for name in rule.states
        }
        states |= {name: float(self.saved[name]) for rule in chain for name in rule.row_states}
        values = {**self.values, "t": age(self.saved) + 1, "dtype": self.param.dtype}
        return Cell(working(local(self.param)), working(self.grad), values, states)

    def keep(self, cell: Cell) -> None:
        """Changes the tensor, and what is kept for it, to what the step has made of them."""
        as_real(local(self.param)).copy_(cell.param)
        increment_version(self.param)
        self.saved["step"].fill_(cell.values["t"])
        for name, value in cell.states.items():
            if isinstance(value, Tensor):
                as_real(local(self.saved[name])).copy_(value)
            else:
                self.saved[name].fill_(value)

    def evaluated(self, chain: Chain) -> Tensor | None:
        """The value of the tensor that evaluation uses; none where it is the one that it has."""
        if age_in(chain, self.saved) == 0:
            return None
        cell = self.cell(chain)
        cell.values["t"] -= 1
        value = eager.evaluated(chain, cell)
        return None if value is cell.param else value


@torch.no_grad()
def stepped(chain: Chain, held: Sequence[Held], on_whole: OnMatrices = step_matrices) -> Part:
    """Steps tensors by their chain's arithmetic. on_whole: what steps matrices."""
    cells = [one.cell(chain) for one in held]
    yield from eagerly(chain, cells, on_whole)
    for one, cell in zip(held, cells, strict=True):
        one.keep(cell)


class Launch:
    """Tensors that one kernel steps together, and the numbers of the rows in which they stand.

    sizes: how many elements each has. row_of: the place of its row. wide: whether its count of
    steps is a float64, not a float32.
    """

    def __init__(
        self,
        kernel: AnyKernel,
        sizes: Sequence[int],
        row_of: Sequence[int],
        wide: Sequence[bool],
    ) -> None:
        self.kernel = kernel
        self.columns = {label: column for column, label in enumerate(kernel.layout.hypers)}
        self.numbers = np.empty((1 + max(row_of, default=0), len(kernel.layout.hypers)))
        self.table = kernel.table(sizes, row_of, wide)

    def renew(self, place: int, values: Mapping[str, Any]) -> None:
        """Takes values of a row, all of them at first."""
        for label, value in labelled(values).items():
            if label in self.columns:
                self.numbers[place, self.columns[label]] = value

    def step(
        self,
        addresses: NDArray[np.int64],
        held: Callable[[], Iterable[Held]],
        on_whole: OnMatrices = step_matrices,
    ) -> Part:
        """Steps them all where they lie; `held` gives those whose chain has rules on matrices."""
        if isinstance(self.table, StagedTable):
            cells = [one.cell(self.kernel.chain) for one in held()]
            yield from self.table.step(addresses, self.numbers, cells, on_whole)
        else:
            yield from self.table.step(addresses, self.numbers)
