"""A table of an optimizer's parameters: their roles, their routes and the size of their states."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.optim.sharded import local
from thalweg.optim.state import Chain, as_real, counting, precise, shape_of


class Described(NamedTuple):
    """One parameter: its name, shape, role and routes, and the bytes of its states."""

    parameter: str
    shape: tuple[int, ...]
    role: str
    route: str
    state_bytes: int


class Description(list[Described]):
    """All parameters of an optimizer. It is printed as a table."""

    @property
    def state_bytes(self) -> int:
        return sum(one.state_bytes for one in self)

    def __repr__(self) -> str:
        head = ("parameter", "shape", "role", "route", "bytes of state")
        rows = [(*map(str, one[:-1]), f"{one.state_bytes:,}") for one in self]
        rows = [head, *rows, ("all", "", "", "", f"{self.state_bytes:,}")]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])])
            for row in rows
        )


def state_bytes(chain: Chain, param: Tensor, values: Mapping[str, Any]) -> int:
    """The bytes of a parameter's states in this process, with its count of steps."""
    if not param.requires_grad:
        return 0
    of_row = sum(len(rule.row_states) for rule in chain)
    width = precise(as_real(local(param)).dtype).itemsize
    return kept_numbers(chain, param, values) * width + of_row * 8 + counting().itemsize


def kept_numbers(chain: Chain, param: Tensor, values: Mapping[str, Any]) -> int:
    """How many numbers a chain keeps for the elements of a parameter in this process."""
    here = as_real(local(param))
    states = [state for rule in chain for state in rule.states.values()]
    return sum(prod(shape_of(here, state, values)) for state in states)
