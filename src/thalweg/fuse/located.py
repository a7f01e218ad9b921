"""Reads where tensors lie in memory, and whether a kernel still fits them."""

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
"""Gives the address of the C++ object that PyTorch has for a tensor."""


def implementations_of(tensors: Iterable[Tensor]) -> NDArray[np.int64]:
    """The addresses of the C++ objects of tensors; AttributeError for what is not a tensor."""
    return np.fromiter(map(implementation, tensors), np.int64)


class Located:
    """The addresses and the marks of tensors, `[n, c]` each; see `located_kernel.locate`.

    implementations: the addresses of their C++ objects, `[c, n]`. tensors: the tensors themselves.
    They are held here, so that no other thread can free them.
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
    """The compiled kernel. The import stands here because its compiler is slow to import."""
    from thalweg.fuse import located_kernel
    from thalweg.fuse.kernel_file import keep

    keep(located_kernel, ["locate"], getsource(located_kernel))
    return located_kernel
