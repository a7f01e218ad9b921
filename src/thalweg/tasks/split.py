"""Splitting samples into training, validation and test sets."""

from __future__ import annotations

import torch
from torch import Tensor

TensorSplit = tuple[Tensor, ...]


def shuffled_split(*tensors: Tensor) -> tuple[TensorSplit, TensorSplit, TensorSplit]:
    """Splits samples 60 : 20 : 20 in a fixed random order, which is the same at every call."""
    n = len(tensors[0])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    train, validation, test = order.tensor_split((n * 60 // 100, n * 80 // 100))
    return (
        tuple(tensor[train] for tensor in tensors),
        tuple(tensor[validation] for tensor in tensors),
        tuple(tensor[test] for tensor in tensors),
    )
