"""RMSProp: AdaGrad that forgets."""

from __future__ import annotations

from thalweg.rules.arithmetic import maximum, sqrt
from thalweg.rules.row import Value
from thalweg.rules.rule import Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus


class RMSprop(Rule):
    """r <- alpha r + (1 - alpha) g g; theta <- theta - lr g / (eps + sqrt(r))

    `alpha` is the lecture's rho, `eps` its delta, outside the root as in PyTorch. `square_avg` is
    r, of the parameter's shape, 0 at the start and not corrected for it.
    Hinton, Coursera lecture 6e, 2012.
    """

    lr = Hyper(1e-2, log(1e-5, 1.0))
    alpha = Hyper(0.99, log_one_minus(0.8, 0.999), high=1.0, below=True)
    eps = Hyper(1e-8)
    square_avg = State()

    def spread(self, g: Value) -> Value:
        """The running size of the gradient, which it is divided by."""
        self.square_avg = self.alpha * self.square_avg + (1 - self.alpha) * g * g
        return sqrt(self.square_avg)

    def update(self, g: Value) -> Value:
        return -self.lr * g / (self.spread(g) + self.eps)


class CenteredRMSprop(RMSprop):
    """RMSProp with the variance in place of the mean square: r - m m, m the mean gradient.

    m <- alpha m + (1 - alpha) g is `grad_avg`, of the parameter's shape. The variance is computed
    as (sqrt(r) - m)(sqrt(r) + m), as r and m m may both overflow. Where round-off takes it below 0
    it counts as 0; PyTorch's root is not a number there. Graves 2013.
    """

    grad_avg = State()

    def spread(self, g: Value) -> Value:
        size = super().spread(g)
        self.grad_avg = self.alpha * self.grad_avg + (1 - self.alpha) * g
        variance = (size - self.grad_avg) * (size + self.grad_avg)
        return sqrt(maximum(variance, 0.0))


class RMSpropMomentum(RMSprop):
    """b <- momentum b + g / (eps + sqrt(r)); theta <- theta - lr b

    `momentum_buffer` is b, of the parameter's shape, 0 at the start.
    """

    momentum = Hyper(0.9, log_one_minus(0.5, 0.99), high=1.0, below=True)
    momentum_buffer = State()

    def update(self, g: Value) -> Value:
        scaled = g / (self.spread(g) + self.eps)
        self.momentum_buffer = self.momentum * self.momentum_buffer + scaled
        return -self.lr * self.momentum_buffer


class CenteredRMSpropMomentum(RMSpropMomentum, CenteredRMSprop):
    """RMSProp by the variance, with momentum."""
