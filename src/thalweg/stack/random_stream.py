"""Random numbers that belong to one seed and one purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ORDER, SAMPLES, MODEL, EVALUATION = range(1, 5)
"""Purposes beside the initial weights, which the seed itself draws."""


def stream_seed(seed: int, *purpose: int) -> int:
    """The seed, below 2^32, of a stream for this purpose.

    It is mixed, because PyTorch's generator looks at no more than the last 32 bits of a seed.
    """
    return int(np.random.SeedSequence((seed, *purpose)).generate_state(1)[0])


class RandomStream:
    """Random numbers on the CPU that a seed gives, whatever else draws in between."""

    def __init__(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def used(self) -> Iterator[None]:
        """torch draws from this stream within the block; its global state stays as it is."""
        outer = torch.get_rng_state()
        torch.set_rng_state(self.state)
        try:
            yield
        finally:
            self.state = torch.get_rng_state()
            torch.set_rng_state(outer)
