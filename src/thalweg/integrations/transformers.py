"""Recipes in the Hugging Face Trainer."""

from __future__ import annotations

from contextlib import ExitStack
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
        "the callback for the Hugging Face Trainer needs it: pip install 'thalweg[transformers]'."
    ) from None

# Every event has the same arguments, of which a method takes those that it needs.
# ruff: noqa: ARG002


class RecipeCallback(TrainerCallback):
    """What an optimizer of ours needs in a Trainer beside its place.

        args = TrainingArguments(..., lr_scheduler_type="constant", max_grad_norm=0)
        optimizer = tw.optim.Optimizer(model.parameters(), recipe)
        Trainer(model, args, ..., optimizers=(optimizer, None), callbacks=[RecipeCallback()])

    Cooling and clipping are the recipe's, so the Trainer's, which both have other defaults, are
    turned off. Evaluation is at the parameters that evaluation uses (of an average, or of
    Nesterov), and so is the model when `train` has ended, the best one of
    `load_best_model_at_end` included. A checkpoint's folder holds what training goes on from, and
    in its folder `evaluated` the model as evaluated. Batch-norm statistics stay those of training.

    Plateau schedules are told the metric of `metric_for_best_model` (the loss, if none is given)
    after each evaluation, and the training loss whenever it is logged. Raises UserError for another
    optimizer.
    """

    def __init__(self) -> None:
        self.training = self.evaluating = False
        self.evaluation = ExitStack()
        self.hooks: list[RemovableHandle] = []

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
                "RecipeCallback needs an optimizer of thalweg's, given as optimizers=(optimizer,"
                f" None), not {type(given).__name__}."
            )
        for hook in list(model._forward_pre_hooks.values()):
            # An exception has ended the training that this hook is of.
            if isinstance(of := getattr(hook, "__self__", None), RecipeCallback):
                of.end()
        self.optimizer, self.model, self.training = given, model, True
        # There is no event before an evaluation, and none when `save_model` is called. What
        # generates and what saves may call a part of the model.
        self.hooks = [given.register_step_pre_hook(self.leave)]
        for part in model.modules():
            self.hooks += [
                part.register_forward_pre_hook(self.follow),
                part.register_state_dict_pre_hook(self.leave),
                part.register_load_state_dict_pre_hook(self.leave),
            ]

    def end(self) -> None:
        self.leave()
        for hook in self.hooks:
            hook.remove()
        self.training = False

    def follow(self, *_: Any) -> None:
        """Before a forward pass: takes the parameters to where the model's mode wants them."""
        if self.model.training:
            self.leave()
        elif not self.evaluating:
            self.evaluating = True
            self.evaluation.enter_context(self.optimizer.evaluation())

    def leave(self, *_: Any) -> None:
        """Takes the parameters back to where training goes on from."""
        if self.evaluating:
            self.evaluating = False
            self.evaluation.close()

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
            self.leave()
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
            load_model(self.model, Path(state.best_model_checkpoint, "evaluated/model.safetensors"))
            return
        with self.optimizer.evaluation():
            kept = {name: x.clone() for name, x in self.model.state_dict().items()}
        self.model.load_state_dict(kept)
