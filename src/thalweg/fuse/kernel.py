"""Compiles the kernels of a chain, once for each machine, and runs them over a table of tensors."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse.numba_printer import Layout, layout, printed
from thalweg.fuse.threads import share
from thalweg.fuse.trace import trace
from thalweg.rules.rule import Rule

TILE = 2**16
"""Elements that one thread takes at a time; fewer are sooner done than shared."""

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


class Kernel:
    """The compiled step of a chain for parameters of one type.

    source: the printed module. layout: where it finds what it works on.
    Raises TypeError for a chain that cannot be traced.
    """

    def __init__(self, chain: tuple[type[Rule], ...], dtype: torch.dtype) -> None:
        self.chain = chain
        program = trace(chain, dtype)
        self.layout = layout(program)
        title = "The step of " + ", ".join(rule.__name__ for rule in chain) + "."
        self.source = printed(program, DTYPES[dtype], title)
        self.module = load(self.source, self.layout)


@cache
def kernel_of(chain: tuple[type[Rule], ...], dtype: torch.dtype) -> Kernel | None:
    """The kernel of a chain; none for one that cannot be traced, and for other types."""
    if dtype not in DTYPES:
        return None
    try:
        return Kernel(chain, dtype)
    except TypeError:
        return None


class Table:
    """The tensors that a kernel steps, in tiles, and the numbers of the row that each has.

    columns: for each tensor the ones that the kernel works on, in the layout's order, but for the
    gradient. group_of, member_of: the row of the hyperparameters' table, and the member, that each
    belongs to. ages: the steps that each has taken, float32 `[n]`. row_states: float64 `[n, s]`. A
    step changes all in place. total: for each tensor what its norm is the root of, from the sums of
    squares of all, float64 `[n]`; where none is given, the sum over its member.
    """

    def __init__(
        self,
        kernel: Kernel,
        columns: Sequence[Sequence[Tensor]],
        group_of: Sequence[int],
        member_of: Sequence[int],
        ages: Tensor,
        row_states: Tensor,
        total: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    ) -> None:
        self.kernel, self.total = kernel, total or self.over_members
        self.gradient = kernel.layout.tensors.index("grad")
        pointers = [[tensor.data_ptr() for tensor in row] for row in columns]
        whole = np.insert(np.array(pointers, np.int64), self.gradient, 0, axis=1)
        self.pointers = np.ascontiguousarray(whole)
        self.tiles, self.pieces = tiled([row[0].numel() for row in columns])
        self.group_of, self.member_of = np.array(group_of), np.array(member_of)
        self.ages, self.row_states = ages.numpy(), row_states.numpy()
        self.scalars = np.empty((len(columns), len(kernel.layout.scalars)))

    def step(self, gradients: Sequence[int], hypers: NDArray[np.float64]) -> None:
        """One step of every tensor, from gradients at these addresses.

        hypers: `[groups, h]`, in the layout's order.
        """
        self.pointers[:, self.gradient] = gradients
        norms = np.full(len(self.ages), np.nan)
        if self.kernel.layout.normed:
            self.rows(hypers, norms, last=False)
            norms = self.norms()
        self.rows(hypers, norms, last=True)
        self.share(self.kernel.module.tiles)

    def share(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a kernel's function for all tiles."""
        known = (self.pointers, *self.tiles, self.scalars, *arguments)
        share(lambda first, last: function(*known, first, last), self.pieces)

    def rows(self, hypers: NDArray[np.float64], norms: NDArray[np.float64], last: bool) -> None:
        self.kernel.module.rows(
            hypers, self.group_of, self.ages, self.row_states, norms, self.scalars, last
        )

    def norms(self) -> NDArray[np.float64]:
        """For each tensor the norm over its member, of what the chain's norm is taken of."""
        sums = np.zeros(len(self.tiles[0]))
        self.share(self.kernel.module.squares, sums)
        squares = np.zeros(len(self.ages))
        np.add.at(squares, self.tiles[0], sums)
        norms: NDArray[np.float64] = np.sqrt(self.total(squares))
        return norms

    def over_members(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each tensor the sum over its member."""
        sums: NDArray[np.float64] = np.bincount(self.member_of, squares)[self.member_of]
        return sums


def labelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A chain's values under the labels that kernels know: a pair's parts one by one."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            flat |= {f"{name}[{i}]": part for i, part in enumerate(value)}
        else:
            flat[name] = value
    return flat


def tiled(sizes: Sequence[int]) -> tuple[list[NDArray[np.int64]], list[tuple[int, int]]]:
    """Tensors of these sizes in tiles, and the tiles in pieces that are worth a thread.

    Of each tile its tensor, where in it it starts, and its length; of each piece its first tile and
    the one behind its last.
    """
    cut = [(k, at, min(TILE, n - at)) for k, n in enumerate(sizes) for at in range(0, n, TILE)]
    tiles = [np.ascontiguousarray(column) for column in np.array(cut, np.int64).reshape(-1, 3).T]
    piece_of = (np.cumsum(tiles[2]) - 1) // TILE
    bounds = np.flatnonzero(np.diff(piece_of, prepend=-1, append=len(cut)))
    return tiles, list(pairwise(bounds.tolist()))


def load(source: str, plan: Layout) -> ModuleType:
    """The compiled module of a printed kernel, from a file named by the hash of its content.

    Numba keeps machine code beside the file. What is damaged is written and compiled anew, and a
    file is whole whenever another process sees it.
    """
    name = "kernel_" + hashlib.sha256(source.encode()).hexdigest()[:16]
    path = folder() / f"{name}.py"
    if not path.exists() or path.read_bytes() != source.encode():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as unfinished:
            unfinished.write(source)
        Path(unfinished.name).replace(path)
    try:
        return compiled(name, path, plan)
    except Exception:
        for kept in path.parent.glob(f"__pycache__/{name}.*"):
            kept.unlink(missing_ok=True)
        return compiled(name, path, plan)


def compiled(name: str, path: Path, plan: Layout) -> ModuleType:
    """The module in a file, its kernels compiled by a run over nothing."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Numba looks the module up by its name when it takes machine code from its files.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    none = np.empty(0, np.int64)
    ages, row_states = np.empty(0, np.float32), np.empty((0, len(plan.row_states)))
    pointers, scalars = np.empty((0, len(plan.tensors)), np.int64), np.empty((0, len(plan.scalars)))
    hypers = np.empty((0, len(plan.hypers)))
    module.rows(hypers, none, ages, row_states, np.empty(0), scalars, True)
    module.tiles(pointers, none, none, none, scalars, 0, 0)
    if plan.normed:
        module.squares(pointers, none, none, none, scalars, np.empty(0), 0, 0)
    return module


def folder() -> Path:
    """Where kernels are kept: a folder that only the user can write."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kernels = base / "thalweg" / "kernels"
    kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
    return kernels
