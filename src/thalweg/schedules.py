"""Cooling and warming: a number as a function of the step.

    lr = schedules.linear(3e-3, 3e-5, steps=2_000)
    lr(0), lr(1_000), lr(5_000)            # 0.003, 0.001515, 3e-05

Steps are counted from 0. A schedule is plain, frozen data. Its value is its `base`, the plain
number in a parameter group, times a factor that depends on the step. This file has, in this order:
what all schedules have in common; the schedules, from the simplest to the one that watches a
metric; the names that users write; and schedules from data.

Whether learning rates alpha_i let stochastic gradient descent converge is the subject of Robbins
and Monro (1951): the sum of alpha_i must be infinite (every point can be reached) and the sum of
alpha_i^2 finite (the noise vanishes). Each schedule says which of the two conditions it satisfies.
They are sufficient, but not necessary, and good schedules violate them.
"""

# All schedules take a memory and metrics, but only a plateau uses them.
# ruff: noqa: ARG002

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from math import cos, inf, isfinite, pi
from typing import Any, ClassVar, Literal, Self

from thalweg.arguments import FAR, number, plain, require_known, require_whole, short, word
from thalweg.errors import NoCounterpartError, UserError, suggest

Memory = dict[str, float]
"""What a plateau remembers between evaluations: plain numbers by name. Others remember nothing."""

RobbinsMonro = tuple[bool | None, bool | None]
"""Whether (the sum of alpha_i is infinite, the sum of alpha_i^2 is finite); None for a schedule
that ends."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(number(value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= FAR


def _is_one_of(value: object, *words: str) -> bool:
    return isinstance(value, str) and value in words


def _wanted(words: str, holds: Callable[[Any], bool]) -> dict[str, Any]:
    """The metadata of a field: the allowed values, in words and as a test."""
    return {"words": words, "holds": holds}


# A level is a value of the schedule itself, in the units of the hyperparameter.
LEVEL = _wanted("a finite number, 0 or above", lambda x: _is_number(x) and x >= 0)
POSITIVE = _wanted("a finite number above 0", lambda x: _is_number(x) and x > 0)
DECAY = _wanted("a number above 0 and at most 1", lambda x: _is_number(x) and 0 < x <= 1)
SHARE = _wanted("a number at least 0 and below 1", lambda x: _is_number(x) and 0 <= x < 1)
STEPS = _wanted("a whole number from 1 to 10^12", lambda x: _is_whole(x) and x >= 1)
COUNT = _wanted("a whole number from 0 to 10^12", lambda x: _is_whole(x) and x >= 0)
METRIC = _wanted("'validation' or 'training'", lambda x: _is_one_of(x, "validation", "training"))
DIRECTION = _wanted("'min' or 'max'", lambda x: _is_one_of(x, "min", "max"))
SCHEDULE = _wanted("a schedule", lambda x: isinstance(x, Schedule))


@dataclass(frozen=True)
class Schedule(ABC):
    """A number as a function of the step: value(i) = base * factor(i), in float64.

    The first field of a schedule is its base. A base of 0 gives 0 at every step.

    Raises:
        UserError: a field has a value outside its domain.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for part in fields(self):
            value = plain(getattr(self, part.name))
            object.__setattr__(self, part.name, value)
            left_out = value is None and part.default is None
            if not left_out and not part.metadata["holds"](value):
                wanted = part.metadata["words"]
                raise UserError(f"{self.kind}: {part.name} must be {wanted}, not {short(value)}.")
        if self.base == 0 and any(self._levels().values()):
            first, *others = self._levels()
            raise UserError(
                f"{self.kind}: {first} must be above 0 when {others[0]} is, "
                f"because the schedule is {first} times a factor."
            )

    @property
    def base(self) -> float:
        """The plain number in a parameter group, which does not depend on the step."""
        base: float = getattr(self, fields(self)[0].name)
        return base

    @property
    @abstractmethod
    def robbins_monro(self) -> RobbinsMonro:
        """Whether (the sum of alpha_i is infinite, the sum of alpha_i^2 is finite)."""

    @abstractmethod
    def factor(self, step: int, memory: Memory | None = None) -> float:
        """value(step) / base, for a step counted from 0. memory: None if no metric was observed."""

    def __call__(self, step: int) -> float:
        """The value at a step from 0 to 10^12, if no metric was observed."""
        step = require_whole("step", step, 0, FAR)
        return self.base * self.factor(step)

    def scheduler(self) -> str:
        """The call of the class of `torch.optim.lr_scheduler` with the same lr at every step.

        Raises NoCounterpartError if no single class has the same lr.
        """
        raise NoCounterpartError(f"lr_scheduler has no single scheduler for {self.kind}.")

    def memory(self) -> Memory:
        """The memory before the first evaluation."""
        return {}

    def observe(
        self, memory: Memory, *, training: float | None = None, validation: float | None = None
    ) -> Memory:
        """The memory after an evaluation with these metrics. The given memory does not change."""
        return memory

    def scaled(self, base: float) -> Self:
        """The same schedule with another base. All levels keep their ratio to the base."""
        first, *others = self._levels()
        levels = {name: number(base) * self._ratio(getattr(self, name)) for name in others}
        return replace(self, **{first: base}, **levels)

    def to_dict(self) -> dict[str, Any]:
        """The schedule as plain data for TOML: its kind as "schedule", then its fields by name."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return {"schedule": self.kind} | {
            name: value.to_dict() if isinstance(value, Schedule) else value
            for name, value in parts.items()
            if value is not None
        }

    def _levels(self) -> dict[str, float]:
        """The fields that are values of the schedule, beginning with the base."""
        values = {p.name: getattr(self, p.name) for p in fields(self) if p.metadata == LEVEL}
        return {name: value for name, value in values.items() if value is not None}

    def _ratio(self, level: float) -> float:
        return level / self.base if self.base > 0 else 0.0


@dataclass(frozen=True)
class Constant(Schedule):
    """value(i) = value. Sum infinite, sum of squares infinite."""

    kind = "constant"
    value: float = field(metadata=LEVEL)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        return 1.0

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return _with_tail(self.value)


@dataclass(frozen=True)
class Linear(Schedule):
    """value(i) = (1 - b) start + b end, b = i / steps for i < steps; later it is end.

    If `end` is not given, it is start / 100. The sum is infinite, and because of the constant tail
    the sum of squares is infinite too. Source: Goodfellow, Bengio and Courville (2016), equation
    8.14.
    """

    kind = "linear"
    start: float = field(metadata=LEVEL)
    end: float | None = field(default=None, metadata=LEVEL)
    steps: int = field(kw_only=True, metadata=STEPS)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        b = min(step / self.steps, 1.0)
        return (1 - b) + b * self._end_ratio

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return _with_tail(self.base * self._end_ratio)

    def scheduler(self) -> str:
        if self._end_ratio > 1:
            raise NoCounterpartError("LinearLR cannot end above the lr that it starts from.")
        end = f"end_factor={self._end_ratio!r}"
        return f"LinearLR(optimizer, start_factor=1.0, {end}, total_iters={self.steps})"

    @property
    def _end_ratio(self) -> float:
        return 0.01 if self.end is None else self._ratio(self.end)


@dataclass(frozen=True)
class Warming(Linear):
    """Linear with defaults for momentum: low at first, while gradients change fast, and high later.

    Source: Sutskever et al. (2013) on raising the momentum in training.
    """

    kind = "warming"
    start: float = field(default=0.5, metadata=LEVEL)
    end: float | None = field(default=0.99, metadata=LEVEL)


@dataclass(frozen=True)
class Exponential(Schedule):
    """value(i) = start gamma^i, gamma in (0, 1].

    For gamma below 1 the sum is start / (1 - gamma), which is finite, and so is the sum of squares.
    The parameters cannot move farther than the sum allows.
    """

    kind = "exponential"
    start: float = field(metadata=LEVEL)
    gamma: float = field(metadata=DECAY)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        return self.gamma**step

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return _with_tail(self.start if self.gamma == 1 else 0.0)

    def scheduler(self) -> str:
        return f"ExponentialLR(optimizer, gamma={self.gamma!r})"


@dataclass(frozen=True)
class InverseTime(Schedule):
    """value(i) = start / (1 + i / tau), tau > 0 in steps.

    It satisfies both conditions: the integral of the value, start tau log(1 + i / tau), grows
    without bound, and the integral of its square is start^2 tau. Source: Robbins and Monro (1951).
    """

    kind = "inverse_time"
    start: float = field(metadata=LEVEL)
    tau: float = field(metadata=POSITIVE)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        return 1 / (1 + step / self.tau)

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return self.start > 0, True

    def scheduler(self) -> str:
        return f"LambdaLR(optimizer, lambda step: 1 / (1 + step / {self.tau!r}))"


@dataclass(frozen=True)
class Cosine(Schedule):
    """value(i) = end + (start - end) (1 + cos(pi i / steps)) / 2; from i = steps on it is end.

    It ends with its budget, so the conditions do not apply. PyTorch's CosineAnnealingLR rises again
    after its last step; this schedule does not. Source: Loshchilov and Hutter (2017), one period.
    """

    kind = "cosine"
    start: float = field(metadata=LEVEL)
    end: float = field(default=0.0, metadata=LEVEL)
    steps: int = field(kw_only=True, metadata=STEPS)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        return _cosine(1.0, self._ratio(self.end), min(step / self.steps, 1.0))

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return None, None

    def scheduler(self) -> str:
        return f"CosineAnnealingLR(optimizer, T_max={self.steps}, eta_min={self.end!r})"


@dataclass(frozen=True)
class Step(Schedule):
    """value(i) = start gamma^floor(i / every), gamma in (0, 1].

    For gamma below 1 both sums are finite, as for the exponential schedule.
    """

    kind = "step"
    start: float = field(metadata=LEVEL)
    gamma: float = field(metadata=DECAY)
    every: int = field(metadata=STEPS)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        return self.gamma ** (step // self.every)

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return _with_tail(self.start if self.gamma == 1 else 0.0)

    def scheduler(self) -> str:
        return f"StepLR(optimizer, step_size={self.every}, gamma={self.gamma!r})"


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from peak / div_factor to peak, then down to peak / (div_factor final_div_factor).

    Rise and fall are half cosines. The peak is at step pct_start steps - 1, and the lowest value is
    at step steps - 1, where it stays. This is PyTorch's OneCycleLR with two phases. It ends with
    its budget, so the conditions do not apply. Source: Smith and Topin (2019).
    """

    kind = "one_cycle"
    peak: float = field(metadata=LEVEL)
    steps: int = field(metadata=STEPS)
    pct_start: float = field(default=0.3, metadata=SHARE)
    div_factor: float = field(default=25.0, metadata=POSITIVE)
    final_div_factor: float = field(default=1e4, metadata=POSITIVE)

    def factor(self, step: int, memory: Memory | None = None) -> float:
        first = 1 / self.div_factor
        last = first / self.final_div_factor
        top, end = self.pct_start * self.steps - 1, self.steps - 1
        if step < top:
            return _cosine(first, 1.0, step / top)
        return _cosine(1.0, last, (step - top) / (end - top) if step < end else 1.0)

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return None, None

    def scheduler(self) -> str:
        ends = f"div_factor={self.div_factor!r}, final_div_factor={self.final_div_factor!r}"
        return (
            f"OneCycleLR(optimizer, max_lr={self.peak!r}, total_steps={self.steps},"
            f" pct_start={self.pct_start!r}, {ends}, cycle_momentum=False)"
        )


@dataclass(frozen=True)
class Warmup(Schedule):
    """value(i) = then(0) (i + 1) / steps for i < steps; later it is then(i - steps).

    Its base, its memory and its Robbins-Monro conditions are those of `then`.
    """

    kind = "warmup"
    then: Schedule = field(metadata=SCHEDULE)
    steps: int = field(metadata=STEPS)

    @property
    def base(self) -> float:
        return self.then.base

    def factor(self, step: int, memory: Memory | None = None) -> float:
        if step < self.steps:
            return self.then.factor(0, memory) * (step + 1) / self.steps
        return self.then.factor(step - self.steps, memory)

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return self.then.robbins_monro

    def memory(self) -> Memory:
        return self.then.memory()

    def observe(
        self, memory: Memory, *, training: float | None = None, validation: float | None = None
    ) -> Memory:
        return self.then.observe(memory, training=training, validation=validation)

    def scaled(self, base: float) -> Self:
        return replace(self, then=self.then.scaled(base))


@dataclass(frozen=True)
class Plateau(Schedule):
    """value = max(start gamma^n, minimum) after n reductions, which follow a metric.

    An evaluation improves if its metric is below best (1 - threshold) for direction "min", or above
    best (1 + threshold) for "max"; this is meant for metrics above 0. A metric that is not a number
    never improves. After more than `patience` evaluations in a row without improvement, the value
    is reduced, and the count starts anew. This is PyTorch's ReduceLROnPlateau with eps = 0; its
    `factor` is called gamma here, as in the other schedules. The number of reductions depends on
    the run, so the conditions do not apply.
    """

    kind = "plateau"
    start: float = field(metadata=LEVEL)
    gamma: float = field(default=0.1, metadata=DECAY)
    patience: int = field(default=10, metadata=COUNT)
    metric: Literal["validation", "training"] = field(default="validation", metadata=METRIC)
    direction: Literal["min", "max"] = field(default="min", metadata=DIRECTION)
    threshold: float = field(default=1e-4, metadata=SHARE)
    minimum: float = field(default=0.0, metadata=LEVEL)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum > self.start:
            raise UserError(
                f"plateau: minimum must be at most start, {self.start!r}, not {self.minimum!r}."
            )

    def factor(self, step: int, memory: Memory | None = None) -> float:
        reductions = memory["reductions"] if memory else 0
        return max(self.gamma**reductions, self._ratio(self.minimum))

    @property
    def robbins_monro(self) -> RobbinsMonro:
        return None, None

    def scheduler(self) -> str:
        return (
            f"ReduceLROnPlateau(optimizer, mode={self.direction!r}, factor={self.gamma!r},"
            f" patience={self.patience}, threshold={self.threshold!r},"
            f" min_lr={self.minimum!r}, eps=0.0)"
        )

    def memory(self) -> Memory:
        return {"best": inf if self.direction == "min" else -inf, "waited": 0, "reductions": 0}

    def observe(
        self, memory: Memory, *, training: float | None = None, validation: float | None = None
    ) -> Memory:
        metric = training if self.metric == "training" else validation
        if metric is None:
            return memory
        if self._improves(metric, memory["best"]):
            return memory | {"best": float(metric), "waited": 0}
        if memory["waited"] < self.patience:
            return memory | {"waited": memory["waited"] + 1}
        return memory | {"waited": 0, "reductions": memory["reductions"] + 1}

    def _improves(self, metric: float, best: float) -> bool:
        if self.direction == "min":
            return metric < best * (1 - self.threshold)
        return metric > best * (1 + self.threshold)


def _with_tail(level: float) -> RobbinsMonro:
    """With a constant tail above 0 both sums are infinite; with a tail of 0 both are finite."""
    return level > 0, level == 0


def _cosine(start: float, end: float, share: float) -> float:
    """The half cosine from start (share = 0) to end (share = 1)."""
    return end + (start - end) * (1 + cos(pi * share)) / 2


# What users write: schedules.linear(3e-3, steps=2_000).
constant = Constant
linear = Linear
warming = Warming
exponential = Exponential
inverse_time = InverseTime
cosine = Cosine
step = Step
one_cycle = OneCycle
warmup = Warmup
plateau = Plateau

SCHEDULES: dict[str, type[Schedule]] = {
    schedule.kind: schedule
    for schedule in (
        Constant,
        Linear,
        Warming,
        Exponential,
        InverseTime,
        Cosine,
        Step,
        OneCycle,
        Warmup,
        Plateau,
    )
}


def times(value: Any, factor: float) -> Any:
    """A number or a schedule with all its levels multiplied by a factor."""
    return value.scaled(value.base * factor) if isinstance(value, Schedule) else value * factor


def from_dict(data: Mapping[str, Any]) -> Schedule:
    """The schedule of a table that `to_dict` has written, or a person in a TOML file.

    Raises:
        UserError: an unknown kind or field, a missing field, or a value outside its domain.
    """
    if not isinstance(data, Mapping) or "schedule" not in data:
        raise UserError(
            'A schedule is a table such as {schedule = "linear", start = 0.003, steps = 2000}, '
            f"not {short(data)}."
        )
    kind = data["schedule"]
    require_known("schedule", kind, SCHEDULES)
    parts = {name: value for name, value in data.items() if name != "schedule"}
    _check_names(SCHEDULES[kind], parts)
    return SCHEDULES[kind](
        **{
            name: from_dict(value) if isinstance(value, Mapping) else value
            for name, value in parts.items()
        }
    )


def _check_names(schedule: type[Schedule], parts: Mapping[str, Any]) -> None:
    known = [part.name for part in fields(schedule)]
    for name in parts:
        if name not in known:
            hint = suggest(word(name), known)
            raise UserError(f"{schedule.kind}: unknown field {name}; {hint}")
    missing = [p.name for p in fields(schedule) if p.default is MISSING and p.name not in parts]
    if missing:
        raise UserError(f"{schedule.kind}: {' and '.join(missing)} must be given.")


__all__ = [  # noqa: RUF022, sorted as the file is
    "Memory",
    "RobbinsMonro",
    "Schedule",
    "Constant",
    "Linear",
    "Warming",
    "Exponential",
    "InverseTime",
    "Cosine",
    "Step",
    "OneCycle",
    "Warmup",
    "Plateau",
    "constant",
    "linear",
    "warming",
    "exponential",
    "inverse_time",
    "cosine",
    "step",
    "one_cycle",
    "warmup",
    "plateau",
    "SCHEDULES",
    "from_dict",
]
