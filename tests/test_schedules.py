"""Schedules against PyTorch's schedulers, literal formulas, and the sums of Robbins and Monro."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from thalweg import schedules
from thalweg.errors import UserError
from thalweg.schedules import Memory, Schedule

thorough = settings(max_examples=200)

LEVELS = st.floats(1e-6, 10.0)
STEPS = st.integers(1, 60)
DECAYS = st.floats(0.05, 1.0)
FIXED = st.one_of(
    st.builds(schedules.constant, LEVELS),
    st.builds(schedules.linear, LEVELS, st.none() | LEVELS, steps=STEPS),
    st.builds(schedules.warming, LEVELS, LEVELS, steps=STEPS),
    st.builds(schedules.exponential, LEVELS, DECAYS),
    st.builds(schedules.inverse_time, LEVELS, st.floats(0.1, 100.0)),
    st.builds(schedules.cosine, LEVELS, LEVELS, steps=STEPS),
    st.builds(schedules.step, LEVELS, DECAYS, STEPS),
    st.builds(
        schedules.one_cycle, LEVELS, STEPS, st.floats(0.0, 0.9), st.floats(1.0, 50.0), LEVELS
    ),
)
PLATEAUS = st.builds(
    schedules.plateau,
    st.floats(0.1, 10.0),
    gamma=DECAYS,
    patience=st.integers(0, 3),
    metric=st.sampled_from(["validation", "training"]),
    direction=st.sampled_from(["min", "max"]),
    threshold=st.floats(0.0, 0.2),
    minimum=st.floats(0.0, 0.1),
)
SCHEDULES = st.recursive(
    FIXED | PLATEAUS, lambda inner: st.builds(schedules.warmup, inner, STEPS), max_leaves=3
)


def values(schedule: Schedule, steps: int) -> list[float]:
    return [schedule(i) for i in range(steps)]


def remembered(schedule: Schedule, metrics: list[float]) -> Memory:
    memory = schedule.memory()
    for metric in metrics:
        memory = schedule.observe(memory, training=metric, validation=metric)
    return memory


def optimizer_of_torch(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def values_of_torch(lr: float, scheduler: Callable[..., Any], steps: int, **settings: Any) -> Any:
    """The learning rates that a scheduler of PyTorch gives to the first steps."""
    optimizer = optimizer_of_torch(lr)
    cooling = scheduler(optimizer, **settings)
    lrs = []
    for i in range(steps):
        lrs.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if i < steps - 1:
            cooling.step()
    return pytest.approx(lrs, rel=1e-12, abs=1e-15)


# Against PyTorch


@pytest.mark.parametrize("end_factor", [0.1, 0.0, 1.0])
def test_linear_is_linear_lr(end_factor: float) -> None:
    settings = {"start_factor": 1.0, "end_factor": end_factor, "total_iters": 40}
    expected = values_of_torch(0.3, lr_scheduler.LinearLR, 60, **settings)
    assert values(schedules.linear(0.3, 0.3 * end_factor, steps=40), 60) == expected


def test_exponential_is_exponential_lr() -> None:
    expected = values_of_torch(0.3, lr_scheduler.ExponentialLR, 100, gamma=0.93)
    assert values(schedules.exponential(0.3, 0.93), 100) == expected


def test_step_is_step_lr() -> None:
    expected = values_of_torch(0.3, lr_scheduler.StepLR, 50, step_size=7, gamma=0.4)
    assert values(schedules.step(0.3, 0.4, 7), 50) == expected


def test_cosine_is_cosine_annealing_lr_up_to_its_end() -> None:
    expected = values_of_torch(0.3, lr_scheduler.CosineAnnealingLR, 38, T_max=37, eta_min=0.01)
    assert values(schedules.cosine(0.3, 0.01, steps=37), 38) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pct_start": 0.45},
        {"pct_start": 0.0},
        {"div_factor": 3.0, "final_div_factor": 70.0},
    ],
)
@pytest.mark.parametrize("steps", [2, 11, 100])
def test_one_cycle_is_one_cycle_lr(steps: int, settings: dict[str, float]) -> None:
    expected = values_of_torch(
        0.3,
        lr_scheduler.OneCycleLR,
        steps,
        max_lr=0.3,
        total_steps=steps,
        cycle_momentum=False,
        **settings,
    )
    assert values(schedules.one_cycle(0.3, steps, **settings), steps) == expected


# Mostly metrics around 1, so that thresholds matter and plateaus are long.
METRICS = st.lists(
    st.floats(0.9, 1.2) | st.floats(-5.0, 5.0) | st.sampled_from([math.nan, math.inf, -math.inf]),
    max_size=40,
)


@thorough
@given(PLATEAUS.filter(lambda plateau: plateau.gamma < 1), METRICS)
def test_plateau_is_reduce_lr_on_plateau(plateau: schedules.Plateau, metrics: list[float]) -> None:
    optimizer = optimizer_of_torch(plateau.start)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=plateau.direction,
        factor=plateau.gamma,
        patience=plateau.patience,
        threshold=plateau.threshold,
        min_lr=plateau.minimum,
        eps=0.0,
    )
    memory = plateau.memory()
    for i, metric in enumerate(metrics):
        reference.step(metric)
        memory = plateau.observe(memory, **{plateau.metric: metric})
        value = plateau.base * plateau.factor(i, memory)
        assert value == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(("direction", "metric"), [("min", 0.91), ("max", 1.09)])
def test_a_metric_within_the_threshold_is_no_improvement(direction: Any, metric: float) -> None:
    plateau = schedules.plateau(1.0, patience=0, direction=direction, threshold=0.1)
    assert plateau.factor(0, remembered(plateau, [1.0, metric])) == 0.1


def test_a_plateau_does_not_fall_below_its_minimum() -> None:
    plateau = schedules.plateau(0.5, patience=0, minimum=0.02)
    factors = [plateau.factor(0, remembered(plateau, [1.0] * n)) for n in range(1, 5)]
    assert factors == pytest.approx([1.0, 0.1, 0.04, 0.04])


# Against literal formulas


def test_linear_ends_at_a_hundredth_of_its_start() -> None:
    cooling = schedules.linear(3e-3, steps=100)
    for i in range(150):
        b = min(i / 100, 1)
        assert cooling(i) == pytest.approx((1 - b) * 3e-3 + b * 3e-5, rel=1e-14)


def test_linear_takes_its_end_by_position() -> None:
    assert schedules.linear(3e-3, 3e-5, steps=2_000)(1_000) == pytest.approx(1.515e-3, rel=1e-14)


def test_warming_rises_from_a_half_to_ninety_nine_hundredths() -> None:
    warming = schedules.warming(steps=49)
    assert values(warming, 60) == pytest.approx([min(0.5 + 0.01 * i, 0.99) for i in range(60)])


def test_inverse_time_follows_its_formula() -> None:
    cooling = schedules.inverse_time(0.3, 20.0)
    assert values(cooling, 100) == pytest.approx([0.3 / (1 + i / 20) for i in range(100)])


@pytest.mark.parametrize(
    ("schedule", "last", "end"),
    [
        (schedules.linear(0.3, 0.1, steps=10), 10, 0.1),
        (schedules.cosine(0.3, 0.1, steps=10), 10, 0.1),
        (schedules.one_cycle(0.3, 10), 9, 0.3 / 25 / 1e4),
    ],
)
def test_a_schedule_stays_where_it_ended(schedule: Schedule, last: int, end: float) -> None:
    assert schedule(last - 1) > 1.01 * end
    assert [schedule(i) for i in range(last, last + 30)] == pytest.approx([end] * 30)


def test_one_cycle_may_have_a_single_step_and_may_reach_its_peak_at_once() -> None:
    assert schedules.one_cycle(0.3, 10, pct_start=0.1)(0) == 0.3
    assert 0 < schedules.one_cycle(0.3, 1)(0) <= 0.3
    late = schedules.one_cycle(0.3, 2**32 - 1, pct_start=1 - 2**-53)
    assert late(2**32 - 2) == late(2**33) == pytest.approx(late(0) / 1e4)


@thorough
@given(FIXED, STEPS)
def test_warmup_rises_linearly_and_hands_over_at_step_0(then: Schedule, steps: int) -> None:
    warmup = schedules.warmup(then, steps)
    rise = [then(0) * (i + 1) / steps for i in range(steps)]
    assert values(warmup, steps + 30) == pytest.approx(rise + values(then, 30), rel=1e-12)


@thorough
@given(SCHEDULES, st.integers(0, 200))
def test_the_value_is_the_base_times_the_factor(schedule: Schedule, i: int) -> None:
    assert schedule(i) == schedule.base * schedule.factor(i)


def test_the_base_is_the_plain_number_written_first() -> None:
    assert schedules.constant(0.3).base == 0.3
    assert schedules.linear(0.3, 0.9, steps=5).base == 0.3
    assert schedules.one_cycle(0.3, 5).base == 0.3
    assert schedules.warmup(schedules.plateau(0.3), 5).base == 0.3


# Memory


def test_only_the_metric_that_is_watched_counts() -> None:
    plateau = schedules.plateau(1.0, patience=0, metric="training")
    memory = plateau.observe(plateau.memory(), training=1.0)
    assert plateau.observe(memory, validation=2.0) == memory
    assert plateau.factor(0, plateau.observe(memory, training=2.0, validation=0.0)) == 0.1


def test_observing_leaves_the_given_memory_as_it_was() -> None:
    plateau = schedules.plateau(1.0, patience=0)
    memory = plateau.memory()
    assert plateau.observe(memory, validation=1.0) != memory
    assert memory == plateau.memory()


def test_a_plateau_starts_anew_after_it_was_saved_and_loaded(tmp_path: Any) -> None:
    plateau = schedules.plateau(1.0, patience=2)
    memory = remembered(plateau, [1.0, 2.0, 2.0])
    torch.save(memory, tmp_path / "memory.pt")
    loaded = torch.load(tmp_path / "memory.pt", weights_only=True)
    assert plateau.factor(9, memory) == 1.0
    assert plateau.factor(9, plateau.observe(loaded, validation=2.0)) == pytest.approx(0.1)


def test_a_warmup_passes_the_memory_through() -> None:
    warmup = schedules.warmup(schedules.plateau(1.0, patience=0), 4)
    memory = remembered(warmup, [1.0, 2.0])
    assert memory == remembered(schedules.plateau(1.0, patience=0), [1.0, 2.0])
    assert warmup.factor(1, memory) == pytest.approx(0.05)
    assert warmup.factor(10, memory) == pytest.approx(0.1)


@thorough
@given(FIXED)
def test_other_schedules_remember_nothing(schedule: Schedule) -> None:
    assert remembered(schedule, [1.0, math.nan]) == {}


# Robbins and Monro


def block_sums(schedule: Schedule, power: int) -> list[float]:
    """The sums of alpha_i^power over i in [2^k, 2^(k + 1)), for the last two of 15 blocks."""
    return [math.fsum(schedule(i) ** power for i in range(2**k, 2 ** (k + 1))) for k in (13, 14)]


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.constant(0.3),
        schedules.constant(0.0),
        schedules.linear(0.3, steps=100),
        schedules.linear(0.3, 0.0, steps=100),
        schedules.linear(0.0, steps=100),
        schedules.warming(steps=100),
        schedules.exponential(0.3, 0.999),
        schedules.exponential(0.3, 1.0),
        schedules.inverse_time(0.3, 20.0),
        schedules.inverse_time(0.0, 20.0),
        schedules.step(0.3, 0.5, 300),
        schedules.step(0.3, 1.0, 300),
        schedules.warmup(schedules.inverse_time(0.3, 20.0), 100),
        schedules.warmup(schedules.exponential(0.3, 0.999), 100),
    ],
    ids=str,
)
def test_the_conditions_of_robbins_and_monro_show_in_block_sums(schedule: Schedule) -> None:
    """A sum is infinite if its doubling blocks do not shrink, and finite if they shrink by a rate.

    Shrinking by any rate below 1 bounds the rest by a geometric series. The blocks of
    1 / (1 + i / tau) tend to tau log 2, and those of its square halve.
    """
    before, after = block_sums(schedule, 1)
    square_before, square_after = block_sums(schedule, 2)
    sum_is_infinite = after > 0 and after > 0.99 * before
    squares_are_finite = square_after <= 0.51 * square_before
    assert schedule.robbins_monro == (sum_is_infinite, squares_are_finite)


def test_one_over_t_alone_satisfies_both_conditions() -> None:
    assert schedules.inverse_time(0.3, 20.0).robbins_monro == (True, True)
    assert schedules.linear(0.3, steps=100).robbins_monro == (True, False)
    assert schedules.exponential(0.3, 0.9).robbins_monro == (False, True)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.cosine(0.3, steps=5),
        schedules.one_cycle(0.3, 5),
        schedules.plateau(0.3),
        schedules.warmup(schedules.cosine(0.3, steps=5), 2),
    ],
)
def test_a_schedule_that_ends_has_no_answer(schedule: Schedule) -> None:
    assert schedule.robbins_monro == (None, None)


# Plain data


@thorough
@given(SCHEDULES)
def test_every_schedule_survives_toml(schedule: Schedule) -> None:
    written = tomli_w.dumps(schedule.to_dict())
    assert schedules.from_dict(tomllib.loads(written)) == schedule


def test_a_dict_names_the_kind_and_nests() -> None:
    cooling = schedules.warmup(schedules.linear(0.3, steps=50), 5)
    assert cooling.to_dict() == {
        "schedule": "warmup",
        "then": {"schedule": "linear", "start": 0.3, "steps": 50},
        "steps": 5,
    }


def test_every_kind_is_the_name_that_users_write() -> None:
    assert {kind: getattr(schedules, kind) for kind in schedules.SCHEDULES} == schedules.SCHEDULES
    assert len(schedules.SCHEDULES) == 10


def test_a_schedule_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        schedules.constant(0.3).value = 0.1  # type: ignore[misc]


@thorough
@given(SCHEDULES, LEVELS, st.integers(0, 150), st.lists(st.floats(0.0, 2.0), max_size=8))
def test_scaling_keeps_the_shape(
    schedule: Schedule, base: float, i: int, metrics: list[float]
) -> None:
    scaled = schedule.scaled(base)
    assert type(scaled) is type(schedule)
    assert scaled.base == base
    memory = remembered(schedule, metrics)
    assert scaled.factor(i, memory) == pytest.approx(schedule.factor(i, memory), rel=1e-9)


def test_scaling_takes_the_end_along() -> None:
    scaled = schedules.linear(0.3, 0.03, steps=10).scaled(2.0)
    assert scaled(10) == pytest.approx(0.2)
    assert schedules.plateau(0.5, minimum=0.25).scaled(4.0).minimum == 2.0


def test_a_base_of_0_stays_0() -> None:
    for schedule in (schedules.linear(0.0, steps=5), schedules.cosine(0.0, steps=5)):
        assert values(schedule, 10) == [0.0] * 10
        assert values(schedules.warmup(schedule, 3), 10) == [0.0] * 10


# Bad input


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda: schedules.constant(-0.1),
            "constant: value must be a finite number, 0 or above, not -0.1.",
        ),
        (
            lambda: schedules.linear(math.nan, steps=5),
            "linear: start must be a finite number, 0 or above, not nan.",
        ),
        (
            lambda: schedules.linear(0.1, math.inf, steps=5),
            "linear: end must be a finite number, 0 or above, not inf.",
        ),
        (
            lambda: schedules.linear(0.1, steps=0),
            "linear: steps must be a whole number from 1 to 10^12, not 0.",
        ),
        (
            lambda: schedules.linear(0.1, steps=2e3),
            "linear: steps must be a whole number from 1 to 10^12, not 2000.0.",
        ),
        (
            lambda: schedules.linear(0.0, 0.1, steps=5),
            "linear: start must be above 0 when end is, "
            "because the schedule is start times a factor.",
        ),
        (
            lambda: schedules.warming(None, steps=5),
            "warming: start must be a finite number, 0 or above, not None.",
        ),
        (
            lambda: schedules.exponential(True, 0.9),
            "exponential: start must be a finite number, 0 or above, not True.",
        ),
        (
            lambda: schedules.exponential(0.1, 1.1),
            "exponential: gamma must be a number above 0 and at most 1, not 1.1.",
        ),
        (
            lambda: schedules.step(0.1, 0.0, 5),
            "step: gamma must be a number above 0 and at most 1, not 0.0.",
        ),
        (
            lambda: schedules.step(0.1, 0.5, True),
            "step: every must be a whole number from 1 to 10^12, not True.",
        ),
        (
            lambda: schedules.inverse_time(0.1, 0),
            "inverse_time: tau must be a finite number above 0, not 0.",
        ),
        (
            lambda: schedules.cosine(0.1, None, steps=5),
            "cosine: end must be a finite number, 0 or above, not None.",
        ),
        (
            lambda: schedules.one_cycle(0.1, 5, pct_start=1.0),
            "one_cycle: pct_start must be a number at least 0 and below 1, not 1.0.",
        ),
        (
            lambda: schedules.one_cycle("0.1", 5),
            "one_cycle: peak must be a finite number, 0 or above, not '0.1'.",
        ),
        (
            lambda: schedules.warmup(0.1, 5),
            "warmup: then must be a schedule, not 0.1.",
        ),
        (
            lambda: schedules.plateau(0.1, metric="loss"),
            "plateau: metric must be 'validation' or 'training', not 'loss'.",
        ),
        (
            lambda: schedules.plateau(0.1, direction="down"),
            "plateau: direction must be 'min' or 'max', not 'down'.",
        ),
        (
            lambda: schedules.plateau(0.1, patience=-1),
            "plateau: patience must be a whole number from 0 to 10^12, not -1.",
        ),
        (
            lambda: schedules.plateau(0.1, minimum=0.2),
            "plateau: minimum must be at most start, 0.1, not 0.2.",
        ),
        (
            lambda: schedules.linear(0.1, steps=5).scaled(-1.0),
            "linear: start must be a finite number, 0 or above, not -1.0.",
        ),
        (
            lambda: schedules.from_dict(0.1),
            'A schedule is a table such as {schedule = "linear", start = 0.003, steps = 2000}, '
            "not 0.1.",
        ),
        (
            lambda: schedules.from_dict({"start": 0.1}),
            'A schedule is a table such as {schedule = "linear", start = 0.003, steps = 2000}, '
            "not {'start': 0.1}.",
        ),
        (
            lambda: schedules.from_dict({"schedule": "liner", "start": 0.1}),
            "no schedule is called liner; did you mean linear?",
        ),
        (
            lambda: schedules.from_dict({"schedule": ["x"]}),
            "no schedule is called ['x']; known are constant, linear, "
            "warming, exponential, inverse_time, cosine, step, one_cycle, warmup, plateau.",
        ),
        (
            lambda: schedules.from_dict({"schedule": "linear", "strat": 0.1, "steps": 5}),
            "linear: unknown field strat; did you mean start?",
        ),
        (
            lambda: schedules.from_dict({"schedule": "step", "start": 0.1}),
            "step: gamma and every must be given.",
        ),
        (
            lambda: schedules.from_dict(
                {
                    "schedule": "warmup",
                    "steps": 5,
                    "then": {"schedule": "constant", "value": "fast"},
                }
            ),
            "constant: value must be a finite number, 0 or above, not 'fast'.",
        ),
    ],
)
def test_bad_input_gets_one_sentence(build: Callable[[], Schedule], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == sentence
