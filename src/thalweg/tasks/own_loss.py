"""The loss of a model that computes it itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.errors import UserError
from thalweg.tasks.failure import describe


def own_loss(outputs: Any, targets: Any) -> Tensor:  # noqa: ARG001 (a loss takes both)
    """The loss among the outputs of a model; see `thalweg.Task`.

    Raises UserError for outputs without a loss.
    """
    if is_scalar(outputs):
        return outputs  # type: ignore[no-any-return]
    if is_scalar(getattr(outputs, "loss", None)):
        return outputs.loss  # type: ignore[no-any-return]
    if isinstance(outputs, Mapping):
        if is_scalar(outputs.get("loss")):
            return outputs["loss"]  # type: ignore[no-any-return]
        if outputs and all(map(is_scalar, outputs.values())):
            return sum(outputs.values())  # type: ignore[return-value]
    if isinstance(outputs, tuple | list) and outputs and is_scalar(outputs[0]):
        return outputs[0]  # type: ignore[no-any-return]
    raise UserError(
        f"The outputs of the model hold no loss, they are {describe(outputs)}: give the task one,"
        " such as loss=torch.nn.functional.mse_loss."
    )


def is_scalar(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim == 0
