"""Prints a program as Numba kernels for the CPU, one pass over memory for all tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.fuse.printing import Layout, Names, indented, layout
from thalweg.fuse.program import Operation, Program
from thalweg.rules.primitives import PRIMITIVES, SUMS

HEADER = '''\
"""{title}"""

from math import exp, inf, log, nan, sqrt

import numba
import numpy as np

from thalweg.fuse.pointer import pointer

real = np.{real}
one, zero = real(1), real(0)

'''

NUMBERS = '''\
@numba.njit
def read(address, wide):
    """The float64, or float32, at an address."""
    if wide:
        return numba.carray(pointer(address), 1, np.float64)[0]
    return np.float64(numba.carray(pointer(address), 1, np.float32)[0])


@numba.njit
def write(address, wide, number):
    if wide:
        numba.carray(pointer(address), 1, np.float64)[0] = number
    else:
        numba.carray(pointer(address), 1, np.float32)[0] = number


'''

BFLOAT16 = '''\
@numba.njit
def widened(half):
    """The float32 that the bits of a bfloat16 stand for."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


@numba.njit
def narrowed(x):
    """The bits of the bfloat16 nearest to a float32, of two the even one."""
    bits = np.int64(np.float32(x).view(np.uint32))
    return np.uint16(0x7FC0) if x != x else np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


'''


def printed(program: Program, dtype: str, title: str) -> str:
    """The module of a program's kernels for parameters of a type; states are float32 at the least.

    `rows` computes the row's numbers of every tensor, and moves its age and row states on when it
    is called for the last time in a step; `wide` says whose age is a float64, not a float32.
    `tiles` runs over the elements of the tiles from `first` to before `last`; `sums_1`, `sums_2`
    and so on are passes in front of it, for the sums of each tile that the row's numbers rest on.
    """
    plan = layout(program)
    half = dtype == "bfloat16"
    parts = [HEADER.format(title=title, real="float32" if half else dtype)]
    parts.append(NUMBERS)
    parts += [BFLOAT16] if half else []
    parts.append(row_function(program, plan))
    parts += [
        sum_function(program, plan, dtype, number, sums)
        for number, sums in enumerate(plan.passes, 1)
    ]
    parts.append(tile_function(program, plan, dtype))
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def row_function(program: Program, plan: Layout) -> str:
    names = NumbaNames(program, real=False)
    ends = {label: names.of(program.results[label]) for label in plan.row_states}
    wanted = [*plan.scalars, *(program.results[label] for label in plan.row_states)]
    step, states = plan.column("step"), {name: plan.column(name) for name in plan.row_states}
    body = [
        "hypers = groups[group_of[k]]",
        f"t = read(tensors[k, {step}], wide[k]) + 1.0",
        *(f"{names.of(place)} = sums[k, {i}]" for i, place in enumerate(plan.sums)),
        *(f"{names.input(label)} = hypers[{i}]" for i, label in enumerate(plan.hypers)),
        *(f"{names.input(label)} = read(tensors[k, {i}], True)" for label, i in states.items()),
        *names.lines(wanted),
        *(f"scalars[k, {i}] = {names.of(place)}" for i, place in enumerate(plan.scalars)),
        "if last:",
        f"    write(tensors[k, {step}], wide[k], t)",
        *(f"    write(tensors[k, {states[label]}], True, {end})" for label, end in ends.items()),
    ]
    return "\n".join(
        [
            '@numba.njit(error_model="numpy")',
            "def rows(groups, group_of, tensors, wide, sums, scalars, last):",
            *indented(["one, zero = 1.0, 0.0", "for k in range(len(tensors)):"]),
            *indented(body, 2),
        ]
    )


def tile_function(program: Program, plan: Layout, dtype: str) -> str:
    """The last pass over elements: the step itself."""
    names = NumbaNames(program, real=True)
    wanted = [program.results[label] for label in plan.written]
    tensors = [Array(label, i, dtype) for i, label in enumerate(plan.tensors)]
    results = {label: names.of(program.results[label]) for label in plan.written}
    stores = [tensor.store(results[tensor.label]) for tensor in tensors if tensor.label in results]
    body = [*openings(program, plan, names, tensors, wanted), *loop(names, tensors, wanted, stores)]
    return over_tiles("tiles", "", body)


def sum_function(
    program: Program, plan: Layout, dtype: str, number: int, sums: Sequence[int]
) -> str:
    """A pass in front of it: the sums of each tile."""
    names = NumbaNames(program, real=True)
    operations = [program.operations[place] for place in sums]
    wanted = [place for one in operations for place in one.arguments]
    needed = program.needed(wanted, "element")
    arrays = [Array(label, i, dtype) for i, label in enumerate(plan.tensors)]
    tensors = [array for array in arrays if program.inputs[array.label] in needed]
    added = [
        SUMS[one.name].numba.format(f"sum_{i}", *map(names.of, one.arguments))
        for i, one in enumerate(operations)
    ]
    body = [
        *openings(program, plan, names, tensors, wanted),
        *(f"sum_{i} = {SUMS[one.name].start}" for i, one in enumerate(operations)),
        *loop(names, tensors, wanted, added),
        *(f"sums[tile, {i}] = sum_{i}" for i in range(len(sums))),
    ]
    return over_tiles(f"sums_{number}", "sums, ", body)


def openings(
    program: Program, plan: Layout, names: NumbaNames, tensors: Sequence[Array], wanted: list[int]
) -> list[str]:
    """The lines in front of a tile's loop: its tensors, and the row's numbers that it needs."""
    kind_of = {"real": "real", "word": "np.int64"}
    needed = program.needed(wanted, "element")
    return [
        "k, start, n = tensor_of[tile], starts[tile], lengths[tile]",
        *(tensor.opening() for tensor in tensors),
        *(
            f"{names.of(place)} = {kind_of[program.operations[place].kind]}(scalars[k, {i}])"
            for i, place in enumerate(plan.scalars)
            if place in needed
        ),
    ]


def loop(
    names: NumbaNames, tensors: Sequence[Array], wanted: list[int], ends: list[str]
) -> list[str]:
    loads = [tensor.load(names.input(tensor.label)) for tensor in tensors]
    return ["for i in range(n):", *indented([*loads, *names.lines(wanted), *ends])]


def over_tiles(name: str, sums: str, body: list[str]) -> str:
    """A function that does the same for each tile."""
    # A sum in strict order would take one element at a time.
    order = ', fastmath={"reassoc", "nsz"}' if sums else ""
    return "\n".join(
        [
            f'@numba.njit(nogil=True, error_model="numpy"{order})',
            f"def {name}(tensors, tensor_of, starts, lengths, scalars, {sums}first, last):",
            *indented(["for tile in range(first, last):"]),
            *indented(body, 2),
        ]
    )


@dataclass(frozen=True)
class Array:
    """A tensor within a tile: its column in the table of pointers, and how its numbers are kept.

    dtype: of the parameters, which their gradients share.
    """

    label: str
    column: int
    dtype: str

    @property
    def half(self) -> bool:
        return self.dtype == "bfloat16" and self.label in ("param", "grad")

    def opening(self) -> str:
        size = 2 if self.half else 8 if self.dtype == "float64" else 4
        address = f"tensors[k, {self.column}] + start * {size}"
        kind = "np.uint16" if self.half else "real"
        return f"{self.label}_array = numba.carray(pointer({address}), n, {kind})"

    def load(self, name: str) -> str:
        read = f"{self.label}_array[i]"
        return f"{name} = {f'widened({read})' if self.half else read}"

    def store(self, result: str) -> str:
        return f"{self.label}_array[i] = {f'narrowed({result})' if self.half else result}"


class NumbaNames(Names):
    """A constant among elements has their type; Python's own numbers would widen them."""

    def constant(self, label: str) -> str:
        number = f"({label})" if label[0] == "-" else label
        return f"real({number})" if self.real else number

    def result(self, operation: Operation) -> str:
        return PRIMITIVES[operation.name].numba.format(*map(self.of, operation.arguments))
