"""Drop-in `torch.optim` optimizers: the named ones, and `Optimizer` for any recipe."""

from thalweg.optim.named import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    DeltaBarDelta,
    Lion,
    Momentum,
    NAdam,
    Nesterov,
    RMSprop,
)
from thalweg.optim.optimizer import Optimizer

__all__ = [
    "SGD",
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "DeltaBarDelta",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RMSprop",
]
