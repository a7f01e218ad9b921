"""Tasks of what people hold already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_regression
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import thalweg as tw
from thalweg.errors import UserError

GIVEN: dict[str, Any] = {"entrants": "sgd,adam", "trials": 1, "seeds": 2, "lanes": 1}


def test_arrays_of_classes_and_of_numbers_race(tmp_path: Path) -> None:
    flowers = load_iris()
    task = tw.from_sklearn(flowers.data, flowers.target_names[flowers.target], epochs=30)
    assert [len(split) for split in vars(task.given).values()] == [90, 30, 30]
    inputs = task.given.train[:][0]
    assert inputs.mean(0).abs().max() < 1e-5
    trained = tw.train(task, "adam", out=tmp_path / "model.safetensors")
    assert trained.run.score > 0.8
    x, y = make_regression(60, 5, random_state=0)
    numbers = tw.from_sklearn(x, y, model=lambda: nn.Linear(5, 1), epochs=2, batch_size=8)
    assert tw.race(numbers, **GIVEN, runs=tmp_path).verdict.metric == "loss"


@pytest.mark.parametrize("shape", [(30,), (30, 2, 2), (8, 2)])
def test_arrays_of_another_shape_get_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"X must be \[N, D\] and y \[N\], with 10 rows"):
        tw.from_sklearn(np.ones(shape), np.ones(shape[0]))


def test_a_lightning_module_races_with_the_loss_of_its_training_step(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    whole = TensorDataset(x, x.sum(1, keepdim=True))

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            loss = F.mse_loss(self.layer(x), y)
            return {"loss": loss}

    class Loaders(lightning.LightningDataModule):  # type: ignore[name-defined,misc]
        def train_dataloader(self) -> Any:
            return DataLoader(whole, batch_size=8, shuffle=True)

        def val_dataloader(self) -> Any:
            return DataLoader(whole, batch_size=8)

    module = Module()
    task = tw.from_lightning(module, Loaders(), steps=5)
    assert (task.name, task.samples_per_step) == ("Module", 8)
    assert [len(split) for split in vars(task.given).values()] == [40, 20, 20]
    start = module.layer.weight.detach().clone()
    raced = tw.race(task, **GIVEN, runs=tmp_path)
    assert raced.best is not None
    assert torch.equal(module.layer.weight, start)
    trained = tw.train(task, raced.best, out=tmp_path / "model.safetensors")
    assert 0 < trained.run.score < float(F.mse_loss(module.layer(x), x.sum(1, keepdim=True)))


class Tokens(Dataset[Any]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        ids = [(i * j) % 20 for j in range(3 + i % 3)]
        return {"input_ids": ids, "labels": i % 2}


def test_a_trainer_of_hugging_face_races_with_its_own_collator(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, pad_token_id=0
    )

    def padded(samples: list[Any]) -> Any:
        longest = max(len(one["input_ids"]) for one in samples)
        ids = [one["input_ids"] + [0] * (longest - len(one["input_ids"])) for one in samples]
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor([one["labels"] for one in samples]),
        }

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=3,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        transformers.GPT2ForSequenceClassification(config),
        arguments,
        data_collator=padded,
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
    )
    task = tw.from_trainer(trainer)
    assert (task.steps, task.samples_per_step) == (3, 4)
    assert tw.race(task, **GIVEN, runs=tmp_path).best is not None
    trainer.eval_dataset = None
    with pytest.raises(UserError, match="The trainer needs eval_dataset"):
        tw.from_trainer(trainer)
