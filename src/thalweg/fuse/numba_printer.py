"""Prints a program as Numba kernels for the CPU. A kernel reads memory once for all tensors."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.fuse.printing import Layout, Names, Pass, indented, layout_of, passes
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
    """The number at an address: a float64 where `wide`, else a float32."""
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
    """The float32 of a bfloat16, from its bits."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


@numba.njit
def narrowed(x):
    """The bits of the bfloat16 nearest to a float32; ties go to the even one."""
    bits = np.int64(np.float32(x).view(np.uint32))
    return np.uint16(0x7FC0) if x != x else np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


'''


def printed(program: Program, dtype: str, title: str) -> str:
    """The text of the module of a program's kernels, for parameters of a type.

    States are float32 or wider. The module's functions:

    `rows` computes the row's numbers of every tensor. The last call of a step has `last` true and
    also updates the ages and the row states. `wide` says which tensors have a float64 as age.
    `tiles` steps the elements of the tiles from `first` to `last` - 1.
    `sums_1`, `sums_2` and so on are the passes before `tiles`. They compute sums over each tile,
    from which `rows` computes numbers.
    """
    layout = layout_of(program)
    half = dtype == "bfloat16"
    parts = [HEADER.format(title=title, real="float32" if half else dtype)]
    parts.append(NUMBERS)
    parts += [BFLOAT16] if half else []
    parts.append(row_function(program, layout))
    parts += [tile_function(program, layout, dtype, each) for each in passes(program, layout)]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def row_function(program: Program, layout: Layout) -> str:
    names = NumbaNames(program, real=False)
    ends = {label: names.of(program.results[label]) for label in layout.row_states}
    wanted = [*layout.scalars, *(program.results[label] for label in layout.row_states)]
    step, states = layout.column("step"), {name: layout.column(name) for name in layout.row_states}
    moved = [f"write(tensors[k, {states[label]}], True, {end})" for label, end in ends.items()]
    if "param" in layout.written:
        moved.insert(0, f"write(tensors[k, {step}], wide[k], t)")
    body = [
        "hypers = table[row_of[k]]",
        f"t = read(tensors[k, {step}], wide[k]) + 1.0",
        *(f"{names.of(place)} = sums[k, {i}]" for i, place in enumerate(layout.sums)),
        *(f"{names.input(label)} = hypers[{i}]" for i, label in enumerate(layout.hypers)),
        *(f"{names.input(label)} = read(tensors[k, {i}], True)" for label, i in states.items()),
        *names.lines(wanted),
        *(f"scalars[k, {i}] = {names.of(place)}" for i, place in enumerate(layout.scalars)),
        *(["if last:", *indented(moved)] if moved else []),
    ]
    return "\n".join(
        [
            '@numba.njit(error_model="numpy")',
            "def rows(table, row_of, tensors, wide, sums, scalars, last):",
            *indented(["one, zero = 1.0, 0.0", "for k in range(len(tensors)):"]),
            *indented(body, 2),
        ]
    )


def tile_function(program: Program, layout: Layout, dtype: str, each: Pass) -> str:
    """The function of a pass over elements: it computes sums, or in the last pass steps."""
    names = NumbaNames(program, real=True)
    arrays = [Array(label, layout.column(label), dtype) for label in each.tensors]
    kind_of = {"real": "real", "word": "np.int64"}
    ends = [
        SUMS[one.name].numba.format(f"sum_{i}", *map(names.of, one.arguments))
        for i, one in enumerate(each.sums)
    ] or [
        array.store(names.of(program.results[array.label]))
        for array in arrays
        if array.label in layout.written
    ]
    body = [
        "k, start, n = tensor_of[tile], starts[tile], lengths[tile]",
        *(array.opening() for array in arrays),
        *(
            f"{names.of(place)} = {kind_of[program.operations[place].kind]}(scalars[k, {i}])"
            for place, i in each.scalars.items()
        ),
        *(f"sum_{i} = {SUMS[one.name].start}" for i, one in enumerate(each.sums)),
        "for i in range(n):",
        *indented(array.load(names.input(array.label)) for array in arrays),
        *indented([*names.lines(each.wanted), *ends]),
        *(f"sums[tile, {i}] = sum_{i}" for i in range(len(each.sums))),
    ]
    sums = "sums, " if each.sums else ""
    # Without these flags the compiler adds one element at a time, in strict order.
    order = ', fastmath={"reassoc", "nsz"}' if each.sums else ""
    return "\n".join(
        [
            f'@numba.njit(nogil=True, error_model="numpy"{order})',
            f"def {each.name}(tensors, tensor_of, starts, lengths, scalars, {sums}first, last):",
            *indented(["for tile in range(first, last):"]),
            *indented(body, 2),
        ]
    )


@dataclass(frozen=True)
class Array:
    """A tensor in the printed loop over a tile.

    label: its name in the program. column: its column in the table of pointers. dtype: the type of
    the parameters and gradients.
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
    """Prints operations for Numba.

    A constant in a loop over elements has the type of the elements; a Python number would turn
    float32 into float64.
    """

    def constant(self, label: str) -> str:
        number = f"({label})" if label[0] == "-" else label
        return f"real({number})" if self.real else number

    def result(self, operation: Operation) -> str:
        return PRIMITIVES[operation.name].numba.format(*map(self.of, operation.arguments))
