"""The recipe that an optimizer is following."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from thalweg.doctor.readings.limits import rules_of
from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.recipe import Recipe
from thalweg.routes import Route
from thalweg.rules.rule import Rule, settings_of


def recipe_in_use(optimizer: torch.optim.Optimizer, model: nn.Module) -> Recipe:
    """A recipe of the optimizer's rules, with the values that its settings have now.

    Schedules do not go on: each setting keeps its present value. The recipe has a route for each
    parameter group, by the names of the group's parameters in the model. optimizer: one of this
    package, or one of PyTorch's that this package has too. Raises UserError for other optimizers.
    """
    kind = type(optimizer).__name__
    names = {id(param): name for name, param in model.named_parameters()}
    branches: dict[Any, tuple[list[str], tuple[Rule, ...]]] = {}
    changes = []
    for index, group in enumerate(optimizer.param_groups):
        chain, values = rules_of(optimizer, index)
        if not chain:
            raise UserError(f"the rules of {kind} are not known, so it cannot be a recipe.")
        rules = tuple(rule(**{name: values[name] for name in rule.known()}) for rule in chain)
        branch = optimizer.branch(group) if isinstance(optimizer, RuleOptimizer) else chain
        own = [names[id(param)] for param in group["params"] if id(param) in names]
        to, before = branches.setdefault(branch, ([], rules))
        to += own
        usual = settings_of(before)
        other = {name: x for name, x in settings_of(rules).items() if x != usual[name]}
        if other and own:
            changes.append(Route(tuple(own), settings=other, name=f"group {index}"))
    (to, rules), *others = branches.values()
    if not others:
        return Recipe(rules, kind.lower(), routes=tuple(changes))
    shared = optimizer.shared_rules if isinstance(optimizer, RuleOptimizer) else 0
    routes = [Route(tuple(to), own[shared:]) for to, own in branches.values() if to]
    return Recipe(rules[:shared], kind.lower(), routes=(*routes, *changes))
