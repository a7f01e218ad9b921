"""Members stepped together: their parameters in one tensor, a row for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from thalweg.recipes import Recipe
from thalweg.stack.batches import Batch, Batches, evaluation_batches, joined
from thalweg.stack.member import Divergence, Member
from thalweg.stack.population import (
    Population,
    averages,
    batch_norms,
    divergence,
    estimate_batch_norm,
    initial_model,
    trained_names,
)
from thalweg.stack.rows import Rows
from thalweg.tasks.task import Task

Tensors = dict[str, Tensor]

STEPPED_AT_ONCE = 2**18
"""Numbers in a group: temporaries of more than this cost page faults at every step."""


class Stacked(Population):
    """K members in rows `[R, P]`, R being K rounded up to whole blocks of one width.

    A row holds all parameters of a member, one after the other; a model's parameter is a view
    `[R, *shape]` of some columns, contiguous for each member. Forward and backward run block by
    block under `torch.func.vmap`, in blocks of one shape, so that a member's arithmetic is the same
    whatever else fills its block; rows that no member has are copies of the first and are never
    stepped. Its place in the block is of no account either, but to the last bit where the matrices
    of neighbours are not aligned alike: MKL rounds by the alignment. The optimizer steps
    neighbours that share a chain together, with their hyperparameters as columns: order members by
    recipe.
    """

    def __init__(self, task: Task, members: Sequence[Member], width: int) -> None:
        self.task, self.width = task, width
        self.members = list(members)
        self.diverged: list[Divergence | None] = [None] * len(members)
        self.steps = 0
        models = {seed: initial_model(task, seed) for seed in {m.seed for m in members}}
        self.batches = Batches(task, models)
        # Only its structure is used; the members' numbers are put in its place.
        self.model = initial_model(task, members[0].seed)
        gradient_reaches = trained_names(task)
        params = dict(self.model.named_parameters())
        self.shapes = {n: p.shape for n, p in params.items() if n in gradient_reaches}
        require_one_kind([params[name] for name in self.shapes])
        each = [models[member.seed] for member in members]
        held = [dict(model.named_parameters()) for model in each]
        with torch.no_grad():
            self.rows = torch.stack(
                [torch.cat([p[n].flatten() for n in self.shapes]) for p in held]
            )
            self.constants = stacked(held, [name for name in params if name not in self.shapes])
            self.buffers = stacked([dict(model.named_buffers()) for model in each])
        self.groups = groups_of([member.recipe for member in members], self.rows.shape[1])
        self.choose(range(len(members)))

    def choose(self, places: Sequence[int]) -> None:
        """Takes these rows in this order, and fills up the last block with copies of the first."""
        padding = -len(places) % self.width
        chosen = torch.tensor([*places, *[places[0]] * padding])
        self.rows = self.rows[chosen]
        self.constants = {name: x[chosen] for name, x in self.constants.items()}
        self.buffers = {name: x[chosen] for name, x in self.buffers.items()}

    def blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.rows), self.width):
            yield slice(start, start + self.width)

    def step(self) -> list[float]:
        losses, gradients = self.gradients()
        for group in self.groups:
            moved = group.step(self.rows[group.rows], gradients[group.rows], self.steps)
            self.commit(group.rows, moved, losses, gradients)
        self.steps += 1
        values: list[float] = losses[: len(self.members)].tolist()
        return values

    def gradients(self) -> tuple[Float[Tensor, " R"], Float[Tensor, "R P"]]:
        """The losses and gradients of all rows on their next batches."""
        self.batches.advance()
        self.model.train()
        losses, gradients = zip(*map(self.block_gradients, self.blocks()), strict=True)
        return torch.cat(losses), torch.cat(gradients)

    def block_gradients(self, block: slice) -> tuple[Tensor, Tensor]:
        seeds = [member.seed for member in self.members[block]]
        seeds += [seeds[0]] * (self.width - len(seeds))
        # Each row has its batch, though one be the same for all: a batch without a dimension of
        # rows would be multiplied in another order, and a member's bits depend on its neighbours.
        losses, gradients, buffers = self.differentiated(
            self.rows[block],
            part(self.constants, block),
            part(self.buffers, block),
            self.batches.of(seeds),
        )
        self.put_buffers(block, buffers)
        return losses, gradients

    def differentiated(
        self, rows: Float[Tensor, "W P"], constants: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Float[Tensor, " W"], Float[Tensor, "W P"], Tensors]:
        """The losses of a block's rows, their gradients, and the buffers after the forward pass."""
        rows = rows.detach().requires_grad_()
        losses, buffers = vmap(self.loss, randomness="different")(
            self.views(rows), constants, buffers, batch
        )
        (gradients,) = torch.autograd.grad(losses.sum(), rows)
        return losses.detach(), gradients, {n: buffer.detach() for n, buffer in buffers.items()}

    def loss(self, rows: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """One member's loss, and its buffers after the forward pass."""
        outputs, buffers = self.forward(rows, constants, buffers, batch)
        return self.task.loss(outputs, batch[-1]), buffers

    def forward(self, rows: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """One member's outputs, and its buffers after them."""
        state = {**rows, **constants, **buffers}
        outputs = functional_call(self.model, state, batch[:-1])
        return outputs, {name: state[name] for name in buffers}

    def views(self, rows: Float[Tensor, "W P"]) -> Tensors:
        """The rows as the model's parameters `[W, *shape]`."""
        columns = torch.split(rows, [shape.numel() for shape in self.shapes.values()], dim=1)
        named = zip(self.shapes.items(), columns, strict=True)
        return {name: column.view(len(rows), *shape) for (name, shape), column in named}

    def put_buffers(self, block: slice, buffers: Tensors) -> None:
        for name, buffer in buffers.items():
            self.buffers[name][block] = buffer

    def commit(self, place: slice, moved: Tensor, losses: Tensor, gradients: Tensor) -> None:
        """Makes a step final, but for members that are not finite or were frozen before."""
        losses, gradients = losses[place], gradients[place]
        alive = torch.tensor([d is None for d in self.diverged[place]], device=moved.device)
        # A sum that is finite has finite terms, and is much cheaper to ask.
        finite = (losses + gradients.sum(1) + moved.sum(1)).isfinite()
        if not (alive & finite).all():
            sound = losses.isfinite() & ~gradients.isnan().any(1) & moved.isfinite().all(1)
            for i in (alive & ~sound).nonzero().flatten().tolist():
                told = divergence(self.steps + 1, losses[i].item(), [gradients[i]])
                self.diverged[place.start + i] = told
            moved = torch.where((alive & sound).unsqueeze(1), moved, self.rows[place])
        self.rows[place] = moved

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for group in self.groups:
            group.observe(training, validation)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        rows, buffers = self.rows, self.buffers
        self.rows = rows.clone()
        self.buffers = {name: x.clone() for name, x in buffers.items()}
        for group in self.groups:
            self.rows[group.rows] = group.evaluated(rows[group.rows], self.steps)
        if batch_norms(self.model) and any(averages(group.chain) for group in self.groups):
            self.estimate_buffers(buffers)
        try:
            yield
        finally:
            self.rows, self.buffers = rows, buffers

    def estimate_buffers(self, kept: Tensors) -> None:
        """Estimates buffers again; members whose recipe does not average keep the given ones."""
        estimate_batch_norm(self.model, self.task, self.run_blocks)
        for group in self.groups:
            if not averages(group.chain):
                for name, buffer in self.buffers.items():
                    buffer[group.rows] = kept[name][group.rows]

    def run_blocks(self, batch: Batch) -> None:
        for block in self.blocks():
            self.put_buffers(block, self.run_block(block, batch)[1])

    @torch.no_grad()
    def run_block(self, block: slice, batch: Batch) -> Any:
        """The outputs of a block on one batch for all, and the buffers after them."""
        return vmap(self.forward, (0, 0, 0, None), randomness="different")(
            self.views(self.rows[block]),
            part(self.constants, block),
            part(self.buffers, block),
            batch,
        )

    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        for block in self.blocks():
            self.model.eval()
            batches = evaluation_batches(self.task, dataset)
            parts = ((self.run_block(block, batch)[0], batch[-1]) for batch in batches)
            outputs, targets = zip(*parts, strict=True)
            all_outputs, all_targets = joined(outputs, dim=1), joined(targets)
            for i in range(len(self.members[block])):
                yield tree_map(lambda tensor, i=i: tensor[i], all_outputs), all_targets

    def keep(self, places: Sequence[int]) -> None:
        self.choose(places)
        self.members = [self.members[place] for place in places]
        self.diverged = [self.diverged[place] for place in places]
        start = 0
        for group in self.groups:
            within = [place - group.start for place in places if place in group.places]
            group.keep(within, start)
            start += len(within)
        self.groups = [group for group in self.groups if group.settings]

    @torch.no_grad()
    def state_dict(self, place: int) -> Tensors:
        mine = slice(place, place + 1)
        held = self.views(self.rows[mine]) | part(self.constants, mine) | part(self.buffers, mine)
        for name, x in (*self.model.named_parameters(), *self.model.named_buffers()):
            x.copy_(held[name][0])
        return {name: x.clone() for name, x in self.model.state_dict().items()}


def groups_of(recipes: Sequence[Recipe], columns: int) -> list[Rows]:
    """Neighbours that share a chain, in groups of at most `STEPPED_AT_ONCE` numbers."""
    size = max(1, STEPPED_AT_ONCE // columns)
    groups: list[Rows] = []
    start = 0
    for _, neighbours in groupby(recipes, key=shape_of):
        alike = list(neighbours)
        groups += [Rows(alike[i : i + size], start + i) for i in range(0, len(alike), size)]
        start += len(alike)
    return groups


def shape_of(recipe: Recipe) -> tuple[Any, ...]:
    """What members must share to be stepped at once: their rules, and the shape of their state."""
    rules = recipe.rules
    return tuple((type(rule), *(getattr(rule, name) for name in rule.options)) for rule in rules)


def stacked(held: Sequence[Mapping[str, Tensor]], names: Sequence[str] | None = None) -> Tensors:
    chosen = held[0] if names is None else names
    return {name: torch.stack([tensors[name] for tensors in held]) for name in chosen}


def part(tensors: Tensors, block: slice) -> Tensors:
    return {name: tensor[block] for name, tensor in tensors.items()}


def require_one_kind(params: Sequence[Tensor]) -> None:
    """Only real numbers of one precision on one device fit in one tensor."""
    kinds = {f"{param.dtype} on {param.device}" for param in params}
    if len(kinds) > 1 or params[0].is_complex():
        raise TypeError(f"its parameters are {' and '.join(sorted(kinds))}")
