"""How near the recipe in use is to the edge of stability."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.doctor.curvature.curvature import Preconditioned
from thalweg.doctor.curvature.eigenvalues import Eigenvalue, Extremes, extremes
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.doctor.readings.limits import Stepping, stepping
from thalweg.errors import UserError


@dataclass(frozen=True)
class GroupStability:
    """One parameter group, as if the others stood still.

    rule: that steps it. lr: at the coming step. sharpness: the highest eigenvalue of D^-1 H over
    its parameters, D the rule's own metric. limit: the largest that is stable at this rate.
    """

    rule: str
    lr: float
    sharpness: Eigenvalue
    limit: float

    @property
    def ratio(self) -> float:
        """1 is the edge."""
        return self.sharpness.value / self.limit


@dataclass(frozen=True)
class Stability:
    """How near the edge the next step is taken.

    ratio: 1 is the edge; its eigenvector is the direction that oscillates first, in coordinates
    where all parameters are equally near. groups: in the optimizer's order, but for those without a
    parameter of the objective. products: what it cost.
    """

    ratio: Eigenvalue
    groups: tuple[GroupStability, ...]
    products: int
    conditions: Conditions


def stability(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    tolerance: float = 0.01,
    steps: int = 200,
    seed: int = 0,
) -> Stability:
    """The highest eigenvalue of the Hessian in the optimizer's metric, over what its rate allows.

    With D the metric of each parameter's rule and c its limit (`limits`), the ratio is the highest
    eigenvalue of (c D)^-1 H: on the quadratic that the loss is here, and with D as it is now, steps
    oscillate with growing size where it is above 1. Groups that differ in momentum share the limit
    of each only approximately.

    To be at the edge is no fault in itself: training with full batches goes there by itself and
    stays, with large ones nearly so (Cohen et al. 2021, 2022). With mini-batches steps overshoot
    while the ratio is still below 1 (Andreyev and Beneventano 2024), so that a ratio below 1 does
    not prove safety: look at a step. Clipping, decay and averaging are left out.

    objective: made of the model that the optimizer steps, at the step to come. tolerance, steps and
    seed: as for `extremes`. Cost: that of `extremes`, once for all and once for each group where
    there are several. Raises UserError where no limit is known for a rule, for an adaptive rule
    before its first step, and for an optimizer of other parameters.
    """
    hessian = Hessian(objective)

    def sharpest(metric: Tensor) -> Extremes:
        curvature = Preconditioned(hessian, metric)
        return extremes(curvature, ends=["highest"], tolerance=tolerance, steps=steps, seed=seed)

    ways = {i: stepping(optimizer, i) for i in groups_within(objective, optimizer)}
    metrics = {i: metric_of(objective, optimizer, i, way) for i, way in ways.items()}
    looks = {i: sharpest(metric) for i, metric in metrics.items()}
    groups = tuple(
        GroupStability(way.rule.__name__, way.values["lr"], looks[i].highest, way.limit)
        for i, way in ways.items()
    )
    products = sum(look.products for look in looks.values())
    if len(groups) == 1:
        return Stability(relative(*groups), groups, products, hessian.conditions)
    whole = sharpest(torch.stack([metrics[i] / way.limit for i, way in ways.items()]).sum(0))
    return Stability(whole.highest, groups, products + whole.products, hessian.conditions)


def groups_within(objective: Objective, optimizer: torch.optim.Optimizer) -> list[int]:
    """The parameter groups that hold parameters of the objective; UserError if none does."""
    held = set(map(id, objective.parameters))
    groups = enumerate(optimizer.param_groups)
    within = [i for i, group in groups if not held.isdisjoint(map(id, group["params"]))]
    if not within:
        raise UserError("The optimizer steps none of the parameters of the objective's model.")
    return within


def metric_of(
    objective: Objective, optimizer: torch.optim.Optimizer, index: int, way: Stepping
) -> Float[Tensor, " P"]:
    """The diagonal of D^-1, 0 for what is not in the group."""
    held = set(map(id, optimizer.param_groups[index]["params"]))
    return objective.flat(
        [
            1 / way.metric(param, optimizer.state.get(param, {}))
            if id(param) in held
            else torch.zeros_like(param)
            for param in objective.parameters
        ]
    )


def relative(group: GroupStability) -> Eigenvalue:
    """A group's sharpness in units of its limit."""
    sharpness, limit = group.sharpness, group.limit
    return replace(sharpness, value=sharpness.value / limit, error=sharpness.error / limit)
