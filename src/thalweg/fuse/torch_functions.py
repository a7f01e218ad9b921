"""PyTorch's C functions that describe a tensor, for compiled code.

They belong to PyTorch's stable interface (`torch/csrc/inductor/aoti_torch/c/shim.h`). Each takes
the address of a handle and the address to which it writes its answer. It returns 0 on success.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch
from llvmlite import binding
from numba import types

# On Windows, `torch._C` does not export the functions of the libraries that it loads.
library = ctypes.CDLL(torch._C.__file__ if os.name == "posix" else "torch_cpu")


def getter(what: str) -> Any:
    """The function that reads one property of a tensor."""
    name = f"aoti_torch_get_{what}"
    binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return types.ExternalFunction(name, types.int32(types.intp, types.intp))


get_layout, get_dtype = getter("layout"), getter("dtype")
get_device_type, get_device_index = getter("device_type"), getter("device_index")
get_dim, get_sizes, get_strides = getter("dim"), getter("sizes"), getter("strides")
get_storage_numel, get_storage_offset = getter("storage_numel"), getter("storage_offset")
get_data_ptr = getter("data_ptr")
