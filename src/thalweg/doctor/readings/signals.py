"""The sizes of activations and gradients by layer, which show whether they explode or vanish."""

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
from thalweg.statistics import Interval
from thalweg.tasks.forms import Batch


@dataclass(frozen=True)
class Signal:
    """What passes through one layer at one call of the layer.

    layer: its name in the model. call: the number of the call, from 0; a layer that is used at each
    time step has one call for each. activation: the root mean square of the outputs. signal: the
    root mean square over the samples of |dL_n / d output_n|, where L_n is the loss of sample n; 0
    where the loss does not depend on the outputs.
    """

    layer: str
    call: int
    activation: float
    signal: float


@dataclass(frozen=True)
class Signals:
    """What passes through the layers, in the order of their calls.

    gradients: the norm of the gradient, by parameter. It depends on the width of the layer; the
    signals show the effect of the depth alone.
    """

    layers: tuple[Signal, ...]
    gradients: Mapping[str, float]
    conditions: Conditions

    @property
    def forward(self) -> Interval:
        """The factor by which activations change from one call to the next, with its interval."""
        return factor([layer.activation for layer in self.layers])

    @property
    def backward(self) -> Interval:
        """The factor by which signals change from one call back to the call before it.

        Below 1 the signals vanish with depth, above 1 they explode. The factor is the exponential
        of the slope of the signal's logarithm over depth (Schoenholz et al. 2017; Saxe et al.
        2014), by least squares; the 95 % interval is by Student's t. It is sound for plain networks
        at their initialization, and less reliable for residual networks, where signals bypass
        layers.
        """
        return factor([layer.signal for layer in reversed(self.layers)])

    @property
    def unreached(self) -> tuple[str, ...]:
        """The layers on whose outputs the loss does not depend, at any call."""
        reached = {layer.layer for layer in self.layers if layer.signal > 0}
        return tuple(dict.fromkeys(s.layer for s in self.layers if s.layer not in reached))

    def of(self, layer: str) -> Signals:
        """Only the calls of one layer. The calls of a recurrent layer are the time steps."""
        return replace(self, layers=tuple(s for s in self.layers if s.layer == layer))


def signals(objective: Objective) -> Signals:
    """The activations and the back-propagated signals of every layer that holds a matrix.

    Several batches must call the same layers. Cost: two gradient evaluations, with the outputs of
    all layers in memory. Raises UserError for a model without such layers.
    """
    point = objective.point.clone().requires_grad_()
    batches = list(objective.each(partial(squares, objective), point))
    kinds = {tuple((place.layer, place.call) for place in found) for found in batches}
    if len(kinds) > 1:
        raise UserError("The batches call different layers; measure one batch at a time.")
    layers = []
    for calls in zip(*batches, strict=True):
        activation = float(objective.mean([torch.tensor(call.activation) for call in calls]))
        signal = float(objective.mean([torch.tensor(call.signal) for call in calls]))
        layers.append(Signal(calls[0].layer, calls[0].call, activation**0.5, signal**0.5))
    gradients = objective.views(objective.gradient())
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    return Signals(tuple(layers), norms, objective.conditions)


def factor(norms: Sequence[float]) -> Interval:
    """The mean factor from one norm to the next, by a line through the logarithms (no zeros)."""
    places = [i for i, norm in enumerate(norms) if norm > 0]
    if len(places) < 3:
        return Interval(math.nan, 0.0, math.inf)
    line = line_slope(places, np.log([norms[i] for i in places]))
    middle, low, high = np.exp([line.estimate, line.low, line.high])
    return Interval(float(middle), float(low), float(high))


def squares(objective: Objective, model: nn.Module, batch: Batch) -> list[Signal]:
    """The calls of one batch, with mean squares instead of root mean squares."""
    with outputs_of(model) as calls:
        loss = objective.batch_loss(model, batch)
    if not calls:
        raise UserError("The model has no layer with a matrix of weights, as nn.Linear has.")
    outputs = [call.output for call in calls]
    slopes = pulled([loss], outputs, [torch.ones_like(loss)], batched=False)
    made = []
    for call, slope in zip(calls, slopes, strict=True):
        # The loss is a mean over N samples: the slope of one sample's own loss is N times larger.
        signal = samples_in(batch) * float(slope.square().sum())
        activation = float(call.output.detach().square().mean())
        made.append(Signal(call.layer, call.number, activation, signal))
    return made
