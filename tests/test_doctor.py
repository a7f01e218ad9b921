"""A doctor in any training loop: it changes nothing, keeps to its budget, and tries its advice."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.judge.finding import Finding
from thalweg.doctor.trials.in_use import recipe_in_use
from thalweg.doctor.watch.budget import Budget
from thalweg.doctor.watch.instruments import INSTRUMENTS, Instrument
from thalweg.doctor.watch.watcher import Watcher
from thalweg.errors import UserError


class Patient:
    """A training loop of a few lines, with all that a doctor might disturb: dropout, statistics."""

    def __init__(self, optimizer: type[torch.optim.Optimizer] = torch.optim.Adam, **settings: Any):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )
        self.optimizer = optimizer(self.model.parameters(), **settings)
        inputs = torch.randn(400, 6)
        self.batches = list(zip(inputs.split(20), inputs[:, :3].argmax(1).split(20), strict=True))

    def train(self, batches: Any) -> None:
        for inputs, targets in batches:
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()

    def state(self) -> list[Tensor]:
        """All bits that a training consists of."""
        gradients = [x.grad for x in self.model.parameters() if x.grad is not None]
        states = [
            x
            for param in self.model.parameters()
            for x in self.optimizer.state[param].values()
            if isinstance(x, Tensor)
        ]
        return [*self.model.state_dict().values(), *gradients, *states, torch.get_rng_state()]


def same(one: Patient, other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state(), other, strict=True))


def watched(patient: Patient, **settings: Any) -> tw.Doctor:
    """Trained under a doctor's eyes, which looks at all it can if not told otherwise."""
    settings = {"budget": None, **settings}
    with tw.Doctor(patient.model, F.cross_entropy, patient.optimizer, **settings) as doctor:
        patient.train(doctor.loading(patient.batches))
    return doctor


def named(name: str, diagnosis: Diagnosis) -> Finding:
    (found,) = [finding for finding in diagnosis.findings if finding.name == name]
    return found


@pytest.fixture(scope="module")
def alone() -> list[Tensor]:
    patient = Patient()
    patient.train(patient.batches)
    return patient.state()


@pytest.mark.parametrize("budget", [None, 0.25])
def test_a_training_comes_to_the_same_bits_with_a_doctor_as_without(
    alone: list[Tensor], budget: float | None
) -> None:
    patient = Patient()
    watched(patient, every=1, budget=budget)
    assert same(patient, alone)
    assert not patient.model._forward_hooks
    assert not patient.model._forward_pre_hooks
    assert not patient.optimizer._optimizer_step_pre_hooks


def test_an_instrument_that_fails_is_told_and_stops_no_training(
    alone: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(objective: Any, _: Any) -> None:
        objective.gradient()
        raise RuntimeError("out of order")

    monkeypatch.setitem(INSTRUMENTS, "signals", Instrument(fails, 1))
    patient = Patient()
    doctor = watched(patient)
    assert same(patient, alone)
    assert doctor.history.refusals["signals"] == "RuntimeError: out of order"
    assert "signals: RuntimeError: out of order" in str(doctor.diagnosis())


def test_trials_on_coming_batches_leave_the_training_as_it_is() -> None:
    patient = Patient(torch.optim.SGD, lr=1e-3)
    doctor = watched(patient, every=1)
    before = patient.state()
    found = doctor.diagnosis(patient.batches * 2)
    assert same(patient, before)
    slow = named("learning rate too low", found)
    assert slow.severity == "ill"
    assert slow.best is not None
    assert slow.best.words in ("lr = 0.01", "lr = 0.03")


def test_a_sorted_loader_is_named_and_a_shuffle_tried() -> None:
    patient = Patient(torch.optim.SGD, lr=0.1, momentum=0.9)
    inputs, classes = (torch.cat(parts) for parts in zip(*patient.batches, strict=True))
    order = classes.argsort(stable=True)
    sorted_batches = zip(inputs[order].split(20), classes[order].split(20), strict=True)
    patient.batches = list(sorted_batches)
    found = watched(patient).diagnosis(patient.batches)
    assert found.of("ill")[0].name == "samples are not shuffled"
    assert found.of("ill")[0].trials[0].words == "shuffled samples"


@pytest.mark.parametrize(
    ("coming", "sentence"),
    [
        (None, "if the next batches are given"),
        ([(torch.zeros(4, 6), torch.zeros(4))], "trials need 5 coming batches or more, not 1."),
        ([({"x": torch.zeros(4)}, torch.zeros(4))] * 5, "they must be tuples of tensors."),
        (
            [(torch.zeros(4, 6 + i), torch.zeros(4)) for i in range(5)],
            "differ in shape beyond the dimension of samples.",
        ),
    ],
)
def test_without_batches_that_can_be_recorded_nothing_is_tried_and_that_is_said(
    coming: Any, sentence: str
) -> None:
    doctor = watched(Patient(torch.optim.SGD, lr=1e-3), every=1)
    slow = named("learning rate too low", doctor.diagnosis(coming))
    assert slow.severity == "suspected"
    assert sentence in slow.untried


def test_a_loop_that_takes_its_batches_elsewhere_is_told_how_to_take_them() -> None:
    patient = Patient()
    with tw.Doctor(patient.model, F.cross_entropy, patient.optimizer, budget=None) as doctor:
        with pytest.raises(UserError, match="no step yet"):
            doctor.diagnosis()
        with pytest.raises(UserError, match=r"for batch in doctor\.loading\(loader\)"):
            patient.train(patient.batches)


def test_memory_stays_flat_over_two_hundred_looks() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(isinstance(x, Tensor) for x in gc.get_objects())

    patient = Patient()
    watcher = Watcher(patient.model, F.cross_entropy, patient.optimizer, every=1, budget=None)
    batches = patient.batches * 11
    patient.train(watcher.loading(batches[:20]))
    watcher.mark = -1  # the other instruments keep eigenvectors, one for each of few looks
    before = tensors()
    patient.train(watcher.loading(batches[20:]))
    norms = 200
    assert tensors() - before <= norms


def test_a_budget_is_kept_by_a_clock_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("thalweg.doctor.watch.budget.perf_counter", lambda: now)
    budget = Budget(0.1)
    looks = 0
    for _ in range(1_000):
        now += 1.0
        if budget.allows("look", expected=5.0):
            with budget.spending("look"):
                now += 7.0
            looks += 1
        assert budget.spent <= 0.1 * budget.trained + 2.0  # the first look took more than expected
    assert looks == 14
    assert budget.used == pytest.approx(0.098)
    assert Budget().allows("look", expected=1e9)


def test_a_part_of_a_budget_leaves_the_rest_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("thalweg.doctor.watch.budget.perf_counter", lambda: now)
    budget = Budget(0.3)
    for _ in range(1_000):
        now += 1.0
        if budget.allows("norm", expected=0.0, part=1 / 3):
            with budget.spending("norm"):
                now += 1.0
        if budget.allows("look", expected=1.0):
            with budget.spending("look"):
                now += 1.0
    assert budget.by_name["norm"].count == pytest.approx(100, abs=1)
    assert budget.by_name["look"].count == pytest.approx(200, abs=1)


def test_norms_that_a_budget_leaves_out_change_no_step_and_are_told_at_theirs() -> None:
    whole, sparse = watched(Patient()), watched(Patient(), budget=1e-9)
    assert list(whole.history.norms) == list(range(20))
    assert len(sparse.history.norms) < 20
    for step, norm in sparse.history.norms.items():
        assert torch.equal(norm, whole.history.norms[step])
    assert sparse.case(None, 20, "").last_step == 19


@pytest.mark.parametrize("share", [0, 1, -0.1, 3])
def test_a_budget_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match="share of the training's time"):
        Budget(share)


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    ("NAdam", {}),
]


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("source", [torch.optim, tw.optim])
def test_the_recipe_in_use_steps_as_the_optimizer_does(
    source: Any, kind: str, settings: dict[str, Any]
) -> None:
    theirs, ours = (torch.ones(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    given = getattr(source, kind)([theirs], **settings)
    optimizer = tw.optim.Optimizer([ours], recipe_in_use(given, nn.Module()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        theirs.grad = torch.randn(5, generator=generator, dtype=torch.float64)
        ours.grad = theirs.grad.clone()
        given.step()
        optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_recipe_in_use_that_is_unknown_is_told() -> None:
    model = Patient().model
    with pytest.raises(UserError, match="the rules of Rprop are not known"):
        recipe_in_use(torch.optim.Rprop(model.parameters()), model)
