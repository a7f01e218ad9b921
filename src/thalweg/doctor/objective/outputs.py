"""What the layers of a model put out, noted on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class Call(NamedTuple):
    """A layer's name, which call of it this is, from 0, and its output on the way to the loss."""

    layer: str
    number: int
    output: Tensor


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[Call]]:
    """Notes what the layers put out within the block."""
    calls: list[Call] = []
    counts: Counter[str] = Counter()

    def note(name: str, _layer: nn.Module, _inputs: Any, output: Any) -> Any:
        tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
        if not tensors:
            return None
        calls.append(Call(name, counts[name], tensors[0]))
        counts[name] += 1
        # What is put out is not to be overwritten by an activation in place.
        return output.clone() if isinstance(output, Tensor) else None

    handles = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in model.named_modules()
        if any(param.ndim > 1 for param in layer.parameters(recurse=False))
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def units_first(output: Float[Tensor, "N ..."]) -> Float[Tensor, "units values"]:
    """Channels, dimension 1, of `[N, C]` and `[N, C, H, W]`; the last of `[N, T, C]`."""
    return output.movedim(-1 if output.ndim == 3 else 1, 0).flatten(1)
