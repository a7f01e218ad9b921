"""Recipes in PyTorch Lightning, against plain loops of the same steps."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
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
# Its average leaves training as it is, so that the recipe without it is the truth of this.
MOMENTUM = momentum(lr=COOLING)
SMOOTHED = chain(MOMENTUM, ema(0.9))


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


class TwoOptimizers(Module):
    def __init__(self) -> None:
        super().__init__(AVERAGED)
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = super().training_step(batch, index)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        first, _, last = self.net
        return Optimizer(first.parameters(), AVERAGED), Optimizer(last.parameters(), SMOOTHED)


class Saving(lightning.Callback):
    """Writes a checkpoint, and weights alone, when a hook is called first, from an epoch on."""

    def __init__(self, folder: Path, hooks: Iterable[str], epoch: int = 1) -> None:
        self.folder, self.epoch = folder, epoch
        for hook in hooks:
            setattr(self, hook, partial(self.save, folder / hook))

    def save(self, path: Path, trainer: Any, module: Any, *_: Any) -> None:
        if not path.exists() and trainer.current_epoch >= self.epoch:
            mode = module.training
            module.eval()
            trainer.save_checkpoint(path)
            trainer.save_checkpoint(path.with_suffix(".weights"), weights_only=True)
            module.train(mode)


class Failing(lightning.Callback):
    """Ends the second validation with an exception."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise self.exception


def fit(
    module: Module,
    folder: Path,
    epochs: int = EPOCHS,
    ckpt_path: Any = None,
    before: Iterable[lightning.Callback] = (),
    after: Iterable[lightning.Callback] = (),
    loader: Any = None,
    **settings: Any,
) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[*before, RecipeCallback("val_loss", "train_loss"), *after],
        **quiet,
        **settings,
    )
    training = loader or DataLoader(TensorDataset(*TRAINING), batch_size=BATCH)
    trainer.fit(module, training, validation_loader(), ckpt_path=ckpt_path)
    return trainer


def validation_loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*VALIDATION), batch_size=16)


def assert_net(state_dict: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The net in a module's state is the expected one, to the bit."""
    found = {name.removeprefix("net."): x for name, x in state_dict.items()}
    torch.testing.assert_close(found, dict(expected), rtol=0, atol=0)


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
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    for path in (None, tmp_path / "saved.ckpt", "best"):
        trainer.validate(module, validation_loader(), ckpt_path=path, verbose=False)
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


# At the start of the second epoch, and at its end.
EARLY = ("on_train_batch_start", "on_before_backward")
WITHIN = ("on_validation_start", "on_validation_batch_end", "on_validation_epoch_end")
LATE = (*WITHIN, "on_validation_end", "on_train_epoch_end")


def test_a_checkpoint_of_any_hook_holds_both_points(tmp_path: Path) -> None:
    module = Module(SMOOTHED)
    before, after = (Saving(tmp_path / name, EARLY + LATE) for name in ("before", "after"))
    fit(module, tmp_path, before=[before], after=[after])
    losses, evaluated = trained(network(), SMOOTHED, TRAINING, VALIDATION)
    _, training = trained(network(), MOMENTUM, TRAINING, VALIDATION)
    assert module.validations[1:] == losses
    for saving in (before, after):
        for epoch, hooks in enumerate((EARLY, LATE)):
            for hook in hooks:
                checkpoint = torch.load(saving.folder / hook)
                assert_net(checkpoint["training_point"], training[epoch])
                assert_net(checkpoint["state_dict"], evaluated[epoch])
                weights = torch.load(saving.folder / f"{hook}.weights")
                assert "training_point" not in weights
                assert_net(weights["state_dict"], evaluated[epoch])


@pytest.mark.parametrize("hook", ["on_before_backward", "on_validation_batch_end", "on_train_end"])
def test_fit_goes_on_from_a_checkpoint_to_the_same_bits(hook: str, tmp_path: Path) -> None:
    fit(Module(AVERAGED), tmp_path, epochs=2, after=[Saving(tmp_path, [hook])])
    went_on = Module(AVERAGED)
    fit(went_on, tmp_path, ckpt_path=tmp_path / hook)
    losses, model = plain(AVERAGED)
    assert went_on.validations[-1] == losses[-1]
    assert_net(went_on.state_dict(), model.state_dict())


def test_fit_goes_on_from_what_is_saved_when_it_has_ended(tmp_path: Path) -> None:
    module = Module(AVERAGED)
    trainer = fit(module, tmp_path, epochs=2)
    trainer.validate(module, validation_loader(), ckpt_path="best", verbose=False)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    went_on = Module(AVERAGED)
    fit(went_on, tmp_path, ckpt_path=tmp_path / "saved.ckpt")
    assert_net(went_on.state_dict(), plain(AVERAGED)[1].state_dict())


@pytest.mark.parametrize(
    ("made", "settings"),
    [(TwoOptimizers, {}), (partial(Module, AVERAGED), {"accumulate_grad_batches": 2})],
    ids=["two optimizers", "accumulation"],
)
def test_fit_goes_on_from_within_a_validation(made: Any, settings: Any, tmp_path: Path) -> None:
    saving = Saving(tmp_path, ["on_validation_batch_end"])
    uninterrupted, went_on = made(), made()
    fit(uninterrupted, tmp_path, after=[saving], **settings)
    fit(went_on, tmp_path, ckpt_path=tmp_path / "on_validation_batch_end", **settings)
    assert went_on.validations == uninterrupted.validations[-1:]
    assert_net(went_on.state_dict(), uninterrupted.net.state_dict())


def test_a_checkpoint_of_the_sanity_check_is_of_the_start(tmp_path: Path) -> None:
    saving = Saving(tmp_path, ["on_validation_batch_end"], epoch=0)
    fit(Module(AVERAGED), tmp_path, epochs=1, before=[saving])
    path = tmp_path / "on_validation_batch_end"
    assert_net(torch.load(path)["state_dict"], network().state_dict())
    went_on = Module(AVERAGED)
    fit(went_on, tmp_path, ckpt_path=path)
    assert_net(went_on.state_dict(), plain(AVERAGED)[1].state_dict())


@pytest.mark.parametrize("averaging", ["before", "after"])
def test_fit_goes_on_beside_a_callback_that_averages(averaging: str, tmp_path: Path) -> None:
    """Which takes what is evaluated for what training goes on from, and puts in its average."""
    saving = Saving(tmp_path, ["on_train_epoch_end"])
    uninterrupted, went_on = Module(AVERAGED), Module(AVERAGED)
    for module, path in ((uninterrupted, None), (went_on, tmp_path / "on_train_epoch_end")):
        beside = {averaging: [EMAWeightAveraging(decay=0.8), *([] if path else [saving])]}
        fit(module, tmp_path, ckpt_path=path, **beside)
    assert_net(went_on.state_dict(), uninterrupted.net.state_dict())


def test_a_checkpoint_leaves_what_others_put_in_for_a_validation(tmp_path: Path) -> None:
    states = []
    for hooks in ([], ["on_validation_batch_end"]):
        module = Module(AVERAGED)
        fit(module, tmp_path, after=[EMAWeightAveraging(decay=0.8), Saving(tmp_path, hooks)])
        states.append((module.state_dict(), module.validations))
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C from the first one on."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("exception", [RuntimeError("lost"), KeyboardInterrupt()], ids=repr)
def test_an_exception_within_a_validation_loses_nothing(
    exception: BaseException, tmp_path: Path
) -> None:
    module, went_on = Module(SMOOTHED), Module(SMOOTHED)
    with pytest.raises((RuntimeError, SystemExit)):
        fit(module, tmp_path, before=[Saving(tmp_path, ["on_exception"]), Failing(exception)])
    _, training = trained(network(), MOMENTUM, TRAINING, VALIDATION)
    assert_net(module.state_dict(), training[1])
    fit(went_on, tmp_path, ckpt_path=tmp_path / "on_exception")
    assert_net(went_on.state_dict(), plain(SMOOTHED)[1].state_dict())


def shuffled(**settings: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*TRAINING), batch_size=BATCH, shuffle=True, **settings)


def test_batch_norm_is_saved_as_it_was_validated(tmp_path: Path) -> None:
    watched, left = (Module(AVERAGED, normalized()) for _ in range(2))
    hooks = ["on_validation_batch_start", "on_train_epoch_end"]
    for module, saving in ((watched, [Saving(tmp_path, hooks)]), (left, [])):
        lightning.seed_everything(1, verbose=False)
        trainer = fit(module, tmp_path, before=saving, loader=shuffled())
    assert watched.validations == left.validations
    latest = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    for path in (*(tmp_path / hook for hook in hooks), latest):
        trainer.validate(left, validation_loader(), ckpt_path=path, verbose=False)
    (*_, second, last), validated = watched.validations, left.validations[-3:]
    assert validated == [second, second, last]
    points = [torch.load(tmp_path / hook)["training_point"] for hook in hooks]
    torch.testing.assert_close(*points, rtol=0, atol=0)


def test_a_checkpoint_leaves_the_training_batches_as_they_were(tmp_path: Path) -> None:
    points = []
    for saving in ([Saving(tmp_path, ["on_train_batch_end"], epoch=0)], []):
        torch.manual_seed(0)
        loader = shuffled(
            generator=torch.Generator().manual_seed(1), num_workers=1, persistent_workers=True
        )
        module = Module(AVERAGED, normalized())
        fit(module, tmp_path, epochs=2, before=saving, loader=loader, limit_val_batches=0)
        points.append(module.state_dict())
    torch.testing.assert_close(*points, rtol=0, atol=0)


class HalfSaved(Module):
    """Its first layer is frozen, and in no checkpoint."""

    def __init__(self) -> None:
        super().__init__(AVERAGED)
        self.strict_loading = False
        self.net[0].requires_grad_(False)

    def state_dict(self, *args: Any, **settings: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **settings)
        return {name: x for name, x in state.items() if "net.0" not in name}


def test_a_module_may_save_a_part_of_itself(tmp_path: Path) -> None:
    uninterrupted, went_on = HalfSaved(), HalfSaved()
    fit(uninterrupted, tmp_path, after=[Saving(tmp_path, ["on_validation_batch_end"])])
    fit(went_on, tmp_path, ckpt_path=tmp_path / "on_validation_batch_end")
    torch.testing.assert_close(went_on.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)


class SavingTheAverage(lightning.Callback):
    """Saves within a block of its own."""

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        with trainer.optimizers[0].evaluation():
            trainer.save_checkpoint("average.ckpt")


def test_a_checkpoint_within_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a checkpoint cannot be saved within"):
        fit(Module(AVERAGED), tmp_path, after=[SavingTheAverage()])


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
    with pytest.raises(UserError, match="the module has logged no metric val_loss"):
        fit(module, tmp_path)


def test_a_module_with_another_optimizer_is_told(tmp_path: Path) -> None:
    module = Module(sgd())
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters())  # type: ignore
    with pytest.raises(UserError, match=r"needs a thalweg optimizer .*, not SGD"):
        fit(module, tmp_path)


def test_without_the_library_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "thalweg.integrations.lightning")
    with pytest.raises(ImportError, match=r"needs Lightning: pip install 'thalweg\[lightning\]'"):
        importlib.import_module("thalweg.integrations.lightning")
