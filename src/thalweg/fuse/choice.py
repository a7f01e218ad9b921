"""Chooses the compiler whose kernel steps tensors of a device and a type."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from thalweg.fuse.kernel import DTYPES, Kernel, Table
from thalweg.fuse.matrices import on_matrices, stages_of
from thalweg.fuse.passes import sum_places
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
    """The kernel of a chain for a device and a type; None where only eager arithmetic can step.

    The same arguments give the same kernel. backend: the only compiler that may be used, "numba" or
    "triton"; "auto" allows each.
    """
    if on_matrices(chain):
        kernels = [
            kernel_on(device, stage, dtype, maximize=maximize and not i, backend=backend)
            for i, stage in enumerate(stages_of(chain)[::2])
        ]
        found = [kernel for kernel in kernels if kernel]
        return made(StagedKernel, chain, *found) if len(found) == len(kernels) else None
    if dtype not in DTYPES or sum_places(chain, dtype) is None or nothing_is_compiled():
        return None
    if device.type == "cpu" and backend in ("auto", "numba"):
        return made(Kernel, chain, dtype, maximize)
    if runs_on(device) and backend in ("auto", "triton"):
        return made(TritonKernel, chain=chain, dtype=dtype, maximize=maximize, device=device)
    return None


@cache
def made(kind: type[AnyKernel], *arguments: Any, **settings: Any) -> AnyKernel:
    """A kernel of this class; the same arguments give the same kernel."""
    return kind(*arguments, **settings)


def nothing_is_compiled() -> bool:
    """Whether NUMBA_DISABLE_JIT is set: Numba would then run the kernels as Python code."""
    from numba import config  # the import of Numba is slow

    return bool(config.DISABLE_JIT)  # type: ignore[attr-defined]
