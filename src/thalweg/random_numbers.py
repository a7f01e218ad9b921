"""Random numbers that torch, NumPy and Python draw for everybody: kept, and drawn from a seed."""

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
"""Purposes beside the initial weights, which the seed itself draws."""

GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "NumPy": (np.random.get_state, np.random.set_state),
    "Python": (random.getstate, random.setstate),
}
"""How the state of each is read and put; torch's is the one on the CPU."""

States = Mapping[str, Any]
"""Of some of the generators, by name."""


def states(names: Collection[str] = tuple(GENERATORS)) -> States:
    return {name: GENERATORS[name][0]() for name in names}


def put(states: States) -> None:
    for name, state in states.items():
        GENERATORS[name][1](state)


def drawn_from(before: States, after: States) -> list[str]:
    """The generators whose state is another."""
    return [name for name in before if plain(before[name]) != plain(after[name])]


def plain(state: Any) -> Any:
    """A generator's state in lists, dictionaries and numbers: it can be compared, and is JSON."""
    if isinstance(state, torch.Tensor | np.ndarray):
        return state.tolist()
    if isinstance(state, dict):
        return {name: plain(part) for name, part in state.items()}
    return [plain(part) for part in state] if isinstance(state, tuple) else state


def from_plain(state: Any) -> Any:
    """A state that was made plain, which NumPy and Python take."""
    return tuple(map(from_plain, state)) if isinstance(state, list) else state


def seed_all(seed: int) -> None:
    """All draw from this seed on, below 2^32; torch on the CPU."""
    # Not torch.manual_seed: it notes each call for devices that are not in use, without end.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """What is drawn after the block, on every device in use, is what would have been without it."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    before = states(("NumPy", "Python"))
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        put(before)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """All draw from a seed within the block, on every device in use, and go on as before after."""
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
"""How the state of a generator of somebody's own is read and put, and how it is seeded."""


@contextmanager
def drawing_too(own: Sequence[Any], seed: int) -> Iterator[None]:
    """These generators, of the types in `OWN`, draw from a seed within, and go on as before."""
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

    It is mixed, because PyTorch's generator looks at no more than the last 32 bits of a seed.
    """
    return int(np.random.SeedSequence((seed, *purpose)).generate_state(1)[0])


class RandomStream:
    """Random numbers on the CPU that a seed gives, whatever else draws in between.

    They are torch's, and NumPy's and Python's where the first use draws from these: to exchange
    their states takes as long as a small step.
    again: whether every use begins at the seed.
    """

    def __init__(self, seed: int, again: bool = False) -> None:
        self.seed, self.again = seed, again
        self.states: States = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """All draw from this stream within the block; the global states stay as they are."""
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
    """The function, which draws the same at every call."""
    numbers = RandomStream(EVALUATION, again=True)

    @wraps(function, updated=())
    def called(*given: Any) -> T:
        with numbers.used():
            return function(*given)

    return called
