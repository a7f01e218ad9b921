"""How much curvature each rule can take before it oscillates, and the metric that it moves in.

On a quadratic of curvature h a rule with learning rate lr and momentum m is stable while h is below

    2 / lr                        plain descent
    (2 + 2 m) / lr                heavy ball (Polyak 1964)
    (2 + 2 m) / ((1 + 2 m) lr)    Nesterov

Cohen et al. 2021 for the last two in networks. A rule that divides the gradient by D, element by
element, has these limits for the eigenvalues of D^-1 H, while D changes slowly; Adam's momentum is
a mean, so its lr counts (1 - beta1) times (Cohen et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg import optim, rules
from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.settings import number
from thalweg.optim.state import age
from thalweg.rules.rule import Rule

Values = Mapping[str, Any]
"""A group's hyperparameters at its coming step, and `t`, the steps that a parameter has taken."""
State = Mapping[str, Any]


@dataclass(frozen=True)
class Stepping:
    """How a parameter group is stepped: its rule, and its hyperparameters at the coming step."""

    rule: type[Rule]
    values: Values

    @property
    def limit(self) -> float:
        """The largest eigenvalue of D^-1 H that is stable."""
        return LIMITS[self.rule](self.values)

    @property
    def adaptive(self) -> bool:
        """Whether the gradient is divided by a moment of its own."""
        return self.rule in SPREADS

    def divisor(self, param: Tensor, state: State) -> Tensor:
        """D for one parameter, of its shape; UserError for an adaptive rule before a first step."""
        if not self.adaptive:
            return torch.ones_like(param)
        slowed = SLOWED.get(self.rule)
        return self.spread(state) * (slowed(self.aged(state)) if slowed else 1.0)

    def spread(self, state: State) -> Tensor:
        """What an adaptive rule divides the gradient of one parameter by."""
        return SPREADS[self.rule](state, self.aged(state))

    def aged(self, state: State) -> Values:
        """The values with the age of a parameter; UserError before its first step."""
        taken = age(state)
        if taken == 0:
            raise UserError(
                f"{self.rule.__name__} has no metric before its first step; take one, then look."
            )
        return {**self.values, "t": taken}


def stepping(optimizer: torch.optim.Optimizer, index: int) -> Stepping:
    """How the parameter group of this index is stepped; UserError where no limit is known.

    optimizer: one of this package, or one of PyTorch's that this package has too.
    """
    chain, values = rules_of(optimizer, index)
    known = [rule for rule in chain if rule in LIMITS]
    if not known:
        names = ", ".join(rule.__name__ for rule in chain) or type(optimizer).__name__
        raise UserError(
            f"No limit of stability is known for {names}; known are"
            f" {', '.join(rule.__name__ for rule in LIMITS)}."
        )
    return Stepping(known[0], values)


def rules_of(optimizer: torch.optim.Optimizer, index: int) -> tuple[tuple[type[Rule], ...], Values]:
    """The rules of a parameter group, none where they are not known, and its values."""
    group = optimizer.param_groups[index]
    if isinstance(optimizer, RuleOptimizer):
        return optimizer.chain(group), optimizer.values(index)
    return chain_of(optimizer, group), {name: number(value) for name, value in group.items()}


def chain_of(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> tuple[type[Rule], ...]:
    """The rules of PyTorch's optimizer: those of ours of that name, with the group's settings."""
    kind = type(optimizer)
    ours = (
        getattr(optim, kind.__name__, None) if kind.__module__.startswith("torch.optim") else None
    )
    if ours is None:
        return ()
    # A chain depends on its group alone. Older versions of PyTorch have no such setting.
    chain: tuple[type[Rule], ...] = ours.chain(
        optimizer, {"decoupled_weight_decay": kind is torch.optim.AdamW, **group}
    )
    return chain


def heavy_ball(momentum: float, lr: float) -> float:
    return (2 + 2 * momentum) / lr if lr > 0 else math.inf


def nesterov(momentum: float, lr: float) -> float:
    return heavy_ball(momentum, (1 + 2 * momentum) * lr)


def plain(values: Values) -> float:
    return heavy_ball(0.0, values["lr"])


def with_momentum(values: Values) -> float:
    return heavy_ball(values["momentum"], values["lr"])


def looking_ahead(values: Values) -> float:
    return nesterov(values["momentum"], values["lr"])


def dampened(values: Values) -> float:
    return heavy_ball(values["momentum"], values["lr"] * (1 - values["dampening"]))


def mean_momentum(values: Values) -> float:
    beta1, _ = values["betas"]
    return heavy_ball(beta1, values["lr"] * (1 - beta1))


LIMITS: dict[type[Rule], Callable[[Values], float]] = {
    rules.SGD: plain,
    rules.SGDMomentum: dampened,
    rules.SGDNesterov: looking_ahead,
    rules.Momentum: with_momentum,
    rules.Nesterov: looking_ahead,
    rules.Adagrad: plain,
    rules.RMSprop: plain,
    rules.CenteredRMSprop: plain,
    rules.RMSpropMomentum: with_momentum,
    rules.CenteredRMSpropMomentum: with_momentum,
    rules.Adam: mean_momentum,
    rules.AMSGrad: mean_momentum,
}


def root(moment: Tensor, values: Values) -> Tensor:
    return moment.sqrt() + float(values["eps"])


def adagrad(state: State, values: Values) -> Tensor:
    return root(state["sum"], values)


def rmsprop(state: State, values: Values) -> Tensor:
    return root(state["square_avg"], values)


def centered(state: State, values: Values) -> Tensor:
    return root((state["square_avg"] - state["grad_avg"].square()).clamp(min=0), values)


def adam(state: State, values: Values, moment: str = "exp_avg_sq") -> Tensor:
    _, beta2 = values["betas"]
    corrected: Tensor = state[moment].sqrt() / math.sqrt(1 - beta2 ** values["t"])
    return corrected + float(values["eps"])


def amsgrad(state: State, values: Values) -> Tensor:
    return adam(state, values, "max_exp_avg_sq")


SPREADS: dict[type[Rule], Callable[[State, Values], Tensor]] = {
    rules.Adagrad: adagrad,
    rules.RMSprop: rmsprop,
    rules.CenteredRMSprop: centered,
    rules.RMSpropMomentum: rmsprop,
    rules.CenteredRMSpropMomentum: centered,
    rules.Adam: adam,
    rules.AMSGrad: amsgrad,
}


def cooled(values: Values) -> float:
    return float(1 + values["t"] * values["lr_decay"])


def started(values: Values) -> float:
    """The correction of the momentum's start lengthens the step."""
    beta1, _ = values["betas"]
    return float(1 - beta1 ** values["t"])


SLOWED: dict[type[Rule], Callable[[Values], float]] = {
    rules.Adagrad: cooled,
    rules.Adam: started,
    rules.AMSGrad: started,
}
"""What divides the rate of a parameter beside, by its age."""
