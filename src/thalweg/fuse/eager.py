"""Runs a chain on torch tensors as its arithmetic stands: the reference for every other printer."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.errors import UserError
from thalweg.rules.rule import Rule


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
            check_nothing_is_forgotten(rule, {**self.values, **self.states})
            for name in (*rule.states, *rule.row_states):
                self.states[name] = getattr(rule, name)
            for name in rule.row_states:
                check_one_number(rule, name)


def check_nothing_is_forgotten(rule: Rule, known: Container[str]) -> None:
    """UserError for what a rule begins anew at each step, where its class gives it a start.

    known: the names of what the rule was given.
    """
    for name in vars(rule):
        started = getattr(type(rule), name, None) is not None
        if name not in known and name not in rule.states and started:
            raise UserError(
                f"{type(rule).__name__} changes {name}, which is forgotten after each step:"
                f" declare it as {name} = State(), or RowState() for one number of a tensor."
            )


def check_one_number(rule: Rule, name: str) -> None:
    """UserError for a row state that has become a number for each element."""
    value = getattr(rule, name)
    if isinstance(value, Tensor) and value.ndim:
        raise UserError(
            f"{name} of {type(rule).__name__} is a RowState, one number of a tensor, and was given"
            f" one for each element: declare it as {name} = State(), or give it a sum, such as"
            ' mean(g, over="tensor").'
        )


def step(chain: Sequence[type[Rule]], cell: Cell) -> tuple[Tensor, list[Rule]]:
    """The parameter after a step, and the rules with what they keep from then on."""
    rules = cell.bound(chain)
    theta = theta_of(rules, cell.param)
    made = cell.grad
    for rule in rules:
        rule.param = theta
        made = rule.update(made)
        if made is None:
            raise UserError(f"update of {type(rule).__name__} returns nothing; it returns a step.")
    return stored(rules, theta + made), rules


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


def elsewhere(chain: Sequence[type[Rule]]) -> bool:
    """Whether a chain evaluates at another point than it trains at."""
    return averages(chain) or any(rule.position is not Rule.position for rule in chain)


def averages(chain: Sequence[type[Rule]]) -> bool:
    """Whether a chain evaluates at an average of the iterates."""
    return any(rule.evaluated is not Rule.evaluated for rule in chain)


def theta_of(rules: Sequence[Rule], param: Tensor) -> Tensor:
    for rule in rules:
        param = rule.position(param)
    return param


def stored(rules: Sequence[Rule], theta: Tensor) -> Tensor:
    """The point of the next gradient, from theta."""
    for rule in rules:
        theta = rule.stored(theta)
    return theta
