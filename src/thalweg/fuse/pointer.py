"""Turns an address into a pointer for Numba. Printed kernels need nothing else beyond Numba."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def pointer(_typing: Any, _address: Any) -> Any:
    """The pointer, as `numba.carray` takes it, to an int64 address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate
