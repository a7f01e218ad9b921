"""What the printers of kernels share: where a kernel finds what it works on, and its lines."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thalweg.fuse.program import Level, Operation, Program
from thalweg.rules.primitives import SUMS

OWN_WORDS = re.compile(
    "groups|group_of|wide|read|write|scalars|first|last|hypers|tensors|tensor_of|starts|"
    "lengths|sums|tile|start|k|n|i|one|zero|real|sqrt|numba|np|rows|tiles|pointer|"
    r"widened|narrowed|float|range|len|abs|exp|log|inf|nan|[rx]\d+|sums?_\d+|new_.*|.*_array|.*_|"
    "age|tensor|lane|place|inside|tl|triton|power|remainder|nearest|smaller|larger|BLOCK|LAST|"
    "fold|.*_ptr"
)
"""What printed functions call their own things; a rule's value of such a name gets a `_`."""


@dataclass(frozen=True)
class Layout:
    """Where a kernel finds what it works on, by label.

    hypers: columns of the table of groups. scalars: columns of the table of the row's numbers that
    elements need, by place. tensors, row_states: what the table of pointers leads to, with the age
    `step` between them; parameters and gradients stand first. written: those of the tensors that
    the kernel changes; where the parameter is none of them, the tensor gets no older. passes: for
    each pass in front of the last the places of its sums, and of each sum the name and what it goes
    over.
    """

    hypers: tuple[str, ...]
    row_states: tuple[str, ...]
    scalars: tuple[int, ...]
    tensors: tuple[str, ...]
    written: tuple[str, ...]
    passes: tuple[Mapping[int, tuple[str, str]], ...]

    @property
    def sums(self) -> list[int]:
        """Columns of the table of sums, by place."""
        return [place for each in self.passes for place in each]

    @property
    def kinds(self) -> list[tuple[tuple[str, str], ...]]:
        """The name of each sum of each pass, and what it goes over."""
        return [tuple(each.values()) for each in self.passes]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the table of pointers."""
        return (*self.tensors, "step", *self.row_states)

    def column(self, label: str) -> int:
        return self.columns.index(label)


def layout(program: Program) -> Layout:
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
    """A pass over elements.

    name: of its function. sums: the operations whose sums it takes; none in the last pass, which
    writes. wanted: the places of what it computes. tensors: those that it reads or writes.
    scalars: the row's numbers that it needs, with their columns.
    """

    name: str
    sums: list[Operation]
    wanted: list[int]
    tensors: list[str]
    scalars: dict[int, int]


def passes(program: Program, plan: Layout) -> list[Pass]:
    """All passes of a step, in order."""
    found = []
    for number, places in enumerate((*plan.passes, ()), 1):
        sums = [program.operations[place] for place in places]
        wanted = [place for one in sums for place in one.arguments]
        wanted = wanted or [program.results[label] for label in plan.written]
        needed = program.needed(wanted, "element")
        ends = () if sums else plan.written
        tensors = [t for t in plan.tensors if t in ends or program.inputs[t] in needed]
        scalars = {place: i for i, place in enumerate(plan.scalars) if place in needed}
        found.append(Pass(f"sums_{number}" if sums else "tiles", sums, wanted, tensors, scalars))
    return found


def is_row_number(operation: Operation) -> bool:
    return operation.level == "row" and operation.name != "constant"


class Names(ABC):
    """What each operation of a program is called in a function, and the lines that compute them.

    real: whether the function's own numbers are elements; those of the row are then given.
    """

    def __init__(self, program: Program, real: bool) -> None:
        self.program = program
        self.real = real
        self.results = {place: label for label, place in program.results.items()}

    @abstractmethod
    def constant(self, label: str) -> str:
        """A real number as the compiler is to read it, from Python's words for it."""

    @abstractmethod
    def result(self, operation: Operation) -> str:
        """The expression of an operation."""

    def input(self, label: str) -> str:
        name = label.replace("[", "_").replace("]", "")
        return f"{name}_" if OWN_WORDS.fullmatch(name) else name

    def of(self, place: int) -> str:
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
