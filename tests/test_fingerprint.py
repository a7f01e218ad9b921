"""What makes a race or a training another one, and what does not."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from test_race import NET, samples, short
from test_training import Told, small
from thalweg.errors import UserError
from thalweg.tasks import Data, Task
from thalweg.training.train import train


def changed(split: str, place: int, item: int) -> Task:
    """The task with one number of one sample changed, behind the first batch."""
    data = samples()
    tensors = [x.clone() for x in getattr(data, split).tensors]
    tensors[item][place] += 1e-6
    splits = {**vars(data), split: TensorDataset(*tensors)}
    return replace(NET, data=lambda: Data(**splits))


def frozen() -> nn.Module:
    model = NET.model()
    model[0].bias.requires_grad_(False)
    return model


def with_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def scaled(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda out, y: F.mse_loss(out, y) * (factor if out.mean() > 100 else 1)


CHANGES = {
    "other training data": changed("train", 31, 0),
    "other validation data": changed("validation", 20, 1),
    "other test data": changed("test", 31, 1),
    "another model": replace(NET, model=frozen),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_finished_race_is_not_drawn_again_for_another_task(words: str, tmp_path: Path) -> None:
    short(tmp_path, NET, trials=1, seeds=2)
    with pytest.raises(UserError, match=f"with {words} under the task's name"):
        short(tmp_path, CHANGES[words], trials=1, seeds=2)


def test_constants_of_a_metric_that_no_first_batch_shows_are_seen(tmp_path: Path) -> None:
    for pair in (
        (scaled(2.0), scaled(3.0)),
        (functools.partial(F.mse_loss, reduction="mean"), functools.partial(F.mse_loss)),
        (nn.HuberLoss(delta=50.0), nn.HuberLoss(delta=60.0)),
    ):
        one, other = (
            replace(NET, metric=metric, metric_name="m", direction="min") for metric in pair
        )
        name = f"net-{len(list(tmp_path.iterdir()))}"
        short(tmp_path, one, trials=1, seeds=2, name=name)
        with pytest.raises(UserError, match="with another metric under"):
            short(tmp_path, other, trials=1, seeds=2, name=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": F.l1_loss}, "another loss"),
        ({"model": with_relu}, "another model"),
        ({"batch_size": 7}, "another batch size"),
        (
            {"data": lambda: Data(*[(x, -y) for x, y in map(tensors_of, vars(SMALL).values())])},
            "other training data",
        ),
    ],
)
def test_a_stopped_training_does_not_go_on_with_another_task(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small(), "sgd", out=tmp_path / "m", progress=Told(9))
    with pytest.raises(UserError, match=f"is of another training, with {words}"):
        train(replace(small(), **change), "sgd", out=tmp_path / "m")


SMALL = small().splits


def tensors_of(split: Any) -> tuple[Tensor, ...]:
    return split.tensors


class Noisy(Dataset[Any]):
    """Samples in noise of all three kinds, and of one that has no seed."""

    def __init__(self, last: float = 0.0) -> None:
        self.last = last

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> Any:
        unseeded = np.random.default_rng().random()
        noise = random.random() + np.random.random() + torch.rand(()) + unseeded
        target = torch.full((1,), self.last if i == 63 else float(i))
        return noise * torch.ones(4), target


def drawing_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight += np.random.randn() + random.random()
    return model


def noisy(last: float = 0.0) -> Task:
    calls: list[float] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(random.random() + np.random.random())
        return F.mse_loss(outputs, targets + 1e-3 * calls[-1])

    return replace(
        NET,
        model=drawing_model,
        data=lambda: Data(Noisy(last), Noisy(), Noisy()),
        loss=loss,
        metric=F.l1_loss,
        direction="min",
        metric_name="absolute error",
        also={},
        steps=2,
    )


def test_random_draws_do_not_make_a_race_another_one(tmp_path: Path) -> None:
    given: dict[str, Any] = {"trials": 1, "seeds": 2, "step": "single"}
    short(tmp_path, noisy(), **given)
    np.random.seed(5)
    random.seed(5)
    torch.manual_seed(5)
    assert short(tmp_path, noisy(), **given).record.finished
    with pytest.raises(UserError, match="with other training data"):
        short(tmp_path, noisy(last=1.0), **given)
