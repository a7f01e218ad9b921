"""Parameters in shards: each process steps the part that it has, and norms are over all parts."""

# `torch.distributed.tensor` takes half a second to import, and who has a DTensor has done so: it is
# imported where there is one.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    return local(x) is not x


def local(x: Tensor) -> Tensor:
    """The part of a DTensor that lies in this process; any other tensor as it is.

    The DTensor's `to_local` would make another tensor every time, and a node of autograd's graph.
    """
    part: Tensor = getattr(x, "_local_tensor", x)
    return part


def local_gradient(grad: Any, param: Any) -> Tensor:
    """The part of a gradient that belongs to what is here of its parameter.

    The gradient of a DTensor may lie otherwise than it does, or be parts that have yet to be added.
    """
    return local(grad.redistribute(placements=param.placements) if is_sharded(grad) else grad)


def placed_as(param: Any, part: Tensor) -> Tensor:
    """The state of a parameter, from what is here of it; with dimensions of its own in front."""
    if not is_sharded(param):
        return part
    from torch.distributed.tensor import DTensor

    own = part.shape[: part.ndim - param.ndim]
    return DTensor.from_local(
        part,
        param.device_mesh,
        [moved(placement, len(own)) for placement in param.placements],
        run_check=False,
        shape=own + param.shape,
        stride=(*(param.numel() for _ in own), *param.stride()),
    )


def moved(placement: Any, by: int) -> Any:
    """How a tensor lies that has so many more dimensions in front."""
    if placement.is_replicate():
        return placement
    strides = {"split_factor": placement.split_factor} if hasattr(placement, "split_factor") else {}
    return type(placement)(placement.dim + by, **strides)


def total(squares: Tensor, params: Sequence[Tensor], model: Sequence[Tensor]) -> Tensor:
    """The sum over a whole model, from the sums of squares of what is here of some parameters.

    Shards are summed over the processes that they lie in, with one all-reduce for all that lie in
    the same way; what each process has all of counts once. model: all parameters, in an order that
    is the same everywhere: every process takes part, whatever it has gradients of.
    """
    ways = [way(param) for param in params]
    sums = []
    for each in dict.fromkeys(map(way, model)):
        alike = torch.tensor([other == each for other in ways], dtype=torch.bool)
        sums.append(summed(squares[alike].sum(), each))
    return torch.stack(sums).sum()


def way(param: Any) -> Any:
    """How a parameter lies, as far as a sum over it can tell; None for one that is not sharded."""
    if not is_sharded(param):
        return None
    from torch.distributed.tensor import Partial, Replicate

    parts = (Replicate() if each.is_replicate() else Partial() for each in param.placements)
    return param.device_mesh, tuple(parts)


def summed(part: Tensor, way: Any) -> Tensor:
    """A sum over what lies in this way, from the part of it that is here."""
    if way is None:
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(part, *way, run_check=False).full_tensor()
