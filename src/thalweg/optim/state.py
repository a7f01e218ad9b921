"""What an optimizer keeps for a parameter from step to step, where `state_dict` finds it."""

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
"""The types of a count of steps; PyTorch's is float64 where that is the default type."""


def age(saved: Mapping[str, Any]) -> int:
    """The steps a parameter has taken; PyTorch does not count them for every optimizer."""
    if "step" in saved:
        return int(saved["step"])
    return int(any(value is not None for value in saved.values()))


def age_in(chain: Chain, saved: Mapping[str, Any]) -> int:
    """The steps a parameter has taken with what a chain keeps.

    It is 0 where the chain keeps something and nothing of it is there yet: the momentum of an SGD
    begins when it is first used, whatever plain steps have gone before.
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
    """Gives a parameter what its chain keeps, as tensors that steps change in place.

    What is there and fits stays the same tensor, so that whoever else has it sees every step.
    values: the hyperparameters, which may say where a state starts. device: where the count of
    steps and the numbers of a row lie. UserError for a kept state of another shape.
    """
    here = local(param)
    states = {name: state for rule in chain for name, state in rule.states.items()}
    for name, state in states.items():
        kept = saved.get(name)
        if kept is not None:
            check_shape(name, kept, param, state, values)
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
    """Whether it is a tensor of one number, of one of these types, on a device."""
    return (
        isinstance(kept, Tensor)
        and kept.numel() == 1
        and kept.dtype in dtypes
        and kept.device == device
    )


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type of the states of parameters of a type: float32 for half precision."""
    return torch.promote_types(dtype, torch.float32)


def can_be_stepped(param: Tensor, kept: Tensor) -> bool:
    """Whether a step can change a kept state where it is."""
    return (
        kept.device == param.device
        and kept.dtype == precise(param.dtype)
        and kept.is_contiguous()
        and not kept.is_sparse
    )


def starting(param: Tensor, state: State, values: Mapping[str, Any]) -> Tensor:
    """A state before its first step, of real numbers."""
    real = as_real(local(param))
    init = values[state.init] if isinstance(state.init, str) else state.init
    shape = shape_of(param, state, values) + (2,) * param.is_complex()
    started: Tensor = real.new_zeros(shape, dtype=precise(real.dtype)) + init
    return started


def placed(param: Tensor, state: State, here: Tensor) -> Tensor:
    """A state as a parameter lies; one of a shape of its own is whole in every process."""
    return placed_as(param, here) if state.shape is None else here


def shape_of(param: Tensor, state: State, values: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of what is here of a state, where a parameter may be sharded."""
    if state.shape is not None:
        m, n = param.shape[0], param.shape[1:].numel()
        return tuple({"m": m, "n": n, "1": 1}[letter] for letter in state.shape)
    here = local(param).shape
    return (values[state.copies], *here) if state.copies else tuple(here)


def check_shape(
    name: str, kept: Tensor, param: Tensor, state: State, values: Mapping[str, Any]
) -> None:
    """UserError for a kept state that does not have the shape of its parameter."""
    shape = shape_of(param, state, values)
    if local(kept).shape != shape:
        raise UserError(
            f"{name} has the shape {tuple(local(kept).shape)} in the state, but {shape} here; load "
            "the state of this model, of a sharded one by torch.distributed.checkpoint.state_dict."
        )


def as_real(x: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, which rules treat as two."""
    return torch.view_as_real(x) if x.is_complex() else x


def as_kind_of(param: Tensor, x: Tensor) -> Tensor:
    """Pairs of real numbers as complex ones, where the parameter has such."""
    return torch.view_as_complex(x) if param.is_complex() else x


def working(x: Tensor) -> Tensor:
    """As rules take it: real, and half precision in float32, to be rounded once a step."""
    real = as_real(x)
    return real.to(precise(real.dtype))
