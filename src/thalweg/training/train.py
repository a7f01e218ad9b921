"""The one training loop, for a population of one or many, and the verb that trains a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from thalweg.arguments import require_whole
from thalweg.errors import UserError, suggest
from thalweg.recipes import Recipe, recipe_of
from thalweg.stack.batches import length_of
from thalweg.stack.member import Member
from thalweg.stack.population import Population, initial_model
from thalweg.stack.single import PRECISIONS, Single
from thalweg.stack.way import Way, populate
from thalweg.tasks.check import check, failure_in_training
from thalweg.tasks.find import find
from thalweg.tasks.task import Task
from thalweg.training.choice import KEEP, Candidates
from thalweg.training.files import require_writable, save
from thalweg.training.progress import Progress, Silent, Together
from thalweg.training.run import Point, Run
from thalweg.training.tensorboard import TensorBoard
from thalweg.training.unfinished import read_unfinished, write_unfinished

EVALUATIONS = 15
"""Evaluations in a run, spread evenly, the last at its end."""


@dataclass(frozen=True)
class Trained:
    """A run, and the file that holds the parameters and buffers that were kept.

    kept: when the run had them. validation: their metrics by name; the run has those on test data.
    """

    run: Run
    checkpoint: Path
    kept: str
    validation: Mapping[str, float]


Watch = Callable[[int, int], None]
"""`watch(step, alive)`: told after every step how many members have not diverged."""


def train_members(
    task: Task,
    members: Sequence[Member],
    *,
    width: int,
    way: Way | None = None,
    test: bool = False,
    watch: Watch | None = None,
) -> list[Run]:
    """Trains members through the task's whole budget, and says what became of each, in their order.

    width: how many share a block where they are stacked. way: of stepping them; stacked where that
    is possible, if not given. test: whether those that end without a
    divergence are scored on test data too. The same members give the same runs; those that share a
    recipe's chain should be neighbours, which makes their steps fast.
    """
    with failure_in_training(task), own_random_state(members[0].seed):
        population = populate(task, members, width, way)

        def stepped(step: int, _: Sequence[float]) -> None:
            if watch is not None:
                watch(step, population.diverged.count(None))

        curves = learn(task, population, stepped)
        tested = scores(population, task.splits.test) if test else [{}] * len(members)
    return [
        Run(member, tuple(curve), divergence, {} if divergence else scored)
        for member, curve, divergence, scored in zip(
            members, curves, population.diverged, tested, strict=True
        )
    ]


def train(
    task: Task | str,
    recipe: Recipe | str | Path,
    *,
    seed: int = 0,
    out: str | Path = "model.safetensors",
    keep: str = "end",
    patience: int | None = None,
    accumulate: int = 1,
    precision: str = "full",
    tensorboard: str | Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Trains the task's model with a recipe, scores it on test data and saves a checkpoint.

    task: a task, the name of a bundled one, or `path/to/file.py:task`.
    recipe: a recipe, the name of an optimizer, or the path of a recipe file, `*.toml`.
    seed: from 0 to 2^32 - 1, fixes the initial weights and the batches.
    keep: which parameters: those that evaluation uses at the "end", or the "best" on validation
        data among these, those of the evaluations before (15 in a run, spread evenly), and, where
        the recipe averages, the last iterate.
    patience: evaluations without a better one after which training stops early; never, if not
        given.
    accumulate: batches a step, which is taken from the mean of their gradients. The budget stays
        in gradient evaluations, so that there are 1 / accumulate as many steps (what is left over
        is dropped), and a recipe's schedules and averages count these.
    precision: "full", the parameters' own, or "bfloat16" for matrix products and convolutions in
        the forward and backward passes of training (`torch.autocast`, on the device of the
        parameters). Parameters, the optimizer's state and evaluation keep their own.
    tensorboard: a folder for TensorBoard's scalars, by step: training loss and lr, and validation
        metrics; none, if not given.
    progress: is told how far the training is.

    The checkpoint is a safetensors file of these parameters, and the buffers, by the model's names;
    its metadata hold the task's name, the recipe, the seed and what was kept. A run that is stopped
    leaves `out` with `.unfinished` behind its name, from which the same call goes on at the last
    evaluation, and comes to the same bits (on a CPU) as if it had never stopped. Raises UserError
    when the run diverges, and, before training, for a task that cannot be trained, when nothing
    can be written to `out` or `tensorboard`, and where TensorBoard is wanted and not installed.
    """
    task, recipe = find(task), recipe_of(recipe)
    require_whole("seed", seed, 0)
    settings: dict[str, Any] = {"keep": keep, "patience": patience}
    settings |= {"accumulate": accumulate, "precision": precision}
    require_settings(**settings)
    check(task)
    require_step(task, accumulate)
    unfinished = Path(f"{out}.unfinished")
    for path in (Path(out), unfinished):
        require_writable(path)
    board = closing(TensorBoard(Path(tensorboard))) if tensorboard else nullcontext(Silent())
    member = Member(recipe, seed)
    plan = described(task, recipe, seed) | settings
    with failure_in_training(task), own_random_state(seed), board as scalars:
        candidates = Candidates(task, Single(task, [member], accumulate, precision))
        told = Together(scalars, progress or Silent())
        curve = learn_alone(candidates, unfinished, plan, told)
        kept = candidates.evaluated(curve[-1])
        if keep == "best":
            kept = candidates.chosen(kept)
        tested = candidates.metrics(kept.weights, task.splits.test)
    metadata = {"task": task.name, "recipe": recipe.to_toml(), "seed": str(seed), "kept": kept.when}
    save(kept.weights, Path(out), metadata)
    unfinished.unlink()
    run = Run(member, tuple(curve), None, tested)
    return Trained(run, Path(out), kept.when, kept.validation)


def learn_alone(
    candidates: Candidates, unfinished: Path, plan: dict[str, Any], progress: Progress
) -> list[Point]:
    """The learning curve of a lone run, which goes on from its file where it was stopped.

    It ends early after as many evaluations without a better one as the plan has patience.
    """
    task, alone = candidates.task, candidates.alone
    patience: int | None = plan["patience"]
    curve = read_unfinished(unfinished, plan, candidates) if unfinished.exists() else []

    def stepped(step: int, losses: Sequence[float]) -> None:
        progress.stepped(step, losses[0], alone.optimizers[0].last_lr)

    def enough(curves: list[list[Point]]) -> bool:
        candidates.add(curves[0][-1])
        write_unfinished(unfinished, plan, candidates, curves[0])
        progress.evaluated(curves[0][-1])
        return candidates.waited == patience

    if candidates.waited != patience:
        progress.began(task.metric_name, steps_of(alone), epochs_of(alone), alone.steps)
        (curve,) = learn(task, alone, stepped, enough, [curve])
    if alone.diverged[0]:
        unfinished.unlink(missing_ok=True)
    require_finite(task, alone)
    return curve


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


def require_finite(task: Task, alone: Population) -> None:
    """UserError where a population of one has diverged."""
    (member,), (divergence,) = alone.members, alone.diverged
    if divergence:
        raise UserError(
            f"training of {task.name} with {member.recipe.name} diverged at step "
            f"{divergence.step}: {divergence.reason}; a smaller lr or a clip may help."
        )


def require_settings(keep: str, patience: int | None, accumulate: int, precision: str) -> None:
    """UserError for a setting of a training that is none."""
    if keep not in KEEP:
        raise UserError(f"nothing to keep is called {keep}; {suggest(str(keep), KEEP)}")
    if patience is not None:
        require_whole("patience", patience, 1)
    require_whole("accumulate", accumulate, 1)
    if precision not in PRECISIONS:
        hint = suggest(str(precision), PRECISIONS)
        raise UserError(f"no precision is called {precision}; {hint}")


def require_step(task: Task, accumulate: int) -> None:
    """UserError where the budget has not the batches for one step."""
    batches = task.total_steps(length_of(task))
    if accumulate > batches:
        raise UserError(
            f"accumulate must be at most {batches}, the batches of {task.name}'s whole budget, not"
            f" {accumulate}."
        )


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Random numbers from a seed, on every device in use; the global states stay as they are."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def learn(
    task: Task,
    population: Population,
    stepped: Callable[[int, Sequence[float]], None] = lambda *_: None,
    enough: Callable[[list[list[Point]]], bool] | None = None,
    begun: list[list[Point]] | None = None,
) -> list[list[Point]]:
    """Takes a population through the budget; each member's learning curve, by place.

    stepped: is told every step's number and losses, by place. enough: is told the curves after
    every evaluation, and may end the training early. begun: the curves of a population that has
    been on the way already.
    """
    steps = steps_of(population)
    marks = evaluation_steps(steps)
    curves = begun or [[] for _ in population.members]
    losses: list[list[float]] = []
    for step in range(population.steps + 1, steps + 1):
        losses.append(population.step())
        stepped(step, losses[-1])
        if all(population.diverged):
            break
        if step in marks:
            evaluate(task, population, step, losses, curves)
            losses = []
            if enough is not None and enough(curves):
                break
    return curves


def steps_of(population: Population) -> int:
    """The steps that the task's budget, which is in gradient evaluations, has batches for."""
    task = population.task
    return task.total_steps(length_of(task)) // population.accumulate


def epochs_of(population: Population) -> Fraction:
    """How often these steps go through the training data."""
    task, batches = population.task, steps_of(population) * population.accumulate
    return Fraction(batches, task.steps_per_epoch(length_of(task)))


def evaluation_steps(steps: int) -> set[int]:
    """After which steps a run is evaluated; every one of a short run."""
    count = min(steps, EVALUATIONS)
    return {math.ceil(steps * (i + 1) / count) for i in range(count)}


def evaluate(
    task: Task,
    population: Population,
    step: int,
    losses: list[list[float]],
    curves: list[list[Point]],
) -> None:
    """Adds a point to the curve of every member that has not diverged."""
    training = [sum(column) / len(column) for column in zip(*losses, strict=True)]
    validation = scores(population, task.splits.validation)
    metrics = [scored.get(task.metric_name, math.nan) for scored in validation]
    population.observe(training, metrics)
    for place, scored in enumerate(validation):
        if scored:
            also = {name: scored[name] for name in task.also}
            curves[place].append(Point(step, training[place], metrics[place], also))


def scores(population: Population, dataset: Dataset[Any]) -> list[Mapping[str, float]]:
    """Each member's metrics over a data set, at the parameters that evaluation uses, by place.

    Empty for a member that has diverged.
    """
    with torch.no_grad(), population.evaluation():
        found = population.scores(dataset)
    return [{} if d else scored for scored, d in zip(found, population.diverged, strict=True)]
