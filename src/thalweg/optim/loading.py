"""Checks whether a saved state fits an optimizer, and copies it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.arguments import number as plain
from thalweg.arguments import short
from thalweg.errors import UserError
from thalweg.optim.groups import GroupedOptimizer
from thalweg.optim.settings import number
from thalweg.optim.state import CPU, Chain, check_shape, counting, precise
from thalweg.rules.rule import every_rule

A_STATE = "the state of an optimizer is a dictionary with the keys state and param_groups"


def dictionary(given: Any) -> Any:
    """The given state; UserError where it is not a dictionary."""
    if not isinstance(given, Mapping):
        raise UserError(f"{A_STATE}, not {brief(given)}.")
    return given


def fitted(
    optimizer: GroupedOptimizer, given: Mapping[str, Any]
) -> list[tuple[Tensor, dict[str, Any]]]:
    """The parameters that have a saved state, each with a copy of its states.

    UserError for a saved state that does not fit the optimizer.
    """
    if not {"state", "param_groups"} <= set(given):
        raise UserError(f"{A_STATE}; this one has {', '.join(map(str, given)) or 'none'}.")
    if not isinstance(given["state"], Mapping) or not isinstance(given["param_groups"], Sequence):
        raise UserError("state has to be a dictionary, and param_groups a list of dictionaries.")
    groups, saved_groups = optimizer.param_groups, given["param_groups"]
    if len(groups) != len(saved_groups):
        raise UserError(
            f"the state has {len(saved_groups)} parameter groups, the optimizer {len(groups)}."
        )
    keys: set[Any] = set()
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        check_group(optimizer, group, f"group {index} of the state", saved)
        keys.update(saved["params"])
    if given["state"] and keys.isdisjoint(given["state"]):
        raise UserError("the keys of state are not those of the parameters in param_groups.")
    found = []
    for group, saved in zip(groups, saved_groups, strict=True):
        settings = {**group, **saved, **optimizer.fixed}
        chain = optimizer.chain(settings)
        for param, key in zip(group["params"], saved["params"], strict=True):
            if key in given["state"]:
                kept = given["state"][key]
                where = f"parameter {key}"
                check_kept(chain, param, kept, settings=settings, where=where)
                found.append((param, restored(chain, param, kept)))
    return found


def check_group(optimizer: GroupedOptimizer, group: Any, where: str, saved: Any) -> None:
    """UserError for a saved group of another optimizer, or with a setting that is out of range.

    A saved group may lack flags, because older versions of PyTorch do not have all of them. It may
    also lack settings that are 0, which do nothing, and settings that a wrapper has added to the
    defaults. Keys that schedulers and users have put in a group are kept.
    """
    if not isinstance(saved, Mapping) or not isinstance(saved.get("params"), Sequence):
        raise UserError(f"{where} has to be a dictionary with a list params, not {brief(saved)}.")
    if len(saved["params"]) != len(group["params"]):
        count = len(saved["params"])
        raise UserError(
            f"{where} has {count} parameters, the parameter group here {len(group['params'])}."
        )
    if saved.get("route", group.get("route")) != group.get("route"):
        raise UserError(
            f"{where} took the route {short(saved['route'])}, and the parameter group here takes"
            f" {short(group.get('route'))}: it was saved with other routes."
        )
    defaults = optimizer.defaults_of(group)
    settings = {name for rule in every_rule() for name in rule.known()}
    own = {name for name in settings.intersection(saved, group) if saved[name] == group[name]}
    strange = sorted(settings.intersection(effective(saved)).difference(defaults, own))
    rules_have = {name for rule in optimizer.chain(defaults) for name in rule.known()}
    missing = sorted(rules_have.intersection(effective(defaults)).difference(saved))
    if missing or strange:
        found = f"no {', '.join(missing)}" if missing else ", ".join(strange)
        kind = type(optimizer).__name__
        raise UserError(f"{where} has {found}: it was saved by another optimizer than {kind}.")
    optimizer.accepted({**defaults, **saved, **optimizer.fixed})
    check_number(f"step_count of {where}", saved.get("step_count", 0))
    kept = saved.get("memory") or {}
    if not isinstance(kept, Mapping) or not all(map(is_memory, kept.values())):
        raise UserError(f"memory of {where} has to be what schedules keep, not {brief(kept)}.")


def is_memory(kept: Any) -> bool:
    """Whether a saved memory is numbers by name, or for a pair of schedules a list of such."""
    return all(
        isinstance(part, Mapping) and not any(math.isnan(plain(x)) for x in part.values())
        for part in (kept if isinstance(kept, list) else [kept])
    )


def effective(settings: Mapping[str, Any]) -> set[str]:
    """The settings that have an effect, without flags: a momentum or a decay of 0 has none."""
    numbers = {n: number(x) for n, x in settings.items() if not isinstance(x, bool | None)}
    return {name for name, value in numbers.items() if value != 0}


def check_kept(
    chain: Chain, param: Tensor, kept: Any, settings: Mapping[str, Any], where: str
) -> None:
    """UserError for a saved state of a parameter that does not fit its chain."""
    if not isinstance(kept, Mapping):
        raise UserError(f"the state of {where} has to be a dictionary, not {brief(kept)}.")
    if kept.get("step") is not None:
        check_number(f"step of {where}", kept["step"])
    states = {name: state for rule in chain for name, state in rule.states.items()}
    there = [name for name in states if kept.get(name) is not None]
    if not there and not others(states, kept):
        return  # the parameter has taken no step with this chain
    row_states = [name for rule in chain for name in rule.row_states]
    needed = [*states, *row_states]
    if all(rule.torch is None or rule.torch.counts for rule in chain):
        needed.append("step")
    missing = [name for name in needed if kept.get(name) is None]
    if missing:
        raise UserError(
            f"the state of {where} has no {', '.join(missing)}; it has {', '.join(kept)}."
        )
    for name, state in states.items():
        check_tensor(f"{name} of {where}", kept[name], param)
        label = f"{name} of {where}"
        check_shape(label, kept[name], param=param, state=state, values=settings)
    for name in row_states:
        check_number(f"{name} of {where}", kept[name])


def others(states: Mapping[str, Any], kept: Mapping[str, Any]) -> set[str]:
    """The states of other chains in a saved state; other keys may belong to a wrapper."""
    known = {name for rule in every_rule() for name in rule.states}
    return known.intersection(kept).difference(states)


def check_tensor(name: str, kept: Any, param: Tensor) -> None:
    right = torch.complex64 if param.is_complex() else torch.float32
    dense = isinstance(kept, Tensor) and kept.layout is torch.strided and not kept.is_meta
    if not dense or not torch.can_cast(kept.dtype, right):
        raise UserError(f"{name} has to be a dense tensor of {right}, not {brief(kept)}.")


def check_number(name: str, kept: Any) -> None:
    try:
        value = float(kept)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{name} has to be a finite number of at least 0, not {brief(kept)}.")


def brief(value: Any) -> str:
    """A short text that describes a value."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} of the shape {tuple(value.shape)}"
    text = short(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def restored(chain: Chain, param: Tensor, saved: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a parameter's states, in the precision that states have.

    PyTorch would round them to the precision of the parameter.
    """
    states = {name for rule in chain for name in rule.states}
    row_states = {name for rule in chain for name in rule.row_states}
    found: dict[str, Any] = {}
    for name, value in saved.items():
        if name == "step":
            found[name] = torch.tensor(float(value), dtype=counting(), device=CPU)
        elif name in row_states:
            found[name] = torch.tensor(float(value), dtype=torch.float64, device=CPU)
        elif name in states and value is not None:
            found[name] = value.detach().to(param.device, precise(param.dtype), copy=True)
    return found


def copied(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a parameter's state after PyTorch has loaded it.

    Without the copy it may share tensors with the saved state.
    """
    return {n: x.detach().clone() if isinstance(x, Tensor) else x for n, x in loaded.items()}
