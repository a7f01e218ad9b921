"""Keeps printed kernels as files, for compilers that read their source and cache beside it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def load(source: str, compile_: Callable[[ModuleType], None] | None = None) -> ModuleType:
    """The module of a printed kernel, from a file named by the hash of its content.

    compile_: has the module's functions compiled, by a compiler that keeps machine code beside the
    file. What is damaged is written and compiled anew, and a file is whole whenever another process
    sees it.
    """
    path = written(source)
    try:
        return imported(path, compile_)
    except Exception:
        for kept in path.parent.glob(f"__pycache__/{path.stem}.*"):
            kept.unlink(missing_ok=True)
        return imported(path, compile_)


def written(source: str) -> Path:
    """The file that has this content."""
    path = folder() / f"kernel_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    if not path.exists() or path.read_bytes() != source.encode():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as unfinished:
            unfinished.write(source)
        Path(unfinished.name).replace(path)
    return path


def imported(path: Path, compile_: Callable[[ModuleType], None] | None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Numba looks the module up by its name when it takes machine code from its files.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if compile_:
        compile_(module)
    return module


def folder() -> Path:
    """Where kernels are kept: a folder that only the user can write."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kernels = base / "thalweg" / "kernels"
    kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
    return kernels
