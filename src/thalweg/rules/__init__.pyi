# Printed by tests/stubs.py.
from thalweg.rules.adadelta import Adadelta as Adadelta
from thalweg.rules.adagrad import Adagrad as Adagrad
from thalweg.rules.adam import Adam as Adam
from thalweg.rules.adam import AMSGrad as AMSGrad
from thalweg.rules.arithmetic import clamp as clamp
from thalweg.rules.arithmetic import maximum as maximum
from thalweg.rules.arithmetic import minimum as minimum
from thalweg.rules.arithmetic import sign as sign
from thalweg.rules.arithmetic import sqrt as sqrt
from thalweg.rules.arithmetic import where as where
from thalweg.rules.averaging import BlockAverage as BlockAverage
from thalweg.rules.averaging import ExponentialAverage as ExponentialAverage
from thalweg.rules.averaging import TailAverage as TailAverage
from thalweg.rules.averaging import WindowAverage as WindowAverage
from thalweg.rules.clip import ClipNorm as ClipNorm
from thalweg.rules.clip import ClipValue as ClipValue
from thalweg.rules.decay import DecoupledDecay as DecoupledDecay
from thalweg.rules.decay import L2Decay as L2Decay
from thalweg.rules.delta_bar_delta import DeltaBarDelta as DeltaBarDelta
from thalweg.rules.lion import Lion as Lion
from thalweg.rules.momentum import Momentum as Momentum
from thalweg.rules.nadam import NAdam as NAdam
from thalweg.rules.nesterov import Nesterov as Nesterov
from thalweg.rules.record import Named as Named
from thalweg.rules.rmsprop import CenteredRMSprop as CenteredRMSprop
from thalweg.rules.rmsprop import CenteredRMSpropMomentum as CenteredRMSpropMomentum
from thalweg.rules.rmsprop import RMSprop as RMSprop
from thalweg.rules.rmsprop import RMSpropMomentum as RMSpropMomentum
from thalweg.rules.rounding import StochasticRounding as StochasticRounding
from thalweg.rules.rule import Counterpart as Counterpart
from thalweg.rules.rule import Hyper as Hyper
from thalweg.rules.rule import Option as Option
from thalweg.rules.rule import RowState as RowState
from thalweg.rules.rule import Rule as Rule
from thalweg.rules.rule import State as State
from thalweg.rules.sgd import SGD as SGD
from thalweg.rules.sgd import SGDMomentum as SGDMomentum
from thalweg.rules.sgd import SGDNesterov as SGDNesterov
from thalweg.rules.space import linear as linear
from thalweg.rules.space import log as log
from thalweg.rules.space import log_one_minus as log_one_minus

RULES: dict[str, type[Rule]]
NAMED: dict[str, Named]
