"""The functions of rules, on floats and on tensors; `abs` is Python's own.

`minimum`, `maximum` and `clamp` let a not-a-number through, as PyTorch's do. So does `sign`, where
PyTorch's gives 0. Otherwise a clip could hide a divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from numbers import Real
from typing import get_args, overload

import torch
from torch import Tensor

from thalweg.arguments import require_known
from thalweg.errors import UserError
from thalweg.rules import space
from thalweg.rules.primitives import PRIMITIVES, SUMS, Scope
from thalweg.rules.space import Space
from thalweg.rules.value import Value

NO_ELEMENTS = "norm, dot, mean and largest need a tensor, and were given a number."

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
    """The natural logarithm of x; or, given two ends, the space that is even in the logarithm."""
    return applied("log", x) if high is None else space.log(x, high)


def nearest(x: Value) -> Value:
    """The nearest whole number; of two equally near ones, the even one."""
    return applied("nearest", x)


def sign(x: Value) -> Value:
    """-1, 0 or 1."""
    return where(x < 0, -1.0, where(x > 0, 1.0, x))


def clamp(x: Value, low: Value, high: Value) -> Value:
    """x if it lies in [low, high], otherwise the nearer end."""
    return maximum(minimum(x, high), low)


def minimum(x: Value, y: Value) -> Value:
    """The smaller of x and y, element by element."""
    return applied("minimum", x, y)


def maximum(x: Value, y: Value) -> Value:
    """The larger of x and y, element by element."""
    return applied("maximum", x, y)


def where(condition: Value, x: Value, y: Value) -> Value:
    """x where the condition holds, otherwise y. A condition on `t` is the same for all elements."""
    if isinstance(condition, bool):
        return x if condition else y
    return applied("where", condition, x, y)


def word(x: Value) -> Value:
    """A whole number below 2**32 of the row as a word, for arithmetic on bits."""
    return int(x) if isinstance(x, int | float) else applied("word", x)


def bits(x: Value) -> Value:
    """The bits of each float32, as a word."""
    return applied("bits", x)


def number(word: Value) -> Value:
    """The float32 that has these bits."""
    return applied("number", word)


def place(x: Value) -> Value:
    """The index of each element in its tensor, from 0, as a word."""
    return applied("place", x)


def dot(x: Value, y: Value, over: Scope) -> Value:
    """The sum of the products of the elements of x and y, a number computed in float64.

    The result is one number, as for all sums here. over: "tensor" for the parameter that the rule
    steps, with its parts in all processes; or "model" for all parameters that step at once.
    """
    return summed("dot", over, x, y)


def norm(x: Value, over: Scope) -> Value:
    """The Euclidean norm over a tensor or the model; see `dot`."""
    return sqrt(dot(x, x, over))


def mean(x: Value, over: Scope) -> Value:
    """The mean of the elements of a tensor or the model; see `dot`."""
    return summed("total", over, x) / summed("count", over, x)


def largest(x: Value, over: Scope) -> Value:
    """The largest element of a tensor or the model; nan if an element is nan; see `dot`."""
    return summed("largest", over, x)


def only_in_a_step(name: str, over: str, part: Tensor) -> Tensor:  # noqa: ARG001
    raise UserError(
        "norm, dot, mean and largest can be used only in a rule's update, during a step; for use in"
        " evaluated, keep them in a state."
    )


asking: ContextVar[Callable[[str, str, Tensor], Tensor]] = ContextVar(
    "asking", default=only_in_a_step
)
"""The function that computes a sum over a tensor or the model, from its name, its scope and the
part in this process."""


def summed(name: str, over: Scope, *arguments: Value) -> Value:
    """A sum over all elements of a tensor or of the model."""
    require_known("scope", over, get_args(Scope))
    first = arguments[0]
    if isinstance(first, Tensor):
        return asking.get()(name, over, SUMS[name].torch(*arguments))
    if isinstance(first, Real):
        raise UserError(NO_ELEMENTS)
    return first.summed(name, over, *arguments)


def applied(name: str, *arguments: Value) -> Value:
    """The result of a primitive: of numbers a number in float64, of tensors a tensor."""
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
    """The ring buffer with x in this slot."""
    ring[slot] = x
    return ring
