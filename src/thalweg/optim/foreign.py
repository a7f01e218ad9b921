"""An adapter that lets training use any optimizer of PyTorch or of another package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thalweg.foreign import needs_closure
from thalweg.optim.optimizer import Optimizer
from thalweg.optim.rows import Row
from thalweg.optim.stepper import Cost, Stepper
from thalweg.recipe import Recipe
from thalweg.routes import parameters_of

COUNTS, SCHEDULES = "steps_and_evaluations", "schedules"


def stepper_of(model: nn.Module, recipe: Recipe) -> Stepper:
    """The optimizer of a recipe for a model, of this package or of another one."""
    if recipe.foreign is None:
        return Optimizer(model, recipe)
    known = parameters_of(model)
    params = dict(model.named_parameters())
    by_track: dict[str, tuple[Row, list[Tensor]]] = {}
    for one, track in zip(known, recipe.tracks(known), strict=True):
        place = by_track.setdefault(track.name, (Row.of(track.settings()), []))
        place[1].append(params[one.name])
    hypers = recipe.foreign.hypers
    groups = [
        {"params": own, **{name: row.now(name) for name in hypers}}
        for row, own in by_track.values()
    ]
    return Foreign(recipe.foreign.made(groups), [row for row, _ in by_track.values()])


class Foreign:
    """Any `torch.optim.Optimizer` as a `Stepper`. Its steps are the same to the bit.

    The adapter counts how often a step computes the gradients: an optimizer whose `step` needs a
    closure, such as L-BFGS, may compute them several times. Schedules go by this count.

    rows: a row for each parameter group, whose schedules give the group's settings. Evaluation is
    between `eval()` and `train()` of an optimizer that has these, as Schedule-Free's do.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rows: Sequence[Row] = ()) -> None:
        self.optimizer, self.rows = optimizer, rows
        self.needs_closure = needs_closure(type(optimizer))
        self.averages = all(hasattr(optimizer, name) for name in ("train", "eval"))
        self.steps = self.evaluations = 0
        if self.averages:
            optimizer.train()  # type: ignore[attr-defined]

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

        for row, group in zip(self.rows, self.param_groups, strict=bool(self.rows)):
            group.update({name: row.now(name) for name in row.schedules})
        before = self.evaluations
        loss = self.optimizer.step(counted) if closure else self.optimizer.step()
        # Without a closure, the caller has computed the gradients once before the step.
        self.evaluations = max(self.evaluations, before + 1)
        self.steps += 1
        for row in self.rows:
            if row.schedules:
                row.group["step_count"] += self.evaluations - before
        return None if loss is None else float(loss)

    def state_dict(self) -> dict[str, Any]:
        schedules = [
            (row.group["step_count"], row.group["memory"]) if row.schedules else None
            for row in self.rows
        ]
        own = {COUNTS: (self.steps, self.evaluations), SCHEDULES: schedules}
        return {**self.optimizer.state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = dict(state_dict)
        self.steps, self.evaluations = own.pop(COUNTS, (0, 0))
        for row, saved in zip(self.rows, own.pop(SCHEDULES, ()), strict=False):
            if saved and row.schedules:
                row.group["step_count"], row.group["memory"] = saved[0], dict(saved[1])
        self.optimizer.load_state_dict(deepcopy(own))

    def begin(self, steps: int, saved: Mapping[str, Any]) -> None:
        """Begins with the states of another training with an optimizer of the same class.

        steps: the number of steps of that training. saved: the `state_dict` of its optimizer.
        """
        states = {**self.optimizer.state_dict(), "state": saved["state"]}
        self.optimizer.load_state_dict(deepcopy(states))
        for row, group in zip(self.rows, saved["param_groups"], strict=False):
            row.begin(steps, group.get("memory", {}))

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        if not self.averages:
            yield
            return
        self.optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.optimizer.train()  # type: ignore[attr-defined]

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        for row in self.rows:
            row.observe(validation=validation, training=training)
