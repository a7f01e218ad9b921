"""Surprise, an early warning of Adam: gradients that are larger than its second moment expects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.doctor.readings.limits import GroupRule, group_rule
from thalweg.errors import UserError
from thalweg.optim.state import age


@dataclass(frozen=True)
class Surprise:
    """A tensor's gradient, compared with the gradient that its optimizer expects.

    ratio: the root mean square of g / D over the tensor's elements, where D is the divisor of the
    optimizer. It is about 1 where the second moment is right. If it is far above 1, the moment
    under-estimates the gradient, and the step is too long.
    """

    parameter: str
    ratio: float


def surprises(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Surprise]:
    """The surprise of each tensor, the largest first.

    Call this after the backward pass and before the step, with unscaled and unclipped gradients.
    With Adam, Wortsman et al. 2023 found that it rises above 2.3 one to eight steps before the loss
    has a spike; no earlier sign is known. For AdaGrad D only grows, so the ratio falls from 1.

    Cost: a pass over the gradients. Raises UserError for an optimizer that divides by no moment,
    and where none of its tensors has both a gradient and a moment.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    found = [
        Surprise(names[id(param)], ratio(rule, param, optimizer.state[param]))
        for rule, param in adaptive(optimizer)
        if id(param) in names and param.grad is not None and age(optimizer.state.get(param, {}))
    ]
    if not found:
        raise UserError("No tensor has a gradient and a second moment yet; take a step first.")
    return sorted(found, key=lambda surprise: -surprise.ratio)


def adaptive(optimizer: torch.optim.Optimizer) -> Iterator[tuple[GroupRule, Tensor]]:
    """The parameters with their rules. Raises UserError where a rule has no divisor."""
    for index, group in enumerate(optimizer.param_groups):
        rule = group_rule(optimizer, index)
        if not rule.adaptive:
            raise UserError(f"{rule.kind.__name__} has no second moment to compare with.")
        for param in group["params"]:
            yield rule, param


def ratio(rule: GroupRule, param: Tensor, state: dict[str, Tensor]) -> float:
    assert param.grad is not None  # the caller passes only parameters with a gradient
    scaled = param.grad.to_dense() / rule.at(state).divisor()
    return float(scaled.square().mean().sqrt())
