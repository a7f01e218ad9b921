"""The named optimizers, with PyTorch's arguments, defaults and group keys.

Each builds its chain from its group's settings, so that groups may differ in all of them.
`foreach` and `fused` choose among PyTorch's own implementations of one formula: they are taken, so
that a script need not change, and choose nothing here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim.optimizer import ParamsT

from thalweg import rules
from thalweg.arguments import require_flag
from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.fused import Group
from thalweg.optim.state import Chain
from thalweg.rules.rule import Rule
from thalweg.schedules import Schedule

Setting = float | Schedule
Betas = tuple[Setting, Setting]


class SGD(RuleOptimizer):
    """PyTorch's SGD: `rules.SGD`, with `momentum` `rules.SGDMomentum` or `rules.SGDNesterov`.

    Its momentum keeps the learning rate outside; `Momentum` and `Nesterov` are the lecture's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-3,
        momentum: Setting = 0.0,
        dampening: Setting = 0.0,
        weight_decay: Setting = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, settings(locals()))

    def accepted(self, group: Group) -> Group:
        held = super().accepted(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise UserError("nesterov needs a momentum above 0 and a dampening of 0.")
        return held

    def chain(self, group: Group) -> Chain:
        if group["momentum"] == 0:
            return decayed(group, rules.SGD)
        return decayed(group, rules.SGDNesterov if group["nesterov"] else rules.SGDMomentum)


class Momentum(RuleOptimizer):
    """The lecture's heavy ball: `rules.Momentum`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-2,
        momentum: Setting = 0.9,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.Momentum)


class Nesterov(RuleOptimizer):
    """The lecture's Nesterov momentum: `rules.Nesterov`. Evaluate within `evaluation()`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-2,
        momentum: Setting = 0.9,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.Nesterov)


class DeltaBarDelta(RuleOptimizer):
    """Jacobs' rates of each parameter's own: `rules.DeltaBarDelta`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-2,
        increase: Setting = 0.05,
        decrease: Setting = 0.1,
        smoothing: Setting = 0.7,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.DeltaBarDelta)


class Adagrad(RuleOptimizer):
    """PyTorch's Adagrad: `rules.Adagrad`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-2,
        lr_decay: Setting = 0.0,
        weight_decay: Setting = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: Setting = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.Adagrad)


class RMSprop(RuleOptimizer):
    """PyTorch's RMSprop: `rules.RMSprop`, with `momentum` and `centered` its variants."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-2,
        alpha: Setting = 0.99,
        eps: Setting = 1e-8,
        weight_decay: Setting = 0.0,
        momentum: Setting = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        if group["momentum"] != 0:
            moving = rules.CenteredRMSpropMomentum if group["centered"] else rules.RMSpropMomentum
            return decayed(group, moving)
        return decayed(group, rules.CenteredRMSprop if group["centered"] else rules.RMSprop)


class Adam(RuleOptimizer):
    """PyTorch's Adam: `rules.Adam`, with `amsgrad` `rules.AMSGrad`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Setting = 1e-8,
        weight_decay: Setting = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        rule = rules.AMSGrad if group["amsgrad"] else rules.Adam
        return decayed(group, rule, beside=group["decoupled_weight_decay"])


class AMSGrad(Adam):
    """`Adam` with `amsgrad=True`."""

    fixed: ClassVar = {"amsgrad": True}

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Setting = 1e-8,
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, True, maximize=maximize)


class AdamW(Adam):
    """PyTorch's AdamW: Adam with decay beside the step, `rules.DecoupledDecay`."""

    fixed: ClassVar = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Setting = 1e-8,
        weight_decay: Setting = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )


class NAdam(RuleOptimizer):
    """PyTorch's NAdam: `rules.NAdam`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: Setting = 1e-8,
        weight_decay: Setting = 0.0,
        momentum_decay: Setting = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.NAdam, beside=group["decoupled_weight_decay"])


class Adadelta(RuleOptimizer):
    """PyTorch's Adadelta: `rules.Adadelta`."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1.0,
        rho: Setting = 0.9,
        eps: Setting = 1e-6,
        weight_decay: Setting = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.Adadelta)


class Lion(RuleOptimizer):
    """Lion: `rules.Lion`, with decay beside the step."""

    def __init__(
        self,
        params: ParamsT,
        lr: Setting = 1e-4,
        betas: Betas = (0.9, 0.99),
        weight_decay: Setting = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, settings(locals()))

    def chain(self, group: Group) -> Chain:
        return decayed(group, rules.Lion, beside=True)


def decayed(group: Group, rule: type[Rule], *, beside: bool = False) -> Chain:
    """The rule with decay in the gradient or beside the step, where its group has any."""
    if group["weight_decay"] == 0:
        return (rule,)
    return (rule, rules.DecoupledDecay) if beside else (rules.L2Decay, rule)


def settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """The defaults of an optimizer, from what its constructor was given."""
    for unbuilt in ("capturable", "differentiable"):
        require_flag(unbuilt, arguments.get(unbuilt, False))
        if arguments.get(unbuilt):
            raise UserError(f"{unbuilt}=True is not built; leave it out.")
    return {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}
