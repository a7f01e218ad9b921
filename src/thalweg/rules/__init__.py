"""The update mathematics, one idea a file."""

from thalweg.rules.adadelta import Adadelta
from thalweg.rules.adagrad import Adagrad
from thalweg.rules.adam import Adam, AMSGrad
from thalweg.rules.averaging import BlockAverage, ExponentialAverage, TailAverage, WindowAverage
from thalweg.rules.clip import ClipNorm, ClipValue
from thalweg.rules.decay import DecoupledDecay, L2Decay
from thalweg.rules.delta_bar_delta import DeltaBarDelta
from thalweg.rules.lion import Lion
from thalweg.rules.momentum import Momentum
from thalweg.rules.nadam import NAdam
from thalweg.rules.nesterov import Nesterov
from thalweg.rules.rmsprop import (
    CenteredRMSprop,
    CenteredRMSpropMomentum,
    RMSprop,
    RMSpropMomentum,
)
from thalweg.rules.rounding import StochasticRounding
from thalweg.rules.rule import Rule
from thalweg.rules.sgd import SGD, SGDMomentum, SGDNesterov

__all__ = [
    "SGD",
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "BlockAverage",
    "CenteredRMSprop",
    "CenteredRMSpropMomentum",
    "ClipNorm",
    "ClipValue",
    "DecoupledDecay",
    "DeltaBarDelta",
    "ExponentialAverage",
    "L2Decay",
    "Lion",
    "Momentum",
    "NAdam",
    "Nesterov",
    "RMSprop",
    "RMSpropMomentum",
    "Rule",
    "SGDMomentum",
    "SGDNesterov",
    "StochasticRounding",
    "TailAverage",
    "WindowAverage",
]
