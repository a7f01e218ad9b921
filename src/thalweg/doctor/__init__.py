"""Why training is slow or unstable: instruments that measure it where it goes.

An `Objective` is what they are pointed at. Each returns what it has measured with its error and the
`Conditions` that it holds for.
"""

from thalweg.doctor.condition_number import ConditionNumber, condition_number
from thalweg.doctor.conditions import Conditions
from thalweg.doctor.eigenvalues import Eigenvalue, Extremes, extremes
from thalweg.doctor.gauss_newton import GaussNewton
from thalweg.doctor.hessian import Hessian
from thalweg.doctor.objective import Objective
from thalweg.doctor.preconditioned import Preconditioned
from thalweg.doctor.spectrum import Spectrum, spectrum
from thalweg.doctor.stability import GroupStability, Stability, stability
from thalweg.doctor.trace import Estimate, diagonal_share, trace

__all__ = [
    "ConditionNumber",
    "Conditions",
    "Eigenvalue",
    "Estimate",
    "Extremes",
    "GaussNewton",
    "GroupStability",
    "Hessian",
    "Objective",
    "Preconditioned",
    "Spectrum",
    "Stability",
    "condition_number",
    "diagonal_share",
    "extremes",
    "spectrum",
    "stability",
    "trace",
]
