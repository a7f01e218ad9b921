"""RAdam: Adam that divides by its second moment only when it has seen enough gradients."""

from __future__ import annotations

from thalweg.rules.adam import Adam
from thalweg.rules.arithmetic import maximum, sqrt, where
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart
from thalweg.rules.value import Value


class RAdam(Adam):
    """Adam with a warm-up whose length depends on beta2.

        n_inf = 2 / (1 - beta2) - 1;  n = n_inf - 2 t beta2^t / (1 - beta2^t)
        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        where n > 5:
            s = sqrt((n - 4) (n - 2) n_inf / ((n_inf - 4) (n_inf - 2) n))
            theta <- theta - lr s / (1 - beta1^t) v sqrt(1 - beta2^t) / (eps + sqrt(r))
        else:
            theta <- theta - lr / (1 - beta1^t) v

    n is the effective number of gradients in the mean r. With the default beta2 the first five
    steps do not divide by r. As in PyTorch, n is compared with 5 (the paper: 4), and `eps` is added
    before the correction. `exp_avg` is v and `exp_avg_sq` is r; both have the parameter's shape.
    Liu et al. 2020.
    """

    torch = Counterpart("RAdam")

    def rate(self) -> Value:
        # Below 5 the factor is not used, and could be the root of a negative number.
        most, n = maximum(self.most_seen(), 5.0), maximum(self.seen(), 5.0)
        slowed = sqrt((n - 4) * (n - 2) * most / ((most - 4) * (most - 2) * n))
        return super().rate() * where(self.seen() > 5, slowed, 1.0)

    def divisor(self) -> Value:
        _, beta2 = self.betas
        root = (sqrt(self.exp_avg_sq) + self.eps) / sqrt(1 - beta2**self.t)
        return where(self.seen() > 5, root, 1.0)

    def most_seen(self) -> Value:
        _, beta2 = self.betas
        return 2 / (1 - beta2) - 1

    def seen(self) -> Value:
        _, beta2 = self.betas
        return self.most_seen() - 2 * self.t * beta2**self.t / (1 - beta2**self.t)


optimizers = [Named("RAdam", L2Decay(), RAdam())]
