"""Recipes by name and from files, and the rules that go before and after an optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch

from thalweg import rules
from thalweg.arguments import require_known, require_path, short
from thalweg.errors import UserError
from thalweg.foreign import imported, is_optimizer, rule_of
from thalweg.named import *  # noqa: F403
from thalweg.named import RECIPES as RECIPES
from thalweg.recipe import PRETRAINING as PRETRAINING
from thalweg.recipe import Recipe as Recipe
from thalweg.recipe import Setting
from thalweg.recipe import chain as chain
from thalweg.routed import layerwise as layerwise
from thalweg.routed import no_decay as no_decay
from thalweg.routed import route as route
from thalweg.rule_names import in_file, is_import, is_in_file, is_rule
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.whole_file import read_text

AnyRecipe: TypeAlias = Recipe | Rule | type[Rule] | type[torch.optim.Optimizer] | str | Path
"""A recipe, a rule, the class of an optimizer, a name or a path; see `recipe_of`."""


def clip_value(limit: Setting) -> Rule:
    """Clipping of each component to [-limit, limit]: `thalweg.rules.ClipValue`."""
    return rules.ClipValue(clip_value=limit)


def clip_norm(max_norm: Setting) -> Rule:
    """Clipping by the norm over the whole model: `thalweg.rules.ClipNorm`.

    The whole model is all parameters of the optimizer. If PyTorch spreads them over processes by
    `fully_shard`, as other DTensors, or by `ZeroRedundancyOptimizer`, the norm is over all of them
    in all processes. Under `DistributedDataParallel` it is the norm of the averaged gradient. Some
    programs give each process an optimizer for a part of the model (DeepSpeed, Megatron, the stages
    of a pipeline). The norm is then only over that part: leave out `clip_norm`, and use the
    clipping of that program. Parameters of `FullyShardedDataParallel` are refused with a UserError
    that says what to do instead.
    """
    return rules.ClipNorm(max_norm=max_norm)


def tail_average(last: int, steps: int | None = None) -> Rule:
    """The exact mean of the last `last` iterates.

    With `steps`, the length of the training, it costs the memory of one copy of the parameters
    (`TailAverage`); without it, the memory of `last` copies (`WindowAverage`).
    """
    if steps is None:
        return rules.WindowAverage(last=last)
    return rules.TailAverage(last=last, steps=steps)


def block_average(last: int) -> Rule:
    """The mean of the last `last` to 2 `last` iterates. It costs two copies of the parameters."""
    return rules.BlockAverage(last=last)


def stochastic_rounding(seed: int = 1) -> Rule:
    """Random rounding of bfloat16 parameters: `thalweg.rules.StochasticRounding`."""
    return rules.StochasticRounding(seed=seed)


def ema(decay: Setting = 0.999) -> Rule:
    """The exponential average of the iterates: `thalweg.rules.ExponentialAverage`."""
    return rules.ExponentialAverage(decay=decay)


def named(name: str) -> Recipe:
    """The recipe of that name, in any case, with its defaults.

    UserError for an unknown name suggests another.
    """
    known = name.lower() if isinstance(name, str) else name
    classes = {n.lower(): n for n, one in vars(torch.optim).items() if is_optimizer(one)}
    if isinstance(name, str) and known in classes.keys() - RECIPES.keys():
        raise UserError(
            f"thalweg has no optimizer {name}; torch.optim:{classes[known]} can race as it is."
        )
    require_known("optimizer", known, RECIPES)
    return RECIPES[known]()


def recipe_of(given: AnyRecipe) -> Recipe:
    """The recipe that is given itself, by its name, by a rule, or by a file.

    A TOML file has a path that ends in `.toml`. `rules.py:Mine` is the rule, the recipe or the
    optimizer `Mine` in a Python file. `torch.optim:RAdam` or `torch.optim.RAdam` is the optimizer
    of a package, whose class may be given too. Raises UserError for an unknown name, and for a file
    that holds no recipe.
    """
    if isinstance(given, Recipe):
        return given
    if is_optimizer(given):
        given = rule_of(given)
    if is_rule(given):
        return recipe_of(given())
    if isinstance(given, Rule):
        return Recipe((given,), type(given).__name__)
    if is_in_file(given):
        found = in_file(given)
        return recipe_of(getattr(found, "recipe", found))
    if not isinstance(given, str | Path):
        raise UserError(
            f"a recipe is a Recipe, a rule, a name, or the path of a file, not {short(given)}."
        )
    path = str(given)
    if is_import(path):
        return recipe_of(imported(path))
    package, _, name = path.rpartition(".")
    if package and name[:1].isupper():
        return recipe_of(imported(f"{package}:{name}"))
    return file_with_space(Path(path))[0] if path.endswith(".toml") else named(path)


def file_with_space(path: Path) -> tuple[Recipe, dict[str, Space]]:
    """The recipe in a file, and the spaces in which a race tunes it.

    A recipe without a name gets the name of the file.
    """
    require_path("the path of a recipe file", path)
    text = read_text("the recipe file", path)
    try:
        recipe, space = Recipe.with_space(text)
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    return replace(recipe, name=path.stem) if recipe.name == "recipe" else recipe, space
