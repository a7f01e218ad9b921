"""A setting as a user gives it: a number, a schedule, or a pair of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from thalweg import arguments
from thalweg.errors import UserError
from thalweg.schedules import Schedule


def is_several(value: Any) -> bool:
    """Whether a setting is a sequence of any kind: a tuple, a list, an array."""
    sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return sequence or getattr(value, "ndim", 0) >= 1


def is_immutable(value: Any) -> bool:
    """Whether a setting cannot change while it is the same object."""
    parts = value if isinstance(value, tuple) else (value,)
    return all(part is None or isinstance(part, int | float | str) for part in parts)


def is_numeric(value: Any) -> bool:
    """Whether a setting is a number, or a tuple of numbers."""
    parts = value if isinstance(value, tuple) else (value,)
    return all(type(part) is float or isinstance(part, Real) for part in parts)


def number(value: Any) -> Any:
    """A setting as plain numbers: PyTorch allows a tensor of one number as a rate, rules do not."""
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        return value.item()
    return tuple(map(number, value)) if is_several(value) else value


def metric(name: str, value: Any) -> float | None:
    """A metric as a float; nan where it is too large for a float."""
    if value is None:
        return None
    plain = number(value)
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise UserError(f"{name} must be a number, not {arguments.short(value)}.")
    return arguments.number(plain)


def in_group(value: Any, accepted: Any) -> Any:
    """A setting as a group holds it. A tensor is kept, because the user may change it in place."""
    if isinstance(accepted, tuple):
        return tuple(map(in_group, value, accepted))
    return value if isinstance(value, Tensor) else accepted


def holds_schedule(value: Any) -> bool:
    """Whether a setting, or one number of a pair, is a schedule."""
    parts = value if isinstance(value, tuple) else (value,)
    return any(isinstance(part, Schedule) for part in parts)


def base(value: Any) -> Any:
    """The plain number that a group holds for a setting, which may be a schedule."""
    if isinstance(value, tuple):
        return tuple(base(part) for part in value)
    return value.base if isinstance(value, Schedule) else value


def memory(value: Any) -> Any:
    """What a setting's schedules remember at the start."""
    if isinstance(value, tuple):
        return [memory(part) for part in value]
    return value.memory() if isinstance(value, Schedule) else {}


def resumed(fresh: Any, saved: Any) -> Any:
    """What a setting's schedules remember, from a saved memory.

    A schedule whose saved memory does not fit begins with a fresh one.
    """
    if isinstance(fresh, list):
        fits = isinstance(saved, list) and len(saved) == len(fresh)
        return [resumed(*each) for each in zip(fresh, saved, strict=True)] if fits else fresh
    return saved if isinstance(saved, dict) and saved.keys() == fresh.keys() else fresh


def observed(value: Any, kept: Any, **metrics: float | None) -> Any:
    """What a setting's schedules remember after they have seen the metrics."""
    if isinstance(value, tuple):
        return [observed(v, k, **metrics) for v, k in zip(value, kept, strict=True)]
    return value.observe(kept, **metrics) if isinstance(value, Schedule) else kept


def at_step(value: Any, schedule: Any, step: int, kept: Any) -> Any:
    """A setting at a step: its plain numbers times the factors of its schedules, if it has any.

    kept: what the schedules remember.
    """
    if isinstance(value, tuple):
        parts = schedule if schedule else (None,) * len(value)
        memories = kept if kept else ({},) * len(value)
        each = zip(value, parts, memories, strict=True)
        return tuple(at_step(v, s, step, k) for v, s, k in each)
    return value * schedule.factor(step, kept) if isinstance(schedule, Schedule) else value
