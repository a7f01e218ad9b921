"""Members of a stack: the same as alone, whatever else fills it."""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset, TensorDataset

from thalweg import recipes, schedules
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain, clip_norm, clip_value, ema, tail_average
from thalweg.stack import memory
from thalweg.stack.batches import fetch, order
from thalweg.stack.divergence import Divergence
from thalweg.stack.member import Member
from thalweg.stack.memory import MOST_BYTES, activation_bytes, samples_at_once
from thalweg.stack.population import Population
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.stack.way import populate, way_of
from thalweg.tasks import Data, Task, bundled, find

STEPS = 20
COOLING = schedules.linear(1e-3, 1e-5, steps=STEPS)
WARMING = schedules.warming(0.5, 0.9, steps=STEPS)
PLATEAU = schedules.plateau(2e-3, patience=0, metric="training")

MIX = [
    *(recipes.named(name).replace(lr=1e-3) for name in recipes.RECIPES),
    chain(clip_norm(0.3), recipes.adam(lr=COOLING)),
    recipes.nesterov(lr=COOLING, momentum=WARMING, weight_decay=1e-3),
    chain(recipes.sgd(lr=schedules.warmup(COOLING, steps=5)), tail_average(7, STEPS)),
    chain(clip_value(0.1), recipes.momentum(lr=1e-3), ema(0.8)),
    recipes.adamw(lr=PLATEAU, weight_decay=schedules.cosine(0.1, steps=STEPS)),
    chain(clip_norm(0.2), recipes.rmsprop(lr=5e-4, momentum=0.5), tail_average(3)),
    chain(clip_norm(0.2), recipes.rmsprop(lr=2e-3, momentum=0.9), tail_average(3)),
    recipes.adagrad(lr=1e-2, weight_decay=0.1),
    chain(clip_norm(0.2), recipes.lamb(lr=1e-3)),
]
"""Every named recipe, and chains with schedules, clips, averages and sums; some share rows."""


def plain_model(task: Task, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return task.model()


def batches_of(task: Task, seed: int) -> Any:
    data: Any = task.splits.train
    return (fetch(data, chosen) for chosen in order(len(data), task.batch_size, seed))


def in_double(task: Task) -> Task:
    return in_type(task, torch.float64)


def in_type(task: Task, dtype: torch.dtype) -> Task:
    """The same task with its weights and its data in another type."""

    def cast(split: Any) -> tuple[Tensor, ...]:
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in split.tensors)

    splits = task.splits
    data = Data(*(cast(split) for split in (splits.train, splits.validation, splits.test)))
    return replace(task, model=lambda: task.model().to(dtype), data=lambda: data)


def relative(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm().clamp_min(1e-30))


def tiny(
    model: Callable[[], nn.Module], *, samples: int = 24, batch_size: int = 8, **fields: Any
) -> Task:
    """Regression of four numbers onto two."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    split = (x, x[:, :2].sin())
    settings = {"data": lambda: Data(split, split, split), "loss": F.mse_loss, "steps": 10}
    return Task("tiny", model, batch_size=batch_size, **{**settings, **fields})


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))


TINY = tiny(two_layers)


def after(population: Population, steps: int) -> tuple[list[list[float]], list[dict[str, Tensor]]]:
    """The losses of some steps, and every member's parameters and buffers after them."""
    losses = [population.step() for _ in range(steps)]
    return losses, [population.state_dict(place) for place in range(len(population.members))]


def assert_same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, x in some.items():
        assert torch.equal(x, others[name]), name


# --- the same as alone ---


@pytest.mark.parametrize("task", bundled(), ids=lambda task: task.name)
def test_one_step_gradients_are_the_lone_models(task: Task) -> None:
    population = Stacked(task, [Member(recipes.sgd(), seed) for seed in (3, 4)], width=2)
    losses, gradients, _ = population.gradients()
    for place, seed in enumerate((3, 4)):
        model = plain_model(task, seed)
        *inputs, targets = next(batches_of(task, seed))
        loss = task.loss(model(*inputs), targets)
        loss.backward()
        alone = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        own = torch.cat([gradient[place].flatten() for gradient in gradients.values()])
        assert losses[place].item() == pytest.approx(loss.item(), rel=1e-5)
        assert relative(own, alone) < 1e-5


def lone_training(task: Task, member: Member) -> tuple[dict[str, Tensor], Tensor]:
    """Twenty steps with the drop-in optimizer, told its loss half-way; state and evaluation."""
    model = plain_model(task, member.seed)
    optimizer = Optimizer(model, member.recipe)
    batches = batches_of(task, member.seed)
    for step in range(STEPS):
        *inputs, targets = next(batches)
        optimizer.zero_grad()
        loss = task.loss(model(*inputs), targets)
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            optimizer.observe(training=step, validation=step)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    with optimizer.evaluation(), torch.no_grad():
        if any("verage" in type(rule).__name__ for rule in member.recipe.rules):
            estimation = itertools.islice(batches_of(task, 0), 20)
            update_bn([inputs for *inputs, _ in estimation], model)
        *inputs, _ = fetch(task.splits.validation, torch.arange(len(task.splits.validation)))  # type: ignore[arg-type]
        return state, model.eval()(*inputs)


def some_of(task: Task) -> list[Recipe]:
    """A share of the mix for each task, all of it for the cheapest network.

    Not Lion for the transformer: the gradients of its keys' biases are zero but for round-off, of
    which Lion takes the sign.
    """
    chosen = {"digits": MIX, "digits-conv": MIX[2::4], "topics": MIX[3::9]}
    first = [other.name for other in bundled()].index(task.name)
    return chosen.get(task.name, MIX[first % 5 :: 5])


@pytest.mark.parametrize("task", bundled(), ids=lambda task: task.name)
def test_twenty_steps_are_those_of_the_drop_in_optimizer(task: Task) -> None:
    doubled = in_double(task)
    if task.name == "topics":
        doubled = replace(doubled, batch_size=4)  # four times as fast
    members = [Member(recipe, seed % 3) for seed, recipe in enumerate(some_of(task))]
    stack = Stacked(doubled, members, width=3)
    for step in range(STEPS):
        stack.step()
        if step % 5 == 4:
            stack.observe([step] * len(members), [step] * len(members))
    with stack.evaluation():
        outputs = [output for output, _ in stack.outputs(doubled.splits.validation)]
    for place, member in enumerate(members):
        alone, alone_outputs = lone_training(doubled, member)
        state = stack.state_dict(place)
        assert state.keys() == alone.keys()
        differences = [relative(state[name].double(), x.double()) for name, x in alone.items()]
        differences.append(relative(outputs[place], alone_outputs))
        assert max(differences) < 1e-9, member.recipe


def test_one_by_one_is_the_drop_in_optimizer_to_the_bit() -> None:
    members = [Member(recipe, seed) for seed, recipe in enumerate(MIX)]
    population = Single(TINY, members)
    for step in range(STEPS):
        population.step()
        if step % 5 == 4:
            population.observe([step] * len(members), [step] * len(members))
    for place, member in enumerate(members):
        alone, _ = lone_training(TINY, member)
        assert_same_bits(population.state_dict(place), alone)


def faint(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1e-3 * F.mse_loss(outputs, targets)


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@pytest.mark.parametrize("name", ["adam", "nadam", "rmsprop"])
def test_half_precision_is_stepped_in_float32(name: str) -> None:
    """In its own type eps is 0, and a small gradient is divided by nothing."""
    task = in_type(tiny(two_layers, loss=faint), torch.float16)
    members = [Member(recipes.named(name), seed) for seed in range(2)]
    (_, stacked) = after(Stacked(task, members, width=2), 3)
    (_, alone) = after(Single(task, members), 3)
    for one, other in zip(stacked, alone, strict=True):
        for key, x in one.items():
            assert relative(x.double(), other[key].double()) < 0.02


# --- batches, random numbers, buffers ---


def test_one_seed_means_the_same_weights_and_batches() -> None:
    adam, seeds = recipes.adam(), (1, 1, 2)
    for kind in (Single(TINY, [Member(adam, s) for s in seeds]), stack_of(adam, seeds)):
        losses, states = after(kind, 5)
        assert all(step[0] == step[1] != step[2] for step in losses)
        assert_same_bits(states[0], states[1])
        assert not torch.equal(states[0]["0.weight"], states[2]["0.weight"])


def stack_of(recipe: Recipe, seeds: Sequence[int], width: int = 4, task: Task = TINY) -> Stacked:
    return Stacked(task, [Member(recipe, seed) for seed in seeds], width)


def test_an_epoch_has_every_sample_once_and_the_next_another_order() -> None:
    batches = order(12, 4, seed=0)
    first, second = (torch.cat([next(batches) for _ in range(3)]) for _ in range(2))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(12))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("name", ["digits", "digits-conv", "topics"])
def test_a_batch_that_all_share_gives_the_same_bits_as_one_of_its_own(name: str) -> None:
    task, adam = find(name), recipes.adam()
    _, shared = after(stack_of(adam, (7, 7), width=2, task=task), 3)
    _, own = after(stack_of(adam, (7, 8), width=2, task=task), 3)
    assert_same_bits(shared[0], own[0])


def test_dropout_differs_between_members_of_one_seed() -> None:
    task = tiny(lambda: nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2)))
    first, second = stack_of(recipes.sgd(), (0, 0), task=task).step()
    assert first != second


@pytest.mark.parametrize("kind", ["single", "stacked"])
def test_dropout_differs_between_steps(kind: str) -> None:
    dropout = tiny(lambda: nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5)), samples=1)
    task = replace(dropout, loss=lambda outputs, _: outputs.square().mean())
    member = Member(recipes.sgd(lr=1e-30), 0)
    population = Single(task, [member]) if kind == "single" else Stacked(task, [member], 1)
    (first,), (second,) = population.step(), population.step()
    assert first != pytest.approx(second, rel=1e-3)


def test_one_by_one_a_members_dropout_does_not_depend_on_the_others() -> None:
    task = tiny(lambda: nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2)))
    one = Member(recipes.sgd(), 5)
    _, (alone,) = after(Single(task, [one]), 5)
    _, (_, among) = after(Single(task, [Member(recipes.sgd(), 6), one]), 5)
    assert_same_bits(alone, among)


def test_buffers_are_each_members_own() -> None:
    task = tiny(
        lambda: nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2))
    )
    _, (first, second) = after(stack_of(recipes.adam(), (0, 1), task=task), 3)
    assert first["1.num_batches_tracked"] == second["1.num_batches_tracked"] == 3
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"])
    model = plain_model(task, 0)
    optimizer = torch.optim.Adam(model.parameters())
    for x, y in itertools.islice(batches_of(task, 0), 3):
        optimizer.zero_grad()
        task.loss(model(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(first, dict(model.state_dict()), rtol=1e-5, atol=1e-6)


class Oddities(nn.Module):
    """A frozen parameter (not finite), one that no loss reaches, and a matrix used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tied = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.tied.weight
        self.mask = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, -torch.inf]), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.again(self.tied(x).tanh()) + self.mask).softmax(-1)[:, :2]


@pytest.mark.parametrize("kind", [Single, Stacked])
def test_frozen_unreached_and_tied_parameters(kind: Any) -> None:
    task = tiny(Oddities)
    members = [Member(recipes.adam(weight_decay=0.5), 0), Member(recipes.adam(), 1)]
    population = Single(task, members) if kind is Single else Stacked(task, members, 2)
    losses, (state, _) = after(population, 3)
    assert population.diverged == [None, None], losses
    assert state["unused"].tolist() == [1, 1, 1]
    assert state["mask"].tolist() == [0, 0, 0, -torch.inf]
    assert torch.equal(state["tied.weight"], state["again.weight"])
    model = plain_model(task, 0)
    start = model.state_dict()["tied.weight"].clone()
    model.load_state_dict(state)
    assert not torch.equal(state["tied.weight"], start)
    _, (alone, _) = after(Single(task, members), 3)
    torch.testing.assert_close(state, alone, rtol=1e-5, atol=1e-6)


# --- divergence ---

HUGE = 1e30


def test_a_diverged_member_keeps_its_last_finite_parameters_and_says_why() -> None:
    for kind in (Single, Stacked):
        members = [Member(recipes.sgd(lr=HUGE), 0), Member(recipes.sgd(), 0)]
        population = Single(TINY, members) if kind is Single else Stacked(TINY, members, 2)
        population.step()
        last = population.state_dict(0)
        assert population.diverged == [None, None]
        population.step()
        assert population.diverged == [Divergence(2, "the loss was inf"), None]
        _, states = after(population, 3)
        assert_same_bits(states[0], last)
        assert not torch.equal(states[1]["0.weight"], last["0.weight"])


class Rooted(nn.Module):
    """The gradient of sqrt at 0 is infinite, times 0 is not a number; the loss is finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * 0).sqrt() + x[:, :2]


@pytest.mark.parametrize("recipe", [recipes.sgd(), recipes.lion(), recipes.adam()], ids=str)
def test_a_gradient_that_is_not_a_number_is_a_divergence_with_every_rule(recipe: Recipe) -> None:
    members = [Member(recipe, 0), Member(recipe, 1)]
    told = Divergence(1, "the gradient was not finite")
    for population in (Single(tiny(Rooted), members), Stacked(tiny(Rooted), members, 2)):
        population.step()
        assert population.diverged == [told, told]
        assert population.state_dict(0)["weight"].tolist() == [0, 0]


def test_a_step_beyond_the_largest_number_is_a_divergence() -> None:
    members = [Member(recipes.sgd(lr=1e300), 0)] * 2
    told = Divergence(1, "the step was not finite")
    for population in (Single(TINY, members), Stacked(TINY, members, 2)):
        population.step()
        assert population.diverged == [told, told]


def test_large_numbers_whose_sum_overflows_are_no_divergence() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((2,), 3e38))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * 1e-38 + x[:, :2]

    stack = stack_of(recipes.sgd(), (0, 1), task=tiny(Large))
    stack.step()
    assert stack.diverged == [None, None]


def with_clip(recipe: Recipe) -> Recipe:
    return chain(clip_norm(0.5), recipe)


@pytest.mark.parametrize("name", ["digits", "digits-conv", "adding", "cliff"])
def test_no_other_members_bits_change_whatever_fills_the_block(name: str) -> None:
    task = find(name)
    watched = Member(with_clip(recipes.adam(lr=3e-3)), 5)
    calm = [Member(with_clip(recipes.adam(lr=1e-3)), seed) for seed in range(3)]
    wild = [Member(recipes.sgd(lr=HUGE), 5), Member(with_clip(recipes.adam(lr=1e38)), 7)]
    fillings: list[tuple[list[Member], int]] = [
        ([watched, *calm], 0),
        ([watched], 0),
        ([*calm, watched], 3),
        ([*wild, watched, calm[0]], 2),
        ([*calm, *wild, watched], 5),
        ([watched] * 4, 2),
    ]
    found = []
    for members, place in fillings:
        stack = Stacked(task, members, width=4)
        _, states = after(stack, 4)
        found.append(states[place])
        expected = [member in wild for member in members]
        assert [divergence is not None for divergence in stack.diverged] == expected
    for state in found[1:]:
        assert_same_bits(state, found[0])


def test_evaluation_leaves_training_as_it_was() -> None:
    task = find("digits-conv")
    recipe = chain(recipes.nesterov(), ema(0.5))
    watched, left = (stack_of(recipe, (0, 1), width=2, task=task) for _ in range(2))
    after(watched, 2), after(left, 2)
    with watched.evaluation():
        list(watched.outputs(task.splits.validation))
    for some, others in zip(after(watched, 2)[1], after(left, 2)[1], strict=True):
        assert_same_bits(some, others)


class FirstNormHeld(nn.Sequential):
    """Training leaves the statistics of the first normalization as they are."""

    def train(self, mode: bool = True) -> FirstNormHeld:
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize("kind", [Single, Stacked])
def test_held_statistics_are_not_estimated_again(kind: Any) -> None:
    norms = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    task = tiny(lambda: FirstNormHeld(nn.Linear(4, 3), *copy.deepcopy(norms), nn.Linear(3, 2)))
    members = [Member(chain(recipes.sgd(), ema(0.9)), seed) for seed in (0, 1)]
    population = kind(task, members) if kind is Single else kind(task, members, width=2)
    population.step()
    with population.evaluation():
        state = population.state_dict(1)
    assert state["1.running_mean"].tolist() == [0, 0, 0]
    assert state["2.running_mean"].abs().min() > 0
    assert state["1.num_batches_tracked"] == 0


# --- models that cannot be stacked ---


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(4, 3, batch_first=True)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.cells(x.unsqueeze(1))
        return self.out(hidden[:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules_run_one_by_one_and_say_so(kind: type[nn.RNNBase]) -> None:
    task = tiny(lambda: Recurrent(kind))
    way, why = way_of(task)
    assert way == "single"
    assert why.startswith("members run one by one: ")
    assert f"nn.{kind.__name__}" in why
    assert "\n" not in why
    population = populate(task, [Member(recipes.adam(lr=0.01), seed) for seed in (0, 1)], width=2)
    losses, _ = after(population, 30)
    assert all(last < first for first, last in zip(losses[0], losses[-1], strict=True))


class Asking(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out * 2 if out.sum() > 0 else out


class Item(Asking):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out / max(1.0, out.norm().item())


class TwoKinds(Asking):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.scale).float()


class Drawing(Asking):
    """Keeps a tensor of its own that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = torch.randn(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer((x @ self.frequencies).sin())
        return out


class Masked(Drawing):
    """Rules out a class, by a logit that is not finite."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(super().forward(x), (0, 1), value=-torch.inf)


class Marking(Asking):
    """Writes into a tensor that is no buffer."""

    def forward(self, x: Tensor) -> Tensor:
        largest = torch.zeros(2)
        largest += self.layer(x).detach().amax(0)
        out: Tensor = self.layer(x) / (1 + largest.abs())
        return out


class Negated(torch.autograd.Function):
    """Without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return -x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return -gradient


class Custom(Asking):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Negated.apply(self.layer(x))
        return out


class Shaping(Asking):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out + out[out > 0].sum()


class Selecting(Asking):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out + out.masked_select(out > 0).sum()


class Normed(Asking):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(self.layer)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


REASONS: dict[type[nn.Module], str] = {
    Asking: "a decision depends on the values of a tensor (test_stack.py, line NN)",
    Item: "a number is taken out of a tensor (test_stack.py, line NN)",
    TwoKinds: "the parameters are torch.float32 on cpu and torch.float64 on cpu",
    Drawing: "the model gives other outputs in a stack; it may keep tensors that are neither"
    " parameters nor buffers",
    Marking: "a member's values are written into a tensor that all members share"
    " (test_stack.py, line NN)",
    Custom: "a custom autograd.Function has no rule for vmap (test_stack.py, line NN)",
    Shaping: "the shape of a tensor depends on the values of another (test_stack.py, line NN)",
    Selecting: "the shape of a tensor depends on the values of another (test_stack.py, line NN)",
    Normed: "a result is written into a tensor that was there before (test_stack.py, line NN)",
}


@pytest.mark.parametrize("model", REASONS)
def test_models_that_vmap_cannot_take_run_one_by_one_and_say_why(model: type[nn.Module]) -> None:
    task = tiny(model)
    way, why = way_of(task)
    assert way == "single"
    assert re.sub(r"line \d+", "line NN", why) == f"members run one by one: {REASONS[model]}."
    population = populate(task, [Member(recipes.adam(), seed) for seed in (0, 1)], width=2)
    assert isinstance(population, Single)
    after(population, 2)
    assert population.diverged == [None, None]


def test_outputs_that_are_not_finite_hide_no_others_that_a_stack_gives_otherwise() -> None:
    task = tiny(Masked, loss=lambda out, y: F.cross_entropy(out, (y[:, 0] > 0).long()))
    assert REASONS[Drawing] in way_of(task)[1]


def test_what_vmap_does_member_by_member_is_no_warning() -> None:
    """In a process of its own, as pytest has filters of its own."""
    script = """
import torch
from thalweg.stack.way import way_of
from thalweg.tasks import Data, Task
split = torch.zeros(8, 4), torch.zeros(8, 4)
data = Data(split, split, split)
loss = torch.nn.functional.mse_loss
print(way_of(Task("cell", lambda: torch.nn.GRUCell(4, 4), lambda: data, loss, steps=1)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("('stacked', '')\n", "")


@pytest.mark.parametrize("task", bundled(), ids=lambda task: task.name)
def test_every_bundled_task_stacks(task: Task) -> None:
    assert way_of(task) == ("stacked", "")


def test_asking_for_the_way_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    way_of(tiny(lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 2))))
    assert torch.equal(torch.get_rng_state(), before)


def test_asking_for_the_way_looks_at_a_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = nn.Linear.forward

    def counted(self: nn.Linear, x: Tensor) -> Tensor:
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    assert way_of(tiny(lambda: nn.Linear(4, 2), samples=1000)) == ("stacked", "")
    assert 0 < sum(seen) < 200


class Blurring(Asking):
    """Draws in evaluation too: by an operation that vmap gives the same numbers, or not."""

    def __init__(self, bernoulli: bool) -> None:
        super().__init__()
        self.bernoulli = bernoulli

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out * (torch.bernoulli(out.sigmoid()) if self.bernoulli else torch.rand_like(out))


@pytest.mark.parametrize("bernoulli", [False, True])
def test_a_model_that_draws_in_evaluation_stacks(bernoulli: bool) -> None:
    task = tiny(lambda: Blurring(bernoulli))
    assert way_of(task) == ("stacked", "")
    members = [Member(recipes.sgd(), seed) for seed in (0, 1)]
    found = [
        list(each.outputs(task.splits.validation))
        for each in (Stacked(task, members, width=2), Single(task, members))
        for _ in range(2)
    ]
    assert str(found[0]) == str(found[1])
    if not bernoulli:
        torch.testing.assert_close(found[0], found[2])


# --- what goes in and comes out ---


class Pieces(Dataset[Any]):
    """Samples of two named inputs and one plain one, with a target in two named parts."""

    def __init__(self) -> None:
        self.x = torch.randn(21, 4, generator=torch.Generator().manual_seed(0))
        self.asked = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        self.asked += 1
        x = self.x[i]
        return {"left": x[:2], "right": x[2:]}, x.norm(), {"sum": x.sum(), "first": x[0]}


class TakesPieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, parts: dict[str, Tensor], norm: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([parts["left"], parts["right"], norm.unsqueeze(1)], dim=1)
        total, first = self.layer(joined).unbind(1)
        return {"sum": total, "first": first}


def two_errors(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return sum((F.mse_loss(outputs[name], targets[name]) for name in outputs), torch.zeros(()))


def test_dictionaries_several_inputs_and_any_map_style_data_set() -> None:
    data = Pieces()
    task = tiny(TakesPieces, data=lambda: Data(data, data, data), loss=two_errors, batch_size=4)
    assert way_of(task) == ("stacked", "")
    members = [Member(recipes.adam(lr=0.1), seed) for seed in (0, 0, 1)]
    stack, single = Stacked(task, members, width=2), Single(task, members)
    data.asked = 0
    losses, states = after(stack, 5)
    alone_losses, alone = after(single, 5)
    assert data.asked == 0, "what is held is not read again"
    torch.testing.assert_close(losses, alone_losses)
    torch.testing.assert_close(states, alone)
    pairs = zip(stack.outputs(data), single.outputs(data), strict=True)
    for (outputs, targets), (alone_outputs, alone_targets) in pairs:
        assert outputs["sum"].shape == (21,)
        torch.testing.assert_close(outputs, alone_outputs)
        torch.testing.assert_close(targets, alone_targets)
        assert torch.equal(targets["first"], data.x[:, 0])


def middle(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric that asks for its values, which vmap cannot give."""
    return torch.tensor(sorted((outputs - targets).flatten().tolist())[len(outputs)])


@pytest.mark.parametrize("metric", [F.l1_loss, middle])
def test_metrics_are_those_of_each_member_alone(metric: Any) -> None:
    task = tiny(
        two_layers, metric=metric, metric_name="own", direction="min", also={"loss": F.mse_loss}
    )
    members = [Member(recipes.adam(), seed) for seed in range(3)]
    data = task.splits.validation
    together = Stacked(task, members, width=2).scores(data)
    for stacked, alone in zip(together, Single(task, members).scores(data), strict=True):
        assert stacked == pytest.approx(alone, rel=1e-5)
        assert list(stacked) == ["own", "loss"]


class Augmented(Dataset[Any]):
    """Samples that draw a new noise whenever they are asked for."""

    asked = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        self.asked += 1
        return i + torch.randn(4), torch.ones(2)


def test_what_samples_draw_belongs_to_the_seed_alone() -> None:
    data = Augmented()
    task = tiny(two_layers, data=lambda: Data(data, data, data))
    found = []
    for kind in (Single, lambda task, members: Stacked(task, members, width=2)):
        for seeds in ((5,), (5, 5), (6, 5), (4, 6, 5)):
            torch.manual_seed(len(seeds))
            losses, _ = after(kind(task, [Member(recipes.sgd(), s) for s in seeds]), 4)
            found += [[step[i] for step in losses] for i, seed in enumerate(seeds) if seed == 5]
    for each in found[1:]:
        assert each == pytest.approx(found[0], rel=1e-5)
    assert len(set(found[0])) == 4


def test_members_of_one_seed_share_what_a_step_fetches() -> None:
    data = Augmented()
    task = tiny(two_layers, data=lambda: Data(data, data, data), batch_size=4)
    stack = stack_of(recipes.sgd(), (0, 0, 1), task=task)
    data.asked = 0
    after(stack, 5)
    assert data.asked == 5 * 2 * task.batch_size


class Counting(nn.Module):
    """Counts its calls, in place and by assignment, and keeps a mean of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("assigned", torch.zeros(()))
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.assigned = self.assigned + 1
        self.in_place += 1
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        out: Tensor = self.layer(x - self.mean)
        return out


@pytest.mark.parametrize("recipe", [recipes.adam(), chain(recipes.adam(), ema(0.5))], ids=str)
def test_buffers_that_a_model_changes_itself_are_those_of_training(recipe: Recipe) -> None:
    task = tiny(Counting)
    assert way_of(task) == ("stacked", "")
    members = [Member(recipe, seed) for seed in (0, 1)]
    states = []
    for population in (Single(task, members), Stacked(task, members, 2)):
        after(population, 2)
        with population.evaluation():
            list(population.outputs(task.splits.validation))
        states += after(population, 2)[1]
    assert all(state["assigned"] == state["in_place"] == 4 for state in states)
    torch.testing.assert_close(states[:2], states[2:])


def test_a_training_set_smaller_than_a_batch_is_one_batch() -> None:
    task = tiny(two_layers, samples=5, batch_size=64)
    losses, _ = after(stack_of(recipes.sgd(lr=1e-30), (0, 0), task=task), 2)
    model = plain_model(task, 0)
    train: Any = task.splits.train
    assert isinstance(train, TensorDataset)
    expected = task.loss(model(train.tensors[0]), train.tensors[1]).item()
    assert losses[0] == pytest.approx([expected] * 2)
    assert losses[1] == pytest.approx([expected] * 2)


def test_nothing_of_a_step_is_kept_in_a_graph() -> None:
    task = find("digits-conv")
    stack = stack_of(recipes.adam(), (0, 1), width=2, task=task)
    after(stack, 2)
    held = [*stack.params.values(), *stack.buffers.values(), *stack.constants.values()]
    held += [
        state
        for group in stack.groups
        for own in group.routed[0].rows.states
        for state in own.values()
    ]
    assert not any(x.requires_grad for x in held)


def test_what_is_not_compiled_does_not_wait_for_the_compiler() -> None:
    script = """
import sys
from thalweg import recipes
from thalweg.stack import member, way
from thalweg.tasks import find

members = [member.Member(recipes.adam(), seed) for seed in (0, 1)]
for each in ("single", "stacked"):
    way.populate(find("saddle"), members, 2, each).step()
print([name for name in ("torch._dynamo", "scipy.stats", "plotly") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# Memory of evaluation


def wide(n: int) -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 16, 16, generator=generator)
    y = x.mean((1, 2, 3)).unsqueeze(1)

    def model() -> nn.Module:
        layers = nn.Conv2d(1, 64, 3), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten(), nn.Linear(64, 1)
        return nn.Sequential(*layers)

    data = Data((x[:8], y[:8]), (x, y), (x, y))
    return Task("wide", model, lambda: data, F.mse_loss, batch_size=32, steps=1)


def test_evaluation_takes_no_more_memory_however_many_members_run_together() -> None:
    task = wide(64)
    one = 4 * (1 + 2 * 64) * 14 * 14  # the outputs of the convolution and of the ReLU, in bytes
    assert activation_bytes(task) == pytest.approx(one, rel=0.6)
    for members in (1, 8, 64):
        at_once = samples_at_once(task, members)
        assert at_once * members * activation_bytes(task) <= MOST_BYTES
    assert samples_at_once(task, 1) == 8 * 32
    assert samples_at_once(find("digits"), 32) == 8 * find("digits").samples_per_step


def test_scores_do_not_depend_on_how_many_samples_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = [Member(recipes.sgd(), seed) for seed in range(3)]
    whole = Stacked(wide(65), members, width=3).scores(wide(65).splits.validation)
    monkeypatch.setattr(memory, "MOST_BYTES", 40 * activation_bytes(wide(65)))
    parts = Stacked(wide(65), members, width=3).scores(wide(65).splits.validation)
    assert samples_at_once(wide(65), 3) == 13
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
