"""Any chain of rules as a drop-in optimizer."""

from __future__ import annotations

from pathlib import Path

from torch.optim.optimizer import ParamsT

from thalweg.arguments import require_known
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.fused import Group
from thalweg.optim.state import Chain
from thalweg.recipe import Recipe
from thalweg.recipes import recipe_of

BACKENDS = ("auto", "eager", "numba", "triton")


class Optimizer(RuleOptimizer):
    """Steps `params` (tensors, or groups with settings of their own) by a recipe.

        recipe = chain(clip_value(1.0), adam(lr=3e-3), tail_average(last=500))
        optimizer = Optimizer(model.parameters(), recipe)

    recipe: a recipe, the name of an optimizer, or the path of a recipe file, `*.toml`. Each of its
    settings is a key of the parameter groups.

    backend: "auto" steps with compiled kernels what these can, which is contiguous float32, float64
    and bfloat16 on the CPU (by Numba) and on a GPU (by Triton); the rest is stepped eagerly, which
    is said once. "numba" and "triton" take that compiler alone. "eager" steps everything by the
    rules' arithmetic on whole tensors. Triton steps tensors on the CPU only in its interpreter,
    which serves to test kernels: where TRITON_INTERPRET=1 is set.

    Raises UserError for a setting outside its range, and for an unknown recipe or backend.
    """

    def __init__(
        self, params: ParamsT, recipe: Recipe | str | Path, *, backend: str = "auto"
    ) -> None:
        require_known("backend", backend, BACKENDS)
        recipe = recipe_of(recipe)
        self.rules: Chain = tuple(type(rule) for rule in recipe.rules)
        super().__init__(params, recipe.settings)
        self.backend = backend

    def chain(self, group: Group) -> Chain:  # noqa: ARG002 (every group has the recipe's chain)
        return self.rules

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "rules": self.rules}
