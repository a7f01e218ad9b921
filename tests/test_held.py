"""Data sets read into memory: the same batches, and left alone where they would not be."""

from __future__ import annotations

import math
import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils._pytree import tree_flatten
from torch.utils.data import Dataset, TensorDataset, default_collate

from thalweg.stack.batches import fetch
from thalweg.tasks import Data, Task
from thalweg.tasks.held import SHARE, UNTOLD, Held, free_memory, held, read

Pair = namedtuple("Pair", "left right")


class Samples(Dataset[Any]):
    """What a function makes of a sample's number; counts how often it is asked."""

    def __init__(self, made: Callable[[int], Any], length: int = 50) -> None:
        self.made, self.length = made, length
        self.asked = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Any:
        self.asked += 1
        return self.made(i)


def plain(i: int) -> Any:
    return torch.tensor([i, i**0.5]), torch.tensor(i)


def nested(i: int) -> Any:
    """All that `default_collate` makes tensors of."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3) * i
    parts = {"list": [i, float(i)], "pair": Pair(array, np.float32(i)), "whether": i % 3 == 0}
    return parts, (torch.tensor([i], dtype=torch.bfloat16), np.int16(i)), i / 7


@pytest.mark.parametrize("made", [plain, nested])
def test_held_batches_are_what_default_collate_makes_of_the_samples(
    made: Callable[[int], Any],
) -> None:
    dataset = held(Samples(made))
    assert isinstance(dataset, Held)
    assert len(dataset) == 50
    chosen = [7, 0, 49, 7]
    expected = tuple(default_collate([made(i) for i in chosen]))
    found = fetch(dataset, torch.tensor(chosen))
    assert tree_flatten(found)[1] == tree_flatten(expected)[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    one = default_collate([dataset[7]])
    torch.testing.assert_close(one, default_collate([made(7)]), rtol=0, atol=0)


def test_samples_that_go_on_for_ever_are_not_read_for_a_few_steps() -> None:
    samples = Samples(plain, length=10_000)
    split = TensorDataset(*(torch.ones(4, 1) for _ in range(2)))
    task = Task(
        name="endless",
        model=lambda: nn.Linear(2, 1),
        data=lambda: Data(samples, split, split),
        loss=mse_loss,
        batch_size=4,
        steps=3,
    )
    assert task.splits.train is samples
    assert samples.asked < 10
    assert isinstance(replace(task, steps=30).splits.train, Held)


def test_nothing_is_read_more_than_twice_but_a_few_samples() -> None:
    samples = Samples(plain, length=1000)
    dataset = held(samples)
    assert samples.asked < 2100
    samples.asked = 0
    fetch(dataset, torch.arange(1000))
    assert samples.asked == 0


def test_what_takes_long_to_read_is_read_again_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.tasks.held.PATIENCE", 0.0)
    samples = Samples(plain, length=1000)
    assert isinstance(held(samples), Held)
    assert samples.asked < 1100


def test_tensors_stay_where_they_are() -> None:
    dataset = TensorDataset(torch.randn(5, 2), torch.randn(5))
    assert held(dataset) is dataset


class Doubled(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        return tuple(2 * x for x in super().__getitem__(i))


def test_a_tensor_data_set_whose_samples_are_others_than_its_tensors() -> None:
    dataset = Doubled(torch.arange(5.0), torch.arange(5.0))
    for one in (dataset, held(dataset)):
        assert fetch(one, torch.tensor([3, 1]))[0].tolist() == [6, 2]
    assert isinstance(held(dataset), Held)


def test_samples_without_a_number_are_held_too() -> None:
    assert isinstance(held(Samples(lambda i: (torch.tensor([i, math.nan]), i))), Held)


def every_eighth() -> Callable[[int], Any]:
    calls = count()
    return lambda i: (torch.ones(2) * (next(calls) % 8 == 7), i)


OWN = random.Random(0)
LEFT: dict[str, Callable[[int], Any]] = {
    "draws from torch": lambda i: (torch.rand(2), i),
    "draws from NumPy": lambda i: (np.random.rand(2), i),
    "draws from Python": lambda i: (random.random(), i),
    "draws and does not use it": lambda i: (torch.rand(1) * 0, i),
    "draws at last": lambda i: (torch.rand(2) if i == 49 else torch.zeros(2), i),
    "draws from a generator of its own": lambda i: (OWN.random(), i),
    "draws seldom, from a generator of its own": lambda i: (OWN.random() if i == 40 else 0.0, i),
    "changes with every tenth call": every_eighth(),
    "one shape is another": lambda i: (torch.zeros(2 if i == 40 else 3), i),
    "one shape would broadcast": lambda i: (torch.zeros(1 if i == 40 else 3), i),
    "one type is another": lambda i: (torch.zeros(2, dtype=torch.int if i == 40 else None), i),
    "one has another key": lambda i: ({"x" if i == 40 else "y": 1.0}, i),
    "texts": lambda i: (str(i), i),
    "needs gradients": lambda i: (torch.zeros(2, requires_grad=True), i),
    "fails": lambda i: (1 / (i - 40), i),
}


@pytest.mark.parametrize("made", LEFT.values(), ids=LEFT)
def test_what_cannot_be_held_is_left_as_it_is(made: Callable[[int], Any]) -> None:
    samples = Samples(made)
    assert held(samples) is samples


def test_samples_outside_the_cpus_memory_are_not_read() -> None:
    with pytest.raises(ValueError, match="not where it can be held"):
        read(Samples(lambda i: (torch.zeros(2, device="meta"), i)), 5)


def draws() -> list[float]:
    return [torch.rand(()).item(), np.random.rand(), random.random()]


@pytest.mark.parametrize("name", [name for name in LEFT if name.startswith("draws")])
def test_reading_leaves_the_random_numbers_alone(name: str) -> None:
    expected, found = [], []
    for drawn, dataset in ((expected, None), (found, Samples(LEFT[name]))):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        if dataset:
            held(dataset)
        drawn += draws()
    assert found == expected


def test_a_data_set_larger_than_its_share_of_the_memory_is_not_read() -> None:
    def megabyte(i: int) -> Any:
        assert i < 100, "would fill the memory"
        return torch.zeros(2**20, dtype=torch.uint8), i

    samples = Samples(megabyte, length=2 * int(SHARE * free_memory() / 2**20))
    assert held(samples) is samples
    assert samples.asked < 100


def test_free_memory_is_what_linux_and_a_container_say(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == UNTOLD
    (tmp_path / "proc").mkdir()
    told = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  3000 kB\nHugePages_Total:  0\n"
    (tmp_path / "proc/meminfo").write_text(told)
    assert free_memory(tmp_path) == 3000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("500000\n")
    for most, free in (("max", 3000 * 1024), ("1200000", 700000), ("99000000", 3000 * 1024)):
        (group / "memory.max").write_text(f"{most}\n")
        assert free_memory(tmp_path) == free


def test_a_task_holds_what_it_trains_on_and_leaves_test_data_alone() -> None:
    splits = [Samples(plain) for _ in range(3)]
    task = Task("mine", nn.Identity, lambda: Data(*splits), nn.functional.mse_loss, steps=1)
    assert isinstance(task.splits.train, Held)
    assert isinstance(task.splits.validation, Held)
    assert task.splits.test is splits[2]
    assert splits[2].asked <= 5, "a look at a few"
