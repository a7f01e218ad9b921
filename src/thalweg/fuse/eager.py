"""Runs the arithmetic of a chain on torch tensors. It is the reference for every kernel."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.errors import UserError
from thalweg.rules.rule import Rule


@dataclass
class Cell:
    """One parameter tensor while its step is computed, with all that the rules read and keep.

    param: the parameter that the model holds. grad: its gradient. values: the hyperparameters and
    options by name, the age `t` of this step and, where it matters, the parameter's `dtype`.
    states: the states of the rules by name. A step replaces these tensors and does not change them
    in place; only `WindowAverage` writes into its tensor.
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
        """Stores the states that the rules hold after the step."""
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
    """The parameter after a step, and the rules with their states after it."""
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
    """The parameter theta, computed from the point at which the gradient was taken."""
    return theta_of(cell.bound(chain), cell.param)


def evaluated(chain: Sequence[type[Rule]], cell: Cell) -> Tensor:
    """The parameter that evaluation uses; `cell.param` itself where evaluation changes nothing."""
    rules = cell.bound(chain)
    theta = theta_of(rules, cell.param)
    for rule in rules:
        theta = rule.evaluated(theta)
    return theta


def elsewhere(chain: Sequence[type[Rule]]) -> bool:
    """Whether a chain evaluates at another point than the one it trains at."""
    return averages(chain) or any(rule.position is not Rule.position for rule in chain)


def averages(chain: Sequence[type[Rule]]) -> bool:
    """Whether a chain evaluates at an average of the iterates."""
    return any(rule.evaluated is not Rule.evaluated for rule in chain)


def theta_of(rules: Sequence[Rule], param: Tensor) -> Tensor:
    for rule in rules:
        param = rule.position(param)
    return param


def stored(rules: Sequence[Rule], theta: Tensor) -> Tensor:
    """The point at which the next gradient is taken, computed from theta."""
    for rule in rules:
        theta = rule.stored(theta)
    return theta
