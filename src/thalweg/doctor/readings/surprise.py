"""Adam's early warning: gradients that are larger than its second moment expects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.doctor.readings.limits import Stepping, stepping
from thalweg.errors import UserError
from thalweg.optim.state import age


@dataclass(frozen=True)
class Surprise:
    """How a tensor's gradient compares with what its optimizer expects.

    ratio: the root mean square of g / D over the tensor's elements, where D is what the optimizer
    divides by. It is about 1 where the second moment is right. Far above 1 the moment
    under-estimates the gradient, and the step is too long.
    """

    parameter: str
    ratio: float


def surprises(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Surprise]:
    """The surprise of each tensor, the largest first.

    Call it after the backward pass and before the step, with unscaled and unclipped gradients. In
    Adam, Wortsman et al. 2023 saw it rise above 2.3 one to eight steps before the loss spiked: the
    earliest sign that is known. For AdaGrad D only grows, so that the ratio falls from 1.

    Cost: a pass over the gradients. Raises UserError for an optimizer that divides by no moment,
    and where none of its tensors has both a gradient and a moment.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    found = [
        Surprise(names[id(param)], ratio(steps, param, optimizer.state[param]))
        for steps, param in adaptive(optimizer)
        if id(param) in names and param.grad is not None and age(optimizer.state.get(param, {}))
    ]
    if not found:
        raise UserError("No tensor has a gradient and a second moment yet; look after a step.")
    return sorted(found, key=lambda surprise: -surprise.ratio)


def adaptive(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Stepping, Tensor]]:
    """The parameters and how they are stepped; UserError where the rule divides by nothing."""
    for index, group in enumerate(optimizer.param_groups):
        steps = stepping(optimizer, index)
        if not steps.adaptive:
            raise UserError(f"{steps.rule.__name__} has no second moment to compare with.")
        for param in group["params"]:
            yield steps, param


def ratio(steps: Stepping, param: Tensor, state: dict[str, Tensor]) -> float:
    assert param.grad is not None  # the caller asks for no other
    scaled = param.grad.to_dense() / steps.at(state).divisor()
    return float(scaled.square().mean().sqrt())
