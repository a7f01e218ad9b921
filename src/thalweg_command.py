"""The command `thalweg`. Its module is outside the package, because importing the verbs takes
seconds, and Ctrl-C must be a clean stop during the import too.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

LINE = "\nstopped."

SELDOM = 100
"""The garbage of the oldest generation is collected once in this number of collections of the
middle one. Python's own number is 10."""


def main() -> None:
    """Runs the command line; Ctrl-C at any moment is one line and exit status 130."""
    # Imports make a million objects that stay. Python would search all of them for garbage again
    # and again. Young garbage is collected as before.
    gc.set_threshold(*gc.get_threshold()[:2], SELDOM)
    # Imports may swallow an exception, or turn it into another.
    signal.signal(signal.SIGINT, leave)
    from thalweg.cli import main as run
    from thalweg.errors import Stopped

    def stop(*_: object) -> None:
        raise Stopped

    signal.signal(signal.SIGINT, stop)
    try:
        run()
    except Stopped:
        print(LINE, file=sys.stderr)
        sys.exit(130)
    finally:
        # Nothing is left to stop, and an interpreter that is interrupted in its own end is noisy.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Otherwise Python would search all objects several times more before it ends.
        gc.freeze()


def leave(*_: object) -> None:
    print(LINE, file=sys.stderr, flush=True)
    os._exit(130)
