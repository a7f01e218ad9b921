"""Data, outputs and losses in the forms that people have them: each races through the same door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import thalweg as tw
from thalweg.errors import UserError
from thalweg.stack.batches import training_order
from thalweg.stack.population import initial_model
from thalweg.stack.way import way_of
from thalweg.tasks import Data, Task, loaders

N = 48
torch.manual_seed(0)
X = torch.randn(N, 4)
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
TRAIN, VALIDATION, TEST = slice(0, 32), slice(32, 40), slice(40, 48)
SPLITS = (TRAIN, VALIDATION, TEST)


class Samples(Dataset[Any]):
    """Samples of a form, which `make` gives of the inputs and the target."""

    def __init__(self, part: slice, make: Callable[[Tensor, Tensor], Any]) -> None:
        self.x, self.y, self.make = X[part], Y[part], make

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.make(self.x[i], self.y[i])


def data_of(make: Callable[[Tensor, Tensor], Any], **more: Any) -> Callable[[], Data]:
    return lambda: Data(*(Samples(part, make) for part in SPLITS), **more)


class Two(nn.Linear):
    """Takes the halves of its inputs as two arguments."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([first, second], -1))


class Pair(nn.Linear):
    """Takes the halves of its inputs as one pair."""

    def forward(self, pair: Any) -> Tensor:
        return super().forward(torch.cat(list(pair), -1))


class Whole(nn.Linear):
    """Takes the dictionary of a batch."""

    def forward(self, batch: Any) -> Tensor:
        return super().forward(batch["x"])


class Named(nn.Linear):
    """Takes its input by name."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale


@dataclass
class Made:
    prediction: Tensor
    loss: Tensor | None = None


class WithLoss(nn.Linear):
    """Gives its loss among its outputs, as the models of Hugging Face do."""

    def __init__(self, form: str) -> None:
        super().__init__(4, 1)
        self.form = form

    def forward(self, x: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        found = super().forward(x)
        loss = F.mse_loss(found, labels)
        forms: dict[str, Any] = {
            "scalar": loss,
            "first": (loss, found),
            "named": {"loss": loss, "prediction": found},
            "added": {"one": loss / 4, "other": 3 * loss / 4},
            "attribute": Made(found, loss),
        }
        return forms[self.form]


class Sample(NamedTuple):
    x: Tensor
    y: Tensor


def halves(x: Tensor, y: Tensor) -> Any:
    return (x[:2], x[2:]), y


def by_names(x: Tensor, y: Tensor) -> Any:
    return {"x": x, "unused": y.sum(), "labels": y}


PLAIN = Task(
    "plain",
    lambda: nn.Linear(4, 1),
    lambda: Data(*((X[part], Y[part]) for part in SPLITS)),
    F.mse_loss,
    batch_size=8,
    steps=4,
)

LOSS: dict[str, Any] = {"loss": F.mse_loss}

FORMS: dict[str, Task] = {
    name: Task(name, batch_size=8, steps=4, **LOSS | fields)
    for name, fields in {
        "tuple of splits": {
            "model": lambda: nn.Linear(4, 1),
            "data": lambda: tuple((X[part], Y[part]) for part in SPLITS),
        },
        "dictionary of splits": {
            "model": lambda: nn.Linear(4, 1),
            "data": lambda: {
                name: TensorDataset(X[part], Y[part])
                for name, part in zip(("train", "val", "test"), SPLITS, strict=True)
            },
        },
        "pair for two arguments": {"model": lambda: Two(4, 1), "data": data_of(halves)},
        "pair for one argument": {"model": lambda: Pair(4, 1), "data": data_of(halves)},
        "dictionary": {"model": lambda: Named(4, 1), "data": data_of(by_names)},
        "dictionary as one argument": {"model": lambda: Whole(4, 1), "data": data_of(by_names)},
        "dictionary and target": {
            "model": lambda: Named(4, 1),
            "data": data_of(lambda x, y: ({"x": x}, y)),
        },
        "named tuple": {"model": lambda: nn.Linear(4, 1), "data": data_of(Sample)},
        "no named target": {
            "model": lambda: Named(4, 1),
            "data": data_of(lambda x, y: {"x": x, "wanted": y}),
            "loss": lambda outputs, batch: F.mse_loss(outputs, batch["wanted"]),
        },
        "collate_fn": {
            "model": lambda: nn.Linear(4, 1),
            "data": data_of(
                lambda x, y: (x, y),
                collate_fn=lambda samples: tuple(map(torch.stack, zip(*samples, strict=True))),
            ),
        },
    }.items()
} | {
    f"own loss, {form}": Task(
        f"own loss, {form}", partial(WithLoss, form), data_of(by_names), batch_size=8, steps=4
    )
    for form in ("scalar", "first", "named", "added", "attribute")
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_trains_as_plain_tensors_do(name: str, tmp_path: Path) -> None:
    """The parameters begin and end alike, so that the score is the same, stacked or alone."""
    given: dict[str, Any] = {"entrants": "sgd,adam", "trials": 2, "seeds": 3, "runs": tmp_path}
    given |= {"step": way_of(FORMS[name])[0], "lanes": 1}
    found = tw.race(FORMS[name], **given).record.runs
    expected = tw.race(PLAIN, **given | {"step": "stacked"}).record.runs
    assert [run.score for run in found] == pytest.approx([run.score for run in expected], rel=1e-4)


def test_forms_are_stacked_where_pytorch_can() -> None:
    ways = {name: way_of(task)[0] for name, task in FORMS.items()}
    assert {name for name, way in ways.items() if way == "single"} <= {"own loss, attribute"}


def test_a_model_that_spreads_its_input_keeps_its_names() -> None:
    model = initial_model(FORMS["dictionary"], 0)
    assert list(model.state_dict()) == ["weight", "bias"]
    assert torch.equal(model({"x": X, "other": Y}), model(X))


class Stream(IterableDataset[Any]):
    def __init__(self, count: int | None = None) -> None:
        self.count = count

    def __iter__(self) -> Any:
        i = 0
        while self.count is None or i < self.count:
            yield X[i % N], Y[i % N]
            i += 1


def test_streams_are_read_as_far_as_they_are_needed(tmp_path: Path) -> None:
    task = Task(
        "stream",
        lambda: nn.Linear(4, 1),
        lambda: Data(Stream(), Stream(9), DataLoader(Stream(7), batch_size=2)),
        F.mse_loss,
        batch_size=8,
        steps=5,
    )
    assert [len(x) for x in vars(task.given).values()] == [40, 9, 7]  # type: ignore[arg-type]
    assert tw.race(task, "sgd,adam", trials=1, seeds=2, runs=tmp_path).best is not None


def test_data_that_must_end_and_do_not_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "MOST_STREAMED", 50)
    streams = (Stream(), Stream(), Stream(9))
    task = Task("stream", lambda: nn.Linear(4, 1), lambda: streams, F.mse_loss, steps=2)
    with pytest.raises(UserError, match="validation data of task 'stream' are an iterable of 50"):
        tw.race(task)


def loader(part: slice, **given: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[part], Y[part]), **given)


def with_training_loader(train: DataLoader[Any], **fields: Any) -> Task:
    data = Data(train, loader(VALIDATION), loader(TEST, batch_size=3))
    return Task("loader", lambda: nn.Linear(4, 1), lambda: data, F.mse_loss, epochs=2, **fields)


def test_of_a_loader_its_data_and_its_batch_size_are_taken() -> None:
    given = loader(TRAIN, batch_size=4, shuffle=True, num_workers=2, drop_last=True)
    task = with_training_loader(given)
    assert (task.samples_per_step, task.total_steps(32)) == (4, 16)
    assert with_training_loader(given, batch_size=16).samples_per_step == 16
    few = with_training_loader(loader(TRAIN, batch_size=4, sampler=SubsetRandomSampler([3, 5, 9])))
    assert torch.equal(few.given.train[1][0], X[5])


def test_weights_say_how_often_a_sample_is_drawn() -> None:
    weights = torch.zeros(32)
    weights[[2, 7]] = torch.tensor([1.0, 3.0])
    sampler = WeightedRandomSampler(weights.tolist(), 32)
    task = with_training_loader(loader(TRAIN, batch_size=32, sampler=sampler))
    numbers = torch.cat([next(training_order(task, seed)) for seed in range(40)])
    assert numbers.unique().tolist() == [2, 7]
    assert float((numbers == 7).float().mean()) == pytest.approx(0.75, abs=0.05)


# Models of Hugging Face


class Tokens(Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.ids = torch.randint(0, 30, (count, 5), generator=torch.Generator().manual_seed(count))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Any:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def test_a_language_model_races_as_it_is_and_is_stacked(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    task = Task(
        "language",
        lambda: transformers.GPT2LMHeadModel(config),
        lambda: (Tokens(16), Tokens(40), Tokens(9)),
        also={
            "accuracy": lambda o, ids: (o.logits[:, :-1].argmax(-1) == ids[:, 1:]).float().mean()
        },
        batch_size=4,
        steps=3,
    )
    assert way_of(task) == ("stacked", "")
    result = tw.race(task, "sgd,adam", trials=1, seeds=2, lanes=1, runs=tmp_path)
    assert result.best is not None
    trained = tw.train(task, "sgd", out=tmp_path / "model.safetensors")
    model = transformers.GPT2LMHeadModel(config)
    model.load_state_dict(load_file(trained.checkpoint), strict=False)
    ids = Tokens(40).ids
    assert trained.run.score == pytest.approx(float(model.eval()(ids, labels=ids).loss), rel=1e-4)


# Losses


class Centres(nn.Module):
    """A loss with a centre for each class, which is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.arange(8.0).view(2, 4))

    def forward(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(-torch.cdist(outputs, self.centres), classes)


def nearest(outputs: Tensor, classes: Tensor) -> Tensor:
    return ((outputs.sum(1) > 0).long() == classes).float().mean()


def test_a_loss_with_parameters_is_trained_with_the_model(tmp_path: Path) -> None:
    classes = (Y[:, 0] > 0).long()
    data = Data(*((X[part], classes[part]) for part in SPLITS))
    loss = Centres()
    task = Task(
        "centres",
        lambda: nn.Linear(4, 4),
        lambda: data,
        loss,
        metric=nearest,
        direction="max",
        batch_size=8,
        steps=6,
    )
    assert way_of(task)[0] == "stacked"
    trained = tw.train(task, tw.sgd(lr=0.1), out=tmp_path / "model.safetensors")

    torch.manual_seed(0)
    model, own = nn.Linear(4, 4), Centres()
    optimizer = torch.optim.SGD([*model.parameters(), *own.parameters()], lr=0.1)
    for numbers in islice(training_order(task, 0), 6):
        optimizer.zero_grad()
        own(model(X[TRAIN][numbers]), classes[TRAIN][numbers]).backward()
        optimizer.step()
    found = load_file(trained.checkpoint)
    expected = {**model.state_dict(), "trained_loss.centres": own.centres.detach()}
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x)
    assert trained.run.score == float(nearest(model(X[VALIDATION]), classes[VALIDATION]))
    assert torch.equal(loss.centres, Centres().centres)
    assert tw.race(task, "sgd,adam", trials=1, seeds=2, lanes=1, runs=tmp_path).best is not None


class Slope(nn.Module):
    """A physics-informed network: its loss is about its derivative."""

    def __init__(self, within: bool) -> None:
        super().__init__()
        self.within = within
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Any:
        x = x.detach().requires_grad_()
        value = self.layers(x)
        return slope(value, x) if self.within else (value, x)


def slope(value: Tensor, x: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return found


@pytest.mark.parametrize("within", [True, False])
def test_derivatives_may_be_taken_in_the_model_or_the_loss(within: bool, tmp_path: Path) -> None:
    def loss(outputs: Any, _: Tensor) -> Tensor:
        found = outputs if within else slope(*outputs)
        return (found - 1).square().mean()

    task = Task("slope", partial(Slope, within), PLAIN.data, loss, batch_size=2, steps=6)
    trained = tw.train(task, "sgd", out=tmp_path / "model.safetensors")
    model = Slope(within)
    model.load_state_dict(load_file(trained.checkpoint))
    assert trained.run.score == pytest.approx(float(loss(model(X[VALIDATION]), Y)), rel=1e-5)
    assert tw.race(task, "sgd,adam", trials=1, seeds=2, lanes=1, runs=tmp_path).best is not None


# Lengths that differ

WORDS = [torch.randn(2 + i // 20, 3) for i in range(80)]


class Tags(nn.Module):
    """A prediction for each word of a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, words: Any) -> Tensor:
        if isinstance(words, PackedSequence):
            words = words.data
        found: Tensor = self.layer(words)
        return found.squeeze(-1)


def padded(sentences: list[Tensor]) -> Any:
    words = pad_sequence(sentences, batch_first=True)
    return words, words.sum(-1)


def packed(sentences: list[Tensor]) -> Any:
    words = pack_sequence(sentences, enforce_sorted=False)
    return words, words.data.sum(-1)


@pytest.mark.parametrize("collate", [padded, packed])
def test_sentences_of_any_lengths_race(collate: Any, tmp_path: Path) -> None:
    splits: Any = (WORDS[::3], WORDS[1::3], WORDS[2::3])
    task = Task(
        "tags", Tags, lambda: Data(*splits, collate_fn=collate), F.mse_loss, batch_size=2, steps=4
    )
    result = tw.race(task, "sgd,adam", trials=1, seeds=2, lanes=1, runs=tmp_path)
    assert result.best is not None
    told = any("means over batches" in note for note in result.record.notes)
    assert told == (collate is padded)  # words that are packed have one shape
