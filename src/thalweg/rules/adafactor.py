"""Adafactor: the second moments of a matrix, estimated from its row means and column means."""

from __future__ import annotations

from math import inf

from torch import finfo

from thalweg.rules.arithmetic import maximum, mean, minimum, sqrt, where
from thalweg.rules.decay import DecoupledDecay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log
from thalweg.rules.value import Value


class AdafactorVectors(Rule):
    """Adafactor for vectors and numbers. It keeps a second moment for each element.

        v <- (1 - t^beta2_decay) v + t^beta2_decay g g
        u = g / sqrt(max(v, eps1^2))
        theta <- theta - max(eps2, rms(theta)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)

    rms is the root of the mean square over the tensor. `eps` is the pair of eps1 and eps2. An eps1
    of 0 (None in PyTorch) means the resolution of the parameter's type. The paper adds eps1^2 to
    g g, and its `lr` is 0.01. `variance` is v. Shazeer and Stern 2018.
    """

    lr = Hyper(1e-2, log(1e-4, 1.0))
    beta2_decay = Hyper(-0.8, low=-inf, high=0.0)
    eps = Hyper((0.0, 1e-3), absent=0.0)
    d = Hyper(1.0, low=1.0)
    variance = State()
    torch = Counterpart("Adafactor")

    def update(self, g: Value) -> Value:
        u = g / sqrt(maximum(self.second_moment(g), self.smallest() ** 2))
        size = maximum(self.eps[1], sqrt(mean(self.param * self.param, over="tensor")))
        rate = size * minimum(self.lr, 1 / sqrt(self.t))
        return -rate / maximum(1.0, sqrt(mean(u * u, over="tensor")) / self.d) * u

    def second_moment(self, g: Value) -> Value:
        self.variance = self.followed(self.variance, g * g)
        return self.variance

    def followed(self, average: Value, x: Value) -> Value:
        share = self.t**self.beta2_decay
        return (1 - share) * average + share * x

    def smallest(self) -> Value:
        """eps1."""
        return where(self.eps[0] == 0, finfo(self.dtype).eps, self.eps[0])


class Adafactor(AdafactorVectors):
    """Adafactor for matrices of m rows and n columns.

        R <- (1 - t^beta2_decay) R + t^beta2_decay (mean of g g over each row)
        C <- (1 - t^beta2_decay) C + t^beta2_decay (mean of g g over each column)
        v = R C / max(mean(R), eps1)

    The step is then computed from v as in `AdafactorVectors`. `row_var` is R, `[m, 1]`, and
    `col_var` is C, `[1, n]`. A convolution's kernel is the matrix that `Rule` describes; PyTorch
    takes its last two dimensions instead.
    """

    matrices = True
    variance = None
    row_var, col_var = State(shape="m1"), State(shape="1n")
    torch = Counterpart("Adafactor")

    def second_moment(self, g: Value) -> Value:
        squares = g * g
        self.row_var = self.followed(self.row_var, squares.mean(1, keepdim=True))
        self.col_var = self.followed(self.col_var, squares.mean(0, keepdim=True))
        return self.row_var @ self.col_var / maximum(self.row_var.mean(), self.smallest())


optimizers = [
    Named(
        "Adafactor",
        Adafactor(),
        DecoupledDecay(weight_decay=0.0),
        to="matrix",
        rest=[AdafactorVectors(), DecoupledDecay(weight_decay=0.0)],
    )
]
