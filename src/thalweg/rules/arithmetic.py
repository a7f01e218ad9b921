"""The functions that rules use, on floats, rows and tensors alike.

`minimum`, `maximum` and `clamp` let a not-a-number through, as PyTorch's do: a divergence must not
be hidden by a clip.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.rules.row import Row, Value


def sqrt(x: Value) -> Value:
    """The square root."""
    if isinstance(x, Tensor):
        return x.sqrt()
    return Row(x.column.sqrt()) if isinstance(x, Row) else math.sqrt(x)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return x.sign()


def clamp(x: Tensor, low: Value, high: Value) -> Tensor:
    """x where it lies in [low, high], else the nearer end."""
    return maximum(minimum(x, high), low)


def minimum(x: Tensor, y: Value) -> Tensor:
    """The smaller of each element and y."""
    return torch.minimum(x, like(x, y))


def maximum(x: Tensor, y: Value) -> Tensor:
    """The larger of each element and y."""
    return torch.maximum(x, like(x, y))


def where(condition: Tensor | bool, x: Value, y: Value) -> Value:
    """x where the condition holds, else y; a condition on the age is one answer for all."""
    if isinstance(condition, bool):
        return x if condition else y
    return torch.where(condition, x, y)


def like(x: Tensor, y: Value) -> Tensor:
    """y as a tensor of x's kind."""
    if isinstance(y, Tensor):
        return y
    return y.column.to(x) if isinstance(y, Row) else x.new_tensor(y)


def replaced(ring: Tensor, slot: int, x: Tensor) -> Tensor:
    """The ring with x in place of what its slot held."""
    ring[slot] = x
    return ring
