"""Any chain of rules as a drop-in optimizer."""

from __future__ import annotations

from torch.optim.optimizer import ParamsT

from thalweg.optim.base import Chain, Group, RuleOptimizer
from thalweg.recipes import Recipe


class Optimizer(RuleOptimizer):
    """Steps `params` (tensors, or groups with settings of their own) by a recipe.

        recipe = chain(clip_value(1.0), adam(lr=3e-3), tail_average(last=500))
        optimizer = Optimizer(model.parameters(), recipe)

    Each setting of the recipe is a key of the parameter groups. Raises UserError for a setting
    outside its range.
    """

    def __init__(self, params: ParamsT, recipe: Recipe) -> None:
        self.rules: Chain = tuple(type(rule) for rule in recipe.rules)
        super().__init__(params, recipe.settings)

    def chain(self, group: Group) -> Chain:  # noqa: ARG002 (every group has the recipe's chain)
        return self.rules

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "rules": self.rules}
