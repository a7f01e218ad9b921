"""An optimizer's states by the names of the model's parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thalweg.stack.rows import Tensors


def model_state(model: nn.Module) -> Tensors:
    """Copies of the parameters and buffers, by name; a model may save what is no tensor too."""
    saved = model.state_dict()
    return {name: x.detach().clone() for name, x in saved.items() if isinstance(x, Tensor)}


def optimizer_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """Copies of the tensors kept for each parameter that was trained, by `state.parameter`."""
    return {
        f"{state}.{name}": x.detach().clone()
        for name, param in model.named_parameters()
        if param in optimizer.state
        for state, x in optimizer.state[param].items()
        if isinstance(x, Tensor)
    }


def put_optimizer_states(
    states: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Gives the optimizer copies of states, for those parameters that are trained."""
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    for key, x in states.items():
        state, name = key.split(".", 1)
        if name in params:
            optimizer.state[params[name]][state] = x.clone()
