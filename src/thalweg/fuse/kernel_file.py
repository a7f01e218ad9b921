"""Keeps printed kernels as files, for compilers that read their source and cache beside it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from thalweg.cache_folder import cache_folder, temporary


def load(source: str, compile_: Callable[[ModuleType], None] | None = None) -> ModuleType:
    """The module of a printed kernel, from a file named by the hash of its content.

    compile_: has the module's functions compiled, by a compiler that keeps machine code beside the
    file. What is damaged is written and compiled anew, and a file is whole whenever another process
    sees it.
    """
    try:
        return loaded(written(source, cache_folder("kernels")), compile_)
    except OSError:  # a full disk
        return loaded(written(source, temporary()), compile_)


def loaded(path: Path, compile_: Callable[[ModuleType], None] | None) -> ModuleType:
    if checksum(path) != noted(path):
        discard(path)
    try:
        module = imported(path, compile_)
    except Exception:
        discard(path)
        module = imported(path, compile_)
    now = checksum(path)
    if now != noted(path):
        write(path.with_suffix(".sha256"), now)
    return module


def machine_code(path: Path) -> list[Path]:
    """What a compiler keeps beside a file."""
    return sorted(path.parent.glob(f"__pycache__/{path.stem}.*.nb?"))


def checksum(path: Path) -> str:
    """Of the machine code, which would be run without a further look."""
    whole = hashlib.sha256()
    for file in machine_code(path):
        whole.update(file.read_bytes())
    return whole.hexdigest()


def noted(path: Path) -> str:
    """The checksum of the machine code as it was written."""
    note = path.with_suffix(".sha256")
    return note.read_text(errors="replace") if note.exists() else ""


def discard(path: Path) -> None:
    for file in machine_code(path):
        file.unlink(missing_ok=True)


def written(source: str, folder: Path) -> Path:
    """The file that has this content."""
    path = folder / f"kernel_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    if not path.exists() or path.read_bytes() != source.encode():
        write(path, source)
    return path


def write(path: Path, text: str) -> None:
    """Puts a whole file in place."""
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        unfinished = Path(beside, path.name)
        unfinished.write_text(text)
        unfinished.replace(path)


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
