"""The effect of one step in all layers at once, compared with the effects of single layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.doctor.objective.outputs import outputs_of, units_first
from thalweg.tasks.forms import Batch


@dataclass(frozen=True)
class Drift:
    """How the outputs of one layer have changed.

    call: the number of the call of the layer, from 0. shift: the change of a unit's mean, in units
    of its standard deviation before the step, as the root mean square over units. stretch: the
    logarithm of the ratio of the standard deviations after and before the step, as the root mean
    square over units. Units that do not vary are left out.
    """

    layer: str
    call: int
    shift: float
    stretch: float


@dataclass(frozen=True)
class Joint:
    """The effect of one step on the loss, in all layers at once and in each layer alone.

    together: the change of the loss by the whole step. alone: by layer, the change if the step
    moves only that layer. drifts: one for each call of a layer with a matrix, in the order of the
    calls.
    """

    together: float
    alone: Mapping[str, float]
    drifts: tuple[Drift, ...]
    conditions: Conditions

    @property
    def interaction(self) -> float:
        """The change by the whole step less the sum of the changes by single layers.

        To second order this is the sum of d_i'H_ij d_j over pairs of different layers.
        """
        return self.together - sum(self.alone.values())


def joint(objective: Objective, step: Float[Tensor, " P"]) -> Joint:
    """The effect of a step on the loss and on the outputs, in all layers and in each alone.

    A gradient says how the loss changes if only its own layer moves, but a step moves all layers at
    once. This is the reason for batch normalization (Goodfellow, Bengio and Courville 2016, 8.7.1);
    compare a network with and without it. A layer is a module that holds parameters of its own.

    step: `[P]`, from the objective's point. Cost: a forward pass for each layer and two more, and
    the memory of a gradient evaluation for the outputs of the first batch.
    """
    d = step.to(objective.point)
    before = objective.value()
    alone = {
        layer: objective.value(objective.point + mask * d) - before
        for layer, mask in masks(objective).items()
    }
    together = objective.value(objective.point + d) - before
    moved = drifts(objective, objective.batches[0], objective.point + d)
    return Joint(together, alone, moved, objective.conditions)


def masks(objective: Objective) -> dict[str, Float[Tensor, " P"]]:
    """For each layer, a vector that is 1 at the layer's parameters and 0 elsewhere."""
    layers = {name: name.rpartition(".")[0] for name in objective.shapes}
    views = objective.views(objective.point)
    return {
        layer: objective.flat(
            [
                torch.ones_like(view) if layers[name] == layer else torch.zeros_like(view)
                for name, view in views.items()
            ]
        )
        for layer in dict.fromkeys(layers.values())
    }


def drifts(objective: Objective, batch: Batch, point: Float[Tensor, " P"]) -> tuple[Drift, ...]:
    """The drift of each layer's outputs on one batch, from the objective's point to another."""
    before, after = (moments(objective, batch, at) for at in (objective.point, point))
    made = []
    for (layer, call, mean, deviation), (*_, new_mean, new_deviation) in zip(
        before, after, strict=True
    ):
        varied = (deviation > 0) & (new_deviation > 0)
        shift = ((new_mean - mean) / deviation)[varied]
        stretch = (new_deviation / deviation)[varied].log()
        made.append(Drift(layer, call, size(shift), size(stretch)))
    return tuple(made)


def moments(
    objective: Objective, batch: Batch, point: Float[Tensor, " P"]
) -> list[tuple[str, int, Tensor, Tensor]]:
    """For each call: its layer, its number, and the mean and standard deviation of each unit."""

    def within(model: nn.Module) -> list[tuple[str, int, Tensor, Tensor]]:
        with outputs_of(model) as calls:
            objective.batch_loss(model, batch)
        each = [(layer, number, units_first(output.detach())) for layer, number, output in calls]
        return [(layer, call, x.mean(1), x.std(1, unbiased=False)) for layer, call, x in each]

    return objective.within(point.detach().clone().requires_grad_(), within)


def size(x: Tensor) -> float:
    """The root mean square of a tensor; 0 for an empty tensor."""
    return float(x.square().mean().sqrt()) if len(x) else 0.0
