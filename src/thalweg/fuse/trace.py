"""Runs a chain of rules once on symbols, which record the operations on them as a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.program import Level, Operation, Program
from thalweg.rules.arithmetic import NO_ELEMENTS
from thalweg.rules.primitives import PRIMITIVES, Kind
from thalweg.rules.rule import Rule

RESERVED = {"param", "grad", "t", "step", "dtype"}


class Symbol:
    """Stands for a number in a rule's arithmetic, and records the operations on it."""

    def __init__(self, program: Program, place: int) -> None:
        self.program = program
        self.place = place

    __hash__ = None  # type: ignore[assignment]

    @property
    def level(self) -> Level:
        return self.program.operations[self.place].level

    def made(self, name: str, *arguments: Any) -> Symbol:
        """The result of a primitive on these arguments."""
        program = self.program
        given = [program.operations[x.place] for x in arguments if isinstance(x, Symbol)]
        among: Kind = "word" if any(one.kind == "word" for one in given) else "real"
        places = tuple(
            x.place if isinstance(x, Symbol) else program.constant(x, among) for x in arguments
        )
        level: Level = "element" if any(one.level == "element" for one in given) else "row"
        kind = PRIMITIVES[name].gives or among
        return Symbol(program, program.add(Operation(name, places, level, kind=kind)))

    def summed(self, name: str, over: str, *arguments: Any) -> Symbol:
        """The result of a sum over all elements of a tensor or a model, a number of the row."""
        if self.level == "row":
            raise UserError(NO_ELEMENTS)
        program = self.program
        places = tuple(
            x.place if isinstance(x, Symbol) else program.constant(x, "real") for x in arguments
        )
        program.asked.append(program.add(Operation(name, places, "row", over)))
        return Symbol(program, program.asked[-1])

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"a straight-line program has no {name}")

    def __bool__(self) -> bool:
        raise TypeError("a rule with a Python branch on its numbers cannot be traced")


def operator(name: str, reflected: bool) -> Callable[..., Symbol]:
    """The method of an operator; `reflected`: the symbol is its right argument, as in `2 - x`."""

    def method(self: Symbol, *others: Any) -> Symbol:
        arguments = (*others, self) if reflected else (self, *others)
        return self.made(name, *arguments)

    return method


for name in PRIMITIVES:
    setattr(Symbol, f"__{name}__", operator(name, reflected=False))
    turned = {"lt": "gt", "le": "ge"}.get(name, f"r{name}")
    setattr(Symbol, f"__{turned}__", operator(name, reflected=True))


def trace(
    chain: Sequence[type[Rule]], dtype: torch.dtype = torch.float32, maximize: bool = False
) -> Program:
    """The program of a chain's step. Its inputs are `param`, `grad`, `t`, settings and states.

    dtype: the type of the model's parameters. maximize: whether the step is to make the function of
    `grad` larger. A pair `betas` becomes the inputs `betas[0]` and `betas[1]`.

    Raises TypeError for a chain that is no straight-line program.
    """
    program = Program()

    def row(label: str) -> Symbol:
        return Symbol(program, program.input(label, "row"))

    def element(label: str) -> Any:
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
            raise TypeError("a straight-line program has no state of several copies")
        states |= {name: element(name) for name in rule.states}
        states |= {name: row(name) for name in rule.row_states}
    grad = -element("grad") if maximize else element("grad")
    cell = eager.Cell(element("param"), grad, values, states)
    param, rules = eager.step(chain, cell)
    cell.keep(rules)
    for name, value in {"param": param, **cell.states}.items():
        level = "row" if name in row_states else "element"
        if not isinstance(value, Symbol) or value.level != level:
            raise TypeError(f"{name} is not of the level {level} after the step")
        program.results[name] = value.place
    return program


def defaults(chain: Sequence[type[Rule]]) -> dict[str, Any]:
    return {name: hyper.default for rule in chain for name, hyper in rule.hypers.items()}


def pair_or_one(row: Any, name: str, default: Any) -> Any:
    """The input of a hyperparameter, or a tuple of inputs where it is a pair."""
    if isinstance(default, tuple):
        return tuple(row(f"{name}[{i}]") for i in range(len(default)))
    return row(name)
