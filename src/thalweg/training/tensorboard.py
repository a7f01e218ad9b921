"""A training's scalars for TensorBoard."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from thalweg.errors import UserError
from thalweg.training.run import Evaluation


class TensorBoard:
    """Writes the training loss and lr of each step, and the validation metrics, to a folder.

    If a stopped training goes on, it replaces what was written after its last evaluation. Raises
    UserError if TensorBoard is not installed, and if the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "TensorBoard is not installed: pip install 'thalweg[tensorboard]'."
            ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be made: {error.strerror}.") from None
        self.folder, self.open = folder, SummaryWriter
        self.writer: Any = None

    def began(self, metric: str, steps: int, epochs: Fraction, step: int) -> None:  # noqa: ARG002
        self.metric = metric
        self.writer = self.open(str(self.folder), purge_step=step + 1)

    def stepped(self, step: int, loss: float, lr: float) -> None:
        self.writer.add_scalar("training/loss", loss, step)
        self.writer.add_scalar("training/lr", lr, step)

    def evaluated(self, point: Evaluation) -> None:
        for name, value in {self.metric: point.metric, **point.also}.items():
            self.writer.add_scalar(f"validation/{name}", value, point.step)
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
