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
from thalweg.optim.rows import advance
from thalweg.optim.settings import (
    base,
    memory,
    metric,
    resumed,
)
from thalweg.optim.sharded import (
    check_gathered,
    is_spread,
    local,
    local_gradient,
    received,
)
from thalweg.optim.state import age_in, as_real


class RuleOptimizer(GroupedOptimizer):
    """A `torch.optim.Optimizer` that steps by a chain of rules.

    A parameter counts its own steps from 1, without the steps in which it had no gradient.
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
        """One step with the gradients of the parameters; `closure`, if given, is called first."""
        if self.training_point:
            raise UserError(
                "step was called within evaluation(), where the model does not hold the parameters"
                " of training."
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = self.with_gradients()
        if found_infinite(self):
            return loss
        unscale(self, params)
        if self.backend == "eager":
            spread = is_spread(self.parameters(), self.zero)
            step_in_passes(self, eager_parts(self, params), spread)
        else:
            self.fusing.step(self, params)
        advance(self.param_groups)
        return loss

    def with_gradients(self) -> list[ParamWithGrad]:
        """The parameters that have a gradient, with the local part of the gradient."""
        return [
            (param, grad if type(grad) is Tensor else local_gradient(grad, param), index)
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
            if (grad := param.grad) is not None
        ]

    def kernel_source(self) -> str:
        """The text of the kernels that step the parameters; "" where no kernel does."""
        kernels = {
            kernel_for(self, self.chain(group), (param, local(param), index)): None
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
        }
        return "\n\n".join(kernel.source for kernel in kernels if kernel)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within the block, the model holds the parameters for evaluation.

        Averages and look-ahead rules evaluate at another point than the one at which they train.
        Save the checkpoints that you want to use later within the block. After the block, training
        goes on as before. Within the block a second `evaluation()` does nothing, and `step` raises
        UserError.

        A model of `fully_shard` may still hold the parameters that it gathered for its last forward
        pass: call its `reshard()` at the start of the block and after the block. Under a
        `ZeroRedundancyOptimizer`, call its `optim.evaluation()` in all processes: each process
        sends the others the averages of its parameters.
        """
        if self.training_point:
            yield
            return
        if any(map(eager.elsewhere, self.chains())):
            check_gathered(self.parameters())
        try:
            with torch.no_grad():
                values = list(self.evaluated())
                while values:  # parameters may share memory: no value is set before all are known
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
        """Gives the model its parameters of training back, also if a signal's handler raises."""
        try:
            while self.training_point:
                param, value = self.training_point[-1]
                param.copy_(value)
                self.training_point.pop()
        except (KeyboardInterrupt, SystemExit):
            self.put_back()
            raise

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The local parameters that have another value in evaluation, each with that value."""
        for index, group in enumerate(self.param_groups):
            chain = self.chain(group)
            for param in group["params"]:
                if age_in(chain, self.state.get(param, {})) == 0:
                    continue
                value = self.held(chain, param, torch.empty(0), index).evaluated(chain)
                if value is not None:
                    yield local(param), value

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Gives plateau schedules the metric that they watch; UserError if it is not a number."""
        metrics = {"validation": metric("validation", validation)}
        metrics["training"] = metric("training", training)
        for index in range(len(self.param_groups)):
            self.row(index).observe(**metrics)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Loads a saved state: one of this optimizer, or of PyTorch's optimizer of the same name.

        The state is copied. UserError for a state that does not fit; the optimizer then does not
        change.
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
                " the parameters of training."
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
    """Whether a GradScaler has told the optimizer that some gradient is not finite."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def unscale(optimizer: Any, params: Sequence[ParamWithGrad]) -> None:
    """Divides the gradients by the scale that a GradScaler has given to the optimizer."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        for _, grad, _ in params:
            grad.div_(scale)
