"""Looks at many tensors in one call: where each lies, and a mark of all that a kernel relies on.

A question to PyTorch's C functions takes a few nanoseconds, an attribute in Python some 60.
`look.py` has this file compiled.
"""

# mypy: ignore-errors
# (The types are the compiler's.)

import numba
import numpy as np

from thalweg.fuse.pointer import pointer
from thalweg.fuse.torch_functions import (
    get_data_ptr,
    get_device_index,
    get_device_type,
    get_dim,
    get_dtype,
    get_layout,
    get_sizes,
    get_storage_numel,
    get_storage_offset,
    get_strides,
)

STRIDED = 0
UNREADABLE = -1


@numba.njit
def mixed(mark, number):
    """One number of both, in which their order counts."""
    mark = (mark ^ number) * np.int64(-7046029254386353131)
    return mark ^ (mark >> 32)


@numba.njit
def look(tensors, addresses, marks):
    """Fills `addresses` and `marks`, both `[n, c]`, from the implementations' addresses `[c, n]`.

    A mark stands for device, type, sizes and strides. It is `UNREADABLE` for a tensor that is not
    strided, and for one whose storage does not hold all its elements.
    """
    small, large = np.zeros(1, np.int32), np.zeros(1, np.int64)
    to_small, to_large = small.ctypes.data, large.ctypes.data
    handles = tensors.ctypes.data
    columns, rows = tensors.shape
    for k in range(rows):
        for i in range(columns):
            handle = handles + 8 * (i * rows + k)
            marks[k, i] = UNREADABLE
            if get_layout(handle, to_small) or small[0] != STRIDED:
                continue
            get_dtype(handle, to_small)
            mark = mixed(np.int64(1), small[0])
            get_device_type(handle, to_small)
            mark = mixed(mark, small[0])
            get_device_index(handle, to_small)
            mark = mixed(mark, small[0])
            get_dim(handle, to_large)
            dim = large[0]
            if get_sizes(handle, to_large):
                continue
            sizes = numba.carray(pointer(large[0]), dim, np.int64)
            if get_strides(handle, to_large):
                continue
            strides = numba.carray(pointer(large[0]), dim, np.int64)
            last, elements = np.int64(0), np.int64(1)
            for d in range(dim):
                mark = mixed(mixed(mark, sizes[d]), strides[d])
                last += (sizes[d] - 1) * strides[d]
                elements *= sizes[d]
            get_storage_offset(handle, to_large)
            end = large[0] + last + 1
            if get_storage_numel(handle, to_large) or (elements and large[0] < end):
                continue
            if get_data_ptr(handle, to_large) or (elements and not large[0]):
                continue
            addresses[k, i] = large[0]
            marks[k, i] = mark
