"""Prints a program as Triton kernels for a GPU. A kernel reads memory once for all tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from thalweg.fuse.printing import Layout, Names, Pass, indented, layout_of, passes
from thalweg.fuse.program import Operation, Program
from thalweg.rules.primitives import PRIMITIVES, SUMS

NARROWED = '''\
@triton.jit
def narrowed(x):
    """The bfloat16 nearest to a float32; ties go to the even one, also when interpreted."""
    bits = x.to(tl.uint32, bitcast=True)
    bits = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
    return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
'''

FOLD = '''\
@triton.jit
def fold_{name}(firsts_ptr, counts_ptr, of_tiles_ptr, sums_ptr, width, BLOCK: tl.constexpr):
    """The sum over a tensor, computed from the sums over its tiles, always in the same order."""
    tensor = tl.program_id(0)
    first, n = tl.load(firsts_ptr + tensor), tl.load(counts_ptr + tensor)
    lane = tl.arange(0, BLOCK)
    found = tl.full((BLOCK,), {start}, tl.float64)
    for start in range(0, n, BLOCK):
        part = tl.load(of_tiles_ptr + first + start + lane, start + lane < n, {start})
        found = {together}
    tl.store(sums_ptr + tensor * width, {whole})
'''

FOLDS = {
    "add": FOLD.format(name="add", start="0.0", together="found + part", whole="tl.sum(found)"),
    "maximum": FOLD.format(
        name="maximum",
        start='-float("inf")',
        together="larger(found, part)",
        whole="tl.reduce(found, 0, larger)",
    ),
}

HEADER = '''\
"""{title}"""

import triton
import triton.language as tl
'''


def printed(program: Program, dtype: str, title: str) -> str:
    """The text of the module of a program's kernels, for parameters of a type.

    States are float32 or wider. The module's functions:

    `rows` computes the row's numbers of every tensor, with a Triton program for each tensor. The
    last call of a step has `LAST` true and also updates the age and the row states.
    `tiles` steps the elements, with a Triton program for each tile of at most `BLOCK`.
    `sums_1`, `sums_2` and so on are the passes before `tiles`. They compute sums over each tile;
    `fold_add` and `fold_maximum` combine these for each tensor, and `rows` computes from them.
    """
    layout = layout_of(program)
    used = {operation.name for operation in program.operations}
    parts = [HEADER.format(title=title)]
    summed = [SUMS[name] for name in SUMS if name in used]
    helpers = [each.helper for name, each in PRIMITIVES.items() if name in used]
    helpers += [each.helper for each in summed]
    parts += filter(None, dict.fromkeys(helpers))
    parts += [NARROWED] if dtype == "bfloat16" else []
    parts.append(row_function(program, layout))
    parts += [FOLDS[name] for name in dict.fromkeys(each.fold.__name__ for each in summed)]
    parts += [tile_function(program, layout, dtype, each) for each in passes(program, layout)]
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def row_function(program: Program, layout: Layout) -> str:
    names = TritonNames(program, "float64", real=False)
    ends = {label: names.of(program.results[label]) for label in layout.row_states}
    wanted = [*layout.scalars, *(program.results[label] for label in layout.row_states)]
    hypers, scalars = len(layout.hypers), len(layout.scalars)
    moved = [f"tl.store({names.input(label)}_ptr, {end})" for label, end in ends.items()]
    if "param" in layout.written:
        moved += ["tl.store(narrow_ptr, t.to(tl.float32), wide == 0)"]
        moved += ["tl.store(wide_ptr, t, wide)"]
    body = [
        "tensor = tl.program_id(0)",
        f"step_ptr = {address(layout, 'step')}",
        "narrow_ptr = step_ptr.to(tl.pointer_type(tl.float32))",
        "wide_ptr = step_ptr.to(tl.pointer_type(tl.float64))",
        "wide = tl.load(are_wide_ptr + tensor) != 0",
        "t = tl.load(narrow_ptr, wide == 0, 0.0).to(tl.float64) + tl.load(wide_ptr, wide, 0.0) + 1",
        *(
            f"{names.of(place)} = tl.load(sums_ptr + tensor * {len(layout.sums)} + {i})"
            for i, place in enumerate(layout.sums)
        ),
        f"row_ptr = hypers_ptr + tl.load(row_of_ptr + tensor) * {hypers}",
        *(f"{names.input(name)} = tl.load(row_ptr + {i})" for i, name in enumerate(layout.hypers)),
        *(
            f"{names.input(name)}_ptr = {address(layout, name)}.to(tl.pointer_type(tl.float64))"
            for name in layout.row_states
        ),
        *(f"{names.input(name)} = tl.load({names.input(name)}_ptr)" for name in layout.row_states),
        *names.lines(wanted),
        *(
            f"tl.store(scalars_ptr + tensor * {scalars} + {i}, {names.of(place)})"
            for i, place in enumerate(layout.scalars)
        ),
        *(["if LAST:", *indented(moved)] if moved else []),
    ]
    return function(
        "rows", ["hypers", "row_of", "tensors", "are_wide", "sums", "scalars"], "LAST", body
    )


def tile_function(program: Program, layout: Layout, dtype: str, each: Pass) -> str:
    """The function of a pass over elements: it computes sums, or in the last pass steps."""
    real = "float32" if dtype == "bfloat16" else dtype
    names = TritonNames(program, real, real=True)
    kind_of = {"real": real, "word": "int64"}
    half = {"param", "grad"} if dtype == "bfloat16" else set()
    body = [
        "tile = tl.program_id(0)",
        "tensor = tl.load(tensor_of_ptr + tile)",
        "lane = tl.arange(0, BLOCK)",
        "place = tl.load(starts_ptr + tile) + lane",
        "inside = lane < tl.load(lengths_ptr + tile)",
        *(
            f"{names.input(label)}_ptr = {address(layout, label)}"
            f".to(tl.pointer_type(tl.{'bfloat16' if label in half else real})) + place"
            for label in each.tensors
        ),
        *(
            f"{names.of(place)} = tl.load(scalars_ptr + tensor * {len(layout.scalars)} + {i})"
            f".to(tl.{kind_of[program.operations[place].kind]})"
            for place, i in each.scalars.items()
        ),
        *(
            f"{names.input(label)} = tl.load({names.input(label)}_ptr, inside)"
            f"{'.to(tl.float32)' if label in half else ''}"
            for label in each.tensors
        ),
        *names.lines(each.wanted),
    ]
    pointers = ["tensors", "tensor_of", "starts", "lengths", "scalars"]
    if each.sums:
        body += ["one = tl.full((), 1, tl.float64)", "tiles = tl.num_programs(0)"]
        for i, one in enumerate(each.sums):
            text = SUMS[one.name].triton.format(*map(names.of, one.arguments))
            body.append(f"tl.store(of_tiles_ptr + {i} * tiles + tile, {text})")
        return function(each.name, [*pointers, "of_tiles"], "BLOCK", body)
    for label, place in zip(layout.written, each.wanted, strict=True):
        result = f"narrowed({names.of(place)})" if label in half else names.of(place)
        body.append(f"tl.store({names.input(label)}_ptr, {result}, inside)")
    return function(each.name, pointers, "BLOCK", body)


def address(layout: Layout, label: str) -> str:
    """The text of the expression for a tensor's address."""
    return f"tl.load(tensors_ptr + tensor * {len(layout.columns)} + {layout.column(label)})"


class TritonNames(Names):
    """Prints operations for Triton. kind: the type of the numbers that the function computes."""

    def __init__(self, program: Program, kind: str, real: bool) -> None:
        super().__init__(program, real)
        self.kind = kind

    def constant(self, label: str) -> str:
        # Triton gives a bare number the type of the other operand.
        return label if math.isfinite(float(label)) else f'float("{label}")'

    def result(self, operation: Operation) -> str:
        arguments = map(self.of, operation.arguments)
        primitive = PRIMITIVES[operation.name]
        text = (self.kind == "float32" and primitive.exact) or primitive.triton
        return text.format(*arguments, real=self.kind)


def function(name: str, pointers: Sequence[str], constant: str, body: Iterable[str]) -> str:
    """The text of a kernel with these arguments and these lines in its body."""
    arguments = [f"{pointer}_ptr," for pointer in pointers] + [f"{constant}: tl.constexpr,"]
    head = ["@triton.jit", f"def {name}(", *indented(arguments), "):"]
    return "\n".join([*head, *indented(body)])
