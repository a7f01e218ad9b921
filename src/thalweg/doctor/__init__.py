"""Why training is slow or unstable: instruments that measure it where it goes.

An `Objective` is what they are pointed at. Each returns what it has measured with its error and the
`Conditions` that it holds for.
"""

from lazy_loader import attach_stub

# The stub names what is public, once: for type checkers, and to be imported when it is first used.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
