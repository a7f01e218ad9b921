"""thalweg: race optimizers on your own task, see why one wins, train with the winner.

import thalweg as tw

result = tw.race("digits")                        # or a tw.Task of your own
print(result.verdict)
optimizer = tw.optim.Optimizer(model.parameters(), result.best)
"""

from thalweg import nn, optim, schedules
from thalweg.api import Diagnosis, Doctor, Race, diagnose, race
from thalweg.recipes import (
    Recipe,
    adadelta,
    adagrad,
    adam,
    adamw,
    amsgrad,
    block_average,
    chain,
    clip_norm,
    clip_value,
    delta_bar_delta,
    ema,
    lion,
    momentum,
    nadam,
    nesterov,
    rmsprop,
    sgd,
    stochastic_rounding,
    tail_average,
)
from thalweg.tasks import Data, Task
from thalweg.training import pretrain
from thalweg.training.lr_range import lr_range
from thalweg.training.train import train

__all__ = [
    "Data",
    "Diagnosis",
    "Doctor",
    "Race",
    "Recipe",
    "Task",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "amsgrad",
    "block_average",
    "chain",
    "clip_norm",
    "clip_value",
    "delta_bar_delta",
    "diagnose",
    "ema",
    "lion",
    "lr_range",
    "momentum",
    "nadam",
    "nesterov",
    "nn",
    "optim",
    "pretrain",
    "race",
    "rmsprop",
    "schedules",
    "sgd",
    "stochastic_rounding",
    "tail_average",
    "train",
]
