"""Steps members together. Their parameters lie in one tensor, with a row for each member."""

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
from thalweg.stack.batches import Batches
from thalweg.stack.checkpoint import Checkpoint, model_state, put
from thalweg.stack.divergence import Divergence, divergence_of, from_plain, in_plain, may_stand
from thalweg.stack.member import Member
from thalweg.stack.memory import evaluation_batches
from thalweg.stack.neighbours import neighbours_of
from thalweg.stack.population import (
    Population,
    batch_norms,
    estimate_batch_norm,
    initial_model,
    trained_names,
)
from thalweg.stack.reasons import UnstackableError
from thalweg.stack.rows import Tensors, copies, rows_of
from thalweg.tasks.evaluation import Part, joined, member, of_tensors, size_of
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Task

ALIGNED = 16
"""Each parameter begins at a multiple of this in its row: matrix products are quicker then."""

# This warning says that vmap runs an operation member by member, and asks the reader to report it.
# The race measures what such a stack costs, so users do not need the warning.
warnings.filterwarnings("ignore", message="There is a performance drop")


class Stacked(Population):
    """K members in a tensor of rows `[R, P]`; R is K rounded up to a multiple of the width.

    A row holds all parameters of a member, one after the other. A parameter of the model is a view
    `[R, *shape]` of some columns. Forward and backward pass run under `torch.func.vmap` in blocks
    of `width` rows. All blocks have the same width, so a member's arithmetic does not depend on the
    other members of its block. Extra rows are copies of the first row and are never stepped.
    Neighbours whose recipes have the same rules are stepped at once: order the members by recipe.
    """

    def __init__(self, task: Task, members: Sequence[Member], width: int) -> None:
        self.task, self.width = task, width
        self.members = list(members)
        self.diverged: list[Divergence | None] = [None] * len(members)
        self.steps = 0
        self.draws_as_alone = True
        self.seeds = seeds = [member.seed for member in members]
        seeds += seeds[:1] * (-len(members) % width)
        models = {seed: initial_model(task, seed) for seed in set(seeds)}
        self.batches = Batches(task, seeds)
        # Only the structure of this model is used; it runs with the members' parameters. It is put
        # into training mode at the first step, because a model may do something at that moment.
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
        """Makes these rows the members' parameters, and these tensors their buffers."""
        self.rows, self.buffers = rows, buffers
        self.params = {
            name: rows[:, columns].view(len(rows), *self.shapes[name])
            for name, columns in self.columns.items()
        }
        self.views = [
            (rows_of(self.params, rows), rows_of(self.constants, rows), rows_of(self.buffers, rows))
            for rows in self.blocks()
        ]

    def blocks(self) -> Iterator[slice]:
        """The rows of each block."""
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

        The sum shows quickly whether all of them are finite: if it is finite, so are its terms.
        """
        batch = self.batches.together()
        if not self.model.training:
            self.model.train()
        blocks = [self.block_gradients(*each, batch) for each in enumerate(self.blocks())]
        if len(blocks) == 1:
            return blocks[0]
        losses, gradients, totals = zip(*blocks, strict=True)
        gathered = {name: torch.cat([own[name] for own in gradients]) for name in gradients[0]}
        return torch.cat(losses), gathered, torch.cat(totals)

    def block_gradients(
        self, place: int, rows: slice, batch: Batch
    ) -> tuple[Tensor, Tensors, Tensor]:
        # Each row has its own batch, even where all rows have the same samples. With one batch for
        # all rows, products are computed in another order, so that a member's bits would depend on
        # the other members.
        own = tree_map(lambda x: x[rows], batch)
        losses, gradients, totals, buffers = self.differentiated(*self.views[place], own)
        self.put_buffers(place, buffers)
        return losses, gradients, totals

    def differentiated(
        self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Float[Tensor, " W"], Tensors, Float[Tensor, " W"], Tensors]:
        """A block's losses, its gradients, their sums, and its buffers after the forward pass."""
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
        """One member's outputs, and its buffers after the forward pass."""
        state = {**params, **constants, **buffers}
        outputs = of_tensors(functional_call(self.model, state, batch[:-1]))
        return outputs, {name: state[name] for name in buffers}

    def put_buffers(self, place: int, buffers: Tensors) -> None:
        copy(buffers, self.views[place][2])

    def take_back(self, losses: Tensor, gradients: Tensors, totals: Tensor) -> None:
        """Undoes the step of the members that diverge now or have diverged before."""
        finite = (totals + self.rows.sum(1)).isfinite().tolist()
        for i, diverged in enumerate(self.diverged):
            if diverged is None and not finite[i]:
                self.diverged[i] = self.found_divergence(losses[i].item(), rows_of(gradients, i), i)
            if self.diverged[i]:
                self.rows[i] = self.before[i]

    def found_divergence(self, loss: float, gradients: Tensors, i: int) -> Divergence | None:
        """The divergence of a member's step; None where the step is valid.

        It may be valid although the sum is not finite: a sum of finite terms may overflow.
        """
        own = list(gradients.values())
        if may_stand(loss, own, list(rows_of(self.params, i).values())):
            return None
        return divergence_of(self.steps + 1, loss, own)

    def begin(self, checkpoint: Checkpoint) -> None:
        self.steps = checkpoint.steps
        for place in range(len(self.members)):
            self.load_state_dict(place, checkpoint.weights)
        states, memory = checkpoint.states, checkpoint.memory
        for group in self.groups:
            group.begin(self.params, self.steps, states, memory)

    def saved(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "diverged": in_plain(self.diverged),
            "draws_as_alone": self.draws_as_alone,
            "rows": self.rows.clone(),
            "constants": copies(self.constants),
            "buffers": copies(self.buffers),
            "groups": [group.saved() for group in self.groups],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.steps, self.diverged = saved["steps"], from_plain(saved["diverged"])
        self.draws_as_alone = saved["draws_as_alone"]
        self.rows.copy_(saved["rows"])
        put(saved["constants"], self.constants)
        put(saved["buffers"], self.buffers)
        for group, own in zip(self.groups, saved["groups"], strict=True):
            group.restore(own)
        self.batches = Batches(self.task, self.seeds, skipped=self.steps)

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for group in self.groups:
            group.observe(training, validation)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        rows, params, buffers = self.rows, self.params, self.buffers
        self.hold(rows.clone(), {name: x.clone() for name, x in buffers.items()})
        for group in self.groups:
            copy(group.evaluated(params), rows_of(self.params, group.members))
        if batch_norms(self.model) and any(group.averages for group in self.groups):
            self.estimate_buffers(buffers)
        try:
            yield
        finally:
            self.hold(rows, buffers)

    def estimate_buffers(self, kept: Tensors) -> None:
        """Estimates the batch-norm statistics of the members whose recipe averages.

        kept: the buffers of all members; the other members keep them.
        """
        estimate_batch_norm(self.model, self.task, self.run_blocks)
        for group in self.groups:
            if not group.averages:
                copy(rows_of(kept, group.members), rows_of(self.buffers, group.members))

    def run_blocks(self, batch: Batch) -> None:
        for place, held in enumerate(self.views):
            self.put_buffers(place, self.run(*held, batch)[1])

    @torch.no_grad()
    def run(self, params: Tensors, constants: Tensors, buffers: Tensors, batch: Batch) -> Any:
        """A block's outputs on one batch for all members, and its buffers afterwards.

        All members draw the same random numbers, as members stepped one by one do. Where vmap
        cannot do so, they draw different ones.
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
        """A block's outputs on one batch for all members, in evaluation mode."""
        return self.run(params, constants, buffers, batch)[0]

    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        for place, rows in enumerate(self.blocks()):
            outputs, targets = self.block_outputs(place, dataset)
            for i in range(len(self.members[rows])):
                yield member(outputs, i), targets

    def block_outputs(self, place: int, dataset: Dataset[Any]) -> tuple[Any, Any]:
        """The outputs of a block's rows over a data set, and the targets."""
        self.model.eval()
        batches = evaluation_batches(self.task, dataset, self.width)
        with self.task.evaluation_numbers.used():
            parts = [
                Part(self.predicted(*self.views[place], batch), batch[-1], size_of(batch))
                for batch in batches
            ]
        return joined(parts, dim=1)

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
        """The tensors of all rows, by their names in the model; a shared tensor has one name."""
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
    """UnstackableError unless all parameters are real, of one precision, and on one device."""
    kinds = {f"{param.dtype} on {param.device}" for param in params}
    if len(kinds) > 1 or params[0].is_complex():
        raise UnstackableError(f"the parameters are {' and '.join(sorted(kinds))}")
