"""The functions of a rule's arithmetic, each with its text for the compilers.

Operators have Python's names (`add`, `lt`). In a text `{}` stands for the arguments in order, and
`{real}` for the type of the numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

LARGEST = 0xFFFFFFFF
"""The largest word. Words are whole numbers of 32 bits in an int64."""

Scope = Literal["tensor", "model"]
"""The scope of a sum: one tensor, or all tensors of a model."""

Kind = Literal["real", "word"]


@dataclass(frozen=True)
class Primitive:
    """A function of numbers.

    torch: the function on tensors. numba, triton: its texts. exact: Triton's text for float32, if
    the usual one is less exact. helper: a function that Triton's text calls. gives: whether the
    result is a real number or a word; if not given, it is a word if an argument is one.
    """

    torch: Callable[..., Any]
    numba: str
    triton: str
    exact: str = ""
    helper: str = ""
    gives: Kind | None = None


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int32).to(torch.int64) & LARGEST


def number(word: Tensor) -> Tensor:
    # Words above the largest int32 have the sign bit set: they are bits of negative numbers.
    signed = torch.where(word > LARGEST >> 1, word - LARGEST - 1, word)
    return signed.to(torch.int32).view(torch.float32)


def place(x: Tensor) -> Tensor:
    return torch.arange(x.numel(), device=x.device).reshape(x.shape)


POWER = '''\
@triton.jit
def power(x, y):
    """x to the power of y, in float64."""
    one = tl.full((), 1, tl.float64)
    x, y = x * one, y * one
    size = tl.where(y == 0, one, tl.exp2(y * tl.log2(tl.abs(x))))
    half = y * 0.5
    negative = tl.where(half == tl.floor(half), size, -size)
    return tl.where(x < 0, tl.where(y == tl.floor(y), negative, float("nan")), size)
'''

REMAINDER = '''\
@triton.jit
def remainder(x, y):
    """The remainder of x / y, with the sign of y."""
    left = x % y
    return tl.where((left != 0) & ((left < 0) != (y < 0)), left + y, left)
'''

NEAREST = '''\
@triton.jit
def nearest(x):
    """The nearest whole number; ties go to the even one."""
    below = tl.floor(x)
    left, half = x - below, below * 0.5
    up = (left > 0.5) | ((left == 0.5) & (half != tl.floor(half)))
    return tl.where(up, below + 1, below)
'''

SMALLER = '''\
@triton.jit
def smaller(x, y):
    """The smaller number, or not-a-number where x or y is one."""
    return tl.where(y < x, y, tl.where(y != y, y, x))
'''

LARGER = SMALLER.replace("smaller", "larger").replace("y < x", "y > x")

PRIMITIVES = {
    "add": Primitive(operator.add, "{} + {}", "{} + {}"),
    "sub": Primitive(operator.sub, "{} - {}", "{} - {}"),
    "mul": Primitive(operator.mul, "{} * {}", "{} * {}"),
    "truediv": Primitive(operator.truediv, "{} / {}", "{} / {}", "tl.div_rn({}, {})"),
    "pow": Primitive(operator.pow, "{} ** {}", "power({}, {}).to(tl.{real})", helper=POWER),
    "mod": Primitive(operator.mod, "{} % {}", "remainder({}, {})", helper=REMAINDER),
    "neg": Primitive(operator.neg, "-{}", "-{}"),
    "abs": Primitive(torch.abs, "abs({})", "tl.abs({})"),
    "lt": Primitive(operator.lt, "one if {} < {} else zero", "({} < {}).to(tl.{real})"),
    "le": Primitive(operator.le, "one if {} <= {} else zero", "({} <= {}).to(tl.{real})"),
    "eq": Primitive(operator.eq, "one if {} == {} else zero", "({} == {}).to(tl.{real})"),
    "sqrt": Primitive(torch.sqrt, "sqrt({})", "tl.sqrt({})", "tl.sqrt_rn({})"),
    "exp": Primitive(torch.exp, "exp({})", "tl.exp({})"),
    "log": Primitive(torch.log, "log({})", "tl.log({})"),
    "nearest": Primitive(torch.round, "np.rint({})", "nearest({})", helper=NEAREST),
    # These texts let a not-a-number in either argument through, as PyTorch does.
    "minimum": Primitive(
        torch.minimum,
        "{1} if {1} < {0} or {1} != {1} else {0}",
        "smaller({}, {})",
        helper=SMALLER,
    ),
    "maximum": Primitive(
        torch.maximum, "{1} if {1} > {0} or {1} != {1} else {0}", "larger({}, {})", helper=LARGER
    ),
    "where": Primitive(torch.where, "{1} if {0} != zero else {2}", "tl.where({} != 0, {}, {})"),
    "and": Primitive(operator.and_, "{} & {}", "{} & {}"),
    "xor": Primitive(operator.xor, "{} ^ {}", "{} ^ {}"),
    "rshift": Primitive(operator.rshift, "{} >> {}", "{} >> {}"),
    "word": Primitive(Tensor.long, "np.int64({})", "{}.to(tl.int64)", gives="word"),
    "bits": Primitive(
        bits,
        "np.int64(np.float32({}).view(np.uint32))",
        "{}.to(tl.uint32, bitcast=True).to(tl.int64)",
        gives="word",
    ),
    "number": Primitive(
        number,
        "np.uint32({}).view(np.float32)",
        "{}.to(tl.uint32).to(tl.float32, bitcast=True)",
        gives="real",
    ),
    "place": Primitive(place, "start + i", "place", gives="word"),
}


@dataclass(frozen=True)
class Sum:
    """A function that makes one number, in float64, of all elements of a tensor or of a model.

    torch: the function on tensors. numba: the text that adds an element to `{0}`. triton: the text
    for a tile. fold: joins the results of two parts. start: the result for no elements. helper: a
    function that Triton's text calls.
    """

    torch: Callable[..., Tensor]
    numba: str
    triton: str
    fold: np.ufunc = np.add
    start: float = 0.0
    helper: str = ""


def largest(x: Tensor) -> Tensor:
    return x.amax().double() if x.numel() else x.new_tensor(-torch.inf, dtype=torch.float64)


SUMS = {
    "dot": Sum(
        lambda x, y: (x.double() * y).sum(),
        "{0} += np.float64({1}) * np.float64({2})",
        "tl.sum(tl.where(inside, ({0} * one) * ({1} * one), 0.0))",
    ),
    "total": Sum(
        lambda x: x.sum(dtype=torch.float64),
        "{0} += np.float64({1})",
        "tl.sum(tl.where(inside, {0} * one, 0.0))",
    ),
    "count": Sum(
        lambda x: x.new_tensor(x.numel(), dtype=torch.float64),
        "{0} += 1.0",
        "tl.sum(tl.where(inside, one, 0.0))",
    ),
    "largest": Sum(
        largest,
        "{0} = {1} if {1} > {0} or {1} != {1} else {0}",
        'tl.reduce(tl.where(inside, {0} * one, -float("inf")), 0, larger)',
        fold=np.maximum,
        start=-np.inf,
        helper=LARGER,
    ),
}
