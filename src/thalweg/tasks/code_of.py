"""What a function computes, without calling it: checksums of its code and its constants."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from itertools import chain
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from thalweg.checksum import checksum
from thalweg.tasks.reachable import CONTAINERS, PLAIN, is_own, named, variables_of

DEEPEST = 100
"""The deepest nesting of objects that is followed. It is below Python's own limit."""


def code_of(value: object) -> dict[str, str]:
    """Checksums of the code and the constants behind a function or an object, by their places.

    The checksums follow the variables that it refers to, also those of modules, its defaults, its
    attributes and those of its class, without the attributes that its own code stores later. Of an
    object from a library, only the name and the pickled value count.
    """
    return dict(told("", value, {}))


def told(place: str, value: Any, seen: dict[int, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    """The checksums by place.

    seen: the objects so far by id, so that none is followed twice. They are kept alive, so that no
    id is used again.
    """
    if isinstance(value, PLAIN):
        yield place, repr(value)
    elif isinstance(value, Tensor):
        yield place, checksum([value])
    elif isinstance(value, np.ndarray | np.generic):
        plain = repr(value.tolist()) if value.dtype.hasobject else value.tobytes()
        yield place, checksum([str(value.dtype), value.shape, plain])
    elif id(value) not in seen:
        seen[id(value)] = value
        if depth == DEEPEST:
            yield place, name_of(value)
        elif isinstance(value, (*CONTAINERS, Mapping)):
            yield place, within(value, seen, depth + 1)
        else:
            yield place, name_of(value)
            for name, part in parts_of(value):
                yield from told(f"{place}.{name}", part, seen, depth + 1)


def within(collection: Any, seen: dict[int, Any], depth: int) -> str:
    """One checksum of all items of a collection, so that each added item changes it."""
    mapping = isinstance(collection, Mapping)
    items = chain.from_iterable(collection.items()) if mapping else collection
    parts = [
        repr(item) if isinstance(item, PLAIN) else repr(list(told("", item, seen, depth)))
        for item in items
    ]
    return checksum(sorted(parts) if isinstance(collection, set | frozenset) else parts)


def name_of(value: Any) -> str:
    """The name, without a user's own module, whose name depends on how the file was found."""
    titled = value if isinstance(value, type | FunctionType | BuiltinFunctionType) else type(value)
    if not isinstance(titled, BuiltinFunctionType) and is_own(titled):
        return titled.__qualname__
    return f"{titled.__module__}.{titled.__qualname__}"


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts that define a function or an object, each with its name."""
    if isinstance(value, partial):
        yield from (("function", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield from (("function", value.__func__), ("self", value.__self__))
    elif isinstance(value, FunctionType):
        yield from parts_of_function(value)
    elif isinstance(value, type):
        for kind in filter(is_own, value.__mro__):
            yield from constants(kind)
    elif isinstance(value, nn.Module) or is_own(type(value)):
        yield "class", type(value)
        yield from attributes(value)
    elif hasattr(value, "__wrapped__"):
        yield "wrapped", value.__wrapped__
    else:
        yield from pickled(value)


def pickled(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a library's object, if it consists only of data that can be pickled."""
    with suppress(Exception):
        pickle.dumps(value)
        made = value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        if isinstance(made, tuple):
            yield "made of", [list(x) if isinstance(x, Iterator) else x for x in made]


def constants(kind: type) -> Iterator[tuple[str, Any]]:
    """The functions of a class, and the values that its code does not overwrite."""
    stored = stored_by(kind)
    for name, value in vars(kind).items():
        function = function_of(value)
        if isinstance(function, FunctionType) or not (name.startswith("__") or name in stored):
            yield name, function


def function_of(value: Any) -> Any:
    """The function of a method, property or class method; any other value unchanged."""
    if isinstance(value, property):
        return value.fget
    return value.func if isinstance(value, cached_property) else getattr(value, "__func__", value)


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, without those that its methods store, and without the private
    attributes of a library's class.
    """
    kept = dict(getattr(value, "__dict__", {}))
    for registered in ("_parameters", "_buffers", "_modules"):
        kept |= kept.get(registered, {})
    kinds = list(filter(is_own, type(value).__mro__))
    members = [item for kind in kinds for item in vars(kind).items()]
    slots = [name for name, member in members if isinstance(member, MemberDescriptorType)]
    kept |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
    own = set().union(*map(stored_by, kinds))
    later = set().union(*(stored_by(kind, but="__init__") for kind in kinds))
    for name, part in kept.items():
        if name not in later and (name in own or not name.startswith("_")):
            yield name, part


def stored_by(kind: type, but: str = "") -> set[str]:
    """The attributes that the functions of a class store, without the functions of one name."""
    functions = (function_of(value) for name, value in vars(kind).items() if name != but)
    codes = (function.__code__ for function in functions if isinstance(function, FunctionType))
    return set().union(*(named(code, "STORE_ATTR") for code in codes))


def parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    if hasattr(function, "__wrapped__"):
        yield "wrapped", function.__wrapped__
    if is_own(function):
        code = function.__code__
        yield "code", list(instructions(code, function.__doc__))
        yield "defaults", (function.__defaults__, function.__kwdefaults__)
        stored = named(code, "STORE_GLOBAL", "STORE_DEREF")
        for name, value in variables_of(function):
            if name not in stored:
                yield name, value


def instructions(code: CodeType, doc: str | None = None) -> Iterator[Any]:
    """The bytecode, names and constants, without line numbers."""
    yield from (code.co_code, code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant)
        elif constant != doc:
            yield constant
