"""The recipe that an optimizer follows, at its coming step."""

from __future__ import annotations

import torch

from thalweg.doctor.readings.limits import rules_of
from thalweg.errors import UserError
from thalweg.recipe import Recipe


def recipe_in_use(optimizer: torch.optim.Optimizer) -> Recipe:
    """A recipe with the optimizer's rules and its settings as they are now, schedules standing.

    optimizer: one of this package, or one of PyTorch's that this package has too. Raises UserError
    for others, and for several parameter groups.
    """
    name = type(optimizer).__name__
    if len(optimizer.param_groups) > 1:
        raise UserError(f"{name} has several parameter groups; a recipe is for one.")
    chain, values = rules_of(optimizer, 0)
    if not chain:
        raise UserError(f"{name} is none of the optimizers that are known here by their rules.")
    rules = (rule(**{setting: values[setting] for setting in rule.known()}) for rule in chain)
    return Recipe(tuple(rules), name.lower())
