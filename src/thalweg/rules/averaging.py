"""Averages of the iterates. Evaluation uses the average, and training does not change.

An average is the last rule of a chain. Polyak and Juditsky 1992.
"""

# Most averages do not need theta for `evaluated`.
# ruff: noqa: ARG002

from __future__ import annotations

from thalweg.rules.arithmetic import maximum, replaced, where
from thalweg.rules.rule import Hyper, Option, RowState, Rule, State
from thalweg.rules.value import Value


class TailAverage(Rule):
    """The exact mean of the last `last` iterates of a training of `steps` steps.

    The end is known, so one accumulator is enough, with the memory of one copy of the parameters.
    Until the tail begins, evaluation uses the iterate. If `last` is above `steps`, the mean is over
    all iterates.
    """

    place = "last"
    last, steps = Option(), Option()
    average = State()

    def update(self, g: Value) -> Value:
        moved = self.average + (self.param + g - self.average) / maximum(self.count, 1)
        self.average = where(self.count > 0, moved, self.average)
        return g

    def evaluated(self, theta: Value) -> Value:
        return where(self.count > 0, self.average, theta)

    @property
    def count(self) -> Value:
        """The number of iterates in the tail so far; 0 or below before the tail begins."""
        return self.t - maximum(self.steps - self.last, 0)


class WindowAverage(Rule):
    """The exact mean of the last `last` iterates at any moment.

    The end is unknown, so each iterate is kept, with the memory of `last` copies of the parameters;
    `last` is at most 10,000.
    """

    place = "last"
    last = Option(high=10_000)
    iterates = State(copies="last")

    def update(self, g: Value) -> Value:
        self.iterates = replaced(self.iterates, (self.t - 1) % self.last, self.param + g)
        return g

    def evaluated(self, theta: Value) -> Value:
        return (self.iterates / min(self.t, self.last)).sum(0)


class BlockAverage(Rule):
    """The mean of the last iterates at any moment, of between `last` and 2 `last` of them.

    There are two blocks of `last` iterates: a full one and the next one, which is being filled.
    They need the memory of two copies of the parameters, and the length of the window varies. A
    block is kept as the sum of its iterates over `last`, which cannot overflow if they are finite.
    """

    place = "last"
    last = Option()
    whole, growing = State(), State()

    def update(self, g: Value) -> Value:
        full = where(self.t > 1, (self.t - 1) % self.last == 0, False)
        share = (self.param + g) / self.last
        self.whole = where(full, self.growing, self.whole)
        self.growing = where(full, share, self.growing + share)
        return g

    def evaluated(self, theta: Value) -> Value:
        filled = (self.t - 1) % self.last + 1
        scale = self.last / (filled + (self.last if self.t > self.last else 0))
        return scale * self.whole + scale * self.growing


class ExponentialAverage(Rule):
    """a <- decay a + (1 - decay) theta; w <- decay w + 1 - decay; evaluation uses a / w.

    It needs the memory of one copy of the parameters. `weight` is w, one number, which is
    1 - decay^t if `decay` is constant. The division by w makes the result a weighted mean.
    """

    place = "last"
    decay = Hyper(0.999, high=1.0, below=True)
    average = State()
    weight = RowState()

    def update(self, g: Value) -> Value:
        self.average = self.decay * self.average + (1 - self.decay) * (self.param + g)
        self.weight = self.decay * self.weight + (1 - self.decay)
        return g

    def evaluated(self, theta: Value) -> Value:
        return self.average / self.weight
