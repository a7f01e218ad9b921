"""Members stepped together: their parameters in one tensor, a row for each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from thalweg.routes import parameters_of
from thalweg.stack.batches import Batches, evaluation_batches, joined
from thalweg.stack.checkpoint import Checkpoint, model_state
from thalweg.stack.divergence import Divergence, divergence, sound
from thalweg.stack.member import Member
from thalweg.stack.neighbours import neighbours_of
from thalweg.stack.population import (
    Population,
    batch_norms,
    estimate_batch_norm,
    initial_model,
    trained_names,
)
from thalweg.stack.reading import Batch
from thalweg.stack.reasons import UnstackableError
from thalweg.stack.rows import Tensors, part
from thalweg.tasks.task import Task

ALIGNED = 16
"""Numbers; a parameter begins at a multiple of so many in its row, which matrix products like."""

# What an operation costs that vmap runs member by member is measured; PyTorch's words for it ask
# whoever reads them to report it.
warnings.filterwarnings("ignore", message="There is a performance drop")


class Stacked(Population):
    """K members in rows `[R, P]`, R being K rounded up to whole blocks of one width.

    A row holds all parameters of a member, one after the other; a model's parameter is a view
    `[R, *shape]` of some columns. Forward and backward run block by block under `torch.func.vmap`,
    in blocks of one width, so that a member's arithmetic is the same whatever else fills its block;
    rows that no member has are copies of the first and are never stepped. The optimizer steps
    neighbours that share a chain together, with their hyperparameters as columns: order members by
    recipe.
    """

    def __init__(self, task: Task, members: Sequence[Member], width: int) -> None:
        self.task, self.width = task, width
        self.members = list(members)
        self.diverged: list[Divergence | None] = [None] * len(members)
        self.steps = 0
        self.draws_as_alone = True
        seeds = [member.seed for member in members]
        seeds += seeds[:1] * (-len(members) % width)
        models = {seed: initial_model(task, seed) for seed in set(seeds)}
        self.batches = Batches(task, seeds)
        # Only its structure is used; the members' numbers are put in its place. What a model does
        # when training begins is left for the first step.
        self.model = initial_model(task, seeds[0]).eval()
        gradient_reaches = trained_names(task)
        params = dict(self.model.named_parameters())
        trained = [name for name in params if name in gradient_reaches]
        require_one_kind([params[name] for name in trained])
        held = [dict(models[seed].named_parameters()) for seed in seeds]
        self.columns, columns = columns_of({name: params[name] for name in trained})
        self.shapes = {name: params[name].shape for name in trained}
        with torch.no_grad():
            self.constants = stacked(held, [name for name in params if name not in trained])
            buffers = stacked([dict(models[seed].named_buffers()) for seed in seeds])
            self.hold(params[trained[0]].new_zeros(len(seeds), columns), buffers)
            copy(stacked(held, trained), self.params)
        known = dict(zip(params, parameters_of(self.model), strict=True))
        recipes = [member.recipe for member in members]
        self.groups = neighbours_of(recipes, {name: known[name] for name in trained})
        self.before = torch.empty_like(self.rows)

    def hold(self, rows: Float[Tensor, "R P"], buffers: Tensors) -> None:
        """Takes these rows for the members' parameters, and these buffers."""
        self.rows, self.buffers = rows, buffers
        self.params = {
            name: rows[:, columns].view(len(rows), *self.shapes[name])
            for name, columns in self.columns.items()
        }
        self.parts = [
            (part(self.params, rows), part(self.constants, rows), part(self.buffers, rows))
            for rows in self.blocks()
        ]

    def blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.rows), self.width):
            yield slice(start, start + self.width)

    def step(self) -> list[float]:
        losses, gradients, totals = self.gradients()
        self.before.copy_(self.rows)
        for group in self.groups:
            group.step(self.params, gradients)
        self.take_back(losses, gradients, totals)
        self.steps += 1
        values: list[float] = losses[: len(self.members)].tolist()
        return values

    def gradients(self) -> tuple[Float[Tensor, " R"], Tensors, Float[Tensor, " R"]]:
        """The losses of all rows on their next batches, their gradients, and the sum of both.

        A sum that is finite has finite terms, and is much cheaper to ask.
        """
        batch = self.batches.together()
        if not self.model.training:
            self.model.train()
        blocks = [self.block_gradients(*each, batch) for each in enumerate(self.blocks())]
        if len(blocks) == 1:
            return blocks[0]
        losses, gradients, totals = zip(*blocks, strict=True)
        return torch.cat(losses), joined(gradients), torch.cat(totals)

    def block_gradients(
        self, place: int, rows: slice, batch: Batch
    ) -> tuple[Tensor, Tensors, Tensor]:
        # Each row has its batch, though one be the same for all: a batch without a dimension of
        # rows would be multiplied in another order, and a member's bits depend on the others.
        own = tree_map(lambda x: x[rows], batch)
        losses, gradients, totals, buffers = self.differentiated(*self.parts[place], own)
        self.put_buffers(place, buffers)
        return losses, gradients, totals

    def differentiated(
        self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Float[Tensor, " W"], Tensors, Float[Tensor, " W"], Tensors]:
        """A block's losses, gradients, the sums of both, and the buffers after the forward pass."""
        params = {name: x.detach().requires_grad_() for name, x in params.items()}
        losses, buffers = vmap(self.loss, randomness="different")(params, constants, buffers, batch)
        found = torch.autograd.grad(losses.sum(), list(params.values()))
        gradients = {n: g.detach().contiguous() for n, g in zip(params, found, strict=True)}
        buffers = {name: buffer.detach() for name, buffer in buffers.items()}
        return losses.detach(), gradients, losses.detach() + row_sums(gradients), buffers

    def loss(self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """One member's loss, and its buffers after the forward pass."""
        outputs, buffers = self.forward(params, constants, buffers, batch)
        return self.task.loss(outputs, batch[-1]), buffers

    def forward(self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """One member's outputs, and its buffers after them."""
        state = {**params, **constants, **buffers}
        outputs = functional_call(self.model, state, batch[:-1])
        return outputs, {name: state[name] for name in buffers}

    def put_buffers(self, place: int, buffers: Tensors) -> None:
        copy(buffers, self.parts[place][2])

    def take_back(self, losses: Tensor, gradients: Tensors, totals: Tensor) -> None:
        """Undoes the step of members that are not finite, or were not before."""
        finite = (totals + self.rows.sum(1)).isfinite().tolist()
        for i, diverged in enumerate(self.diverged):
            if diverged is None and not finite[i]:
                self.diverged[i] = self.divergence(losses[i].item(), part(gradients, i), i)
            if self.diverged[i]:
                self.rows[i] = self.before[i]

    def divergence(self, loss: float, gradients: Tensors, i: int) -> Divergence | None:
        """That of a member's step; none where it may stand: a sum may overflow of finite terms."""
        own = list(gradients.values())
        if sound(loss, own, list(part(self.params, i).values())):
            return None
        return divergence(self.steps + 1, loss, own)

    def begin(self, checkpoint: Checkpoint) -> None:
        self.steps = checkpoint.steps
        for place in range(len(self.members)):
            self.load_state_dict(place, checkpoint.weights)
        states, memory = checkpoint.states, checkpoint.memory
        for group in self.groups:
            group.begin(self.params, self.steps, states, memory)

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for group in self.groups:
            group.observe(training, validation)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        rows, params, buffers = self.rows, self.params, self.buffers
        self.hold(rows.clone(), {name: x.clone() for name, x in buffers.items()})
        for group in self.groups:
            copy(group.evaluated(params), part(self.params, group.members))
        if batch_norms(self.model) and any(group.averages for group in self.groups):
            self.estimate_buffers(buffers)
        try:
            yield
        finally:
            self.hold(rows, buffers)

    def estimate_buffers(self, kept: Tensors) -> None:
        """Estimates buffers again; members whose recipe does not average keep the given ones."""
        estimate_batch_norm(self.model, self.task, self.run_blocks)
        for group in self.groups:
            if not group.averages:
                copy(part(kept, group.members), part(self.buffers, group.members))

    def run_blocks(self, batch: Batch) -> None:
        for place, held in enumerate(self.parts):
            self.put_buffers(place, self.run(*held, batch)[1])

    @torch.no_grad()
    def run(self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """A block's outputs on one batch for all, and its buffers after them.

        Members draw the same random numbers, as alone, where vmap can do so.
        """
        randomness = "same" if self.draws_as_alone else "different"
        over_rows = vmap(self.forward, (0, 0, 0, None), randomness=randomness)
        try:
            return over_rows(params, constants, buffers, batch)
        except RuntimeError as error:
            if "same randomness" not in str(error):
                raise
            self.draws_as_alone = False
            return self.run(params, constants, buffers, batch)

    def predicted(self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """A block's outputs on one batch for all, in evaluation mode."""
        return self.run(params, constants, buffers, batch)[0]

    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        for place, rows in enumerate(self.blocks()):
            outputs, targets = self.block_outputs(place, dataset)
            for i in range(len(self.members[rows])):
                yield tree_map(lambda tensor, i=i: tensor[i], outputs), targets

    def block_outputs(self, place: int, dataset: Dataset[Any]) -> tuple[Any, Any]:
        """The outputs of a block's rows over a data set, and the targets."""
        self.model.eval()
        batches = evaluation_batches(self.task, dataset)
        with self.task.evaluation_numbers.used():
            parts = [(self.predicted(*self.parts[place], batch), batch[-1]) for batch in batches]
        outputs, targets = zip(*parts, strict=True)
        return joined(outputs, dim=1), joined(targets)

    @torch.no_grad()
    def state_dict(self, place: int) -> Tensors:
        held = self.held()
        for name, x in (*self.model.named_parameters(), *self.model.named_buffers()):
            x.copy_(held[name][place])
        return model_state(self.model)

    @torch.no_grad()
    def load_state_dict(self, place: int, tensors: Mapping[str, Tensor]) -> None:
        for name, rows in self.held().items():
            if name in tensors:
                rows[place] = tensors[name]

    def held(self) -> Tensors:
        """What each row holds, by the model's names; one of two names for the same once."""
        return {**self.params, **self.constants, **self.buffers}


def stacked(held: Sequence[Mapping[str, Tensor]], names: Sequence[str] | None = None) -> Tensors:
    chosen = held[0] if names is None else names
    return {name: torch.stack([tensors[name] for tensors in held]) for name in chosen}


def columns_of(params: Tensors) -> tuple[dict[str, slice], int]:
    """Where each parameter lies in a row, and how long the row is."""
    columns, end = {}, 0
    for name, param in params.items():
        columns[name] = slice(end, end + param.numel())
        end += -(-param.numel() // ALIGNED) * ALIGNED
    return columns, end


def copy(source: Tensors, target: Tensors) -> None:
    if target:
        torch._foreach_copy_(list(target.values()), list(source.values()))


def row_sums(tensors: Tensors) -> Float[Tensor, " W"]:
    """The sum over all tensors of each row's numbers."""
    return torch.stack([x.reshape(len(x), -1).sum(1) for x in tensors.values()]).sum(0)


def require_one_kind(params: Sequence[Tensor]) -> None:
    """Only real numbers of one precision on one device fit in one tensor."""
    kinds = {f"{param.dtype} on {param.device}" for param in params}
    if len(kinds) > 1 or params[0].is_complex():
        raise UnstackableError(f"the parameters are {' and '.join(sorted(kinds))}")
