"""The verbs on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from thalweg.api import Race, diagnose, load
from thalweg.api import compare as run_comparison
from thalweg.arguments import require_path
from thalweg.command import Command
from thalweg.doctor.criteria import CRITERIA
from thalweg.errors import Stopped, UserError
from thalweg.exports import curves, runs, write_csv, write_study
from thalweg.loops.find import find
from thalweg.racing.plan import MEASURED
from thalweg.racing.race import folder_name
from thalweg.racing.race import race as run_race
from thalweg.recipes import RECIPES, named, recipe_of
from thalweg.rules.tuning import documented
from thalweg.statistics import Direction
from thalweg.tasks import bundled
from thalweg.terminal.doctor import telling
from thalweg.terminal.output import Output
from thalweg.terminal.race import Lines, Screen
from thalweg.terminal.training import Bar, Points
from thalweg.training.train import train as run_training
from thalweg.whole_file import require_writable

app = typer.Typer(
    help="Race optimizers on your own task. See why one wins. Train with the winner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

HELP_WIDTH = 76
"""The most letters on a line of a list in a help text."""

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="A bundled task's name, or path/to/file.py:task.")
]


DOCTOR = "\n".join(
    [
        "Why is training slow or unstable, and what would help?",
        "\nThe doctor watches one training, and looks for:",
        "\n\b",
        *(fill(f"- {one}", HELP_WIDTH, subsequent_indent="  ") for one in CRITERIA),
    ]
)


@app.command()
def race(
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="A bundled task's name, or path/to/file.py:NAME of a task or a loop of yours.",
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            help="A program instead of a task, such as 'python train.py --lr {lr} --seed {seed}'."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="How its result is found: 'loss: (.*)', or a key in a line of JSON."),
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="Whether min or max of the result is better.")
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(help="A TOML file that says where settings are tuned: lr = [1e-4, 0.1]."),
    ] = None,
    entrants: Annotated[
        str | None,
        typer.Option(
            help="Names of optimizers (or your own, as rules.py:Mine), which are tuned, and recipe"
            " files, which race as they are; separated by commas; default: ten names."
        ),
    ] = None,
    tune: Annotated[
        str, typer.Option(help="The files of these that are tuned too, in their documented space.")
    ] = "",
    trials: Annotated[
        int | None,
        typer.Option(help="Configurations to try for each entrant that is tuned; default: 24."),
    ] = None,
    tuning_seeds: Annotated[
        int,
        typer.Option(help="Seeds for these; the best are tried again on half as many others."),
    ] = 8,
    seeds: Annotated[int, typer.Option(help="The most seeds of the final round.")] = 40,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What you use now: a recipe file, or a name. It races as it is, and tuned."
        ),
    ] = None,
    pretrain: Annotated[
        bool,
        typer.Option("--pretrain", help="Race each entrant with pre-training too, on equal steps."),
    ] = False,
    no_decay: Annotated[
        bool, typer.Option("--no-decay", help="Entrants do not decay biases and norms.")
    ] = False,
    cooling: Annotated[
        str, typer.Option(help="Schedule of every tuned lr: none, linear, cosine or tune.")
    ] = "linear",
    alpha: Annotated[
        float, typer.Option(help="Risk that the best entrant is missing from the shortlist.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="The seed from which all others are derived.")] = 0,
    width: Annotated[
        int | None,
        typer.Option(help="Members of a block, which are trained at once; default: 32."),
    ] = None,
    step: Annotated[
        str, typer.Option(help="How members are stepped: single, stacked, compiled, or measured.")
    ] = MEASURED,
    lanes: Annotated[
        int | None,
        typer.Option(help="Processes that train blocks; default: measured."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A race's plan.toml, whose step, lanes and width are used.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="A training without a step for this number of seconds is given up."),
    ] = None,
    checkpoint_every: Annotated[
        str, typer.Option(help="The time between two checkpoints of a block, such as 30s or 5m.")
    ] = "5m",
    name: Annotated[
        str | None, typer.Option(help="The folder's name in --runs; default: the task's.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="The name of a race to go on with; more --trials add tuning to it."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder that holds races and diagnoses.")] = Path(
        "runs"
    ),
) -> None:
    """Which optimizer, at which settings, trains this task best?"""
    given = what_races(task, command, metric, direction)
    console = Console()
    with stopping("the same command goes on from the last checkpoint"):
        with Screen(console) if console.is_terminal else nullcontext(Lines(console)) as progress:
            result = run_race(
                given,
                entrants=entrants,
                trials=trials,
                tuning_seeds=tuning_seeds,
                seeds=seeds,
                tune=tune or (),
                baseline=baseline,
                pretrain=pretrain,
                no_decay=no_decay,
                space=space,
                cooling=cooling,
                alpha=alpha,
                seed=seed,
                width=width,
                step=step,
                lanes=lanes,
                plan=plan,
                timeout=timeout,
                checkpoint_every=checkpoint_every,
                name=name,
                resume=resume,
                runs=runs,
                progress=progress,
            )
        raced = Race(**vars(result))
        try:
            raced.write_files()
            report = raced.named / raced.report().name
        finally:
            print(raced.verdict)
        if raced.winner:
            print(f"winner: {raced.named / raced.winner.name}")
        print(f"report: {report}")
    if raced.winner is None:
        raise typer.Exit(1)


def what_races(
    task: str | None, command: str | None, metric: str | None, direction: str | None
) -> str | Command:
    """The task or the program that races. Raises UserError unless exactly one of them is given."""
    if command is None and task is not None and (metric, direction) == (None, None):
        return task
    if command is None or task is not None:
        raise UserError(
            "race takes a TASK, or else --command with --metric and --direction, such as"
            " --command 'python train.py --optimizer {optimizer} --lr {lr} --seed {seed}' --metric"
            " 'loss: (.*)' --direction min."
        )
    if metric is None or direction is None:
        raise UserError(
            "--command needs --metric, which says where its result stands, and --direction min or"
            " max."
        )
    return Command(command, metric, cast(Direction, direction))


@app.command()
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="OLD NEW",
            help="Loops, tasks or functions of a seed as path/to/file.py:NAME; commands, with"
            " --metric; recipes, with --task; or a CSV file with two columns.",
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="The task that both recipes, OLD and NEW, train.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="The recipe that trains OLD and NEW if they are tasks or loops.")
    ] = "adam",
    metric: Annotated[
        str | None,
        typer.Option(
            help="What a command prints: a regular expression with one group for the number, of"
            " which the last match counts, or a key in a line of JSON."
        ),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            help="Whether min or max is better, for commands, functions and files; default: min."
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="A commit. Give it twice: OLD is run as it is in each commit."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Two names in a CSV file's first row, with a comma.")
    ] = None,
    unpaired: Annotated[
        bool,
        typer.Option("--unpaired", help="Says that the rows of a CSV file do not share a seed."),
    ] = False,
    seeds: Annotated[
        int, typer.Option(help="The most pairs of runs; a later call may add more.")
    ] = 40,
    alpha: Annotated[
        float, typer.Option(help="Risk that two equally good sides are called different.")
    ] = 0.05,
    minutes: Annotated[
        float | None,
        typer.Option(help="No further pair begins after so many minutes; default: no limit."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="The smallest difference that is worth having.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The seed of the first pair; each further pair has the next seed.")
    ] = 0,
    lanes: Annotated[
        int | None,
        typer.Option(help="Processes that run side by side; default: 1 for commands, else all."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a run is given up; default: no limit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
    name: Annotated[
        str | None, typer.Option(help="The comparison's name; default: both sides'.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder that holds runs.")] = Path("runs"),
) -> None:
    """Is a change better, or only its seed?

    Runs OLD and NEW with the same seeds until an exact test is decided. Exit status: 0 NEW is
    better, 1 worse, 3 no difference worth the margin, 4 cannot tell; 2 bad input.

    \b
    thalweg compare old.py:train new.py:train
    thalweg compare --task mine.py:task adam winner.toml
    thalweg compare --metric 'loss: ([\\d.]+)' -- 'python old.py {seed}' 'python new.py {seed}'
    thalweg compare --metric loss --at main --at HEAD -- 'python train.py --seed {seed}'
    thalweg compare results.csv
    """
    with stopping("the same command goes on from the last finished run"):
        with telling(Console(stderr=as_json)) as say:
            found = run_comparison(
                *require_two(sides),
                task=task,
                recipe=recipe,
                metric=metric,
                direction=direction,  # type: ignore[arg-type]
                at=at or (),
                columns=columns,
                paired=not unpaired,
                seeds=seeds,
                alpha=alpha,
                minutes=minutes,
                margin=margin,
                seed=seed,
                lanes=lanes,
                timeout=timeout,
                name=name,
                runs=runs,
                say=say,
            )
        print(found.to_json() if as_json else found)
    raise typer.Exit(found.status)


def require_two(sides: list[str]) -> list[str]:
    """The sides. Raises UserError for more than two."""
    if len(sides) > 2:
        raise UserError(
            f"compare takes two, old and new, and here are {len(sides)}: put a command in quotes,"
            " and options before --."
        )
    return sides


@app.command()
def train(
    task: TaskName,
    recipe: Annotated[
        str, typer.Option(help="A recipe file, such as winner.toml, a name, or rules.py:Mine.")
    ],
    seed: Annotated[int, typer.Option(help="Fixes the initial weights and the batches.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the checkpoint goes.")] = Path(
        "model.safetensors"
    ),
    keep: Annotated[
        str, typer.Option(help="The parameters to keep: end, or best on validation data.")
    ] = "end",
    patience: Annotated[
        int | None,
        typer.Option(help="Evaluations without improvement after which training stops early."),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(help="Batches of a step, which is taken from their mean gradient.")
    ] = 1,
    precision: Annotated[
        str, typer.Option(help="The precision of gradients: full, or bfloat16 by torch.autocast.")
    ] = "full",
    tensorboard: Annotated[
        Path | None, typer.Option(help="A folder for TensorBoard's scalars; default: none.")
    ] = None,
    pretrain: Annotated[
        bool, typer.Option("--pretrain", help="First train the stages that the task offers.")
    ] = False,
    no_decay: Annotated[
        bool, typer.Option("--no-decay", help="Biases and norms do not decay.")
    ] = False,
) -> None:
    """Train a task with a recipe and save a checkpoint.

    A recipe file holds the rules of a step in their order: clipping, the optimizer, averaging. A
    setting is a number or a schedule, such as a rate that falls when a metric does not improve.
    Routes change settings for some parameters, or send them to a chain of their own:

    \b
    [[rules]]
    rule = "ClipNorm"
    max_norm = 1.0
    [[rules]]
    rule = "Momentum"
    lr = {schedule = "plateau", start = 0.1, gamma = 0.5, patience = 2, metric = "training"}
    momentum = {schedule = "warming", start = 0.5, end = 0.9, steps = 1000}
    [[rules]]
    rule = "ExponentialAverage"
    decay = 0.99
    [[routes]]
    to = ["bias", "norm"]
    lr_factor = 0.5
    """
    console = Console()
    shown = Bar(console) if console.is_terminal else nullcontext(Points(console))
    with stopping("the same command goes on from the last evaluation"), shown as progress:
        trained = run_training(
            task,
            recipe,
            seed=seed,
            out=out,
            keep=keep,
            patience=patience,
            pretrain=pretrain,
            no_decay=no_decay,
            accumulate=accumulate,
            precision=precision,
            tensorboard=tensorboard,
            progress=progress,
        )
    for split, scores in (("validation", trained.validation), ("test", trained.run.test)):
        written = ", ".join(f"{metric} {value:.4g}" for metric, value in scores.items())
        print(f"{split}: {written}")
    print(f"checkpoint: {out} ({trained.kept})")


@app.command(help=DOCTOR)
def doctor(
    task: TaskName,
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe file, or a name; default: the race's winner, else adam."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the initial weights and the batches.")] = 0,
    trials: Annotated[
        bool, typer.Option(help="Whether remedies are tried before they are advised.")
    ] = True,
    trial_steps: Annotated[
        int | None,
        typer.Option(help="The most steps of a trial; default: to the end of the budget."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="The share of training time that measuring may take, such as 3%."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The folder's name in --runs; default: the task's.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder that holds races and diagnoses.")] = Path(
        "runs"
    ),
) -> None:
    require_path("runs", runs)
    here = Path.cwd()  # a task may go to another folder
    found = find(task)
    place = runs / folder_name(found.name, name)
    folder = here / place
    winner = folder / "winner.toml"
    usual = str(winner) if winner.exists() else "adam"
    used = usual if recipe is None else recipe
    require_path("recipe", used)
    with chdir(here):
        trained = recipe_of(used)
    other = winner.exists() and (here / used).resolve() != winner.resolve()
    page = f"doctor-{Path(used).stem}.html" if other else "doctor.html"
    require_writable(folder / page)
    share = None if budget is None else share_of(budget)
    with stopping("nothing was written"):
        with telling(Console()) as say:
            diagnosis = diagnose(
                found,
                trained,
                seed=seed,
                try_remedies=trials,
                trial_steps=trial_steps,
                budget=share,
                say=say,
            )
        try:
            diagnosis.report(folder / page)
        finally:
            print(diagnosis)
        print(f"report: {place / page}")


def share_of(text: str) -> float:
    """A share that is written as 3% or 0.03. Raises UserError for other text."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UserError(
            f"--budget is a share of training time, such as 3%, not {text!r}."
        ) from None


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a race, such as runs/mine.")],
    csv: Annotated[
        Path | None, typer.Option(help="The folder for runs.csv, curves.csv and entrants.csv.")
    ] = None,
    optuna: Annotated[
        str | None, typer.Option(help="The storage of Optuna, such as sqlite:///study.db.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The name of the study; default: the name of the race.")
    ] = None,
) -> None:
    """A race for other programs: CSV files, and a study of Optuna."""
    raced = load(run)
    if csv is None and optuna is None:
        raise UserError("export needs --csv DIR or --optuna URL, which say where to write.")
    if csv is not None:
        tables = {"runs": runs(raced.record), "curves": curves(raced.record)}
        for path in write_csv(csv, tables | {"entrants": raced.table()}):
            print(path)
    if optuna is not None:
        study = raced.folder.name if name is None else name
        write_study(raced.record, optuna, study)
        print(f"study {study} in {optuna}")


@app.command()
def tasks() -> None:
    """The tasks that come with the package, and what each shows."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    table.add_column("shows")
    for task in bundled():
        table.add_row(escape(task.name), escape(task.shows))
    Console().print(table)


@app.command()
def entrants() -> None:
    """The optimizers that can race, and where each is tuned."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("entrant", no_wrap=True)
    table.add_column("search space")
    for name in RECIPES:
        space = documented(named(name).tunables).items()
        table.add_row(name, "\n".join(f"{hyper} {where}" for hyper, where in space))
    Console().print(table, markup=False, highlight=False)


@contextmanager
def stopping(outcome: str) -> Iterator[None]:
    """Makes Ctrl-C in the block a clean stop: one line about the work so far, and status 130."""
    try:
        yield
    except Stopped:
        print(f"\nstopped; {outcome}.", file=sys.stderr)
        raise typer.Exit(130) from None


def main() -> None:
    """Runs a verb. Bad input gives one sentence and exit status 2; failed work gives status 1.

    If the output is full or closed, the work is still done, and the status is 1.
    """
    output: Any = Output(sys.stdout)
    try:
        with redirect_stdout(output):
            app()
    except UserError as error:
        print(f"thalweg: {error}", file=sys.stderr)
        sys.exit(error.status)
    finally:
        output.flush()
        if output.failure:
            print(f"thalweg: not all output was written: {output.failure}.", file=sys.stderr)
            sys.exit(1)
