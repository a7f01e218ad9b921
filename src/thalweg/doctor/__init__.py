"""Why training is slow or unstable: instruments that measure it where it goes.

An `Objective` is what they are pointed at. Each returns what it has measured with its error and the
`Conditions` that it holds for.
"""

from thalweg.doctor.between import Between, between
from thalweg.doctor.condition_number import ConditionNumber, condition_number
from thalweg.doctor.conditions import Conditions
from thalweg.doctor.critical import CriticalPoint, critical_points
from thalweg.doctor.diagnosis import Diagnosis, diagnose
from thalweg.doctor.doctor import Doctor
from thalweg.doctor.eigenvalues import Eigenvalue, Extremes, extremes
from thalweg.doctor.escape import Escape, escape
from thalweg.doctor.finding import Fact, Finding, Picture, Suspicion
from thalweg.doctor.gauss_newton import GaussNewton
from thalweg.doctor.hessian import Hessian
from thalweg.doctor.inputs import Inputs, inputs
from thalweg.doctor.joint import Drift, Joint, joint
from thalweg.doctor.matching import matched
from thalweg.doctor.minima import Minima, Pair, Solution, minima
from thalweg.doctor.modes import Modes, modes
from thalweg.doctor.moments import Surprise, surprises
from thalweg.doctor.noise import Noise, noise
from thalweg.doctor.objective import Objective
from thalweg.doctor.order import Order, order
from thalweg.doctor.plateau import Trend, trend
from thalweg.doctor.preconditioned import Preconditioned
from thalweg.doctor.recurrence import Recurrence, recurrence
from thalweg.doctor.saddle import Descent, Index, descent, index
from thalweg.doctor.signals import Signal, Signals, signals
from thalweg.doctor.spectrum import Spectrum, spectrum
from thalweg.doctor.spikes import Clip, Spike, clips, spikes
from thalweg.doctor.stability import GroupStability, Stability, stability
from thalweg.doctor.step import Parabola, Step, look_at_step
from thalweg.doctor.steps import SeenStep, StepWatch
from thalweg.doctor.stopwatch import Seconds, Stopwatch
from thalweg.doctor.trace import Estimate, diagonal_share, trace
from thalweg.doctor.trial import Remedy, State, Trial, Trials
from thalweg.doctor.units import Activity, Units, units

__all__ = [
    "Activity",
    "Between",
    "Clip",
    "ConditionNumber",
    "Conditions",
    "CriticalPoint",
    "Descent",
    "Diagnosis",
    "Doctor",
    "Drift",
    "Eigenvalue",
    "Escape",
    "Estimate",
    "Extremes",
    "Fact",
    "Finding",
    "GaussNewton",
    "GroupStability",
    "Hessian",
    "Index",
    "Inputs",
    "Joint",
    "Minima",
    "Modes",
    "Noise",
    "Objective",
    "Order",
    "Pair",
    "Parabola",
    "Picture",
    "Preconditioned",
    "Recurrence",
    "Remedy",
    "Seconds",
    "SeenStep",
    "Signal",
    "Signals",
    "Solution",
    "Spectrum",
    "Spike",
    "Stability",
    "State",
    "Step",
    "StepWatch",
    "Stopwatch",
    "Surprise",
    "Suspicion",
    "Trend",
    "Trial",
    "Trials",
    "Units",
    "between",
    "clips",
    "condition_number",
    "critical_points",
    "descent",
    "diagnose",
    "diagonal_share",
    "escape",
    "extremes",
    "index",
    "inputs",
    "joint",
    "look_at_step",
    "matched",
    "minima",
    "modes",
    "noise",
    "order",
    "recurrence",
    "signals",
    "spectrum",
    "spikes",
    "stability",
    "surprises",
    "trace",
    "trend",
    "units",
]
