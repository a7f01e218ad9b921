"""The file from which an interrupted run continues. It is always written as a whole.

`torch.load(weights_only=True)` reads it, which makes only tensors and plain data.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thalweg import random_numbers
from thalweg.arguments import short
from thalweg.errors import UserError
from thalweg.whole_file import whole_file


def put(place: Path, state: Any, progress: Mapping[str, Any]) -> None:
    """Saves a state of a run, and its progress, in place of those before.

    UserError for a state that cannot be read again.
    """
    kept = {"state": state, "random": random_numbers_now(), **progress}
    with whole_file(place) as unfinished:
        torch.save(kept, unfinished)
        try:
            torch.load(unfinished, weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"run.save keeps tensors, numbers and texts, in dictionaries and lists, not"
                f" {short(state)}: give state_dict()s."
            ) from None


def get(place: Path) -> dict[str, Any]:
    """The saved state and progress of a run; empty if there are none.

    Random numbers then go on from where the state was saved.
    """
    if not place.is_file():
        return {}
    kept: dict[str, Any] = torch.load(place, weights_only=True)
    go_on_with(kept.pop("random"))
    return kept


def random_numbers_now() -> dict[str, Any]:
    """The states of all generators of random numbers. NumPy's and Python's are plain data."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {**random_numbers.as_data(random_numbers.states()), "devices": devices}


def go_on_with(kept: dict[str, Any]) -> None:
    """Sets the states of all generators of random numbers."""
    if devices := kept.pop("devices"):
        torch.cuda.set_rng_state_all(devices)
    random_numbers.put(random_numbers.from_data(kept))
