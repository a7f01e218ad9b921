"""The named optimizers, with PyTorch's arguments, defaults and group keys.

The classes are made from their records; `named.pyi` lists their arguments. In PyTorch, `foreach`
and `fused` choose among implementations of one formula. These classes accept them, so that a script
need not change, and ignore them.
"""

from thalweg.optim.drop_in import classes_of
from thalweg.rules import NAMED

globals().update(classes_of(NAMED.values(), __name__))
__all__ = list(NAMED)
