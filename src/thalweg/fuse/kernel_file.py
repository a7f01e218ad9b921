"""Keeps the machine code of kernels in files that only this user can write.

Numba's own cache follows environment variables, which may name folders that others can write to.
"""

from __future__ import annotations

import hashlib
import pickle
import stat
import sys
from collections.abc import Iterable
from inspect import getsource
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from thalweg.cache_folder import cache_folder, is_own
from thalweg.fuse import pointer


def keep(module: ModuleType, functions: Iterable[str], source: str) -> None:
    """Makes Numba keep the machine code of a module's functions in files.

    source: the module's text. Another text has other files.
    """
    for name in functions:
        getattr(module, name)._cache = MachineCode(source, name)


class MachineCode(NullCache):
    """Numba's cache for the machine code of one function, with a file for each signature.

    A file that is damaged, or that another user could have written, is replaced.
    """

    def __init__(self, source: str, function: str) -> None:
        self.source, self.function = source, function

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        try:
            content = read(self.path(sig, target_context.codegen()))
        except OSError:  # no such file, or no folder for it
            return None
        if content is None:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(content))  # type: ignore[no-untyped-call]

    def save_overload(self, sig: Any, cres: Any) -> None:
        try:
            write(self.path(sig, cres.codegen), dumps(cres._reduce()))  # type: ignore[no-untyped-call]
        except OSError:  # a full disk, or no folder: the next process compiles it again
            return

    def path(self, signature: Any, codegen: Any) -> Path:
        made_by = (numba.__version__, sys.version, codegen.magic_tuple(), getsource(pointer))
        key = repr((self.source, self.function, signature, made_by))
        return cache_folder("kernels") / f"{hashlib.sha256(key.encode()).hexdigest()}.kernel"


def read(path: Path) -> bytes | None:
    """The content of a file; None if it is damaged or another user could have written it."""
    known = path.lstat()
    if not (stat.S_ISREG(known.st_mode) and known.st_nlink == 1 and is_own(known)):
        return None
    checksum, _, content = path.read_bytes().partition(b"\n")
    return content if checksum == checksum_of(path, content) else None


def write(path: Path, content: bytes) -> None:
    """Writes a file that only this user can read; other processes never see half of it."""
    with TemporaryDirectory(dir=path.parent) as beside:
        unfinished = Path(beside, path.name)
        unfinished.touch(0o600)
        unfinished.write_bytes(checksum_of(path, content) + b"\n" + content)
        unfinished.replace(path)


def checksum_of(path: Path, content: bytes) -> bytes:
    """The checksum of a file's name and content; a renamed file counts as damaged."""
    return hashlib.sha256(path.name.encode() + content).hexdigest().encode()
