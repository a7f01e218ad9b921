"""A rule of a user's own, in a file of theirs, goes wherever one of the package's goes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import thalweg as tw
from thalweg import cli
from thalweg.doctor.readings.limits import group_rule
from thalweg.doctor.trials.in_use import recipe_in_use
from thalweg.errors import UserError
from thalweg.racing.torch_code import in_torch
from thalweg.recipes import recipe_of
from thalweg.rule_names import name_of, rule_named
from thalweg.rules import Hyper, RowState, Rule, State, log
from thalweg.rules.tuning import documented
from thalweg.rules.value import Value

RULES = """
import thalweg as tw
from thalweg.rules import Hyper, Rule, State, log


class Mine(Rule):
    lr = Hyper(1e-2, log(1e-4, 1.0))
    beta = Hyper(0.9, high=1.0, below=True)
    m = State()

    def update(self, g):
        self.m = self.beta * self.m + (1 - self.beta) * g
        return -self.lr * self.m


class Adam(Mine):
    def update(self, g):
        return -super().update(g)


gentle = Mine(lr=0.001)
clipped = tw.chain(tw.clip_norm(1.0), Mine(), name="clipped")
entrant = tw.Entrant("narrow", clipped, {"lr": (1e-3, 1e-2)})
other = 3
"""
SHORT = {"trials": 2, "tuning_seeds": 1, "seeds": 2, "width": 4, "step": "single", "lanes": 1}
OPTIONS = [
    word for name, value in SHORT.items() for word in (f"--{name}".replace("_", "-"), str(value))
]


README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rules.py").write_text(RULES)
    return tmp_path


def moved(recipe: tw.Recipe) -> float:
    """Where one step takes a parameter from 0 along a gradient of 1."""
    param = torch.zeros(1, requires_grad=True)
    optimizer = tw.optim.Optimizer([param], recipe)
    param.grad = torch.ones(1)
    optimizer.step()
    return param.item()


def test_a_race_takes_a_rule_by_its_file_and_tunes_it() -> None:
    outcome = CliRunner().invoke(
        cli.app, ["race", "saddle", "--entrants", "adam,rules.py:Mine,rules.py:Adam", *OPTIONS]
    )
    assert outcome.exit_code == 0, outcome.output
    result = tw.race("saddle", resume="saddle")
    settings = result.record.settings
    assert settings.entrants == ("adam", "Mine", "Adam")
    assert list(settings.spaces["Mine"]) == list(settings.spaces["Adam"]) == ["lr"]
    assert 'rule = "rules.py:Mine"' in settings.recipes["Mine"]


def test_one_file_may_hold_a_task_and_a_rule() -> None:
    task = """
from torch import nn, ones

task = tw.Task("own", lambda: nn.Linear(1, 1), lambda: tw.Data(*3 * [(ones(4, 1), ones(4, 1))]),
               nn.functional.mse_loss, steps=3, batch_size=2)
"""
    Path("both.py").write_text(RULES + task)
    result = tw.race("both.py:task", entrants=["sgd", "both.py:Mine"], **SHORT)
    assert result.record.settings.entrants == ("sgd", "Mine")
    recipe = tw.Recipe.from_toml(result.record.settings.recipes["Mine"])
    assert recipe == recipe_of("both.py:Mine")


@pytest.mark.parametrize("name", ["Mine", "gentle", "clipped", "entrant"])
def test_whatever_has_a_recipe_may_be_named(name: str) -> None:
    recipe = recipe_of(f"rules.py:{name}")
    assert recipe == tw.Recipe.from_toml(recipe.to_toml())
    assert moved(recipe) < 0


def test_a_rule_by_the_name_of_ours_stays_itself_in_a_file_and_in_a_race() -> None:
    climbing = recipe_of("rules.py:Adam")
    assert moved(climbing) > 0
    back = tw.Recipe.from_toml(climbing.to_toml())
    assert back == climbing and moved(back) > 0
    assert moved(tw.Entrant("x", climbing, {"lr": (1e-4, 1.0)}).configured({"lr": 0.5})) > 0
    assert moved(recipe_of("adam")) < 0


def test_two_rules_of_one_name_are_told_apart() -> None:
    Path("more").mkdir()
    Path("more/rules.py").write_text(RULES.replace("-self.lr", "-2 * self.lr"))
    names = ["rules.py:Mine", "more/rules.py:Mine"]
    first, second = (recipe_of(name) for name in names)
    assert moved(second) == pytest.approx(2 * moved(first))
    assert first != second
    assert [name_of(type(one.rules[0])) for one in (first, second)] == names
    settings = tw.race("saddle", entrants=names, **SHORT).record.settings
    assert settings.entrants == tuple(f"Mine ({name})" for name in names)


def test_a_rule_is_an_entrant_and_a_recipe_as_it_stands_in_python() -> None:
    mine = rule_named("rules.py:Mine")
    settings = tw.race(
        "saddle", entrants=["sgd", mine], baseline=tw.Recipe((mine(lr=0.5),), "now"), **SHORT
    )
    assert settings.record.settings.entrants == (
        "sgd",
        "Mine",
        "now (baseline)",
    )


def test_training_and_the_doctor_take_a_rule_by_its_file(folder: Path) -> None:
    trained = tw.train("saddle", "rules.py:Mine", out=folder / "model.safetensors")
    assert trained
    assert tw.diagnose("saddle", "rules.py:clipped")
    model = nn.Linear(1, 1)
    optimizer = tw.optim.Optimizer(model, "rules.py:gentle")
    assert recipe_in_use(optimizer, model).rules == (rule_named("rules.py:Mine")(lr=0.001),)


def test_a_rule_is_found_again_from_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("rules.py:Mine")
    text = recipe.to_toml()
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert tw.Recipe.from_toml(text) == recipe
    assert name_of(type(recipe.rules[0])).startswith("/")


def test_another_process_reads_what_one_has_written() -> None:
    Path("mine.toml").write_text(recipe_of("rules.py:Mine").to_toml())
    code = "from thalweg.recipes import recipe_of; print(recipe_of('mine.toml').rules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(Mine(lr=0.01, beta=0.9),)"


def test_a_race_that_goes_on_with_another_text_of_the_rule_is_refused() -> None:
    def run(code: str) -> subprocess.CompletedProcess[str]:
        words = ["race", "saddle", "--entrants", "sgd,rules.py:Mine", *OPTIONS]
        Path("rules.py").write_text(code)
        command = [sys.executable, "-m", "thalweg", *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert run(RULES).returncode == 0
    again = run("# A comment changes nothing.\n" + RULES)
    assert again.returncode == 0, again.stderr
    other = run(RULES.replace("-self.lr", "-2 * self.lr"))
    assert other.returncode == 2
    assert "holds another race, with another rule Mine" in other.stderr


def test_a_rule_that_stands_in_no_file_trains_but_does_not_race(folder: Path) -> None:
    class Local(Rule):
        lr = Hyper(0.1)

        def update(self, g: torch.Tensor) -> torch.Tensor:
            return -self.lr * g

    assert moved(tw.chain(Local())) == pytest.approx(-0.1)
    assert tw.train("saddle", Local(), out=folder / "model.safetensors")
    with pytest.raises(UserError, match=r"Local, which stands in no file.* at the top of a \.py"):
        tw.Entrant("local", tw.chain(Local()))


def test_what_is_known_of_a_rule_is_not_taken_for_known_of_one_that_changes_its_step() -> None:
    class Longer(tw.rules.Adam):
        def update(self, g: torch.Tensor) -> torch.Tensor:
            return 2 * super().update(g)

    class Renamed(tw.rules.Adam):
        lr = Hyper(0.5)

    params = [torch.ones(1, requires_grad=True)]
    with pytest.raises(UserError, match="No limit of stability is known for Longer"):
        group_rule(tw.optim.Optimizer(params, Longer()), 0)
    assert group_rule(tw.optim.Optimizer(params, Renamed()), 0).limit == pytest.approx(38 / 0.5)
    assert in_torch(tw.chain(Longer())) == (None, "torch.optim has no Longer.")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rules.py:Mien", "There is no 'Mien' in rules.py; its rules are Mine, Adam."),
        ("rules.py:other", "a recipe is a Recipe, a rule, a name, or the path of a file, not 3."),
        ("no.py:Mine", "There is no rule file no.py; looked in"),
        ("bad.py:Mine", "The rule file bad.py, line 1 failed: ZeroDivisionError"),
    ],
)
def test_what_is_no_rule_gets_one_sentence(name: str, sentence: str) -> None:
    Path("bad.py").write_text("1 / 0")
    with pytest.raises(UserError) as raised:
        recipe_of(name)
    assert str(raised.value).startswith(sentence)


def test_a_file_names_the_line_of_a_rule_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"line 2: There is no 'Mien' in rules\.py"):
        tw.Recipe.from_toml('[[rules]]\nrule = "rules.py:Mien"')
    with pytest.raises(UserError, match=r"line 2: 'rules\.py:gentle' must be a class"):
        tw.Recipe.from_toml('[[rules]]\nrule = "rules.py:gentle"')


NAMES = ["settings", "step", "params", "maximize", "update", "rate", "initial_lr", "param_names"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [Hyper(0.1), State()])
def test_a_name_that_a_rule_may_not_take_is_told_when_the_class_is_made(
    name: str, kind: object
) -> None:
    with pytest.raises(UserError, match=f"Mine cannot call a setting or a state {name}, "):
        type("Mine", (Rule,), {"lr": Hyper(0.1), name: kind})


def test_a_whole_number_as_a_default_is_tuned_as_any_other() -> None:
    hypers = {"lr": Hyper(1, log(0.1, 10)), "k": Hyper(2, log(1, 10))}
    kind = type("Mine", (Rule,), {**hypers, "update": lambda self, g: -self.lr * self.k * g})
    assert list(documented(recipe_of(kind).tunables)) == ["lr", "k"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Hyper(2.0, high=1.0), "the default must be at least 0 and at most 1, not 2"),
        (lambda: Hyper("0.1"), "the default must be a number"),  # type: ignore[arg-type]
        (lambda: Hyper(0.1, (1e-4, 1.0)), r"such as log\(1e-4, 0.1\), not"),  # type: ignore[arg-type]
        (lambda: Hyper(0.1, "log"), "not 'log'"),  # type: ignore[arg-type]
        (
            lambda: type("Mine", (Rule,), {"start": Hyper(0.1), "m": State(init="strat")}),
            "m starts at 'strat', which is no hyperparameter of Mine; did you mean start?",
        ),
    ],
)
def test_a_wrong_declaration_is_told_when_it_is_made(
    make: Callable[[], object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


class Forgetful(Rule):
    lr = Hyper(0.1)
    m = 0.0

    def update(self, g: Value) -> Value:
        self.m = 0.9 * self.m + g
        return -self.lr * self.m


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_what_a_rule_would_forget_is_told(backend: str) -> None:
    param = torch.zeros(1, requires_grad=True)
    param.grad = torch.ones(1)
    with pytest.raises(UserError, match=r"Forgetful changes m, .* declare it as m = State\(\)"):
        tw.optim.Optimizer([param], Forgetful(), backend=backend).step()


def test_a_matrix_rule_that_would_forget_is_told() -> None:
    class Matrices(Forgetful):
        matrices = True

    param = torch.zeros(2, 3, requires_grad=True)
    param.grad = torch.ones(2, 3)
    with pytest.raises(UserError, match=r"Matrices changes m, .* declare it as m = State\(\)"):
        tw.optim.Optimizer([param], Matrices()).step()


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_row_state_that_is_given_elements_is_told(backend: str) -> None:
    class Heavy(Rule):
        lr, total = Hyper(0.1), RowState()

        def update(self, g: Value) -> Value:
            self.total = self.total + g
            return -self.lr * self.total

    param = torch.zeros(2, 3, requires_grad=True)
    param.grad = torch.ones(2, 3)
    with pytest.raises(UserError, match="total of Heavy is a RowState, one number of a tensor, "):
        tw.optim.Optimizer([param], Heavy(), backend=backend).step()


def test_a_rule_without_an_update_is_told() -> None:
    with pytest.raises(UserError, match=r"Idle has no update\(self, g\), which takes"):
        type("Idle", (Rule,), {"lr": Hyper(0.1)})()


def test_the_state_of_one_rule_is_refused_by_another() -> None:
    class Less(Rule):
        lr, m = Hyper(0.1), State()

        def update(self, g: torch.Tensor) -> torch.Tensor:
            self.m = self.m + g
            return -self.lr * self.m

    params = [torch.ones(1, requires_grad=True)]
    state = tw.optim.Optimizer(params, "rules.py:Mine").state_dict()
    with pytest.raises(UserError, match="has beta: it was saved by another optimizer"):
        tw.optim.Optimizer(params, Less()).load_state_dict(state)


def of_the_readme(line: str) -> str:
    """The block of code in which a line stands, from there on."""
    _, found, rest = README.read_text().partition(f"{line}\n")
    return found + rest.partition("```")[0]


def test_the_doctor_knows_the_limit_of_the_readmes_other_rule() -> None:
    Path("rules.py").write_text(of_the_readme("from thalweg.rules import Hyper, Rule, State, sqrt"))
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.tensor([3.0, 4.0])
    optimizer = tw.optim.Optimizer([w], tw.chain(rule_named("rules.py:Scaled")(lr=0.5)))
    optimizer.step()
    found = group_rule(optimizer, 0)
    assert found.limit == pytest.approx(2 / 0.5)
    assert found.metric(w, optimizer.state[w]).tolist() == pytest.approx([0.3, 0.4])


def test_the_rule_of_the_readme_races_and_steps_by_the_length_that_it_says() -> None:
    Path("rules.py").write_text(of_the_readme("# rules.py"))
    result = tw.race("diabetes", "adam,rules.py:Mine", **SHORT)
    assert {row["entrant"] for row in result.table()} == {"adam", "Mine"}
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.tensor([1.0, 2.0, 3.0])
    tw.optim.Optimizer([w], tw.chain(rule_named("rules.py:Mine")(lr=0.1))).step()
    assert (w - 1).norm().item() == pytest.approx(0.1)
