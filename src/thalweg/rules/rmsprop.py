"""RMSProp: AdaGrad with a running mean in place of the sum."""

from __future__ import annotations

from thalweg.rules.arithmetic import maximum, sqrt
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class RMSprop(Rule):
    """r <- alpha r + (1 - alpha) g g; theta <- theta - lr g / (eps + sqrt(r))

    `alpha` is the lecture's rho. `eps` is its delta, and is added outside the root as in PyTorch.
    `square_avg` is r. It has the parameter's shape, begins at 0, and is not corrected for this
    start. Hinton, Coursera lecture 6e, 2012.
    """

    lr = Hyper(1e-2, log(1e-5, 1.0))
    alpha = Hyper(0.99, log_one_minus(0.8, 0.999), high=1.0, below=True)
    eps = Hyper(1e-8)
    square_avg = State()
    torch = Counterpart("RMSprop")

    def update(self, g: Value) -> Value:
        self.follow(g)
        return -self.lr * g / self.divisor()

    def follow(self, g: Value) -> None:
        """Updates the running moments with a gradient."""
        self.square_avg = self.alpha * self.square_avg + (1 - self.alpha) * g * g

    def divisor(self) -> Value:
        return sqrt(self.square_avg) + self.eps

    def edge(self) -> Value:
        return 2.0


class CenteredRMSprop(RMSprop):
    """RMSProp with the variance r - m m in place of r, where m is the mean gradient.

        m <- alpha m + (1 - alpha) g

    `grad_avg` is m and has the parameter's shape. The variance is computed as
    (sqrt(r) - m)(sqrt(r) + m), because r and m m may overflow. Where round-off makes it negative,
    it counts as 0; PyTorch's root is not-a-number there. Graves 2013.
    """

    grad_avg = State()
    torch = Counterpart("RMSprop", "centered")

    def follow(self, g: Value) -> None:
        super().follow(g)
        self.grad_avg = self.alpha * self.grad_avg + (1 - self.alpha) * g

    def divisor(self) -> Value:
        size = sqrt(self.square_avg)
        variance = (size - self.grad_avg) * (size + self.grad_avg)
        return sqrt(maximum(variance, 0.0)) + self.eps


class RMSpropMomentum(RMSprop):
    """b <- momentum b + g / (eps + sqrt(r)); theta <- theta - lr b

    `momentum_buffer` is b. It has the parameter's shape and begins at 0.
    """

    momentum = Hyper(0.9, log_one_minus(0.5, 0.99), high=1.0, below=True)
    momentum_buffer = State()
    torch = Counterpart("RMSprop", "momentum")

    def update(self, g: Value) -> Value:
        self.follow(g)
        self.momentum_buffer = self.momentum * self.momentum_buffer + g / self.divisor()
        return -self.lr * self.momentum_buffer

    def edge(self) -> Value:
        return 2 + 2 * self.momentum


class CenteredRMSpropMomentum(RMSpropMomentum, CenteredRMSprop):
    """RMSProp with the variance in place of r, and with momentum."""

    torch = Counterpart("RMSprop", "momentum", "centered")


optimizers = [Named("RMSprop", L2Decay(), RMSprop())]
