"""Recipes in PyTorch Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.stack.population import ESTIMATION_BATCHES, averages, batch_norms, estimate_over
from thalweg.stack.single import kept_buffers

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise ImportError(
        "the callback for PyTorch Lightning needs it: pip install 'thalweg[lightning]'."
    ) from None

# A hook is given more than it needs.
# ruff: noqa: ARG002


class RecipeCallback(Callback):
    """What an optimizer of ours needs in Lightning beside `configure_optimizers`.

        def configure_optimizers(self):
            return tw.optim.Optimizer(self.parameters(), recipe)

        trainer = Trainer(callbacks=[RecipeCallback(validation="val_loss")])

    Validation is at the parameters that evaluation uses (of an average, or of Nesterov), and so are
    a checkpoint's `state_dict` and, when `fit` has ended, the module. What training goes on from
    stands in the checkpoint too, as `training_point`; one with `save_weights_only` holds this
    alone. Where the recipe evaluates elsewhere and the module has batch normalization, its
    statistics there are estimated from the first batches of the training loader, of which
    `module(batch[0])` must be the forward pass.

    validation, training: names under which the module logs the metrics that plateau schedules
    watch, which are told the first after each validation, the second after each training epoch.
    Raises UserError where nothing is logged under such a name, and without an optimizer of ours.
    """

    def __init__(self, validation: str | None = None, training: str | None = None) -> None:
        self.validation, self.training = validation, training
        self.fitting = False
        self.validating = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.fitting = stage == "fit"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not ours(trainer):
            given = ", ".join(type(one).__name__ for one in trainer.optimizers)
            raise UserError(
                "RecipeCallback needs an optimizer of thalweg's from configure_optimizers, not"
                f" {given}."
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validating.enter_context(self.evaluation(trainer, pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validating.close()
        if self.fitting and not trainer.sanity_checking and self.validation is not None:
            metric = logged(trainer, self.validation)
            for optimizer in ours(trainer):
                optimizer.observe(validation=metric)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.training is not None:
            metric = logged(trainer, self.training)
            for optimizer in ours(trainer):
                optimizer.observe(training=metric)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.load_state_dict(self.evaluated(trainer, pl_module))
        self.fitting = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.validating.close()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["training_point"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self.evaluated(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.fitting and "training_point" in checkpoint:
            pl_module.load_state_dict(checkpoint["training_point"])

    def evaluated(self, trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
        """The parameters and buffers that evaluation uses, by the module's names."""
        with self.evaluation(trainer, module):
            return {name: x.clone() for name, x in module.state_dict().items()}

    @contextmanager
    def evaluation(self, trainer: Trainer, module: LightningModule) -> Iterator[None]:
        """The module as evaluation uses it; as it is outside of `fit`, which leaves it so."""
        optimizers = ours(trainer) if self.fitting and not trainer.sanity_checking else []
        elsewhere = any(averages(one.chain(g)) for one in optimizers for g in one.param_groups)
        with ExitStack() as stack:
            for optimizer in optimizers:
                stack.enter_context(optimizer.evaluation())
            if elsewhere and batch_norms(module):
                for layer in batch_norms(module):
                    stack.enter_context(kept_buffers(layer))
                estimate(trainer, module)
            yield


def ours(trainer: Trainer) -> list[RuleOptimizer]:
    """The optimizers of ours in a trainer."""
    return [one for one in trainer.optimizers if isinstance(one, RuleOptimizer)]


@torch.no_grad()
def estimate(trainer: Trainer, module: LightningModule) -> None:
    """Sets batch-norm statistics to those of the parameters as they are, over training batches."""
    modes = {part: part.training for part in module.modules()}
    with torch.random.fork_rng(devices=[]):  # the loader's shuffle is to stay as it is
        estimate_over(
            islice(trainer.train_dataloader, ESTIMATION_BATCHES),
            module,
            lambda batch: module(trainer.strategy.batch_to_device(batch)[0]),
        )
    for part, mode in modes.items():
        part.training = mode


def logged(trainer: Trainer, name: str) -> float:
    """A metric that the module logs; UserError where there is none of this name."""
    if name not in trainer.callback_metrics:
        known = ", ".join(trainer.callback_metrics)
        raise UserError(f"the module has logged nothing as {name}; it has logged {known}.")
    return float(trainer.callback_metrics[name])
