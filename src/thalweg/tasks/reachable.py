"""The objects that can be reached from an object, by attributes, items and variables."""

from __future__ import annotations

import sys
import sysconfig
from collections import deque
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from decimal import Decimal
from dis import get_instructions
from enum import Enum
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_ITEMS = 1000
"""The most items of a container that are followed; of a longer container, the last ones."""

MOST = 50_000
"""The most objects that are followed."""

NUMBERS = (bool, int, float, complex, Decimal, Fraction, range)
PLAIN = (type(None), *NUMBERS, str, bytes, Enum, PurePath, torch.dtype, torch.device)
"""The types whose values differ if and only if their texts differ."""

CONTAINERS = (list, tuple, set, frozenset, deque)

STRUCTURE = ("_parameters", "_buffers", "_modules", "training")
"""The attributes in which PyTorch keeps the parts of a layer. Only inner layers are followed."""

LIBRARIES = {"site-packages", "dist-packages"}
PLACES = {Path(sysconfig.get_path("stdlib")), Path(__file__).parents[1]}
"""The folders of Python's own library and of this package."""

Named = tuple[str, Any]


def reachable(value: Any, name: str) -> Iterator[Named]:
    """An object and all its parts, each with the expression by which code reaches it.

    Tensors, arrays and texts have no parts, and neither do objects of this package, except layers.
    """
    waiting = [(name, value)]
    seen: dict[int, Any] = {}
    for _ in range(MOST):
        if not waiting:
            return
        name, value = waiting.pop()
        if id(value) not in seen:
            yield name, value
            inner = list(parts(value, name))
            if inner:
                seen[id(value)] = value
            waiting += reversed(inner)


def parts(value: Any, name: str) -> Iterator[Named]:
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", item) for key, item in list(value.items())[-MOST_ITEMS:])
    elif isinstance(value, CONTAINERS):
        some = list(value)[-MOST_ITEMS:]
        yield from ((f"{name}[{i}]", item) for i, item in enumerate(some))
    elif isinstance(value, MethodType):
        yield from ((name, value.__self__), (name, value.__func__))
    elif isinstance(value, partial):
        yield from ((name, part) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, FunctionType):
        yield from variables_of(value) if is_own(value) else ()
    elif not isinstance(value, Tensor | np.ndarray | type | ModuleType):
        yield from attributes(value)


def attributes(value: Any) -> Iterator[Named]:
    """The attributes of an object and of its classes, methods included."""
    kind = type(value)
    layer = isinstance(value, nn.Module)
    if layer:
        yield from ((type(inner).__name__, inner) for inner in value.children())
    elif kind.__module__.startswith("thalweg."):
        return
    for name, part in getattr(value, "__dict__", {}).items():
        if not layer or name not in STRUCTURE:
            yield f"{kind.__name__}.{name}", part
    for base in kind.__mro__:
        for name, part in vars(base).items() if is_own(base) else ():
            if isinstance(part, MemberDescriptorType):  # an attribute from __slots__
                yield f"{base.__name__}.{name}", getattr(value, name, None)
            elif not name.startswith("__") or isinstance(part, FunctionType):
                yield f"{base.__name__}.{name}", part


def variables_of(function: FunctionType) -> Iterator[Named]:
    """The outer variables to which a function, or a function inside it, refers."""
    code = function.__code__
    inner = named(code, "LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the cell is still empty
            yield from behind(name, cell.cell_contents, inner)
    loaded, imported = named(code, "LOAD_GLOBAL", "LOAD_NAME"), named(code, "IMPORT_NAME")
    for known, names in ((function.__globals__, loaded - {"__file__"}), (sys.modules, imported)):
        for name in sorted(names & known.keys()):
            yield from behind(name, known[name], inner)


def behind(name: str, value: Any, names: Set[str]) -> Iterator[Named]:
    """A variable; for a module, those of its variables that the code names."""
    if not isinstance(value, ModuleType):
        yield name, value
    elif is_own(value.__name__):
        for inner in sorted(names & vars(value).keys()):
            yield from behind(f"{name}.{inner}", vars(value)[inner], names - {inner})


def named(code: CodeType, *operations: str) -> set[str]:
    """The names on which code, or a function inside it, does one of these operations."""
    inner = (named(x, *operations) for x in code.co_consts if isinstance(x, CodeType))
    own = {one.argval for one in get_instructions(code) if one.opname in operations}
    return own.union(*inner)


def is_own(value: FunctionType | type | str) -> bool:
    """Whether a function, a class or a module (given by name) is a user's own, and no library's."""
    if isinstance(value, FunctionType):
        return is_own_file(value.__code__.co_filename)
    name = value if isinstance(value, str) else value.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return is_own_file(file) if file else name.split(".")[0] not in sys.stdlib_module_names


@lru_cache
def is_own_file(name: str) -> bool:
    file = Path(name)
    within_library = LIBRARIES & set(file.parts) or PLACES & set(file.parents)
    return not within_library and not name.startswith("<frozen ")
