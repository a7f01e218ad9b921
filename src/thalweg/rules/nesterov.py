"""Nesterov's momentum, with the gradient taken ahead."""

from __future__ import annotations

from thalweg.rules.decay import L2Decay
from thalweg.rules.momentum import Momentum
from thalweg.rules.record import Named
from thalweg.rules.rule import Next, RowState
from thalweg.rules.value import Value


class Nesterov(Momentum):
    """v <- momentum v - lr grad L(theta + momentum v); theta <- theta + v

    The model holds the look-ahead point phi = theta + momentum v, so that its gradient is the one
    the formula asks for; evaluation is at theta. `ahead` is the momentum that phi was made with:
    the coming step's, which a schedule tells in advance. Its rate O(1/i^2) is for convex,
    full-batch problems with the right momentum at each step, not for mini-batches.
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
