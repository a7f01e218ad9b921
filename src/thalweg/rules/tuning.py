"""The settings of a chain that can be tuned, and their documented search spaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.arguments import number, short, word
from thalweg.errors import UserError, suggest
from thalweg.rules.rule import Hyper, Rule
from thalweg.rules.space import Space


@dataclass(frozen=True)
class Tunable:
    """A number that can be tuned.

    It has its hyperparameter, its documented space or None, and its present value, which is a
    number or a schedule.
    """

    hyper: Hyper
    space: Space | None
    value: Any

    @property
    def scheduled(self) -> bool:
        return not isinstance(self.value, float)

    @property
    def is_off(self) -> bool:
        return self.value == 0 and self.space is not None and self.space.scale == "log"


def tunables(chain: Iterable[Rule]) -> dict[str, Tunable]:
    """The numbers of a chain that can be tuned, by name; a pair is `betas[0]` and `betas[1]`."""
    found = {}
    for rule in chain:
        for name, hyper in rule.hypers.items():
            value, space = rule.settings[name], hyper.space
            if isinstance(value, tuple):
                spaces = space if isinstance(space, tuple) else (None,) * len(value)
                for i, part in enumerate(value):
                    found[f"{name}[{i}]"] = Tunable(hyper, spaces[i], part)
            else:
                assert not isinstance(space, tuple), "a number has one space"
                found[name] = Tunable(hyper, space, value)
    return found


def documented(known: Mapping[str, Tunable]) -> dict[str, Space]:
    """The documented search spaces, by the name of the setting.

    A setting that follows a schedule is left out, so that it keeps the schedule; except `lr`, whose
    schedule a race chooses. A setting that is off, at 0, is left out too, because no logarithmic
    space contains 0.
    """
    return {
        name: one.space
        for name, one in known.items()
        if one.space and (is_rate(name) or not (one.scheduled or one.is_off))
    }


def is_rate(name: str) -> bool:
    """Whether the setting is the `lr` of a chain, or of a route's chain."""
    return name.rpartition(".")[2] == "lr"


def first_rate(names: Iterable[str]) -> str:
    """The first `lr` among the names of settings; empty if there is none."""
    return next(filter(is_rate, names), "")


def space_of(known: Mapping[str, Tunable], name: str, given: Any) -> Space:
    """The search space that a user gives for a setting.

    given: a space, a pair of its ends, or a table of `low`, `high` and `scale`. Without a scale,
    the scale is the one that the rule documents; if it documents none, log above 0, otherwise
    linear. Raises UserError for a setting that cannot be tuned, and for a space that does not fit
    it.
    """
    if not isinstance(name, str) or name not in known:
        raise UserError(f"no setting {short(name)} can be tuned; {suggest(word(name), known)}")
    if not is_rate(name) and known[name].scheduled:
        raise UserError(
            f"{name} follows a schedule, which tuning would replace: make it a number, or leave it"
            " out of the space."
        )
    try:
        space = read(given, known[name].space)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    for end in (space.low, space.high):
        known[name].hyper.check(name, end)
    return space


def read(given: Any, usual: Space | None) -> Space:
    match given:
        case Space():
            return given
        case [low, high]:
            return Space(low, high, scale_of(low, usual))
        case {"low": low, "high": high, "scale": scale, **rest} if not rest:
            return Space(low, high, scale)
        case {"low": low, "high": high, **rest} if not rest:
            return Space(low, high, scale_of(low, usual))
    raise UserError(f"it needs a low and a high end, such as [1e-4, 0.1], not {short(given)}.")


def scale_of(low: Any, usual: Space | None) -> Any:
    if usual:
        return usual.scale
    return "log" if number(low) > 0 else "linear"
