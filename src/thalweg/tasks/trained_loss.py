"""A loss with parameters of its own, which are trained with those of the model.

A model gets a copy of the loss as a part, and puts the parameters of this copy beside its outputs.
So they are stepped, saved and stacked like all others.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import register_dataclass

PART = "trained_loss"
"""The name of the part of a model that is its loss."""


@dataclass
class WithLoss:
    """The outputs of a model, and the parameters and buffers of its loss, by name."""

    outputs: Any
    tensors: dict[str, Tensor]


register_dataclass(WithLoss)


class TrainedLoss:
    """`loss(outputs, targets)` with the parameters that come with the outputs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, outputs: WithLoss, targets: Any) -> Any:
        return functional_call(self.module, outputs.tensors, (outputs.outputs, targets))

    def put_into(self, model: nn.Module) -> None:
        """Makes a copy of the loss a part of a model."""
        model.add_module(PART, copy.deepcopy(self.module))
        model.register_forward_hook(with_loss)


def with_loss(model: nn.Module, _: Any, outputs: Any) -> WithLoss:
    """A hook of a model: puts the parameters and buffers of its loss beside its outputs."""
    part = model.get_submodule(PART)
    return WithLoss(outputs, {**dict(part.named_parameters()), **dict(part.named_buffers())})


def bare(outputs: Any) -> Any:
    """The outputs of a model without what belongs to its loss."""
    return outputs.outputs if isinstance(outputs, WithLoss) else outputs


def is_trained(loss: Any) -> bool:
    """Whether a loss has parameters to train."""
    return isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters())
