"""LAMB: Adam for large batches. The length of a tensor's step is proportional to the tensor's."""

from __future__ import annotations

from thalweg.rules.adam import Adam
from thalweg.rules.arithmetic import norm, where
from thalweg.rules.record import Named
from thalweg.rules.rule import Hyper
from thalweg.rules.space import log
from thalweg.rules.value import Value


class Lamb(Adam):
    """Adam with steps of the length lr |theta| in each tensor.

        v <- beta1 v + (1 - beta1) g
        r <- beta2 r + (1 - beta2) g g
        u = v / (1 - beta1^t) / (eps + sqrt(r) / sqrt(1 - beta2^t)) + weight_decay theta
        theta <- theta - lr |theta| / |u| u

    The norms are over one tensor and are not bounded. Where one of them is 0, the step is lr u. The
    decay is a part of u. Some packages clip the gradient by its norm first:
    `chain(clip_norm(1.0), lamb())` does the same. `exp_avg` is v and `exp_avg_sq` is r; both have
    the parameter's shape. You et al. 2020.
    """

    eps = Hyper(1e-6)
    weight_decay = Hyper(1e-2, log(1e-4, 1.0))

    def update(self, g: Value) -> Value:
        step = super().update(g) - self.lr * self.weight_decay * self.param
        size, length = norm(self.param, over="tensor"), norm(step, over="tensor")
        return step * where(size * length == 0, 1.0, self.lr * size / length)


optimizers = [Named("Lamb", Lamb())]
