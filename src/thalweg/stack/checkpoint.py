"""The state of a member, with which other trainings begin. `Single.checkpoint` makes one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.optim.stepper import Stepper
from thalweg.stack.rows import Tensors, copies


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a member and the state of its optimizer.

    steps: the number of steps so far. weights: the parameters and buffers, by their names in the
    model. optimizer: the optimizer's `state_dict`; its groups have the names of the parameters.
    """

    steps: int
    weights: Tensors
    optimizer: dict[str, Any]

    @property
    def states(self) -> Tensors:
        """The tensors that the optimizer keeps for each parameter, by the key `state.parameter`."""
        kept = self.optimizer["state"]
        return {
            f"{state}.{name}": x
            for group in self.optimizer["param_groups"]
            for name, key in zip(group["param_names"], group["params"], strict=True)
            for state, x in kept.get(key, {}).items()
            if isinstance(x, Tensor)
        }

    @property
    def memory(self) -> dict[str, Any]:
        """What the schedules remember, by setting.

        Where several groups have a setting, it is the first group's.
        """
        memory: dict[str, Any] = {}
        for group in reversed(self.optimizer["param_groups"]):
            memory |= group.get("memory", {})
        return memory


def tensors_of(model: nn.Module) -> Tensors:
    """The parameters and buffers of a model by name; also buffers that its `state_dict` lacks."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def put(values: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copies values into the tensors of the same names."""
    for name, x in tensors.items():
        x.copy_(values[name])


def model_state(model: nn.Module) -> Tensors:
    """Copies of the parameters and buffers, by name. Values that are not tensors are left out."""
    saved = model.state_dict()
    return copies({name: x for name, x in saved.items() if isinstance(x, Tensor)})


def optimizer_state(model: nn.Module, optimizer: Stepper | torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of an optimizer's `state_dict`, with the names of the parameters in its groups."""
    names = {id(param): name for name, param in model.named_parameters()}
    saved = deepcopy(optimizer.state_dict())
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        group["param_names"] = [names.get(id(param), "") for param in own["params"]]
    return saved


def put_states(states: Mapping[str, Tensor], model: nn.Module, optimizer: Stepper) -> None:
    """Copies states into an optimizer, for the parameters that it trains.

    states: tensors by the key `state.parameter`.
    """
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    for key, x in states.items():
        state, name = key.split(".", 1)
        if name in params:
            optimizer.state[params[name]][state] = x.clone()
