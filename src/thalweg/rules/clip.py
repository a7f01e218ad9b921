"""Clipping, so that the huge gradient of a cliff does not throw the parameters far away."""

from __future__ import annotations

from thalweg.rules.arithmetic import clamp, minimum, norm, where
from thalweg.rules.rule import Counterpart, Hyper, Rule
from thalweg.rules.value import Value


class ClipValue(Rule):
    """g <- clamp(g, -clip_value, clip_value), element by element.

    An upper bound alone, min(g, limit), would not change a large negative component.
    Pascanu, Mikolov and Bengio 2013.
    """

    clip_value = Hyper(1.0)
    torch = Counterpart("clip_grad_value_")

    def update(self, g: Value) -> Value:
        return clamp(g, -self.clip_value, self.clip_value)


class ClipNorm(Rule):
    """g <- g min(1, max_norm / norm(g)), where the norm is over the whole model of a member.

    `thalweg.clip_norm` says what the whole model is if it is spread over processes.
    The direction does not change. PyTorch's `clip_grad_norm_` divides by norm(g) + 1e-6.
    Pascanu, Mikolov and Bengio 2013.
    """

    max_norm = Hyper(1.0)
    torch = Counterpart("clip_grad_norm_", note="  # divides by norm + 1e-6")

    def update(self, g: Value) -> Value:
        size = norm(g, over="model")
        # A gradient of zeros does not change, even if max_norm is 0.
        return g * where(size == 0, 1.0, minimum(self.max_norm / size, 1.0))
