"""A loss that counts."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


class Counting:
    """The mean squared error, which counts gradient evaluations, and stops at one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self._calls, self._stop = 0, stop

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.requires_grad:
            if self._calls == self._stop:
                raise KeyboardInterrupt
            self._calls += 1
        return F.mse_loss(outputs, targets)

    @property
    def calls(self) -> int:
        return self._calls
