"""Lion: steps by the sign of a momentum."""

from __future__ import annotations

from thalweg.rules.arithmetic import sign
from thalweg.rules.decay import DecoupledDecay
from thalweg.rules.record import Named
from thalweg.rules.rule import Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class Lion(Rule):
    """theta <- theta - lr sign(beta1 m + (1 - beta1) g); m <- beta2 m + (1 - beta2) g

    `exp_avg` is m and has the parameter's shape. Every element moves by `lr` at every step, so a
    good `lr` is 3 to 10 times smaller than for Adam. Chen et al. 2023.
    """

    lr = Hyper(1e-4, log(1e-6, 1e-1))
    betas = Hyper(
        (0.9, 0.99), (log_one_minus(0.5, 0.99), log_one_minus(0.8, 0.999)), high=1.0, below=True
    )
    exp_avg = State()

    def update(self, g: Value) -> Value:
        beta1, beta2 = self.betas
        direction = sign(beta1 * self.exp_avg + (1 - beta1) * g)
        self.exp_avg = beta2 * self.exp_avg + (1 - beta2) * g
        return -self.lr * direction


optimizers = [Named("Lion", Lion(), DecoupledDecay(weight_decay=0.0))]
