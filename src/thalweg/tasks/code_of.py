"""What a function computes, as far as can be told without calling it: its code and constants."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from thalweg.checksum import checksum
from thalweg.tasks.reachable import is_own, variables_of

PLAIN = (type(None), bool, int, float, complex, str, bytes)


def code_of(value: object) -> dict[str, str]:
    """Checksums of the code and the constants behind a function or an object, by their places.

    Followed are the globals that it names, its closure, its defaults and its attributes but for
    private ones. Of what comes from a library the name counts.
    """
    return dict(told("", value, {}))


def told(place: str, value: Any, seen: dict[int, Any]) -> Iterator[tuple[str, str]]:
    """seen: by id, so that nothing is followed twice; kept, so that no id is given again."""
    if isinstance(value, PLAIN):
        yield place, repr(value)
    elif isinstance(value, Tensor):
        yield place, checksum([value])
    elif isinstance(value, np.ndarray | np.generic):
        yield place, checksum([str(value.dtype), repr(value.tolist())])
    elif id(value) not in seen:
        seen[id(value)] = value
        if isinstance(value, list | tuple | set | frozenset | dict):
            yield place, within(value, seen)
            return
        yield place, name_of(value)
        for name, part in parts_of(value):
            yield from told(f"{place}.{name}", part, seen)


def within(collection: Any, seen: dict[int, Any]) -> str:
    """One checksum of all that a collection holds: what is added to it changes it as a whole."""
    if isinstance(collection, set | frozenset):
        collection = sorted(collection, key=repr)
    items = collection.items() if isinstance(collection, dict) else enumerate(collection)
    return checksum([repr([pair for key, x in items for pair in told(repr(key), x, seen)])])


def name_of(value: Any) -> str:
    named = value if isinstance(value, type | FunctionType | BuiltinFunctionType) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What makes a function or an object what it is, each part with its name."""
    if isinstance(value, partial):
        yield from (("function", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield from (("function", value.__func__), ("self", value.__self__))
    elif isinstance(value, FunctionType):
        yield from parts_of_function(value)
    elif isinstance(value, type):
        for kind in filter(is_own, value.__mro__):
            parts = ((name, getattr(x, "__func__", x)) for name, x in vars(kind).items())
            yield from ((name, x) for name, x in parts if isinstance(x, FunctionType))
    elif isinstance(value, nn.Module) or is_own(type(value)):
        yield "class", type(value)
        kept = dict(getattr(value, "__dict__", {}))
        for registered in ("_parameters", "_buffers", "_modules"):
            kept |= kept.get(registered, {})
        yield from ((name, x) for name, x in kept.items() if not name.startswith("_"))


def parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    if hasattr(function, "__wrapped__"):
        yield "wrapped", function.__wrapped__
    if is_own(function):
        code = function.__code__
        yield "code", list(instructions(code, function.__doc__))
        yield "defaults", (function.__defaults__, function.__kwdefaults__)
        yield from variables_of(function)


def instructions(code: CodeType, doc: str | None = None) -> Iterator[Any]:
    """Bytecode, names and constants, without places in the file."""
    yield from (code.co_code, code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant)
        elif constant != doc:
            yield constant
