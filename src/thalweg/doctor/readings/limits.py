"""How much curvature each rule can take before it oscillates, and the metric that it moves in.

On a quadratic of curvature h a rule with learning rate lr and momentum m is stable while h is below

    2 / lr                        plain descent
    (2 + 2 m) / lr                heavy ball (Polyak 1964)
    (2 + 2 m) / ((1 + 2 m) lr)    Nesterov

Cohen et al. 2021 for the last two in networks. A rule that divides the gradient by D, element by
element, has these limits for the eigenvalues of D^-1 H, while D changes slowly; Adam's momentum is
a mean, so its lr counts (1 - beta1) times (Cohen et al. 2022). Each rule says its own as its `edge`
and its `divisor`.
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
"""A group's hyperparameters at its coming step."""
State = Mapping[str, Any]


@dataclass(frozen=True)
class Stepping:
    """How a parameter group is stepped: its rule, and its hyperparameters at the coming step."""

    rule: type[Rule]
    values: Values

    @property
    def limit(self) -> float:
        """The largest eigenvalue of D^-1 H that is stable."""
        lr = self.values["lr"]
        return float(self.rule.bound(self.values).edge()) / lr if lr > 0 else math.inf

    @property
    def adaptive(self) -> bool:
        """Whether the gradient is divided by a moment of its own."""
        return self.rule.divisor is not Rule.divisor

    def metric(self, param: Tensor, state: State) -> Tensor:
        """D for one parameter, of its shape; UserError for an adaptive rule before a first step."""
        metric = torch.ones_like(param)
        if self.adaptive:
            # At an lr of 1, the rate is what slows a parameter beside, by its age.
            rule = replace(self, values={**self.values, "lr": 1.0}).at(state)
            metric = metric * rule.divisor() / float(rule.rate())
        return metric

    def at(self, state: State) -> Rule:
        """The rule at the state of a parameter, after its last step; UserError before the first."""
        taken = age(state)
        if taken == 0:
            raise UserError(
                f"{self.rule.__name__} has no metric before its first step; take one, then look."
            )
        return self.rule.bound({**self.values, **state, "t": taken})


def stepping(optimizer: torch.optim.Optimizer, index: int) -> Stepping:
    """How the parameter group of this index is stepped; UserError where no limit is known.

    optimizer: one of this package, or one of PyTorch's that this package has too.
    """
    chain, values = rules_of(optimizer, index)
    known = [rule for rule in chain if rule.edge is not Rule.edge]
    if not known:
        names = ", ".join(rule.__name__ for rule in chain) or type(optimizer).__name__
        with_edge = [name for name, rule in RULES.items() if rule.edge is not Rule.edge]
        raise UserError(
            f"No limit of stability is known for {names}; known are {', '.join(with_edge)}."
        )
    return Stepping(known[0], values)


def rules_of(optimizer: torch.optim.Optimizer, index: int) -> tuple[Chain, Values]:
    """The rules of a parameter group, none where they are not known, and its values."""
    group = optimizer.param_groups[index]
    if isinstance(optimizer, RuleOptimizer):
        return optimizer.chain(group), optimizer.values(index)
    kind, values = type(optimizer), {name: number(value) for name, value in group.items()}
    ours = NAMED.get(kind.__name__) if kind.__module__.startswith("torch.optim") else None
    return ours.chain(values) if ours else (), values
