"""Runs a step in passes: the sums of a pass go over all that is stepped before the next begins.

Who steps a part of a model is a generator. In each pass it gives the sums over what it steps, a row
for each tensor, and is sent what they are over the whole tensors and the whole model.
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
"""The name of each sum of a pass, and what it goes over."""

Place = tuple[int, int]
"""Of a sum: its pass, from 1, and its column there."""


Numbers = Tensor | NDArray[np.float64]
"""On the CPU an array: NumPy's calls are quicker, which counts where tensors are few and small."""


class Sums(NamedTuple):
    kinds: Kinds
    parts: Float64[Numbers, "tensors sums"]


Part = Generator[Sums, Numbers, None]
Whole = Callable[[Kinds, Numbers], Numbers]
"""From the sums over what is here of each tensor, those over whole tensors and the whole model."""


def over_model(kinds: Kinds, parts: Float64[Numbers, "t ... s"]) -> Float64[Numbers, "t ... s"]:
    """The sums over a model of which all tensors, and all of each, are here; put into `parts`."""
    numbers = parts.numpy() if isinstance(parts, Tensor) and parts.is_cpu else parts
    with np.errstate(all="ignore"):  # what is not a number comes through
        for i, (name, over) in enumerate(kinds):
            if over == "model":
                numbers[..., i] = folded(name, numbers[..., i])
    return parts


def folded(name: str, parts: Any) -> Any:
    """One sum of the parts in the rows of an array or a tensor."""
    if isinstance(parts, Tensor):
        return parts.amax(0) if name == "largest" else parts.sum(0)
    # One after the other: a member's sum has the same bits whatever other members are beside it.
    return SUMS[name].fold.accumulate(parts, 0)[-1]


def together(parts: Sequence[Part], whole: Whole = over_model) -> None:
    """Runs the parts of a model side by side, pass by pass."""
    asked = [sent(part, None) for part in parts]
    while any(asked):
        kinds = agreed([sums.kinds if sums else () for sums in asked])
        shares = side_by_side([each.parts for each in asked if each], partial(whole, kinds))
        asked = [sent(part, share) for part, share in zip(parts, shares, strict=True)]


def side_by_side(
    parts: Sequence[Numbers], whole: Callable[[Numbers], Numbers]
) -> Sequence[Numbers]:
    """What `whole` makes of the rows of all parts, in parts again."""
    if len(parts) == 1:
        return [whole(parts[0])]
    tensors = [torch.as_tensor(each) for each in parts]
    found = whole(torch.cat([each.to(tensors[0].device) for each in tensors]))
    return torch.as_tensor(found).split_with_sizes([len(each) for each in tensors])


class BranchPart(NamedTuple):
    """A part of a branch: its sums are over the branch, but for those that all branches share.

    shared: of each pass, the columns of the latter. params: what it steps, where that counts.
    """

    branch: Hashable
    part: Part
    shared: Sequence[Sequence[int]]
    params: Sequence[Tensor] = ()

    def keys(self, number: int, kinds: Kinds) -> list[Hashable]:
        """What the sums of a pass, from 0, are over: parts with the same key share a sum."""
        shared = self.shared[number] if number < len(self.shared) else ()
        return [
            shared.index(column) if column in shared else (self.branch, column)
            for column in range(len(kinds))
        ]


def by_branches(
    parts: Sequence[BranchPart], whole: Callable[[Sequence[BranchPart]], Whole]
) -> None:
    """Runs the parts of several branches side by side, pass by pass.

    whole: what makes the sums over all of these parts; some branches need more passes than others.
    """
    if len({part.branch for part in parts}) < 2:
        together([each.part for each in parts], whole(parts))
        return
    asked = [sent(each.part, None) for each in parts]
    for number in count():
        for branch in {each.branch for each in parts}:
            own = zip(parts, asked, strict=True)
            agreed([sums.kinds if sums else () for each, sums in own if each.branch == branch])
        live = [(each, sums) for each, sums in zip(parts, asked, strict=True) if sums]
        if not live:
            return
        parts = [each for each, _ in live]
        found = of_branches(live, number, whole(parts))
        asked = [sent(each.part, own) for each, own in zip(parts, found, strict=True)]


def of_branches(
    asked: Sequence[tuple[BranchPart, Sums]], number: int, whole: Whole
) -> list[Tensor]:
    """What the sums of a pass are, in one table that has a column for each."""
    keys = [part.keys(number, sums.kinds) for part, sums in asked]
    kinds: dict[Hashable, tuple[str, str]] = {}
    for own, (_, sums) in zip(keys, asked, strict=True):
        kinds |= zip(own, sums.kinds, strict=True)
    columns = [[list(kinds).index(key) for key in own] for own in keys]
    nothing = torch.tensor([SUMS[name].start for name, _ in kinds.values()], dtype=torch.float64)
    rows = []
    for places, (_, sums) in zip(columns, asked, strict=True):
        numbers = torch.as_tensor(sums.parts)
        rows.append(nothing.to(numbers.device).repeat(len(numbers), 1))
        rows[-1][:, places] = numbers
    found = side_by_side(rows, partial(whole, tuple(kinds.values())))
    return [torch.as_tensor(x)[:, own] for x, own in zip(found, columns, strict=True)]


@cache
def shared_sums(chain: tuple[type[Rule], ...], shared: int) -> tuple[tuple[int, ...], ...]:
    """Of each pass of a chain, the columns of the sums that its first `shared` rules ask for."""
    front = places_of(chain[:shared], torch.float32)
    if front is None:
        names = ", ".join(rule.__name__ for rule in chain[:shared])
        raise UserError(
            f"{names} cannot be traced, and so cannot be shared by several routes: put it in the"
            " chain of each route."
        )
    asked = places_of(chain, torch.float32)
    places = [(i, 0) for i in range(1, len(front) + 1)] if asked is None else asked[: len(front)]
    last = max((number for number, _ in places), default=0)
    return tuple(
        tuple(sorted({column for number, column in places if number == each}))
        for each in range(1, last + 1)
    )


def sent(part: Part, found: Numbers | None) -> Sums | None:
    """What a part asks for next; nothing when it is done."""
    try:
        return part.send(found)  # type: ignore[arg-type]
    except StopIteration:
        return None


def agreed(kinds: Sequence[Kinds]) -> Kinds:
    if len(set(kinds)) > 1:
        raise UserError(
            "a rule asks for other sums of one tensor than of another: each must ask for the same"
            " in the same order."
        )
    return kinds[0]


class Waiting(BaseException):
    """Stops a cell at a sum that is not known yet; no rule that catches errors catches it."""


class Asked:
    """The sums that a cell asks for on its way through a chain, of which some are known.

    places: of each, in the order in which they are asked for; none for a chain that cannot be
    traced, which stops at the first that is not known.
    """

    def __init__(self, places: Sequence[Place] | None, known: dict[Place, Tensor]) -> None:
        self.places, self.known = places, known
        self.asked = 0
        self.kinds: dict[Place, tuple[str, str]] = {}
        self.parts: dict[Place, Tensor] = {}

    def __call__(self, name: str, over: str, part: Tensor) -> Tensor:
        place = (self.asked + 1, 0) if self.places is None else self.places[self.asked]
        self.asked += 1
        self.kinds[place], self.parts[place] = (name, over), part
        if place in self.known:
            return self.known[place].to(part.device)
        if self.places is None:
            raise Waiting
        return torch.full_like(part, torch.nan)

    def kinds_at(self, places: Sequence[Place]) -> Kinds:
        return tuple(self.kinds.get(place, ("", "")) for place in places)


@cache
def places_of(chain: tuple[type[Rule], ...], dtype: torch.dtype) -> tuple[Place, ...] | None:
    """Those of the sums of a chain, as they are asked for; none where it cannot be traced.

    Of a chain with rules on matrices, those of its stages of elements.
    """
    if on_matrices(chain):
        of_stages = [places_of(stage, dtype) for stage in stages_of(chain)[::2]]
        known = [places for places in of_stages if places is not None]
        return sum(known, ()) if len(known) == len(of_stages) else None
    try:
        program = trace(chain, dtype)
    except UserError:
        raise
    except Exception:  # a rule may fail in any way on what is neither a number nor a tensor
        return None
    found = {
        place: (number, column)
        for number, places in enumerate(program.passes(), 1)
        for column, place in enumerate(places)
    }
    return tuple(found[place] for place in program.asked)


def goes_by_shards(chain: tuple[type[Rule], ...]) -> bool:
    """Whether each part of a tensor is stepped alike, whatever the other parts hold.

    So it is where a chain can be traced, but for its averages: some keep several copies.
    """
    front = tuple(rule for rule in chain if rule.place != "last")
    return places_of(front, torch.float32) is not None


def eagerly(
    chain: tuple[type[Rule], ...], cells: Sequence[Cell], on_whole: OnMatrices = step_matrices
) -> Part:
    """Takes every cell through the chain; `param` and `states` are then those after the step.

    on_whole: what steps the matrices.
    """
    for stage in stages_of(chain):
        if on_matrices(stage):
            on_whole(stage[0], cells)
        else:
            yield from by_elements(stage, cells)
    for cell in cells:
        cell.states.pop(HANDED, None)


def by_elements(chain: tuple[type[Rule], ...], cells: Sequence[Cell]) -> Part:
    """Takes every cell through a stage of elements.

    Where sums are asked for, all cells run anew in each pass, until all sums are known.
    """
    known: list[dict[Place, Tensor]] = [{} for _ in cells]
    for number in count(1):
        runs = [run(chain, *each) for each in zip(cells, known, strict=True)]
        asked, ends = zip(*runs, strict=True)
        places = sorted({place for each in asked for place in each.parts if place[0] == number})
        kinds = agreed([each.kinds_at(places) for each in asked])
        if not places:
            break
        device = asked[0].parts[places[0]].device
        parts = [torch.stack([each.parts[place] for place in places]) for each in asked]
        found = yield Sums(kinds, torch.stack([part.to(device) for part in parts]))
        for own, row in zip(known, torch.as_tensor(found), strict=True):
            own.update(zip(places, row, strict=True))
    for cell, end in zip(cells, ends, strict=True):
        cell.param, rules = end
        cell.keep(rules)


def run(
    chain: tuple[type[Rule], ...], cell: Cell, known: dict[Place, Tensor]
) -> tuple[Asked, tuple[Tensor, list[Rule]] | None]:
    """What a cell asks for, and where its step ends; nowhere where it waits for a sum."""
    asked = Asked(places_of(chain, cell.values["dtype"]), known)
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
    """They tell which of a cell's tensors have been changed in place."""
    tensors = [cell.param, cell.grad, *cell.states.values()]
    return [x._version for x in tensors if isinstance(x, Tensor) and not x.is_inference()]
