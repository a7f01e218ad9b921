"""A change is called better or worse where it is, and a lucky seed is not."""

from __future__ import annotations

import json
import math
import random
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

import thalweg as tw
from test_cli import Outcome, thalweg  # noqa: F401  (a fixture)
from thalweg import statistics
from thalweg.comparing.answer import Compared
from thalweg.comparing.looks import Looks, fewest
from thalweg.errors import UserError
from thalweg.recipe import Recipe
from thalweg.stack.member import Member
from thalweg.tasks import find
from thalweg.training.run import Evaluation, Run

PRINTING = """
import random, sys
seed, gain = int(sys.argv[1]), float(sys.argv[2])
noise = random.Random(seed).gauss(0, 1) + random.Random(f"{seed} {gain}").gauss(0, 0.1)
print("step 1 loss: 9.5")
print("loss:", noise - gain)
"""
"""A program whose loss is 0 on average, less a gain."""

METRIC = r"loss: (-?[\d.]+)"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def printing(gain: float) -> str:
    Path("printing.py").write_text(PRINTING)
    return f"{sys.executable} -SE printing.py {{seed}} {gain}"


def noisy(gain: float, noise: float = 0.1) -> Callable[[int], float]:
    """A function whose score is 0 on average, less a gain."""

    def score(seed: int) -> float:
        shared, own = random.Random(seed), random.Random(f"{seed} {gain}")
        return shared.gauss(0, 1) + own.gauss(0, noise) - gain

    return score


# What is said


@pytest.mark.parametrize(
    ("gain", "margin", "answer", "status"),
    [
        (1.0, None, "better", 0),
        (-1.0, None, "worse", 1),
        (1e-3, 1.0, "no difference worth the margin", 3),
        (1e-3, None, "cannot tell", 4),
    ],
)
def test_two_commands_are_compared(
    thalweg: Callable[..., Outcome],  # noqa: F811
    gain: float,
    margin: float | None,
    answer: str,
    status: int,
) -> None:
    worth = [] if margin is None else ["--margin", str(margin)]
    commands = (printing(0), printing(gain))
    told = thalweg("compare", "--metric", METRIC, "--seeds", "6", *worth, "--json", "--", *commands)
    found = json.loads(told.out)
    assert (told.status, found["status"], found["answer"]) == (status, status, answer)
    assert found["metric"] == "loss"
    independent = statistics.compare(
        found["new"], found["old"], "min", Looks(0.05, (6,)).level(6, 0)
    )
    assert found["gain"]["low"] == independent.low
    assert (found["gain"]["low"] > 0) == (answer == "better")
    own = subprocess.run(commands[1].format(seed=3).split(), capture_output=True, text=True)
    assert found["new"][3] == float(own.stdout.split()[-1])


def test_a_function_is_seeded_and_pairs_share_their_seed() -> None:
    def old(_: int) -> float:
        return float(np.random.standard_normal())

    found = tw.compare(old, lambda seed: old(seed) - 1e-3, seeds=6)
    assert found.answer == "better"
    assert np.allclose(np.subtract(found.scores.old, found.scores.new), 1e-3)


def test_it_stops_as_soon_as_it_is_decided() -> None:
    calls: list[str] = []
    found = tw.compare(noisy(0), noisy(5), say=calls.append)
    assert found.answer == "better"
    assert len(found.scores.old) == 12
    assert calls[-1] == "look at 12 pairs"


def test_recipes_of_one_task_are_compared_with_the_steps_that_one_saves() -> None:
    found = tw.compare("adam", "sgd", task="rosenbrock", seeds=6)
    assert found.answer == "better"
    assert found.found is not None and found.saved is not None
    assert found.saved.low > 0
    assert "sgd saves" in found.sentence
    for recipe, scores in (("adam", found.scores.old), ("sgd", found.scores.new)):
        alone = tw.train("rosenbrock", recipe, seed=2).run
        assert scores[2] == pytest.approx(alone.score, rel=1e-3)


def test_files_with_modules_of_one_name_do_not_meet() -> None:
    for folder, shift in (("old", 0.0), ("new", -0.5)):
        Path(folder).mkdir()
        Path(folder, "model.py").write_text(f"SHIFT = {shift}")
        Path(folder, "train.py").write_text(
            "import random\nfrom model import SHIFT\n"
            "def train(seed):\n    return random.random() + SHIFT\n"
        )
    found = tw.compare("old/train.py:train", "new/train.py:train", seeds=6)
    assert found.answer == "better"
    assert np.allclose(np.subtract(found.scores.old, found.scores.new), 0.5)


class Loop:
    """A training loop that is better with a higher lr, and reports after each of ten steps."""

    metric, direction = "accuracy", "max"

    def run(self, recipe: Recipe, seed: int) -> Run:
        lr = float(recipe.settings["lr"])
        top = lr + 0.01 * random.Random(seed).random()
        curve = tuple(Evaluation(step, 0.0, top * step / 10) for step in range(1, 11))
        return Run(Member(recipe, seed), curve)


def test_a_loop_is_compared_with_two_recipes_or_with_another() -> None:
    old, new = tw.sgd(lr=0.1), tw.sgd(lr=0.2)
    found = tw.compare(old, new, task=Loop(), seeds=6)  # type: ignore[arg-type]
    assert (found.answer, found.scores.metric) == ("better", "accuracy")
    # With a lr of 0.2 it has the end of one of 0.1 at step 6 of 10.
    assert "higher is better. sgd (new) saves 4 steps" in found.sentence
    alike = tw.compare(Loop(), Loop(), recipe=old, seeds=6)  # type: ignore[arg-type]
    assert alike.found is not None and alike.found.ties == 1


def test_what_has_a_score_brings_its_metric_and_direction() -> None:
    class Scored:
        metric, direction = "accuracy", "max"

        def __init__(self, gain: float) -> None:
            self.score = noisy(-gain)

    found = tw.compare(Scored(0.0), Scored(1.0), seeds=6)  # type: ignore[arg-type]
    assert (found.answer, found.scores.metric) == ("better", "accuracy")


def test_two_commits_are_run_each_in_a_clean_folder(thalweg: Callable[..., Outcome]) -> None:  # noqa: F811
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *words], check=True, capture_output=True)

    git("init")
    Path("src").mkdir()
    command = printing(0).replace("printing.py", "train.py").rsplit(maxsplit=1)[0]
    command = command.replace("-SE", "-S")
    for gain in (0, 1):
        Path("src/gain.py").write_text(f"GAIN = {gain}")
        text = PRINTING.replace("float(sys.argv[2])", "GAIN")
        Path("train.py").write_text(f"from gain import GAIN\n{text}")
        git("add", "train.py", "src")
        git("commit", "-m", str(gain))
    Path("train.py").write_text("not Python")
    told = thalweg(
        *("compare", "--at", "HEAD~1", "--at", "HEAD", "--metric", METRIC, "--seeds", "6"),
        *("--", command),
    )
    assert told.status == 0, told.err
    assert "HEAD is better than HEAD~1" in told.out
    assert Path("train.py").read_text() == "not Python"
    full = command.replace("train.py", str(Path("train.py").resolve()))
    ats = ("compare", "--at", "HEAD~1", "--at", "HEAD", "--metric", "x")
    told = thalweg(*ats, "--", full)
    assert (told.status, told.out) == (2, "")
    assert "is in the working copy and not in the commits of --at" in told.err
    told = thalweg("compare", "--at", "nowhere", "--at", "HEAD", "--metric", "x", "--", command)
    assert (told.status, told.out) == (2, "")
    assert "The commit 'nowhere' cannot be checked out: there is no such commit." in told.err


def test_the_readme_compares_as_it_says(thalweg: Callable[..., Outcome]) -> None:  # noqa: F811
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    _, _, code = readme.partition("```python\n# change.py\n")
    Path("change.py").write_text(code.partition("```")[0])
    command = "thalweg compare change.py:old change.py:new"
    assert f"$ {command}\n" in readme
    told = thalweg(*command.split()[1:])
    assert told.status == 0
    sentence = told.out.splitlines()[-1].partition("(")[0]
    assert sentence.startswith("change.py:new is better than change.py:old: score differs by -0.08")
    assert sentence in readme


# Results that are there already


@pytest.mark.parametrize(
    ("text", "options", "status", "told"),
    [
        ("a,b\n" + "1,2\n2,3.5\n3,4\n" * 3, [], 1, "b is worse than a"),
        ("a,b\n" + "1,2\n2,3.5\n3,4\n" * 3, ["--direction", "max"], 0, "b is better than a"),
        ("1,2\n", [], 4, "A single run cannot show"),
        ("1,2\n2,3\n3,5\n4,6\n5,8\n", [], 4, "5 pairs cannot show it with a risk of 0.05"),
        ("a,b\n" + "1,9\n2,9.5\n3,8\n" * 3 + ",8\n", [], 1, "The runs share no seeds"),
        ("a,b\n" + "1,2\n1,3\n1,2.5\n" * 3, [], 4, "Every run of a has the same score"),
        ("a,b,c\n" + "1,0,2\n2,0,3.5\n3,0,4\n" * 3, ["--columns", "a, c"], 1, "c is worse than a"),
        ("a,b\n" + "1,1.5\n2,2\n3,2.9\n" * 4, [], 4, "The sign of the difference is open"),
        ("a,b\n" + "1,nan\n2,2.1\n3,nan\n4,4.1\n" * 4, [], 1, "runs of b diverge more (95"),
        ("a,b\n" + "1,1\n2,2\n" * 5, [], 4, "Both have the same score in every pair"),
        ("a,b\n" + "nan,inf\n" * 6, ["--margin", "1"], 4, "Every run of a and of b diverged"),
    ],
)
def test_a_file_of_results_says_what_it_can(
    thalweg: Callable[..., Outcome],  # noqa: F811
    text: str,
    options: list[str],
    status: int,
    told: str,
) -> None:
    Path("results.csv").write_text(text)
    outcome = thalweg("compare", "results.csv", *options)
    assert outcome.status == status
    assert told in outcome.out


def test_more_pairs_than_can_be_compared_are_not_advised() -> None:
    drawn = np.random.default_rng(6)
    found = tw.compare(list(drawn.normal(size=300)), list(drawn.normal(-0.06, size=300)))
    (advice,) = found.advice
    assert advice.startswith("About 1,541 more pairs") and "1,000 is the most" in advice


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("loss,loss\n1,2\n2,3\n", [], "must have two names, not 'loss'"),
        ("a,b\n1,2\n2,3\n", ["--columns", "a,a"], "must have two names, not 'a'"),
        ("0.5,-\n1,2\n2,3\n", [], "The first row of results.csv has a name and a number"),
        ("1,2\n" * 1001, [], "There can be 1,000 scores of each at most, not 1,001"),
    ],
)
def test_a_file_that_can_be_read_wrongly_is_not_read(
    thalweg: Callable[..., Outcome],  # noqa: F811
    text: str,
    options: list[str],
    told: str,
) -> None:
    Path("results.csv").write_text(text)
    outcome = thalweg("compare", "results.csv", *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert told in outcome.err


def test_the_advice_is_about_the_pairs_that_it_takes() -> None:
    drawn = np.random.default_rng(3)
    found = tw.compare(list(drawn.normal(size=30)), list(drawn.normal(-0.4, size=30)))
    assert found.answer == "cannot tell"
    (advice,) = found.advice
    assert advice.startswith("About ") and "more pairs would decide it" in advice


def test_runs_without_pairs_are_judged_by_the_exact_rank_sum_test() -> None:
    drawn = np.random.default_rng(0)
    for _ in range(20):
        old, new = drawn.normal(size=7), drawn.normal(-0.8, size=9)
        found = statistics.compare_unpaired(new, old, "min")
        for p, side in ((found.p, "less"), (found.p_worse, "greater")):
            assert p == pytest.approx(
                mannwhitneyu(new, old, alternative=side, method="exact").pvalue
            )
        assert (found.low > 0, found.high < 0) == (found.better, found.worse)


# How often it errs


def test_the_looks_and_additions_spend_no_more_than_the_risk() -> None:
    for totals in ((40,), (12, 40, 41, 400), (6,)):
        plan = Looks(0.05, totals)
        before, spent = 0, 0.0
        while look := plan.after(before):
            spent += 2 * plan.level(look, before)
            before = look
        assert before == totals[-1]
        assert 0.03 < spent < 0.05
    assert fewest(0.05) == 6


def test_ties_are_seldom_called_and_a_margin_seldom_denied() -> None:
    plan, drawn = Looks(0.05, (40,)), np.random.default_rng(1)
    comparisons = 400
    called = denied = 0
    for _ in range(comparisons):
        differences = drawn.standard_t(3, 40)
        for shift, margin in ((0.0, None), (1.0, 1.0)):
            before = 0
            while look := plan.after(before):
                level = plan.level(look, before)
                some, zeros = differences[:look] + shift, np.zeros(look)
                if margin is None:
                    found = statistics.compare(some, zeros, "max", level)
                    ended = found.low > 0 or found.high < 0
                    called += ended
                else:
                    ended = statistics.within_margin(some, zeros, "max", margin, level)
                    denied += ended
                if ended:
                    break
                before = look
    assert called <= 0.05 * comparisons
    assert denied <= 0.025 * comparisons


# What is kept


def test_it_goes_on_where_it_was_stopped_and_repeats_no_run() -> None:
    calls = Path("calls")

    def counted(seed: int) -> float:
        with calls.open("a") as file:
            file.write(f"{seed}\n")
        return noisy(0)(seed)

    first = tw.compare(counted, noisy(1e-3), seeds=6, name="x", lanes=1)
    assert first.answer == "cannot tell"
    again = tw.compare(counted, noisy(1e-3), seeds=6, name="x", lanes=1)
    assert again == first
    more = tw.compare(counted, noisy(1e-3), seeds=12, name="x", lanes=1)
    assert more.scores.old[:6] == first.scores.old
    assert sorted(map(int, calls.read_text().split())) == [0, *range(12)]  # one is tried twice
    with pytest.raises(UserError, match="give --seeds 12 or more"):
        tw.compare(counted, noisy(1e-3), seeds=6, name="x", lanes=1)


def test_a_margin_may_be_asked_for_afterwards() -> None:
    first = tw.compare(noisy(0), noisy(2e-3), seeds=6, name="x")
    (advice,) = first.advice
    margin = float(advice.partition("--margin ")[2].split()[0])
    found = tw.compare(noisy(0), noisy(2e-3), seeds=6, name="x", margin=margin)
    assert found.answer == "no difference worth the margin"
    assert found.scores == first.scores


def test_other_settings_and_another_program_are_told() -> None:
    commands = (printing(0), printing(1))
    tw.compare(*commands, metric=METRIC, seeds=6, name="x")
    with pytest.raises(UserError, match=r"with alpha 0\.05 and not 0\.1; it is left.*--name x-2"):
        tw.compare(*commands, metric=METRIC, seeds=6, name="x", alpha=0.1)
    Path("printing.py").write_text(PRINTING + "# edited")
    with pytest.raises(UserError, match="other files of old; it is left as it is"):
        tw.compare(printing_unchanged(0), printing_unchanged(1), metric=METRIC, seeds=6, name="x")


def test_a_file_that_is_an_option_is_told_when_it_changes() -> None:
    Path("printing.py").write_text(PRINTING)
    Path("new.toml").write_text("lr = 1")
    commands = (printing_unchanged(0), f"{printing_unchanged(1)} --config=new.toml")
    tw.compare(*commands, metric=METRIC, seeds=6, name="x")
    Path("new.toml").write_text("lr = 2")
    with pytest.raises(UserError, match="other files of new; it is left as it is"):
        tw.compare(*commands, metric=METRIC, seeds=6, name="x")


def test_long_commands_that_end_otherwise_have_folders_of_their_own() -> None:
    Path("printing.py").write_text(PRINTING)
    for gain in (1, 2):
        commands = (printing_unchanged(0), f"{printing_unchanged(gain)} --long {'x' * 90} {gain}")
        assert tw.compare(*commands, metric=METRIC, seeds=6).answer == "better"
    assert len(list(Path("runs").iterdir())) == 2


def printing_unchanged(gain: float) -> str:
    return f"{sys.executable} -SE printing.py {{seed}} {gain}"


def test_a_killed_comparison_loses_the_pair_in_work_alone() -> None:
    commands = (printing(0), printing(1e-3))
    words = [sys.executable, "-m", "thalweg", "compare", "--metric", METRIC, "--name", "x"]
    words += ["--seeds", "12"]
    begun = subprocess.Popen(
        [*words, "--", *commands], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert begun.stdout is not None
    with begun.stdout as lines:
        next(line for line in lines if line.startswith("3 of 12"))
        begun.kill()
    begun.wait()
    with closing(sqlite3.connect("runs/x/comparison.sqlite")) as ledger:
        assert ledger.execute("SELECT count(*) FROM runs").fetchone()[0] >= 6
    told: list[str] = []
    found = tw.compare(*commands, metric=METRIC, seeds=12, name="x", say=told.append)
    assert found.answer == "cannot tell"
    assert not any(line.startswith(("1 of", "2 of", "3 of")) for line in told)
    assert len(found.scores.old) == 12


def test_time_that_is_up_is_told_and_spends_no_more_than_is_due() -> None:
    found = tw.compare(noisy(0), noisy(1e-3), minutes=1e-9, name="x")
    assert found.answer == "cannot tell"
    assert found.sentence == "It cannot be told yet: 0 pairs of 12 for a first look are done."
    assert tw.compare(noisy(0), noisy(5), seeds=12, minutes=5).answer == "better"


# What goes wrong


def test_a_run_that_fails_is_tried_again_and_then_counts_as_the_worst() -> None:
    tries = Path("tries")

    def failing(seed: int) -> float:
        with tries.open("a") as file:
            file.write(f"{seed}\n")
        if seed in (2, 3):
            raise ValueError(f"no seed {seed}")
        return noisy(0)(seed) + 5

    found = tw.compare(noisy(0), failing, seeds=6)
    assert found.answer == "worse"
    assert [math.isnan(score) for score in found.scores.new] == [i in (2, 3) for i in range(6)]
    assert tries.read_text().split().count("2") == 2
    (limit,) = found.limits
    assert "2 of 6 runs of failing diverged or failed" in limit
    assert "ValueError: no seed 2" in limit


def test_a_side_that_always_fails_is_no_result() -> None:
    def broken(_: int) -> float:
        raise ValueError("broken")

    told: list[str] = []
    with pytest.raises(UserError, match=r"Every run of broken fails: ValueError: broken"):
        tw.compare(noisy(0), broken, name="x", lanes=1, say=told.append)
    assert told[0].startswith("broken failed on seed 0: ValueError: broken")
    assert tw.compare(noisy(0), lambda seed: noisy(1)(seed), name="y", seeds=6).answer == "better"


def test_a_side_that_always_fails_can_be_mended_under_the_same_command() -> None:
    def compared(metric: str) -> Compared:
        commands = (printing_unchanged(0), printing_unchanged(1).replace("printing", "other"))
        return tw.compare(*commands, metric=metric, seeds=6, name="x")

    Path("printing.py").write_text(PRINTING)
    Path("other.py").write_text("raise SystemExit('broken')")
    with pytest.raises(UserError, match=r"Every run of old fails.*no match of los"):
        compared("los: (.*)")
    with pytest.raises(UserError, match=r"Every run of new fails.*broken"):
        compared(METRIC)
    Path("other.py").write_text(PRINTING)
    assert compared(METRIC).answer == "better"
    Path("other.py").write_text(PRINTING + "# edited")
    with pytest.raises(UserError, match="other files of new; it is left as it is"):
        compared(METRIC)


def test_a_seed_that_changes_nothing_is_told_after_three_pairs() -> None:
    found = tw.compare(lambda _: 0.5, noisy(9), lanes=1)
    assert found.answer == "cannot tell"
    assert len(found.scores.old) == 3
    assert "Every run of old has the same score, so its seed changes nothing" in found.advice[0]


def test_two_sides_that_always_diverge_are_told_after_three_pairs() -> None:
    found = tw.compare(lambda _: math.nan, lambda _: math.inf, lanes=1)
    assert found.answer == "cannot tell"
    assert len(found.scores.old) == 3
    assert "diverged: there is nothing to compare" in found.advice[0]


def test_a_side_that_does_not_follow_its_seed_is_told() -> None:
    by_the_clock = "import time; print('loss:', time.time_ns() % 1_000_003)"
    command = f"{sys.executable} -SEc {shlex.quote(by_the_clock)}"
    seeded = printing(0).replace("{seed}", "$THALWEG_SEED")
    found = tw.compare(seeded, command, metric=METRIC, seeds=6, name="commands")
    (limit,) = found.limits
    assert "Two runs of new with seed 0 do not come to the same, but to" in limit
    assert "pairs are not paired" in limit
    assert tw.compare(seeded, command, metric=METRIC, seeds=6, name="commands") == found

    held = torch.nn.Linear(1, 1)

    @tw.loop(metric="loss", direction="min", steps=3)
    def shared(run: tw.loops.run.Run) -> float:
        optimizer = run.optimizer(held)
        for _ in run.steps():
            optimizer.zero_grad()
            loss = (held(torch.ones(1)) - run.seed - 9).square().sum()
            loss.backward()
            optimizer.step()
        return loss.item()

    loops = tw.compare(shared, shared, seeds=6)
    assert len(loops.limits) == 2
    assert "a run begins with what the one before it left" in loops.limits[0]
    assert tw.compare("adam", "sgd", task="rosenbrock", seeds=6, lanes=1).limits == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["old.py:train"], "compare takes two, old and new"),
        (["adam", "sgd"], "adam must be path/to/file.py:NAME"),
        (["nowhere.py:train", "nowhere.py:other"], "There is no file nowhere.py"),
        (["a", "b", "c"], "compare takes two, old and new, and here are 3"),
        (["--seeds", "5", "a.py:x", "b.py:x"], "seeds must be 6 or more: with alpha 0.05"),
        (["--seed", str(2**32 - 9), "a.py:x", "b.py:x"], "seed must be a whole number from 0 to 4"),
        (["--margin", "-1", "a.py:x", "b.py:x"], "margin must be a number above 0, not -1.0"),
        (["--metric", "loss: (.", "--", "a", "b"], "is no regular expression"),
        (["--task", "digits", "adam", "adm"], "no optimizer is called adm"),
        (["--at", "HEAD", "--metric", "x", "--", "a"], "--at is given twice"),
        (["--task", "function.py:score", "adam", "sgd"], "must be a task or a loop"),
        (["--direction", "max", "--task", "diabetes", "adam", "sgd"], "adam has direction min for"),
        (["missing.csv"], "the file missing.csv cannot be read: No such file or directory."),
        (
            ["--metric", "loss", "function.py:score", "b.py:x"],
            "function.py:score is a loop",
        ),
        (
            ["--metric", "loss", "--task", "digits", "adam", "sgd"],
            "metric has no meaning with",
        ),
        (["--columns", "a,b", "function.py:score", "function.py:score"], "columns has no meaning"),
        (["--seeds", "9", "0.5", "0.6"], "seeds has no meaning with scores that are there already"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_left_behind(
    thalweg: Callable[..., Outcome],  # noqa: F811
    arguments: list[str],
    told: str,
) -> None:
    Path("function.py").write_text("def score(seed): return seed")
    outcome = thalweg("compare", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert told in outcome.err
    assert not Path("runs").exists()


def test_what_runs_print_does_not_stand_in_the_answer(thalweg: Callable[..., Outcome]) -> None:  # noqa: F811
    Path("talking.py").write_text(
        "import os, random\n"
        "def train(seed):\n"
        "    print('epoch 1', flush=True)\n"
        "    os.system('echo epoch 2')\n"
        "    return random.random()\n"
    )
    words = ("talking.py:train", "talking.py:train")
    told = thalweg("compare", *words, "--seeds", "6", "--json")
    assert json.loads(told.out)["answer"] == "cannot tell"
    assert "epoch 1" in told.err and "epoch 2" in told.err


def test_two_metrics_are_not_compared() -> None:
    digits, diabetes = find("digits"), find("diabetes")
    with pytest.raises(UserError, match="two that are compared must have the same"):
        tw.compare(digits, diabetes)
