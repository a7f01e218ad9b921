"""A criterion: when it raises an alarm, which remedies it proposes, and its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thalweg.doctor.trials.trial import Remedy
from thalweg.doctor.watch.history import Case
from thalweg.statistics import Interval


@dataclass(frozen=True)
class Fact:
    """A number that was measured, what it is, and the step at which it was measured."""

    what: str
    value: Interval
    step: int


def exactly(value: float) -> Interval:
    """The interval of a number that has no error."""
    return Interval(value, value, value)


def around(value: float, error: float) -> Interval:
    return Interval(value, value - error, value + error)


@dataclass(frozen=True)
class Picture:
    """Lines by name over one axis; log: whether the axis of the values is logarithmic."""

    title: str
    across: str
    up: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: bool = False


@dataclass(frozen=True)
class Suspicion:
    """What a criterion has found, before any remedy was tried.

    name: the name of the finding. sentence: what was measured, in plain words. prescription: what
    may help. standing: how far the criterion can be trusted, and its source. remedies: the parts of
    the prescription that can be tried. since: the marked step before the first sign; trials begin
    there. proven: whether the criterion proves the finding without a trial. explains: the names of
    findings that may be symptoms of this one.
    """

    name: str
    sentence: str
    prescription: str
    standing: str
    facts: tuple[Fact, ...] = ()
    picture: Picture | None = None
    remedies: tuple[Remedy, ...] = ()
    since: int = 0
    proven: bool = False
    explains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Criterion:
    """A function that judges a case, and its place: a cause has a lower place than its effects."""

    judge: Callable[[Case], Suspicion | None]
    place: int

    def __str__(self) -> str:
        """The criterion's name, and the first sentence of the function's docstring."""
        name = self.judge.__name__.replace("_", " ")
        sentence = " ".join(str(self.judge.__doc__).split()).partition(". ")[0]
        return f"{name}: {sentence.rstrip('.')}."


def criterion(place: int) -> Callable[[Callable[[Case], Suspicion | None]], Criterion]:
    """Makes a criterion of a function; the doctor finds all criteria in this folder."""
    return lambda judge: Criterion(judge, place)
