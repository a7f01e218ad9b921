"""Runs the text of printed kernels."""

from __future__ import annotations

import hashlib
import linecache
import sys
from types import ModuleType


def load(source: str) -> ModuleType:
    """The module of a printed kernel. The same text gives the same module.

    It is not read from a file, so no other user can change it. Numba finds the module by its name.
    Triton and tracebacks find its text in `linecache`.
    """
    name = f"kernel_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        module, file = ModuleType(name), f"<{name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec", dont_inherit=True), vars(module))
        # When two threads load the same text at once, both take the module of the first.
        sys.modules.setdefault(name, module)
    return sys.modules[name]
