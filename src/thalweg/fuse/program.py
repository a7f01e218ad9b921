"""A chain of rules as a straight-line program: operations without branches or loops.

An operation has one of two levels. An operation of the level *row* is computed once for each tensor
and step, in float64 (`1 - beta1**t`). An operation of the level *element* is computed for each
element, in the parameter's precision. An operation is of the level element as soon as one of its
arguments is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

from thalweg.rules.primitives import SUMS, Kind

Level = Literal["row", "element"]


@dataclass(frozen=True)
class Operation:
    """One line of a program: a function of earlier lines.

    name: "input", "constant", or the name of a primitive or a sum. arguments: the places of the
    earlier lines. level: a sum is always of the level row. label: the name of an input, the text of
    a constant in Python, or the scope of a sum.
    """

    name: str
    arguments: tuple[int, ...]
    level: Level
    label: str = ""
    kind: Kind = "real"


@dataclass
class Program:
    """Operations in order, without duplicates.

    inputs: the places of the inputs, by label. results: the places of the results, by name:
    `param`, the states and the row states. places: the place of each operation. asked: the places
    of the sums in the order in which the chain asks for them; a sum may occur several times.
    """

    operations: list[Operation] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    places: dict[Operation, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def add(self, operation: Operation) -> int:
        """The place of an operation; an operation that the program has already is not repeated."""
        if operation not in self.places:
            self.places[operation] = len(self.operations)
            self.operations.append(operation)
        return self.places[operation]

    def input(self, label: str, level: Level) -> int:
        self.inputs[label] = self.add(Operation("input", (), level, label))
        return self.inputs[label]

    def constant(self, value: float, kind: Kind) -> int:
        if not isinstance(value, Real):
            raise TypeError(f"a straight-line program has no constant of {type(value).__name__}")
        written = repr(int(value) if kind == "word" else float(value))
        return self.add(Operation("constant", (), "row", label=written, kind=kind))

    def pass_numbers(self) -> list[int]:
        """For each operation, the number of passes over the elements that it needs before it."""
        numbers: list[int] = []
        for operation in self.operations:
            below = max((numbers[place] for place in operation.arguments), default=0)
            numbers.append(below + (operation.name in SUMS))
        return numbers

    def passes(self) -> tuple[dict[int, tuple[str, str]], ...]:
        """For each pass before the last, the place of each of its sums, with name and scope."""
        numbers = self.pass_numbers()
        found: dict[int, dict[int, tuple[str, str]]] = {}
        for place in sorted(set(self.asked)):
            operation = self.operations[place]
            found.setdefault(numbers[place], {})[place] = operation.name, operation.label
        return tuple(found[number] for number in sorted(found))

    def needed(self, wanted: Iterable[int], level: Level) -> list[int]:
        """The places of all operations that a function needs for the wanted ones, in order.

        level: the level that the function computes; it is given the sums and the other level.
        """
        found: set[int] = set()
        open_ = list(wanted)
        while open_:
            place = open_.pop()
            operation = self.operations[place]
            if place not in found and operation.level == level and operation.name not in SUMS:
                open_ += operation.arguments
            found.add(place)
        return sorted(found)
