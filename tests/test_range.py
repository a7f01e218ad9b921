"""Float32 at the ends of its range.

Where PyTorch stays finite, or the rule's own run in float64 where PyTorch has no such optimizer,
every way to take a step stays finite too, and near to it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from test_fuse import CHAINS
from test_sums import neighbours
from thalweg import optim, recipes
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain

MAGNITUDES = [1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e19, 3e19, 1e20]
STEPS = 20

ways = pytest.mark.parametrize("backend", ["numba", "eager"])


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def at_one_magnitude(magnitude: float) -> Tensor:
    """Gradients of this size at every step, `[STEPS, 6]`, each of which mostly keeps its sign."""
    return (magnitude * (1 + 0.3 * drawn(STEPS, 6))).float()


def at_all_magnitudes() -> Tensor:
    """Elements that each keep to one magnitude, and others that go through all, in one tensor."""
    steady = [at_one_magnitude(magnitude) for magnitude in MAGNITUDES]
    places = torch.randint(len(MAGNITUDES), (STEPS, 64), generator=torch.Generator().manual_seed(1))
    varying = torch.tensor(MAGNITUDES, dtype=torch.float64)[places] * drawn(STEPS, 64)
    return torch.cat([*steady, varying.float()], dim=1)


def path(optimizer: torch.optim.Optimizer, gradients: Tensor) -> Tensor:
    """The parameter after each step."""
    (param,) = optimizer.param_groups[0]["params"]
    points = []
    for gradient in gradients:
        param.grad = gradient.to(param.dtype)
        optimizer.step()
        points.append(param.detach().clone())
    return torch.stack(points)


def zeros(gradients: Tensor, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A parameter that starts at 0, where no digit of a small step is lost."""
    return [torch.zeros(gradients.shape[1:], dtype=dtype, requires_grad=True)]


def recipe_path(recipe: Recipe, gradients: Tensor, backend: str) -> Tensor:
    return path(Optimizer(zeros(gradients), recipe, backend=backend), gradients)


def in_float64(recipe: Recipe, gradients: Tensor) -> Tensor:
    params = zeros(gradients, torch.float64)
    return path(Optimizer(params, recipe, backend="eager"), gradients).float()


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    """Near, relative to the largest value that each element has had so far."""
    finite = theirs.isfinite()
    assert ours[finite].isfinite().all()
    scale = theirs.where(finite, 0.0).abs().cummax(0).values
    apart = (ours - theirs).abs().where(finite, 0.0)
    assert (apart <= 1e-5 * scale).all()


TORCH: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.2}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    *[
        (name, settings | eps)
        for name, settings in (
            ("Adagrad", {}),
            ("RMSprop", {}),
            ("RMSprop", {"momentum": 0.8}),
            ("RMSprop", {"centered": True}),
            ("RMSprop", {"centered": True, "momentum": 0.8}),
            ("Adadelta", {}),
            ("Adam", {}),
            ("Adam", {"amsgrad": True}),
            ("Adam", {"weight_decay": 0.1}),
            ("AdamW", {}),
            ("NAdam", {}),
        )
        for eps in ({}, {"eps": 1e-30}, {"eps": 1e-50}, {"eps": 0.0})
    ],
]


@ways
@pytest.mark.parametrize(("name", "settings"), TORCH, ids=str)
def test_a_step_is_finite_where_pytorchs_is(
    name: str, settings: dict[str, Any], backend: str
) -> None:
    gradients = at_all_magnitudes()
    # PyTorch's loop over tensors corrects NAdam's second moment before the root, and overflows.
    theirs = getattr(torch.optim, name)(zeros(gradients), foreach=name == "NAdam", **settings)
    ours = getattr(optim, name)(zeros(gradients), **settings)
    ours.backend = backend
    assert_near(path(ours, gradients), path(theirs, gradients))


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


BETAS = powers(-15, -0.1).map(lambda rest: 1 - rest)


@given(
    gradients=st.lists(
        st.tuples(st.sampled_from([-1, 1]), powers(-30, 20)), min_size=1, max_size=8
    ),
    lr=powers(-30, 20),
    betas=st.tuples(BETAS, BETAS),
    eps=st.one_of(st.just(0.0), powers(-320, 5)),
    amsgrad=st.booleans(),
    backend=st.sampled_from(["numba", "eager"]),
)
def test_adam_is_pytorchs_at_settings_of_any_size(
    gradients: list[tuple[int, float]], backend: str, **settings: Any
) -> None:
    column = torch.tensor([[sign * size] for sign, size in gradients])
    theirs = torch.optim.Adam(zeros(column), foreach=False, **settings)
    ours = optim.Adam(zeros(column), **settings)
    ours.backend = backend
    assert_near(path(ours, column), path(theirs, column))


@ways
@pytest.mark.parametrize("name", ["momentum", "nesterov", "delta-bar-delta", "lion"])
def test_a_step_is_finite_where_it_is_in_float64(name: str, backend: str) -> None:
    gradients = at_all_magnitudes()
    assert_near(recipe_path(CHAINS[name], gradients, backend), in_float64(CHAINS[name], gradients))


def clipped(recipe: Recipe, gradients: Tensor, way: str) -> Tensor:
    """The parameter after each step of one that is alone, or of the second of two in a stack."""
    if way != "stacked":
        return recipe_path(recipe, gradients, way)
    # An exact window has no kernel, so that its stack is stepped eagerly.
    params, points = torch.zeros(2, gradients.shape[1]), []
    rows = neighbours([chain(recipe, recipes.tail_average(last=3))] * 2, {"x": params})
    for gradient in gradients:
        rows.step({"x": params}, {"x": torch.stack([torch.zeros_like(gradient), gradient])})
        points.append(params[1].clone())
    return torch.stack(points)


@pytest.mark.parametrize("way", ["numba", "eager", "stacked"])
@pytest.mark.parametrize("max_norm", [0.0, 1e-10, 1.0, 1e10])
@pytest.mark.parametrize("magnitude", [0.0, *MAGNITUDES])
def test_a_norm_of_huge_or_tiny_numbers_clips_as_in_float64(
    magnitude: float, max_norm: float, way: str
) -> None:
    gradients = at_one_magnitude(magnitude)
    recipe = CHAINS["clip by norm of decayed gradients"].replace(max_norm=max_norm)
    expected = in_float64(recipe, gradients)
    assert expected.isfinite().all()
    assert_near(clipped(recipe, gradients, way), expected)


@ways
@pytest.mark.parametrize("clip_value", [1e-30, 1e20])
def test_any_number_clips_by_value(clip_value: float, backend: str) -> None:
    recipe = CHAINS["clip by value, tail average"].replace(clip_value=clip_value)
    gradients = at_all_magnitudes()
    alone = torch.optim.Adam(zeros(gradients))
    expected = path(alone, gradients.clamp(-clip_value, clip_value))
    assert_near(recipe_path(recipe, gradients, backend), expected)


AVERAGES = {
    "tail": CHAINS["clip by value, tail average"],
    "window": chain(recipes.sgd(), recipes.tail_average(last=3)),
    "block": CHAINS["block average"],
    "exponential": CHAINS["exponential average"],
}


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@ways
@pytest.mark.parametrize("name", AVERAGES)
def test_the_average_of_equal_iterates_is_the_iterate(name: str, backend: str) -> None:
    start = torch.tensor([-3e38, 1e37, 1.0, 1e-30])
    param = start.clone().requires_grad_()
    optimizer = Optimizer([param], AVERAGES[name], backend=backend)
    for _ in range(8):
        param.grad = torch.zeros(4)
        optimizer.step()
        with optimizer.evaluation():
            torch.testing.assert_close(param.detach(), start, rtol=1e-5, atol=0)
