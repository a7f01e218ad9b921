"""A base class for optimizers that `torch.compile` does not trace.

Dynamo, which traces Python code for `torch.compile`, must not trace a step: a kernel finds tensors
by their addresses, and a traced address would be that of an earlier step.
`torch.compiler.disable` keeps Dynamo out, but imports Dynamo, which takes seconds. This module
keeps Dynamo out without importing it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import unwrap
from types import CodeType, FunctionType
from typing import Any

import torch
from torch._C._dynamo import eval_frame
from torch.optim.optimizer import (
    StateDict,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

Step = Callable[..., Any]

REASON = (
    "torch.compile cannot trace an optimizer of thalweg. Compile with fullgraph=False, which runs "
    "the optimizer between the compiled parts, or compile the model alone."
)


class UntracedOptimizer(torch.optim.Optimizer):
    """PyTorch's `Optimizer`, with Dynamo kept out of its methods and of those of its subclasses."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        keep_out_of_methods(cls)

    # PyTorch wraps these four methods, and its wrappers import Dynamo at the first call.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def load_state_dict(self, state_dict: StateDict) -> None:
        unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)

    def state_dict(self) -> StateDict:
        state_dict: StateDict = unwrap(torch.optim.Optimizer.state_dict)(self)
        return state_dict

    def zero_grad(self, set_to_none: bool = True) -> None:
        unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    @staticmethod
    def profile_hook_step(func: Step) -> Step:
        """Wraps `step` to call its hooks; PyTorch calls this once for each class.

        PyTorch's own wrapper takes a fifth of the time of a small model's step. It is used only
        where there are hooks or a profiler.
        """
        watched = torch.optim.Optimizer.profile_hook_step(func)

        def step(self: UntracedOptimizer, *args: Any, **kwargs: Any) -> Any:
            return (watched if is_watched(self) else func)(self, *args, **kwargs)

        keep_out(step, step.__code__)
        return wraps(func)(step)


def is_watched(optimizer: Any) -> bool:
    """Whether an optimizer's steps have hooks, or a profiler runs."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )


def keep_out_of_methods(cls: type) -> None:
    """Keeps Dynamo out of the methods that a class defines."""
    for each in vars(cls).values():
        method = each.fget if isinstance(each, property) else each
        if isinstance(method, FunctionType) and method.__module__ == cls.__module__:
            keep_out(method, unwrap(method).__code__)


def keep_out(function: Any, code: CodeType) -> None:
    """Makes Dynamo run the code of a function without tracing it; its graph ends at the call."""
    function._torchdynamo_disable = True
    function._torchdynamo_disable_msg = REASON
    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(skip, skip))


keep_out_of_methods(UntracedOptimizer)
