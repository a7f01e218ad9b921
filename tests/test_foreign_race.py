"""Optimizers of PyTorch and of other packages as entrants, beside our own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from test_checkpoints import StoppedError, stopped_after
from test_race import Watched, outcome
from thalweg import recipes, schedules
from thalweg.errors import UserError
from thalweg.recipes import recipe_of
from thalweg.stack.batches import training_order
from thalweg.stack.member import Member
from thalweg.tasks import Data, Task
from thalweg.training.resume import Checkpoints
from thalweg.training.train import train_members

torch.manual_seed(0)
X = torch.randn(64, 4)
Y = X.sum(1, keepdim=True).tanh()
STEPS = 12


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))


TASK = Task(
    "net",
    model,
    lambda: Data((X[:32], Y[:32]), (X[32:48], Y[32:48]), (X[48:], Y[48:])),
    F.mse_loss,
    batch_size=8,
    steps=STEPS,
)


class Signs(torch.optim.Optimizer):
    """Steps by the signs of the gradient; it has no counterpart anywhere."""

    def __init__(self, params: Any, lr: float = 0.05, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for param in group["params"]:
                decay = group["weight_decay"] * param
                param.sub_(group["lr"] * (param.grad.sign() + decay))


class ByCurvature(Signs):
    """Divides the gradient by the sums of the Hessian's rows, as AdaHessian's users know it."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        params = [param for group in self.param_groups for param in group["params"]]
        if any(param.grad.grad_fn is None for param in params):
            raise RuntimeError("Set the option create_graph of loss.backward() to True.")
        with torch.enable_grad():
            total = sum(param.grad.sum() for param in params)
            rows = torch.autograd.grad(total, params, allow_unused=True)
        for param, row in zip(params, rows, strict=True):
            scale = 1 if row is None else row.abs() + 1
            param.sub_(self.param_groups[0]["lr"] * param.grad.detach() / scale)


class TwoPoints(Signs):
    """Trains at one point and evaluates at another, as Schedule-Free does."""

    def eval(self) -> None:
        self.shift(1.0)

    def train(self) -> None:
        if getattr(self, "evaluates", False):
            self.shift(-1.0)
        self.evaluates = False

    @torch.no_grad()
    def shift(self, by: float) -> None:
        self.evaluates = by > 0
        for group in self.param_groups:
            for param in group["params"]:
                param.add_(by)


def literal(make: Any, rates: list[float]) -> nn.Module:
    """The task's model after training by hand, from seed 0."""
    torch.manual_seed(0)
    net = model()
    optimizer = make(net)
    for numbers, rate in zip(training_order(TASK, 0), rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.mse_loss(net(X[:32][numbers]), Y[:32][numbers]).backward()
        optimizer.step()
    return net


def trained(recipe: Any, tmp_path: Path, **more: Any) -> tuple[dict[str, Tensor], Any]:
    found = tw.train(TASK, recipe, out=tmp_path / "model.safetensors", **more)
    return load_file(found.checkpoint), found.run


def assert_equal(found: dict[str, Tensor], net: nn.Module) -> None:
    for name, x in net.state_dict().items():
        assert torch.equal(found[name], x)


def test_a_recipe_of_radam_trains_to_the_bit_as_radam_under_its_schedule(tmp_path: Path) -> None:
    cooling = schedules.linear(0.02, steps=STEPS)
    recipe = recipe_of("torch.optim:RAdam").replace(lr=cooling, betas=(0.8, 0.99))
    assert tw.Recipe.from_toml(recipe.to_toml()) == recipe
    expected = literal(
        lambda net: torch.optim.RAdam(net.parameters(), betas=(0.8, 0.99)),
        [float(cooling(step)) for step in range(STEPS)],
    )
    assert_equal(trained(recipe, tmp_path)[0], expected)


def test_groups_reach_the_optimizer(tmp_path: Path) -> None:
    recipe = recipe_of(Signs).replace(weight_decay=0.5)

    def groups(net: nn.Module) -> Signs:
        decayed = [x for name, x in net.named_parameters() if name in ("0.weight", "3.weight")]
        rest = [x for name, x in net.named_parameters() if name not in ("0.weight", "3.weight")]
        return Signs([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], 0.05, 0.5)

    found = trained(recipe, tmp_path, no_decay=True)[0]
    assert_equal(found, literal(groups, [0.05] * STEPS))


@pytest.mark.parametrize("stop", [3, 40])
def test_a_race_with_others_optimizers_ends_alike_whether_it_was_stopped(
    stop: int, tmp_path: Path
) -> None:
    field = ["adam", torch.optim.RAdam, tw.entrant(Signs, {"lr": (1e-3, 0.1)}, weight_decay=0.1)]
    given: dict[str, Any] = {"trials": 3, "tuning_seeds": 2, "seeds": 3, "width": 4, "lanes": 1}
    given |= {"step": "stacked"}
    whole = tw.race(TASK, field, **given, runs=tmp_path / "whole")
    watched = Watched(stop)
    with pytest.raises(KeyboardInterrupt):
        tw.race(TASK, field, **given, runs=tmp_path, progress=watched)
    again = tw.race(TASK, field, **given, runs=tmp_path)
    assert outcome(again.record) == outcome(whole.record)
    assert whole.record.settings.spaces["Signs"].keys() == {"lr"}
    assert any("RAdam and Signs run one by one" in note for note in whole.record.notes)
    assert {cost.entrant: cost.state_per_parameter for cost in whole.record.costs.values()} == {
        "adam": 2.0,
        "RAdam": 2.0,
        "Signs": 0.0,
    }


def test_its_runs_are_those_that_it_has_alone(tmp_path: Path) -> None:
    found = tw.race(TASK, [Signs, "adam"], trials=2, seeds=2, lanes=1, runs=tmp_path).record
    recipes_by_key = {one.key: tw.Recipe.from_toml(one.recipe) for one in found.configurations}
    runs = [run for run in found.runs if run.entrant == "Signs"]
    for run in runs[:2]:
        alone = train_members(TASK, [Member(recipes_by_key[run.member[:2]], run.seed)], width=1)
        assert alone[0].score == run.score


def test_its_training_continues_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    cooling = schedules.linear(0.02, steps=STEPS)
    members = [Member(recipe_of(torch.optim.RAdam).replace(lr=cooling), 0)]
    expected = train_members(TASK, members, width=1)
    checkpoints = Checkpoints(tmp_path / "block", [{}], every=0)
    with pytest.raises(StoppedError):
        train_members(TASK, members, width=1, watch=stopped_after(7), checkpoints=checkpoints)
    assert repr(train_members(TASK, members, width=1, checkpoints=checkpoints)) == repr(expected)


def test_closures_are_counted_in_gradient_evaluations(tmp_path: Path) -> None:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += outputs.requires_grad
        return F.mse_loss(outputs, targets)

    task = Task("net", model, TASK.data, loss, batch_size=8, steps=30)
    recipe = recipe_of("torch.optim:LBFGS").replace(max_iter=4, lr=0.1)
    (run,) = train_members(task, [Member(recipe, 0)], width=1)
    assert 30 <= calls < 40
    assert run.curve[-1].step == 30
    found = tw.race(TASK, [recipe, "adam"], trials=1, seeds=2, lanes=1, runs=tmp_path)
    assert found.record.finished


def test_an_optimizer_gets_the_graph_of_the_gradient_where_it_asks_for_it(tmp_path: Path) -> None:
    def by_hand() -> nn.Module:
        torch.manual_seed(0)
        net = model()
        optimizer = ByCurvature(net.parameters())
        for numbers in islice(training_order(TASK, 0), STEPS - 1):  # one pays for the first try
            optimizer.zero_grad()
            found = F.mse_loss(net(X[:32][numbers]), Y[:32][numbers])
            found.backward(create_graph=True)
            optimizer.step()
        return net

    assert_equal(trained(ByCurvature, tmp_path)[0], by_hand())


def test_train_and_eval_of_an_optimizer_are_called_around_evaluation(tmp_path: Path) -> None:
    weights, run = trained(TwoPoints, tmp_path)
    expected = literal(lambda net: Signs(net.parameters()), [0.05] * STEPS)
    for name, x in expected.state_dict().items():
        torch.testing.assert_close(weights[name], x + 1)
    net = model()
    net.load_state_dict(weights)
    assert run.score == pytest.approx(float(F.mse_loss(net(X[32:48]), Y[32:48])), rel=1e-5)


def test_the_lines_of_pytorch_are_its_own(tmp_path: Path) -> None:
    cooling = schedules.linear(0.02, steps=STEPS)
    recipe = recipe_of(torch.optim.RAdam).replace(lr=cooling, betas=(0.8, 0.99))
    found = tw.race(TASK, [recipe, "adam"], trials=1, seeds=2, lanes=1, runs=tmp_path)
    lines, _ = tw.racing.torch_code.in_torch(recipe)
    assert lines is not None
    once, each = lines.split("# in every step, after loss.backward()")
    torch.manual_seed(0)
    names: dict[str, Any] = {"model": model(), "torch": torch}
    exec(once, names)
    for numbers in islice(training_order(TASK, 0), STEPS):
        names["optimizer"].zero_grad()
        F.mse_loss(names["model"](X[:32][numbers]), Y[:32][numbers]).backward()
        exec(each, names)
    weights, _ = trained(recipe, tmp_path)
    for name, x in names["model"].state_dict().items():
        torch.testing.assert_close(weights[name], x)
    assert found.record.finished


def test_the_doctor_tries_its_advice_with_it() -> None:
    slow = recipe_of(torch.optim.RAdam).replace(lr=1e-5)
    said = str(tw.diagnose(TASK, slow, trial_steps=6))
    assert "learning rate too low" in said
    assert "helps: loss better by" in said


def test_a_file_holds_optimizers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import torch\n\n\nclass Mine(torch.optim.SGD):\n"
        "    def __init__(self, params, lr=0.1):\n        super().__init__(params, lr=lr)\n"
    )
    found = tw.race(TASK, "mine.py:Mine,SGD", trials=2, seeds=2, lanes=1, runs="runs")
    assert found.verdict.table()[0]["entrant"] in ("Mine", "sgd")
    recipe = recipe_of("mine.py:Mine")
    assert 'rule = "mine.py:Mine"' in recipe.to_toml()
    assert tw.Recipe.from_toml(recipe.to_toml()) == recipe


class NoRate(torch.optim.SGD):
    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)


class Needs(torch.optim.SGD):
    def __init__(self, params: Any, curvature: float, lr: float = 0.1) -> None:  # noqa: ARG002
        super().__init__(params, lr=lr)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("torch.optim:Radam", "torch.optim has no Radam; did you mean RAdam"),
        ("torch.optim:lr_scheduler", "must be a class of torch.optim.Optimizer, not <module"),
        ("nowhere:Adam", "cannot be imported .*install the package nowhere, or correct the name"),
        ("rprop", r"thalweg has no optimizer rprop; torch.optim:Rprop can race as it is\."),
        (NoRate, "NoRate has no lr with a number as its default"),
        (Needs, "Needs needs curvature, which has no default"),
        ("torch.optim:SparseAdam", "cannot race: .*SparseAdam does not support dense gradients"),
        ("torch.optim:Muon", "Muon cannot be made with lr=0.001, .*only supports 2D parameters"),
        (tw.chain(recipes.clip_norm(1.0), tw.sgd()), None),
    ],
)
def test_what_cannot_race_gets_a_sentence(given: Any, told: str | None, tmp_path: Path) -> None:
    if told is None:
        with pytest.raises(UserError, match="RAdam steps by itself, so no other rules can stand"):
            tw.chain(recipes.clip_norm(1.0), recipe_of(torch.optim.RAdam))
        return
    with pytest.raises(UserError, match=told) as caught:
        tw.race(TASK, [given, "adam"], trials=1, seeds=2, runs=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["AdamW", "ADAMW", "adamw"])
def test_names_are_understood_in_any_case(name: str) -> None:
    assert recipe_of(name) == tw.adamw()


def test_a_dotted_name_is_an_import() -> None:
    assert recipe_of("torch.optim.AdamW") == recipe_of(torch.optim.AdamW)


def test_ours_does_not_pretend_to_be_it() -> None:
    with pytest.raises(UserError, match=r"torch\.optim:RAdam steps by itself: make it from"):
        tw.optim.Optimizer(model(), recipe_of(torch.optim.RAdam))


def test_it_is_refused_in_a_loop_before_anything_runs(tmp_path: Path) -> None:
    @tw.loop(metric="loss", direction="min", steps=5)
    def train(run: Any) -> float:
        raise AssertionError(f"nothing may run, as {run} does")

    with pytest.raises(UserError, match=r"torch\.optim:RAdam cannot race in a loop"):
        tw.race(train, [torch.optim.RAdam, "adam"], trials=1, seeds=2, runs=tmp_path)
