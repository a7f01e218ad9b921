"""Recipes in the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn
from torch.utils.hooks import RemovableHandle

from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError:
    raise ImportError(
        "the callback for the Hugging Face Trainer needs transformers:"
        " pip install 'thalweg[transformers]'."
    ) from None

# Every event has the same arguments, and a method need not use all of them.
# ruff: noqa: ARG002


class RecipeCallback(TrainerCallback):
    """The callback that an optimizer of ours needs in a Trainer.

        args = TrainingArguments(..., lr_scheduler_type="constant", max_grad_norm=0)
        optimizer = tw.optim.Optimizer(model.parameters(), recipe)
        Trainer(model, args, ..., optimizers=(optimizer, None), callbacks=[RecipeCallback()])

    The recipe has its own cooling and clipping, so those of the Trainer are switched off. Some
    recipes evaluate at other parameters than those that training goes on from: at an average, or at
    Nesterov's point. Evaluations use these, and so does every forward pass in evaluation mode, as
    of a callback that samples. The model has them when `train` has ended, also the best model of
    `load_best_model_at_end`. Batch-norm statistics stay those of training.

    The folder of a checkpoint, with `save_only_model` too, holds the parameters of training, and in
    its folder `evaluated` the model with the parameters of evaluation. Before `train` has ended,
    `save_model` and the model's `state_dict` always give the parameters of training, except within
    `optimizer.evaluation()`. The Trainer has no event for an exception: if one ends an evaluation,
    the model gets the parameters of training back when it is next trained, saved or loaded, or by
    the callback's `end()`.

    Plateau schedules get the metric of `metric_for_best_model` (the loss, if none is given) after
    each evaluation, and the training loss whenever it is logged. Raises UserError for another
    optimizer.
    """

    def __init__(self) -> None:
        self.training = self.evaluating = self.asked = False
        self.way_back = ExitStack()
        self.handles: list[RemovableHandle] = []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Any,
        **_: Any,
    ) -> None:
        # accelerate wraps the optimizer.
        given = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(given, RuleOptimizer):
            raise UserError(
                "RecipeCallback needs a thalweg optimizer, given as optimizers=(optimizer, None),"
                f" not {type(given).__name__}."
            )
        for hook in [self.follow, *model._forward_pre_hooks.values()]:
            of = getattr(hook, "__self__", None)
            if isinstance(of, RecipeCallback) and of.training:  # an exception ended its training
                of.end()
        self.optimizer, self.model, self.training = given, model, True
        self.watch()

    def watch(self) -> None:
        """Adds hooks to all that uses, saves, loads or steps the parameters.

        The Trainer has no event before an evaluation and none for `save_model`, and both may call a
        part of the model. A hook makes each call some microseconds slower, so modules without
        submodules, which other modules call, get none.
        """
        vars(self.optimizer)["evaluation"] = self.asked_for
        self.handles = [self.optimizer.register_step_pre_hook(self.leave)]
        part: Any  # PyTorch has no types for some of its hooks
        for part in self.model.modules():
            self.handles.append(part.register_state_dict_pre_hook(self.leave))
            self.handles.append(part.register_load_state_dict_pre_hook(self.leave))
            if part is self.model or [*part.children()]:
                self.handles.append(part.register_forward_pre_hook(self.follow))

    def end(self) -> None:
        """Gives the model the parameters of training again, and removes the hooks."""
        self.leave()
        for handle in self.handles:
            handle.remove()
        vars(self.optimizer).pop("evaluation", None)
        self.training = False

    def follow(self, *_: Any) -> None:
        """Before a forward pass: gives the model the parameters that belong to its mode."""
        if self.model.training:
            self.leave()
        elif not self.evaluating and not self.asked:
            self.evaluating = True
            self.way_back.enter_context(RuleOptimizer.evaluation(self.optimizer))

    def leave(self, *_: Any) -> None:
        """Gives the model the parameters of training again."""
        if self.evaluating:
            self.evaluating = False
            self.way_back.close()

    @contextmanager
    def asked_for(self) -> Iterator[None]:
        """The optimizer's `evaluation` while training runs; saving within it gives the same."""
        self.leave()
        self.asked = True
        try:
            with RuleOptimizer.evaluation(self.optimizer):
                yield
        finally:
            self.asked = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        self.leave()
        name = (args.metric_for_best_model or "loss").removeprefix("eval_")
        self.tell(validation=metrics.get(f"eval_{name}"))

    def on_predict(self, *_: Any, **__: Any) -> None:
        self.leave()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        self.tell(training=logs.get("loss"))

    def tell(self, **metric: float | None) -> None:
        if self.training:
            self.optimizer.observe(**metric)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}", "evaluated")
            folder.mkdir(exist_ok=True)
            with self.optimizer.evaluation():
                save_model(self.model, str(folder / "model.safetensors"), {"format": "pt"})
            config: Any = getattr(self.model, "config", None)
            if config is not None:
                config.save_pretrained(folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.end()
        if args.load_best_model_at_end and state.best_model_checkpoint:
            evaluated = Path(state.best_model_checkpoint, "evaluated/model.safetensors")
            if evaluated.exists():  # a checkpoint without it was written without this callback
                load_model(self.model, evaluated)
            return
        with self.optimizer.evaluation():
            kept = deepcopy(self.model.state_dict())
        self.model.load_state_dict(kept)
