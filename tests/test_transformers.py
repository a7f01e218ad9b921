"""Recipes in the Hugging Face Trainer, against plain loops of the same steps."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from plain_loop import BATCH, EPOCHS, trained
from thalweg import schedules
from thalweg.errors import UserError
from thalweg.integrations.transformers import RecipeCallback
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain, ema, momentum, nesterov, sgd

COOLING = schedules.linear(0.1, 0.01, steps=15)
AVERAGED = chain(nesterov(lr=COOLING), ema(0.9))
# Its average leaves training as it is, so that the recipe without it is the truth of this.
MOMENTUM = momentum(lr=COOLING)
SMOOTHED = chain(MOMENTUM, ema(0.9))


def samples(n: int) -> list[dict[str, Tensor]]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return [{"x": one, "labels": one[:1].sin()} for one in x]


TRAINING, VALIDATION = samples(40), samples(16)


class Config(PretrainedConfig):
    model_type = "tiny"


class Tiny(PreTrainedModel):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As PyTorch has made them."""

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.net(x)
        return {"loss": F.mse_loss(outputs, labels), "logits": outputs}


class InOrder(Trainer):
    """Takes the training samples as they stand."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(TRAINING)


class Sampling(TrainerCallback):
    """Uses a part of the model in evaluation mode at events of a step, and saves it in two ways."""

    trainer: Trainer

    def __init__(self, folder: Path, events: Iterable[str], step: int = 10) -> None:
        self.folder, self.step, self.losses = folder, step, []
        for event in events:
            setattr(self, event, partial(self.sample, folder / event))

    def sample(
        self, path: Path, _: Any, state: Any, control: Any, *, model: Any, **__: Any
    ) -> None:
        if state.global_step == self.step and not path.exists():
            mode = model.training
            x, targets = batch(VALIDATION)
            self.losses.append(F.mse_loss(model.eval().net(x), targets).item())
            self.trainer.save_model(str(path))
            with self.trainer.optimizer.optimizer.evaluation():
                self.trainer.save_model(str(path / "evaluated"))
            model(x, targets)
            model.train(mode)
            control.should_save = True


class Failing(TrainerCallback):
    """Ends the second evaluation with an exception."""

    def on_prediction_step(self, _: Any, state: Any, __: Any, **___: Any) -> None:
        if state.global_step == 10:
            raise KeyboardInterrupt


def trainer(
    model: nn.Module,
    recipe: Recipe,
    folder: Path,
    before: Iterable[TrainerCallback] = (),
    after: Iterable[TrainerCallback] = (),
    **settings: Any,
) -> Trainer:
    each_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    args = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=16,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        **{**each_epoch, **quiet, **settings},
    )
    callbacks = [*before, RecipeCallback(), *after]
    made = InOrder(
        model,
        args,
        train_dataset=TRAINING,
        eval_dataset=VALIDATION,
        optimizers=(Optimizer(model.parameters(), recipe), None),
        callbacks=callbacks,
    )
    for callback in callbacks:
        callback.trainer = made
    return made


def validations(of: Trainer) -> list[float]:
    return [logs["eval_loss"] for logs in of.state.log_history if "eval_loss" in logs]


def batch(of: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([one["x"] for one in of]), torch.stack([one["labels"] for one in of])


def plain(recipe: Recipe) -> tuple[list[float], list[dict[str, Tensor]]]:
    """A plain loop's validation losses, and its model as evaluated, after each epoch."""
    return trained(Tiny(Config()).net, recipe, batch(TRAINING), batch(VALIDATION))


def test_evaluations_checkpoints_and_model_are_at_the_average(tmp_path: Path) -> None:
    model = Tiny(Config())
    assert trainer(model, AVERAGED, tmp_path).evaluate()["eval_loss"] > 0  # before any training
    trained = trainer(model, AVERAGED, tmp_path)
    trained.train()
    losses, kept = plain(AVERAGED)
    assert validations(trained) == losses
    torch.testing.assert_close(model.net.state_dict(), kept[-1], rtol=0, atol=0)
    assert trained.evaluate()["eval_loss"] == losses[-1]
    for step, expected in zip((5, 10, 15), kept, strict=True):
        saved = Tiny.from_pretrained(tmp_path / f"checkpoint-{step}" / "evaluated")
        torch.testing.assert_close(saved.net.state_dict(), expected, rtol=0, atol=0)


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    trainer(Tiny(Config()), AVERAGED, tmp_path).train()
    model = Tiny(Config())
    went_on = trainer(model, AVERAGED, tmp_path)
    went_on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    losses, kept = plain(AVERAGED)
    assert validations(went_on) == losses
    torch.testing.assert_close(model.net.state_dict(), kept[-1], rtol=0, atol=0)


EVENTS = (
    "on_step_end",
    "on_epoch_end",
    "on_log",
    "on_prediction_step",
    "on_evaluate",
    "on_save",
    "on_step_begin",
    "on_pre_optimizer_step",
)


def test_what_is_saved_at_any_event_is_what_training_goes_on_from(tmp_path: Path) -> None:
    model = Tiny(Config())
    before, after = (Sampling(tmp_path / name, EVENTS) for name in ("before", "after"))
    made = trainer(model, SMOOTHED, tmp_path, [before], [after], save_only_model=True)
    made.train()
    losses, evaluated = plain(SMOOTHED)
    _, training = plain(MOMENTUM)
    assert validations(made) == losses
    torch.testing.assert_close(model.net.state_dict(), evaluated[-1], rtol=0, atol=0)
    folders = [sampling.folder / event for sampling in (before, after) for event in EVENTS]
    for folder in (*folders, tmp_path / "checkpoint-10"):
        saved, beside = (Tiny.from_pretrained(path) for path in (folder, folder / "evaluated"))
        torch.testing.assert_close(saved.net.state_dict(), training[1], rtol=0, atol=0)
        torch.testing.assert_close(beside.net.state_dict(), evaluated[1], rtol=0, atol=0)
    assert before.losses == after.losses == losses[1:2] * len(EVENTS)


def test_training_goes_on_from_a_checkpoint_behind_a_sample(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path / "sampled", ["on_step_end"], step=7)
    trainer(Tiny(Config()), AVERAGED, tmp_path, after=[sampling]).train()
    model = Tiny(Config())
    trainer(model, AVERAGED, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    torch.testing.assert_close(model.net.state_dict(), plain(AVERAGED)[1][-1], rtol=0, atol=0)


def test_a_sample_between_accumulated_gradients_leaves_training_as_it_was(tmp_path: Path) -> None:
    models = []
    for callbacks in ([Sampling(tmp_path / "sampled", ["on_substep_end"], step=7)], []):
        models.append(Tiny(Config()))
        made = trainer(models[-1], AVERAGED, tmp_path, callbacks, gradient_accumulation_steps=2)
        made.train()
    sampled, left = (model.net.state_dict() for model in models)
    torch.testing.assert_close(sampled, left, rtol=0, atol=0)


@pytest.mark.parametrize("by", ["the same trainer", "another trainer"])
def test_an_exception_within_an_evaluation_loses_nothing(by: str, tmp_path: Path) -> None:
    model = Tiny(Config())
    made = trainer(model, SMOOTHED, tmp_path, before=[failing := Failing()])
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.save_model(str(tmp_path / "interrupted"))
    saved = Tiny.from_pretrained(tmp_path / "interrupted")
    torch.testing.assert_close(saved.net.state_dict(), plain(MOMENTUM)[1][1], rtol=0, atol=0)
    made.remove_callback(failing)
    assert made.evaluate()["eval_loss"] == plain(SMOOTHED)[0][1]
    made = made if by == "the same trainer" else trainer(model, SMOOTHED, tmp_path)
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    losses, kept = plain(SMOOTHED)
    assert validations(made) == losses
    torch.testing.assert_close(model.net.state_dict(), kept[-1], rtol=0, atol=0)


def test_a_model_is_taken_back_after_an_exception(tmp_path: Path) -> None:
    model = Tiny(Config())
    made = trainer(model, SMOOTHED, tmp_path, before=[Failing()])
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.pop_callback(RecipeCallback).end()
    expected = plain(MOMENTUM)[1][1]
    for name, x in model.net.named_parameters():
        assert torch.equal(x, expected[name])


def test_the_best_model_is_the_one_that_was_evaluated(tmp_path: Path) -> None:
    # Steps that grow are worse and worse.
    recipe = chain(sgd(lr=schedules.linear(0.1, 5.0, steps=8)), ema(0.5))
    losses, kept = plain(recipe)
    assert losses[0] == min(losses)
    model = Tiny(Config())
    trained = trainer(model, recipe, tmp_path, load_best_model_at_end=True)
    trained.train()
    assert trained.evaluate()["eval_loss"] == losses[0]
    torch.testing.assert_close(model.net.state_dict(), kept[0], rtol=0, atol=0)


class Saving(nn.Linear):
    """Saves what is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def test_a_model_that_saves_what_is_no_tensor_ends_where_it_was_evaluated(tmp_path: Path) -> None:
    model = Tiny(Config())
    torch.manual_seed(0)
    model.net = nn.Sequential(Saving(4, 8), nn.Tanh(), nn.Linear(8, 1))
    trainer(model, AVERAGED, tmp_path, save_strategy="no").train()
    expected = plain(AVERAGED)[1][-1]
    assert all(torch.equal(x, model.net.state_dict()[name]) for name, x in expected.items())


@pytest.mark.parametrize("metric", ["validation", "training"])
def test_a_plateau_is_told_the_metric_that_it_watches(metric: Any, tmp_path: Path) -> None:
    # At this threshold nothing is an improvement, so that the rate falls after every epoch.
    recipe = sgd(lr=schedules.plateau(0.1, 0.5, patience=0, metric=metric, threshold=0.99))
    trained = trainer(Tiny(Config()), recipe, tmp_path)
    trained.train()
    assert validations(trained) == plain(recipe)[0]
    assert validations(trained) != plain(sgd(lr=0.1))[0]


def test_a_trainer_with_another_optimizer_is_told(tmp_path: Path) -> None:
    model = Tiny(Config())
    other = trainer(model, sgd(), tmp_path)
    other.optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(UserError, match=r"needs a thalweg optimizer, .*, not SGD"):
        other.train()


def test_without_the_library_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "thalweg.integrations.transformers")
    with pytest.raises(
        ImportError, match=r"needs transformers: pip install 'thalweg\[transformers\]'"
    ):
        importlib.import_module("thalweg.integrations.transformers")
