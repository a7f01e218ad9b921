"""Batch normalization (Ioffe and Szegedy 2015)."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.arguments import number, require_between, require_flag, require_whole, short
from thalweg.errors import UserError

MOST_FEATURES = 2**24
"""The most channels of a layer. No real layer has more, and this many fit into memory."""


class BatchNorm(_BatchNorm):
    """Normalizes each channel of inputs `[N, C, ...]` over the batch, then scales and shifts it.

        mu = mean(x),  sigma = sqrt(eps + mean((x - mu)^2)),  y = weight (x - mu) / sigma + bias

    The means are over all dimensions except the channels. `weight` (gamma) and `bias` (beta),
    `[C]`, are learned; `eps` (delta) is above 0, in units of the input squared. In training the
    statistics are those of the batch, and are averaged:

        running <- (1 - momentum) running + momentum batch

    A `momentum` of None gives the plain mean of all batches so far. The averaged variance is the
    unbiased one. In evaluation, and in training after `freeze()`, the running statistics are used.

    It replaces `torch.nn.BatchNorm1d`, `2d` and `3d`, with their arguments, results, gradients and
    checkpoints. If several processes train one model (`torch.distributed`), the statistics are over
    the batches of all processes, on any device. This costs two messages forward and two backward.

    Raises UserError for arguments out of range, for inputs of another shape, and for a batch with a
    single value for each channel, whose variance is 0.
    """

    frozen = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *arguments: Any,
        **named: Any,
    ) -> None:
        num_features = require_whole("num_features", num_features, 1, MOST_FEATURES)
        require_between("eps", eps, 0, math.inf)
        if momentum is not None and not 0 <= number(momentum) <= 1:
            raise UserError(
                f"momentum must be a number from 0 to 1, or None, not {short(momentum)}."
            )
        require_flag("affine", affine)
        require_flag("track_running_stats", track_running_stats)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, *arguments, **named
        )

    def freeze(self, frozen: bool = True) -> Self:
        """Keeps the running statistics fixed and uses them in training too.

        This is for fine-tuning on few samples or small batches; `weight` and `bias` still learn.
        `freeze(False)` undoes it with the next `train()`. Raises UserError if there are no running
        statistics.
        """
        require_flag("frozen", frozen)
        if not self.track_running_stats:
            raise UserError("a BatchNorm with track_running_stats=False has no statistics to keep.")
        self.frozen = frozen
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def forward(self, input: Float[Tensor, "N C *rest"]) -> Float[Tensor, "N C *rest"]:
        self._check_input_dim(input)
        if self.training and processes() > 1:
            return self.over_processes(input)
        if self.training or self.running_mean is None:
            require_two_values(input)
        if self.training and self.track_running_stats and self.momentum is None:
            return self.with_plain_mean(input)
        normalized: Tensor = super().forward(input)
        return normalized

    def with_plain_mean(self, input: Tensor) -> Tensor:
        """Normalizes, and averages by the plain mean. PyTorch's own plain mean fails under vmap."""
        mean = torch.zeros_like(self.get_buffer("running_mean"))
        variance = torch.zeros_like(mean)
        # With a momentum of 1, running statistics are those of the last batch.
        normalized = F.batch_norm(
            input,
            mean,
            variance,
            weight=self.weight,
            bias=self.bias,
            training=True,
            momentum=1,
            eps=self.eps,
        )
        self.remember(mean, variance)
        return normalized

    def over_processes(self, input: Tensor) -> Tensor:
        """Normalizes by the statistics of all processes, with the formula written out."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        all_but_channels = [0, *range(2, x.ndim)]
        of_channels = (-1, *[1] * (x.ndim - 2))
        count = x.new_tensor([x.numel() / self.num_features])
        *_, n = sums = total(torch.cat([x.sum(all_but_channels), count]))
        mean = sums[:-1] / n
        deviation = x - mean.view(of_channels)
        variance = total(deviation.square().sum(all_but_channels)) / n
        if self.track_running_stats:
            self.remember(mean, variance * n / (n - 1))
        normalized = deviation / (self.eps + variance).sqrt().view(of_channels)
        if self.weight is not None:
            normalized = normalized * self.weight.view(of_channels)
        if self.bias is not None:
            normalized = normalized + self.bias.view(of_channels)
        rounded: Tensor = normalized.to(input.dtype)
        return rounded

    @torch.no_grad()
    def remember(self, mean: Float[Tensor, " C"], variance: Float[Tensor, " C"]) -> None:
        """Averages a batch's statistics into the running ones."""
        count = self.get_buffer("num_batches_tracked").add_(1)
        momentum = 1 / count.to(mean.dtype) if self.momentum is None else self.momentum
        for name, batch in (("running_mean", mean), ("running_var", variance)):
            running = self.get_buffer(name)
            running.copy_((1 - momentum) * running + momentum * batch)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise UserError(
                f"BatchNorm({self.num_features}) takes inputs [N, {self.num_features}, ...],"
                f" not of shape {list(input.shape)}."
            )


def require_two_values(input: Tensor) -> None:
    """Raises UserError for a batch with a single value for each channel."""
    if input.numel() == input.shape[1]:
        raise UserError(
            f"batch normalization cannot train on a batch of shape {list(input.shape)}, which has"
            " one value for each channel; give batches of two samples or more (drop the last batch"
            " of an epoch if it is smaller), or freeze() the layer."
        )


def processes() -> int:
    """The number of processes that train one model together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Total(torch.autograd.Function):
    """The sum over all processes. Its gradient, for the sum of their losses, is such a sum too."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def total(x: Tensor) -> Tensor:
    summed: Tensor = Total.apply(x)  # type: ignore[no-untyped-call]
    return summed
