"""Whatever is given to a verb or a call, the answer is a result or one sentence."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss
from typer.testing import CliRunner

import thalweg as tw
from thalweg import cli, recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.integrations.lightning import RecipeCallback


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


NUMBERS = [0, -1, 1, 3, 2**31, 2**32, 10**9, 10**30, 10**400, -(10**400), True, False]
NUMBERS += [0.0, -0.0, 0.1, 0.5, 1.5, 5e-324, 1e308, math.nan, math.inf, -math.inf, 1j]
NUMBERS += [np.float32(0.1), np.int64(3), Decimal("0.1"), Fraction(1, 3), Fraction(10**400)]
TEXTS = ["", " ", "\0", "a\0b", "\ud800", "\udcff", "x" * 300, "x" * 5000, "[red]x[/]", "a\nb"]
TEXTS += ["../x", ".", "a/b", "/dev/zero", "/dev/full", "\x1b[31m", "adam", "adam,sgd", ",", "none"]
TEXTS += [f"{text}.toml" for text in ("\0", "\udcff", "x" * 300, "zero", "folder", "deep", "huge")]
TEXTS += [f"{text}.py:task" for text in ("\0", "\ud800", "x" * 300, "folder", "no")]
TEXTS += ["3%", "nan%", "%", "1" * 400, "1" * 5000, "1e400", "2147483648", "1000000000", "-1"]
OBJECTS = [None, b"adam", [], ["adam"], [1], (0.1, 0.2), (0.1,), {}, {3: 4}]
OBJECTS += [{"schedule": [1]}, set(), object(), lambda: None, int, list, 10**5 * [1]]
OBJECTS += [np.array([1, 2]), np.ones((2, 2)), torch.zeros(2), torch.zeros(2, 2), torch.tensor(0.1)]
OBJECTS += [Path("\0"), Path("x" * 300), Path("zero.toml"), schedules.linear, rules.SGD]
OBJECTS += [tw.adam(), rules.SGD(), nn.Linear(1, 1), schedules.one_cycle(0.1, 3)]

numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=[]))
anything = numbers | texts | st.sampled_from(OBJECTS) | st.lists(numbers | texts, max_size=3)


def stop() -> tw.Data:
    raise RuntimeError("stop")


def layers() -> list[nn.Module]:
    return [nn.Linear(1, 1), nn.Linear(1, 1)]


# What is fine goes no further than to the data, which cannot be made.
PLAIN = tw.Task("plain", lambda: nn.Linear(1, 1), stop, mse_loss, steps=3)
TASK = tw.Task(
    "task",
    lambda: nn.Linear(1, 1),
    stop,
    mse_loss,
    steps=3,
    difficulty=lambda _: PLAIN,
    curriculum=[1],
    blocks=layers,
    head=lambda _: nn.Linear(1, 1),
)
SAMPLES = (torch.zeros(4, 1), torch.zeros(4, 1))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2))]


def group(**settings: Any) -> None:
    tw.optim.Adam(parameters()).add_param_group({"params": parameters(), **settings})


def observe(**metrics: Any) -> None:
    scheduled = tw.sgd(lr=schedules.plateau(0.1))
    tw.optim.Optimizer(parameters(), scheduled).observe(**metrics)


def watch(coming: Any = None, loader: Any = (), **arguments: Any) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    given = {"model": model, "loss": mse_loss, "optimizer": optimizer, **arguments}
    with tw.Doctor(**given) as doctor:
        next(doctor.loading(loader), None)
        for inputs, targets in doctor.loading([SAMPLES]):
            mse_loss(model(inputs), targets).backward()
            optimizer.step()
        doctor.diagnosis(coming)


Call = tuple[Callable[..., Any], Mapping[str, Any], list[str]]


def call(function: Callable[..., Any], names: list[str] | None = None, /, **good: Any) -> Call:
    """A call, what it needs at least, and the names of all that may be given to it."""
    return function, good, names or list(inspect.signature(function).parameters)


CALLS: dict[str, Call] = {
    "race": call(tw.race, task=TASK),
    "train": call(tw.train, task=TASK, recipe="adam"),
    "diagnose": call(tw.diagnose, task=TASK),
    "lr_range": call(tw.lr_range, task=TASK, recipe="sgd"),
    "by_task": call(tw.pretrain.by_task, task=TASK, recipe="sgd", folder="f"),
    "by_network": call(tw.pretrain.by_network, task=TASK, recipe="sgd", folder="f"),
    "Doctor": call(watch, ["model", "loss", "optimizer", "every", "budget", "coming", "loader"]),
    "Entrant": call(tw.Entrant, name="a", recipe=tw.adam()),
    "Space": call(tw.Space, low=0.1, high=0.2),
    "Data": call(tw.Data, train=SAMPLES, validation=SAMPLES, test=SAMPLES),
    "Task": call(tw.Task, name="a", model=layers, data=stop, loss=mse_loss, steps=3),
    "check": call(tw.tasks.check, task=PLAIN),
    "find": call(tw.tasks.find, task=PLAIN),
    "Recipe": call(tw.Recipe, rules=tw.adam().rules),
    "Recipe.from_toml": call(tw.Recipe.from_toml),
    "Recipe.replace": call(tw.adam().replace, ["lr", "betas", "eps", "other"]),
    "chain": call(lambda part, name: tw.chain(tw.adam(), part, name=name), part=tw.ema(), name="a"),
    "named": call(recipes.named),
    "recipe_of": call(recipes.recipe_of),
    "clip_value": call(tw.clip_value),
    "clip_norm": call(tw.clip_norm),
    "ema": call(tw.ema),
    "tail_average": call(tw.tail_average, last=3),
    "block_average": call(tw.block_average),
    "stochastic_rounding": call(tw.stochastic_rounding),
    "schedule": call(schedules.linear(0.1, steps=3)),
    "scaled": call(schedules.linear(0.1, steps=3).scaled),
    "from_dict": call(schedules.from_dict),
    "BatchNorm": call(tw.nn.BatchNorm, ["eps", "momentum", "affine"], num_features=3),
    "freeze": call(tw.nn.BatchNorm(3).freeze),
    "with_batch_norm": call(tw.nn.with_batch_norm, model=nn.Sequential(*layers())),
    "group": call(group, ["lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"]),
    "observe": call(observe, ["validation", "training"]),
    "load": call(lambda state: tw.optim.Adam(parameters()).load_state_dict(state)),
    "Lightning": call(RecipeCallback),
}
CALLS |= {name: call(make) for name, make in recipes.RECIPES.items()}
CALLS |= {
    f"optim.{name}": call(
        partial(getattr(tw.optim, name), parameters()),
        [one for one in inspect.signature(getattr(tw.optim, name)).parameters if one != "params"],
        **({"recipe": "adam"} if name == "Optimizer" else {}),
    )
    for name in tw.optim.__all__
}
FIELDS = {"value": 0.1, "start": 0.1, "peak": 0.3, "gamma": 0.5, "tau": 2.0, "steps": 5, "every": 2}
FIELDS["then"] = schedules.linear(0.1, steps=3)
CALLS |= {
    f"schedules.{name}": call(
        lambda make=schedule, **given: [make(**given)(step) for step in (0, 4, 10**12)],
        list(inspect.signature(schedule).parameters),
        **{
            name: FIELDS[name]
            for name, one in inspect.signature(schedule).parameters.items()
            if one.default is one.empty
        },
    )
    for name, schedule in schedules.SCHEDULES.items()
}
CALLS |= {
    f"rules.{name}": call(
        rule,
        list(rule.known()),
        **{n: 3 for n, one in rule.options.items() if one.default is None},
    )
    for name, rule in rules.RULES.items()
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with files that no recipe and no task can be read from, and with a task."""
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("bad"))
    for name in ("folder.toml", "folder.py"):
        Path(name).mkdir()
    Path("zero.toml").symlink_to("/dev/zero")
    Path("deep.toml").write_text(f"a = {'[' * 3000}{']' * 3000}")
    Path("huge.toml").write_text(f'[[rules]]\nrule = "SGD"\nlr = {"1" * 400}')
    Path("task.py").write_text(
        "from torch import nn\nfrom thalweg import Task\n"
        "def data():\n    raise RuntimeError('stop')\n"
        "task = Task('task', lambda: nn.Linear(1, 1), data, nn.MSELoss(), steps=3)\n"
    )
    yield
    os.chdir(here)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_of_any_argument_is_taken_or_refused_in_a_sentence(
    name: str, data: st.DataObject
) -> None:
    function, good, names = CALLS[name]
    argument = data.draw(st.sampled_from(names))
    try:
        function(**{**good, argument: data.draw(anything)})
    except UserError as error:
        assert str(error) and "\n" not in str(error)


OPTIONS = [
    (command.callback.__name__, name)
    for command in cli.app.registered_commands
    if command.callback is not None
    for name in inspect.signature(command.callback).parameters
]


@settings(max_examples=150)
@given(option=st.sampled_from(OPTIONS), value=texts | numbers.map(str))
@example(("race", "seeds"), "2147483648")
@example(("race", "trials"), "1000000000")
@example(("race", "alpha"), "5e-324")
@example(("race", "task"), f"{'x' * 300}.py:task")
@example(("race", "name"), "\udcff")
@example(("doctor", "runs"), "x" * 5000)
@example(("train", "recipe"), "\0.toml")
@example(("train", "recipe"), "deep.toml")
@example(("train", "recipe"), "huge.toml")
def test_any_value_of_any_option_is_taken_or_refused_without_a_traceback(
    option: tuple[str, str], value: str
) -> None:
    verb, name = option
    words = {"task": "task.py:task"} | ({"recipe": "adam"} if verb == "train" else {})
    words[name] = value
    task = words.pop("task")
    given = [word for one, text in words.items() for word in (f"--{one.replace('_', '-')}", text)]
    outcome = CliRunner().invoke(cli.app, [verb, *given, "--", task])
    assert outcome.exit_code != 0
    assert isinstance(outcome.exception, SystemExit | UserError), outcome.exception


def test_an_empty_recipe_is_not_the_usual_one() -> None:
    outcome = CliRunner().invoke(cli.app, ["doctor", "task.py:task", "--recipe", ""])
    assert "no optimizer is called ''" in str(outcome.exception)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda: tw.optim.Optimizer(parameters(), None),
            "a recipe is a Recipe, a rule, a name, or",
        ),
        (lambda: tw.race(TASK, step=None), "no step is called None; known are measured"),
        (lambda: tw.race(TASK, progress=3), "progress must be an object with the methods of"),
        (lambda: tw.race(TASK, plan=3), "plan must be a path, not 3"),
        (lambda: tw.race(TASK, runs="x" * 300), r"runs 'xxx.*\.\.\. cannot be used: File name too"),
        (lambda: tw.race(TASK, timeout=5e-324), "timeout must be a number of seconds from 0.1 to"),
        (lambda: tw.train(TASK, "adam", out=3), "out must be a path, not 3"),
        (lambda: tw.train(TASK, ""), "no optimizer is called ''; known are adadelta"),
        (lambda: tw.train(TASK, "zero.toml"), "zero.toml cannot be read: it is not a regular file"),
        (lambda: tw.diagnose(TASK, say=3), "say must be a function that takes a text, not 3"),
        (lambda: tw.lr_range(TASK, "sgd", low="a"), "lr_range needs 0 < low < high"),
        (lambda: tw.Doctor(3, mse_loss, None), "the model must be a torch.nn.Module, not 3"),
        (lambda: tw.adam(lr=10**400), "lr must be finite and at least 0, not 10000"),
        (lambda: tw.adam(lr=10**5000), "lr must be finite and at least 0, not this int"),
        (lambda: tw.adam(lr=Unspeakable()), "lr must be a number or a schedule, not this Unspeak"),
        (lambda: tw.adam(lr=schedules.linear), "lr must be finite and at least 0, not <property"),
        (lambda: tw.Recipe(("a",)), "rules must be a rule, such as .*, not 'a'"),
        (lambda: tw.Recipe(tw.adam().rules, "a\udcff"), r"must be printable text, not 'a\\udcff'"),
        (lambda: tw.Recipe.from_toml(3), "a recipe must be the text of a recipe file, not 3"),
        (lambda: tw.Task("a\udcff", layers, stop, mse_loss), "name must be printable text"),
        (lambda: tw.tasks.check(3), "task must be a thalweg.Task, not 3"),
    ],
)
def test_what_cannot_be_used_is_named(wrong: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrong()


def lines(**changes: Any) -> tw.Task:
    def data() -> tw.Data:
        inputs = torch.linspace(-1, 1, 12).reshape(12, 1)
        return tw.Data(*((inputs[i : i + 4], inputs[i : i + 4]) for i in (0, 4, 8)))

    given = {"target": 0.5, "steps": 4, "batch_size": 4, **changes}
    return tw.Task("lines", lambda: nn.Linear(1, 1), data, mse_loss, **given)


def test_numbers_of_numpy_are_taken_as_those_of_python_are() -> None:
    plain = {"trials": 1, "seeds": 2, "seed": 0, "width": 4, "lanes": 1}
    as_numpy = {name: np.uint8(number) for name, number in plain.items()}
    floats = {"alpha": np.float32(0.25), "timeout": np.float32(100)}
    ours = lines(target=np.float32(0.5), steps=np.int64(4), batch_size=np.uint8(4))
    for task, numbers in ((ours, as_numpy | floats), (lines(), plain | {"alpha": 0.25})):
        raced = tw.race(task, ["sgd", "adam"], **numbers, name="numpy", step="single")
    assert raced.record.finished
    kept = {"patience": np.int64(3), "accumulate": np.int8(2), "seed": np.int16(1)}
    assert tw.train(ours, "sgd", out="numpy", **kept).kept
    assert tw.lr_range(ours, "sgd", steps=np.int64(20), seeds=np.int64(1)).suggestion > 0
    assert tw.diagnose(ours, seed=np.int64(1), trial_steps=np.uint8(4), try_remedies=np.False_)
    assert lines(steps=None, epochs=np.uint8(200)).total_steps(8) == 400
    cooled = schedules.linear(np.float32(0.5), np.float16(0.25), steps=np.int64(3))
    assert repr(cooled) == repr(schedules.linear(0.5, 0.25, steps=3))
    assert tw.Recipe.from_toml(tw.sgd(lr=cooled).to_toml()) == tw.sgd(lr=cooled)
    assert lines(curriculum=np.linspace(1, 2, 3), difficulty=lambda _: PLAIN).curriculum == (
        1,
        1.5,
        2,
    )
    ends = {"eps": (np.float32(0.25), np.float32(0.5))}
    assert tw.Entrant("a", tw.adam(), ends).space["eps"].scale == "log"


READS = """
import sys, torch
from torch import nn
from thalweg import Data, Task

def data():
    inputs = torch.linspace(-1, 1, 12).reshape(12, 1)
    return Data(*((inputs[i:i + 4], inputs[i:i + 4]) for i in (0, 4, 8)))

task = Task("reads", lambda: nn.Linear(1, 1), data, nn.MSELoss(), steps=4, batch_size=4)
"""


def test_a_race_that_nobody_reads_of_is_finished_and_says_so() -> None:
    Path("reads.py").write_text(READS)
    command = "-m thalweg race reads.py:task --entrants sgd,adam --trials 1 --seeds 2 --step single"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *command.split(), "--lanes", "1"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (
        1,
        "thalweg: not all output was written: Broken pipe.\n",
    )
    assert {"winner.toml", "report.html"} <= {one.name for one in Path("runs/reads").iterdir()}
