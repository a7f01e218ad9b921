"""AdaGrad: the rate of each parameter falls as its squared gradients add up."""

from __future__ import annotations

from thalweg.rules.arithmetic import sqrt
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log
from thalweg.rules.value import Value


class Adagrad(Rule):
    """r <- r + g g; theta <- theta - lr g / (eps + sqrt(r))

    `sum` is r. It has the parameter's shape and begins at `initial_accumulator_value`. It never
    falls, so no rate ever rises; the rate of a parameter with small gradients falls less. `eps` is
    the lecture's delta: 1e-6 there, 1e-10 in PyTorch and here. `lr_decay` divides the rate by
    1 + (t - 1) lr_decay, as in PyTorch; it is not part of the published formula.
    Duchi, Hazan and Singer 2011.
    """

    lr = Hyper(1e-2, log(1e-3, 1.0))
    lr_decay = Hyper(0.0)
    initial_accumulator_value = Hyper(0.0)
    eps = Hyper(1e-10)
    sum = State(init="initial_accumulator_value")
    torch = Counterpart("Adagrad")

    def update(self, g: Value) -> Value:
        self.sum = self.sum + g * g
        return -self.rate() * g / self.divisor()

    def rate(self) -> Value:
        return self.lr / (1 + (self.t - 1) * self.lr_decay)

    def divisor(self) -> Value:
        return sqrt(self.sum) + self.eps

    def edge(self) -> Value:
        return 2.0


optimizers = [Named("Adagrad", L2Decay(), Adagrad())]
