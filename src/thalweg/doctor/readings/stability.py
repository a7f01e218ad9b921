"""How near the recipe in use is to the largest curvature at which it is stable."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.doctor.curvature.curvature import Preconditioned
from thalweg.doctor.curvature.eigenvalues import Eigenvalue, Extremes, extremes
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.doctor.readings.limits import GroupRule, group_rule
from thalweg.errors import UserError


@dataclass(frozen=True)
class GroupStability:
    """The stability of one parameter group, as if the parameters of other groups did not move.

    rule: the name of the rule that steps the group. lr: its rate at the coming step. sharpness: the
    highest eigenvalue of D^-1 H over its parameters, where D is the metric of the rule. limit: the
    largest eigenvalue that is stable at this rate.
    """

    rule: str
    lr: float
    sharpness: Eigenvalue
    limit: float

    @property
    def ratio(self) -> float:
        """The sharpness over its limit; above 1, steps are unstable."""
        return self.sharpness.value / self.limit


@dataclass(frozen=True)
class Stability:
    """How near to the limit of stability the next step is taken.

    ratio: the sharpness over its limit, 1 at the limit. Its eigenvector is the direction that
    oscillates first, in coordinates that are scaled by the metric and the limit. groups: the
    groups that hold parameters of the objective, in the optimizer's order. products: the number of
    products with the Hessian.
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
    """The highest eigenvalue of the Hessian in the optimizer's metric, over the stable limit.

    With D the metric of each parameter's rule and c its limit (`limits`), the ratio is the highest
    eigenvalue of (c D)^-1 H. Where it is above 1, steps on the quadratic approximation of the loss,
    with D as it is now, oscillate with growing size. For groups that differ in momentum the ratio
    is only approximate.

    A ratio of 1 is no fault: training with full batches goes there by itself and stays there, and
    training with large batches nearly does (Cohen et al. 2021, 2022). A ratio below 1 does not
    prove stability: with mini-batches, steps overshoot before it reaches 1 (Andreyev and
    Beneventano 2024); measure the loss along a step to see this. Clipping, decay and averaging are
    left out.

    objective: the objective of the model that the optimizer steps, before the next step. tolerance,
    steps and seed: as for `extremes`. Cost: that of `extremes`, once for all groups together and,
    where there are several, once for each. Raises UserError where no limit is known for a rule, for
    an adaptive rule before its first step, and for an optimizer of other parameters.
    """
    hessian = Hessian(objective)

    def sharpest(metric: Tensor) -> Extremes:
        curvature = Preconditioned(hessian, metric)
        return extremes(curvature, ends=["highest"], tolerance=tolerance, steps=steps, seed=seed)

    rules = {i: group_rule(optimizer, i) for i in groups_within(objective, optimizer)}
    metrics = {i: metric_of(objective, optimizer, i, rule) for i, rule in rules.items()}
    found = {i: sharpest(metric) for i, metric in metrics.items()}
    groups = tuple(
        GroupStability(rule.kind.__name__, rule.values["lr"], found[i].highest, rule.limit)
        for i, rule in rules.items()
    )
    products = sum(one.products for one in found.values())
    if len(groups) == 1:
        return Stability(relative(*groups), groups, products, hessian.conditions)
    whole = sharpest(torch.stack([metrics[i] / rule.limit for i, rule in rules.items()]).sum(0))
    return Stability(whole.highest, groups, products + whole.products, hessian.conditions)


def groups_within(objective: Objective, optimizer: torch.optim.Optimizer) -> list[int]:
    """The indices of the groups that hold parameters of the objective. UserError if none does."""
    held = set(map(id, objective.parameters))
    groups = enumerate(optimizer.param_groups)
    within = [i for i, group in groups if not held.isdisjoint(map(id, group["params"]))]
    if not within:
        raise UserError("The optimizer steps none of the parameters of the objective's model.")
    return within


def metric_of(
    objective: Objective, optimizer: torch.optim.Optimizer, index: int, rule: GroupRule
) -> Float[Tensor, " P"]:
    """The diagonal of D^-1; 0 for parameters of other groups."""
    held = set(map(id, optimizer.param_groups[index]["params"]))
    return objective.flat(
        [
            1 / rule.metric(param, optimizer.state.get(param, {}))
            if id(param) in held
            else torch.zeros_like(param)
            for param in objective.parameters
        ]
    )


def relative(group: GroupStability) -> Eigenvalue:
    """A group's sharpness in units of its limit."""
    sharpness, limit = group.sharpness, group.limit
    return replace(sharpness, value=sharpness.value / limit, error=sharpness.error / limit)
