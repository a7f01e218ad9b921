"""Recipes in PyTorch Lightning, against plain loops of the same steps."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from plain_loop import BATCH, EPOCHS, trained
from thalweg import schedules
from thalweg.errors import UserError
from thalweg.integrations.lightning import RecipeCallback
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain, ema, momentum, nesterov, sgd

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"
)

COOLING = schedules.linear(0.1, 0.01, steps=15)
AVERAGED = chain(nesterov(lr=COOLING), ema(0.9))


def samples(n: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return x, x[:, :1].sin()


TRAINING, VALIDATION = samples(40), samples(16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def normalized() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    return nn.Sequential(first, nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


class Module(lightning.LightningModule):
    def __init__(self, recipe: Recipe, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.recipe = net or network(), recipe
        self.validations: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("val_loss", loss)
        self.validations.append(loss.item())

    def configure_optimizers(self) -> Any:
        return Optimizer(self.parameters(), self.recipe)


def fit(module: Module, folder: Path, epochs: int = EPOCHS, **settings: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[RecipeCallback("val_loss", "train_loss")],
        **quiet,
    )
    loaders = (
        DataLoader(TensorDataset(*TRAINING), batch_size=BATCH),
        DataLoader(TensorDataset(*VALIDATION), batch_size=16),
    )
    trainer.fit(module, *loaders, **settings)
    return trainer


def plain(recipe: Recipe) -> tuple[list[float], nn.Module]:
    """A plain loop's validation losses, the first before training, and its model as evaluated."""
    model = network()
    x, y = VALIDATION
    before = F.mse_loss(model(x), y).item()
    losses, kept = trained(model, recipe, TRAINING, VALIDATION)
    model.load_state_dict(kept[-1])
    return [before, *losses], model


def test_validation_checkpoint_and_module_are_at_the_average(tmp_path: Path) -> None:
    module = Module(AVERAGED)
    trainer = fit(module, tmp_path)
    losses, model = plain(AVERAGED)
    assert module.validations == losses
    checkpoint = torch.load(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    for name, x in model.state_dict().items():
        assert torch.equal(module.net.state_dict()[name], x)
        assert torch.equal(checkpoint["state_dict"][f"net.{name}"], x)


def test_what_follows_a_fit_is_of_the_module_or_checkpoint_that_it_is_given(tmp_path: Path) -> None:
    module = Module(nesterov(lr=COOLING))
    trainer = fit(module, tmp_path)
    losses, _ = plain(nesterov(lr=COOLING))
    loader = DataLoader(TensorDataset(*VALIDATION), batch_size=16)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    for path in (None, tmp_path / "saved.ckpt", "best"):
        trainer.validate(module, loader, ckpt_path=path, verbose=False)
    assert module.validations == [*losses, *losses[-1:] * 3]


def test_batch_norm_statistics_are_estimated_at_the_average(tmp_path: Path) -> None:
    module = Module(AVERAGED, normalized())
    trainer = fit(module, tmp_path)
    first, norm = module.net[0]
    with torch.no_grad():
        outputs = [first(part) for part in TRAINING[0].split(BATCH)]
    mean = torch.stack([part.mean(0) for part in outputs]).mean(0)
    var = torch.stack([part.var(0) for part in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    checkpoint = torch.load(trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    assert torch.equal(checkpoint["state_dict"]["net.0.1.running_mean"], norm.running_mean)
    held = checkpoint["training_point"]["net.0.1.running_mean"]
    assert not torch.allclose(held, norm.running_mean, rtol=1e-2)


def test_estimating_leaves_training_as_it_was(tmp_path: Path) -> None:
    watched, left = (
        Module(recipe, normalized())
        for recipe in (chain(momentum(lr=COOLING), ema(0.9)), momentum(lr=COOLING))
    )
    points = []
    for module in (watched, left):
        lightning.seed_everything(1, verbose=False)
        trainer = fit(module, tmp_path)
        path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        points.append(torch.load(path)["training_point"])
    for name, x in points[0].items():
        assert torch.equal(points[1][name], x)


def test_fit_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    first = fit(Module(AVERAGED), tmp_path, epochs=2)
    went_on = Module(AVERAGED)
    path = first.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    fit(went_on, tmp_path, ckpt_path=path)
    losses, model = plain(AVERAGED)
    assert went_on.validations[-1] == losses[-1]
    for name, x in model.state_dict().items():
        assert torch.equal(went_on.net.state_dict()[name], x)


@pytest.mark.parametrize("metric", ["validation", "training"])
def test_a_plateau_is_told_the_metric_that_it_watches(metric: Any, tmp_path: Path) -> None:
    # At this threshold nothing is an improvement, so that the rate falls after every epoch.
    recipe = sgd(lr=schedules.plateau(0.1, 0.5, patience=0, metric=metric, threshold=0.99))
    module = Module(recipe)
    fit(module, tmp_path)
    assert module.validations == plain(recipe)[0]
    assert module.validations != plain(sgd(lr=0.1))[0]


def test_a_metric_that_is_not_logged_is_named(tmp_path: Path) -> None:
    module = Module(sgd())
    module.validation_step = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the module has logged nothing as val_loss"):
        fit(module, tmp_path)


def test_a_module_with_another_optimizer_is_told(tmp_path: Path) -> None:
    module = Module(sgd())
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters())  # type: ignore
    with pytest.raises(UserError, match=r"needs an optimizer of thalweg's .*, not SGD"):
        fit(module, tmp_path)


def test_without_the_library_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "thalweg.integrations.lightning")
    with pytest.raises(ImportError, match=r"needs it: pip install 'thalweg\[lightning\]'"):
        importlib.import_module("thalweg.integrations.lightning")
