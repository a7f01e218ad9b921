"""The state that an optimizer keeps for a parameter from step to step, as in `state_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.optim.sharded import local, placed_as
from thalweg.rules.record import Chain as Chain
from thalweg.rules.rule import State

CPU = torch.device("cpu")
COUNTING = (torch.float32, torch.float64)
"""The types that a count of steps may have: in PyTorch it has the default type."""


def age(saved: Mapping[str, Any]) -> int:
    """The number of steps of a parameter; 1 where PyTorch keeps a state but does not count."""
    if "step" in saved:
        return int(saved["step"])
    return int(any(value is not None for value in saved.values()))


def age_in(chain: Chain, saved: Mapping[str, Any]) -> int:
    """The number of steps of a parameter with this chain.

    It is 0 where the chain has states and none of them exists yet: the momentum of SGD begins when
    it is first used, even after steps without momentum.
    """
    names = [name for rule in chain for name in rule.states]
    begun = not names or any(saved.get(name) is not None for name in names)
    return age(saved) if begun else 0


def complete(
    saved: dict[str, Any],
    chain: Chain,
    param: Tensor,
    values: Mapping[str, Any],
    device: torch.device = CPU,
) -> None:
    """Adds the states that a parameter's chain needs and that it does not have yet.

    Steps change these tensors in place. A state that is there and fits stays the same tensor, so
    that other holders of the tensor see every step. saved: the parameter's states by name. values:
    the hyperparameters; a state may start at one of them. device: where the count of steps and the
    row states lie. UserError for a state of another shape.
    """
    here = local(param)
    states = {name: state for rule in chain for name, state in rule.states.items()}
    for name, state in states.items():
        kept = saved.get(name)
        if kept is not None:
            check_shape(name, kept, param=param, state=state, values=values)
    steps = age_in(chain, saved)
    if not is_number(saved.get("step"), COUNTING, device):
        saved["step"] = torch.tensor(float(steps), dtype=counting(), device=device)
    elif steps == 0:
        saved["step"].zero_()
    for name, state in states.items():
        kept = saved.get(name)
        if kept is None:
            saved[name] = placed(param, state, as_kind_of(here, starting(param, state, values)))
        elif not can_be_stepped(here, local(kept)):
            moved = local(kept).to(here.device, precise(here.dtype)).contiguous()
            saved[name] = placed(param, state, moved)
    for rule in chain:
        for name, row_state in rule.row_states.items():
            if not is_number(saved.get(name), (torch.float64,), device):
                number = float(saved.get(name, row_state.init))
                saved[name] = torch.tensor(number, dtype=torch.float64, device=device)


def counting() -> torch.dtype:
    """The type of a new count of steps."""
    wide = torch.get_default_dtype() == torch.float64
    return torch.float64 if wide else torch.float32


def is_number(kept: Any, dtypes: tuple[torch.dtype, ...], device: torch.device) -> bool:
    """Whether a state is a tensor of one number, of one of these types, on this device."""
    return (
        isinstance(kept, Tensor)
        and kept.numel() == 1
        and kept.dtype in dtypes
        and kept.device == device
    )


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type of the states of a parameter: the parameter's type, or float32 if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def can_be_stepped(param: Tensor, kept: Tensor) -> bool:
    """Whether a step can change a state in place."""
    return (
        kept.device == param.device
        and kept.dtype == precise(param.dtype)
        and kept.is_contiguous()
        and not kept.is_sparse
    )


def starting(param: Tensor, state: State, values: Mapping[str, Any]) -> Tensor:
    """The value of a state before the first step, as real numbers."""
    real = as_real(local(param))
    init = values[state.init] if isinstance(state.init, str) else state.init
    shape = shape_of(param, state, values) + (2,) * param.is_complex()
    started: Tensor = real.new_zeros(shape, dtype=precise(real.dtype)) + init
    return started


def placed(param: Tensor, state: State, here: Tensor) -> Tensor:
    """A state with the placement of its parameter; a state of another shape is in every process."""
    return placed_as(param, here) if state.shape is None else here


def shape_of(param: Tensor, state: State, values: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the local part of a state."""
    if state.shape is not None:
        m, n = param.shape[0], param.shape[1:].numel()
        return tuple({"m": m, "n": n, "1": 1}[letter] for letter in state.shape)
    here = local(param).shape
    return (values[state.copies], *here) if state.copies else tuple(here)


def check_shape(
    name: str, kept: Tensor, param: Tensor, state: State, values: Mapping[str, Any]
) -> None:
    """UserError for a state that does not have the shape that its parameter needs."""
    shape = shape_of(param, state, values)
    if local(kept).shape != shape:
        raise UserError(
            f"{name} has the shape {tuple(local(kept).shape)} in the state, but {shape} here; load"
            " a state of this model, and for a sharded model use"
            " torch.distributed.checkpoint.state_dict."
        )


def as_real(x: Tensor) -> Tensor:
    """Complex numbers as pairs of real numbers, because rules work on real numbers."""
    return torch.view_as_real(x) if x.is_complex() else x


def as_kind_of(param: Tensor, x: Tensor) -> Tensor:
    """Pairs of real numbers as complex numbers, where the parameter is complex."""
    return torch.view_as_complex(x) if param.is_complex() else x


def working(x: Tensor) -> Tensor:
    """A tensor for the arithmetic of rules: real, and in float32 or wider.

    Parameters of half precision are thus rounded only once a step.
    """
    real = as_real(x)
    return real.to(precise(real.dtype))
