"""The optimizer that is checked, and the small noisy training in which it is checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

Formula: TypeAlias = Callable[[Tensor, list[Tensor]], Tensor]
"""The parameter after some steps, from the parameter before them and the gradients in order."""

Shape: TypeAlias = tuple[int, ...]
SHAPES: tuple[Shape, ...] = ((), (7,), (3, 4), (2, 3, 2, 2))


@dataclass(frozen=True)
class Subject:
    """What is checked.

    make: makes the optimizer of its parameters or groups, with settings that replace its own.
    shapes: the shapes of the parameters. formula: what the optimizer should compute, if given.
    """

    make: Callable[..., Optimizer]
    shapes: Sequence[Shape] = SHAPES
    formula: Formula | None = None

    def parameters(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """New parameters, always with the same values."""
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=generator) for shape in self.shapes]
        return [value.to(dtype).requires_grad_() for value in values]

    def trained(self, steps: range) -> tuple[list[Tensor], Optimizer]:
        """New parameters and their optimizer, after these steps."""
        params = self.parameters()
        optimizer = self.make(params)
        train(optimizer, params, steps)
        return params, optimizer


def train(
    optimizer: Optimizer, params: list[Tensor], steps: range, missing: Collection[Tensor] = ()
) -> list[list[Tensor]]:
    """Takes the steps, and returns the gradients of each parameter in the order of their use.

    missing: the parameters that get no gradient.
    """
    gradients: list[list[Tensor]] = [[] for _ in params]
    for i in steps:
        closure = closure_of(optimizer, params, i, missing, gradients)
        torch.manual_seed(i)  # for optimizers that draw random numbers in their step
        if needs_closure(optimizer):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return gradients


def closure_of(
    optimizer: Optimizer,
    params: list[Tensor],
    i: int,
    missing: Collection[Tensor] = (),
    gradients: Sequence[list[Tensor]] = (),
) -> Callable[[], Any]:
    """Computes the loss and the gradients of step i, as the documentation of PyTorch shows."""
    without = set(map(id, missing))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = objective(params, i)
        loss.backward()  # type: ignore[no-untyped-call]
        for param in params:
            param.grad = None if id(param) in without else param.grad
        for kept, param in zip(gradients, params, strict=False):
            if param.grad is not None:
                kept.append(param.grad.clone())
        return loss

    return closure


def objective(params: list[Tensor], i: int) -> Tensor:
    """A bowl with its lowest point at 1, plus noise that step i and the parameter's size decide.

    The gradient of a parameter does not depend on the other parameters.
    """
    return torch.stack([bowl(param, i).float() for param in params]).sum()


def bowl(param: Tensor, i: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * i + param.numel())
    noise = 0.3 * torch.randn(param.shape, generator=generator).to(param.dtype)
    return (0.5 * (param - 1).square() + noise * param).sum()


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` cannot be called without a closure."""
    closure: Any = signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is Parameter.empty


def learning_rate(optimizer: Optimizer) -> float | None:
    """The learning rate of the first group; None for an optimizer without one."""
    lr = optimizer.param_groups[0].get("lr")
    return None if lr is None else float(lr)
