"""What a function computes, as far as can be told without calling it: its code and constants."""

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
"""Objects within objects, below Python's own limit."""


def code_of(value: object) -> dict[str, str]:
    """Checksums of the code and the constants behind a function or an object, by their places.

    Followed are the variables that it refers to, through modules too, its defaults, its attributes
    and its class's, but for those that its own code stores later. Of what comes from a library the
    name counts, and what it is pickled as.
    """
    return dict(told("", value, {}))


def told(place: str, value: Any, seen: dict[int, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    """seen: by id, so that nothing is followed twice; kept, so that no id is given again."""
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
    """One checksum of all that a collection holds: what is added to it changes it as a whole."""
    mapping = isinstance(collection, Mapping)
    items = chain.from_iterable(collection.items()) if mapping else collection
    parts = [
        repr(item) if isinstance(item, PLAIN) else repr(list(told("", item, seen, depth)))
        for item in items
    ]
    return checksum(sorted(parts) if isinstance(collection, set | frozenset) else parts)


def name_of(value: Any) -> str:
    """A person's own module does not count: its name depends on how the file was found."""
    titled = value if isinstance(value, type | FunctionType | BuiltinFunctionType) else type(value)
    if not isinstance(titled, BuiltinFunctionType) and is_own(titled):
        return titled.__qualname__
    return f"{titled.__module__}.{titled.__qualname__}"


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
            yield from constants(kind)
    elif isinstance(value, nn.Module) or is_own(type(value)):
        yield "class", type(value)
        yield from attributes(value)
    elif hasattr(value, "__wrapped__"):
        yield "wrapped", value.__wrapped__
    else:
        yield from pickled(value)


def pickled(value: Any) -> Iterator[tuple[str, Any]]:
    """What a library's object is made of, where it is data alone, which can be pickled."""
    with suppress(Exception):
        pickle.dumps(value)
        made = value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        if isinstance(made, tuple):
            yield "made of", [list(x) if isinstance(x, Iterator) else x for x in made]


def constants(kind: type) -> Iterator[tuple[str, Any]]:
    """A class's functions, and the values that nothing is stored in place of."""
    stored = stored_by(kind)
    for name, value in vars(kind).items():
        function = function_of(value)
        if isinstance(function, FunctionType) or not (name.startswith("__") or name in stored):
            yield name, function


def function_of(value: Any) -> Any:
    """The function behind what stands in a class; another value as it is."""
    if isinstance(value, property):
        return value.fget
    return value.func if isinstance(value, cached_property) else getattr(value, "__func__", value)


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Of an object, but for those that its methods store, and private ones of a library's class."""
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
    """The attributes that functions of a class store, but for those of one name."""
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
    """Bytecode, names and constants, without places in the file."""
    yield from (code.co_code, code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from instructions(constant)
        elif constant != doc:
            yield constant
