"""Which compiler's kernel steps tensors of a kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from thalweg.fuse.kernel import DTYPES, Kernel, Table
from thalweg.fuse.matrices import on_matrices, stages_of
from thalweg.fuse.passes import places_of
from thalweg.fuse.staged_kernel import StagedKernel, StagedTable
from thalweg.fuse.triton_kernel import TritonKernel, TritonTable, runs_on
from thalweg.rules.rule import Rule

AnyKernel = Kernel | TritonKernel | StagedKernel
AnyTable = Table | TritonTable | StagedTable


def kernel_on(
    device: torch.device,
    chain: tuple[type[Rule], ...],
    dtype: torch.dtype,
    maximize: bool = False,
    backend: str = "auto",
) -> AnyKernel | None:
    """The kernel of a chain on a device, made once; none where eager arithmetic has to step.

    backend: the one compiler that may make it, or "auto".
    """
    if on_matrices(chain):
        kernels = [
            kernel_on(device, stage, dtype, maximize and not i, backend)
            for i, stage in enumerate(stages_of(chain)[::2])
        ]
        found = [kernel for kernel in kernels if kernel]
        return made(StagedKernel, chain, *found) if len(found) == len(kernels) else None
    if dtype not in DTYPES or places_of(chain, dtype) is None or nothing_is_compiled():
        return None
    if device.type == "cpu" and backend in ("auto", "numba"):
        return made(Kernel, chain, dtype, maximize)
    if runs_on(device) and backend in ("auto", "triton"):
        return made(TritonKernel, chain, dtype, maximize, device)
    return None


@cache
def made(kind: type[AnyKernel], *arguments: Any) -> AnyKernel:
    return kind(*arguments)


def nothing_is_compiled() -> bool:
    """Whether NUMBA_DISABLE_JIT is set: Numba would run compiled code's text as Python's."""
    from numba import config  # it takes its time to be imported

    return bool(config.DISABLE_JIT)  # type: ignore[attr-defined]
