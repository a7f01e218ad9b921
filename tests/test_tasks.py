"""Tasks: the contract, finding them, checking them, and the science of the bundled ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from sysconfig import get_paths
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, stack_module_state, vmap
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import thalweg
from thalweg.errors import UserError
from thalweg.tasks import Data, Task, bundled, check, find
from thalweg.tasks import landscapes as land
from thalweg.tasks import topics as text
from thalweg.tasks import waveform as wave
from thalweg.tasks.adding import adding_problem
from thalweg.tasks.digits import first_digits
from thalweg.tasks.user_code import failure_in_training

NAMES = [task.name for task in bundled()]


def linear_data(n: int = 8) -> Data:
    inputs = torch.linspace(-1, 1, 3 * n).reshape(n, 3)
    split = (inputs, inputs.sum(1, keepdim=True))
    return Data(split, split, split)


def linear_model() -> nn.Module:
    return nn.Linear(3, 1)


def linear_task(**changes: Any) -> Task:
    fields = {"model": linear_model, "data": linear_data, "loss": F.mse_loss, "steps": 3}
    return Task(**({"name": "line"} | fields | changes))


def tensors(split: Dataset[Any]) -> tuple[Tensor, ...]:
    assert isinstance(split, TensorDataset)
    return split.tensors


# Budgets


@given(n=st.integers(1, 500), batch_size=st.integers(1, 100), epochs=st.integers(1, 20))
def test_steps_of_an_epoch_drop_the_last_incomplete_batch(
    n: int, batch_size: int, epochs: int
) -> None:
    task = linear_task(batch_size=batch_size, steps=None, epochs=epochs)
    full_batches = [start for start in range(0, n, batch_size) if start + batch_size <= n]
    expected = len(full_batches) or 1  # a training set smaller than a batch is one full batch
    assert task.steps_per_epoch(n) == expected
    assert task.total_steps(n) == epochs * expected


def test_a_budget_in_steps_is_kept_whatever_the_data() -> None:
    assert linear_task(steps=7).total_steps(1) == 7
    assert linear_task(steps=7).total_steps(10_000) == 7


def test_the_score_is_the_metric_or_else_the_loss() -> None:
    assert linear_task().score is F.mse_loss
    assert linear_task(metric=F.l1_loss, direction="min").score is F.l1_loss


def test_data_is_made_once() -> None:
    calls = []

    def data() -> Data:
        calls.append(1)
        return linear_data()

    task = linear_task(data=data)
    assert task.splits is task.splits
    assert len(calls) == 1


# Sentences about a task or data that cannot be used


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": " "}, "name must be printable text, not ' '"),
        ({"epochs": 2}, "exactly one of epochs and steps as its budget, and has both"),
        ({"steps": None}, "exactly one of epochs and steps as its budget, and has neither"),
        ({"steps": 0}, "'line': steps must be a whole number from 1 to 4294967295, not 0"),
        ({"steps": 2.5}, "steps must be a whole number from 1 to 4294967295, not 2.5"),
        (
            {"steps": None, "epochs": -1},
            "epochs must be a whole number from 1 to 4294967295, not -1",
        ),
        ({"batch_size": True}, "batch_size must be a whole number from 1 to 4294967295, not True"),
        ({"direction": "down"}, "needs direction 'min' or 'max', not 'down'"),
        ({"target": math.nan}, "needs a finite number as its target, not nan"),
        ({"curriculum": (1,)}, "needs a function that makes the task from a value, not None"),
        ({"curriculum": (1,), "difficulty": 3}, "the task from a value, not 3; write difficu"),
        ({"model": linear_model()}, "makes its model, not a Linear; write model=lambda"),
        ({"data": linear_data()}, "makes its data, not a Data; write data=lambda"),
        ({"loss": 3}, r"function of \(outputs, targets\) as its loss, not an int"),
        ({"metric": "accuracy"}, "as its metric, not a str"),
        ({"also": [F.l1_loss]}, "as a dictionary of functions by name, not a list"),
        ({"also": {"size": 1}}, "as its further metric 'size', not an int"),
        ({"model": linear_model()}, r"write model=lambda: copy.deepcopy\(model\)"),
        ({"metric": F.l1_loss}, "which direction is better: give direction='max' if higher"),
        ({"direction": "max"}, "direction 'max' but no metric, and a lower loss is always better"),
        ({"also": {"loss": F.l1_loss}}, "a further metric called 'loss', which is the name of"),
        (
            {"metric": F.l1_loss, "direction": "min", "also": {"metric": F.mse_loss}},
            "a further metric called 'metric', which is the name of",
        ),
        ({"metric_name": " "}, "a metric's name must be printable text, not ' '"),
        ({"also": {3: F.l1_loss}}, "a metric's name must be printable text, not 3"),
        ({"also": {"low": F.l1_loss}}, "called 'low', which is also the name of an interval's end"),
    ],
)
def test_a_task_that_cannot_be_used_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        linear_task(**changes)


class Stream(IterableDataset[Any]):
    """Samples that can only be read one after the other; `count` of them, or without an end."""

    def __init__(self, count: float = math.inf) -> None:
        self.count = count

    def __iter__(self) -> Any:
        i = 0
        while i < self.count:
            yield torch.full((3,), i / 8), torch.ones(1)
            i += 1


def loader_of(**given: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(3, 3), torch.ones(3, 1)), **given)


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (3, "train split must be a map-style data set .* not an int"),
        ((torch.ones(3), torch.ones(2)), r"unequal lengths \(3, 2\)"),
        ((), "train split is an empty tuple"),
        (loader_of(batch_size=None), "the train split makes batches in a way of its own"),
        (loader_of(batch_sampler=[[0], [1, 2]]), "the train split makes batches in a way of its"),
        (loader_of(sampler=[0, 1]), "the train split has a list, which a race cannot follow"),
        ((torch.ones(3), "labels"), r"must be tensors \[N, ...\], and one is of type str"),
        ((torch.ones(3), np.ones(3)), r"and one is of type ndarray and shape \[3\]\."),
        (range(10**12), "train split has 1000000000000 samples, and no more than 100000000 can"),
        ((torch.ones(0), torch.ones(0)), "train split is empty"),
    ],
)
def test_a_split_that_cannot_be_used_is_refused(split: Any, sentence: str) -> None:
    good = (torch.ones(3), torch.ones(3))
    with pytest.raises(UserError, match=sentence):
        Data(split, good, good)


# Checking a task


class Unconnected(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sum(1, keepdim=True)


class Detached(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()


def failing() -> Any:
    raise FileNotFoundError("no such file: digits.csv\n(second line)")


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *_: Tensor) -> Tensor:
        raise RuntimeError("no way back")


class Centred(nn.Module):
    """A loss with numbers of its own to train."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.ones(1))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs - self.centre, targets)


CENTRED = Centred()
NUMBERS = count(1)


class Unlisted(nn.Linear):
    """Keeps a layer where PyTorch does not look for it."""

    def __init__(self) -> None:
        super().__init__(3, 1)
        self.layers = [nn.Linear(3, 3)]

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(self.layers[0](inputs))


class Late(nn.Linear):
    """Makes a parameter when it is called, which is after its optimizer was made."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(2, 1, 1))
        return super().forward(inputs) * self.scale.mean()


class Sloped(nn.Linear):
    """Gives the slope along its inputs too."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            free = inputs.clone().requires_grad_()
            out = super().forward(free).tanh()
            (slope,) = torch.autograd.grad(out.sum(), free, create_graph=True)
        return out + slope.sum(1, keepdim=True)


def differentiable_data() -> Data:
    x = torch.linspace(-1, 1, 24).reshape(8, 3).requires_grad_()
    split = (x, torch.ones(8, 1))
    return Data(split, split, split)


def empty_samples() -> Data:
    split: Any = [(), ()]
    return Data(split, split, split)


def empty_stream() -> Data:
    return Data(Stream(0), linear_data().validation, linear_data().test)


def wider_test_inputs() -> Data:
    seen = (torch.ones(8, 3), torch.ones(8, 1))
    return Data(seen, seen, (torch.ones(8, 4), torch.ones(8, 1)))


def targets_left_out() -> Data:
    split, bare = (torch.ones(8, 3), torch.ones(8, 1)), [(torch.ones(3),)] * 8
    return Data(split, bare, split)  # type: ignore[arg-type]


def made_of(x: Tensor) -> Callable[[], Data]:
    return lambda: Data(*3 * [(x, torch.ones(8, 1))])


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(3, 1)


def ragged_samples() -> Data:
    split: Any = [(torch.ones(2), torch.ones(1)), (torch.ones(3), torch.ones(1))]
    return Data(split, split, split)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": failing}, r"data of task 'line' failed: FileNotFoundError: .*digits.csv$"),
        (
            {"data": dict},
            r"must return .*Data.*, not a dictionary with no entries\.",
        ),
        ({"data": lambda: (1, 2)}, "a dictionary with these names, not a tuple of 2"),
        ({"data": lambda: {"train": 1, "eval": 2}}, "not a dictionary with 'train', 'eval'"),
        ({"data": empty_samples}, r"Sample \d of the train split .* not of type tuple"),
        (
            {"data": targets_left_out},
            "validation split of task 'line' has other parts than",
        ),
        ({"data": empty_stream}, "training data of task 'line' are an iterable without a sample"),
        (
            {"data": made_of(torch.ones(8, 3).to_sparse())},
            "must be dense tensors of numbers",
        ),
        (
            {"data": made_of(torch.ones(8, 3, device="meta"))},
            "numbers, not on the device meta",
        ),
        (
            {"model": made_for_inference},
            "of task 'line' was made in torch.inference_mode",
        ),
        ({"data": ragged_samples}, "samples of the train split of task 'line' cannot be stacked"),
        ({"model": failing}, "model of task 'line' cannot be made: FileNotFoundError"),
        ({"model": dict}, "must return a torch.nn.Module, not of type dict"),
        ({"model": nn.Identity}, "has no trainable parameters"),
        (
            {"model": lambda: nn.Linear(4, 1)},
            r"model of task 'line' failed on train inputs of shape \[8, 3\]: RuntimeError: mat1",
        ),
        (
            {"loss": lambda outputs, targets: F.cross_entropy(outputs, targets[:2])},
            r"loss of task 'line' failed on outputs of shape \[8, 1\] and targets of shape \[8, 1",
        ),
        ({"loss": lambda o, t: (o - t) ** 2}, r"one number for all samples, not of shape \[8,"),
        ({"loss": lambda _o, _t: None}, "must be one number for all samples, not of type NoneType"),
        ({"loss": lambda o, t: (o - t).mean().item()}, "must be a scalar tensor, .* of type float"),
        ({"model": lambda: Detached(3, 1)}, "loss of task 'line' does not depend on"),
        (
            {"loss": lambda o, t: CENTRED(o, t)},
            r"tensor of shape \[1\] that is no parameter of a fresh model, so it",
        ),
        ({"model": Unlisted}, r"tensor of shape \[3, 3\] that is no .*use an nn.ModuleList"),
        ({"model": lambda: Late(3, 1)}, r"tensor of shape \[2, 1, 1\] that is no parameter of a f"),
        (
            {"model": lambda: Unconnected(3, 1), "loss": lambda o, _: (o.requires_grad_()).mean()},
            "loss of task 'line' does not depend on",
        ),
        (
            {"loss": lambda o, _: (o.mean() * 0 - 1).log()},
            "loss of task 'line' is nan at the initial weights, before any step: ",
        ),
        (
            {"loss": lambda o, _: BadBackward.apply(o).mean()},
            "backward pass of task 'line' failed: RuntimeError: no way back",
        ),
        (
            {"metric": lambda o, t: o - t, "direction": "min"},
            r"metric of task 'line' must be one number .* \[8, 1\]",
        ),
        ({"data": wider_test_inputs}, r"failed on test inputs of shape \[8, 4\]: RuntimeError"),
        (
            {"loss": lambda o, t: (o * 0).abs().sqrt().mean() + t.mean()},
            "its gradient is not: look",
        ),
        ({"loss": lambda o, t: F.mse_loss(o, t[:, 0])}, "UserWarning: Using a target size"),
        (
            {"metric": lambda o, _t: o.mean() * math.nan, "direction": "min"},
            "metric of task 'line' is nan on valid",
        ),
        (
            {"metric": lambda _o, _t: 1 / 0, "direction": "min"},
            "metric of task 'line' failed .* ZeroDivisionError",
        ),
        (
            {"metric": lambda _o, _t: np.array("high"), "direction": "min"},
            "must be one number for all samples, not of type ndarray",
        ),
        (
            {"metric": lambda o, _t: o.sum() * 1j, "direction": "min"},
            r"must be one number for all samples, not of shape \[\]",
        ),
        (
            {"also": {"gap": lambda o, t: o - t}},
            "further validation metric 'gap' of task 'line' must be one",
        ),
        ({"also": {"gap": lambda o, t: o.sub_(t).norm()}}, "'gap' .* changes the outputs or targ"),
        ({"also": {"gap": lambda _o, _t: 10**400}}, "'gap' .* does not give a usable number: Over"),
    ],
)
def test_check_says_in_one_sentence_what_is_wrong(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        check(linear_task(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": lambda: Sloped(3, 1)},
        {"data": differentiable_data},
        {"loss": Centred().requires_grad_(False)},
        {"loss": lambda o, t: F.mse_loss(o, t) * next(NUMBERS), "metric": F.mse_loss},
    ],
    ids=["slopes in the model", "inputs with gradients", "a frozen loss", "a loss that grows"],
)
def test_check_takes_what_may_be_trained(changes: dict[str, Any]) -> None:
    check(linear_task(**changes, direction="min"))


class Listed(Dataset[Any]):
    """Samples that are read as they are asked for: each draws, so that none can be held."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        torch.rand(1)
        return tuple(x[i] for x in self.tensors)


def damaged(split: str, value: float, place: int, made: Any) -> Callable[[], Data]:
    """The line's data in 40 samples, of which one holds a value in its inputs or its target."""

    def data() -> Data:
        splits = {}
        for name in ("train", "validation", "test"):
            tensors = [x.clone() for x in linear_data(40).train.tensors]  # type: ignore[attr-defined]
            if name == split:
                tensors[place][33, 0] = value
            splits[name] = made(tuple(tensors))
        return Data(**splits)

    return data


@pytest.mark.parametrize("made", [tuple, Listed], ids=["held", "read as it goes"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("value", "place"), [(math.nan, 0), (math.nan, 1), (math.inf, 0), (math.inf, 1)]
)
def test_what_is_not_finite_in_the_data_is_told_by_its_split_and_sample(
    split: str, value: float, place: int, made: Any
) -> None:
    told = f"Sample 33 .* of the {split} split of task 'line' has {value} in its "
    with pytest.raises(UserError, match=told + ("inputs", "target")[place]):
        check(linear_task(data=damaged(split, value, place, made), batch_size=4))


def test_what_a_metric_refuses_of_the_data_is_told_by_its_sample() -> None:
    def strict(outputs: Tensor, targets: Tensor) -> float:
        return float(sklearn.metrics.mean_squared_error(targets.numpy(), outputs.numpy()))

    data = damaged("test", math.nan, 1, tuple)
    with pytest.raises(UserError, match=r"^Sample 33 .* the test split .* has nan in its target"):
        check(linear_task(data=data, metric=strict, direction="min", batch_size=4))


class Filled(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.nan_to_num(0, 0, 0))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_not_finite_in_the_data_may_stand_where_it_is_masked(split: str) -> None:
    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        known = targets.isfinite()
        return F.mse_loss(outputs[known], targets[known])

    for place in (0, 1):
        data = damaged(split, math.nan, place, tuple)
        check(linear_task(data=data, model=lambda: Filled(3, 1), loss=masked, batch_size=4))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_masked_may_stand_at_the_beginning_of_the_data(split: str) -> None:
    def unknown_first() -> Data:
        given = vars(linear_data(40)) | {split: linear_data(40).train}
        inputs, targets = (x.clone() for x in given[split].tensors)
        targets[:30] = math.nan
        return Data(**given | {split: (inputs, targets)})

    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        known = targets.isfinite()
        return F.mse_loss(outputs[known], targets[known])

    check(linear_task(data=unknown_first, loss=masked, batch_size=16))


def line_of(classes: Tensor) -> Callable[[], Data]:
    x = torch.linspace(-1, 1, 3 * len(classes)).reshape(-1, 3)
    return lambda: Data(*[(x, classes.float().unsqueeze(1))] * 3)


def of_zeros_alone(outputs: Tensor, targets: Tensor) -> Tensor:
    """Not a number where a target is 1."""
    return F.mse_loss(outputs, targets) * (1 - targets.max()) / (1 - targets.max())


def of_both_classes(outputs: Tensor, targets: Tensor) -> Tensor:
    """Not a number where all targets are of one class."""
    spread = targets.max() - targets.min()
    return F.mse_loss(outputs, targets) * spread / spread


def test_a_loss_that_fails_on_rare_samples_is_told_before_training() -> None:
    task = linear_task(data=line_of(torch.arange(40) == 33), loss=of_zeros_alone, batch_size=4)
    with pytest.raises(UserError, match="loss of task 'line' is nan at the initial weights"):
        check(task)


def test_samples_in_the_order_of_their_classes_are_checked_in_batches_as_in_training() -> None:
    classes = torch.arange(40) >= 20
    check(
        linear_task(
            data=line_of(classes),
            loss=of_both_classes,
            metric=F.l1_loss,
            direction="min",
            batch_size=16,
        )
    )


def test_a_metric_that_needs_every_class_is_asked_of_a_whole_split() -> None:
    data = line_of(torch.arange(100) == 33)
    task = linear_task(data=data, metric=of_both_classes, direction="min", batch_size=4)
    check(task)
    with pytest.raises(UserError, match="metric of task 'line' is nan on validation data"):
        check(replace(task, data=line_of(torch.zeros(100))))


class Slow(TensorDataset):
    """Of which the look at a split, in the test, has time for a batch alone."""

    def __getitem__(self, i: int) -> Any:
        torch.rand(())
        return super().__getitem__(i)


def test_a_metric_that_refuses_a_part_of_a_split_is_asked_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_both(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.max() == targets.min():
            raise ValueError("only one class")
        return F.mse_loss(outputs, targets)

    def slow(classes: Tensor) -> Callable[[], Data]:
        split = Slow(*line_of(classes)().train.tensors)  # type: ignore[attr-defined]
        return lambda: Data(split, split, split)

    monkeypatch.setattr(sys.modules[check.__module__], "PATIENCE", 0.0)
    task = linear_task(data=slow(torch.arange(40) == 33), metric=of_both, direction="min")
    check(replace(task, batch_size=4))
    with pytest.raises(UserError, match="only one class"):
        check(replace(task, batch_size=4, data=slow(torch.zeros(40))))


def test_a_sample_of_another_shape_is_told_by_its_number() -> None:
    def samples(split: str) -> Any:
        return [(torch.ones(2 if (i, split) == (33, odd) else 3), torch.ones(1)) for i in range(40)]

    for odd in ("train", "validation", "test"):
        data = partial(Data, *map(samples, ("train", "validation", "test")))
        told = rf"the {odd} split .* sample 33 as a batch of one is of shape"
        with pytest.raises(UserError, match=told):
            check(linear_task(data=data, batch_size=4))


def test_a_bug_of_ours_in_training_keeps_its_traceback() -> None:
    with pytest.raises(TypeError), failure_in_training(linear_task()):
        linear_task().steps_per_epoch("a word")  # type: ignore[arg-type]
    told = pytest.raises(UserError, match="Task 'line' failed in training: RuntimeError: mat1")
    with told, failure_in_training(linear_task()):
        linear_model()(torch.ones(2, 4))


BROKEN = """
calls = []
def loss(outputs, targets):
    calls.append(1)
    if len(calls) > 60:
        raise AttributeError("module has no core")
    return ((outputs - targets) ** 2).mean()
"""


def test_a_task_is_not_blamed_for_a_library_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ModuleType("elsewhere.printing")
    library.__file__ = f"{get_paths()['purelib']}/elsewhere/printing.py"
    monkeypatch.setitem(sys.modules, library.__name__, library)
    exec(BROKEN, vars(library))
    words = "^Training task 'line' failed in elsewhere: AttributeError: module has no core$"
    with pytest.raises(UserError, match=words):
        thalweg.train(
            linear_task(loss=library.loss, steps=100), "sgd", out=tmp_path / "model.safetensors"
        )


def test_gradients_that_are_switched_off_are_told() -> None:
    with torch.no_grad(), pytest.raises(UserError, match=r"Gradients are switched off, so task"):
        check(find("saddle"))


def test_check_leaves_the_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    check(linear_task(model=lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout())))
    assert torch.rand(1) == expected


def test_check_takes_a_data_set_of_the_users_own() -> None:
    class Samples(Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[Tensor, float]:
            return torch.full((3,), index / 5), 1.0

    samples = Samples()
    check(
        linear_task(
            data=lambda: Data(samples, samples, samples),
            loss=lambda outputs, targets: F.mse_loss(outputs[:, 0], targets.float()),
        )
    )


# Finding a task


def test_bundled_tasks_are_found_by_name() -> None:
    names = [
        *("digits", "digits-conv", "digits-deep", "diabetes", "topics", "adding", "waveform"),
        *("ravine", "ravine-rotated", "rosenbrock", "saddle", "cliff"),
    ]
    assert [task.name for task in bundled()] == names
    for task in bundled():
        assert find(task.name) is task
        assert task.shows.endswith(".") and task.target is not None


USERS_FILE = """
from thalweg.tasks import Task
from helper import data, model
from torch.nn.functional import mse_loss

mine = Task(name="mine", model=model, data=data, loss=mse_loss, steps=1)

def made():
    return mine

def fails():
    return 1 / 0

number = 3
"""

HELPER_FILE = """
import torch
from thalweg.tasks import Data

def model():
    return torch.nn.Linear(2, 1)

def data():
    split = torch.ones(4, 2), torch.ones(4, 1)
    return Data(split, split, split)
"""


@pytest.fixture
def users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "helper.py").write_text(HELPER_FILE)
    path = tmp_path / "tasks.py"
    path.write_text(USERS_FILE)
    return path


def test_a_task_is_found_as_itself_and_nothing_else_is_one() -> None:
    task = bundled()[0]
    assert find(task) is task
    with pytest.raises(
        UserError, match=r"task must be a thalweg\.Task or the name of one, not 3\."
    ):
        find(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("attribute", ["mine", "made"])
def test_a_users_task_is_found_in_a_file(users_file: Path, attribute: str) -> None:
    folders = list(sys.path)
    task = find(f"{users_file}:{attribute}")
    assert task.name == "mine"
    check(task)
    find(f"{users_file}:{attribute}")
    assert sys.path == [*folders, str(users_file.parent)]


def test_a_link_to_a_file_of_another_name_is_a_users_file_too(users_file: Path) -> None:
    stored = users_file.rename(users_file.with_name("5f3a"))
    users_file.symlink_to(stored)
    assert find(f"{users_file}:mine").name == "mine"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digit", "no bundled task 'digit'; did you mean digits"),
        ("zzz", "no bundled task 'zzz'; known are digits, digits-conv, .* path/to/file.py:task"),
        ("digits:mine", "no bundled task 'digits:mine'; did you mean digits"),
        ("nowhere.py:mine", "There is no task file nowhere.py; looked in "),
        ("FILE", "names a file but no task in it; write .*tasks.py:NAME"),
        ("FILE:", "names a file but no task in it; write .*tasks.py:NAME"),
        ("FILE:other", "There is no 'other' in .*tasks.py; it has mine"),
        ("FILE:number", "'number' in .*tasks.py must be a thalweg.tasks.Task, .*, not int"),
        ("FILE:fails", "tasks.py, line 12 failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_task_that_is_not_found_gets_a_sentence(
    users_file: Path, name: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        find(name.replace("FILE", str(users_file)))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("x = 1\ny = (", "line 2 failed: SyntaxError: '.' was never closed$"),
        ("import no_such_module", "line 1 failed: ModuleNotFoundError: No module named 'no_such"),
        ("\nraise SystemExit(4)", "line 2 failed: SystemExit: 4"),
        (
            "from thalweg.tasks import Task\nTask(name='', model=1, data=1, loss=1)",
            "line 2 failed: A task's name must be printable text",
        ),
        ("x = 1", "There is no 'task' in .*broken.py, and no task at all"),
    ],
)
def test_a_file_that_fails_gets_a_sentence_with_its_line(
    tmp_path: Path, content: str, sentence: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        find(f"{path}:task")


# Every bundled task


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_task_passes_its_check(name: str) -> None:
    check(find(name))


@pytest.mark.parametrize("name", NAMES)
def test_data_is_the_same_on_every_call(name: str) -> None:
    first, second = find(name).data(), find(name).data()
    for split in ("train", "validation", "test"):
        for one, other in zip(
            tensors(getattr(first, split)), tensors(getattr(second, split)), strict=True
        ):
            assert torch.equal(one, other)


def in_float64(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.double() if part.is_floating_point() else part for part in batch)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_stacked_models_are_those_of_lone_ones(name: str) -> None:
    task = find(name)
    *inputs, targets = in_float64(tuple(t[:4] for t in tensors(task.splits.train)))
    torch.manual_seed(0)
    models = [task.model().double().train() for _ in range(3)]

    def loss(parameters: Any, buffers: Any) -> Tensor:
        return task.loss(functional_call(models[0], (parameters, buffers), tuple(inputs)), targets)

    parameters, buffers = stack_module_state(models)
    stacked = vmap(grad(loss), randomness="different")(parameters, buffers)

    for index, model in enumerate(models):
        task.loss(model(*inputs), targets).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            scale = parameter.grad.abs().max().clamp(min=1e-6)
            assert (stacked[key][index] - parameter.grad).abs().max() <= 1e-9 * scale, key


def train(task: Task, lr: float) -> float:
    """The plainest loop, Adam cooled linearly to 1 % of `lr`; returns the validation score."""
    torch.manual_seed(1)
    model = task.model()
    columns = tensors(task.splits.train)
    n = len(columns[0])
    steps = task.total_steps(n)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    cooling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        drawn = torch.randperm(n)[: task.batch_size]
        *inputs, targets = (column[drawn] for column in columns)
        optimizer.zero_grad()
        task.loss(model(*inputs), targets).backward()
        optimizer.step()
        cooling.step()
    *inputs, targets = tensors(task.splits.validation)
    with torch.no_grad():
        return float(task.score(model.eval()(*inputs), targets))


@pytest.mark.parametrize(
    ("name", "lr"), [("digits", 3e-2), ("digits-conv", 3e-2), ("ravine", 1.0), ("cliff", 0.3)]
)
def test_a_good_rate_reaches_the_target_and_a_tiny_one_does_not(name: str, lr: float) -> None:
    task = find(name)
    assert task.target is not None
    assert train(task, lr) < task.target < train(task, lr / 100)


# Difficulties


CURRICULA = {"waveform": (3, 6), "adding": (10, 25), "digits": (2, 5)}


@pytest.mark.parametrize("name", CURRICULA)
def test_a_curriculum_leads_up_to_the_task(name: str) -> None:
    task = find(name)
    assert task.curriculum == CURRICULA[name]
    assert task.difficulty is not None
    for simpler, value in enumerate(task.curriculum):
        made = task.difficulty(value)
        assert (made.name, made.curriculum) == (task.name, task.curriculum[:simpler])
        check(made)


def test_what_the_simpler_tasks_are() -> None:
    short = tensors(adding_problem(10).splits.train)
    assert short[0].shape == (8192, 10, 2)
    assert torch.allclose(short[0].prod(2).sum(1), short[1])
    pictures, classes = tensors(first_digits(2).splits.train)
    every, all_classes = tensors(find("digits").splits.train)
    assert set(classes.tolist()) == {0, 1} and set(all_classes.tolist()) == set(range(10))
    assert {tuple(x) for x in pictures.tolist()} & {tuple(x) for x in every.tolist()}
    assert first_digits(2).model()(pictures).shape == (len(pictures), 2)
    assert wave.waveform(3.0).model().frequency == 3.0


@pytest.mark.parametrize(
    ("difficulty", "value", "sentence"),
    [
        (adding_problem, 1, "length must be a whole number from 2 to 4294967295, not 1"),
        (adding_problem, 2.5, "length must be a whole number from 2 to 4294967295, not 2.5"),
        (first_digits, 1, "from 2 to 10 classes, not 1"),
        (first_digits, 11, "from 2 to 10 classes, not 11"),
        (first_digits, "two", "from 2 to 10 classes, not 'two'"),
    ],
)
def test_a_difficulty_that_is_none_is_refused(difficulty: Any, value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        difficulty(value)


# Samples


@pytest.mark.parametrize("name", ["digits", "digits-conv", "diabetes"])
def test_no_sample_is_in_two_splits(name: str) -> None:
    splits = find(name).splits
    rows = [
        {tuple(row.tolist()) for row in tensors(split)[0].flatten(1)}
        for split in (splits.train, splits.validation, splits.test)
    ]
    assert sum(map(len, rows)) == len(rows[0] | rows[1] | rows[2])


def test_diabetes_is_standardised_by_its_training_set_alone() -> None:
    from sklearn.datasets import load_diabetes

    raw, _ = load_diabetes(return_X_y=True, scaled=False)
    inputs, targets = tensors(find("diabetes").splits.train)
    for column in (inputs, targets):
        assert column.mean(0).abs().max() < 1e-5
        assert (column.std(0) - 1).abs().max() < 1e-5
    # One affine map for all three splits: put back together they are the raw data, up to order.
    splits = find("diabetes").splits
    together = torch.cat(
        [tensors(split)[0] for split in (splits.train, splits.validation, splits.test)]
    )
    ages = torch.tensor(raw[:, 0], dtype=torch.float32).sort().values
    spread = (ages[-1] - ages[0]) / (together[:, 0].max() - together[:, 0].min())
    again = (together[:, 0].sort().values - together[:, 0].min()) * spread + ages[0]
    assert torch.allclose(again, ages, atol=1e-3)


@pytest.mark.parametrize("length", [64 * 700, 64 * 3000 + 17])
def test_windows_of_the_text_are_disjoint_and_targets_come_next(length: int) -> None:
    data = text.cut(torch.arange(length))
    seen: set[int] = set()
    for split, low, high in (
        (data.train, 0.0, 0.8),
        (data.validation, 0.8, 0.9),
        (data.test, 0.9, 1.0),
    ):
        inputs, targets = tensors(split)
        assert torch.equal(targets, inputs + 1)
        characters = set(inputs.flatten().tolist())
        assert len(characters) == inputs.numel()
        assert not characters & seen
        assert min(characters) >= math.floor(low * length)
        assert int(targets.max()) < math.ceil(high * length)
        seen |= characters
    assert len(tensors(data.validation)[0]) == len(tensors(data.test)[0]) == 64


def test_the_alphabet_does_not_depend_on_the_text() -> None:
    codes = text.encode(" ~a\n\u20ac\t")
    assert codes.tolist() == [1, 95, 66, 0, text.OTHER, text.OTHER]
    assert text.SYMBOLS == 97


def test_the_language_model_does_not_look_ahead() -> None:
    model = text.Transformer().eval()
    symbols = torch.randint(text.SYMBOLS, (1, text.CONTEXT))
    changed = symbols.clone()
    changed[0, 40:] = (changed[0, 40:] + 1) % text.SYMBOLS
    before, after = model(symbols), model(changed)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


def test_attention_equals_the_fused_one_of_torch() -> None:
    block = text.Block(width=8, heads=2).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    query, key, value = (
        part.reshape(3, 5, 2, 4).transpose(1, 2) for part in block.query_key_value(x).split(8, -1)
    )
    fused = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = block.attention_out(fused.transpose(1, 2).reshape(3, 5, 8))
    assert torch.allclose(block.attention(x), expected, atol=1e-12)


def test_the_adding_problem_adds_the_two_marked_numbers() -> None:
    sequences, sums = tensors(find("adding").splits.train)
    numbers, marks = sequences.unbind(-1)
    assert torch.equal(marks[:, :25].sum(1), torch.ones(len(marks)))
    assert torch.equal(marks[:, 25:].sum(1), torch.ones(len(marks)))
    assert torch.allclose((numbers * marks).sum(1), sums)
    assert float(sums.var()) == pytest.approx(1 / 6, rel=0.05)  # two uniform numbers


# The wave equation


def test_a_wave_is_dalemberts() -> None:
    """u(x, t) = dx / (2 c) times the integral of the source up to t - abs(x) / c.

    The integral of (1 - 2 a) exp(-a) is (t - t0) exp(-a).
    """
    speed, frequency, source, receivers = 2.0, 4.0, 10, (12, 30, 48)
    velocity = torch.full((wave.CELLS,), speed, dtype=torch.float64)
    shots = wave.shots_at((source,)).double()
    waves = wave.wavefield(velocity, shots, wave.ricker(frequency).double())[:, 0]

    time = torch.arange(1, wave.TIME_STEPS + 1, dtype=torch.float64) * wave.TIME_STEP
    for receiver in receivers:
        late = time - abs(receiver - source) * wave.CELL / speed - 1.2 / frequency
        pulse = late * torch.exp(-((math.pi * frequency * late) ** 2))
        expected = wave.CELL / (2 * speed) * pulse
        assert (waves[:, receiver] - expected).abs().max() < 0.05 * expected.max()
        assert abs(int(waves[:, receiver].argmax()) - int(expected.argmax())) <= 1


def test_waves_leave_at_both_ends() -> None:
    velocity = torch.full((wave.CELLS,), 3.0, dtype=torch.float64)
    shots = wave.shots_at((20,)).double()
    waves = wave.wavefield(velocity, shots, wave.ricker(8.0).double())[:, 0]
    # the pulse has passed the farther end, 0.6 km away, after 0.2 s and its own 0.3 s
    assert waves[140:].abs().max() < 0.01 * waves.abs().max()


def test_a_layer_reflects_by_its_contrast() -> None:
    """The displacement's reflection coefficient at a step from c1 to c2 is (c2 - c1) / (c2 + c1).

    For u_tt = c^2 u_xx, u and u_x are continuous; the sign is that of a wave on a string.
    """
    velocity = torch.full((wave.CELLS,), 2.0, dtype=torch.float64)
    shots = wave.shots_at((2,)).double()
    source = wave.ricker(6.0).double()
    plain = wave.wavefield(velocity, shots, source)[:, 0, 2]
    layered = wave.wavefield(
        torch.where(torch.arange(wave.CELLS) < 25, 2.0, 3.0).double(), shots, source
    )[:, 0, 2]
    reflected = layered - plain
    assert float(reflected.max() / plain.max()) == pytest.approx((3 - 2) / (3 + 2), rel=0.1)


def test_the_gradient_of_the_misfit_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    shots = wave.shots_at(wave.TRAIN_SHOTS).double()
    recorded = wave.seismograms(wave.true_velocity().double(), shots, 12.0)

    def misfit(velocity: Tensor) -> Tensor:
        return wave.relative_misfit(wave.seismograms(velocity, shots, 12.0), recorded)

    start = torch.linspace(1.6, 2.6, wave.CELLS, dtype=torch.float64)
    gradient = torch.func.grad(misfit)(start)
    for _ in range(3):
        direction = torch.randn_like(start)
        h = 1e-6
        slope = (misfit(start + h * direction) - misfit(start - h * direction)) / (2 * h)
        assert float(gradient @ direction) == pytest.approx(float(slope), rel=1e-6)


def downhill_share(frequency: float) -> float:
    """Of the grounds that are too slow or too fast: the share from which the truth is downhill."""
    truth, shots = wave.true_velocity(), wave.shots_at(wave.TRAIN_SHOTS)
    recorded = wave.seismograms(truth, shots, frequency)
    scales = torch.linspace(0.6, 1.4, 17)
    misfits = torch.stack(
        [
            wave.relative_misfit(wave.seismograms(scale * truth, shots, frequency), recorded)
            for scale in scales
        ]
    )
    assert int(misfits.argmin()) == 8  # the true scale
    away_from_truth = torch.cat([misfits[:9].flip(0).diff(), misfits[8:].diff()])
    return float((away_from_truth > 0).float().mean())


def test_cycle_skipping_shows_at_high_frequency_only() -> None:
    assert downhill_share(3.0) == 1.0
    assert downhill_share(12.0) < 0.8


@pytest.mark.parametrize("frequency", [0.5, 13.0, math.nan])
def test_a_frequency_the_grid_cannot_carry_is_refused(frequency: float) -> None:
    with pytest.raises(UserError, match="needs a frequency from 1 to 12 Hz"):
        wave.waveform(frequency)


# Landscapes


def curvatures(height: land.Height, x: float, y: float) -> Tensor:
    return torch.linalg.eigvalsh(hessian(height)(torch.tensor([x, y], dtype=torch.float64)))


@pytest.mark.parametrize(
    ("height", "minima"),
    [
        (land.ravine, [(0, 0)]),
        (land.rotated_ravine, [(0, 0)]),
        (land.rosenbrock, [(1, 1)]),
        (land.saddle, [(0, -1), (0, 1)]),
        (land.cliff, [(0, 0)]),
    ],
)
def test_each_landscape_is_lowest_at_height_0(
    height: land.Height, minima: list[tuple[float, float]]
) -> None:
    axis = torch.linspace(-2, 2, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    heights = height(grid)
    assert heights.shape == (41 * 41,)
    assert heights.min() > -1e-15
    for x, y in minima:
        point = torch.tensor([x, y], dtype=torch.float64)
        assert float(height(point)) == pytest.approx(0, abs=1e-15)
        assert grad(height)(point).abs().max() < 1e-14
        assert curvatures(height, x, y).min() > 0


@pytest.mark.parametrize("height", [land.ravine, land.rotated_ravine])
def test_both_ravines_have_condition_number_100(height: land.Height) -> None:
    assert curvatures(height, 0.3, -0.2).tolist() == pytest.approx([1, 100])


def test_only_the_rotated_ravine_lies_across_the_axes() -> None:
    point = torch.zeros(2, dtype=torch.float64)
    assert hessian(land.ravine)(point)[0, 1] == 0
    assert float(hessian(land.rotated_ravine)(point)[0, 1]) == pytest.approx((1 - 100) / 2)


def test_both_ravines_start_at_the_same_height() -> None:
    torch.manual_seed(0)
    heights = [
        torch.stack([find(name).model()(torch.zeros(1, 1))[0].detach() for _ in range(100)]).mean()
        for name in ("ravine", "ravine-rotated")
    ]
    assert float(heights[0]) == pytest.approx(float(heights[1]), rel=0.1)


def test_rosenbrocks_curvatures_at_its_minimum() -> None:
    # the Hessian there is [[802, -400], [-400, 200]]
    middle, radius = 501, math.sqrt(301**2 + 400**2)
    assert curvatures(land.rosenbrock, 1, 1).tolist() == pytest.approx(
        [middle - radius, middle + radius]
    )


def test_the_saddle_curves_down_one_way_and_up_the_other() -> None:
    assert grad(land.saddle)(torch.zeros(2)).tolist() == [0, 0]
    assert curvatures(land.saddle, 0, 0).tolist() == pytest.approx([-1, 1])


def test_the_cliff_is_a_flat_slope_and_a_wall() -> None:
    slope = grad(land.cliff)
    assert float(slope(torch.tensor([-4.0, 0.0]))[0]) == pytest.approx(-0.1)
    assert float(slope(torch.tensor([1.0, 0.0]))[0]) == pytest.approx(math.exp(10) / 10, rel=1e-4)


@pytest.mark.parametrize("name", ["ravine", "ravine-rotated", "rosenbrock", "saddle", "cliff"])
def test_the_start_varies_with_the_seed_and_only_with_it(name: str) -> None:
    starts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        starts.append(find(name).model().point.detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


# Metrics of other libraries


@pytest.mark.parametrize(
    ("name", "direction"), [("BinaryAUROC", "max"), ("BinaryHammingDistance", "min")]
)
def test_a_metric_of_torchmetrics_says_which_direction_is_better(name: str, direction: str) -> None:
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    assert linear_task(metric=getattr(torchmetrics, name)()).better == direction


CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])
BY_CLASS = torch.tensor([[2.0, 1, 0], [0, 1, 2], [3, 1, 0], [0, 5, 1], [1, 0, 0], [0, 0, 4]])
TWO = torch.tensor([0, 1, 1, 0, 1, 1])


@pytest.mark.parametrize(
    ("score", "outputs", "targets", "expected"),
    [
        (metrics.r2_score, BY_CLASS[:, :1], CLASSES[:, None].float(), None),
        (metrics.f1_score, BY_CLASS[:, 0] - 1, TWO, metrics.f1_score(TWO, BY_CLASS[:, 0] > 1)),
        (
            metrics.f1_score,
            (BY_CLASS[:, 0] - 1).sigmoid(),
            TWO,
            metrics.f1_score(TWO, BY_CLASS[:, 0] > 1),
        ),
        (
            partial(metrics.f1_score, average="macro"),
            BY_CLASS,
            CLASSES,
            metrics.f1_score(CLASSES, BY_CLASS.argmax(1), average="macro"),
        ),
        (metrics.balanced_accuracy_score, BY_CLASS, CLASSES, 5 / 6),
        (
            metrics.roc_auc_score,
            BY_CLASS[:, :2],
            TWO,
            metrics.roc_auc_score(TWO, BY_CLASS[:, 1] - BY_CLASS[:, 0]),
        ),
        (metrics.mean_absolute_error, BY_CLASS[:, :1], CLASSES.float(), 10 / 6),
    ],
)
def test_functions_of_scikit_learn_are_metrics_as_they_are(
    score: Any, outputs: Tensor, targets: Tensor, expected: float | None
) -> None:
    if expected is None:  # the coefficient of determination is no symmetric function
        residual = (outputs - targets).square().sum()
        expected = float(1 - residual / (targets - targets.mean()).square().sum())
    task = linear_task(metric=score, direction="max")
    assert task.metrics(outputs, targets)["metric"] == pytest.approx(expected, rel=1e-6)
