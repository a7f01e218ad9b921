"""The named optimizers, with PyTorch's arguments, defaults and group keys.

Made of their records; `named.pyi` says what each takes. `foreach` and `fused` choose among
PyTorch's own implementations of one formula: they are taken, so that a script need not change, and
choose nothing here.
"""

from thalweg.optim.drop_in import classes_of
from thalweg.rules import NAMED

globals().update(classes_of(NAMED.values(), __name__))
__all__ = list(NAMED)
