"""The update rules of optimizers, one idea in each file.

RULES: every rule, by name. NAMED: every optimizer, by name. Both are read from the files of this
folder. `__init__.pyi`, which tests/stubs.py prints, lists them for type checkers.
"""

from importlib import import_module
from pkgutil import iter_modules

from thalweg.rules.arithmetic import (
    clamp,
    dot,
    exp,
    largest,
    log,
    maximum,
    mean,
    minimum,
    nearest,
    norm,
    sign,
    sqrt,
    where,
)
from thalweg.rules.record import Named
from thalweg.rules.rule import Counterpart, Hyper, Option, RowState, Rule, State
from thalweg.rules.space import linear, log_one_minus

files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
NAMED = {named.name: named for file in files for named in getattr(file, "optimizers", ())}
RULES = {
    name: kind
    for file in files
    for name, kind in vars(file).items()
    if isinstance(kind, type) and issubclass(kind, Rule) and kind.__module__ == file.__name__
    if kind is not Rule
}
globals().update(RULES)
__all__ = ["NAMED", "RULES", "Counterpart", "Hyper", "Named", "Option", "RowState", "Rule"]
__all__ += ["State", "clamp", "dot", "exp", "largest", "linear", "log", "log_one_minus"]
__all__ += ["maximum", "mean", "minimum", "nearest", "norm", "sign", "sqrt", "where", *RULES]
