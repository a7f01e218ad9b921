"""Groups of tensors, and plain data, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from thalweg.errors import UserError
from thalweg.recipes import Recipe
from thalweg.stack.batches import length_of
from thalweg.stack.population import initial_model
from thalweg.stack.rows import Tensors
from thalweg.tasks.task import Task
from thalweg.whole_file import require_replaceable, whole_file


def require_writable(path: Path) -> None:
    """Makes the checkpoint's folder; UserError where a file cannot be put there."""
    try:
        require_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def save(weights: Tensors, path: Path, metadata: dict[str, str]) -> None:
    """Writes a checkpoint; one that stands there is replaced only by a whole one."""
    try:
        with whole_file(path) as unfinished:
            save_file({n: x.contiguous() for n, x in weights.items()}, unfinished, metadata)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"the checkpoint cannot be written to {path}: {why}.")


def write_state(path: Path, groups: Mapping[str, Tensors], record: Mapping[str, Any]) -> None:
    """Writes groups of tensors by name, and a record of plain data, from which to go on."""
    tensors = {f"{group}.{name}": x for group, held in groups.items() for name, x in held.items()}
    save(tensors, path, {key: json.dumps(value) for key, value in record.items()})


def read_state(path: Path, plan: Any) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The groups and the record of a file; UserError where its `plan` is another than this."""
    try:
        with safe_open(path, "pt") as file:
            record = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to begin again.") from None
    if record.get("plan") != plan:
        raise UserError(
            f"{path} is of another training: of another task, model, recipe, seed or budget;"
            " delete it to begin again, or write elsewhere."
        )
    groups: dict[str, Tensors] = {}
    for key, x in tensors.items():
        group, name = key.split(".", 1)
        groups.setdefault(group, {})[name] = x
    return groups, record


def described(task: Task, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What makes a training another one when it changes."""
    model = initial_model(task, seed)
    return {
        "task": task.name,
        "parameters": {name: list(param.shape) for name, param in model.named_parameters()},
        "recipe": recipe.to_toml(),
        "steps": task.total_steps(length_of(task)),
        "seed": seed,
    }
