"""Recording the outputs of a model's layers while the model runs."""

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
    """One call of a layer: the layer's name, the number of the call from 0, and the output."""

    layer: str
    number: int
    output: Tensor


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[Call]]:
    """Records, within the block, the outputs of all layers that have a matrix of weights."""
    calls: list[Call] = []
    counts: Counter[str] = Counter()

    def note(name: str, _layer: nn.Module, _inputs: Any, output: Any) -> Any:
        tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
        if not tensors:
            return None
        calls.append(Call(name, counts[name], tensors[0]))
        counts[name] += 1
        # An activation in place must not overwrite the recorded output.
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
    """The values of each unit. Units are dimension 1 of `[N, C]` and `[N, C, H, W]`, and the last
    dimension of `[N, T, C]`; `[N]` is one unit.
    """
    if output.ndim < 2:
        return output.reshape(1, -1)
    return output.movedim(-1 if output.ndim == 3 else 1, 0).flatten(1)
