"""Any chain of rules as a drop-in optimizer."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from torch import nn
from torch.optim.optimizer import ParamsT

from thalweg.arguments import require_known, word
from thalweg.errors import UserError, suggest
from thalweg.foreign import where
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.rows import Group
from thalweg.optim.settings import number
from thalweg.optim.state import Chain
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.rules import NAMED
from thalweg.rules.rule import every_rule, settings_of

BACKENDS = ("auto", "eager", "numba", "triton")


class Optimizer(RuleOptimizer):
    """Steps `params` (a model, tensors, or groups with settings of their own) by a recipe.

        recipe = chain(clip_value(1.0), adam(lr=3e-3), tail_average(last=500))
        optimizer = Optimizer(model.parameters(), recipe)

    recipe: a recipe, a rule, the name of an optimizer, the path of a recipe file (`*.toml`), or a
    rule in a file (`rules.py:Mine`). Each of its settings is a key of the parameter groups. A
    setting in a group of yours replaces the recipe's setting.

    A recipe with routes splits each group, so that all parameters of a group take the same routes;
    the group's key "route" names them. Give the model itself, from which the role of each parameter
    is known, or `model.named_parameters()`, from whose names it is guessed. A setting that a route
    changes is changed in your groups too. `optimizer.describe()` shows the routes of each
    parameter.

    backend: "auto" steps with compiled kernels where it can: contiguous float32, float64 and
    bfloat16 tensors on the CPU (by Numba) and on a GPU (by Triton). It steps all others eagerly,
    and warns once. "numba" and "triton" use only that compiler. "eager" computes every step with
    PyTorch's functions on whole tensors. With TRITON_INTERPRET=1, Triton's interpreter steps
    tensors on the CPU, which is useful to test kernels.

    Raises UserError for a setting that is out of range, for an unknown recipe or backend, and for
    parameters that no route takes.
    """

    def __init__(
        self, params: ParamsT | nn.Module, recipe: AnyRecipe, *, backend: str = "auto"
    ) -> None:
        require_known("backend", backend, BACKENDS)
        made = recipe_of(recipe)
        if made.foreign:
            raise UserError(
                f"{where(made.foreign.optimizer)} steps by itself: make it from its own class, with"
                " these settings; the verdict of a race has the lines."
            )
        self.rules: Chain = tuple(type(rule) for rule in made.rules)
        self.recipe = made if made.routes else None
        super().__init__(params, settings_of(made.rules))
        self.backend = backend

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group; UserError for a setting that the recipe does not have.

        A key that is not a setting of any optimizer stays in the group, as in PyTorch.
        """
        known = list(self.defaults)
        for rules in self.recipe.chains if self.recipe else ():
            known += settings_of(rules)
        for name, value in param_group.items() if isinstance(param_group, dict) else ():
            strange = name not in known and is_setting(name, known)
            if strange and number(value):
                hint = suggest(name, known)
                raise UserError(f"the recipe has no setting {word(name)} for a group; {hint}")
        super().add_param_group(param_group)

    def chain(self, group: Group) -> Chain:
        track = self.tracks.get(group.get("route", ""))
        return tuple(map(type, track.rules)) if track else self.rules

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "rules": self.rules}


def is_setting(name: object, own: Collection[str]) -> bool:
    """Whether a key of a group is meant as a setting: a rule has it, or it resembles one."""
    if not isinstance(name, str) or name == "params":
        return False
    flags = {flag for named in NAMED.values() for flag in named.flags}
    known = flags.union(*(rule.known() for rule in every_rule()))
    return name in known or bool(get_close_matches(name, own, 1, 0.82))
