"""A chain of rules as a straight-line program.

An operation works on numbers of one of two levels: those of a *row*, computed once for each tensor
and step in float64 (`1 - beta1**t`), and those of its *elements*, computed for each of them in the
parameter's precision. An operation is an element's as soon as one of its arguments is.
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
    """One line of a program: a function of earlier lines, which `arguments` gives the places of.

    name: "input", "constant", or that of a primitive or of a sum, which is the row's whatever its
    arguments are. label: an input's name, the constant as Python writes it, or what a sum goes
    over.
    """

    name: str
    arguments: tuple[int, ...]
    level: Level
    label: str = ""
    kind: Kind = "real"


@dataclass
class Program:
    """Operations in order, each written once, and which of them are its results.

    inputs: the places of the inputs, by label. results: the places of what the program gives, by
    name: `param`, the states and the row states. asked: the places of the sums, each as often as
    it is asked for.
    """

    operations: list[Operation] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    places: dict[Operation, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def add(self, operation: Operation) -> int:
        """The place of an operation, which is a new one only if the program has none like it."""
        if operation not in self.places:
            self.places[operation] = len(self.operations)
            self.operations.append(operation)
        return self.places[operation]

    def input(self, label: str, level: Level) -> int:
        self.inputs[label] = self.add(Operation("input", (), level, label))
        return self.inputs[label]

    def constant(self, value: float, kind: Kind) -> int:
        if not isinstance(value, Real):
            raise TypeError(f"{type(value).__name__} has no place in a straight line")
        written = repr(int(value) if kind == "word" else float(value))
        return self.add(Operation("constant", (), "row", written, kind))

    def pass_numbers(self) -> list[int]:
        """For each operation, after how many passes over the elements it can be computed."""
        numbers: list[int] = []
        for operation in self.operations:
            below = max((numbers[place] for place in operation.arguments), default=0)
            numbers.append(below + (operation.name in SUMS))
        return numbers

    def passes(self) -> tuple[dict[int, tuple[str, str]], ...]:
        """The sums of each pass in front of the last: their places, names and what they go over."""
        numbers = self.pass_numbers()
        found: dict[int, dict[int, tuple[str, str]]] = {}
        for place in sorted(set(self.asked)):
            operation = self.operations[place]
            found.setdefault(numbers[place], {})[place] = operation.name, operation.label
        return tuple(found[number] for number in sorted(found))

    def needed(self, wanted: Iterable[int], level: Level) -> list[int]:
        """The places of all operations that the wanted ones rest on, in order.

        level: that of the function that computes them, which is given sums and the other level.
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
