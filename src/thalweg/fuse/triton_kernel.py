"""Steps tensors on a GPU with printed Triton kernels. The host does not wait for the GPU.

Ages, row states and sums stay on the device. Triton is imported when the first kernel is made. It
keeps machine code in its own cache, `~/.triton`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.fuse.kernel import DTYPES, tiled, title
from thalweg.fuse.passes import Kinds, Part, Sums
from thalweg.fuse.printed_module import load
from thalweg.fuse.printing import layout_of
from thalweg.fuse.trace import trace
from thalweg.fuse.triton_printer import printed
from thalweg.rules.primitives import SUMS
from thalweg.rules.rule import Rule

BLOCK = 1024
"""The number of elements that one Triton program steps."""


class TritonKernel:
    """The step of a chain for parameters of one type on one device.

    source: the text of the printed module. layout: the columns of its tables.
    Raises TypeError for a chain that cannot be traced.
    """

    def __init__(
        self,
        chain: tuple[type[Rule], ...],
        dtype: torch.dtype,
        maximize: bool,
        device: torch.device,
    ) -> None:
        self.chain, self.device = chain, device
        program = trace(chain, dtype, maximize)
        self.layout = layout_of(program)
        self.source = printed(program, DTYPES[dtype], title(chain))
        self.module = load(self.source)

    def table(
        self, sizes: Sequence[int], row_of: Sequence[int], wide: Sequence[bool]
    ) -> TritonTable:
        """The table of the tensors that the kernel steps; see `TritonTable`."""
        return TritonTable(self, sizes, row_of, wide)


def runs_on(device: torch.device) -> bool:
    """Whether Triton is installed and can step tensors on a device.

    The device is a GPU, or the CPU where Triton is interpreted.
    """
    interpreted = os.environ.get("TRITON_INTERPRET", "0") != "0"
    return device.type == ("cpu" if interpreted else "cuda") and installed()


@cache
def installed() -> bool:
    return find_spec("triton") is not None


class TritonTable:
    """The tensors that a kernel steps, cut into tiles.

    sizes: the number of elements of each tensor. row_of: for each tensor, its row in the table of
    hyperparameters. wide: for each tensor, whether its age is a float64 and not a float32.
    """

    def __init__(
        self,
        kernel: TritonKernel,
        sizes: Sequence[int],
        row_of: Sequence[int],
        wide: Sequence[bool],
    ) -> None:
        self.kernel, self.device = kernel, kernel.device
        tiles = tiled(sizes, BLOCK)
        self.tiles = [torch.from_numpy(column).to(self.device) for column in tiles]
        self.row_of = torch.tensor(row_of, device=self.device)
        self.wide = torch.tensor(wide, dtype=torch.int64, device=self.device)
        self.scalars = self.zeros(len(sizes), len(kernel.layout.scalars))
        self.sums = self.zeros(len(sizes), len(kernel.layout.sums)).fill_(torch.nan)
        counts = torch.from_numpy(np.bincount(tiles[0], minlength=len(sizes)))
        self.counts = counts.to(self.device)
        self.firsts = (counts.cumsum(0) - counts).to(self.device)
        pointers = len(sizes) * len(kernel.layout.columns)
        # Triton compiles another kernel for an address that is not a multiple of 16.
        self.behind_pointers = pointers + pointers % 2
        room = self.behind_pointers + (1 + max(row_of)) * len(kernel.layout.hypers)
        self.given = torch.zeros(room, dtype=torch.int64, device=self.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def step(self, pointers: NDArray[np.int64], hypers: NDArray[np.float64]) -> Part:
        """Steps every tensor in place, with its age and row states.

        pointers: the addresses, `[n, c]`: a row for each tensor, with the layout's `columns`.
        hypers: the hyperparameters, `[rows, h]`, with the layout's `hypers` as columns. All
        addresses are on the device.
        """
        self.give(pointers, hypers)
        known = 0
        for number, kinds in enumerate(self.kernel.layout.kinds, 1):
            whole = yield Sums(kinds, self.by_tensor(f"sums_{number}", kinds))
            self.sums[:, known : known + len(kinds)] = torch.as_tensor(whole)
            known += len(kinds)
        with on(self.device):
            self.rows(last=True)
            self.over_tiles("tiles")

    def by_tensor(self, function: str, kinds: Kinds) -> Tensor:
        """The sums of a pass over each tensor."""
        of_tiles = self.zeros(len(kinds), len(self.tiles[0]))
        found = self.zeros(len(self.wide), len(kinds))
        with on(self.device):
            self.rows(last=False)
            self.over_tiles(function, of_tiles)
            for i, (name, _) in enumerate(kinds):
                fold = getattr(self.kernel.module, f"fold_{SUMS[name].fold.__name__}")
                given = (self.firsts, self.counts, of_tiles[i], found[:, i], len(kinds))
                fold[len(self.wide),](*given, BLOCK=BLOCK, enable_fp_fusion=False)
        return found

    def give(self, pointers: NDArray[np.int64], hypers: NDArray[np.float64]) -> None:
        """Copies the addresses and the hyperparameters to the device, in one transfer."""
        given = np.zeros(len(self.given), np.int64)
        given[: pointers.size] = pointers.ravel()
        given[self.behind_pointers :] = hypers.reshape(-1).view(np.int64)
        host = torch.from_numpy(given)
        # PyTorch does not reuse pinned memory before it has been copied.
        pinned = host.pin_memory() if self.device.type == "cuda" else host
        self.given.copy_(pinned, non_blocking=True)

    def rows(self, last: bool) -> None:
        """Computes the row's numbers of every tensor; last: also updates ages and row states."""
        self.kernel.module.rows[len(self.wide),](
            self.given[self.behind_pointers :].view(torch.float64),
            self.row_of,
            self.given,
            self.wide,
            self.sums,
            self.scalars,
            LAST=last,
            num_warps=1,
            enable_fp_fusion=False,
        )

    def over_tiles(self, function: str, *arguments: Tensor) -> None:
        """Runs one of the kernel's functions over all tiles."""
        getattr(self.kernel.module, function)[len(self.tiles[0]),](
            self.given,
            *self.tiles,
            self.scalars,
            *arguments,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )


def on(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device the current one, because Triton launches kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
