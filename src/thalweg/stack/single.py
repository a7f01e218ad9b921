"""Members stepped one by one, each a model of its own with the drop-in optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from thalweg.optim import Optimizer
from thalweg.random_numbers import MODEL, RandomStream, stream_seed
from thalweg.stack.batches import Batches, evaluation_batches, joined
from thalweg.stack.member import Divergence, Member
from thalweg.stack.population import (
    Population,
    averages,
    batch_norms,
    divergence,
    estimate_batch_norm,
    initial_model,
)
from thalweg.stack.reading import Batch
from thalweg.stack.rows import fitting_states, of
from thalweg.stack.states import model_state, put_optimizer_states
from thalweg.tasks.task import Task

PRECISIONS = ("full", "bfloat16")
"""Of what gradients are taken of: the parameters' own, or bfloat16 for matrix products and
convolutions (`torch.autocast`). Parameters, states and evaluation keep their own.
"""


class Single(Population):
    """The plain loop: what every other way of stepping must agree with.

    A member's numbers do not depend on the others, random draws on the CPU (dropout) included. What
    it draws in evaluation is the same at each, and for all members.
    precision: see `PRECISIONS`.
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
        self.optimizers = [
            Optimizer(model, member.recipe)
            for model, member in zip(self.models, members, strict=True)
        ]
        self.batches = Batches(task, [member.seed for member in members])
        self.streams = [RandomStream(stream_seed(member.seed, MODEL)) for member in members]
        self.steps = 0

    def step(self) -> list[float]:
        rounds = [self.batches.each() for _ in range(self.accumulate)]
        losses = [self.step_one(*each) for each in enumerate(zip(*rounds, strict=True))]
        self.steps += 1
        return losses

    def step_one(self, place: int, batches: Sequence[Batch]) -> float:
        if self.diverged[place]:
            return float("nan")
        model, optimizer = self.models[place], self.optimizers[place]
        model.zero_grad()  # the optimizer's would import PyTorch's compiler, which takes seconds
        loss = sum(self.backward(place, batch) for batch in batches) / self.accumulate
        trained = [param for param in model.parameters() if param.grad is not None]
        gradients = [param.grad.to_dense() for param in trained if param.grad is not None]
        before = [param.detach().clone() for param in trained]
        optimizer.step()
        if not sound(loss, gradients, trained):
            self.diverged[place] = divergence(self.steps + 1, loss, gradients)
            with torch.no_grad():
                for param, value in zip(trained, before, strict=True):
                    param.copy_(value)
        return loss

    def backward(self, place: int, batch: Batch) -> float:
        """A member's loss on a batch, whose share of a step's gradient is added to it."""
        model = self.models[place].train()
        *inputs, targets = batch
        with self.streams[place].used():
            with casting(model, self.precision):
                loss = self.task.loss(model(*inputs), targets)
            torch.autograd.backward(loss, torch.full_like(loss, 1 / self.accumulate))
        return loss.item()

    def begin(self, steps: int, states: dict[str, Tensor], memory: dict[str, Any]) -> None:
        self.steps = steps
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            for index, group in enumerate(optimizer.param_groups):
                own = fitting_states(optimizer.chain(group), of(states, group["param_names"]))
                put_optimizer_states(own, model, optimizer)
                optimizer.row(index).begin(steps, memory)

    def observe(self, training: Sequence[float], validation: Sequence[float]) -> None:
        for optimizer, seen, unseen in zip(self.optimizers, training, validation, strict=True):
            optimizer.observe(training=seen, validation=unseen)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        with ExitStack() as stack:
            for model, optimizer in zip(self.models, self.optimizers, strict=True):
                stack.enter_context(optimizer.evaluation())
                stack.enter_context(kept_buffers(model))
                if any(map(averages, optimizer.chains())) and batch_norms(model):
                    self.estimate_buffers(model)
            yield

    @torch.no_grad()
    def estimate_buffers(self, model: nn.Module) -> None:
        estimate_batch_norm(model, self.task, lambda batch: model(*batch[:-1]))

    def outputs(self, dataset: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
        for model in self.models:
            yield outputs_over(self.task, model.eval(), dataset)

    def keep(self, places: Sequence[int]) -> None:
        self.batches.keep(torch.tensor(places))
        for name in ("members", "diverged", "models", "optimizers", "streams"):
            kept = getattr(self, name)
            setattr(self, name, [kept[place] for place in places])

    def state_dict(self, place: int) -> dict[str, Tensor]:
        return model_state(self.models[place])

    def load_state_dict(self, place: int, tensors: Mapping[str, Tensor]) -> None:
        self.models[place].load_state_dict(tensors, strict=False)


def casting(model: nn.Module, precision: str) -> AbstractContextManager[object]:
    """A forward pass within is in this precision, on the device of the model's parameters."""
    if precision == "full":
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16)


@torch.no_grad()
def outputs_over(task: Task, model: nn.Module, dataset: Dataset[Any]) -> tuple[Any, Any]:
    """A model's outputs over a whole data set, in the mode that it is in, and the targets."""
    batches = evaluation_batches(task, dataset)
    with task.evaluation_numbers.used():
        parts = [(model(*batch[:-1]), batch[-1]) for batch in batches]
    outputs, targets = zip(*parts, strict=True)
    return joined(outputs), joined(targets)


def sound(loss: float, gradients: Sequence[Tensor], stepped: Sequence[Tensor]) -> bool:
    """Whether a step may stand: a finite loss, no not-a-number on the way, finite parameters."""
    return bool(
        isfinite(loss)
        and not any(gradient.isnan().any() for gradient in gradients)
        and all(param.isfinite().all() for param in stepped)
    )


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Gives the model its buffers back when the block ends, also those that it has replaced."""
    buffers = dict(model.named_buffers(remove_duplicate=False))
    kept = [buffer.clone() for buffer in buffers.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for (name, buffer), value in zip(buffers.items(), kept, strict=True):
                owner, _, own_name = name.rpartition(".")
                setattr(model.get_submodule(owner), own_name, buffer.copy_(value))
