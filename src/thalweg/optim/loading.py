"""Whether a saved state fits an optimizer, and what becomes of it there."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thalweg import rules
from thalweg.errors import UserError
from thalweg.optim.settings import number
from thalweg.optim.sharded import local
from thalweg.optim.state import Chain, check_shape, counting, precise

if TYPE_CHECKING:
    from thalweg.optim.base import RuleOptimizer


HYPERS = {name for rule in rules.__all__ for name in getattr(rules, rule).known()}
"""What the optimizers of the package have for settings, flags apart."""


A_STATE = "the state of an optimizer is a dictionary with the keys state and param_groups"


def dictionary(given: Any) -> Any:
    """What is given as a state, where it is a dictionary; UserError where not."""
    if not isinstance(given, Mapping):
        raise UserError(f"{A_STATE}, not {brief(given)}.")
    return given


def check(optimizer: RuleOptimizer, given: Mapping[str, Any]) -> None:
    """UserError for a state that the optimizer cannot go on from."""
    if not {"state", "param_groups"} <= set(given):
        raise UserError(f"{A_STATE}; this one has {', '.join(map(str, given)) or 'none'}.")
    for index, saved in enumerate(given["param_groups"]):
        check_settings(optimizer, f"group {index} of the state", saved)
    for group, saved in zip(optimizer.param_groups, given["param_groups"], strict=False):
        chain = optimizer.chain({**group, **saved})
        for param, key in zip(group["params"], saved["params"], strict=False):
            kept = given["state"].get(key)
            if kept:
                check_kept(chain, param, kept, {**group, **saved}, f"parameter {key}")


def check_settings(optimizer: RuleOptimizer, where: str, saved: Any) -> None:
    """UserError for a group of another optimizer's, or with a setting outside its range.

    Flags may be missing: older versions of PyTorch do not know all of them. What schedulers and
    users have put in a group stays there.
    """
    if not isinstance(saved, Mapping) or "params" not in saved:
        raise UserError(f"{where} has to be a dictionary with the key params, not {brief(saved)}.")
    defaults = optimizer.defaults.items()
    mine = {name for name, value in defaults if not isinstance(value, bool | None)}
    strange = sorted(HYPERS.intersection(saved).difference(optimizer.defaults))
    missing = sorted(mine.difference(saved))
    if missing or strange:
        found = f"no {', '.join(missing)}" if missing else ", ".join(strange)
        kind = type(optimizer).__name__
        raise UserError(f"{where} has {found}: it was saved by another optimizer than {kind}.")
    for rule in optimizer.chain({**optimizer.defaults, **saved}):
        for name in rule.known():
            rule.accepted(name, number(saved[name]))


def check_kept(
    chain: Chain, param: Tensor, kept: Any, settings: Mapping[str, Any], where: str
) -> None:
    """UserError for a parameter's state that is not what its chain keeps."""
    if not isinstance(kept, Mapping):
        raise UserError(f"the state of {where} has to be a dictionary, not {brief(kept)}.")
    states = {name: state for rule in chain for name, state in rule.states.items()}
    there = [name for name in states if kept.get(name) is not None]
    if not there and not others(states, kept, param):
        return  # its first step with this chain is yet to come
    needed = [*states, *(name for rule in chain for name in rule.row_states)]
    if not any(issubclass(rule, rules.SGD) for rule in chain):  # PyTorch's counts no steps
        needed.append("step")
    missing = [name for name in needed if kept.get(name) is None]
    if missing:
        raise UserError(
            f"the state of {where} has no {', '.join(missing)}; it has {', '.join(kept)}."
        )
    for name, state in states.items():
        check_tensor(f"{name} of {where}", kept[name], param)
        check_shape(f"{name} of {where}", kept[name], local(param), state, settings)
    for name in set(needed).difference(states):
        check_number(f"{name} of {where}", kept[name])


def others(states: Mapping[str, Any], kept: Mapping[str, Any], param: Tensor) -> list[str]:
    """What another chain has kept for a parameter."""
    return [
        name
        for name, x in kept.items()
        if name not in states and isinstance(x, Tensor) and x.shape == param.shape and x.ndim
    ]


def check_tensor(name: str, kept: Any, param: Tensor) -> None:
    right = torch.complex64 if param.is_complex() else torch.float32
    if not isinstance(kept, Tensor) or not torch.can_cast(kept.dtype, right):
        raise UserError(f"{name} has to be a tensor of {right}, not {brief(kept)}.")


def check_number(name: str, kept: Any) -> None:
    try:
        value = float(kept)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} has to be a finite number, not {brief(kept)}.")


def brief(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} of the shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def restored(
    chain: Chain, param: Tensor, saved: Mapping[str, Any], loaded: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of a saved state of a parameter.

    loaded: what PyTorch has made of it, which has rounded states to the parameter's precision;
    ours keep their own.
    """
    states = {name for rule in chain for name in rule.states}
    row_states = {name for rule in chain for name in rule.row_states}
    found: dict[str, Any] = {}
    for name, value in saved.items():
        if name == "step":
            found[name] = torch.tensor(float(value), dtype=counting())
        elif name in row_states:
            found[name] = torch.tensor(float(value), dtype=torch.float64)
        elif name not in states:
            found[name] = copy.deepcopy(loaded[name])
        elif value is not None:
            found[name] = value.to(param.device, precise(param.dtype), copy=True)
    return found
