"""NAdam: Adam with Nesterov's look-ahead."""

from __future__ import annotations

from thalweg.rules.adam import Adam
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, RowState
from thalweg.rules.space import log
from thalweg.rules.value import Value


class NAdam(Adam):
    """Adam whose momentum is warmed up and includes the momentum of the next step.

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2);  P <- P mu(t)
        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr [(1 - mu(t)) / (1 - P) g + mu(t+1) / (1 - P mu(t+1)) v]
                            / (eps + sqrt(r) / sqrt(1 - beta2^t))

    `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape. `mu_product` is P, one
    number. Dozat 2016.
    """

    lr = Hyper(2e-3, log(1e-5, 1.0))
    momentum_decay = Hyper(4e-3)
    mu_product = RowState(init=1.0)
    torch = Counterpart("NAdam")

    def update(self, g: Value) -> Value:
        beta1, beta2 = self.betas
        mu, next_mu = self.warmed(beta1, self.t), self.warmed(beta1, self.t + 1)
        self.mu_product = self.mu_product * mu
        self.exp_avg = beta1 * self.exp_avg + (1 - beta1) * g
        self.exp_avg_sq = beta2 * self.exp_avg_sq + (1 - beta2) * g * g
        ahead = (1 - mu) / (1 - self.mu_product) * g
        ahead = ahead + next_mu / (1 - self.mu_product * next_mu) * self.exp_avg
        return -self.rate() * ahead / self.divisor()

    def rate(self) -> Value:
        return self.lr

    def warmed(self, beta1: Value, t: int) -> Value:
        return beta1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))


optimizers = [Named("NAdam", L2Decay(), NAdam())]
