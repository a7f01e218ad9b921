"""Muon: momentum of a matrix, changed so that the step has the same size in every direction."""

from __future__ import annotations

from math import sqrt

from thalweg.rules.adam import Adam
from thalweg.rules.decay import DecoupledDecay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Option, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class Muon(Rule):
    """Momentum of a matrix, made orthogonal.

        v <- momentum v + (1 - momentum) g
        u = (1 - momentum) g + momentum v;  without nesterov u = v
        theta <- theta - lr s orthogonal(u)

    s is sqrt(max(1, m / n)) for a matrix of m rows and n columns. With `adjust_lr_fn` at
    "match_rms_adamw" it is 0.2 sqrt(max(m, n)), so that an `lr` for AdamW fits. PyTorch rounds u to
    bfloat16 before making it orthogonal and thalweg does not: they agree to about 4e-3.
    `momentum_buffer` is v and has the parameter's shape. Use this rule for hidden matrices only,
    and another rule for embeddings, the last layer and vectors. Jordan et al. 2024.
    """

    matrices = True
    lr = Hyper(1e-3, log(1e-4, 1.0))
    momentum = Hyper(0.95, log_one_minus(0.8, 0.99), high=1.0)
    nesterov = Option(True, among=(True, False))
    ns_coefficients = Hyper((3.4445, -4.775, 2.0315), low=-100.0, high=100.0)
    eps = Hyper(1e-7)
    ns_steps = Option(5, high=99)
    adjust_lr_fn = Option("original", among=("original", "match_rms_adamw"))
    momentum_buffer = State()
    torch = Counterpart("Muon", counts=False)

    def update(self, g: Value) -> Value:
        self.momentum_buffer = self.momentum * self.momentum_buffer + (1 - self.momentum) * g
        ahead = self.momentum * self.momentum_buffer + (1 - self.momentum) * g
        u = ahead if self.nesterov else self.momentum_buffer
        return -self.lr * self.size(*g.shape) * self.orthogonal(u)

    def orthogonal(self, u: Value) -> Value:
        """Approximately U V^T for u = U S V^T.

        The iteration X <- a X + b X X^T X + c X X^T X X^T X begins at u / |u|. It moves the
        singular values to between about 0.7 and 1.2.
        """
        a, b, c = self.ns_coefficients
        tall = u.shape[0] > u.shape[1]
        x = (u.mT if tall else u) / u.norm().clamp(min=self.eps)
        for _ in range(self.ns_steps):
            products = x @ x.mT
            x = a * x + (b * products + c * products @ products) @ x
        return x.mT if tall else x

    def size(self, m: int, n: int) -> float:
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * sqrt(max(m, n))
        return sqrt(max(1, m / n))


optimizers = [
    Named(
        "Muon",
        Muon(),
        DecoupledDecay(weight_decay=0.1),
        to="hidden matrix",
        rest=[Adam(), DecoupledDecay(weight_decay=0.1)],
    )
]
