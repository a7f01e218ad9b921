"""Why training is slow or unstable: instruments that measure it where it goes.

An `Objective` is what they are pointed at. Each returns what it has measured with its error and the
`Conditions` that it holds for.
"""

from thalweg.doctor.criteria.suspicion import Fact, Picture, Suspicion
from thalweg.doctor.curvature.condition_number import ConditionNumber, condition_number
from thalweg.doctor.curvature.critical_points import CriticalPoint, critical_points
from thalweg.doctor.curvature.eigenvalues import Eigenvalue, Extremes, extremes
from thalweg.doctor.curvature.escape import Escape, escape
from thalweg.doctor.curvature.gauss_newton import GaussNewton
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.curvature.negative_curvature import Descent, Index, descent, index
from thalweg.doctor.curvature.preconditioned import Preconditioned
from thalweg.doctor.curvature.spectrum import Spectrum, spectrum
from thalweg.doctor.curvature.trace import Estimate, diagonal_share, trace
from thalweg.doctor.judge.diagnosis import Diagnosis, diagnose
from thalweg.doctor.judge.doctor import Doctor
from thalweg.doctor.judge.finding import Finding
from thalweg.doctor.objective.conditions import Conditions
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.inputs import Inputs, inputs
from thalweg.doctor.readings.joint import Drift, Joint, joint
from thalweg.doctor.readings.modes import Modes, modes
from thalweg.doctor.readings.noise import Noise, noise
from thalweg.doctor.readings.order import Order, order
from thalweg.doctor.readings.recurrence import Recurrence, recurrence
from thalweg.doctor.readings.signals import Signal, Signals, signals
from thalweg.doctor.readings.spikes import Clip, Spike, clips, spikes
from thalweg.doctor.readings.stability import GroupStability, Stability, stability
from thalweg.doctor.readings.step import Parabola, Step, look_at_step
from thalweg.doctor.readings.steps import SeenStep, StepWatch
from thalweg.doctor.readings.surprise import Surprise, surprises
from thalweg.doctor.readings.trend import Trend, trend
from thalweg.doctor.readings.units import Activity, Units, units
from thalweg.doctor.solutions.between import Between, between
from thalweg.doctor.solutions.matching import matched
from thalweg.doctor.solutions.minima import Minima, Pair, Solution, minima
from thalweg.doctor.trials.trial import Remedy, State, Trial, Trials
from thalweg.doctor.watch.stopwatch import Seconds, Stopwatch

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
