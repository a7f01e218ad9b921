"""An adapter that lets training use any optimizer of PyTorch or of another package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from inspect import Parameter, signature
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from thalweg.optim.stepper import Cost

COUNTS = "steps_and_evaluations"


class Foreign:
    """Any `torch.optim.Optimizer` as a `Stepper`. Its steps are the same to the bit.

    The adapter counts how often a step computes the gradients: an optimizer whose `step` needs a
    closure, such as L-BFGS, may compute them several times. Evaluation uses the parameters of
    training. No schedule follows a metric.
    """

    averages = False

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        closure = signature(type(optimizer).step).parameters.get("closure")
        self.needs_closure = closure is not None and closure.default is Parameter.empty
        self.steps = self.evaluations = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def state(self) -> Mapping[Any, Any]:
        return self.optimizer.state

    @property
    def last_lr(self) -> float:
        return max(float(group.get("lr", 0.0)) for group in self.param_groups)

    @property
    def cost(self) -> Cost:
        """The numbers that it keeps now, and the mean number of gradients for each step so far."""
        kept = tree_leaves(list(self.optimizer.state.values()))
        numbers = sum(x.numel() for x in kept if isinstance(x, Tensor) and x.ndim)
        params = sum(param.numel() for group in self.param_groups for param in group["params"])
        return Cost(numbers / max(1, params), self.evaluations / max(1, self.steps))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        def counted() -> float:
            self.evaluations += 1
            assert closure, "the optimizer calls this only where it was given a closure"
            return closure()

        before = self.evaluations
        loss = self.optimizer.step(counted) if closure else self.optimizer.step()
        # Without a closure, the caller has computed the gradients once before the step.
        self.evaluations = max(self.evaluations, before + 1)
        self.steps += 1
        return None if loss is None else float(loss)

    def state_dict(self) -> dict[str, Any]:
        return {**self.optimizer.state_dict(), COUNTS: (self.steps, self.evaluations)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = dict(state_dict)
        self.steps, self.evaluations = own.pop(COUNTS, (0, 0))
        self.optimizer.load_state_dict(deepcopy(own))

    def evaluation(self) -> AbstractContextManager[None]:
        return nullcontext()

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Does nothing: no schedule of another optimizer follows a metric."""
