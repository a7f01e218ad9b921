"""Instruments that measure why training is slow or unstable, and the doctor that reads them.

Most instruments measure an `Objective`, the loss on fixed batches. Each returns what it has
measured with its error, and the `Conditions` under which that is true.
"""

from lazy_loader import attach_stub

# The stub lists the public names once, for type checkers and for the lazy import.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
