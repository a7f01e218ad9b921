"""Stochastic rounding of parameters that are held in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.rules.row import Value
from thalweg.rules.rule import Option, Rule

EXACT = 2**24
"""Seeds and ages below this come whole through the float32 that a kernel computes in."""

LOW = 0xFFFF
WORD = 0xFFFFFFFF


class StochasticRounding(Rule):
    """theta <- one of the two bfloat16 numbers beside it, the nearer the likelier.

    What is stored is theta on average: a step far below the last digit still moves the parameter,
    where rounding to the nearest loses it. The random bits follow from `seed`, the age, the
    element's place and its leading bits, so that a run can be repeated and resumed. Parameters of
    other types are left as they are.

    Zamirai et al. 2020 (Revisiting bfloat16 training).
    """

    place = "behind"
    seed = Option(1)

    def update(self, g: Value) -> Value:
        return g

    def stored(self, theta: Value) -> Value:
        if self.dtype is not torch.bfloat16:
            return theta
        seed = self.seed % EXACT
        if isinstance(theta, Tensor):
            return rounded(theta, seed, self.t)
        return theta.rounded(seed, self.t)


def rounded(x: Tensor, seed: int, t: int) -> Tensor:
    """Each float32 of a tensor at a bfloat16 beside it; numbers that are not finite as they are."""
    bits = x.view(torch.int32).to(torch.int64) & WORD
    place = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    noise = mixed(bits >> 16 ^ mixed(place ^ mixed(t ^ mixed(seed)))) & LOW
    # Above the largest int32 the sign is set: to there go the bits of negative numbers.
    up = (bits + noise) & (WORD ^ LOW)
    whole = torch.where(up > WORD >> 1, up - WORD - 1, up).to(torch.int32)
    return torch.where(x.isfinite(), whole.view(torch.float32), x)


def mixed(x: Any) -> Any:
    """A 32-bit word in which every bit depends on every bit of another."""
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD & WORD
    x = x ^ (x >> 15)
    x = x * 0xD35A2D97 & WORD
    return x ^ (x >> 15)
