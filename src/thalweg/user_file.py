"""Running a user's own Python file as a module, and turning its errors into one sentence."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from thalweg.arguments import require_path
from thalweg.errors import UserError

USER_MODULE = "thalweg_user_file_"
"""The beginning of the names of modules that are users' files."""

LONGEST = 500
"""The most characters of an error's text that are shown."""

STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""The codes that colour text on a terminal."""


def load(kind: str, path: Path) -> ModuleType:
    """Runs the Python file at `path`, such as a "task file", as a module of its own."""
    if not require_path(f"the path of a {kind}", path).is_file():
        raise UserError(f"There is no {kind} {path}; looked in {Path.cwd()}.")
    # The module gets its own name, so that a file random.py does not replace Python's module.
    name = f"{USER_MODULE}{path.stem}"
    while getattr(sys.modules.get(name), "__file__", str(path.resolve())) != str(path.resolve()):
        name += "_"
    loader = SourceFileLoader(name, str(path.resolve()))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None  # every file loader has a spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look classes up there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with failure_as_sentence(kind, path):
            loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)
    return module


@contextmanager
def failure_as_sentence(kind: str, path: Path) -> Iterator[None]:
    """Turns an exception in a user's file into a `UserError` that names the line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        place = str(path)
        if isinstance(error, SyntaxError):
            place += f", line {error.lineno}"
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
        if lines:
            place += f", line {lines[-1]}"
        title = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        # The text of a SyntaxError contains the line too.
        what = error.msg if isinstance(error, SyntaxError) else first_words(error)
        raise UserError(f"The {kind} {place} failed: {title}{what}") from error


def first_words(error: BaseException) -> str:
    """The first line of an error's text that is not empty, in characters that can be shown."""
    try:
        lines = STYLE.sub("", str(error)).splitlines()
    except Exception:  # the class of the error cannot make its text
        return ""
    shown = ("".join(c if c.isprintable() else " " for c in line).strip() for line in lines)
    line = next(filter(None, shown), "")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
