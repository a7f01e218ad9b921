"""Says in plain words why a model cannot be stacked, from the error of PyTorch's vmap."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from thalweg.tasks.reachable import is_own


class UnstackableError(Exception):
    """Members cannot be stacked; the message says why."""


REASONS = {
    "data-dependent control flow": "a decision depends on the values of a tensor",
    ".item()": "a number is taken out of a tensor",
    "data pointer": "the values of a tensor are taken out of it",
    "dynamic shape": "the shape of a tensor depends on the values of another",
    "differently shaped": "the shape of a tensor depends on the values of another",
    "out= or view ops": "a result is written into a tensor that was there before",
    "inplace arithmetic": "a member's values are written into a tensor that all members share",
    "the broadcast shape": "a member's values are written into a tensor that all members share",
    "inplace randomness": "random numbers are drawn into a tensor that all members share",
    "requires_grad_()": "gradients are taken within the forward pass or the loss",
    "does not require grad": "gradients are taken within the forward pass or the loss",
    "not have been used in the graph": "the loss does not reach the same parameters at every step",
    "setup_context": "a custom autograd.Function has no rule for vmap",
    "have vmap support": "a custom autograd.Function has no rule for vmap",
    "Jitted modules": "a scripted module cannot be given the parameters of others",
    "nn.DataParallel": "nn.DataParallel cannot be given the parameters of others",
}
"""Why members cannot be stacked, by a text that the error contains."""


def reason(error: BaseException) -> str:
    """What the model or the loss does that vmap cannot do, and the line of code."""
    text = str(error)
    if isinstance(error, UnstackableError):
        return text
    told = next((words for part, words in REASONS.items() if part in text), None)
    operation = re.search(r"aten::(\w+)", text)
    named = f"the operation {operation[1]}" if operation else "an operation"
    return (told or f"{named} cannot be done for many members at once") + line_of(error)


def line_of(error: BaseException) -> str:
    """The innermost line of the task's own code in the traceback, in brackets; "" for none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if is_own(frame.f_globals.get("__name__", "")) and not file.startswith("<"):
            return f" ({Path(file).name}, line {line})"
    return ""
