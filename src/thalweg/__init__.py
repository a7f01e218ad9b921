"""thalweg: race optimizers on your own task, see why one wins, train with the winner.

import thalweg as tw

result = tw.race("digits")                        # or a tw.Task of your own
print(result.verdict)
optimizer = tw.optim.Optimizer(model.parameters(), result.best)
"""

from lazy_loader import attach_stub

# The stub lists the public names once, for type checkers and for the lazy import.
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
