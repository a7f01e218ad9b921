"""The doctor names what is wrong, proves it by trial, and goes on from the state that it saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg import Data, Recipe, Task, schedules
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.trials import trial
from thalweg.doctor.trials.remedies import rates
from thalweg.doctor.trials.trial import Remedy, Trials, on_one_scale
from thalweg.errors import UserError
from thalweg.stack.batches import Batches
from thalweg.stack.member import Member
from thalweg.stack.population import Population
from thalweg.stack.single import Single
from thalweg.stack.stacked import Stacked
from thalweg.tasks import find
from thalweg.tasks.adding import RecurrentNetwork, adding_problem
from thalweg.tasks.landscapes import Landscape, saddle
from thalweg.training.learn import scores

DIGITS = replace(find("digits"), epochs=2)
RIDGE = replace(find("saddle"), model=partial(Landscape, saddle, (1.0, 0.0), 1e-4), steps=60)
"""Plain descent along it leads to the saddle."""


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.name for finding in diagnosis.of("ill")]


def test_a_rate_too_low_is_named_by_the_trial_of_a_higher_one() -> None:
    found = tw.diagnose("cliff", tw.adam(lr=1e-3))
    assert causes(found) == ["learning rate too low"]
    trial = found.findings[0].best
    assert trial is not None
    assert all(new < old for new, old in zip(trial.with_it, trial.without, strict=True))
    assert len(trial.without) == 8


def test_a_divergence_is_explained_by_the_rate_where_a_lower_one_helps() -> None:
    found = tw.diagnose("ravine", tw.sgd(lr=0.1))
    assert causes(found) == ["learning rate too high"]
    assert "divergence" in [symptom.name for symptom in found.findings[0].symptoms]


def test_a_divergence_is_told_without_trials_too() -> None:
    found = tw.diagnose("ravine", tw.sgd(lr=0.1), try_remedies=False)
    assert causes(found) == ["divergence"]


def test_plain_descent_in_a_bent_valley_is_told_to_take_momentum() -> None:
    found = tw.diagnose("rosenbrock", tw.sgd(lr=1e-3))
    assert "narrow valley" in causes(found)


def test_a_saddle_is_told_from_a_rate_too_low() -> None:
    found = tw.diagnose(RIDGE, tw.sgd(lr=0.1))
    assert causes(found) == ["saddle"]
    assert "learning rate too low" in [symptom.name for symptom in found.findings[0].symptoms]


def test_a_layer_that_is_dead_from_the_start_is_proven_without_a_trial() -> None:
    def model() -> nn.Module:
        made = DIGITS.model()
        nn.init.constant_(made[2].bias, -10.0)
        return made

    found = tw.diagnose(replace(DIGITS, model=model), "adam", try_remedies=False)
    assert causes(found) == ["dead units"]


def test_signals_that_vanish_in_ten_layers_of_sigmoids_are_proven_without_a_trial() -> None:
    def model() -> nn.Module:
        hidden = [layer for _ in range(10) for layer in (nn.Linear(32, 32), nn.Sigmoid())]
        return nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), *hidden, nn.Linear(32, 10))

    found = tw.diagnose(replace(DIGITS, model=model), "adam", try_remedies=False)
    assert causes(found) == ["vanishing signals"]


@pytest.mark.parametrize(("radius", "named"), [(3.0, True), (0.9, False)])
def test_a_recurrence_explodes_where_its_spectral_radius_says_so(
    radius: float, named: bool
) -> None:
    def model() -> nn.Module:
        made = RecurrentNetwork()
        nn.init.normal_(made.recurrent.weight, std=radius / 32**0.5)  # Girko's circular law
        return made

    task = replace(adding_problem(30), model=model, steps=2)
    found = tw.diagnose(task, tw.sgd(lr=1e-6), try_remedies=False)
    assert ("exploding signals" in [finding.name for finding in found.findings]) == named


@pytest.mark.parametrize("held", [True, False])
def test_batch_norm_that_is_held_to_wrong_statistics_is_suspected(held: bool) -> None:
    class Model(nn.Sequential):
        def train(self, mode: bool = True) -> Model:
            super().train(mode)
            self[1].train(mode and not held)
            return self

    def model() -> nn.Module:
        made = Model(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        made[1].running_mean += 5.0 * held
        return made

    task = replace(DIGITS, model=model)
    found = tw.diagnose(task, tw.adam(lr=1e-2), try_remedies=False)
    name = "batch normalization by wrong statistics"
    assert (name in [finding.name for finding in found.of("suspected")]) == held


def test_unscaled_inputs_are_proven_by_scaled_ones() -> None:
    diabetes = find("diabetes")
    units = 10 ** torch.linspace(-2, 2, 10)
    splits = (diabetes.splits.train, diabetes.splits.validation, diabetes.splits.test)
    data = Data(*((split.tensors[0] * units, split.tensors[1]) for split in splits))
    found = tw.diagnose(replace(diabetes, data=lambda: data), tw.adam(lr=1e-2))
    assert "unscaled inputs" in causes(found)


def test_without_trials_signs_are_suspected_and_never_ill() -> None:
    found = tw.diagnose("cliff", tw.adam(lr=1e-3), try_remedies=False)
    assert [finding.name for finding in found.of("suspected")] == ["learning rate too low"]
    assert not found.of("ill")


def noisy_line() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + torch.randn(64, 1, generator=generator, dtype=torch.float64)
    return Data((x[:48], y[:48]), (x[48:], y[48:]), (x[48:], y[48:]))


LINE = Task(
    "line",
    lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(),
    noisy_line,
    nn.functional.mse_loss,
    batch_size=8,
    steps=40,
)


def plus(task: Task, constant: float) -> Task:
    """The task with a constant in its loss."""
    return replace(task, loss=lambda *pair: task.loss(*pair) + constant)


def advice(diagnosis: Diagnosis) -> list[object]:
    """What a diagnosis names and prescribes, with what it tried."""
    return [
        (
            finding.name,
            finding.severity,
            finding.suspicion.prescription,
            [remedy.words for remedy in finding.suspicion.remedies],
            [symptom.name for symptom in finding.symptoms],
            [(trial.words, trial.helps) for trial in finding.trials],
        )
        for finding in diagnosis.findings
    ]


@pytest.mark.parametrize(
    "recipe",
    [tw.adam(lr=1e-2), tw.momentum(lr=1.0), tw.adam(lr=0.3)],
    ids=lambda recipe: f"{recipe.name} {recipe.settings['lr']}",
)
def test_a_constant_added_to_the_loss_changes_no_finding(recipe: Recipe) -> None:
    plain = tw.diagnose(LINE, recipe, try_remedies=False)
    first = plain.case.history.steps[0].loss
    for constant in (-5.0, 1e3, -first):
        moved = tw.diagnose(plus(LINE, constant), recipe, try_remedies=False)
        assert advice(moved) == advice(plain), constant


def test_a_constant_added_to_the_loss_changes_no_trial() -> None:
    plain, moved = (tw.diagnose(task, tw.sgd(lr=1e-3)) for task in (LINE, plus(LINE, -5.0)))
    assert causes(plain) == ["learning rate too low"]
    assert advice(moved) == advice(plain)


@pytest.mark.parametrize(
    ("task", "lr", "finding"),
    [(find("diabetes"), 1e-4, "learning rate too low"), (RIDGE, 0.1, "saddle")],
    ids=lambda given: str(getattr(given, "name", given)),
)
def test_a_constant_that_takes_the_digits_of_the_loss_hides_no_finding(
    task: Task, lr: float, finding: str
) -> None:
    # In single precision, 1,000 leaves steps of 0.0001.
    plain, moved = (
        tw.diagnose(one, tw.sgd(lr=lr), try_remedies=False) for one in (task, plus(task, 1e3))
    )
    assert finding in [one.name for one in plain.findings]
    assert advice(moved) == advice(plain)


@pytest.mark.parametrize("constant", [0.0, 1e3, -2.3])
def test_statistics_that_lag_behind_are_suspected_whatever_is_added_to_the_loss(
    constant: float,
) -> None:
    def model() -> nn.Module:
        slow = nn.BatchNorm1d(16, momentum=1e-4)
        return nn.Sequential(nn.Linear(64, 16), slow, nn.ReLU(), nn.Linear(16, 10))

    task = replace(DIGITS, model=model)
    found = tw.diagnose(plus(task, constant), tw.adam(lr=1e-2), try_remedies=False)
    assert "batch normalization by wrong statistics" in [one.name for one in found.findings]


def test_both_sides_of_a_trial_see_the_same_batches() -> None:
    alone = Single(LINE, [Member(tw.adam(lr=1e-2), 0)])
    for _ in range(10):
        alone.step()
    (trial,) = Trials(LINE, tw.adam(lr=1e-2), 1.0).of([Remedy("nothing")], alone.checkpoint(0))
    assert trial.without == trial.with_it
    assert len(set(trial.without)) == len(trial.without)
    assert not trial.helps
    assert trial.steps == 30


def test_what_helps_little_is_small_beside_what_helps() -> None:
    slow, state = tw.adam(lr=1e-5), Single(LINE, [Member(tw.adam(lr=1e-5), 0)]).checkpoint(0)
    little = Remedy("twice the rate", lambda recipe: recipe.replace(lr=2e-5))
    much = Remedy("a good rate", lambda recipe: recipe.replace(lr=1e-1))
    trials = Trials(LINE, slow, start())
    alone = [trials.of([remedy], state) for remedy in (little, much)]
    assert [trial.helps for (trial,) in alone] == [True, True]
    assert [trial.helps for (trial,) in on_one_scale(alone)] == [False, True]


def start() -> float:
    """The score of the weights that seed 0 draws."""
    return scores(Single(LINE, [Member(tw.sgd(), 0)]), LINE.splits.validation)[0]["loss"]


RECIPES = {
    "adam": tw.adam(lr=1e-2),
    "nadam": tw.nadam(lr=1e-2),
    "momentum": tw.momentum(lr=schedules.linear(1e-1, 1e-3, steps=40)),
    "plateau": tw.adam(lr=schedules.plateau(1e-2, patience=1)),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("way", [Single, partial(Stacked, width=1)], ids=["single", "stacked"])
def test_a_branch_goes_on_as_the_training_itself_does(
    name: str, way: Callable[..., Population]
) -> None:
    recipe: Recipe = RECIPES[name]
    whole = Single(LINE, [Member(recipe, 0)])
    for step in range(20):
        whole.step()
        if step % 5 == 4:
            whole.observe([1.0], [1.0])
    seen = whole.checkpoint(0)
    branch = way(LINE, [Member(recipe, 0)])
    branch.begin(seen)
    branch.batches = Batches(LINE, [0], skipped=20)
    for _ in range(20):
        whole.step()
        branch.step()
    ends = branch.state_dict(0)
    for key, x in whole.state_dict(0).items():
        assert not torch.equal(x, seen.weights[key])
        torch.testing.assert_close(ends[key], x, rtol=1e-9, atol=1e-12)


def test_a_trial_goes_on_for_as_many_steps_as_asked() -> None:
    found = tw.diagnose("saddle", tw.sgd(lr=1e-3), trial_steps=7)
    tried = [trial for finding in found.findings for trial in finding.trials]
    assert tried
    assert all(trial.steps <= 7 for trial in tried)
    assert any(trial.since + trial.steps == 7 for trial in tried)


def test_a_recipe_with_a_pretraining_is_refused() -> None:
    recipe = replace(tw.adam(), pretrain="by task")
    with pytest.raises(UserError, match="without its pre-training"):
        tw.diagnose("waveform", recipe)


def test_going_on_as_it_was_is_trained_once_for_all_remedies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = []

    def counted(stack: Sequence[trial.Branch], seeds: Sequence[int]) -> list[float]:
        trained.extend(stack)
        return ending(stack, seeds)

    ending = trial.ending
    monkeypatch.setattr(trial, "ending", counted)
    state = Single(LINE, [Member(tw.sgd(lr=1e-3), 0)]).checkpoint(0)
    trials = Trials(LINE, tw.sgd(lr=1e-3), start())
    for factor in (2.0, 3.0):
        trials.of(rates(tw.sgd(lr=1e-3), [factor]), state)
    control = trials.going_on(state)
    assert trained.count(control) == 2  # first few seeds, then the others
    assert len(trained) == 6
    assert len(trials.ends[control]) == 8
