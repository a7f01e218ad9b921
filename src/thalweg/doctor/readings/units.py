"""Units that do not react to their inputs any more: dead, dormant or saturated units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from thalweg.doctor.objective.objective import Conditions, Objective
from thalweg.doctor.objective.outputs import units_first
from thalweg.tasks.forms import Batch

DORMANT = 0.025
"""A unit is dormant below this share of its layer's mean activity (tau of Sokar et al. 2023)."""

FLAT = 0.05
"""An output is saturated where the activation's slope is below this share of its largest slope."""

TANH = (torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh)
SIGMOID = (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid)
RECTIFIERS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6)
OTHERS = (F.gelu, F.silu, F.elu, F.selu, F.softplus, F.leaky_relu, F.mish)

SLOPES: dict[Any, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(TANH, lambda y: 1 - y.square()),
    **dict.fromkeys(SIGMOID, lambda y: 4 * y * (1 - y)),
}
"""The slope of each activation as a function of its output, relative to its largest slope."""


@dataclass(frozen=True)
class Units:
    """The units of one activation, over all measured samples and positions.

    place: the name of the module that computes the activation, and the activation's number there.
    units: the number of units. dead: the number of units that were always exactly 0. dormant: the
    number of units with a mean absolute output of at most 2.5 % of the layer's mean. saturated: for
    a tanh or a sigmoid, the number of units whose slope was always below 5 % of the largest slope.
    values: the number of measured outputs of each unit.

    It is normal that a ReLU is 0 half of the time. It is not known which share of dead units does
    harm.
    """

    place: str
    units: int
    dead: int
    dormant: int
    saturated: int
    values: int


@dataclass(frozen=True)
class Activity:
    """The units of all activations, in the order in which the activations are called."""

    activations: tuple[Units, ...]
    conditions: Conditions


def units(objective: Objective) -> Activity:
    """The dead, dormant and saturated units of every activation, be it a module or a function.

    A unit is a channel, dimension 1, in outputs `[N, C]` and `[N, C, H, W, ...]`, and the last
    dimension in `[N, T, C]`. Activations inside fused recurrent layers cannot be measured. More
    batches give a surer result: a unit that reacts to one sample in a thousand is 0 for most sets
    of a hundred samples.

    Cost: a forward pass.
    """
    tallies: dict[str, Tally] = {}

    def count(model: nn.Module, batch: Batch) -> None:
        with places_of(model) as place, Tallying(place, tallies):
            objective.batch_loss(model, batch)

    list(objective.each(count))
    found = tuple(tally.units(place) for place, tally in tallies.items())
    return Activity(found, objective.conditions)


class Tally:
    """Sums over the outputs of an activation so far.

    total: `[units]`, the sum of the absolute outputs. alive: `[units]`, whether an output was not
    0. steep: `[units]`, whether an output was not saturated. values: the number of outputs of a
    unit.
    """

    def __init__(self) -> None:
        self.total = torch.tensor(0.0)
        self.alive = torch.tensor(False)
        self.steep = torch.tensor(False)
        self.values = 0

    def add(self, output: Tensor, slope: Callable[[Tensor], Tensor] | None) -> None:
        by_unit = units_first(output.detach())
        self.total = self.total + by_unit.abs().sum(1)
        self.alive = self.alive | (by_unit != 0).any(1)
        steep = slope(by_unit) >= FLAT if slope else torch.ones_like(by_unit, dtype=torch.bool)
        self.steep = self.steep | steep.any(1)
        self.values += by_unit.shape[1]

    def units(self, place: str) -> Units:
        return Units(
            place=place,
            units=len(self.total),
            dead=int((~self.alive).sum()),
            dormant=int((self.total <= DORMANT * self.total.mean()).sum()),
            saturated=int((~self.steep).sum()),
            values=self.values,
        )


class Tallying(TorchFunctionMode):
    """Adds the outputs of every activation within the block to its tally."""

    def __init__(self, place: list[str], tallies: dict[str, Tally]) -> None:
        super().__init__()
        self.place, self.tallies = place, tallies
        self.counts: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in SLOPES or func in RECTIFIERS or func in OTHERS:
            self.tally(func, output)
        return output

    def tally(self, func: Any, output: Tensor) -> None:
        name = f"{'.'.join(self.place[-1:])} {func.__name__.strip('_')}".strip()
        number = self.counts[name] = self.counts.get(name, 0) + 1
        place = name if number == 1 else f"{name} ({number})"
        self.tallies.setdefault(place, Tally()).add(output, SLOPES.get(func))


@contextmanager
def places_of(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running, the innermost last."""
    running: list[str] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():
            enter = module.register_forward_pre_hook(lambda *_, name=name: running.append(name))
            leave = module.register_forward_hook(partial(left, running), always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        yield running


def left(running: list[str], *_: object) -> None:
    running.pop()
