"""Batch normalization put into a model that has none."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Collection, Iterator

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from thalweg.arguments import require_kind, require_list, word
from thalweg.errors import UserError, suggest
from thalweg.nn.batch_norm import BatchNorm

Layer = nn.Linear | _ConvNd
NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class UnitNorm(BatchNorm):
    """Batch normalization of a linear layer's units, which stand last: `[..., C]`."""

    def forward(self, input: Float[Tensor, "*rest C"]) -> Float[Tensor, "*rest C"]:
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


def with_batch_norm(model: nn.Module, *, but: Collection[str] | None = None) -> nn.Module:
    """A copy of the model with batch normalization behind its linear and convolutional layers.

    but: the layers to leave as they are, by their names in `model.named_modules()`; `()` for none.
        If not given, it is the one that was registered last, because it mostly gives the output,
        whose scale should be free, and which should not depend on the batch's other samples.

    Each layer becomes `nn.Sequential(layer, normalization)` at its place, before the activation as
    in Ioffe and Szegedy (2015), and loses its bias, which the normalization would subtract again:
    in training, the copy computes what the model would with normalizations between its layers.

    A warning names the layers that are left alone beside those of `but`: such as share parameters
    or stand in several places, such as have a normalization next to them (in the order of
    registration, activations and the like aside), and such as belong to a module of torch that uses
    their parameters itself, as `nn.MultiheadAttention` does. A layer that the model calls several
    times in a forward pass is normalized in each call, and averages the statistics of all.

    Raises UserError for a name in `but` that is not that of such a layer.
    """
    require_kind("the model", model, nn.Module, "a torch.nn.Module")
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Layer)}
    kept = list(layers)[-1:] if but is None else require_list("but", but, "a list of layers' names")
    for name in kept:
        if not isinstance(name, str) or name not in layers:
            said = word(name)
            hint = suggest(said, layers)
            raise UserError(f"the model has no linear or convolutional layer '{said}'; {hint}")
    reasons = {name: why for name, why in left_alone(model) if name not in kept}
    if reasons:
        named = ", ".join(f"'{name}' ({why})" for name, why in reasons.items())
        warnings.warn(f"with_batch_norm has left layers as they were: {named}.", stacklevel=2)
    # In a container, so that a model that is a layer can be replaced as well.
    whole = nn.Sequential(copy.deepcopy(model))
    for name in layers:
        if name not in kept and name not in reasons:
            place = f"0.{name}".rstrip(".")
            whole.set_submodule(place, normalized(whole.get_submodule(place)))
    return whole[0]


def left_alone(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The layers that cannot or need not be normalized, and why."""
    names = Counter(id(param) for _, param in model.named_parameters(remove_duplicate=False))
    followed = set(normalized_already(model))
    for name, module in model.named_modules():
        if not isinstance(module, Layer):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        if any(names[id(param)] > 1 for param in module.parameters()):
            yield name, "its parameters stand in several places"
        elif name in followed:
            yield name, "a normalization is next to it"
        elif owner is not module and is_torchs_own(owner):
            yield name, f"nn.{type(owner).__name__} uses its parameters"


def normalized_already(model: nn.Module) -> Iterator[str]:
    """The layers next to which a normalization was registered."""
    layer = None
    for name, module in model.named_modules():
        if isinstance(module, NORMALIZATIONS) and layer is not None:
            yield layer
        if isinstance(module, Layer):
            layer = name
        elif next(module.parameters(recurse=False), None) is not None:
            layer = None


def is_torchs_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.") and not isinstance(module, CONTAINERS)


def normalized(layer: nn.Module) -> nn.Module:
    """The layer without its bias, and a batch normalization of its units or channels."""
    assert isinstance(layer, Layer)
    layer.bias = None
    norm = (
        UnitNorm(int(layer.out_features))
        if isinstance(layer, nn.Linear)
        else BatchNorm(int(layer.out_channels))
    )
    together = nn.Sequential(layer, norm.to(layer.weight.device, layer.weight.dtype))
    return together.train(layer.training)
