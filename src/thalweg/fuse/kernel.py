"""Compiles the kernels of a chain, once for each machine, and runs them over a table of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse.numba_printer import printed
from thalweg.fuse.passes import Kinds, Part, Sums
from thalweg.fuse.printed_module import load
from thalweg.fuse.printing import Layout, layout, passes
from thalweg.fuse.threads import share
from thalweg.fuse.trace import trace
from thalweg.rules.primitives import SUMS
from thalweg.rules.rule import Rule

TILE = 2**16
"""Elements that one thread takes at a time; fewer are sooner done than shared."""

PIECES = 16
"""A thread's share of a large step is in about so many pieces, of which a busy core takes fewer."""

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class Kernel:
    """The compiled step of a chain for parameters of one type.

    source: the printed module. layout: where it finds what it works on. widths: the bytes of a
    number of each tensor that it writes.
    Raises TypeError for a chain that cannot be traced.
    """

    device = torch.device("cpu")

    def __init__(
        self, chain: tuple[type[Rule], ...], dtype: torch.dtype, maximize: bool = False
    ) -> None:
        from thalweg.fuse.kernel_file import keep  # it imports Numba, which takes its time

        self.chain = chain
        program = trace(chain, dtype, maximize)
        self.layout = layout(program)
        self.source = printed(program, DTYPES[dtype], title(chain))
        state = torch.promote_types(dtype, torch.float32)
        self.widths = [
            (dtype if name == "param" else state).itemsize for name in self.layout.written
        ]
        self.module = load(self.source)
        self.passes = passes(program, self.layout)
        keep(self.module, ["rows", *(each.name for each in self.passes)], self.source)
        compiled(self.module, self.layout)

    def table(self, sizes: Sequence[int], group_of: Sequence[int], wide: Sequence[bool]) -> Table:
        """The tensors that it is to step; see `Table`."""
        return Table(self, sizes, group_of, wide)


def title(chain: Sequence[type[Rule]]) -> str:
    """What a printed kernel says that it is."""
    return "The step of " + ", ".join(rule.__name__ for rule in chain) + "."


class Table:
    """The tensors that a kernel steps, in tiles.

    sizes: how many elements each has. group_of: the row of the hyperparameters' table that each
    belongs to. wide: whether the age of each is a float64, not a float32.
    """

    def __init__(
        self, kernel: Kernel, sizes: Sequence[int], group_of: Sequence[int], wide: Sequence[bool]
    ) -> None:
        self.kernel = kernel
        self.tiles = tiled(sizes, TILE)
        self.pieces = self.apart = pieces(self.tiles[2])
        self.bytes = np.outer(sizes, kernel.widths)
        self.written = np.zeros_like(self.bytes)
        self.columns = [kernel.layout.column(name) for name in kernel.layout.written]
        self.group_of = np.array(group_of)
        self.wide = np.array(wide, np.bool_)
        self.sums = np.full((len(sizes), len(kernel.layout.sums)), np.nan)
        self.tile_each = np.array_equal(self.tiles[0], np.arange(len(sizes)))

    def step(self, pointers: NDArray[np.int64], hypers: NDArray[np.float64]) -> Part:
        """One step of every tensor in place, age and row states included.

        pointers: `[n, c]`, the addresses of the layout's columns. hypers: `[groups, h]`, in the
        layout's order.
        """
        module = self.kernel.module
        if len(self.apart) > 1:
            self.keep_order(pointers[:, self.columns])
        scalars = np.empty((len(self.wide), len(self.kernel.layout.scalars)))
        row_numbers = (hypers, self.group_of, pointers, self.wide, self.sums, scalars)
        known = 0
        # The last pass has no sums.
        for each, kinds in zip(self.kernel.passes, self.kernel.layout.kinds, strict=False):
            if each.scalars:
                module.rows(*row_numbers, False)
            of_tiles = np.empty((len(self.tiles[0]), len(kinds)))
            self.share(getattr(module, each.name), pointers, scalars, of_tiles)
            whole = yield Sums(kinds, self.by_tensor(kinds, of_tiles))
            whole = whole.cpu() if isinstance(whole, Tensor) else whole
            self.sums[:, known : known + len(kinds)] = whole
            known += len(kinds)
        module.rows(*row_numbers, True)
        self.share(module.tiles, pointers, scalars)

    def by_tensor(self, kinds: Kinds, of_tiles: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sums over each tensor, from those over its tiles."""
        if self.tile_each:
            return of_tiles
        found = np.empty((len(self.wide), len(kinds)))
        with np.errstate(all="ignore"):  # what is not a number comes through
            for i, (name, _) in enumerate(kinds):
                found[:, i] = SUMS[name].start
                SUMS[name].fold.at(found[:, i], self.tiles[0], of_tiles[:, i])
        return found

    def keep_order(self, written: NDArray[np.int64]) -> None:
        """Has one thread step all, one tensor after the other, where some share memory."""
        if not np.array_equal(written, self.written):
            self.written = written
            together = [(0, len(self.tiles[0]))]
            self.pieces = together if overlap(written, self.bytes) else self.apart

    def share(
        self,
        function: Callable[..., None],
        pointers: NDArray[np.int64],
        scalars: NDArray[np.float64],
        *arguments: Any,
    ) -> None:
        """Calls a kernel's function for all tiles."""
        known = (pointers, *self.tiles, scalars, *arguments)
        share(lambda first, last: function(*known, first, last), self.pieces)


def overlap(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> bool:
    """Whether any of the pieces of memory, which start at addresses and have lengths, overlap."""
    there = lengths > 0
    order = np.argsort(starts[there])
    firsts, ends = starts[there][order], (starts + lengths)[there][order]
    return bool((ends[:-1] > firsts[1:]).any())


def labelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A chain's values under the labels that kernels know: a pair's parts one by one."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            flat |= {f"{name}[{i}]": part for i, part in enumerate(value)}
        else:
            flat[name] = value
    return flat


def tiled(sizes: Sequence[int], tile: int) -> list[NDArray[np.int64]]:
    """Tensors of these sizes in tiles: of each its tensor, where in it it starts, its length."""
    cut = [(k, at, min(tile, n - at)) for k, n in enumerate(sizes) for at in range(0, n, tile)]
    return [np.ascontiguousarray(column) for column in np.array(cut, np.int64).reshape(-1, 3).T]


def pieces(lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Tiles of these lengths in pieces that are worth a thread, and several for each.

    Of each piece its first tile and the one behind its last.
    """
    elements = max(TILE, int(lengths.sum()) // (PIECES * torch.get_num_threads()))
    piece_of = (np.cumsum(lengths) - 1) // elements
    bounds = np.flatnonzero(np.diff(piece_of, prepend=-1, append=len(lengths)))
    return list(pairwise(bounds.tolist()))


def compiled(module: ModuleType, plan: Layout) -> None:
    """Compiles a module's kernels by a run over nothing."""
    none = np.empty(0, np.int64)
    pointers, scalars = np.empty((0, len(plan.columns)), np.int64), np.empty((0, len(plan.scalars)))
    hypers = np.empty((0, len(plan.hypers)))
    sums = np.empty((0, len(plan.sums)))
    module.rows(hypers, none, pointers, np.empty(0, np.bool_), sums, scalars, True)
    module.tiles(pointers, none, none, none, scalars, 0, 0)
    for number in range(len(plan.passes)):
        function = getattr(module, f"sums_{number + 1}")
        function(pointers, none, none, none, scalars, np.empty((0, 1)), 0, 0)
