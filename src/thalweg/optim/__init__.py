"""Drop-in `torch.optim` optimizers: the named ones, and `Optimizer` for any recipe."""

from thalweg.optim import named
from thalweg.optim.named import *  # noqa: F403
from thalweg.optim.optimizer import Optimizer

__all__ = ["Optimizer"]
__all__ += named.__all__
