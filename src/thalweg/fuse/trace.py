"""Follows a chain of rules once, on stand-ins that record what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from thalweg.fuse import eager
from thalweg.fuse.program import Level, Operation, Program
from thalweg.rules.rule import Rule

RESERVED = {"param", "grad", "t", "step", "norm", "normed", "dtype"}


class Symbol:
    """Stands for a number in a rule's arithmetic, and records what becomes of it."""

    def __init__(self, program: Program, place: int) -> None:
        self.program = program
        self.place = place

    @property
    def level(self) -> Level:
        return self.program.operations[self.place].level

    def made(self, name: str, *arguments: Any) -> Symbol:
        """What a function of these arguments gives."""
        program = self.program
        places = tuple(
            given.place if isinstance(given, Symbol) else program.constant(given)
            for given in arguments
        )
        levels = [program.operations[place].level for place in places]
        level: Level = "element" if "element" in levels else "row"
        return Symbol(program, program.add(Operation(name, places, level)))

    def __add__(self, other: Any) -> Symbol:
        return self.made("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self.made("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self.made("subtract", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self.made("subtract", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self.made("multiply", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self.made("multiply", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self.made("divide", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.made("divide", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return self.made("power", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return self.made("power", other, self)

    def __mod__(self, other: Any) -> Symbol:
        return self.made("remainder", self, other)

    def __neg__(self) -> Symbol:
        return self.made("negate", self)

    def __lt__(self, other: Any) -> Symbol:
        return self.made("less", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return self.made("less", other, self)

    def __eq__(self, other: object) -> Any:
        return self.made("equal", self, other)

    __hash__ = None  # type: ignore[assignment]

    def sqrt(self) -> Symbol:
        return self.made("sqrt", self)

    def minimum(self, other: Any) -> Symbol:
        return self.made("minimum", self, other)

    def maximum(self, other: Any) -> Symbol:
        return self.made("maximum", self, other)

    def choose(self, yes: Any, no: Any) -> Symbol:
        return self.made("where", self, yes, no)

    def rounded(self, seed: Any, t: Any) -> Symbol:
        return self.made("rounded", self, seed, t)

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"{name} has no place in a straight line")

    def __bool__(self) -> bool:
        raise TypeError("a rule that takes a Python decision on its numbers cannot be traced")


def trace(
    chain: Sequence[type[Rule]], dtype: torch.dtype = torch.float32, maximize: bool = False
) -> Program:
    """The program of a chain's step, from `param`, `grad`, `t`, settings and states.

    dtype: in which the model holds its parameters. maximize: whether `grad` is the gradient of what
    is to be made large. A pair's parts are the inputs `betas[0]` and
    `betas[1]`. A norm is an input of the row, and the result `normed` is the element that it is
    taken of.

    Raises TypeError for a chain that no straight-line program can do.
    """
    program = Program()

    def row(label: str) -> Symbol:
        return Symbol(program, program.input(label, "row"))

    def element(label: str) -> Symbol:
        return Symbol(program, program.input(label, "element"))

    row_states = {name for rule in chain for name in rule.row_states}
    for rule in chain:
        if RESERVED & {*rule.known(), *rule.states, *rule.row_states, *rule.coming}:
            raise TypeError(f"{rule.__name__} takes a name that a step has for something else")
    values: dict[str, Any] = {"t": row("t"), "dtype": dtype}
    states: dict[str, Any] = {}
    for rule in chain:
        values |= {name: row(name) for name in rule.options}
        for name, hyper in rule.hypers.items():
            values[name] = pair_or_one(row, name, hyper.default)
        for name, following in rule.coming.items():
            values[name] = pair_or_one(row, name, defaults(chain)[following.hyper])
        if any(state.copies for state in rule.states.values()):
            raise TypeError("a state of several copies has no place in a straight line")
        states |= {name: element(name) for name in rule.states}
        states |= {name: row(name) for name in rule.row_states}
    grad: Any = -element("grad") if maximize else element("grad")
    cell = eager.Cell(element("param"), grad, values, states)  # type: ignore[arg-type]

    def norm_of(given: list[Any]) -> list[Any]:
        if "normed" in program.results:
            raise TypeError("a second norm needs a second pass")
        program.results["normed"] = given[0].place
        return [row("norm")]

    eager.step(chain, [cell], norm_of)
    for name, value in {"param": cell.param, **cell.states}.items():
        level = "row" if name in row_states else "element"
        if not isinstance(value, Symbol) or value.level != level:
            raise TypeError(f"{name} does not end as what it began")
        program.results[name] = value.place
    return program


def defaults(chain: Sequence[type[Rule]]) -> dict[str, Any]:
    return {name: hyper.default for rule in chain for name, hyper in rule.hypers.items()}


def pair_or_one(row: Any, name: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(row(f"{name}[{i}]") for i in range(len(default)))
    return row(name)
