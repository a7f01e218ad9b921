"""Models that do what few models do: they race, and the doctor looks at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import thalweg as tw
from thalweg.stack.way import way_of
from thalweg.tasks import Data, Task

torch.manual_seed(0)
X = torch.randn(50, 4)
Y = X.sum(1, keepdim=True)
CLASSES = (Y[:, 0] > 0).long()
WORDS = torch.randint(0, 20, (50, 5))
PIXELS = (torch.rand(50, 1, 6, 6) * 255).to(torch.uint8)


class Module(nn.Module):
    """A module of some parts, and a function of these parts and the inputs."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def tied() -> nn.Module:
    model = Module(
        lambda m, x: m.out(m.words(x).mean(1)),
        words=nn.Embedding(20, 8),
        out=nn.Linear(8, 20, bias=False),
    )
    model.out.weight = model.words.weight  # type: ignore[union-attr,assignment]
    return model


def frozen_and_in_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))
    model[0].requires_grad_(False)
    return model


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).abs().sum(1, keepdim=True)


def in_half_precision(model: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        found: Tensor = model.out(torch.tanh(model.layer(x))).float()
    return found


def two(**more: nn.Module) -> dict[str, nn.Module]:
    return {"layer": nn.Linear(4, 4), "out": nn.Linear(4, 1), **more}


def behind(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 1))


norm = nn.utils.parametrizations
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor, bool | None]] = {
    "tied": (tied, WORDS, WORDS[:, 0], True),
    "shared": (
        lambda: Module(lambda m, x: m.out(m.layer(m.layer(x).relu())), **two()),
        X,
        Y,
        True,
    ),
    "frozen and in place": (frozen_and_in_place, X, Y, True),
    "a part that is not used": (
        lambda: Module(lambda m, x: m.out(m.layer(x)), **two(unused=nn.Linear(3, 3))),
        X,
        Y,
        True,
    ),
    "sparse gradients": (
        lambda: nn.Sequential(nn.EmbeddingBag(20, 8, sparse=True), nn.Linear(8, 20)),
        WORDS,
        WORDS[:, 0],
        False,
    ),
    "complex numbers": (Complex, X, Y, False),
    "bytes": (
        lambda: Module(
            lambda m, x: m.out(m.layer(x / 255).mean((2, 3))),
            layer=nn.Conv2d(1, 4, 3),
            out=nn.Linear(4, 2),
        ),
        PIXELS,
        CLASSES,
        True,
    ),
    "batch norm, a last batch of one": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)),
        X,
        Y,
        True,
    ),
    "activations of one dimension": (
        lambda: Module(lambda m, x: m.out(m.layer(x)).squeeze(1).tanh(), **two()),
        X,
        Y[:, 0],
        True,
    ),
    "weight norm": (lambda: behind(norm.weight_norm(nn.Linear(4, 8))), X, Y, True),
    "weight norm by hooks": (
        lambda: behind(nn.utils.weight_norm(nn.Linear(4, 8))),  # type: ignore[arg-type]
        X,
        Y,
        True,
    ),
    "spectral norm": (lambda: behind(norm.spectral_norm(nn.Linear(4, 8))), X, Y, False),
    "activation checkpointing": (
        lambda: Module(
            lambda m, x: m.out(checkpoint(m.layer, x, use_reentrant=False).tanh()), **two()
        ),
        X,
        Y,
        False,
    ),
    "autocast": (lambda: Module(in_half_precision, **two()), X, Y, None),  # by its rounding
    "float64": (lambda: nn.Linear(4, 1).double(), X.double(), Y.double(), True),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_an_odd_model_races_and_is_stacked_where_it_can_be(name: str, tmp_path: Path) -> None:
    make, x, y, stacks = MODELS[name]
    data = Data((x[:17], y[:17]), (x[17:34], y[17:34]), (x[33:], y[33:]))
    loss = F.mse_loss if y.is_floating_point() else F.cross_entropy
    task = Task("odd", make, lambda: data, loss, batch_size=8, steps=3)
    assert stacks in (None, way_of(task)[0] == "stacked")
    found = tw.race(task, "sgd,adam", trials=1, seeds=2, lanes=1, runs=tmp_path)
    assert found.best is not None
    if name != "complex numbers":
        said = str(tw.diagnose(task, "adam", try_remedies=False))
        assert "failed" not in said
