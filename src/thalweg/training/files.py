"""Safetensors files that hold groups of tensors, and plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from thalweg.checksum import checksum
from thalweg.errors import UserError
from thalweg.recipe import Recipe
from thalweg.stack.batches import length_of
from thalweg.stack.rows import Tensors
from thalweg.tasks.task import Task
from thalweg.training.fingerprint import difference, fingerprint, of_own_rules
from thalweg.whole_file import unwritable, whole_file

CHECKSUM = "checksum"
FINGERPRINT = "fingerprint"

Identity = Sequence[Mapping[str, Any]]
"""The descriptions of a training's stages, by `described`. Another plan means another training."""


def save(weights: Tensors, path: Path, metadata: dict[str, str]) -> None:
    """Writes a checkpoint. An older file is replaced only when the new one is complete."""
    try:
        with whole_file(path) as unfinished:
            save_file({n: x.contiguous() for n, x in weights.items()}, unfinished, metadata)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from None


def write_state(path: Path, groups: Mapping[str, Tensors], record: Mapping[str, Any]) -> None:
    """Writes named groups of tensors and a record of plain data, so that a training can go on."""
    tensors = {f"{group}.{name}": x for group, held in groups.items() for name, x in held.items()}
    texts = {key: json.dumps(value) for key, value in record.items()}
    save(tensors, path, texts | {CHECKSUM: checksum(all_of(tensors, texts))})


def read_state(path: Path, plan: Identity) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The groups and the record of a file.

    Raises UserError for a file that is damaged, and for a file with another `plan`.
    """
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to begin again.") from None
    if texts.pop(CHECKSUM, None) != checksum(all_of(tensors, texts)):
        raise UserError(f"{path} is damaged: its checksum is wrong; delete it to begin again.")
    record = {key: json.loads(text) for key, text in texts.items()}
    if other := another(record["plan"], plan):
        raise UserError(
            f"{path} belongs to another training, with {other}; delete it to begin again, or write"
            " to another place."
        )
    groups: dict[str, Tensors] = {}
    for key, x in tensors.items():
        group, name = key.split(".", 1)
        groups.setdefault(group, {})[name] = x
    return groups, record


def all_of(tensors: Tensors, texts: Mapping[str, str]) -> Iterator[object]:
    """All that such a file holds, in a fixed order, for its checksum."""
    yield sorted(texts.items())
    for name in sorted(tensors):
        yield from (name, tensors[name])


def described(task: Task, recipe: Recipe, seed: int) -> dict[str, Any]:
    """The description of a stage: all that decides its result."""
    return {
        "task": task.name,
        "recipe": recipe.to_toml(),
        "steps": task.total_steps(length_of(task)),
        "seed": seed,
        FINGERPRINT: {**fingerprint([task]), **of_own_rules([recipe])},
    }


def another(before: Identity, now: Identity) -> str:
    """How two plans differ, in words; empty if they do not."""
    if len(before) != len(now):
        return "another number of stages"
    for kept, wanted in zip(before, now, strict=True):
        for name, value in wanted.items():
            if name == FINGERPRINT:
                if changed := difference(kept[name], value):
                    return changed
            elif kept[name] != value:
                return f"another {name}"
    return ""
