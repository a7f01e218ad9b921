"""Reads the address of many tensors in one call, and a mark of all that a kernel relies on.

A call of PyTorch's C functions takes a few nanoseconds; an attribute in Python takes about 60.
`located.py` compiles this file.
"""

# mypy: ignore-errors
# (The compiler finds the types.)

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
    """A hash of two numbers, which depends on their order."""
    mark = (mark ^ number) * np.int64(-7046029254386353131)
    return mark ^ (mark >> 32)


@numba.njit
def locate(tensors, addresses, marks):
    """Fills `addresses` and `marks`, both `[n, c]`, for the tensors whose C++ objects are given.

    tensors: the addresses of these objects, `[c, n]`. A mark is a hash of the device, the type, the
    sizes and the strides. It is `UNREADABLE` for a tensor that is not strided, and for a tensor
    whose storage does not hold all its elements.
    """
    small, large = np.zeros(1, np.int32), np.zeros(1, np.int64)
    answer, wide_answer = small.ctypes.data, large.ctypes.data
    handles, to = tensors.ctypes.data, addresses.ctypes.data
    columns, rows = tensors.shape
    # The first loop reads little of each tensor. Most of its time is waiting for memory; with short
    # iterations the processor waits for several tensors at once.
    for i in range(columns):
        for k in range(rows):
            handle = handles + 8 * (i * rows + k)
            readable = get_layout(handle, answer) == 0 and small[0] == STRIDED
            if not readable or get_data_ptr(handle, to + 8 * (k * columns + i)):
                marks[k, i] = UNREADABLE
    for i in range(columns):
        for k in range(rows):
            if marks[k, i] == UNREADABLE:
                continue
            handle = handles + 8 * (i * rows + k)
            get_dtype(handle, answer)
            mark = mixed(np.int64(1), small[0])
            get_device_type(handle, answer)
            mark = mixed(mark, small[0])
            get_device_index(handle, answer)
            mark = mixed(mark, small[0])
            get_dim(handle, wide_answer)
            dim = large[0]
            get_sizes(handle, wide_answer)
            sizes = numba.carray(pointer(large[0]), dim, np.int64)
            get_strides(handle, wide_answer)
            strides = numba.carray(pointer(large[0]), dim, np.int64)
            last, elements = np.int64(0), np.int64(1)
            for d in range(dim):
                mark = mixed(mixed(mark, sizes[d]), strides[d])
                last += (sizes[d] - 1) * strides[d]
                elements *= sizes[d]
            get_storage_offset(handle, wide_answer)
            end = large[0] + last + 1
            get_storage_numel(handle, wide_answer)
            whole = elements == 0 or (large[0] >= end and addresses[k, i] != 0)
            marks[k, i] = mark if whole else UNREADABLE
