"""Steps by rules on whole matrices, in chains that also have rules on elements.

Such a chain is cut into stages: by turns a stage of rules on elements and one rule on matrices.
Each stage works on what the stage before made of the gradient. A stage of elements is a chain of
its own with its own kernel. Only the last stage changes the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from thalweg.arguments import short
from thalweg.errors import UserError
from thalweg.fuse.eager import Cell, check_nothing_is_forgotten
from thalweg.rules.arithmetic import asking
from thalweg.rules.rule import Rule, State
from thalweg.rules.value import Value

Tensors = dict[str, Tensor]
OnMatrices = Callable[[type[Rule], Sequence[Cell]], None]

HANDED = "handed_on"
"""The name of the state that one stage hands on to the next, in the precision of states."""


class HandsOn(Rule):
    """Ends a stage: it keeps what the stage made of the gradient. The parameter does not change."""

    handed_on = State()

    def update(self, g: Value) -> Value:
        self.handed_on = g
        return g

    def stored(self, theta: Value) -> Value:  # noqa: ARG002 (the step is yet to be made)
        return self.param


class TakesOver(Rule):
    """Begins a stage: it takes what the stage before has handed on."""

    handed_on = State()

    def update(self, g: Value) -> Value:  # noqa: ARG002 (only the first stage uses the gradient)
        return self.handed_on


@cache
def stages_of(chain: tuple[type[Rule], ...]) -> tuple[tuple[type[Rule], ...], ...]:
    """The stages of a chain: by turns one of elements and one of a single rule on matrices.

    The first and the last are stages of elements.
    """
    on_whole = on_matrices(chain)
    if not on_whole:
        return (chain,)
    for rule in chain:
        if rule.position is not Rule.position:
            raise UserError(
                f"{rule.__name__} keeps the model at another point than theta, and cannot stand in"
                f" one chain with {on_whole.__name__}, which works on matrices."
            )
    # A rule may read hyperparameters of a rule in another stage: decay reads `lr`.
    hypers = {name: hyper for rule in chain for name, hyper in rule.hypers.items()}
    ends, begins = (type(kind.__name__, (kind,), hypers) for kind in (HandsOn, TakesOver))
    stages: list[list[type[Rule]]] = [[]]
    for rule in chain:
        if rule.matrices:
            stages[-1].append(ends)
            stages += [[rule], [begins]]
        else:
            stages[-1].append(rule)
    return tuple(map(tuple, stages))


def on_matrices(chain: Sequence[type[Rule]]) -> type[Rule] | None:
    """The first rule of a chain that works on whole matrices; None where there is none."""
    return next((rule for rule in chain if rule.matrices), None)


def check_matrices(chain: Sequence[type[Rule]], params: Sequence[Tensor]) -> None:
    """UserError for a parameter that is not a matrix, where a rule of the chain needs matrices."""
    rule = on_matrices(chain)
    if rule is None:
        return
    for param in params:
        if param.ndim < 2 or param.is_complex():
            kind = "complex numbers" if param.is_complex() else f"the shape {tuple(param.shape)}"
            raise UserError(
                f"{rule.__name__} works on matrices of real numbers, not on a parameter of {kind}:"
                " send it to another rule by a route, or give the optimizer the matrices alone."
            )


def step_matrices(rule: type[Rule], cells: Sequence[Cell]) -> None:
    """Applies a rule on matrices to the handed-on state of each cell.

    Cells of the same shape and age are stepped at once. The rule's states change in place.
    """
    alike: dict[Any, list[Cell]] = {}
    for cell in cells:
        x = cell.states[HANDED]
        if not x.numel():
            continue
        options = [cell.values[name] for name in (*rule.options, "t", "dtype")]
        alike.setdefault((x.shape, x.dtype, x.device, *options), []).append(cell)
    for some in alike.values():
        for cell, made in zip(some, stepped(rule, some), strict=True):
            x = cell.states[HANDED]
            cell.states[HANDED] = made.pop(HANDED).contiguous().view(x.shape)
            for name, new in made.items():
                cell.states[name].copy_(new.view(cell.states[name].shape))


def stepped(rule: type[Rule], cells: Sequence[Cell]) -> list[Tensors]:
    """What a rule makes of matrices of one shape: the states, and what is handed on."""
    each = [{name: cell.values[name] for name in numbers_of(cell)} for cell in cells]
    # A number that is the same for all stays one of Python's, on which a rule may decide.
    differing = [name for name in each[0] if any(own[name] != each[0][name] for own in each)]
    columns = {n: torch.tensor([own[n] for own in each], dtype=torch.float64) for n in differing}
    device = cells[0].param.device

    def step(numbers: Mapping[str, Any], tensors: Tensors) -> Tensors:
        live = rule.bound({**cells[0].values, **numbers, **tensors})
        made = {HANDED: live.update(tensors[HANDED])}
        check_nothing_is_forgotten(live, {**cells[0].values, **numbers, **tensors})
        made |= {name: getattr(live, name) for name in rule.states}
        return {name: fitting(rule, name, x, tensors[name]) for name, x in made.items()}

    token = asking.set(of_matrix)
    try:
        found = vmap(step)({n: x.to(device) for n, x in columns.items()}, together(rule, cells))
        return [{name: x[i] for name, x in found.items()} for i in range(len(cells))]
    except RuntimeError:  # such as a branch on numbers that differ: one by one it is possible
        tensors = together(rule, cells)
        return [step(own, {n: x[i] for n, x in tensors.items()}) for i, own in enumerate(each)]
    finally:
        asking.reset(token)


def numbers_of(cell: Cell) -> list[str]:
    """The settings that a rule may read, its own and others', which may differ between cells."""
    return [name for name, x in cell.values.items() if isinstance(x, float | tuple)]


def together(rule: type[Rule], cells: Sequence[Cell]) -> Tensors:
    """Copies of the tensors that a rule works on, stacked over the cells.

    A rule may change them in place.
    """
    held = [{"param": cell.param, **cell.states} for cell in cells]
    flat = {"param": 1, HANDED: 1}
    flat |= {name: 1 + bool(s.copies) for name, s in rule.states.items() if s.shape is None}
    names = ["param", HANDED, *rule.states]
    return {
        name: torch.stack([x[name].flatten(flat[name]) if name in flat else x[name] for x in held])
        for name in names
    }


def fitting(rule: type[Rule], name: str, made: Any, before: Tensor) -> Tensor:
    """A tensor that a rule has made, in the precision of the one before the step.

    UserError where the shape differs from the one before.
    """
    if isinstance(made, Tensor) and made.shape == before.shape:
        return made.to(before.dtype)
    found = f"the shape {tuple(made.shape)}" if isinstance(made, Tensor) else short(made)
    what = "what update of {} returns" if name == HANDED else f"{name} of {{}}"
    raise UserError(
        f"{what.format(rule.__name__)} must have the shape {tuple(before.shape)}, not {found}."
    )


def of_matrix(name: str, over: str, part: Tensor) -> Tensor:  # noqa: ARG001
    """A sum that a rule on matrices asks for; the rule has its whole tensor."""
    if over == "model":
        raise UserError(
            'a rule on matrices has no sum over="model"; a rule on elements in front of it may.'
        )
    return part
