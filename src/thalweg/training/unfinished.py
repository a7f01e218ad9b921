"""A lone run on disk: once stopped, it goes on from its last evaluation, to the bit on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from thalweg.random_numbers import from_plain, plain, put, states
from thalweg.stack.states import optimizer_states, put_optimizer_states
from thalweg.training.choice import Candidate, Candidates
from thalweg.training.files import Plan, read_state, write_state
from thalweg.training.run import Point

SCHEDULING = ("step_count", "memory")
"""What a parameter group with schedules remembers of its earlier steps."""


def write_unfinished(
    path: Path, plan: Plan, candidates: Candidates, curve: Sequence[Point]
) -> None:
    """Writes all that the coming steps depend on, and what was found so far."""
    alone = candidates.alone
    (optimizer,), (stream,) = alone.optimizers, alone.streams
    best = candidates.best
    numbers = {"model": stream.states, "global": states()}
    groups = {
        "model": alone.state_dict(0),
        "states": optimizer_states(alone.models[0], optimizer),
        "best": best.weights if best else {},
        "random": {whose: held["torch"] for whose, held in numbers.items()},
    }
    record = {
        "plan": plan,
        "steps": alone.steps,
        "scheduling": [
            {key: group[key] for key in SCHEDULING if key in group}
            for group in optimizer.param_groups
        ],
        "curve": [asdict(point) for point in curve],
        "best": [best.when, best.validation] if best else None,
        "waited": candidates.waited,
        "random": {
            whose: {name: plain(state) for name, state in held.items() if name != "torch"}
            for whose, held in numbers.items()
        },
    }
    write_state(path, groups, record)


def read_unfinished(path: Path, plan: Plan, candidates: Candidates) -> list[Point]:
    """Takes a fresh run to where the file's was, and gives its curve.

    UserError for a file that is damaged or whose plan is another.
    """
    groups, record = read_state(path, plan)
    alone = candidates.alone
    (model,), (optimizer,) = alone.models, alone.optimizers
    model.load_state_dict(groups["model"], strict=False)
    put_optimizer_states(groups.get("states", {}), model, optimizer)
    for group, scheduling in zip(optimizer.param_groups, record["scheduling"], strict=True):
        group |= scheduling
    alone.steps = record["steps"]
    alone.batches.skip(alone.steps * alone.accumulate)
    numbers = {
        whose: {"torch": groups["random"][whose], **{n: from_plain(x) for n, x in others.items()}}
        for whose, others in record["random"].items()
    }
    alone.streams[0].states = numbers["model"]
    put(numbers["global"])
    if record["best"]:
        when, validation = record["best"]
        candidates.best = Candidate(when, groups["best"], validation)
    candidates.waited = record["waited"]
    return [Point(**point) for point in record["curve"]]
