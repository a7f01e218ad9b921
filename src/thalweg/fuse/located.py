"""Where tensors lie at this moment, and whether they are still what a kernel was made for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from inspect import getsource
from operator import attrgetter
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

implementation = attrgetter("_cdata")
"""The address of what PyTorch keeps of a tensor behind Python's object."""


def asked(tensors: Iterable[Tensor]) -> NDArray[np.int64]:
    """The addresses of what PyTorch keeps of tensors; AttributeError for what is no tensor."""
    return np.fromiter(map(implementation, tensors), np.int64)


class Located:
    """The addresses and the marks of tensors, `[n, c]` each; see `located_kernel.locate`.

    implementations: what `asked` gives for them, `[c, n]`. tensors: all of them, which live as long
    as this, whatever other threads do meanwhile.
    """

    def __init__(self, implementations: NDArray[np.int64], tensors: Any) -> None:
        self.tensors = tensors
        self.addresses, self.marks = np.zeros((2, *reversed(implementations.shape)), np.int64)
        compiled().locate(implementations, self.addresses, self.marks)

    @property
    def readable(self) -> bool:
        """Whether all tensors have memory of their own that a kernel can step through."""
        return not (self.marks == compiled().UNREADABLE).any()


@cache
def compiled() -> ModuleType:
    """The compiled kernel. Its compiler takes its time to be imported."""
    from thalweg.fuse import located_kernel
    from thalweg.fuse.kernel_file import keep

    keep(located_kernel, ["locate"], getsource(located_kernel))
    return located_kernel
