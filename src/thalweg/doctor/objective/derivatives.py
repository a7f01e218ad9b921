"""First derivatives, and backward passes that keep their graph for the next pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

UNDERIVABLE = ("is not implemented", "once_differentiable", "double backward")
"""Parts of PyTorch's error messages for an operation that has no second derivative."""


def derivative(of: Tensor, by: Tensor, *, further: bool = False) -> Tensor:
    """The derivative of a scalar; 0 where the scalar does not depend on `by`.

    further: whether the derivative can be differentiated again.
    """
    if not of.requires_grad:
        return torch.zeros_like(by)
    (found,) = torch.autograd.grad(
        of, by, create_graph=further, allow_unused=True, materialize_grads=True
    )
    return found


def pulled(
    of: Sequence[Tensor], by: Sequence[Tensor], vectors: Sequence[Tensor], *, batched: bool
) -> tuple[Tensor, ...]:
    """The sum of (d of / d by)' v over pairs of `of` and v, for each of `by`; the graph is kept.

    batched: whether each v is a block `[K, ...]`; each result then begins with the same K.
    """
    pairs = [(o, v) for o, v in zip(of, vectors, strict=True) if o.requires_grad]
    if not pairs:
        block = vectors[0].shape[:1] if batched else ()
        return tuple(b.new_zeros(*block, *b.shape) for b in by)
    return torch.autograd.grad(
        [o for o, _ in pairs],
        by,
        [v for _, v in pairs],
        retain_graph=True,
        is_grads_batched=batched,
        allow_unused=True,
        materialize_grads=True,
    )


def is_underivable(error: RuntimeError) -> bool:
    """Whether PyTorch raised an error because an operation has no second derivative."""
    return any(words in str(error) for words in UNDERIVABLE)


def cut_off(recorded: Tensor) -> bool:
    """Whether the graph of a tensor was cut by `once_differentiable`.

    A full backward pass raises an error at such a cut. A backward pass to given tensors raises no
    error, but its result lacks all terms from behind the cut.
    """
    seen: set[Node] = set()
    ahead = [recorded.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    return False
