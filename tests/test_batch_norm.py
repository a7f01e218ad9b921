"""Batch normalization: PyTorch's numbers, gradients and checkpoints, alone, stacked, shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from test_distributed import WORLD, in_two_processes
from test_stack import lone_training, relative
from thalweg import recipes
from thalweg.errors import UserError
from thalweg.nn import BatchNorm
from thalweg.stack.member import Member
from thalweg.stack.stacked import Stacked
from thalweg.stack.way import way_of
from thalweg.tasks import Data, Task

SHAPES = {(8, 3): nn.BatchNorm1d, (4, 3, 5): nn.BatchNorm1d}
SHAPES |= {(4, 3, 2, 5): nn.BatchNorm2d, (2, 3, 2, 1, 3): nn.BatchNorm3d}


def batches(*shape: int, count: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Their channels differ in mean and in spread."""
    generator = torch.Generator().manual_seed(0)
    channels = torch.arange(1.0, 1 + shape[1]).view(-1, *[1] * (len(shape) - 2))
    drawn = (torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(count))
    return [(x * channels + 2 * channels).to(dtype) for x in drawn]


def learned(layer: nn.Module) -> Any:
    """The layer in float64, with a gamma and a beta that change something."""
    with torch.no_grad():
        for param, first in zip(layer.parameters(), (0.5, -1.0), strict=False):
            param.copy_(first + torch.arange(len(param)))
    return layer.double()


# --- PyTorch's ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": None},
        {"momentum": 0.3, "eps": 0.5},
        {"affine": False},
        {"bias": False, "momentum": None},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_numbers_gradients_and_checkpoints_are_pytorchs(
    shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    ours, theirs = learned(BatchNorm(3, **settings)), learned(SHAPES[shape](3, **settings))
    for x in batches(*shape):
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = ours(mine), theirs(other)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        for output in (y, expected):
            output.pow(3).sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-10)
    for param, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(param.grad, expected.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)
    x = batches(*shape)[0]
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)
    crossed = BatchNorm(3, **settings).double(), SHAPES[shape](3, **settings).double()
    crossed[0].load_state_dict(theirs.state_dict())
    crossed[1].load_state_dict(ours.state_dict())
    for layer in crossed:
        torch.testing.assert_close(layer.eval()(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_the_formula() -> None:
    layer = learned(BatchNorm(3, eps=0.25))
    (a,) = batches(8, 3, count=1)
    mu = a.mean(0)
    sigma = (0.25 + (a - mu).square().mean(0)).sqrt()
    torch.testing.assert_close(layer(a), layer.weight * (a - mu) / sigma + layer.bias)
    torch.testing.assert_close(layer.running_mean, 0.1 * mu)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * a.var(0, correction=1))


def test_the_plain_running_mean_is_that_of_all_batches() -> None:
    layer = BatchNorm(3, momentum=None).double()
    seen = batches(8, 3, count=5)
    for x in seen:
        layer(x)
    torch.testing.assert_close(layer.running_mean, torch.cat(seen).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var(0) for x in seen]).mean(0))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("mode", ["training", "evaluation", "frozen"])
def test_first_and_second_derivatives(mode: str, momentum: float | None) -> None:
    layer = learned(BatchNorm(3, momentum=momentum))
    layer(batches(8, 3)[1])
    layer.train(mode != "evaluation")
    if mode == "frozen":
        layer.freeze()
    (x,) = batches(4, 3, 2, count=1)
    inputs = (x.requires_grad_(), *(p.detach().requires_grad_() for p in layer.parameters()))

    def normalized(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert gradcheck(normalized, inputs)
    assert gradgradcheck(normalized, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_half_precision_is_taken_as_pytorch_takes_it(
    dtype: torch.dtype, momentum: float | None
) -> None:
    ours, theirs = BatchNorm(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    for layer in (ours, theirs):
        layer.to(dtype)
    for x in batches(8, 3, dtype=torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0.02, atol=0.02)


# --- frozen statistics, and inputs that cannot be used ---


def test_frozen_statistics_normalize_in_training_and_stay() -> None:
    model = nn.Sequential(learned(BatchNorm(3)))
    first, second, third = batches(8, 3)
    model(first)
    before = {name: x.clone() for name, x in model[0].named_buffers()}
    expected = model.eval()(second)
    model[0].freeze()
    found = model.train()(second)
    assert torch.equal(found, expected)
    assert {name: x.tolist() for name, x in model[0].named_buffers()} == {
        name: x.tolist() for name, x in before.items()
    }
    found.sum().backward()
    assert model[0].weight.grad.abs().min() > 0
    model[0].freeze(False)
    assert not torch.equal(model.train()(third), model.eval()(third))


def test_thawing_in_evaluation_changes_nothing_yet() -> None:
    layer = BatchNorm(3).eval().freeze().freeze(False)
    assert not layer.training
    assert layer.train().training


def test_without_running_statistics_there_is_nothing_to_freeze() -> None:
    with pytest.raises(UserError, match="track_running_stats=False has no statistics to keep"):
        BatchNorm(3, track_running_stats=False).freeze()


@pytest.mark.parametrize("shape", [(3,), (8, 4), (8, 5, 3)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError) as told:
        BatchNorm(3)(torch.zeros(shape))
    assert str(told.value) == (
        f"BatchNorm(3) takes inputs [N, 3, ...], not of shape {list(shape)}."
    )


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"track_running_stats": False}])
def test_a_batch_of_one_value_is_refused_with_what_to_do(settings: dict[str, Any]) -> None:
    layer = BatchNorm(3, **settings)
    sentence = r"shape \[1, 3, 1\], which has one value for each channel; give batches of two .*\.$"
    with pytest.raises(UserError, match=sentence):
        layer(torch.zeros(1, 3, 1))
    layer(torch.zeros(1, 3, 2))
    if layer.track_running_stats:
        assert layer.num_batches_tracked == 1
        layer.freeze()(torch.zeros(1, 3))


# --- in a stack ---


def convolutions(momentum: float | None) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 2, bias=False),
        BatchNorm(3, momentum=momentum),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(9, 4),
        BatchNorm(4, momentum=momentum).freeze(),
        nn.Linear(4, 1),
    ).double()


def signals(momentum: float | None) -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 2, 4, generator=generator, dtype=torch.float64)
    split = (x, x.prod(1).sum(1, keepdim=True))
    data = Data(split, split, split)
    model, loss = lambda: convolutions(momentum), F.mse_loss
    return Task("signals", model, lambda: data, loss, batch_size=8, steps=10)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_stacked_member_is_the_lone_model(momentum: float | None) -> None:
    task = signals(momentum)
    assert way_of(task) == ("stacked", "")
    averaged = recipes.chain(recipes.adam(lr=0.01), recipes.ema(0.9))
    members = [Member(recipe, seed) for seed, recipe in enumerate((recipes.adam(), averaged))]
    stack = Stacked(task, members, width=2)
    for step in range(20):
        stack.step()
        if step % 5 == 4:
            stack.observe([step] * 2, [step] * 2)
    with stack.evaluation():
        outputs = [output for output, _ in stack.outputs(task.splits.validation)]
    for place, member in enumerate(members):
        alone, alone_outputs = lone_training(task, member)
        state = stack.state_dict(place)
        assert state["1.num_batches_tracked"] == 20
        assert state["5.num_batches_tracked"] == 0
        assert max(relative(state[name].double(), x.double()) for name, x in alone.items()) < 1e-9
        assert relative(outputs[place], alone_outputs) < 1e-9


# --- in several processes ---


def small_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 3, 2, bias=False),
        BatchNorm(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(9, 4),
        BatchNorm(4, momentum=None, affine=False),
        nn.Linear(4, 1),
        BatchNorm(1, track_running_stats=False, bias=False),
    ).to(dtype)


def shares(rank: int | None, step: int) -> Tensor:
    """A whole batch, or the half of it that a process has."""
    generator = torch.Generator().manual_seed(step)
    batch = torch.randn(8, 2, 4, generator=generator, dtype=torch.float64)
    return batch if rank is None else batch.chunk(WORLD)[rank]


def steps(model: nn.Module, rank: int | None) -> dict[str, Tensor]:
    """Three steps, and what they leave: outputs, gradients, parameters and buffers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        x = shares(rank, step).requires_grad_()
        y = model(x)
        (y - x.detach().prod(1).sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    gradients = {f"gradient of {n}": p.grad for n, p in inner.named_parameters()}
    assert x.grad is not None
    found = {"output": y.detach(), "gradient of the input": x.grad, **gradients}
    return {name: tensor for name, tensor in found.items() if tensor is not None} | {
        name: tensor.clone() for name, tensor in inner.state_dict().items()
    }


def shared(rank: int, _: Path) -> dict[str, Any]:
    uneven = learned(BatchNorm(3))
    (x,) = batches(7, 3, 2, count=1)
    mine = (x[:5], x[5:])[rank].requires_grad_()
    y = uneven(mine)
    y.pow(3).sum().backward()
    second = BatchNorm(3).double()
    at = x[:3].clone().requires_grad_()
    return {
        "steps": steps(DistributedDataParallel(small_model()), rank),
        "uneven": (y.detach(), mine.grad, uneven.running_var),
        "second": gradgradcheck(second, (at,)),
        "one each": BatchNorm(3)(torch.full((1, 3), float(rank))).detach(),
        "half": BatchNorm(3)(batches(8, 3, dtype=torch.bfloat16)[0].chunk(WORLD)[rank]).detach(),
        "evaluation": learned(BatchNorm(3)).eval()(x[:1]).detach(),
    }


def test_two_processes_normalize_by_their_joint_batch(tmp_path: Path) -> None:
    found = in_two_processes(shared, tmp_path)
    expected = steps(small_model(), None)
    assert found["steps"].keys() == expected.keys()
    for name, x in found["steps"].items():
        share = expected[name]
        if name in ("output", "gradient of the input"):
            share = share.chunk(WORLD)[0] * (WORLD if name != "output" else 1)
        torch.testing.assert_close(x, share, rtol=1e-9, atol=1e-12, msg=name)

    alone = learned(BatchNorm(3))
    (x,) = batches(7, 3, 2, count=1)
    x.requires_grad_()
    y = alone(x)
    y.pow(3).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(found["uneven"], (y[:5].detach(), x.grad[:5], alone.running_var))
    assert found["second"]
    # mean 1/2 and deviations of 1/2 either way
    torch.testing.assert_close(found["one each"], torch.full((1, 3), -1.0), rtol=1e-4, atol=0)
    whole = BatchNorm(3)(batches(8, 3, dtype=torch.bfloat16)[0])
    assert found["half"].dtype == torch.bfloat16
    torch.testing.assert_close(found["half"], whole[:4].detach(), rtol=0.01, atol=0.01)
    expected_alone = learned(BatchNorm(3)).eval()(x[:1]).detach()
    torch.testing.assert_close(found["evaluation"], expected_alone)
