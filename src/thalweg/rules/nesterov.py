"""Nesterov's momentum, with the gradient taken at the look-ahead point."""

from __future__ import annotations

from thalweg.rules.decay import L2Decay
from thalweg.rules.momentum import Momentum
from thalweg.rules.record import Named
from thalweg.rules.rule import Next, RowState
from thalweg.rules.value import Value


class Nesterov(Momentum):
    """v <- momentum v - lr grad L(theta + momentum v); theta <- theta + v

    The model holds the look-ahead point phi = theta + momentum v, so that the gradient of the loss
    is the one in the formula. Evaluation uses theta. `ahead` is the momentum with which phi was
    computed, which is the momentum of the next step. The convergence rate O(1/i^2) holds for
    convex, full-batch problems with the right momentum at each step, and not for mini-batches.
    Nesterov 1983; Sutskever et al. 2013.
    """

    next_momentum = Next("momentum")
    ahead = RowState()

    def position(self, param: Value) -> Value:
        return param - self.ahead * self.velocity

    def stored(self, theta: Value) -> Value:
        self.ahead = self.next_momentum
        return theta + self.ahead * self.velocity

    def edge(self) -> Value:
        return (2 + 2 * self.momentum) / (1 + 2 * self.momentum)


optimizers = [Named("Nesterov", L2Decay(), Nesterov())]
