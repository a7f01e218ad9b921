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
        "the callback for PyTorch Lightning needs Lightning: pip install 'thalweg[lightning]'."
    ) from None

# Lightning's hooks have arguments that a callback need not use.
# ruff: noqa: ARG002


class RecipeCallback(Callback):
    """The callback that an optimizer of ours needs in Lightning.

        def configure_optimizers(self):
            return tw.optim.Optimizer(self.parameters(), recipe)

        trainer = Trainer(callbacks=[RecipeCallback(validation="val_loss")])

    Some recipes evaluate at other parameters than those that training goes on from: at an average,
    or at Nesterov's point. Validation uses these, and the module has them when `fit` has ended. A
    checkpoint, whenever it is written, holds them as its `state_dict`, and the parameters of
    training as its `training_point`. A checkpoint with `save_weights_only`, from which no training
    can go on, holds only the first. If the recipe evaluates at other parameters and the module has
    batch normalization, its statistics there are estimated from the first batches of the training
    loader; the forward pass must be `module(batch[0])`.

    validation, training: the names under which the module logs the metrics for plateau schedules.
    The schedules get the first after each validation, and the second after each training epoch.
    Raises UserError if nothing is logged under such a name, and without an optimizer of ours. If a
    checkpoint was written within a validation, Lightning does not repeat this validation, and a
    training that goes on from the checkpoint gets no metric for that epoch.
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
            # For a file of weights alone, Lightning does not call `on_save_checkpoint`.
            trainer.strategy.lightning_module_state_dict = partial(self.evaluated, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not ours(trainer):
            given = ", ".join(type(one).__name__ for one in trainer.optimizers)
            raise UserError(
                f"RecipeCallback needs a thalweg optimizer from configure_optimizers, not {given}."
            )
        # Another callback, such as weight averaging, may have loaded other values into the module.
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
        # After a restart, the first epoch may have no batches left.
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
        """Gives the module the training point of the checkpoint from which `fit` goes on."""
        if self.loaded:
            module.load_state_dict(self.loaded, strict=module.strict_loading)

    def evaluated(self, trainer: Trainer) -> dict[str, Any]:
        """The module's state with the parameters of evaluation; outside of `fit`, as it is."""
        if self.evaluating:
            return state_dict(trainer)
        self.enter(trainer)
        try:
            return deepcopy(state_dict(trainer))
        finally:
            self.leave()

    def trained(self, trainer: Trainer) -> dict[str, Any]:
        """The module's state with the parameters of training; outside of `fit`, as it is.

        Other callbacks may have put values into the module during a validation; these stay there.
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
        """Gives the module the parameters of evaluation, during `fit`."""
        if not self.fitting or trainer.sanity_checking:
            return
        self.evaluating = True
        module, optimizers = trainer.lightning_module, ours(trainer)
        for x in (*module.parameters(), *module.buffers()):
            # A later backward pass may need these values, and they will be restored before it.
            self.way_back.enter_context(_unsafe_preserve_version_counter(x))
        for optimizer in optimizers:
            self.way_back.enter_context(optimizer.evaluation())
        if any(map(averaging, optimizers)):
            for layer in batch_norms(module):
                self.way_back.enter_context(kept_buffers(layer))
            self.put_statistics(trainer, module)

    def leave(self) -> None:
        """Gives the module the parameters of training again."""
        self.evaluating = False
        self.way_back.close()

    def put_statistics(self, trainer: Trainer, module: LightningModule) -> None:
        """Sets the statistics of batch normalization, estimated at most once between two steps."""
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
    """Whether the optimizer has taken steps, and evaluates at an average."""
    return bool(optimizer.state) and optimizer.averages


@torch.no_grad()
def estimate(trainer: Trainer, module: LightningModule) -> None:
    """Sets batch-norm statistics to those of the current parameters, over training batches."""
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
    """Iterates over the batches of a loader, and leaves the loader as it was."""
    drawing = [getattr(of, "generator", None) for of in (loader, getattr(loader, "sampler", None))]
    states = [(generator, generator.get_state()) for generator in drawing if generator is not None]
    if isinstance(loader, DataLoader):
        loader = copy(loader)
        loader._iterator = None  # with persistent workers, an unfinished epoch has an iterator
    with torch.random.fork_rng(devices=[]):
        yield loader
    for generator, state in states:
        generator.set_state(state)


def logged(trainer: Trainer, name: str) -> float:
    """A metric that the module logs. Raises UserError if it logs none of this name."""
    if name not in trainer.callback_metrics:
        known = ", ".join(trainer.callback_metrics)
        raise UserError(f"the module has logged no metric {name}; it has logged {known}.")
    return float(trainer.callback_metrics[name])
