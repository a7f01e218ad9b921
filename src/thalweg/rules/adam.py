"""Adam, AdamW and AMSGrad."""

from __future__ import annotations

from thalweg.rules.arithmetic import maximum, sqrt
from thalweg.rules.decay import DecoupledDecay, L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class Adam(Rule):
    """Momentum divided by RMSProp's divisor, both corrected for their start at zero.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        theta <- theta - lr / (1 - beta1^t) v / (eps + sqrt(r) / sqrt(1 - beta2^t))

    The root is taken before the correction, because r / (1 - beta2^t) may overflow where its root
    does not. `betas` are the lecture's rho1 and rho2. `eps` is its delta: 1e-6 there, 1e-8 in
    PyTorch and here. `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape.
    Kingma and Ba 2015.
    """

    lr = Hyper(1e-3, log(1e-5, 1.0))
    betas = Hyper(
        (0.9, 0.999), (log_one_minus(0.5, 0.99), log_one_minus(0.8, 0.9999)), high=1.0, below=True
    )
    eps = Hyper(1e-8)
    exp_avg, exp_avg_sq = State(), State()
    torch = Counterpart("Adam")

    def update(self, g: Value) -> Value:
        beta1, beta2 = self.betas
        self.exp_avg = beta1 * self.exp_avg + (1 - beta1) * g
        self.exp_avg_sq = beta2 * self.exp_avg_sq + (1 - beta2) * g * g
        return -self.rate() * self.exp_avg / self.divisor()

    def rate(self) -> Value:
        beta1, _ = self.betas
        return self.lr / (1 - beta1**self.t)

    def divisor(self) -> Value:
        _, beta2 = self.betas
        return sqrt(self.second_moment()) / sqrt(1 - beta2**self.t) + self.eps

    def edge(self) -> Value:
        beta1, _ = self.betas
        return (2 + 2 * beta1) / (1 - beta1)

    def second_moment(self) -> Value:
        return self.exp_avg_sq


class AMSGrad(Adam):
    """Adam with the largest r so far in place of r.

    The maximum is taken before the correction, as in PyTorch; the paper has no correction.
    `max_exp_avg_sq` is this maximum and has the parameter's shape. Reddi, Kale and Kumar 2018.
    """

    max_exp_avg_sq = State()
    torch = Counterpart("Adam", "amsgrad")

    def second_moment(self) -> Value:
        self.max_exp_avg_sq = maximum(self.max_exp_avg_sq, self.exp_avg_sq)
        return self.max_exp_avg_sq


optimizers = [
    Named("Adam", L2Decay(), Adam()),
    Named("AdamW", Adam(), DecoupledDecay()),
    Named("AMSGrad", L2Decay(), AMSGrad()),
]
