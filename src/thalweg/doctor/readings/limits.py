"""The largest curvature at which each rule is stable, and the metric of each rule.

On a quadratic of curvature h a rule with learning rate lr and momentum m is stable while h is below

    2 / lr                        plain descent
    (2 + 2 m) / lr                heavy ball (Polyak 1964)
    (2 + 2 m) / ((1 + 2 m) lr)    Nesterov

Cohen et al. 2021 showed the last two in networks. A rule that divides the gradient by D, element by
element, has these limits for the eigenvalues of D^-1 H, while D changes slowly. Adam's momentum is
a mean, so that its lr counts (1 - beta1) times (Cohen et al. 2022). Each rule defines its limit as
`edge`, and its D as `divisor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.settings import number
from thalweg.optim.state import Chain, age
from thalweg.rules import NAMED, RULES
from thalweg.rules.rule import Rule

Values = Mapping[str, Any]
"""A group's hyperparameters at its next step."""
ParameterState = Mapping[str, Any]


@dataclass(frozen=True)
class GroupRule:
    """The rule that steps a parameter group, and its hyperparameters at the next step."""

    kind: type[Rule]
    values: Values

    @property
    def limit(self) -> float:
        """The largest eigenvalue of D^-1 H that is stable."""
        lr = self.values["lr"]
        return float(self.kind.bound(self.values).edge()) / lr if lr > 0 else math.inf

    @property
    def adaptive(self) -> bool:
        """Whether the rule divides the gradient by one of its moments."""
        return self.kind.divisor is not Rule.divisor

    def metric(self, param: Tensor, state: ParameterState) -> Tensor:
        """D for one parameter. Raises UserError for an adaptive rule before its first step."""
        metric = torch.ones_like(param)
        if self.adaptive:
            # At an lr of 1, the rate is the remaining factor, which depends on the parameter's age.
            rule = replace(self, values={**self.values, "lr": 1.0}).at(state)
            metric = metric * rule.divisor() / float(rule.rate())
        return metric

    def at(self, state: ParameterState) -> Rule:
        """The rule with the state of a parameter. Raises UserError before the first step."""
        taken = age(state)
        if taken == 0:
            raise UserError(
                f"{self.kind.__name__} has no metric before its first step; take a step first."
            )
        return self.kind.bound({**self.values, **state, "t": taken})


def group_rule(optimizer: torch.optim.Optimizer, index: int) -> GroupRule:
    """The rule of the parameter group of this index. Raises UserError where no limit is known.

    optimizer: one of this package, or one of PyTorch's that this package has too.
    """
    chain, values = rules_of(optimizer, index)
    known = [rule for rule in chain if rule.edge is not Rule.edge]
    if not known:
        names = ", ".join(rule.__name__ for rule in chain) or type(optimizer).__name__
        with_edge = [name for name, rule in RULES.items() if rule.edge is not Rule.edge]
        raise UserError(
            f"No limit of stability is known for {names}, only for {', '.join(with_edge)}."
        )
    return GroupRule(known[0], values)


def rules_of(optimizer: torch.optim.Optimizer, index: int) -> tuple[Chain, Values]:
    """The rules of a parameter group and its values; no rules where they are not known."""
    group = optimizer.param_groups[index]
    if isinstance(optimizer, RuleOptimizer):
        return optimizer.chain(group), optimizer.values(index)
    kind, values = type(optimizer), {name: number(value) for name, value in group.items()}
    ours = NAMED.get(kind.__name__) if kind.__module__.startswith("torch.optim") else None
    return ours.chain(values) if ours else (), values
