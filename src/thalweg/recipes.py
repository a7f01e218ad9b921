"""Recipes by name and from files, and the rules that go before and behind an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from thalweg import rules
from thalweg.arguments import number, require_known, require_path, short
from thalweg.errors import UserError
from thalweg.recipe import PRETRAINING as PRETRAINING
from thalweg.recipe import Pair, Setting
from thalweg.recipe import Recipe as Recipe
from thalweg.recipe import chain as chain
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.whole_file import read_text


def clip_value(limit: Setting) -> Rule:
    """Clipping of each component to [-limit, limit]: `thalweg.rules.ClipValue`."""
    return rules.ClipValue(clip_value=limit)


def clip_norm(max_norm: Setting) -> Rule:
    """Clipping by the norm over the whole model: `thalweg.rules.ClipNorm`.

    The whole model is all parameters of the optimizer. Where PyTorch spreads them over processes by
    `fully_shard`, as other DTensors, or by `ZeroRedundancyOptimizer`, the norm is over all of them
    in all processes, and under `DistributedDataParallel` it is that of the averaged gradient. Where
    a program gives each process an optimizer for a part of the model and tells it nothing else
    (DeepSpeed, Megatron, the stages of a pipeline), the norm is over that part alone: leave
    `clip_norm` out there, and set that program's own clipping. Parameters of
    `FullyShardedDataParallel` are refused with a UserError that says what to do instead.
    """
    return rules.ClipNorm(max_norm=max_norm)


def tail_average(last: int, steps: int | None = None) -> Rule:
    """The exact mean of the last `last` iterates.

    With `steps`, the length of the training, it costs the memory of one parameter
    (`TailAverage`); without, of `last` parameters (`WindowAverage`).
    """
    if steps is None:
        return rules.WindowAverage(last=last)
    return rules.TailAverage(last=last, steps=steps)


def block_average(last: int) -> Rule:
    """The mean of the last `last` to 2 `last` iterates, for the memory of two parameters."""
    return rules.BlockAverage(last=last)


def stochastic_rounding(seed: int = 1) -> Rule:
    """Random rounding of bfloat16 parameters: `thalweg.rules.StochasticRounding`."""
    return rules.StochasticRounding(seed=seed)


def ema(decay: Setting = 0.999) -> Rule:
    """The exponential average of the iterates: `thalweg.rules.ExponentialAverage`."""
    return rules.ExponentialAverage(decay=decay)


def decayed(rule: Rule, weight_decay: Setting, name: str) -> Recipe:
    """The rule behind L2 decay, where there is any."""
    front = (rules.L2Decay(weight_decay=weight_decay),) if number(weight_decay) != 0 else ()
    return Recipe((*front, rule), name)


def sgd(lr: Setting = 1e-2, weight_decay: Setting = 0.0) -> Recipe:
    """Plain stochastic gradient descent: `thalweg.rules.SGD`."""
    return decayed(rules.SGD(lr=lr), weight_decay, "sgd")


def momentum(lr: Setting = 1e-2, momentum: Setting = 0.9, weight_decay: Setting = 0.0) -> Recipe:
    """The lecture's heavy-ball momentum: `thalweg.rules.Momentum`."""
    return decayed(rules.Momentum(lr=lr, momentum=momentum), weight_decay, "momentum")


def nesterov(lr: Setting = 1e-2, momentum: Setting = 0.9, weight_decay: Setting = 0.0) -> Recipe:
    """Nesterov momentum, true to the look-ahead formula: `thalweg.rules.Nesterov`."""
    return decayed(rules.Nesterov(lr=lr, momentum=momentum), weight_decay, "nesterov")


def delta_bar_delta(
    lr: Setting = 1e-2,
    increase: Setting = 0.05,
    decrease: Setting = 0.1,
    smoothing: Setting = 0.7,
    weight_decay: Setting = 0.0,
) -> Recipe:
    """Jacobs' rates of each parameter's own: `thalweg.rules.DeltaBarDelta`."""
    rule = rules.DeltaBarDelta(lr=lr, increase=increase, decrease=decrease, smoothing=smoothing)
    return decayed(rule, weight_decay, "delta-bar-delta")


def adagrad(lr: Setting = 1e-2, eps: Setting = 1e-10, weight_decay: Setting = 0.0) -> Recipe:
    """AdaGrad: `thalweg.rules.Adagrad`."""
    return decayed(rules.Adagrad(lr=lr, eps=eps), weight_decay, "adagrad")


def rmsprop(
    lr: Setting = 1e-2,
    alpha: Setting = 0.99,
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum: Setting = 0.0,
) -> Recipe:
    """RMSProp, plain or with momentum: `thalweg.rules.RMSprop`, `RMSpropMomentum`."""
    rule: Rule = rules.RMSprop(lr=lr, alpha=alpha, eps=eps)
    if number(momentum) != 0:
        rule = rules.RMSpropMomentum(lr=lr, alpha=alpha, eps=eps, momentum=momentum)
    return decayed(rule, weight_decay, "rmsprop")


def adam(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
) -> Recipe:
    """Adam with bias correction: `thalweg.rules.Adam`."""
    return decayed(rules.Adam(lr=lr, betas=betas, eps=eps), weight_decay, "adam")


def amsgrad(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
) -> Recipe:
    """Adam with the largest second moment so far: `thalweg.rules.AMSGrad`."""
    return decayed(rules.AMSGrad(lr=lr, betas=betas, eps=eps), weight_decay, "amsgrad")


def adamw(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 1e-2,
) -> Recipe:
    """Adam with decay beside the step: `thalweg.rules.DecoupledDecay`."""
    rule = rules.Adam(lr=lr, betas=betas, eps=eps)
    return Recipe((rule, rules.DecoupledDecay(weight_decay=weight_decay)), "adamw")


def nadam(
    lr: Setting = 2e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum_decay: Setting = 4e-3,
) -> Recipe:
    """Adam with Nesterov's look-ahead: `thalweg.rules.NAdam`."""
    rule = rules.NAdam(lr=lr, betas=betas, eps=eps, momentum_decay=momentum_decay)
    return decayed(rule, weight_decay, "nadam")


def adadelta(
    lr: Setting = 1.0, rho: Setting = 0.9, eps: Setting = 1e-6, weight_decay: Setting = 0.0
) -> Recipe:
    """Adadelta: `thalweg.rules.Adadelta`."""
    return decayed(rules.Adadelta(lr=lr, rho=rho, eps=eps), weight_decay, "adadelta")


def lion(lr: Setting = 1e-4, betas: Pair = (0.9, 0.99), weight_decay: Setting = 0.0) -> Recipe:
    """Lion, with decay beside the step: `thalweg.rules.Lion`."""
    rule = rules.Lion(lr=lr, betas=betas)
    decay = (rules.DecoupledDecay(weight_decay=weight_decay),) if number(weight_decay) != 0 else ()
    return Recipe((rule, *decay), "lion")


RECIPES: dict[str, Callable[..., Recipe]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "delta-bar-delta": delta_bar_delta,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "nadam": nadam,
    "adadelta": adadelta,
    "amsgrad": amsgrad,
    "lion": lion,
}
"""The named optimizers, by the name that commands and reports use."""


def named(name: str) -> Recipe:
    """The recipe of that name at its defaults; UserError suggests a close one."""
    require_known("optimizer", name, RECIPES)
    return RECIPES[name]()


def recipe_of(given: str | Path | Recipe) -> Recipe:
    """The recipe itself, of that name, or in the file of that path, which ends in `.toml`.

    Raises UserError for an unknown name, and for a file that holds no recipe.
    """
    if isinstance(given, Recipe):
        return given
    if not isinstance(given, str | Path):
        raise UserError(f"a recipe is a Recipe, a name, or the path of a file, not {short(given)}.")
    return from_file(Path(given)) if str(given).endswith(".toml") else named(str(given))


def from_file(path: Path) -> Recipe:
    """The recipe in a file; one without a name of its own is called after the file."""
    return file_with_space(path)[0]


def file_with_space(path: Path) -> tuple[Recipe, dict[str, Space]]:
    """The recipe in a file, and where a race is to tune it."""
    require_path("the path of a recipe file", path)
    text = read_text("the recipe file", path)
    try:
        recipe, space = Recipe.with_space(text)
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    return replace(recipe, name=path.stem) if recipe.name == "recipe" else recipe, space
