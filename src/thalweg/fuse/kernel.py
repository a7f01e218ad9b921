"""Compiles the kernels of a chain with Numba and runs them on many tensors on the CPU."""

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
from thalweg.fuse.printing import Layout, layout_of, passes
from thalweg.fuse.threads import share
from thalweg.fuse.trace import trace
from thalweg.rules.primitives import SUMS
from thalweg.rules.rule import Rule

TILE = 2**16
"""The most elements of a tile. A step of fewer elements is quicker on one thread."""

PIECES = 16
"""The number of pieces for each thread in a large step. A thread on a busy core takes fewer."""

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class Kernel:
    """The compiled step of a chain for parameters of one type.

    source: the text of the printed module. layout: the columns of its tables. widths: for each
    tensor that the kernel writes, the number of bytes of one element.
    Raises TypeError for a chain that cannot be traced.
    """

    device = torch.device("cpu")

    def __init__(
        self, chain: tuple[type[Rule], ...], dtype: torch.dtype, maximize: bool = False
    ) -> None:
        from thalweg.fuse.kernel_file import keep  # this imports Numba, which is slow

        self.chain = chain
        program = trace(chain, dtype, maximize)
        self.layout = layout_of(program)
        self.source = printed(program, DTYPES[dtype], title(chain))
        state = torch.promote_types(dtype, torch.float32)
        self.widths = [
            (dtype if name == "param" else state).itemsize for name in self.layout.written
        ]
        self.module = load(self.source)
        self.passes = passes(program, self.layout)
        keep(self.module, ["rows", *(each.name for each in self.passes)], self.source)
        compile_now(self.module, self.layout)

    def table(self, sizes: Sequence[int], row_of: Sequence[int], wide: Sequence[bool]) -> Table:
        """The table of the tensors that the kernel steps; see `Table`."""
        return Table(self, sizes, row_of, wide)


def title(chain: Sequence[type[Rule]]) -> str:
    """The docstring of a printed kernel."""
    return "The step of " + ", ".join(rule.__name__ for rule in chain) + "."


class Table:
    """The tensors that a kernel steps, cut into tiles.

    sizes: the number of elements of each tensor. row_of: for each tensor, its row in the table of
    hyperparameters. wide: for each tensor, whether its age is a float64 and not a float32.
    """

    def __init__(
        self, kernel: Kernel, sizes: Sequence[int], row_of: Sequence[int], wide: Sequence[bool]
    ) -> None:
        self.kernel = kernel
        self.tiles = tiled(sizes, TILE)
        self.pieces = self.apart = pieces(self.tiles[2])
        self.bytes = np.outer(sizes, kernel.widths)
        self.written = np.zeros_like(self.bytes)
        self.columns = [kernel.layout.column(name) for name in kernel.layout.written]
        self.row_of = np.array(row_of)
        self.wide = np.array(wide, np.bool_)
        self.sums = np.full((len(sizes), len(kernel.layout.sums)), np.nan)
        self.tile_each = np.array_equal(self.tiles[0], np.arange(len(sizes)))

    def step(self, pointers: NDArray[np.int64], hypers: NDArray[np.float64]) -> Part:
        """Steps every tensor in place, with its age and row states.

        pointers: the addresses, `[n, c]`: a row for each tensor, with the layout's `columns`.
        hypers: the hyperparameters, `[rows, h]`, with the layout's `hypers` as columns.
        """
        module = self.kernel.module
        if len(self.apart) > 1:
            self.keep_order(pointers[:, self.columns])
        scalars = np.empty((len(self.wide), len(self.kernel.layout.scalars)))
        row_numbers = (hypers, self.row_of, pointers, self.wide, self.sums, scalars)
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
        """The sums over each tensor, computed from the sums over its tiles."""
        if self.tile_each:
            return of_tiles
        found = np.empty((len(self.wide), len(kinds)))
        with np.errstate(all="ignore"):  # not-a-numbers pass through without a warning
            for i, (name, _) in enumerate(kinds):
                found[:, i] = SUMS[name].start
                SUMS[name].fold.at(found[:, i], self.tiles[0], of_tiles[:, i])
        return found

    def keep_order(self, written: NDArray[np.int64]) -> None:
        """Gives all tiles to one thread, in order, where tensors that are written share memory."""
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
        """Calls a kernel's function for all tiles, on several threads."""
        known = (pointers, *self.tiles, scalars, *arguments)
        share(lambda first, last: function(*known, first, last), self.pieces)


def overlap(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> bool:
    """Whether any ranges of memory overlap, given their first addresses and lengths in bytes."""
    there = lengths > 0
    order = np.argsort(starts[there])
    firsts, ends = starts[there][order], (starts + lengths)[there][order]
    return bool((ends[:-1] > firsts[1:]).any())


def labelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A chain's values by the kernel's labels: a pair `betas` becomes `betas[0]`, `betas[1]`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            flat |= {f"{name}[{i}]": part for i, part in enumerate(value)}
        else:
            flat[name] = value
    return flat


def tiled(sizes: Sequence[int], tile: int) -> list[NDArray[np.int64]]:
    """Cuts tensors of these sizes into tiles.

    Gives three arrays: each tile's tensor, its first element in that tensor, and its length.
    """
    cut = [(k, at, min(tile, n - at)) for k, n in enumerate(sizes) for at in range(0, n, tile)]
    return [np.ascontiguousarray(column) for column in np.array(cut, np.int64).reshape(-1, 3).T]


def pieces(lengths: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Groups tiles of these lengths into pieces: several for each thread, but none too small.

    Gives the range of tiles of each piece, `(first, last)`; `last` itself is not in the piece.
    """
    elements = max(TILE, int(lengths.sum()) // (PIECES * torch.get_num_threads()))
    piece_of = (np.cumsum(lengths) - 1) // elements
    bounds = np.flatnonzero(np.diff(piece_of, prepend=-1, append=len(lengths)))
    return list(pairwise(bounds.tolist()))


def compile_now(module: ModuleType, layout: Layout) -> None:
    """Compiles a module's kernels: each is called once, with no tensors."""
    none = np.empty(0, np.int64)
    pointers = np.empty((0, len(layout.columns)), np.int64)
    hypers, scalars = np.empty((0, len(layout.hypers))), np.empty((0, len(layout.scalars)))
    sums = np.empty((0, len(layout.sums)))
    module.rows(hypers, none, pointers, np.empty(0, np.bool_), sums, scalars, True)
    module.tiles(pointers, none, none, none, scalars, 0, 0)
    for number in range(len(layout.passes)):
        function = getattr(module, f"sums_{number + 1}")
        function(pointers, none, none, none, scalars, np.empty((0, 1)), 0, 0)
