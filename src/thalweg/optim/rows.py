"""Rows and the tensors in them. Drop-in optimizers and stacks are both built from these classes.

A row is a parameter group of a member, with its own value for each setting. A drop-in optimizer is
one member and has a row for each of its groups. A stack has the rows of many members.
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
from thalweg.optim.settings import (
    at_step,
    base,
    holds_schedule,
    is_numeric,
    memory,
    number,
    observed,
)
from thalweg.optim.sharded import local
from thalweg.optim.state import Chain, age, age_in, as_real, working

Group = dict[str, Any]


@dataclass(eq=False)
class Row:
    """A parameter group of a member.

    group: its settings by name, as plain numbers. Where some settings have schedules, it also has
    `step_count`, the number of steps so far, and `memory`, what the schedules remember. schedules:
    the schedules by setting; each gives a factor of the setting's number.
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
        """Sets the schedules to a number of steps and to what they remember.

        memory: what another row's schedules remember, by setting.
        """
        if self.schedules:
            self.group["step_count"] = steps
            self.group["memory"] |= {n: memory[n] for n in self.group["memory"] if n in memory}

    def observe(self, **metrics: float | None) -> None:
        """Gives plateau schedules the metrics that they watch."""
        for name, schedule in self.schedules.items():
            kept = self.group["memory"][name]
            self.group["memory"][name] = observed(schedule, kept, **metrics)

    def now(self, name: str, ahead: int = 0) -> Any:
        """A setting at the next step, or `ahead` steps after it; before it where `ahead` < 0.

        UserError for a setting that the user has changed to something that is not a number.
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
        return at_step(value, self.schedules[name], step, self.group["memory"][name])

    def values(self, chain: Chain) -> dict[str, Any]:
        """The hyperparameters and options of a chain at the next step."""
        options = {name: self.group[name] for rule in chain for name in rule.options}
        return options | {name: self.now(*read) for name, read in read_by(chain).items()}

    def scheduled(self, chain: Chain) -> dict[str, Any]:
        """The values at the next step that have schedules."""
        own = self.schedules
        return {name: self.now(*read) for name, read in read_by(chain).items() if read[0] in own}


@cache
def read_by(chain: Chain) -> dict[str, tuple[str, int]]:
    """The values that a chain reads, by name: the hyperparameter, and the number of steps ahead."""
    hypers = {name: (name, 0) for rule in chain for name in rule.hypers}
    return hypers | {n: (after.hyper, 1) for rule in chain for n, after in rule.coming.items()}


def advance(groups: Iterable[Group]) -> None:
    """Counts a step in those groups whose schedules go by it."""
    for group in groups:
        if "step_count" in group:
            group["step_count"] += 1


class Held(NamedTuple):
    """A parameter tensor of a row, before its next step.

    grad: the local part of the gradient of the function to minimize. saved: the states of the
    tensor by name, complete for its chain. values: the values of its row.
    """

    param: Tensor
    grad: Tensor
    saved: dict[str, Any]
    values: Mapping[str, Any]

    def cell(self, chain: Chain) -> Cell:
        """The cell that computes the step."""
        states: dict[str, Any] = {
            name: as_real(local(self.saved[name])) for rule in chain for name in rule.states
        }
        states |= {name: float(self.saved[name]) for rule in chain for name in rule.row_states}
        values = {**self.values, "t": age(self.saved) + 1, "dtype": self.param.dtype}
        return Cell(working(local(self.param)), working(self.grad), values, states)

    def keep(self, cell: Cell) -> None:
        """Copies the result of the step into the tensor and its states."""
        as_real(local(self.param)).copy_(cell.param)
        increment_version(self.param)
        self.saved["step"].fill_(cell.values["t"])
        for name, value in cell.states.items():
            if isinstance(value, Tensor):
                as_real(local(self.saved[name])).copy_(value)
            else:
                self.saved[name].fill_(value)

    def evaluated(self, chain: Chain) -> Tensor | None:
        """The value of the tensor for evaluation; None where it is the present value."""
        if age_in(chain, self.saved) == 0:
            return None
        cell = self.cell(chain)
        cell.values["t"] -= 1
        value = eager.evaluated(chain, cell)
        return None if value is cell.param else value


@torch.no_grad()
def stepped(chain: Chain, held: Sequence[Held], on_whole: OnMatrices = step_matrices) -> Part:
    """A part that steps tensors eagerly. on_whole: steps cells by a rule on matrices."""
    cells = [one.cell(chain) for one in held]
    yield from eagerly(chain, cells, on_whole)
    for one, cell in zip(held, cells, strict=True):
        one.keep(cell)


class Launch:
    """The table of the tensors that one kernel steps together, and the values of their rows.

    sizes: the number of elements of each tensor. row_of: for each tensor, the place of its row.
    wide: for each tensor, whether its count of steps is a float64 and not a float32.
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
        """Stores values of a row; the first call for a row must have all of them."""
        for label, value in labelled(values).items():
            if label in self.columns:
                self.numbers[place, self.columns[label]] = value

    def step(
        self,
        addresses: NDArray[np.int64],
        held: Callable[[], Iterable[Held]],
        on_whole: OnMatrices = step_matrices,
    ) -> Part:
        """A part that steps all tensors in place.

        addresses: the addresses of the tensors, `[n, c]`, with the kernel's columns. held: gives
        the tensors; only called where the chain has rules on matrices.
        """
        if isinstance(self.table, StagedTable):
            cells = [one.cell(self.kernel.chain) for one in held()]
            yield from self.table.step(addresses, self.numbers, cells, on_whole)
        else:
            yield from self.table.step(addresses, self.numbers)
