"""What a run saves, to go on from there where it is interrupted: one file, which is written whole.

It is read by `torch.load(weights_only=True)`, which makes tensors and plain data and nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thalweg import random_numbers
from thalweg.arguments import short
from thalweg.errors import UserError
from thalweg.training.run import Evaluation
from thalweg.whole_file import whole_file

if TYPE_CHECKING:
    from thalweg.loops.run import Run


def put(place: Path, run: Run, state: Any) -> None:
    """Keeps a state of a run in place of an earlier one; UserError for one that cannot be read."""
    kept = {
        "state": state,
        "rounds": run.rounds,
        "extra": run.extra,
        "step": run.step,
        "curve": [(point.step, point.train_loss, point.metric) for point in run.curve],
        "random": random_numbers_now(),
    }
    with whole_file(place) as unfinished:
        torch.save(kept, unfinished)
        try:
            torch.load(unfinished, weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"run.save keeps tensors, numbers and texts, in dictionaries and lists, not"
                f" {short(state)}: give state_dict()s."
            ) from None


def get(place: Path, run: Run) -> Any:
    """The state that is kept, from which the run goes on; None where there is none."""
    if not place.is_file():
        return None
    kept = torch.load(place, weights_only=True)
    run.rounds, run.extra = kept["rounds"], kept["extra"]
    run.before = kept["step"]  # counts where the loop does not go by `steps()`
    run.curve = [Evaluation(*point) for point in kept["curve"]]
    go_on_with(kept["random"])
    return kept["state"]


def random_numbers_now() -> dict[str, Any]:
    """The states of all generators; NumPy's and Python's as plain data."""
    states = {name: random_numbers.plain(own) for name, own in random_numbers.states().items()}
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {**states, "torch": torch.get_rng_state(), "devices": devices}


def go_on_with(kept: dict[str, Any]) -> None:
    """Puts the states of all generators."""
    if devices := kept.pop("devices"):
        torch.cuda.set_rng_state_all(devices)
    plain = {name: random_numbers.from_plain(own) for name, own in kept.items() if name != "torch"}
    random_numbers.put({**plain, "torch": kept["torch"]})
