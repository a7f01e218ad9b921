"""The functions that rules use, on floats, rows and tensors alike.

`minimum`, `maximum` and `clamp` let a not-a-number through, as PyTorch's do, and `sign` does too,
where PyTorch's gives 0: a divergence must not be hidden by a clip.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.rules.row import Row, Value


def sqrt(x: Value) -> Value:
    """The square root."""
    return math.sqrt(x) if isinstance(x, float | int) else x.sqrt()


def sign(x: Value) -> Value:
    """-1, 0 or 1."""
    return where(x < 0, -1.0, where(x > 0, 1.0, x))


def clamp(x: Value, low: Value, high: Value) -> Value:
    """x where it lies in [low, high], else the nearer end."""
    return maximum(minimum(x, high), low)


def minimum(x: Value, y: Value) -> Value:
    """The smaller of each element and y."""
    return x.minimum(like(x, y))


def maximum(x: Value, y: Value) -> Value:
    """The larger of each element and y."""
    if isinstance(x, int | float):
        return max(x, y)
    return x.maximum(like(x, y))


def where(condition: Tensor | bool, x: Value, y: Value) -> Value:
    """x where the condition holds, else y; a condition on the age is one answer for all."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, Tensor):
        return torch.where(condition, x, y)
    return condition.choose(x, y)


def like(x: Value, y: Value) -> Value:
    """y as a tensor of x's kind."""
    if isinstance(y, Tensor) or not isinstance(x, Tensor):
        return y
    return y.column.to(x) if isinstance(y, Row) else x.new_tensor(y)


def replaced(ring: Tensor, slot: int, x: Tensor) -> Tensor:
    """The ring with x in place of what its slot held."""
    ring[slot] = x
    return ring
