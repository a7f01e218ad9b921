"""Runs a chain on torch tensors as its arithmetic stands: the reference for every other printer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.rule import Rule

MemberNorm = Callable[[list[Tensor]], Sequence[Tensor]]
"""The norm of a list of tensors over the member that each belongs to, one for each tensor."""


@dataclass
class Cell:
    """One tensor on its way through a chain.

    param: the parameter that the model holds. grad: its gradient. values: the hyperparameters,
    options, the age `t` of this step and, where it matters, the parameter's `dtype`. states: what
    the rules keep, by name; a step puts new tensors in place of the old and changes none of them
    (but a ring's slot).
    """

    param: Tensor
    grad: Tensor
    values: dict[str, Any]
    states: dict[str, Any]

    def bound(self, chain: Sequence[type[Rule]]) -> list[Rule]:
        """The chain's rules with the values of this step."""
        known = {**self.values, **self.states}
        return [rule.bound(known) for rule in chain]

    def keep(self, rules: Sequence[Rule]) -> None:
        """Takes over the states that the rules have come to."""
        for rule in rules:
            for name in (*rule.states, *rule.row_states):
                self.states[name] = getattr(rule, name)


def step(chain: Sequence[type[Rule]], cells: list[Cell], member_norm: MemberNorm) -> None:
    """Takes every cell through the chain; `param` and `states` are then those after the step."""
    bound = [cell.bound(chain) for cell in cells]
    thetas = [theta_of(rules, cell.param) for rules, cell in zip(bound, cells, strict=True)]
    made = [cell.grad for cell in cells]
    for place, kind in enumerate(chain):
        rules = [each[place] for each in bound]
        for rule, theta in zip(rules, thetas, strict=True):
            rule.param = theta
        if kind.norms:
            for rule, norm in zip(rules, member_norm(made), strict=True):
                vars(rule).update(dict.fromkeys(kind.norms, norm))
        made = [rule.update(g) for rule, g in zip(rules, made, strict=True)]
    for cell, each, theta, taken in zip(cells, bound, thetas, made, strict=True):
        cell.param = stored(each, theta + taken)
        cell.keep(each)


def position(chain: Sequence[type[Rule]], cell: Cell) -> Tensor:
    """theta, from the point at which the gradient was taken."""
    return theta_of(cell.bound(chain), cell.param)


def evaluated(chain: Sequence[type[Rule]], cell: Cell) -> Tensor:
    """The parameter that evaluation uses; `cell.param` itself where that is the one."""
    rules = cell.bound(chain)
    theta = theta_of(rules, cell.param)
    for rule in rules:
        theta = rule.evaluated(theta)
    return theta


def theta_of(rules: Sequence[Rule], param: Tensor) -> Tensor:
    for rule in rules:
        param = rule.position(param)
    return param


def stored(rules: Sequence[Rule], theta: Tensor) -> Tensor:
    """The point of the next gradient, from theta."""
    for rule in rules:
        theta = rule.stored(theta)
    return theta
