"""Adadelta: steps that have the units of the parameters."""

from __future__ import annotations

from thalweg.rules.arithmetic import sqrt
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class Adadelta(Rule):
    """The gradient divided by its running size, times the running size of the steps.

        q <- rho q + (1 - rho) g g
        d = sqrt(s + eps) / sqrt(q + eps) g
        s <- rho s + (1 - rho) d d
        theta <- theta - lr d

    `square_avg` is q and `acc_delta` is s. Both have the parameter's shape and begin at 0, so the
    first steps have the size of sqrt(eps), and `eps` is tuned too. Zeiler 2012, where lr is 1.
    """

    lr = Hyper(1.0, log(1e-2, 1e2))
    rho = Hyper(0.9, log_one_minus(0.8, 0.99), high=1.0, below=True)
    eps = Hyper(1e-6, log(1e-8, 1e-3))
    square_avg, acc_delta = State(), State()
    torch = Counterpart("Adadelta")

    def update(self, g: Value) -> Value:
        self.square_avg = self.rho * self.square_avg + (1 - self.rho) * g * g
        delta = sqrt(self.acc_delta + self.eps) / sqrt(self.square_avg + self.eps) * g
        self.acc_delta = self.rho * self.acc_delta + (1 - self.rho) * delta * delta
        return -self.lr * delta


optimizers = [Named("Adadelta", L2Decay(), Adadelta())]
