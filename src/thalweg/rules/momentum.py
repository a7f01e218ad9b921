"""Heavy-ball momentum."""

from __future__ import annotations

from thalweg.rules.decay import L2Decay
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Rule, State
from thalweg.rules.space import log, log_one_minus
from thalweg.rules.value import Value


class Momentum(Rule):
    """v <- momentum v - lr g; theta <- theta + v

    `momentum` is gamma in [0, 1). At 0 the rule is plain gradient descent; near 1 the whole history
    of gradients counts; 0.5, 0.9 and 0.99 are typical. `velocity` is v. It has the parameter's
    shape and begins at 0. It contains the learning rate, unlike the buffer of `torch.optim.SGD`:
    when `lr` falls, past gradients keep the rate at which they were added. Polyak 1964.
    """

    lr = Hyper(1e-2, log(1e-4, 1.0))
    momentum = Hyper(0.9, log_one_minus(0.5, 0.99), below=True, high=1.0)
    velocity = State()
    torch = Counterpart("SGD", "momentum")

    def update(self, g: Value) -> Value:
        self.velocity = self.momentum * self.velocity - self.lr * g
        return self.velocity

    def edge(self) -> Value:
        return 2 + 2 * self.momentum


optimizers = [Named("Momentum", L2Decay(), Momentum())]
