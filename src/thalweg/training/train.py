"""Training from the first step to the last, pre-training included: of members, and of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from thalweg.arguments import (
    require_flag,
    require_kind,
    require_known,
    require_path,
    require_whole,
)
from thalweg.errors import UserError
from thalweg.random_numbers import drawing
from thalweg.recipes import AnyRecipe, recipe_of
from thalweg.recipes import no_decay as without_decay
from thalweg.stack.batches import length_of
from thalweg.stack.divergence import Divergence
from thalweg.stack.member import Member
from thalweg.stack.population import Population
from thalweg.stack.single import PRECISIONS, Single
from thalweg.stack.way import Way, populate
from thalweg.tasks.check import check, check_recipe
from thalweg.tasks.find import find
from thalweg.tasks.groups import with_groups
from thalweg.tasks.task import Task
from thalweg.tasks.user_code import failure_in_training
from thalweg.training.choice import KEEP, Candidates
from thalweg.training.files import Plan, described, save
from thalweg.training.learn import (
    Watch,
    epochs_of,
    learn,
    require_finite,
    scores,
    steps_of,
)
from thalweg.training.pretrain import pretrained, stages_for
from thalweg.training.progress import Progress, Silent, Together
from thalweg.training.run import Point, Run
from thalweg.training.stages import Stage, hand_on, start_from, through
from thalweg.training.tensorboard import TensorBoard
from thalweg.training.unfinished import read_unfinished, write_unfinished
from thalweg.whole_file import require_writable


@dataclass(frozen=True)
class Trained:
    """A run, and the file that holds the parameters and buffers that were kept.

    kept: when the run had them. validation: their metrics by name; the run has those on test data.
    """

    run: Run
    checkpoint: Path
    kept: str
    validation: Mapping[str, float]


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

    members: pre-trained in one way, or none of them. width: how many share a block where they are
    stacked. way: of stepping them; stacked where that is possible, if not given, and instead of
    compiled in a pre-training, whose stages would each have to be compiled. test: whether those
    that end without a divergence are scored on test data too. The same members give the same runs;
    those that share a recipe's chain should be neighbours, which makes their steps fast.
    """
    stages = stages_for(task, members[0].recipe.pretrain)
    if len(stages) > 1 and way == "compiled":
        way = "stacked"
    population: Population | None = None
    diverged: list[Divergence | None] = [None] * len(members)
    for stage in stages:
        with failure_in_training(stage.task), drawing(members[0].seed):
            population = begun(stage, members, width, way, population)
            stepped = partial(tell, watch or (lambda *_: None), population)
            curves = learn(stage.task, population, stepped, before=stage.before)
            ended = test and stage is stages[-1]
            tested = scores(population, task.splits.test) if ended else [{}] * len(members)
        diverged = [
            known or (found and replace(found, step=stage.before + found.step))
            for known, found in zip(diverged, population.diverged, strict=True)
        ]
    return [
        Run(member, tuple(curve), divergence, {} if divergence else scored)
        for member, curve, divergence, scored in zip(members, curves, diverged, tested, strict=True)
    ]


def tell(watch: Watch, population: Population, step: int, _: Sequence[float]) -> None:
    watch(step, population.diverged.count(None))


def begun(
    stage: Stage,
    members: Sequence[Member],
    width: int,
    way: Way | None,
    before: Population | None,
) -> Population:
    """Members at the first step of a stage, behind the stage before, where there is one."""
    population = populate(stage.task, members, width, way)
    if before:
        hand_on(before, stage, population)
    return population


def train(
    task: Task | str,
    recipe: AnyRecipe,
    *,
    seed: int = 0,
    out: str | Path = "model.safetensors",
    keep: str = "end",
    patience: int | None = None,
    pretrain: bool = False,
    no_decay: bool = False,
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
    pretrain: first goes through the stages that the task offers, within the same budget, as a
        recipe can say itself. What is kept and when to stop are matters of the last stage.
    no_decay: leaves biases and what normalization layers have without decay; see
        `thalweg.no_decay`.
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
    leaves `out` with `.unfinished` behind its name, and one in a pre-training with `.stage-1` and
    so on, from which the same call goes on at the last evaluation of its last stage, or after the
    last stage that is done, and comes to the same bits (on a CPU) as if it had never stopped.
    Raises UserError when the run diverges, and, before training, for a task that cannot be trained,
    or not pre-trained, for a pre-training that accumulates or has another precision, when nothing
    can be written to `out` or `tensorboard`, and where TensorBoard is wanted and not installed.
    """
    if progress is not None:
        require_kind("progress", progress, Progress, "an object with the methods of a Progress")
    require_flag("pretrain", pretrain)
    require_flag("no_decay", no_decay)
    # A task's file may change the working directory.
    out, recipe = require_path("out", out).absolute(), recipe_of(recipe)
    folder = None if tensorboard is None else require_path("tensorboard", tensorboard).absolute()
    task = find(task)
    seed = require_whole("seed", seed, 0)
    patience = None if patience is None else require_whole("patience", patience, 1)
    accumulate = require_whole("accumulate", accumulate, 1)
    require_known("choice of parameters to keep", keep, KEEP)
    require_known("precision", precision, PRECISIONS)
    settings: dict[str, Any] = {"keep": keep, "patience": patience}
    settings |= {"accumulate": accumulate, "precision": precision}
    check(task)
    recipe = with_groups(task, without_decay(recipe) if no_decay else recipe)
    check_recipe(task, recipe)
    if pretrain:
        recipe = pretrained(task, recipe)
    if recipe.pretrain and (accumulate, precision) != (1, "full"):
        raise UserError("a pre-training takes its steps one batch each, in full precision.")
    require_step(task, accumulate)
    *first, last = stages_for(task, recipe.pretrain)
    for stage in first:
        check(stage.task)
    unfinished = Path(f"{out}.unfinished")
    paths = [Path(f"{out}.stage-{number}") for number in range(1, len(first) + 1)]
    for path in (out, unfinished, *paths):
        require_writable(path)
    board = closing(TensorBoard(folder)) if folder else nullcontext(Silent())
    member = Member(recipe, seed)
    plan = [described(last.task, recipe, seed) | settings]
    done = list(through(first, [recipe] * len(first), seed, paths))
    with failure_in_training(last.task), drawing(seed), board as scalars:
        alone = Single(last.task, [member], accumulate, precision)
        if done:
            start_from(done[-1].handed.evaluated, last, alone.models[0], alone, 0)
        candidates = Candidates(last.task, alone)
        told = Together(scalars, progress or Silent())
        curve = learn_alone(candidates, unfinished, plan, patience, last.before, told)
        kept = candidates.evaluated(curve[-1])
        if keep == "best":
            kept = candidates.chosen(kept)
        tested = candidates.metrics(kept.weights, task.splits.test)
    metadata = {"task": task.name, "recipe": recipe.to_toml(), "seed": str(seed), "kept": kept.when}
    save(kept.weights, out, metadata)
    for path in (unfinished, *paths):
        path.unlink(missing_ok=True)
    run = Run(member, tuple(curve), None, tested)
    return Trained(run, out, kept.when, kept.validation)


def learn_alone(
    candidates: Candidates,
    unfinished: Path,
    plan: Plan,
    patience: int | None,
    before: int,
    progress: Progress,
) -> list[Point]:
    """The learning curve of a lone run, which goes on from its file where it was stopped.

    It ends early after as many evaluations without a better one as there is patience.
    """
    task, alone = candidates.task, candidates.alone
    curve = read_unfinished(unfinished, plan, candidates) if unfinished.exists() else []

    def stepped(step: int, losses: Sequence[float]) -> None:
        progress.stepped(step, losses[0], alone.optimizers[0].last_lr)

    def enough(curves: list[list[Point]]) -> bool:
        candidates.add(curves[0][-1])
        write_unfinished(unfinished, plan, candidates, curves[0])
        progress.evaluated(curves[0][-1])
        return candidates.waited == patience

    if candidates.waited != patience:
        steps = before + steps_of(alone)
        epochs = epochs_of(alone) * steps / steps_of(alone)
        progress.began(task.metric_name, steps, epochs, before + alone.steps)
        (curve,) = learn(task, alone, stepped, enough, [curve], before)
    if alone.diverged[0]:
        unfinished.unlink(missing_ok=True)
    require_finite(task, alone)
    return curve


def require_step(task: Task, accumulate: int) -> None:
    """UserError where the budget has not the batches for one step."""
    batches = task.total_steps(length_of(task))
    if accumulate > batches:
        raise UserError(
            f"accumulate must be at most {batches}, the batches of {task.name}'s whole budget, not"
            f" {accumulate}."
        )
