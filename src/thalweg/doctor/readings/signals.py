"""Signals on their way through the layers, forward and back: do they explode or vanish?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from thalweg.doctor.intervals import line_slope
from thalweg.doctor.objective.derivatives import pulled
from thalweg.doctor.objective.objective import Conditions, Objective, samples_in
from thalweg.doctor.objective.outputs import outputs_of
from thalweg.errors import UserError
from thalweg.stack.reading import Batch
from thalweg.statistics import Interval


@dataclass(frozen=True)
class Signal:
    """What passes through one layer, at one call of it.

    layer: its name in the model. call: the number of the call, from 0; a layer that is used again
    at each time step has a call for each. activation: root mean square of its outputs. signal: root
    mean square over the samples of |dL_n / d output_n|, L_n a sample's own loss; 0 where the loss
    does not depend on the outputs.
    """

    layer: str
    call: int
    activation: float
    signal: float


@dataclass(frozen=True)
class Signals:
    """What passes through the layers, in the order in which they are called.

    gradients: the gradient's norm by parameter. Wide layers have larger gradients; the signals show
    whether depth makes them small or large.
    """

    layers: tuple[Signal, ...]
    gradients: Mapping[str, float]
    conditions: Conditions

    @property
    def forward(self) -> Interval:
        """The factor by which activations change from a call to the next, with a 95 % interval."""
        return factor([layer.activation for layer in self.layers])

    @property
    def backward(self) -> Interval:
        """The factor by which signals change from a call to the one before it.

        Below 1 they vanish with depth, above 1 they explode. It is the exponential of the slope of
        log signal against depth (Schoenholz et al. 2017; Saxe et al. 2014), by least squares, with
        Student's t. It is sound for plain networks at their initialization, and less so for
        residual networks, where signals also go past layers.
        """
        return factor([layer.signal for layer in reversed(self.layers)])

    @property
    def unreached(self) -> tuple[str, ...]:
        """The layers whose outputs the loss does not depend on at any call."""
        reached = {layer.layer for layer in self.layers if layer.signal > 0}
        return tuple(dict.fromkeys(s.layer for s in self.layers if s.layer not in reached))

    def of(self, layer: str) -> Signals:
        """The calls of one layer alone; of a recurrent layer these are the time steps."""
        return replace(self, layers=tuple(s for s in self.layers if s.layer == layer))


def signals(objective: Objective) -> Signals:
    """Activations and back-propagated signals by layer, for every layer that holds a matrix.

    Several batches must call the same layers. Cost: two gradient evaluations, with the outputs of
    all layers in memory. Raises UserError for a model without such layers.
    """
    point = objective.point.clone().requires_grad_()
    batches = list(objective.each(partial(squares, objective), point))
    kinds = {tuple((place.layer, place.call) for place in found) for found in batches}
    if len(kinds) > 1:
        raise UserError("Batches go through different layers; look at one batch at a time.")
    layers = []
    for calls in zip(*batches, strict=True):
        activation = float(objective.mean([torch.tensor(call.activation) for call in calls]))
        signal = float(objective.mean([torch.tensor(call.signal) for call in calls]))
        layers.append(Signal(calls[0].layer, calls[0].call, activation**0.5, signal**0.5))
    gradients = objective.views(objective.gradient())
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    return Signals(tuple(layers), norms, objective.conditions)


def factor(norms: Sequence[float]) -> Interval:
    """The factor from each to the next, by a line through the logarithms; zeros are left out."""
    places = [i for i, norm in enumerate(norms) if norm > 0]
    if len(places) < 3:
        return Interval(math.nan, 0.0, math.inf)
    line = line_slope(places, np.log([norms[i] for i in places]))
    middle, low, high = np.exp([line.estimate, line.low, line.high])
    return Interval(float(middle), float(low), float(high))


def squares(objective: Objective, model: nn.Module, batch: Batch) -> list[Signal]:
    """The calls of one batch, with mean squares in the place of their roots."""
    with outputs_of(model) as calls:
        loss = objective.batch_loss(model, batch)
    if not calls:
        raise UserError("The model has no layer with a matrix of weights, as nn.Linear has.")
    outputs = [call.output for call in calls]
    slopes = pulled([loss], outputs, [torch.ones_like(loss)], batched=False)
    made = []
    for call, slope in zip(calls, slopes, strict=True):
        # The loss is a mean over the samples: a sample's own loss is as many times as steep.
        signal = samples_in(batch) * float(slope.square().sum())
        activation = float(call.output.detach().square().mean())
        made.append(Signal(call.layer, call.number, activation, signal))
    return made
