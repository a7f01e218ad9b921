"""A lone run on disk: once stopped, it goes on from its last evaluation, to the bit on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from thalweg.random_numbers import from_plain, plain, put, states
from thalweg.stack.checkpoint import Checkpoint
from thalweg.training.choice import Candidate, Candidates
from thalweg.training.files import Identity, read_state, write_state
from thalweg.training.run import Evaluation


def write_unfinished(
    path: Path, plan: Identity, candidates: Candidates, curve: Sequence[Evaluation]
) -> None:
    """Writes all that the coming steps depend on, and what was found so far."""
    now, best = candidates.alone.checkpoint(0), candidates.best
    numbers = {"model": now.random, "global": states()}
    kept, optimizer = apart(now.optimizer)
    groups = {
        "model": now.weights,
        "optimizer": kept,
        "best": best.weights if best else {},
        "random": {whose: held["torch"] for whose, held in numbers.items()},
    }
    record = {
        "plan": plan,
        "steps": now.steps,
        "optimizer": optimizer,
        "curve": [asdict(point) for point in curve],
        "best": [best.when, best.validation] if best else None,
        "waited": candidates.waited,
        "random": {
            whose: {name: plain(state) for name, state in held.items() if name != "torch"}
            for whose, held in numbers.items()
        },
    }
    write_state(path, groups, record)


def read_unfinished(path: Path, plan: Identity, candidates: Candidates) -> list[Evaluation]:
    """Takes a fresh run to where the file's was, and gives its curve.

    UserError for a file that is damaged or whose plan is another.
    """
    groups, record = read_state(path, plan)
    optimizer = together(groups.get("optimizer", {}), record["optimizer"])
    numbers = {
        whose: {"torch": groups["random"][whose], **{n: from_plain(x) for n, x in others.items()}}
        for whose, others in record["random"].items()
    }
    now = Checkpoint(record["steps"], groups["model"], optimizer, numbers["model"])
    candidates.alone.resume(now)
    put(numbers["global"])
    if record["best"]:
        when, validation = record["best"]
        candidates.best = Candidate(when, groups["best"], validation)
    candidates.waited = record["waited"]
    return [Evaluation(**point) for point in record["curve"]]


def apart(nested: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of something nested, by number, and all else of it as plain data."""
    leaves, form = tree_flatten(nested)
    tensors = {str(i): x for i, x in enumerate(leaves) if isinstance(x, Tensor)}
    others = {str(i): x for i, x in enumerate(leaves) if not isinstance(x, Tensor)}
    return tensors, {"form": treespec_dumps(form), "others": others}


def together(tensors: dict[str, Tensor], record: dict[str, Any]) -> Any:
    """What was taken apart."""
    leaves = tensors | record["others"]
    form = treespec_loads(record["form"])
    return tree_unflatten([leaves[str(i)] for i in range(len(leaves))], form)
