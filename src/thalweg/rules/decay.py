"""Weight decay: added to the gradient (L2), or to the step (decoupled)."""

from __future__ import annotations

from thalweg.rules.rule import Hyper, Rule
from thalweg.rules.space import log
from thalweg.rules.value import Value


class L2Decay(Rule):
    """g <- g + weight_decay theta, the gradient of a penalty weight_decay |theta|^2 / 2.

    It stands before the rule that takes the step. An adaptive rule rescales it with the gradient.
    """

    place = "before"
    weight_decay = Hyper(0.0)

    def update(self, g: Value) -> Value:
        return g + self.weight_decay * self.param


class DecoupledDecay(Rule):
    """theta <- theta (1 - lr weight_decay), in addition to the step.

    It stands behind the rule that takes the step and reads that rule's `lr`, as in PyTorch's AdamW:
    a change of the rate changes the decay too. Loshchilov and Hutter 2019.
    """

    place = "behind"
    weight_decay = Hyper(1e-2, log(1e-4, 1.0))

    def update(self, g: Value) -> Value:
        return g - self.lr * self.weight_decay * self.param
