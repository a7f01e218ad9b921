"""Putting batch normalization into a model that has none."""

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
    """Batch normalization of a linear layer's units, which are the last dimension: `[..., C]`."""

    def forward(self, input: Float[Tensor, "*rest C"]) -> Float[Tensor, "*rest C"]:
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


def with_batch_norm(model: nn.Module, *, but: Collection[str] | None = None) -> nn.Module:
    """A copy of the model with batch normalization after its linear and convolutional layers.

    but: the names in `model.named_modules()` of layers that are not changed; `()` for none. If not
        given, it is the layer that was registered last. In most models that layer gives the output,
        whose scale should be free, and which should not depend on other samples of the batch.

    Each layer becomes `nn.Sequential(layer, normalization)`, before the activation as in Ioffe and
    Szegedy (2015). It loses its bias, because the normalization would subtract it again.

    A warning names the other layers that are not changed: those that share parameters or are used
    in several places; those with a normalization next to them (in the order of registration,
    without activations and the like); and those inside a module of torch that uses their parameters
    itself, as `nn.MultiheadAttention` does. A layer that the model calls several times in a forward
    pass is normalized in each call, and its running statistics are over all calls.

    Raises UserError for a name in `but` that is not the name of a linear or convolutional layer.
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
        warnings.warn(f"with_batch_norm has not changed these layers: {named}.", stacklevel=2)
    # The model is put into a container, so that it can be replaced if it is a layer itself.
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
            yield name, "its parameters are used in several places"
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
    """The layer without its bias, and then a batch normalization of its units or channels."""
    assert isinstance(layer, Layer)
    layer.bias = None
    norm = (
        UnitNorm(int(layer.out_features))
        if isinstance(layer, nn.Linear)
        else BatchNorm(int(layer.out_channels))
    )
    together = nn.Sequential(layer, norm.to(layer.weight.device, layer.weight.dtype))
    return together.train(layer.training)
