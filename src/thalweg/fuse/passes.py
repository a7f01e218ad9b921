"""Runs a step in passes: the sums of a pass go over all that is stepped before the next begins.

Who steps a part of a model is a generator. In each pass it gives the sums over what it steps, a row
for each tensor, and is sent what they are over the whole tensors and the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.fuse.trace import trace
from thalweg.rules.arithmetic import asking
from thalweg.rules.primitives import SUMS
from thalweg.rules.rule import Rule

Kinds = tuple[tuple[str, str], ...]
"""The name of each sum of a pass, and what it goes over."""

Place = tuple[int, int]
"""Of a sum: its pass, from 1, and its column there."""


class Sums(NamedTuple):
    kinds: Kinds
    parts: Float64[Tensor, "tensors sums"]


Part = Generator[Sums, Tensor, None]
Whole = Callable[[Kinds, Tensor], Tensor]
"""From the sums over what is here of each tensor, those over whole tensors and the whole model."""


def over_model(kinds: Kinds, parts: Float64[Tensor, "t ... s"]) -> Float64[Tensor, "t ... s"]:
    """The sums over a model of which all tensors, and all of each, are here."""
    found = parts.clone()
    # NumPy calls are quicker than PyTorch's, which counts where tensors are few and small.
    numbers = found.numpy() if found.device.type == "cpu" else found
    with np.errstate(all="ignore"):  # what is not a number comes through
        for i, (name, over) in enumerate(kinds):
            if over == "model":
                numbers[..., i] = folded(name, numbers[..., i])
    return found


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
        sums = [each.parts for each in asked if each]
        found = whole(kinds, torch.cat([each.to(sums[0].device) for each in sums]))
        shares = found.split_with_sizes([len(each) for each in sums])
        asked = [sent(part, share) for part, share in zip(parts, shares, strict=True)]


class Side(NamedTuple):
    """The parts of a branch: its sums are its own, but for those that all branches share.

    shared: of each pass, the columns of the latter.
    """

    parts: Sequence[Part]
    whole: Whole
    shared: Sequence[Sequence[int]]

    def shared_in(self, number: int) -> list[int]:
        """The columns of a pass, from 0, that are shared."""
        return list(self.shared[number]) if number < len(self.shared) else []


def branches_together(sides: Sequence[Side], whole: Whole) -> None:
    """Runs branches side by side; what they share is summed over all of them by `whole`."""
    if len(sides) < 2 or not any(side.shared for side in sides):
        for side in sides:
            together(side.parts, side.whole)
        return
    asked = [[sent(part, None) for part in side.parts] for side in sides]
    for number in count():
        live = [(i, sides[i], each) for i, each in enumerate(asked) if any(each)]
        if not live:
            return
        kinds = [agreed([one.kinds if one else () for one in each]) for _, _, each in live]
        sums = [rows_of(each) for *_, each in live]
        columns = [side.shared_in(number) for _, side, _ in live]
        shares = [x[:, own].to(sums[0].device) for x, own in zip(sums, columns, strict=True)]
        if columns[0]:  # all share as many in the same pass
            joint = tuple(kinds[0][column] for column in columns[0])
            every = torch.as_tensor(whole(joint, torch.cat(shares)))
            shares = list(every.split_with_sizes([len(x) for x in sums]))
        for (i, side, each), own, x, mine, share in zip(
            live, kinds, sums, columns, shares, strict=True
        ):
            found = torch.as_tensor(side.whole(own, x)) if len(mine) < len(own) else x
            found[:, mine] = share.to(found.device)
            rows = found.split_with_sizes([len(one.parts) for one in each if one])
            asked[i] = [sent(*both) for both in zip(side.parts, rows, strict=True)]


def rows_of(asked: Sequence[Sums | None]) -> Tensor:
    """The rows of all parts of a branch, on one device."""
    rows = [torch.as_tensor(one.parts) for one in asked if one]
    return torch.cat([each.to(rows[0].device) for each in rows])


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


def sent(part: Part, found: Tensor | None) -> Sums | None:
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
    """Those of the sums of a chain, as they are asked for; none where it cannot be traced."""
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


def eagerly(chain: tuple[type[Rule], ...], cells: Sequence[Cell]) -> Part:
    """Takes every cell through the chain; `param` and `states` are then those after the step.

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
        for own, row in zip(known, found, strict=True):
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
