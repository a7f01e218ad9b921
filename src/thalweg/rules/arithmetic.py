"""The functions that rules use, on floats, rows and tensors alike; `abs` is Python's own.

`minimum`, `maximum` and `clamp` let a not-a-number through, as PyTorch's do, and `sign` does too,
where PyTorch's gives 0: a divergence must not be hidden by a clip.
"""

from __future__ import annotations

from numbers import Real
from typing import overload

import torch
from torch import Tensor

from thalweg.rules import space
from thalweg.rules.primitives import PRIMITIVES
from thalweg.rules.row import Value
from thalweg.rules.space import Space

NUMBER = torch.empty(0, dtype=torch.float64)


def sqrt(x: Value) -> Value:
    """The square root."""
    return applied("sqrt", x)


def exp(x: Value) -> Value:
    """e to the power of x."""
    return applied("exp", x)


@overload
def log(x: Value) -> Value: ...


@overload
def log(x: float, high: float) -> Space: ...


def log(x: Value, high: float | None = None) -> Value:
    """The natural logarithm; of two ends, the space between them that is even in it."""
    return applied("log", x) if high is None else space.log(x, high)


def nearest(x: Value) -> Value:
    """The nearest whole number, of two the even one."""
    return applied("nearest", x)


def sign(x: Value) -> Value:
    """-1, 0 or 1."""
    return where(x < 0, -1.0, where(x > 0, 1.0, x))


def clamp(x: Value, low: Value, high: Value) -> Value:
    """x where it lies in [low, high], else the nearer end."""
    return maximum(minimum(x, high), low)


def minimum(x: Value, y: Value) -> Value:
    """The smaller of each element and y."""
    return applied("minimum", x, y)


def maximum(x: Value, y: Value) -> Value:
    """The larger of each element and y."""
    return applied("maximum", x, y)


def where(condition: Value, x: Value, y: Value) -> Value:
    """x where the condition holds, else y; a condition on the age is one answer for all."""
    if isinstance(condition, bool):
        return x if condition else y
    return applied("where", condition, x, y)


def word(x: Value) -> Value:
    """The whole number below 2**32 that a number of the row is, for arithmetic on bits."""
    return int(x) if isinstance(x, int | float) else applied("word", x)


def bits(x: Value) -> Value:
    """The bits of each float32, as a word."""
    return applied("bits", x)


def number(word: Value) -> Value:
    """The float32 of these bits."""
    return applied("number", word)


def place(x: Value) -> Value:
    """The place of each element in its tensor, from 0, as a word."""
    return applied("place", x)


def applied(name: str, *arguments: Value) -> Value:
    """What a primitive gives: of numbers a number, computed in float64, of tensors a tensor."""
    for x in arguments:
        if not isinstance(x, Tensor | Real):
            return x.made(name, *arguments)
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    like = next((x for x in tensors if x.is_floating_point()), NUMBER)
    made = PRIMITIVES[name].torch(
        *(x if isinstance(x, Tensor) else like.new_tensor(x) for x in arguments)
    )
    return made if tensors else made.item()


def replaced(ring: Tensor, slot: int, x: Tensor) -> Tensor:
    """The ring with x in place of what its slot held."""
    ring[slot] = x
    return ring
