"""Runs a step in passes, because rules may ask for sums over whole tensors or the whole model.

A *part* of a step is a generator that steps some tensors. In each pass it yields the sums over its
own tensors, one row for each tensor. It receives the sums over the whole tensors and the whole
model. All parts finish a pass before the next pass begins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from functools import cache, partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.fuse.matrices import HANDED, OnMatrices, on_matrices, stages_of, step_matrices
from thalweg.fuse.trace import trace
from thalweg.rules.arithmetic import asking
from thalweg.rules.primitives import SUMS
from thalweg.rules.rule import Rule

Kinds = tuple[tuple[str, str], ...]
"""The name and the scope of each sum of a pass."""

Place = tuple[int, int]
"""The place of a sum: the number of its pass, from 1, and its column in that pass."""


Numbers = Tensor | NDArray[np.float64]
"""An array on the CPU, where NumPy's calls are quicker: it matters for few and small tensors."""


class Sums(NamedTuple):
    """The sums of one pass over the tensors of a part."""

    kinds: Kinds
    numbers: Float64[Numbers, "tensors sums"]


Part = Generator[Sums, Numbers, None]
Combine = Callable[[Kinds, Numbers], Numbers]
"""Computes the sums over whole tensors and the whole model.

It is given, for each tensor, the sums over the elements that are in this process.
"""


def over_model(kinds: Kinds, sums: Float64[Numbers, "t ... s"]) -> Float64[Numbers, "t ... s"]:
    """The sums over a model whose tensors are all here and whole; they replace those in `sums`."""
    numbers = sums.numpy() if isinstance(sums, Tensor) and sums.is_cpu else sums
    with np.errstate(all="ignore"):  # not-a-numbers pass through without a warning
        for i, (name, over) in enumerate(kinds):
            if over == "model":
                numbers[..., i] = folded(name, numbers[..., i])
    return sums


def folded(name: str, sums: Any) -> Any:
    """The sum over all rows of an array or a tensor of sums."""
    if isinstance(sums, Tensor):
        return sums.amax(0) if name == "largest" else sums.sum(0)
    # Added in order, so that a member's sum has the same bits whatever members are beside it.
    return SUMS[name].fold.accumulate(sums, 0)[-1]


def run_together(parts: Sequence[Part], combine: Combine = over_model) -> None:
    """Runs all parts of a step, pass by pass."""
    asked = [advanced(part, None) for part in parts]
    while any(asked):
        kinds = agreed([sums.kinds if sums else () for sums in asked])
        found = combined([sums.numbers for sums in asked if sums], partial(combine, kinds))
        asked = [advanced(part, own) for part, own in zip(parts, found, strict=True)]


def combined(
    numbers: Sequence[Numbers], combine: Callable[[Numbers], Numbers]
) -> Sequence[Numbers]:
    """Joins the rows of all parts, applies `combine`, and splits the result by parts again."""
    if len(numbers) == 1:
        return [combine(numbers[0])]
    tensors = [torch.as_tensor(each) for each in numbers]
    found = combine(torch.cat([each.to(tensors[0].device) for each in tensors]))
    return torch.as_tensor(found).split_with_sizes([len(each) for each in tensors])


class BranchPart(NamedTuple):
    """A part of a step that belongs to a branch.

    Its sums over the model are over the branch, except for the sums that all branches share.
    shared: for each pass, the columns of the shared sums. params: the parameters that the part
    steps; only needed where they are spread over processes.
    """

    branch: Hashable
    part: Part
    shared: Sequence[Sequence[int]]
    params: Sequence[Tensor] = ()

    def keys(self, number: int, kinds: Kinds) -> list[Hashable]:
        """A key for each sum of a pass, numbered from 0. Parts with the same key share the sum."""
        shared = self.shared[number] if number < len(self.shared) else ()
        return [
            shared.index(column) if column in shared else (self.branch, column)
            for column in range(len(kinds))
        ]


def by_branches(
    parts: Sequence[BranchPart], combine_for: Callable[[Sequence[BranchPart]], Combine]
) -> None:
    """Runs the parts of several branches, pass by pass.

    combine_for: gives the function that combines the sums of some of the parts. Some branches need
    more passes than others, so the last passes have fewer parts.
    """
    if len({part.branch for part in parts}) < 2:
        run_together([each.part for each in parts], combine_for(parts))
        return
    asked = [advanced(each.part, None) for each in parts]
    for number in count():
        for branch in {each.branch for each in parts}:
            own = zip(parts, asked, strict=True)
            agreed([sums.kinds if sums else () for each, sums in own if each.branch == branch])
        live = [(each, sums) for each, sums in zip(parts, asked, strict=True) if sums]
        if not live:
            return
        parts = [each for each, _ in live]
        found = combined_by_branch(live, number, combine_for(parts))
        asked = [advanced(each.part, own) for each, own in zip(parts, found, strict=True)]


def combined_by_branch(
    asked: Sequence[tuple[BranchPart, Sums]], number: int, combine: Combine
) -> list[Tensor]:
    """The combined sums of a pass for each part, computed in one table with a column for each key.

    number: the number of the pass, from 0.
    """
    keys = [part.keys(number, sums.kinds) for part, sums in asked]
    kinds: dict[Hashable, tuple[str, str]] = {}
    for own, (_, sums) in zip(keys, asked, strict=True):
        kinds |= zip(own, sums.kinds, strict=True)
    columns = [[list(kinds).index(key) for key in own] for own in keys]
    nothing = torch.tensor([SUMS[name].start for name, _ in kinds.values()], dtype=torch.float64)
    rows = []
    for places, (_, sums) in zip(columns, asked, strict=True):
        numbers = torch.as_tensor(sums.numbers)
        rows.append(nothing.to(numbers.device).repeat(len(numbers), 1))
        rows[-1][:, places] = numbers
    found = combined(rows, partial(combine, tuple(kinds.values())))
    return [torch.as_tensor(x)[:, own] for x, own in zip(found, columns, strict=True)]


@cache
def shared_sums(chain: tuple[type[Rule], ...], shared: int) -> tuple[tuple[int, ...], ...]:
    """For each pass of a chain, the columns of the sums that its first `shared` rules ask for."""
    front = sum_places(chain[:shared], torch.float32)
    if front is None:
        names = ", ".join(rule.__name__ for rule in chain[:shared])
        raise UserError(
            f"{names} cannot be traced, and so cannot be shared by several routes: put it in the"
            " chain of each route."
        )
    asked = sum_places(chain, torch.float32)
    places = [(i, 0) for i in range(1, len(front) + 1)] if asked is None else asked[: len(front)]
    last = max((number for number, _ in places), default=0)
    return tuple(
        tuple(sorted({column for number, column in places if number == each}))
        for each in range(1, last + 1)
    )


def advanced(part: Part, found: Numbers | None) -> Sums | None:
    """Sends a part the sums that it asked for; gives the next ones, or None when it is done."""
    try:
        return part.send(found)  # type: ignore[arg-type]
    except StopIteration:
        return None


def agreed(kinds: Sequence[Kinds]) -> Kinds:
    """The kinds that all tensors ask for; UserError where they differ."""
    if len(set(kinds)) > 1:
        raise UserError(
            "a rule asks for different sums for different tensors: it must ask for the same sums,"
            " in the same order, for every tensor."
        )
    return kinds[0]


class Waiting(BaseException):
    """Stops a cell at a sum that is not known yet.

    It is a BaseException, so that a rule's `except Exception` does not catch it.
    """


class Asked:
    """The sums that a chain asks for while it steps a cell; some of them are known already.

    places: the places of the sums, in the order in which the chain asks for them; None for a chain
    that cannot be traced. Such a chain stops at the first sum that is not known.
    """

    def __init__(self, places: Sequence[Place] | None, known: dict[Place, Tensor]) -> None:
        self.places, self.known = places, known
        self.asked = 0
        self.kinds: dict[Place, tuple[str, str]] = {}
        self.numbers: dict[Place, Tensor] = {}

    def __call__(self, name: str, over: str, number: Tensor) -> Tensor:
        place = (self.asked + 1, 0) if self.places is None else self.places[self.asked]
        self.asked += 1
        self.kinds[place], self.numbers[place] = (name, over), number
        if place in self.known:
            return self.known[place].to(number.device)
        if self.places is None:
            raise Waiting
        return torch.full_like(number, torch.nan)

    def kinds_at(self, places: Sequence[Place]) -> Kinds:
        return tuple(self.kinds.get(place, ("", "")) for place in places)


@cache
def sum_places(chain: tuple[type[Rule], ...], dtype: torch.dtype) -> tuple[Place, ...] | None:
    """The places of a chain's sums, in the order in which the chain asks for them.

    None for a chain that cannot be traced. For a chain with rules on matrices, the places of the
    sums of its stages of elements.
    """
    if on_matrices(chain):
        of_stages = [sum_places(stage, dtype) for stage in stages_of(chain)[::2]]
        known = [places for places in of_stages if places is not None]
        return sum(known, ()) if len(known) == len(of_stages) else None
    try:
        program = trace(chain, dtype)
    except UserError:
        raise
    except Exception:  # a rule may fail in any way on values that are not numbers or tensors
        return None
    found = {
        place: (number, column)
        for number, places in enumerate(program.passes(), 1)
        for column, place in enumerate(places)
    }
    return tuple(found[place] for place in program.asked)


def goes_by_shards(chain: tuple[type[Rule], ...]) -> bool:
    """Whether a chain can step each shard of a tensor without the other shards.

    A chain that can be traced can do so. Averages are left out of the test: they work by shards,
    but some of them keep several copies and cannot be traced.
    """
    front = tuple(rule for rule in chain if rule.place != "last")
    return sum_places(front, torch.float32) is not None


def eagerly(
    chain: tuple[type[Rule], ...], cells: Sequence[Cell], on_whole: OnMatrices = step_matrices
) -> Part:
    """Steps every cell by the chain's arithmetic; each cell then holds its values after the step.

    on_whole: steps the cells by a rule on matrices.
    """
    for stage in stages_of(chain):
        if on_matrices(stage):
            on_whole(stage[0], cells)
        else:
            yield from by_elements(stage, cells)
    for cell in cells:
        cell.states.pop(HANDED, None)


def by_elements(chain: tuple[type[Rule], ...], cells: Sequence[Cell]) -> Part:
    """Steps every cell by a stage of elements.

    Where the stage asks for sums, every pass computes all cells again, until all sums are known.
    """
    known: list[dict[Place, Tensor]] = [{} for _ in cells]
    for number in count(1):
        runs = [run(chain, *each) for each in zip(cells, known, strict=True)]
        asked, ends = zip(*runs, strict=True)
        places = sorted({place for each in asked for place in each.numbers if place[0] == number})
        kinds = agreed([each.kinds_at(places) for each in asked])
        if not places:
            break
        device = asked[0].numbers[places[0]].device
        rows = [torch.stack([each.numbers[place] for place in places]) for each in asked]
        found = yield Sums(kinds, torch.stack([row.to(device) for row in rows]))
        for own, row in zip(known, torch.as_tensor(found), strict=True):
            own.update(zip(places, row, strict=True))
    for cell, end in zip(cells, ends, strict=True):
        cell.param, rules = end
        cell.keep(rules)


def run(
    chain: tuple[type[Rule], ...], cell: Cell, known: dict[Place, Tensor]
) -> tuple[Asked, tuple[Tensor, list[Rule]] | None]:
    """The sums that a cell asks for, and the result of its step; None where it waits for a sum."""
    asked = Asked(sum_places(chain, cell.values["dtype"]), known)
    before = versions(cell)
    token = asking.set(asked)
    try:
        return asked, eager.step(chain, cell)
    except Waiting:
        if versions(cell) != before:
            raise UserError(
                "a rule changes a tensor in place before it asks for a sum, and would change it"
                " again when the sum is known: give the state a new tensor, as in self.m = 0.9 *"
                " self.m."
            ) from None
        return asked, None
    finally:
        asking.reset(token)


def versions(cell: Cell) -> list[int]:
    """The version of each of a cell's tensors; it grows when a tensor is changed in place."""
    tensors = [cell.param, cell.grad, *cell.states.values()]
    return [x._version for x in tensors if isinstance(x, Tensor) and not x.is_inference()]
