"""What the printers of kernels share: the layout of a kernel's tables, and its lines of code."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thalweg.fuse.program import Level, Operation, Program
from thalweg.rules.primitives import SUMS

OWN_WORDS = re.compile(
    "table|row_of|wide|read|write|scalars|first|last|hypers|tensors|tensor_of|starts|"
    "lengths|sums|tile|start|k|n|i|one|zero|real|sqrt|numba|np|rows|tiles|pointer|"
    r"widened|narrowed|float|range|len|abs|exp|log|inf|nan|[rx]\d+|sums?_\d+|new_.*|.*_array|.*_|"
    "age|tensor|lane|place|inside|tl|triton|power|remainder|nearest|smaller|larger|BLOCK|LAST|"
    "fold|.*_ptr"
)
"""The names that printed functions use themselves; a rule's value of such a name gets a `_`."""


@dataclass(frozen=True)
class Layout:
    """The columns of the tables that a kernel reads and writes.

    hypers: the labels of the columns of the table of hyperparameters. scalars: the places, in the
    program, of the row's numbers that elements need; they are the columns of the table of scalars.
    tensors, row_states: the labels of the columns of the table of pointers; the column of the age,
    `step`, stands between them. The first two tensors are `param` and `grad`. written: the tensors
    that the kernel changes; where `param` is not among them, the kernel does not change the age.
    passes: for each pass before the last, the place of each of its sums, with name and scope.
    """

    hypers: tuple[str, ...]
    row_states: tuple[str, ...]
    scalars: tuple[int, ...]
    tensors: tuple[str, ...]
    written: tuple[str, ...]
    passes: tuple[Mapping[int, tuple[str, str]], ...]

    @property
    def sums(self) -> list[int]:
        """The places of the sums in the program; they are the columns of the table of sums."""
        return [place for each in self.passes for place in each]

    @property
    def kinds(self) -> list[tuple[tuple[str, str], ...]]:
        """For each pass before the last, the name and the scope of each of its sums."""
        return [tuple(each.values()) for each in self.passes]

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels of the columns of the table of pointers."""
        return (*self.tensors, "step", *self.row_states)

    def column(self, label: str) -> int:
        return self.columns.index(label)


def layout_of(program: Program) -> Layout:
    inputs = {label: program.operations[place] for label, place in program.inputs.items()}
    rows = [label for label, operation in inputs.items() if operation.level == "row"]
    elements = [label for label, operation in inputs.items() if operation.level == "element"]
    tensors = ["param", "grad", *(label for label in elements if label not in ("param", "grad"))]
    row_states = tuple(label for label in rows if label in program.results)
    used = {
        argument
        for operation in program.operations
        if operation.level == "element" or operation.name in SUMS
        for argument in operation.arguments
        if is_row_number(program.operations[argument])
    }
    return Layout(
        hypers=tuple(label for label in rows if label not in (*row_states, "t")),
        row_states=row_states,
        scalars=tuple(sorted(used)),
        tensors=tuple(tensors),
        written=tuple(
            label
            for label in tensors
            if program.results.get(label, program.inputs[label]) != program.inputs[label]
        ),
        passes=program.passes(),
    )


@dataclass(frozen=True)
class Pass:
    """A pass over the elements of all tensors.

    name: the name of its function. sums: the sums that it computes; the last pass has none, and
    writes the results. wanted: the places of the numbers that it computes. tensors: the labels of
    the tensors that it reads or writes. scalars: the place of each of the row's numbers that it
    needs, with its column.
    """

    name: str
    sums: list[Operation]
    wanted: list[int]
    tensors: list[str]
    scalars: dict[int, int]


def passes(program: Program, layout: Layout) -> list[Pass]:
    """All passes of a step, in order."""
    found = []
    for number, places in enumerate((*layout.passes, ()), 1):
        sums = [program.operations[place] for place in places]
        wanted = [place for one in sums for place in one.arguments]
        wanted = wanted or [program.results[label] for label in layout.written]
        needed = program.needed(wanted, "element")
        ends = () if sums else layout.written
        tensors = [t for t in layout.tensors if t in ends or program.inputs[t] in needed]
        scalars = {place: i for i, place in enumerate(layout.scalars) if place in needed}
        name = f"sums_{number}" if sums else "tiles"
        found.append(Pass(name, sums=sums, wanted=wanted, tensors=tensors, scalars=scalars))
    return found


def is_row_number(operation: Operation) -> bool:
    return operation.level == "row" and operation.name != "constant"


class Names(ABC):
    """The names of a program's operations in a printed function, and the lines that compute them.

    real: whether the function computes elements, and is given the row's numbers; else it computes
    the row's numbers.
    """

    def __init__(self, program: Program, real: bool) -> None:
        self.program = program
        self.real = real
        self.results = {place: label for label, place in program.results.items()}

    @abstractmethod
    def constant(self, label: str) -> str:
        """The text of a real constant for the compiler. label: Python's text of it."""

    @abstractmethod
    def result(self, operation: Operation) -> str:
        """The text of the expression that computes an operation."""

    def input(self, label: str) -> str:
        """The name of an input."""
        name = label.replace("[", "_").replace("]", "")
        return f"{name}_" if OWN_WORDS.fullmatch(name) else name

    def of(self, place: int) -> str:
        """The name of the operation at a place, or the text of a constant."""
        operation = self.program.operations[place]
        if operation.name == "constant":
            word = operation.kind == "word"
            return operation.label if word else self.constant(operation.label)
        if operation.name == "input":
            return self.input(operation.label)
        if place in self.results and operation.level == "element":
            return f"new_{self.results[place]}"
        return f"{'r' if operation.level == 'row' else 'x'}{place}"

    def lines(self, wanted: Iterable[int]) -> list[str]:
        """The lines that compute the operations at these places, and all that these need."""
        level: Level = "element" if self.real else "row"
        operations = (
            (place, self.program.operations[place]) for place in self.program.needed(wanted, level)
        )
        return [
            f"{self.of(place)} = {self.result(operation)}"
            for place, operation in operations
            if operation.level == level and operation.name not in ("input", "constant", *SUMS)
        ]


def indented(lines: Iterable[str], by: int = 1) -> list[str]:
    return [" " * 4 * by + line for line in lines]
