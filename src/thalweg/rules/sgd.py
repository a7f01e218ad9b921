"""Stochastic gradient descent, plain and with PyTorch's momentum."""

from __future__ import annotations

from math import inf

from thalweg.rules.arithmetic import where
from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class SGD(Rule):
    """theta <- theta - lr g

    `lr` is the learning rate alpha, and g is the gradient of the mean loss of the mini-batch.
    Robbins and Monro 1951.
    """

    lr = Hyper(1e-3, log(1e-3, 10.0))
    torch = Counterpart("SGD", counts=False)

    def update(self, g: Value) -> Value:
        return -self.lr * g

    def edge(self) -> Value:
        return 2.0


class SGDMomentum(SGD):
    """PyTorch's momentum: b <- momentum b + (1 - dampening) g; theta <- theta - lr b

    At the first step, b is g. `momentum_buffer` is b. It does not contain the learning rate, unlike
    the velocity of `Momentum`: the two rules take the same steps only while `lr` is constant.
    """

    momentum = Hyper(0.9, log_one_minus(0.5, 0.99), below=True, high=1.0)
    dampening = Hyper(0.0)
    momentum_buffer = State()
    torch = Counterpart("SGD", "momentum", counts=False)

    def update(self, g: Value) -> Value:
        followed = self.momentum * self.momentum_buffer + (1 - self.dampening) * g
        self.momentum_buffer = where(self.t == 1, g, followed)
        return -self.lr * self.momentum_buffer

    def edge(self) -> Value:
        taken = 1 - self.dampening
        return (2 + 2 * self.momentum) / taken if taken > 0 else inf


class SGDNesterov(SGDMomentum):
    """PyTorch's Nesterov momentum: b <- momentum b + g; theta <- theta - lr (g + momentum b)

    It steps from one look-ahead point to the next and never computes the theta of `Nesterov`. With
    a constant `lr` and `momentum`, its gradients are the same as those of `Nesterov`.
    Sutskever et al. 2013.
    """

    dampening = Hyper(0.0, high=0.0)
    torch = Counterpart("SGD", "momentum", "nesterov", counts=False)

    def update(self, g: Value) -> Value:
        super().update(g)
        return -self.lr * (g + self.momentum * self.momentum_buffer)

    def edge(self) -> Value:
        return (2 + 2 * self.momentum) / (1 + 2 * self.momentum)


optimizers = [Named("SGD", L2Decay(), SGD())]
