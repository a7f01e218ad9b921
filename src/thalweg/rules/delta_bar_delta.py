"""Delta-bar-delta: each parameter adapts its own rate by the signs of its gradients."""

from __future__ import annotations

from thalweg.rules.arithmetic import sign, where
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Hyper, Rule, State
from thalweg.rules.space import linear, log
from thalweg.rules.value import Value


class DeltaBarDelta(Rule):
    """A rate grows while the gradient has the sign of its average, and shrinks when it has not.

        gain <- gain + increase          where g * grad_avg > 0
        gain <- gain * (1 - decrease)    where g * grad_avg < 0
        grad_avg <- smoothing grad_avg + (1 - smoothing) g
        theta <- theta - lr gain g

    The rate of a parameter is lr * gain, and gain is 1 at the start. `increase` is Jacobs' kappa in
    units of `lr`, so that a schedule of `lr` acts on every rate. `decrease` is his phi and
    `smoothing` his theta. With `smoothing` 0 the gradient is compared with the last one only.
    `gain` and `grad_avg` have the parameter's shape. Jacobs 1988.
    """

    lr = Hyper(1e-2, log(1e-3, 10.0))
    increase = Hyper(0.05, log(0.01, 0.5))
    decrease = Hyper(0.1, linear(0.05, 0.5), high=1.0)
    smoothing = Hyper(0.7, high=1.0, below=True)
    gain, grad_avg = State(init=1.0), State()

    def update(self, g: Value) -> Value:
        agreement = sign(g) * sign(self.grad_avg)
        shrunk = where(agreement < 0, self.gain * (1 - self.decrease), self.gain)
        self.gain = where(agreement > 0, self.gain + self.increase, shrunk)
        self.grad_avg = self.smoothing * self.grad_avg + (1 - self.smoothing) * g
        return -self.lr * self.gain * g


optimizers = [Named("DeltaBarDelta", L2Decay(), DeltaBarDelta())]
