"""The criteria. Each judges a training that was watched.

To add a criterion, add a file to this folder with a function under `@criterion(place)`. The
function takes what was measured from the case, as `case.history.last(Inputs)` does. It returns a
`Suspicion`, with its words and its remedies, or None. The first sentence of its docstring says what
it looks for; `thalweg doctor --help` shows that sentence.
"""

from importlib import import_module
from pkgutil import iter_modules

from thalweg.doctor.criteria.criterion import Criterion

files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
CRITERIA = sorted(
    (one for file in files for one in vars(file).values() if isinstance(one, Criterion)),
    key=lambda criterion: criterion.place,
)
"""The criteria in the order of their places. Of two causes that explain equally much, the doctor
names the earlier one first."""
