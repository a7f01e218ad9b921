"""Recipes in the Hugging Face Trainer, against plain loops of the same steps."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from plain_loop import BATCH, EPOCHS, trained
from thalweg import schedules
from thalweg.errors import UserError
from thalweg.integrations.transformers import RecipeCallback
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain, ema, nesterov, sgd

COOLING = schedules.linear(0.1, 0.01, steps=15)
AVERAGED = chain(nesterov(lr=COOLING), ema(0.9))


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


def trainer(model: nn.Module, recipe: Recipe, folder: Path, **settings: Any) -> Trainer:
    each_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    args = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=16,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        **each_epoch,
        **quiet,
        **settings,
    )
    return InOrder(
        model,
        args,
        train_dataset=TRAINING,
        eval_dataset=VALIDATION,
        optimizers=(Optimizer(model.parameters(), recipe), None),
        callbacks=[RecipeCallback()],
    )


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
    with pytest.raises(UserError, match=r"needs an optimizer of thalweg's, .*, not SGD"):
        other.train()


def test_without_the_library_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "thalweg.integrations.transformers")
    with pytest.raises(ImportError, match=r"needs it: pip install 'thalweg\[transformers\]'"):
        importlib.import_module("thalweg.integrations.transformers")
