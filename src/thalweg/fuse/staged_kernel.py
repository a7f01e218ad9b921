"""Steps tensors by a chain with rules on matrices; its stages of elements run as kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from thalweg.fuse.eager import Cell
from thalweg.fuse.kernel import Kernel
from thalweg.fuse.matrices import HANDED, OnMatrices, stages_of, step_matrices
from thalweg.fuse.passes import Part
from thalweg.fuse.printing import Layout
from thalweg.fuse.triton_kernel import TritonKernel
from thalweg.rules.rule import Rule


class StagedKernel:
    """The kernels of a chain's stages of elements, and the rules on matrices between them.

    source: the text of all printed modules. layout: the columns of all kernels together, without
    the column of the handed-on state.
    """

    def __init__(self, chain: tuple[type[Rule], ...], *kernels: Kernel | TritonKernel) -> None:
        self.chain, self.kernels, self.device = chain, kernels, kernels[0].device
        self.rules = [rule for (rule,) in stages_of(chain)[1::2]]
        self.source = "\n\n".join(kernel.source for kernel in kernels)
        tensors = [label for kernel in kernels for label in kernel.layout.tensors]
        self.layout = Layout(
            hypers=tuple(dict.fromkeys(n for kernel in kernels for n in kernel.layout.hypers)),
            row_states=tuple(n for kernel in kernels for n in kernel.layout.row_states),
            scalars=(),
            tensors=tuple(label for label in dict.fromkeys(tensors) if label != HANDED),
            written=(),
            passes=(),
        )

    def table(
        self, sizes: Sequence[int], row_of: Sequence[int], wide: Sequence[bool]
    ) -> StagedTable:
        """The table of the tensors that the kernel steps; see `StagedTable`."""
        return StagedTable(self, sizes, row_of, wide)


class StagedTable:
    """The tensors that the kernels of stages step; see `Table`."""

    def __init__(
        self,
        kernel: StagedKernel,
        sizes: Sequence[int],
        row_of: Sequence[int],
        wide: Sequence[bool],
    ) -> None:
        self.kernel = kernel
        self.tables = [one.table(sizes, row_of, wide) for one in kernel.kernels]

    def step(
        self,
        pointers: NDArray[np.int64],
        hypers: NDArray[np.float64],
        cells: Sequence[Cell],
        on_whole: OnMatrices = step_matrices,
    ) -> Part:
        """Steps every tensor in place, with its age and all its states.

        pointers, hypers: as in `Table.step`. cells: a cell for each tensor; rules on matrices
        change its states in place. on_whole: steps the cells by a rule on matrices.
        """
        own = self.kernel.layout
        for cell in cells:
            cell.states[HANDED] = torch.empty_like(cell.param)
        for kernel, table, rule in zip_longest(self.kernel.kernels, self.tables, self.kernel.rules):
            handed = np.array([[cell.states[HANDED].data_ptr()] for cell in cells], np.int64)
            labels = [*own.columns, HANDED]
            columns = [labels.index(label) for label in kernel.layout.columns]
            numbers = [own.hypers.index(label) for label in kernel.layout.hypers]
            yield from table.step(
                np.ascontiguousarray(np.concatenate([pointers, handed], 1)[:, columns]),
                np.ascontiguousarray(hypers[:, numbers]),
            )
            if rule:
                on_whole(rule, cells)
