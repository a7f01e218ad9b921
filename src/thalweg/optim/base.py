"""What every drop-in optimizer shares: parameter groups, state, steps and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import ParamsT, StateDict

from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.optim.fused import Chain, Fusing, Group, ParamWithGrad, age, by_chain, kernel_for
from thalweg.optim.settings import at, base, holds_schedule, memory, number, observed
from thalweg.optim.sharded import is_sharded, local, local_gradient, placed_as, total
from thalweg.optim.untraced import UntracedOptimizer


class RuleOptimizer(UntracedOptimizer):
    """A `torch.optim.Optimizer` whose steps are those of a chain of rules.

    Its groups hold a plain number for each hyperparameter, under PyTorch's name, and each may be
    changed between steps; where a schedule was given, the number is the schedule's base, and the
    schedule is a factor beside it that counts the group's own steps from 0. The first step of a
    parameter that had no gradient until then is its step 1.
    """

    def __init__(self, params: ParamsT, defaults: Mapping[str, Any]) -> None:
        self.schedules: list[dict[str, Any]] = []
        self.backend = "auto"
        self.fusing = Fusing()
        super().__init__(params, {"maximize": False, **defaults})

    def chain(self, group: Group) -> Chain:
        """The rules that step a group."""
        raise NotImplementedError

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group; UserError for a hyperparameter outside its range."""
        group = {**self.defaults, **param_group, "step_count": 0}
        for rule in self.chain(group):
            for name in rule.known():
                group[name] = rule.accepted(name, number(group[name]))
        scheduled = {name: value for name, value in group.items() if holds_schedule(value)}
        group |= {name: base(value) for name, value in scheduled.items()}
        group["memory"] = {name: memory(value) for name, value in scheduled.items()}
        super().add_param_group(group)
        self.schedules.append(scheduled)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients that the parameters hold, after `closure` where given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = self.stepping()
        if not params:
            self.stand_by()
        left = params if self.backend == "eager" else self.fusing.step(self, params)
        if left:
            self.step_eagerly(left)
        for group in self.param_groups:
            group["step_count"] += 1
        return loss

    def stepping(self) -> list[ParamWithGrad]:
        """The parameters that have a gradient, with what is here of it."""
        return [
            (param, grad if type(grad) is Tensor else local_gradient(grad, param), index)
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
            if (grad := param.grad) is not None
        ]

    @torch.no_grad()
    def stand_by(self) -> None:
        """Takes part in the norms of a step for which this process has no gradient."""
        model = self.parameters()
        if any(map(is_sharded, model)) and any(
            rule.norms for group in self.param_groups for rule in self.chain(group)
        ):
            total(torch.empty(0, dtype=torch.float64), [], model)

    @property
    def last_lr(self) -> float:
        """The rate of the first group's last step, schedules included."""
        return float(now(self.param_groups[0], self.schedules[0], "lr", -1))

    def parameters(self) -> list[Tensor]:
        """Those of all groups."""
        return [param for group in self.param_groups for param in group["params"]]

    def kernel_source(self) -> str:
        """The printed kernels that step the parameters; empty where eager arithmetic does."""
        kernels = {
            kernel_for(self, self.chain(group), (param, local(param), index)): None
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
        }
        return "\n\n".join(kernel.source for kernel in kernels if kernel)

    @torch.no_grad()
    def step_eagerly(self, params: Sequence[ParamWithGrad]) -> None:
        """Steps parameters by their chains' arithmetic on whole tensors."""
        for chain, places in by_chain(self, params).items():
            some = [params[place] for place in places]
            cells = [self.cell(chain, *each) for each in some]
            norm = partial(model_norm, [param for param, _, _ in some], self.parameters())
            eager.step(chain, cells, norm)
            for (param, _, _), cell in zip(some, cells, strict=True):
                as_real(local(param)).copy_(cell.param)
                increment_version(param)
                self.keep(param, cell)

    def cell(self, chain: Chain, param: Tensor, grad: Tensor, index: int) -> Cell:
        """What is here of a parameter, on its way through a step."""
        values = self.values(index) | {"t": age(self.state[param]) + 1, "dtype": param.dtype}
        downhill = descending(grad, self.param_groups[index]["maximize"])
        return Cell(working(local(param)), downhill, values, self.states(chain, param, values))

    def values(self, index: int) -> dict[str, Any]:
        """The hyperparameters and options of a group at its coming step, schedules included."""
        group, scheduled = self.param_groups[index], self.schedules[index]
        values: dict[str, Any] = {}
        for rule in self.chain(group):
            values |= {name: group[name] for name in rule.options}
            values |= {name: now(group, scheduled, name, 0) for name in rule.hypers}
            for name, following in rule.coming.items():
                values[name] = now(group, scheduled, following.hyper, 1)
        return values

    def states(self, chain: Chain, param: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the chain's rules keep for a parameter, as far as it is here, or start from.

        UserError for a kept state of another shape.
        """
        saved, here = self.state[param], as_real(local(param))
        states: dict[str, Any] = {}
        for rule in chain:
            for name, state in rule.states.items():
                kept = saved.get(name)
                if kept is None:
                    states[name] = starting(here, state, values)
                else:
                    shape = shape_of(here, state, values)
                    dtype = torch.promote_types(here.dtype, torch.float32)
                    fitted = fitting(name, as_real(local(kept)), shape)
                    states[name] = fitted.to(here.device, dtype)
            for name, row_state in rule.row_states.items():
                states[name] = float(saved.get(name, row_state.init))
        return states

    def keep(self, param: Tensor, cell: Cell) -> None:
        """Puts a stepped cell's states where `state_dict` finds them."""
        saved = self.state[param]
        saved["step"] = torch.tensor(float(cell.values["t"]), dtype=torch.float32)
        for name, value in cell.states.items():
            if isinstance(value, float):
                saved[name] = torch.tensor(value, dtype=torch.float64)
            else:
                state = torch.view_as_complex(value) if param.is_complex() else value
                saved[name] = placed_as(param, state)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The model at the parameters that evaluation is meant to use, for the time of the block.

        Averages and look-ahead rules train at another point than they evaluate at; checkpoints
        meant for use are saved in here. Training goes on as if nothing had happened. A model of
        `fully_shard` may still hold the parameters that it has gathered for its last forward pass:
        call its `reshard()` first within the block and behind it.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                for param, value in self.evaluated():
                    kept.append((param, param.clone()))
                    as_real(param).copy_(value)
            yield
        finally:
            with torch.no_grad():
                for param, value in kept:
                    param.copy_(value)

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is here of the parameters that evaluation uses at another value, and that value."""
        for index, group in enumerate(self.param_groups):
            chain, values = self.chain(group), self.values(index)
            for param in group["params"]:
                t = age(self.state.get(param, {}))
                if t == 0:
                    continue
                no_grad, states = torch.empty(0), self.states(chain, param, values)
                cell = Cell(working(local(param)), no_grad, {**values, "t": t}, states)
                value = eager.evaluated(chain, cell)
                if value is not cell.param:
                    yield local(param), value

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Tells plateau schedules the metric that they watch."""
        for group, scheduled in zip(self.param_groups, self.schedules, strict=True):
            for name, value in scheduled.items():
                group["memory"][name] = observed(
                    value, group["memory"][name], validation=validation, training=training
                )

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Goes on from a saved state: one of ours, or PyTorch's of the optimizer of that name."""
        given: StateDict = {}
        hook = self.register_load_state_dict_pre_hook(lambda _, last: given.update(last))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        # PyTorch has rounded each state to its parameter's precision; ours keep their own.
        for group, saved in zip(self.param_groups, given["param_groups"], strict=True):
            for param, i in zip(group["params"], saved["params"], strict=True):
                if i in given["state"]:
                    self.state[param] |= self.restored(group, param, given["state"][i])

    def restored(self, group: Group, param: Tensor, saved: Mapping[str, Any]) -> dict[str, Tensor]:
        """The states of a parameter's rules, from saved ones."""
        dtype = torch.promote_types(param.dtype, torch.float32)
        restored = {}
        for rule in self.chain(group):
            for name in rule.states:
                if isinstance(saved.get(name), Tensor):
                    restored[name] = saved[name].to(param.device, dtype, copy=True)
            for name in rule.row_states:
                if name in saved:
                    restored[name] = torch.tensor(float(saved[name]), dtype=torch.float64)
        return restored

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group, scheduled in zip(self.param_groups, self.schedules, strict=True):
            for name, value in {**self.defaults, "step_count": 0}.items():
                group.setdefault(name, base(value))
            fresh = {name: memory(value) for name, value in scheduled.items()}
            group["memory"] = fresh | group.get("memory", {})

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "schedules": self.schedules,
            "backend": self.backend,
            "fusing": Fusing(),
        }


def model_norm(
    params: Sequence[Tensor], model: Sequence[Tensor], tensors: list[Tensor]
) -> list[Tensor]:
    """The norm over all of them, summed in float64; once for each, as its own kind.

    Each belongs to one of `params`; where the model is sharded, the norm is over all shards.
    """
    norms = [torch.linalg.vector_norm(x, dtype=torch.float64) for x in tensors]
    together = torch.stack([norm.to(norms[0].device) for norm in norms])
    if any(map(is_sharded, model)):
        norm = total(together.square(), params, model).sqrt()
    else:
        norm = torch.linalg.vector_norm(together)
    return [norm.to(tensor) for tensor in tensors]


def as_real(x: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, which rules treat as two."""
    return torch.view_as_real(x) if x.is_complex() else x


def working(x: Tensor) -> Tensor:
    """As rules take it: real, and half precision in float32, to be rounded once a step."""
    real = as_real(x)
    return real.to(torch.promote_types(real.dtype, torch.float32))


def descending(grad: Tensor, maximize: bool) -> Tensor:
    """A gradient, dense, of what is to be made small."""
    dense = working(grad.to_dense() if grad.is_sparse else grad)
    return -dense if maximize else dense


def starting(param: Tensor, state: Any, values: Mapping[str, Any]) -> Tensor:
    """A state before its first step; that of half-precision weights is float32."""
    dtype = torch.promote_types(param.dtype, torch.float32)
    init = values[state.init] if isinstance(state.init, str) else state.init
    started: Tensor = param.new_zeros(shape_of(param, state, values), dtype=dtype) + init
    return started


def shape_of(param: Tensor, state: Any, values: Mapping[str, Any]) -> tuple[int, ...]:
    return (values[state.copies], *param.shape) if state.copies else tuple(param.shape)


def fitting(name: str, kept: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A kept state, where it has this shape; UserError where not."""
    if kept.shape != shape:
        raise UserError(
            f"{name} has the shape {tuple(kept.shape)} in the state, but {shape} here; load "
            "the state of this model, of a sharded one by torch.distributed.checkpoint.state_dict."
        )
    return kept


def now(group: Group, scheduled: Mapping[str, Any], name: str, ahead: int) -> Any:
    """A hyperparameter at the group's coming step, or `ahead` steps after it (before, below 0)."""
    schedule = scheduled.get(name)
    return at(number(group[name]), schedule, group["step_count"] + ahead, group["memory"].get(name))
