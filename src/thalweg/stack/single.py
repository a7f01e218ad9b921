"""Steps members one by one; each has its own model and its own drop-in optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from thalweg.optim import Optimizer
from thalweg.optim.foreign import Foreign, stepper_of
from thalweg.optim.stepper import Stepper
from thalweg.random_numbers import MODEL, RandomStream, as_data, from_data, stream_seed
from thalweg.stack.batches import Batches
from thalweg.stack.checkpoint import (
    Checkpoint,
    model_state,
    optimizer_state,
    put,
    put_states,
    tensors_of,
)
from thalweg.stack.divergence import Divergence, divergence_of, from_plain, in_plain, may_stand
from thalweg.stack.member import Member
from thalweg.stack.memory import evaluation_batches
from thalweg.stack.population import (
    Population,
    batch_norms,
    estimate_batch_norm,
    initial_model,
)
from thalweg.stack.rows import copies, fitting_states, states_of
from thalweg.tasks.evaluation import Part, apart, joined, size_of
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Task

PRECISIONS = ("full", "bfloat16")
"""The precisions of forward and backward passes in training.

"full" is the parameters' own precision. "bfloat16" uses bfloat16 for matrix products and
convolutions (`torch.autocast`). Parameters, states and evaluation always keep their own precision.
"""


GRAPH_WANTED = ("create_graph", "does not require grad")
"""What the errors of optimizers say that need the graph of the gradient, such as AdaHessian's."""


class Single(Population):
    """The plain loop. Every other way of stepping must agree with it.

    A member's results do not depend on other members, also where its model draws random numbers on
    the CPU (dropout). Random draws in evaluation are the same at every evaluation and for all
    members. precision: see `PRECISIONS`. batches: gives the members' next batches; it may be
    replaced by another source of batches.
    """

    def __init__(
        self,
        task: Task,
        members: Sequence[Member],
        accumulate: int = 1,
        precision: str = "full",
    ) -> None:
        self.task, self.accumulate, self.precision = task, accumulate, precision
        self.members = list(members)
        self.diverged: list[Divergence | None] = [None] * len(members)
        self.models = [initial_model(task, member.seed) for member in members]
        self.optimizers: list[Stepper] = [
            stepper_of(model, member.recipe)
            for model, member in zip(self.models, members, strict=True)
        ]
        self.batches: Iterator[list[Batch]] = Batches(task, [member.seed for member in members])
        # The places of members whose optimizers differentiate the gradient.
        self.second_derivatives: set[int] = set()
        self.streams = [RandomStream(stream_seed(member.seed, MODEL)) for member in members]
        self.steps = self.taken = 0

    def step(self) -> list[float]:
        rounds = [next(self.batches) for _ in range(self.accumulate)]
        stepped = [self.step_one(*each) for each in enumerate(zip(*rounds, strict=True))]
        self.taken += 1
        self.steps += max(evaluations for _, evaluations in stepped)
        return [loss for loss, _ in stepped]

    def step_one(self, place: int, batches: Sequence[Batch]) -> tuple[float, int]:
        """Steps a member. Gives its loss before the step, and how often gradients were computed."""
        if self.diverged[place]:
            return float("nan"), 1
        model, optimizer = self.models[place], self.optimizers[place]
        losses: list[float] = []

        def closure(create_graph: bool = False) -> float:
            # The optimizer's `zero_grad` may import PyTorch's compiler, which takes seconds.
            model.zero_grad()
            each = [self.backward(place, batch, create_graph) for batch in batches]
            losses.append(sum(each) / self.accumulate)
            return losses[-1]

        params = [param for param in model.parameters() if param.requires_grad]
        before = [param.detach().clone() for param in params]
        if optimizer.needs_closure:
            optimizer.step(closure)
        else:
            closure(place in self.second_derivatives)
            try:
                optimizer.step()
            except RuntimeError as error:
                asks = any(words in str(error) for words in GRAPH_WANTED)
                if not asks or place in self.second_derivatives:
                    raise
                self.second_derivatives.add(place)
                closure(create_graph=True)
                optimizer.step()
        stepped = [param for param in params if param.grad is not None]
        gradients = [param.grad.to_dense() for param in stepped if param.grad is not None]
        if not may_stand(losses[0], gradients, stepped):
            self.diverged[place] = divergence_of(self.steps + 1, losses[0], gradients)
            with torch.no_grad():
                for param, value in zip(params, before, strict=True):
                    param.copy_(value)
        return losses[0], len(losses)

    def backward(self, place: int, batch: Batch, create_graph: bool) -> float:
        """A member's loss on a batch; adds the batch's share to the gradients of the step."""
        model = self.models[place].train()
        *inputs, targets = batch
        with self.streams[place].used():
            with casting(model, self.precision):
                loss = self.task.loss(model(*inputs), targets)
            share = torch.full_like(loss, 1 / self.accumulate)
            torch.autograd.backward(loss, share, create_graph=create_graph)
        return loss.item()

    def checkpoint(self, place: int) -> Checkpoint:
        """A member's checkpoint, for `begin`."""
        model, optimizer = self.models[place], self.optimizers[place]
        return Checkpoint(self.steps, model_state(model), optimizer_state(model, optimizer))

    def begin(self, checkpoint: Checkpoint) -> None:
        self.steps = checkpoint.steps
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            model.load_state_dict(checkpoint.weights, strict=False)
            if isinstance(optimizer, Foreign):
                optimizer.begin(checkpoint.steps, checkpoint.optimizer)
                continue
            assert isinstance(optimizer, Optimizer), "members begin with recipes"
            for index, group in enumerate(optimizer.param_groups):
                states = states_of(group["param_names"], checkpoint.states)
                put_states(fitting_states(optimizer.chain(group), states), model, optimizer)
                optimizer.row(index).begin(checkpoint.steps, checkpoint.memory)

    def saved(self) -> dict[str, Any]:
        members = [
            {
                "tensors": copies(tensors_of(model)),
                "optimizer": optimizer_state(model, optimizer),
                "random": as_data(stream.states),
            }
            for model, optimizer, stream in zip(
                self.models, self.optimizers, self.streams, strict=True
            )
        ]
        counts = {"steps": self.steps, "taken": self.taken}
        return {**counts, "diverged": in_plain(self.diverged), "members": members}

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.steps, self.taken = saved["steps"], saved["taken"]
        self.diverged = from_plain(saved["diverged"])
        for place, own in enumerate(saved["members"]):
            put(own["tensors"], tensors_of(self.models[place]))
            self.optimizers[place].load_state_dict(own["optimizer"])
            self.streams[place].states = from_data(own["random"])
        seeds = [member.seed for member in self.members]
        self.batches = Batches(self.task, seeds, skipped=self.taken * self.accumulate)

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for optimizer, seen, unseen in zip(self.optimizers, training, validation, strict=True):
            optimizer.observe(training=seen, validation=unseen)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        with ExitStack() as stack:
            for model, optimizer in zip(self.models, self.optimizers, strict=True):
                stack.enter_context(optimizer.evaluation())
                stack.enter_context(kept_buffers(model))
                if optimizer.averages and batch_norms(model):
                    self.estimate_buffers(model)
            yield

    def estimate_buffers(self, model: nn.Module) -> None:
        with self.task.evaluating():
            estimate_batch_norm(model, self.task, lambda batch: model(*batch[:-1]))

    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        for model in self.models:
            yield outputs_over(self.task, model.eval(), dataset)

    def state_dict(self, place: int) -> dict[str, Tensor]:
        return model_state(self.models[place])

    def load_state_dict(self, place: int, tensors: Mapping[str, Tensor]) -> None:
        self.models[place].load_state_dict(tensors, strict=False)


def casting(model: nn.Module, precision: str) -> AbstractContextManager[object]:
    """A context in which forward passes of the model have this precision."""
    if precision == "full":
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16)


def outputs_over(task: Task, model: nn.Module, dataset: Dataset[Any]) -> tuple[Any, Any]:
    """A model's outputs over a whole data set, in its present mode, and the targets."""
    batches = evaluation_batches(task, dataset)
    with task.evaluating(), task.evaluation_numbers.used():
        parts = [Part(model(*batch[:-1]), batch[-1], size_of(batch)) for batch in batches]
    return apart(parts) if task.differentiates else joined(parts)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restores the model's buffers after the block, also buffers that the model has replaced."""
    buffers = dict(model.named_buffers(remove_duplicate=False))
    kept = [buffer.clone() for buffer in buffers.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for (name, buffer), value in zip(buffers.items(), kept, strict=True):
                owner, _, own_name = name.rpartition(".")
                setattr(model.get_submodule(owner), own_name, buffer.copy_(value))
