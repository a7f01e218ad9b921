"""What makes a race or a training another one, and what does not."""

from __future__ import annotations

import functools
import importlib
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from test_race import NET, samples, short
from test_training import Told, small
from thalweg.errors import UserError
from thalweg.tasks import Data, Task, find
from thalweg.training.fingerprint import fingerprint
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
    with pytest.raises(UserError, match=f"with {words} under the same name"):
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


def test_a_further_metric_that_is_added_is_another_race(tmp_path: Path) -> None:
    short(tmp_path, NET, trials=1, seeds=2, name="my net")
    more = replace(NET, also={**NET.also, "huber": F.huber_loss})
    with pytest.raises(UserError, match=r"with other metrics under .* --name 'my net-2'\.$"):
        short(tmp_path, more, trials=1, seeds=2, name="my net")


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
    with pytest.raises(UserError, match=f"belongs to another training, with {words}"):
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


class Flips(Dataset[Any]):
    """Samples that are turned around now and then, by a generator of their own."""

    def __init__(self, share: float, seed: int | None = None) -> None:
        self.share, self.inputs = share, torch.randn(64, 4, generator=torch.manual_seed(3))
        self.own = np.random.default_rng(seed) if seed is not None else None

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> Any:
        flips = (self.own or np.random.default_rng()).random() < self.share
        return self.inputs[i].flip(0) if flips else self.inputs[i], self.inputs[i].sum()[None]


def drawn_with(share: float, seed: int | None) -> Task:
    data = Data(Flips(share, seed), Flips(share, seed), Flips(share, seed))
    return replace(NET, data=lambda: data)


weights: dict[int, float] = {}
square = 2.0


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    """It remembers a weight for each number of samples, and its name is used as an attribute."""
    return weights.setdefault(len(outputs), 1.0) * (outputs - targets).square().mean()


class Best:
    """A metric that notes the least that it has seen."""

    def __init__(self) -> None:
        self.least = 1e9

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        value = F.l1_loss(outputs, targets)
        self.least = min(self.least, float(value))
        return value


class Numbered(nn.Linear):
    made = 0

    def __init__(self) -> None:
        super().__init__(4, 1)
        Numbered.made += 1
        self.number = Numbered.made

    def extra_repr(self) -> str:
        return f"number {self.number}"


def scored(metric: Any) -> Task:
    return replace(NET, metric=metric, metric_name="m", direction="min", also={})


UNCHANGED: dict[str, Task] = {
    "rare draws of its own": drawn_with(0.02, 0),
    "draws without a seed": drawn_with(0.5, None),
    "a memory of sizes": scored(weighted),
    "a memory of the best": scored(Best()),
    "a numbered model": replace(NET, model=Numbered),
}


@pytest.mark.parametrize("what", UNCHANGED)
def test_what_changes_by_itself_does_not_make_a_race_another_one(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"trials": 1, "seeds": 2, "step": "single"}
    first = short(tmp_path, UNCHANGED[what], **given)
    monkeypatch.setattr(f"{__name__}.square", 3.0)
    assert short(tmp_path, UNCHANGED[what], **given).record == first.record


def test_data_that_no_longer_fit_into_memory_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_anew() -> Task:
        return drawn_with(0.0, 0)

    assert read_anew().splits.train is not read_anew().given.train
    first = short(tmp_path, read_anew(), trials=1, seeds=2)
    monkeypatch.setattr("thalweg.tasks.held.free_memory", lambda: 0)
    assert short(tmp_path, read_anew(), trials=1, seeds=2).record == first.record


def in_a_module(limit: float) -> Callable[..., Tensor]:
    module = ModuleType("own_metrics")
    module.__file__ = str(Path(__file__).with_name("own_metrics.py"))
    sys.modules[module.__name__] = module
    exec(f"def far(out): return float(out.mean() > {limit})", vars(module))
    return lambda out, y: F.mse_loss(out, y) + module.far(out)


def in_a_class(limit: float) -> Any:
    class Far:
        most = limit

        def __call__(self, out: Tensor, y: Tensor) -> Tensor:
            return F.mse_loss(out, y) + (out.mean() > self.most)

    return Far()


class Slotted:
    __slots__ = ("limit",)

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(out, y) + (out.mean() > self.limit)


def behind_a_cache(limit: float) -> Callable[..., Tensor]:
    @functools.lru_cache
    def most() -> float:
        return limit

    return lambda out, y: F.mse_loss(out, y) + (out.mean() > most())


def in_a_path(limit: float) -> Callable[..., Tensor]:
    path = Path(f"{limit}")
    return lambda out, y: F.mse_loss(out, y) + (out.mean() > float(str(path)))


class Private:
    def __init__(self, limit: float) -> None:
        self._limit = limit

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(out, y) + (out.mean() > self._limit)


def in_a_librarys_object(limit: float) -> Callable[..., Tensor]:
    settings = SimpleNamespace(limit=limit)
    return lambda out, y: F.mse_loss(out, y) + (out.mean() > settings.limit)


def in_a_view(limit: float) -> Callable[..., Tensor]:
    settings = MappingProxyType({"limit": limit})
    return lambda out, y: F.mse_loss(out, y) + (out.mean() > settings["limit"])


def in_a_scaler(limit: float) -> Callable[..., float]:
    scaler = StandardScaler().fit(np.array([[0.0], [limit]]))
    return lambda out, y: float(F.mse_loss(out, y) + scaler.inverse_transform(out).mean())


@pytest.mark.parametrize(
    "metric",
    [
        in_a_module,
        in_a_class,
        Slotted,
        Private,
        behind_a_cache,
        in_a_path,
        in_a_librarys_object,
        in_a_view,
        in_a_scaler,
    ],
)
def test_a_metric_is_followed_wherever_its_constants_are(metric: Any, tmp_path: Path) -> None:
    short(tmp_path, scored(metric(100.0)), trials=1, seeds=2, step="single")
    with pytest.raises(UserError, match="with another metric under"):
        short(tmp_path, scored(metric(200.0)), trials=1, seeds=2, step="single")


def test_a_metric_may_hold_objects_within_objects_without_end(tmp_path: Path) -> None:
    nested: list[Any] = []
    for _ in range(5_000):
        nested = [nested]
    short(tmp_path, scored(lambda out, y: F.mse_loss(out, y) * len(nested)), trials=1, seeds=2)


def test_a_task_is_the_same_from_its_file_and_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owntask.py").write_text(OWN_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    from_file = find(str(tmp_path / "owntask.py:task"))
    imported = importlib.import_module("owntask").task
    assert imported is not from_file
    assert fingerprint([imported]) == fingerprint([from_file])


OWN_TASK = """
import torch
from torch import nn
from thalweg.tasks import Data, Task, find


class Squared(nn.Module):
    def forward(self, out, y):
        return scaled(out - y).mean()


def scaled(x):
    return 3 * x * x


def rows():
    x = torch.arange(12.0).view(12, 1)
    return Data(*[(part, 2 * part) for part in x.split(4)])


task = Task("own", model=lambda: nn.Linear(1, 1), data=rows, loss=Squared(), batch_size=2, epochs=1)
"""
