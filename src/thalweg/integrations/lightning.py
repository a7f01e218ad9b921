"""Recipes in PyTorch Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils.data import DataLoader

from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.stack.population import ESTIMATION_BATCHES, batch_norms, estimate_over
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

    Validation is at the parameters that evaluation uses (of an average, or of Nesterov), and so is
    the module when `fit` has ended. A checkpoint, at whatever moment it is written, holds these as
    its `state_dict`, and what training goes on from as its `training_point`, which the callback
    keeps when `fit` has ended; one with `save_weights_only`, from which no training can go on,
    holds the first alone. Where the recipe evaluates elsewhere and the module has batch
    normalization, its statistics there are estimated from the first batches of the training loader,
    of which `module(batch[0])` must be the forward pass.

    validation, training: names under which the module logs the metrics that plateau schedules
    watch, which are told the first after each validation, the second after each training epoch.
    Raises UserError where nothing is logged under such a name, and without an optimizer of ours.
    Lightning does not repeat a validation in which a checkpoint was written: a training that goes
    on from this checkpoint is told no metric of that epoch.
    """

    def __init__(self, validation: str | None = None, training: str | None = None) -> None:
        self.validation, self.training = validation, training
        self.fitting = self.evaluating = self.stepped = False
        self.way_back = ExitStack()
        self.statistics: list[dict[str, Tensor]] = []
        self.training_point: dict[str, Any] = {}
        self.loaded: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.leave()
        self.fitting = stage == "fit"
        if self.fitting:
            self.stepped, self.statistics = False, []
            self.training_point, self.loaded = {}, {}
            # Lightning writes a file of weights alone without a call of `on_save_checkpoint`.
            trainer.strategy.lightning_module_state_dict = partial(self.evaluated, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not ours(trainer):
            given = ", ".join(type(one).__name__ for one in trainer.optimizers)
            raise UserError(
                "RecipeCallback needs an optimizer of thalweg's from configure_optimizers, not"
                f" {given}."
            )
        # Another callback, as one of weight averaging, may have loaded what it takes for it.
        self.put_loaded(pl_module)
        self.loaded = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stepped, self.statistics = True, []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.enter(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.leave()
        if self.fitting and not trainer.sanity_checking and self.validation is not None:
            metric = logged(trainer, self.validation)
            for optimizer in ours(trainer):
                optimizer.observe(validation=metric)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of the epoch that it goes on from, Lightning may have nothing left to train on.
        if self.training is not None and self.stepped:
            metric = logged(trainer, self.training)
            for optimizer in ours(trainer):
                optimizer.observe(training=metric)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training_point = deepcopy(self.trained(trainer))
        self.enter(trainer)
        evaluated = deepcopy(pl_module.state_dict())
        self.leave()
        pl_module.load_state_dict(evaluated, strict=pl_module.strict_loading)
        self.fitting = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.leave()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.evaluating and any(one.training_point for one in ours(trainer)):
            raise UserError(
                "a checkpoint cannot be saved within optimizer.evaluation(); outside of it, a"
                " checkpoint holds both the training point and the evaluated one."
            )
        checkpoint["training_point"] = self.training_point or self.trained(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.fitting:
            self.loaded = checkpoint.get("training_point", {})
            self.put_loaded(pl_module)

    def put_loaded(self, module: LightningModule) -> None:
        """Takes the module to the training point of the checkpoint that fit goes on from."""
        if self.loaded:
            module.load_state_dict(self.loaded, strict=module.strict_loading)

    def evaluated(self, trainer: Trainer) -> dict[str, Any]:
        """The module's state where evaluation uses it; as it is, outside of `fit`."""
        if self.evaluating:
            return state_dict(trainer)
        self.enter(trainer)
        try:
            return deepcopy(state_dict(trainer))
        finally:
            self.leave()

    def trained(self, trainer: Trainer) -> dict[str, Any]:
        """The module's state where training goes on from; as it is, outside of `fit`.

        Within a validation, others may have put values into the module, which stay there.
        """
        if not self.evaluating:
            return state_dict(trainer)
        module = trainer.lightning_module
        held = [(x, x.clone()) for x in (*module.parameters(), *module.buffers())]
        self.leave()
        try:
            return deepcopy(state_dict(trainer))
        finally:
            self.enter(trainer)
            for x, value in held:
                x.data.copy_(value)

    def enter(self, trainer: Trainer) -> None:
        """Takes the module to where evaluation uses it; in `fit` alone, which leaves it there."""
        if not self.fitting or trainer.sanity_checking:
            return
        self.evaluating = True
        module, optimizers = trainer.lightning_module, ours(trainer)
        for x in (*module.parameters(), *module.buffers()):
            # A backward pass may wait for these values. They will be back.
            self.way_back.enter_context(_unsafe_preserve_version_counter(x))
        for optimizer in optimizers:
            self.way_back.enter_context(optimizer.evaluation())
        if any(map(averaging, optimizers)):
            for layer in batch_norms(module):
                self.way_back.enter_context(kept_buffers(layer))
            self.put_statistics(trainer, module)

    def leave(self) -> None:
        """Takes the module back to where training goes on from."""
        self.evaluating = False
        self.way_back.close()

    def put_statistics(self, trainer: Trainer, module: LightningModule) -> None:
        """Gives batch normalization its statistics, which are estimated once between two steps."""
        layers = batch_norms(module)
        if layers and not self.statistics:
            estimate(trainer, module)
            self.statistics = [deepcopy(dict(layer.named_buffers())) for layer in layers]
        for layer, statistics in zip(layers, self.statistics, strict=True):
            for name, x in statistics.items():
                layer.get_buffer(name).copy_(x)


def ours(trainer: Trainer) -> list[RuleOptimizer]:
    """The optimizers of ours in a trainer."""
    return [one for one in trainer.optimizers if isinstance(one, RuleOptimizer)]


def state_dict(trainer: Trainer) -> dict[str, Any]:
    """The module's state, as the strategy saves it."""
    saved: dict[str, Any] = type(trainer.strategy).lightning_module_state_dict(trainer.strategy)
    return saved


def averaging(optimizer: RuleOptimizer) -> bool:
    """Whether steps were taken, and evaluation is at an average of them."""
    return bool(optimizer.state) and optimizer.averages


@torch.no_grad()
def estimate(trainer: Trainer, module: LightningModule) -> None:
    """Sets batch-norm statistics to those of the parameters as they are, over training batches."""
    modes = {part: part.training for part in module.modules()}
    try:
        with same_batches(trainer.train_dataloader) as loader:
            estimate_over(
                islice(loader, ESTIMATION_BATCHES),
                module,
                lambda batch: module(trainer.strategy.batch_to_device(batch)[0]),
            )
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def same_batches(loader: Any) -> Iterator[Any]:
    """A loader of the same batches as this one, which goes on as if nothing had happened."""
    drawing = [getattr(of, "generator", None) for of in (loader, getattr(loader, "sampler", None))]
    states = [(generator, generator.get_state()) for generator in drawing if generator is not None]
    if isinstance(loader, DataLoader):
        loader = copy(loader)
        loader._iterator = None  # that of an epoch which is not over, if workers are persistent
    with torch.random.fork_rng(devices=[]):
        yield loader
    for generator, state in states:
        generator.set_state(state)


def logged(trainer: Trainer, name: str) -> float:
    """A metric that the module logs; UserError where there is none of this name."""
    if name not in trainer.callback_metrics:
        known = ", ".join(trainer.callback_metrics)
        raise UserError(f"the module has logged nothing as {name}; it has logged {known}.")
    return float(trainer.callback_metrics[name])
