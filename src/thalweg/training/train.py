"""Training members, or one model, from the first step to the last, pre-training included."""

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
from thalweg.stack.divergence import Divergence, from_plain, in_plain
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
from thalweg.training.files import Identity, described, save
from thalweg.training.learn import (
    AfterStep,
    Learned,
    epochs_of,
    learn,
    require_finite,
    scores,
    steps_of,
)
from thalweg.training.pretrain import pretrained, stages_for
from thalweg.training.progress import Progress, Silent, Together
from thalweg.training.resume import Checkpoints, read_unfinished, write_unfinished
from thalweg.training.run import Evaluation, Run
from thalweg.training.stages import Stage, hand_on, start_from, through
from thalweg.training.tensorboard import TensorBoard
from thalweg.whole_file import require_writable


@dataclass(frozen=True)
class Trained:
    """A run, and the file that holds the parameters and buffers that were kept.

    kept: when the run had them, in words. validation: their metrics on validation data, by name.
    The run has their metrics on test data.
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
    watch: AfterStep | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[Run]:
    """Trains members through the task's whole budget. Returns their runs, in the same order.

    members: all with the same pre-training, or all without one. width: the members of a block, if
    they are stacked. way: how members are stepped; if not given, stacked where that is possible. In
    a pre-training, stacked replaces compiled, because each stage would have to be compiled. test:
    whether members that did not diverge are also scored on test data. watch: is called after every
    step. checkpoints: the file from which a training that was stopped continues. The same members
    give the same runs. Steps are fast if members with the same chain of rules are neighbours.
    """
    stages = stages_for(task, members[0].recipe.pretrain)
    if len(stages) > 1 and way == "compiled":
        way = "stacked"
    population: Population | None = None
    diverged: list[Divergence | None] = [None] * len(members)
    kept = checkpoints.read() if checkpoints else None
    if kept:
        diverged = from_plain(kept.more["diverged"])
    for number, stage in enumerate(stages):
        if kept and number < kept.more["stage"]:
            continue
        with failure_in_training(stage.task), drawing(members[0].seed):
            population = begun(stage, members, width=width, way=way, before=population)
            learned, kept = kept.put(population) if kept else None, None
            stepped = partial(tell, watch or (lambda *_: None), population)
            more = {"stage": number, "diverged": in_plain(diverged)}
            save = checkpoints.saver(population, **more) if checkpoints else None
            curves = learn(
                stage.task, population, stepped, begun=learned, before=stage.before, save=save
            )
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


def tell(watch: AfterStep, population: Population, step: int, _: Sequence[float]) -> None:
    watch(step, population.diverged.count(None))


def begun(
    stage: Stage,
    members: Sequence[Member],
    width: int,
    way: Way | None,
    before: Population | None,
) -> Population:
    """Members before the first step of a stage, with what the stage before handed on."""
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
    out: the path of the checkpoint.
    keep: the parameters that the checkpoint holds: "end" for those that evaluation uses at the end;
        "best" for the best on validation data among these, those of the earlier evaluations (the
        task says how many) and, if the recipe averages, the last iterate.
    patience: the number of evaluations without an improvement after which training stops early; if
        not given, it never does.
    pretrain: whether training first goes through the stages that the task offers, within the same
        budget. A recipe can ask for this too. `keep` and `patience` apply to the last stage.
    no_decay: whether biases and parameters of normalization layers have no weight decay; see
        `thalweg.no_decay`.
    accumulate: the batches of a step, which is taken from the mean of their gradients. The budget
        stays the same in gradient evaluations, so there are 1 / accumulate as many steps (a
        remainder is dropped). Schedules and averages count these steps.
    precision: "full" for the precision of the parameters, or "bfloat16" for the matrix products and
        convolutions in the forward and backward passes of training (`torch.autocast`, on the device
        of the parameters). The parameters, the optimizer's state and evaluation do not change.
    tensorboard: a folder for TensorBoard's scalars: the training loss and the lr of each step, and
        the validation metrics; if not given, none are written.
    progress: an object that is told what happens.

    The checkpoint is a safetensors file of these parameters and of the buffers, by the model's
    names; its metadata hold the task's name, the recipe, the seed and what was kept. A run that is
    stopped leaves a file with the name of `out` and `.unfinished`; a finished stage of a
    pre-training leaves one with `.stage-1` and so on. The same call then goes on after the last
    finished stage, or from the last evaluation of the last stage. On a CPU the result is the same,
    to the bit, as without a stop.
    Raises UserError if the run diverges. Before training, raises it for a task that cannot be
    trained or pre-trained, for a pre-training with `accumulate` or another precision, if `out` or
    `tensorboard` cannot be written to, and if TensorBoard is wanted but not installed.
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
        raise UserError(
            "a pre-training takes one batch for each step, in full precision: leave out accumulate"
            " and precision."
        )
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
            start_from(done[-1].handed.evaluated, last, alone.models[0], population=alone, place=0)
        candidates = Candidates(last.task, alone)
        told = Together(scalars, progress or Silent())
        curve = learn_alone(
            candidates, unfinished, plan=plan, patience=patience, before=last.before, progress=told
        )
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
    plan: Identity,
    patience: int | None,
    before: int,
    progress: Progress,
) -> list[Evaluation]:
    """Trains one member, which goes on from its file if it was stopped. Returns its learning curve.

    Training ends early after `patience` evaluations without an improvement.
    """
    task, alone = candidates.task, candidates.alone
    learned = Learned([[]])
    if unfinished.exists():
        kept = read_unfinished(unfinished, plan)
        learned = kept.put(alone)
        candidates.restore(kept.more)
    (curve,) = learned.curves

    def stepped(step: int, losses: Sequence[float]) -> None:
        progress.stepped(step, losses[0], alone.optimizers[0].last_lr)

    def enough(curves: list[list[Evaluation]]) -> bool:
        candidates.add(curves[0][-1])
        write_unfinished(unfinished, plan, alone, Learned(curves), **candidates.saved())
        progress.evaluated(curves[0][-1])
        return candidates.waited == patience

    if candidates.waited != patience:
        steps = before + steps_of(alone)
        epochs = epochs_of(alone) * steps / steps_of(alone)
        progress.began(task.metric_name, steps, epochs, before + alone.steps)
        (curve,) = learn(task, alone, stepped=stepped, enough=enough, begun=learned, before=before)
    if alone.diverged[0]:
        unfinished.unlink(missing_ok=True)
    require_finite(task, alone)
    return curve


def require_step(task: Task, accumulate: int) -> None:
    """Raises UserError if the budget does not have the batches for one step."""
    batches = task.total_steps(length_of(task))
    if accumulate > batches:
        raise UserError(
            f"accumulate must be at most {batches}, the batches of {task.name}'s whole budget, not"
            f" {accumulate}."
        )
