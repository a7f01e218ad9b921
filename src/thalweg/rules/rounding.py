"""Stochastic rounding of parameters that are held in bfloat16."""

from __future__ import annotations

import math

import torch

from thalweg.rules.arithmetic import bits, number, place, where, word
from thalweg.rules.primitives import LARGEST
from thalweg.rules.rule import Option, Rule
from thalweg.rules.value import Value

LOW, HIGH = 0xFFFF, 0xFFFF0000
"""The bits of a float32 that a bfloat16 does not have, and the bits that it has."""


class StochasticRounding(Rule):
    """theta <- one of the two bfloat16 numbers next to it, chosen at random.

    The nearer number is more likely, so that the stored number is theta on average. A step far
    below the last digit still moves the parameter, where rounding to the nearest number loses it.
    The random bits depend on `seed`, the age, the element's place and its leading bits, so that a
    run can be repeated and resumed. Parameters of other types are not rounded.

    Zamirai et al. 2020 (Revisiting bfloat16 training).
    """

    place = "behind"
    seed = Option(1)

    def update(self, g: Value) -> Value:
        return g

    def stored(self, theta: Value) -> Value:
        return rounded(theta, self.seed, self.t) if self.dtype is torch.bfloat16 else theta


def rounded(x: Value, seed: Value, t: Value) -> Value:
    """Each float32 rounded to a bfloat16 next to it; numbers that are not finite do not change."""
    old = bits(x)
    noise = mixed(old >> 16 ^ mixed(place(x) ^ mixed(word(t) ^ mixed(word(seed))))) & LOW
    return where(abs(x) < math.inf, number((old + noise) & HIGH), x)


def mixed(x: Value) -> Value:
    """A hash of a word: every bit of the result depends on every bit of x."""
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD & LARGEST
    x = x ^ (x >> 15)
    x = x * 0xD35A2D97 & LARGEST
    return x ^ (x >> 15)
