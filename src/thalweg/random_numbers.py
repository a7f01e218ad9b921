"""The global random numbers of torch, NumPy and Python: keeping their states, and seeding them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

ORDER, SAMPLES, MODEL, EVALUATION = range(1, 5)
"""The purposes of random numbers other than the initial weights, which use the seed itself."""

GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "NumPy": (np.random.get_state, np.random.set_state),
    "Python": (random.getstate, random.setstate),
}
"""How the state of each generator is read and set; torch's is the generator on the CPU."""

States = Mapping[str, Any]
"""The states of some of the generators, by name."""


def states(names: Collection[str] = tuple(GENERATORS)) -> States:
    return {name: GENERATORS[name][0]() for name in names}


def put(states: States) -> None:
    for name, state in states.items():
        GENERATORS[name][1](state)


def drawn_from(before: States, after: States) -> list[str]:
    """The names of the generators whose states differ."""
    return [name for name in before if plain(before[name]) != plain(after[name])]


def plain(state: Any) -> Any:
    """A generator's state as lists, dictionaries and numbers, for comparison and for JSON."""
    if isinstance(state, torch.Tensor | np.ndarray):
        return state.tolist()
    if isinstance(state, dict):
        return {name: plain(part) for name, part in state.items()}
    return [plain(part) for part in state] if isinstance(state, tuple) else state


def from_plain(state: Any) -> Any:
    """The state that NumPy and Python take, from a plain one."""
    return tuple(map(from_plain, state)) if isinstance(state, list) else state


def as_data(states: States) -> dict[str, Any]:
    """The states as tensors and plain data, which a file can hold."""
    return {
        name: state if isinstance(state, torch.Tensor) else plain(state)
        for name, state in states.items()
    }


def from_data(data: Mapping[str, Any]) -> States:
    """The states that `as_data` was given."""
    return {
        name: state if isinstance(state, torch.Tensor) else from_plain(state)
        for name, state in data.items()
    }


def seed_all(seed: int) -> None:
    """Seeds all generators, torch's on the CPU. seed: below 2^32."""
    # torch.manual_seed is not used: its list of calls for devices that are not in use only grows.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Restores all random states, on every device in use, after the block."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    before = states(("NumPy", "Python"))
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        put(before)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seeds all generators, on every device in use, for the block, and restores them after it."""
    with random_numbers_kept():
        seed_all(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
        yield


OWN: dict[type, tuple[Callable[..., Any], Callable[..., object], Callable[..., object]]] = {
    np.random.Generator: (
        lambda own: own.bit_generator.state,
        lambda own, state: setattr(own.bit_generator, "state", state),
        lambda own, seed: setattr(own.bit_generator, "state", type(own.bit_generator)(seed).state),
    ),
    np.random.RandomState: (
        np.random.RandomState.get_state,
        np.random.RandomState.set_state,
        np.random.RandomState.seed,
    ),
    random.Random: (random.Random.getstate, random.Random.setstate, random.Random.seed),
    torch.Generator: (
        torch.Generator.get_state,
        torch.Generator.set_state,
        torch.Generator.manual_seed,
    ),
}
"""How the state of a user's own generator is read and set, and how it is seeded."""


@contextmanager
def drawing_too(own: Sequence[Any], seed: int) -> Iterator[None]:
    """Seeds these generators, of the types in `OWN`, for the block, and restores them after it."""
    before = [OWN[type(one)][0](one) for one in own]
    try:
        for one in own:
            OWN[type(one)][2](one, seed)
        yield
    finally:
        for one, state in zip(own, before, strict=True):
            OWN[type(one)][1](one, state)


def stream_seed(seed: int, *purpose: int) -> int:
    """The seed, below 2^32, of a stream for this purpose.

    It is a hash, because PyTorch's generator uses only the last 32 bits of a seed.
    """
    return int(np.random.SeedSequence((seed, *purpose)).generate_state(1)[0])


class RandomStream:
    """Random numbers on the CPU that depend only on a seed, and not on other draws in between.

    They are torch's and, if the first use draws from them, NumPy's and Python's, because exchanging
    all states takes as long as a small step.
    again: whether every use begins at the seed.
    """

    def __init__(self, seed: int, again: bool = False) -> None:
        self.seed, self.again = seed, again
        self.states: States = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """All generators draw from this stream in the block. The global states do not change."""
        first = not self.states
        outer = states() if first else states(self.states)
        if first:
            seed_all(self.seed)
            self.states = states()
        put(self.states)
        try:
            yield
        finally:
            after = states(self.states)
            if first:
                drawn = {"torch", *drawn_from(self.states, after)}
                self.states = {name: self.states[name] for name in drawn}
            if not self.again:
                self.states = {name: after[name] for name in self.states}
            put(outer)


def drawing_alike(function: Callable[..., T]) -> Callable[..., T]:
    """The function, which then draws the same random numbers at every call."""
    numbers = RandomStream(EVALUATION, again=True)

    @wraps(function, updated=())
    def called(*given: Any) -> T:
        with numbers.used():
            return function(*given)

    return called
