"""The parts of a step by branches: the sums of a branch go over all of its parts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.fuse.eager import Cell
from thalweg.fuse.passes import (
    BranchPart,
    Combine,
    Part,
    by_branches,
    eagerly,
    over_model,
    shared_sums,
    sum_places,
)
from thalweg.optim.groups import Branch, GroupedOptimizer
from thalweg.optim.rows import stepped
from thalweg.optim.sharded import (
    check_by_shards,
    local,
    over_spread_model,
    step_sharded,
)
from thalweg.optim.state import starting, working

ParamWithGrad = tuple[Tensor, Tensor, int]
"""A parameter, the local part of its gradient, and the index of its group."""


def by_branch(
    optimizer: GroupedOptimizer, params: Iterable[ParamWithGrad]
) -> dict[Branch, list[int]]:
    """The places of the parameters that each branch steps."""
    branches = [optimizer.branch(group) for group in optimizer.param_groups]
    found: dict[Branch, list[int]] = {}
    for place, (_, _, index) in enumerate(params):
        found.setdefault(branches[index], []).append(place)
    return found


def step_in_passes(optimizer: GroupedOptimizer, parts: Sequence[BranchPart], spread: bool) -> None:
    """Runs all parts of a step, pass by pass; sums are over all parts of a branch.

    spread: whether the model is spread over processes.
    """
    branches, there = optimizer.branches(), {part.branch for part in parts}
    if spread:
        asking = [one for one in branches if sum_places(one[1], torch.float32) != ()]
        parts = [*parts, *(standing_by(optimizer, one) for one in asking if one not in there)]
    order: dict[Hashable, int] = {branch: place for place, branch in enumerate(branches)}

    def combine_for(some: Sequence[BranchPart]) -> Combine:
        if not spread:
            return over_model
        params = [param for each in some for param in each.params]
        return partial(over_spread_model, params, optimizer.parameters(), optimizer.zero)

    # All processes must run the branches in the same order.
    by_branches(sorted(parts, key=lambda part: order[part.branch]), combine_for)


def of_branch(
    optimizer: GroupedOptimizer, branch: Branch, params: Sequence[Tensor], part: Part
) -> BranchPart:
    """A part that steps these parameters, with its branch."""
    return BranchPart(branch, part, shared_sums(branch[1], optimizer.shared_rules), params)


@torch.no_grad()
def standing_by(optimizer: GroupedOptimizer, branch: Branch) -> BranchPart:
    """A part without elements, for a branch of which this process has no gradient.

    The process must still join in the sums of the other processes.
    """
    model, (_, chain) = optimizer.parameters(), branch
    check_by_shards(model, chain)
    index = [optimizer.branch(group) for group in optimizer.param_groups].index(branch)
    nothing = local(model[0]).new_empty(0, 0) if model else torch.empty(0, 0)
    values = optimizer.values(index) | {"t": 1, "dtype": nothing.dtype}
    states: dict[str, Any] = {}
    for rule in chain:
        states |= {name: starting(nothing, s, values) for name, s in rule.states.items()}
        states |= {name: state.init for name, state in rule.row_states.items()}
    cell = Cell(working(nothing), working(nothing), values, states)
    return of_branch(optimizer, branch, model[:1], eagerly(chain, [cell]))


def eager_parts(optimizer: GroupedOptimizer, params: Sequence[ParamWithGrad]) -> list[BranchPart]:
    """The parts that step parameters by eager arithmetic, one for each branch.

    RuntimeError for a parameter on the device meta in a group with `fused=True`, as in PyTorch.
    """
    if any(param.is_meta and optimizer.param_groups[i].get("fused") for param, _, i in params):
        raise RuntimeError(
            "`fused=True` requires all the params to be floating point Tensors with numbers in"
            " them; move the model from the device meta by its to_empty()."
        )
    parts = []
    for branch, some in by_branch(optimizer, params).items():
        mine = [params[place] for place in some]
        own = [param for param, _, _ in mine]
        check_by_shards(own, branch[1])
        held = [optimizer.held(branch[1], *each) for each in mine]
        part = stepped(branch[1], held, partial(step_sharded, own))
        parts.append(of_branch(optimizer, branch, own, part))
    return parts
