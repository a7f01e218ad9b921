"""Checksums of tensors and text, which detect other data and damaged files."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor


def checksum(parts: Iterable[object]) -> str:
    """Sixteen hexadecimal digits of tensors and plain data, in their order.

    Of tensors all bits count, with type and shape; of other values their `repr`.
    """
    found = blake2b(digest_size=8)
    for part in parts:
        head = f"{part.dtype} {list(part.shape)}" if isinstance(part, Tensor) else repr(part)
        found.update(head.encode() + b"\0")
        if isinstance(part, Tensor):
            found.update(bytes_of(part))
    return found.hexdigest()


def bytes_of(x: Tensor) -> memoryview:
    """A tensor's memory, without a copy if it is contiguous and on the CPU."""
    dense = x.detach().to_dense() if x.layout != torch.strided else x.detach()
    flat = dense.resolve_conj().resolve_neg().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
