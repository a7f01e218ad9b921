"""What every drop-in optimizer does: a step, evaluation, and going on from a saved state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT, StateDict

from thalweg.arguments import word
from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.optim.branches import ParamWithGrad, eager_parts, step_in_passes
from thalweg.optim.fused import Fusing, kernel_for
from thalweg.optim.groups import GroupedOptimizer
from thalweg.optim.loading import A_STATE, copied, dictionary, fitted
from thalweg.optim.settings import (
    base,
    memory,
    metric,
    resumed,
)
from thalweg.optim.sharded import (
    check_gathered,
    is_in_parts,
    local,
    local_gradient,
    received,
)
from thalweg.optim.state import age_in, as_real


class RuleOptimizer(GroupedOptimizer):
    """A `torch.optim.Optimizer` whose steps are those of a chain of rules.

    The first step of a parameter that had no gradient until then is its step 1.
    """

    needs_closure = False

    def __init__(self, params: ParamsT | nn.Module, defaults: Mapping[str, Any]) -> None:
        self.training_point: list[tuple[Tensor, Tensor]] = []
        self.fusing = Fusing()
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients that the parameters hold, after `closure` where given."""
        if self.training_point:
            raise UserError(
                "step was called within evaluation(), where the model does not hold the parameters"
                " that training goes on from."
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = self.stepping()
        if found_infinite(self):
            return loss
        unscale(self, params)
        if self.backend == "eager":
            parted = is_in_parts(self.parameters(), self.zero)
            step_in_passes(self, eager_parts(self, params), parted)
        else:
            self.fusing.step(self, params)
        for index in range(len(self.param_groups)):
            self.row(index).advance()
        return loss

    def stepping(self) -> list[ParamWithGrad]:
        """The parameters that have a gradient, with what is here of it."""
        return [
            (param, grad if type(grad) is Tensor else local_gradient(grad, param), index)
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
            if (grad := param.grad) is not None
        ]

    def kernel_source(self) -> str:
        """The printed kernels that step the parameters; empty where eager arithmetic does."""
        kernels = {
            kernel_for(self, self.chain(group), (param, local(param), index)): None
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
        }
        return "\n\n".join(kernel.source for kernel in kernels if kernel)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The model at the parameters that evaluation is meant to use, for the time of the block.

        Averages and look-ahead rules train at another point than they evaluate at; checkpoints
        meant for use are saved in here. Training goes on as if nothing had happened. Within such a
        block another one changes nothing, and no step can be taken. A model of `fully_shard` may
        still hold the parameters that it has gathered for its last forward pass: call its
        `reshard()` first within the block and behind it. Under a `ZeroRedundancyOptimizer`, call
        its `optim.evaluation()`, in all processes: each gives the others what it has averaged.
        """
        if self.training_point:
            yield
            return
        if any(map(eager.elsewhere, self.chains())):
            check_gathered(self.parameters())
        try:
            with torch.no_grad():
                values = list(self.evaluated())
                while values:  # parameters may share memory: all values come before any is put
                    param, value = values.pop()
                    self.training_point.append((param, param.clone()))
                    as_real(param).copy_(value)
                if self.zero is not None and any(map(eager.elsewhere, self.chains())):
                    self.training_point += received(self.zero, self.parameters())
            yield
        finally:
            self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Goes back to the training point, and all the way where a signal's handler raises."""
        try:
            while self.training_point:
                param, value = self.training_point[-1]
                param.copy_(value)
                self.training_point.pop()
        except (KeyboardInterrupt, SystemExit):
            self.put_back()
            raise

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is here of the parameters that evaluation uses at another value, and that value."""
        for index, group in enumerate(self.param_groups):
            chain = self.chain(group)
            for param in group["params"]:
                if age_in(chain, self.state.get(param, {})) == 0:
                    continue
                value = self.held(chain, param, torch.empty(0), index).evaluated(chain)
                if value is not None:
                    yield local(param), value

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Tells plateau schedules the metric that they watch; UserError for what is no number."""
        metrics = {"validation": metric("validation", validation)}
        metrics["training"] = metric("training", training)
        for index in range(len(self.param_groups)):
            self.row(index).observe(**metrics)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Goes on from a saved state: one of ours, or PyTorch's of the optimizer of that name.

        The state is copied. UserError for one that does not fit, which changes nothing.
        """
        fitting: list[tuple[Tensor, dict[str, Any]]] = []

        def prepare(_: Any, given: StateDict) -> None:
            fitting.extend(fitted(self, given))

        def put(_: Any) -> None:
            self.fusing.forget()
            for group in self.param_groups:
                group |= self.accepted(group)
            for param, states in fitting:
                self.state[param] = copied(self.state[param]) | states

        hooks = [
            self.register_load_state_dict_pre_hook(prepare),
            self.register_load_state_dict_post_hook(put, prepend=True),
        ]
        try:
            super().load_state_dict(dictionary(state_dict))
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor for a flag
            why = word(str(error))
            raise UserError(f"{A_STATE}; this one cannot be read: {why}.") from error
        finally:
            for hook in hooks:
                hook.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        routes = [group.get("route") for group in self.__dict__.get("param_groups", ())]
        super().__setstate__(state)
        for group, route in zip(self.param_groups, routes, strict=False):
            group |= {"route": route} if route else {}
        for index, group in enumerate(self.param_groups):
            for name, value in {**self.defaults_of(group), "maximize": False}.items():
                group.setdefault(name, base(value))
            group |= self.fixed
            fresh = {name: memory(value) for name, value in self.scheduled(index).items()}
            steps, saved = group.pop("step_count", 0), group.pop("memory", None) or {}
            if fresh:
                group["step_count"] = steps
                group["memory"] = {n: resumed(start, saved.get(n)) for n, start in fresh.items()}

    def __getstate__(self) -> dict[str, Any]:
        if self.training_point:
            raise UserError(
                "an optimizer cannot be copied within evaluation(), where the model does not hold"
                " the parameters that training goes on from."
            )
        kept = ("schedules", "recipe", "tracks", "known", "backend")
        return {
            **super().__getstate__(),
            **{name: value for name, value in vars(self).items() if name in kept},
            "training_point": [],
            "fusing": Fusing(),
            "zero": None,
        }


def found_infinite(optimizer: Any) -> bool:
    """Whether a GradScaler says, as it does to fused optimizers, that a gradient is not finite."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def unscale(optimizer: Any, params: Sequence[ParamWithGrad]) -> None:
    """Divides the gradients by the scale that a GradScaler gives to fused optimizers."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        for _, grad, _ in params:
            grad.div_(scale)
