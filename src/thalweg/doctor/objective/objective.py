"""An objective: the loss on fixed data as a function of the weights. Instruments measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from thalweg.doctor.objective.borrowed import Mode, borrowed, kept_traits, mode_of
from thalweg.doctor.objective.derivatives import derivative
from thalweg.errors import UserError
from thalweg.optim.sharded import is_sharded
from thalweg.tasks.failure import describe, failure_as_sentence
from thalweg.tasks.forms import Batch, copied
from thalweg.tasks.task import Score
from thalweg.tasks.user_code import trainable


@dataclass(frozen=True)
class Conditions:
    """The conditions of a measurement. Under other conditions its result may differ.

    samples, batches: the numbers of samples and of batches. mode: the mode of the model's layers,
    "training", "evaluation" or "mixed". precision: the precision of the arithmetic, such as
    "float32". products: how products with a matrix of second derivatives were made; empty where
    there were none.
    """

    samples: int
    batches: int
    mode: str
    precision: str
    products: str = ""


T = TypeVar("T")


class Objective:
    """L(theta): the loss of a model at trainable parameters theta `[P]`, on fixed batches.

    theta holds the trainable parameters one after the other, in the model's order. A parameter that
    the loss does not depend on has the derivative 0. L is the mean over all samples of the batches.
    Batch normalization in training mode takes the statistics of each batch alone.

    model: any model. A compiled model runs uncompiled. Of a model within `DataParallel` or
        `DistributedDataParallel`, the copy of this process is taken.
    loss: `loss(outputs, targets)`, the mean over a batch.
    batches: each a tuple (inputs..., target).
    mode: "training" or "evaluation"; each layer keeps its own mode if not given.
    dtype: the precision of the arithmetic, such as torch.float64; if not given, the precision of
        the parameters, and float32 for half precision.

    The objective holds copies of theta and the buffers, so that it stays the same while the model
    trains on. No measurement changes the model. The random numbers that the model draws (dropout)
    are the same in each evaluation, so that L is a deterministic function.

    Raises UserError without batches, without trainable parameters, and for parameters that are
    sharded, complex or on several devices.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Score,
        batches: Sequence[Batch],
        *,
        mode: Mode | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.loss, self.mode = plain(model), loss, mode
        self.workplace = Workplace(self.model)
        self.parameters = trainable(self.model)
        require_usable(self.parameters, batches)
        self.dtype = dtype or reduce(
            torch.promote_types, (param.dtype for param in self.parameters), torch.float32
        )
        self.device = self.parameters[0].device
        self.batches = [tree_map(self.cast, batch) for batch in batches]
        self.sizes = [samples_in(batch) for batch in batches]
        self.shapes = {n: p.shape for n, p in self.model.named_parameters() if p.requires_grad}
        self.point = self.flat(self.parameters)
        self.constants = {
            name: self.cast(tensor.detach())
            for name, tensor in self.model.named_parameters()
            if name not in self.shapes
        }
        self.buffers = {n: self.cast(b.detach().clone()) for n, b in self.model.named_buffers()}
        self.conditions = Conditions(
            sum(self.sizes),
            len(batches),
            self.name_of_mode(),
            str(self.dtype).removeprefix("torch."),
        )

    def __len__(self) -> int:
        """P, the number of trainable parameters."""
        return len(self.point)

    def value(self, point: Float[Tensor, " P"] | None = None) -> float:
        """L at a point, or at theta if no point is given. Costs a forward pass."""
        at = self.point if point is None else point.detach()
        return float(self.mean(self.each(self.batch_loss, at)))

    def gradient(self, point: Float[Tensor, " P"] | None = None) -> Float[Tensor, " P"]:
        """grad L at a point, or at theta if no point is given. Costs one gradient evaluation."""
        return self.mean(self.batch_gradients(point))

    def batch_gradients(self, point: Float[Tensor, " P"] | None = None) -> Iterator[Tensor]:
        """The gradient `[P]` of each batch's mean loss, one after the other."""
        at = (self.point if point is None else point).detach().clone().requires_grad_()

        def gradient(model: nn.Module, batch: Batch) -> Tensor:
            return derivative(self.batch_loss(model, batch), at)

        return self.each(gradient, at)

    def each(
        self, work: Callable[[nn.Module, Batch], T], point: Float[Tensor, " P"] | None = None
    ) -> Iterator[T]:
        """Calls `work` for each batch, with the model at a point, or at theta if none is given."""
        at = self.point if point is None else point

        def done(batch: Batch) -> T:
            return self.within(at, lambda model: work(model, batch))

        return map(done, self.batches)

    def mean(self, each: Iterable[Tensor]) -> Tensor:
        """The mean over all samples, from the means of the batches."""
        total = sum(self.sizes)
        weighted = (size / total * one for size, one in zip(self.sizes, each, strict=True))
        return reduce(add, weighted).detach()

    def batch_loss(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """The loss of one batch."""
        return self.loss_of(self.outputs(model, batch), batch)

    def outputs(self, model: Callable[..., Any], batch: Batch) -> Any:
        with failure_as_sentence(f"The model failed in {self.conditions.precision}"):
            # A model may write into its inputs, and the batches are used again.
            return model(*copied(batch[:-1]))

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """The loss of outputs. Raises UserError where the loss is no scalar."""
        with failure_as_sentence(f"The loss failed in {self.conditions.precision}"):
            loss = self.loss(outputs, batch[-1])
        if not isinstance(loss, Tensor) or loss.ndim > 0:
            raise UserError(
                f"The loss must be a scalar tensor, the mean over a batch, not {describe(loss)}."
            )
        return loss

    def within(self, point: Float[Tensor, " P"], work: Callable[[nn.Module], T]) -> T:
        """Calls `work` with the model at a point, and leaves the model as it was.

        Derivatives have to be taken inside `work`, because activation checkpointing runs the model
        again when they are taken.
        """
        # A forward pass may change buffers: batch normalization counts, spectral norms iterate.
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        state = {**self.views(point), **self.constants, **buffers}
        named = {f"model.{name}": tensor for name, tensor in state.items()}
        with borrowed(self.model, self.mode, self.device):
            done: T = functional_call(self.workplace, named, (work,))
        return done

    def views(self, point: Float[Tensor, " P"]) -> dict[str, Tensor]:
        """The model's parameters at a point, by name."""
        pieces = torch.split(point, [shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: piece.view(shape) for (name, shape), piece in named}

    def flat(self, tensors: Sequence[Tensor]) -> Float[Tensor, " P"]:
        """One vector of tensors that have the trainable parameters' shapes and order."""
        return torch.cat([self.cast(tensor.detach()).flatten() for tensor in tensors])

    def cast(self, x: Any) -> Any:
        """Casts a tensor of real numbers to the objective's precision; returns others unchanged."""
        return x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    def name_of_mode(self) -> str:
        with kept_traits(self.model.modules()):
            if self.mode:
                self.model.train(self.mode == "training")
            return mode_of(self.model)


class Workplace(nn.Module):
    """A module that calls a function with its model; so `functional_call` can run any function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], T]) -> T:
        return work(self.model)


def plain(model: nn.Module) -> nn.Module:
    """The model without the wrappers of `torch.compile` and of data parallelism."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    within = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", model)
    return model if within is model else plain(within)


def require_usable(parameters: Sequence[Tensor], batches: Sequence[Batch]) -> None:
    if not batches or not all(isinstance(b, tuple | list) and len(b) > 1 for b in batches):
        raise UserError(
            "An objective needs a list of at least one batch, and each must be a tuple"
            " (inputs..., target)."
        )
    if not parameters:
        raise UserError(
            "The model has no trainable parameters; at least one needs requires_grad=True."
        )
    if any(map(is_sharded, parameters)):
        raise UserError(
            "The model's parameters are sharded; first gather them into a whole model, with"
            " torch.distributed.checkpoint.state_dict and full_state_dict=True."
        )
    devices = {str(parameter.device) for parameter in parameters}
    if len(devices) > 1:
        raise UserError(
            f"The parameters lie on {', '.join(sorted(devices))}; they must lie on one device."
        )
    if any(parameter.is_complex() for parameter in parameters):
        raise UserError("The model has complex parameters; they must be real numbers.")


def samples_in(batch: Batch) -> int:
    """The number of samples, which is the length of the last tensor in the batch."""
    lengths = [len(x) for x in tree_leaves(batch)[::-1] if isinstance(x, Tensor) and x.ndim]
    if not lengths:
        raise UserError("A batch must be a tuple (inputs..., target) of tensors [B, ...].")
    return lengths[0]
