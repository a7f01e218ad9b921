"""The remedies: each changes a recipe or a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.doctor.readings.inputs import features
from thalweg.doctor.trials.trial import Remedy
from thalweg.fuse.eager import averages
from thalweg.nn import with_batch_norm
from thalweg.recipe import Recipe, chain
from thalweg.recipes import clip_norm, momentum, rmsprop, tail_average
from thalweg.rules.rule import Rule
from thalweg.schedules import Schedule, linear, times
from thalweg.stack.population import batch_norms
from thalweg.tasks.forms import Batch


def with_rate(factor: float, recipe: Recipe) -> Recipe:
    return recipe.with_rates(partial(times, factor=factor))


def rates(recipe: Recipe, factors: Sequence[float]) -> tuple[Remedy, ...]:
    """Other learning rates, as multiples of the rate in use."""
    return tuple(
        Remedy(f"lr = {recipe.rate * factor:.2g}", partial(with_rate, factor)) for factor in factors
    )


def clipping(norms: Sequence[float]) -> tuple[Remedy, ...]:
    """Clipping by norm, at each of these norms."""
    return tuple(
        Remedy(f"clipping by norm at {norm:.2g}", partial(with_clip, norm)) for norm in norms
    )


def with_clip(norm: float, recipe: Recipe) -> Recipe:
    if "max_norm" in recipe.settings:
        return recipe.replace(max_norm=norm)
    return chain(clip_norm(norm), recipe, name=recipe.name)


def calming(recipe: Recipe, since: int, steps: int) -> tuple[Remedy, ...]:
    """Cooling to 0, and averaging over the last quarter, where the recipe does not have them yet.

    since: the step at which cooling begins. steps: the step at which training ends.
    """
    found = []
    if not any(isinstance(lr, Schedule) for lr in recipe.rates.values()):
        found.append(Remedy("cooling to 0", partial(with_cooling, since, steps)))
    if not any(averages([type(rule) for rule in chain]) for chain in recipe.chains):
        last = max(1, (steps - since) // 4)
        found.append(
            Remedy(f"the average of the last {last} steps", partial(with_average, last, steps))
        )
    return tuple(found)


def with_cooling(since: int, steps: int, recipe: Recipe) -> Recipe:
    """The recipe with a rate that falls on a straight line, from `since` on, to 0 at the end."""

    def cooled(lr: Any) -> Schedule:
        return linear(lr * steps / (steps - since), 0.0, steps=steps)

    return recipe.with_rates(cooled)


def with_average(last: int, steps: int, recipe: Recipe) -> Recipe:
    return chain(recipe, tail_average(last, steps), name=recipe.name)


def accelerating(recipe: Recipe) -> tuple[Remedy, ...]:
    """Momentum instead of plain gradient descent, at its rate and at a tenth of its rate."""
    return tuple(
        Remedy(f"momentum 0.9, lr = {recipe.rate * factor:.2g}", partial(with_momentum, factor))
        for factor in (1.0, 0.1)
    )


def with_momentum(factor: float, recipe: Recipe) -> Recipe:
    lr = next(iter(recipe.rates.values()))
    return momentum(lr=times(lr, factor), momentum=0.9)


def forgetting() -> tuple[Remedy, ...]:
    """RMSProp instead of AdaGrad: it replaces the sum by a mean, which forgets old gradients."""
    return tuple(Remedy(f"RMSProp, lr = {lr:g}", partial(with_rmsprop, lr)) for lr in (1e-3, 1e-2))


def with_rmsprop(lr: float, _: Recipe) -> Recipe:
    return rmsprop(lr=lr)


def steps_by(recipe: Recipe, kind: type[Rule]) -> bool:
    """Whether a rule of this kind takes the steps of a recipe."""
    return all(any(isinstance(rule, kind) for rule in chain) for chain in recipe.chains)


NORMALIZED = Remedy("batch normalization behind the layers", model=lambda model: normalized(model))
FRESH_BATCH_NORM = Remedy(
    "batch normalization by the data's own statistics", model=lambda model: renewed(model)
)
TAMED = Remedy("square weights of spectral radius 1 at most", model=lambda model: tamed(model))
SHUFFLED = Remedy("shuffled samples", shuffled=True)


def normalized(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about layers that are not changed
        return with_batch_norm(model)


class Renewed(nn.Module):
    """A model whose batch normalization is in training mode whenever the model is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: object) -> object:
        for layer in batch_norms(self.model):
            layer.training = self.training
        return self.model(*inputs)


def renewed(model: nn.Module) -> nn.Module:
    """The model with new running statistics, which have PyTorch's usual momentum."""
    for layer in batch_norms(model):
        layer.reset_running_stats()
        layer.momentum = 0.1
    return Renewed(model)


def tamed(model: nn.Module) -> nn.Module:
    """The model with square matrices, such as recurrent ones, of spectral radius 1 at most."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
                weight.div_(torch.linalg.eigvals(weight).abs().max().clamp(min=1.0))
    return model


class Standardized(nn.Module):
    """A model that takes (x - mean) / deviation as its inputs, feature by feature."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, inputs: Float[Tensor, "N ..."]) -> object:
        return self.model((inputs - self.mean) / self.deviation)


def standardizing(batches: Sequence[Batch]) -> tuple[Remedy, ...]:
    """Inputs of mean 0 and standard deviation 1, where the model takes a single tensor."""
    if len(batches[0]) != 2:
        return ()
    inputs = torch.cat([batch[0] for batch in batches])
    columns = features(inputs)
    mean, deviation = columns.mean(0), columns.std(0)
    deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)
    shape = (-1,) if inputs.ndim <= 3 else (-1, *[1] * (inputs.ndim - 2))
    mean, deviation = (x.to(inputs).view(shape) for x in (mean, deviation))
    return (Remedy("standardized inputs", model=partial(Standardized, mean, deviation)),)
