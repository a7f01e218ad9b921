"""The criteria, each of which judges a training that was watched.

A new one is a new file in this folder with a function under `@criterion(place)`. The function reads
what was seen (`case.course.last(Inputs)`), and returns a `Suspicion` with its words and what it
would try, or None. Its docstring says in one sentence what it looks for.
"""

from importlib import import_module
from pkgutil import iter_modules

from thalweg.doctor.criteria.criterion import Criterion

files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
CRITERIA = sorted(
    (one for file in files for one in vars(file).values() if isinstance(one, Criterion)),
    key=lambda criterion: criterion.place,
)
"""In the order of their places: of two causes that explain as much, the earlier one is named."""
