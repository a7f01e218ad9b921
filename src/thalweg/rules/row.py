"""A number for each row of a stack."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from thalweg.rules.primitives import PRIMITIVES

Value = Any
"""What a rule's arithmetic works on: a float, a `Row`, or a tensor of elements."""


class Row:
    """One float64 number a row, `[K, 1]`, in arithmetic with numbers, rows and tensors `[K, P]`.

    Rows combine among themselves in float64, so that `1 - beta1**t` loses nothing; where a row
    meets elements it is rounded once to their precision, as a Python number would be.
    """

    def __init__(self, column: Float64[Tensor, "K 1"]) -> None:
        self.column = column

    @classmethod
    def of(cls, values: list[float]) -> Row:
        return cls(torch.tensor(values, dtype=torch.float64).unsqueeze(1))

    def beside(self, other: Value) -> tuple[Value, Value, bool]:
        """Both operands as torch takes them, and whether they are numbers of the row alone."""
        if isinstance(other, Tensor):
            return self.column.to(other), other, False
        return self.column, other.column if isinstance(other, Row) else other, True

    def __add__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(mine + theirs) if row else mine + theirs

    def __sub__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(mine - theirs) if row else mine - theirs

    def __rsub__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(theirs - mine) if row else theirs - mine

    def __mul__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(mine * theirs) if row else mine * theirs

    def __truediv__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(mine / theirs) if row else mine / theirs

    def __rtruediv__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(theirs / mine) if row else theirs / mine

    def __pow__(self, other: Value) -> Value:
        mine, theirs, row = self.beside(other)
        return Row(mine**theirs) if row else mine**theirs

    def __rpow__(self, other: float) -> Row:
        return Row(other**self.column)

    def __neg__(self) -> Row:
        return Row(-self.column)

    def made(self, name: str, *arguments: Value) -> Value:
        """What a primitive gives of rows and tensors."""
        elements = next((x for x in arguments if isinstance(x, Tensor)), None)
        like = self.column if elements is None else elements
        columns = [x.column.to(like) if isinstance(x, Row) else x for x in arguments]
        given = [x if isinstance(x, Tensor) else like.new_tensor(x) for x in columns]
        found = PRIMITIVES[name].torch(*given)
        return Row(found) if elements is None else found

    __radd__ = __add__
    __rmul__ = __mul__
