"""Somebody else's optimizer in the training loop, against the same optimizer alone, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from thalweg.optim.foreign import Foreign
from thalweg.optim.stepper import Stepper
from thalweg.random_numbers import drawing
from thalweg.stack.batches import Batches
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.single import Single
from thalweg.tasks import Data, Task, find
from thalweg.training.learn import learn
from thalweg.training.resume import apart, together

STEPS, SEED = 12, 3


class MeanOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(50, 3, sparse=True)

    def forward(self, words: Tensor) -> Tensor:
        mean: Tensor = self.words(words)
        return mean


def texts() -> Data:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(50, (90, 7), generator=generator)
    classes = words.sum(1) % 3
    return Data(*zip(words.split(30), classes.split(30), strict=True))


WORDS = Task("words", MeanOfWords, texts, F.cross_entropy, batch_size=10, steps=STEPS)
DIABETES = find("diabetes")

Make = Callable[[nn.Module], torch.optim.Optimizer]

CASES: dict[str, tuple[Task, Make]] = {
    "RAdam": (DIABETES, lambda model: torch.optim.RAdam(model.named_parameters(), lr=1e-2)),
    "LBFGS": (DIABETES, lambda model: torch.optim.LBFGS(model.parameters(), max_iter=4)),
    "LBFGS with a line search": (
        DIABETES,
        lambda model: torch.optim.LBFGS(
            model.parameters(), max_iter=5, history_size=3, line_search_fn="strong_wolfe"
        ),
    ),
    "SparseAdam": (WORDS, lambda model: torch.optim.SparseAdam(model.parameters(), lr=1e-2)),
}


def alone(task: Task, make: Make) -> tuple[nn.Module, int]:
    """The model after a plain loop of PyTorch's, and how often it computed gradients."""
    evaluations = 0
    with drawing(0):
        model = initial_model(task, SEED).train()
        optimizer = make(model)
        for ((*inputs, targets),) in islice(Batches(task, [SEED]), STEPS):

            def closure(inputs: list[Tensor] = inputs, targets: Tensor = targets) -> Tensor:
                nonlocal evaluations
                evaluations += 1
                optimizer.zero_grad()
                loss = task.loss(model(*inputs), targets)
                loss.backward()
                return loss

            optimizer.step(closure)
    return model, evaluations


def in_the_loop(task: Task, make: Make) -> Single:
    population = Single(task, [Member(tw.sgd(), SEED)])
    population.optimizers = [Foreign(make(population.models[0]))]
    return population


def cost_of(population: Single) -> tuple[float, float]:
    return population.optimizers[0].cost


@pytest.mark.parametrize("name", CASES)
def test_its_steps_in_the_training_loop_are_its_own(name: str) -> None:
    task, make = CASES[name]
    model, evaluations = alone(task, make)
    population = in_the_loop(task, make)
    for _ in range(STEPS):
        population.step()
    for found, right in zip(population.models[0].parameters(), model.parameters(), strict=True):
        assert torch.equal(found, right)
    assert cost_of(population)[1] == evaluations / STEPS
    assert (evaluations > 2 * STEPS) == name.startswith("LBFGS")


@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(name: str) -> None:
    task, make = CASES[name]
    whole, again = in_the_loop(task, make), in_the_loop(task, make)
    for _ in range(5):
        whole.step()
    again.restore(together(*apart(whole.saved())))  # as it lies on disk
    for _ in range(5):
        assert whole.step() == again.step()
    for found, right in zip(*(one.models[0].parameters() for one in (again, whole)), strict=True):
        assert torch.equal(found, right)
    assert cost_of(again) == cost_of(whole)


def test_it_learns_in_the_loop_with_evaluations_and_metrics() -> None:
    task, make = CASES["LBFGS"]
    population = in_the_loop(task, make)
    start = population.scores(task.splits.validation)[0][task.metric_name]
    (curve,) = learn(task, population)
    assert curve[-1].metric < start


def test_it_keeps_two_numbers_for_each_of_adams_kind() -> None:
    task, make = CASES["RAdam"]
    theirs = in_the_loop(task, make)
    theirs.step()
    ours: Stepper = tw.optim.RAdam(theirs.models[0].parameters())
    assert theirs.optimizers[0].cost == ours.cost == (2, 1)


@pytest.mark.parametrize("name", ["RAdam", "SparseAdam"])
def test_a_step_that_leaves_the_finite_numbers_is_taken_back(name: str) -> None:
    task, make = CASES[name]
    population = in_the_loop(task, make)
    population.step()
    kept = population.state_dict(0)
    for group in population.optimizers[0].param_groups:
        group["lr"] = float("inf")
    population.step()
    assert population.diverged[0]
    assert all(torch.equal(x, kept[key]) for key, x in population.state_dict(0).items())
