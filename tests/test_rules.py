"""Each rule against its formula, written again in numpy without sight of the package's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from torch import Tensor

from thalweg import recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain
from thalweg.rules.rule import Rule

STEPS = 50
SHAPES = [(), (7,), (3, 4), (2, 3, 1, 2)]

RULES = list(rules.RULES.values())
AVERAGES = [rule for rule in RULES if rule.place == "last"]

Gradient = Callable[[ndarray, int], ndarray]


def gradient(theta: ndarray, i: int) -> ndarray:
    """Of a bowl with flat sides, and a noise that the step's number draws."""
    noise = np.random.default_rng(i).normal(size=theta.shape)
    return np.tanh(theta - 1.0) + 0.1 * theta + 0.3 * noise


def label(part: Any) -> str:
    """What tells one case from the others, the same in every process."""
    return "" if callable(part) else str(part)[:50]


def start(shape: tuple[int, ...]) -> ndarray:
    return np.asarray(np.random.default_rng(99).normal(size=shape))


def stepped(
    recipe: Recipe, shape: tuple[int, ...], steps: int = STEPS
) -> Iterator[tuple[Tensor, Optimizer]]:
    """The parameter and its optimizer after each step."""
    param = torch.tensor(start(shape), requires_grad=True)
    optimizer = Optimizer([param], recipe)
    for i in range(steps):
        param.grad = torch.as_tensor(gradient(param.detach().numpy(), i))
        optimizer.step()
        yield param, optimizer


def at_evaluation(recipe: Recipe, shape: tuple[int, ...], steps: int = STEPS) -> list[ndarray]:
    """The parameter that evaluation uses after each step."""
    thetas = []
    for param, optimizer in stepped(recipe, shape, steps):
        with optimizer.evaluation():
            thetas.append(param.detach().numpy().copy())
    return thetas


# The formulas. Each takes the start and gives theta after every step.


def sgd(theta: ndarray, lr: float) -> Iterator[ndarray]:
    for i in range(STEPS):
        theta = theta - lr * gradient(theta, i)
        yield theta


def heavy_ball(
    theta: ndarray, alpha: Callable[[int], float], gamma: Callable[[int], float]
) -> Iterator[ndarray]:
    v = np.zeros_like(theta)
    for i in range(STEPS):
        v = gamma(i) * v - alpha(i) * gradient(theta, i)
        theta = theta + v
        yield theta


def look_ahead(
    theta: ndarray, alpha: Callable[[int], float], gamma: Callable[[int], float]
) -> Iterator[ndarray]:
    v = np.zeros_like(theta)
    for i in range(STEPS):
        v = gamma(i) * v - alpha(i) * gradient(theta + gamma(i) * v, i)
        theta = theta + v
        yield theta


def torch_momentum(
    theta: ndarray, lr: float, momentum: float, dampening: float, nesterov: bool
) -> Iterator[ndarray]:
    b = None
    for i in range(STEPS):
        g = gradient(theta, i)
        b = g if b is None else momentum * b + (1 - dampening) * g
        theta = theta - lr * (g + momentum * b if nesterov else b)
        yield theta


def jacobs(
    theta: ndarray, rate: float, kappa: float, phi: float, smoothing: float
) -> Iterator[ndarray]:
    """Jacobs 1988, weight by weight."""
    shape, weights = theta.shape, theta.flatten().tolist()
    rates, bars = [rate] * len(weights), [0.0] * len(weights)
    for i in range(STEPS):
        deltas = gradient(np.array(weights).reshape(shape), i).flatten().tolist()
        for j, delta in enumerate(deltas):
            if bars[j] * delta > 0:
                rates[j] += kappa
            elif bars[j] * delta < 0:
                rates[j] -= phi * rates[j]
            weights[j] -= rates[j] * delta
            bars[j] = (1 - smoothing) * delta + smoothing * bars[j]
        yield np.array(weights).reshape(shape)


def adagrad(theta: ndarray, lr: float, decay: float, r: float, delta: float) -> Iterator[ndarray]:
    for i in range(STEPS):
        g = gradient(theta, i)
        r = r + g * g
        theta = theta - lr / (1 + i * decay) * g / (delta + np.sqrt(r))
        yield theta


def rmsprop(
    theta: ndarray, lr: float, rho: float, delta: float, centered: bool, momentum: float
) -> Iterator[ndarray]:
    r = m = b = np.zeros_like(theta)
    for i in range(STEPS):
        g = gradient(theta, i)
        r = rho * r + (1 - rho) * g * g
        m = rho * m + (1 - rho) * g
        b = momentum * b + g / (delta + np.sqrt(r - m * m if centered else r))
        theta = theta - lr * b
        yield theta


def adam(
    theta: ndarray, lr: float, rho1: float, rho2: float, delta: float, largest: bool, decay: float
) -> Iterator[ndarray]:
    v = r = top = np.zeros_like(theta)
    for i in range(STEPS):
        g = gradient(theta, i)
        v = rho1 * v + (1 - rho1) * g
        r = rho2 * r + (1 - rho2) * g * g
        top = np.maximum(top, r) if largest else r
        vh, rh = v / (1 - rho1 ** (i + 1)), top / (1 - rho2 ** (i + 1))
        theta = theta * (1 - lr * decay) - lr * vh / (delta + np.sqrt(rh))
        yield theta


def nadam(
    theta: ndarray, lr: float, beta1: float, beta2: float, eps: float, psi: float
) -> Iterator[ndarray]:
    m = n = np.zeros_like(theta)
    mus = [beta1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in range(1, STEPS + 2)]
    for i in range(STEPS):
        g = gradient(theta, i)
        m = beta1 * m + (1 - beta1) * g
        n = beta2 * n + (1 - beta2) * g * g
        g_part = (1 - mus[i]) * g / (1 - math.prod(mus[: i + 1]))
        m_part = mus[i + 1] * m / (1 - math.prod(mus[: i + 2]))
        theta = theta - lr * (g_part + m_part) / (np.sqrt(n / (1 - beta2 ** (i + 1))) + eps)
        yield theta


def radam(theta: ndarray, lr: float, beta1: float, beta2: float, eps: float) -> Iterator[ndarray]:
    m = v = np.zeros_like(theta)
    r_inf = 2 / (1 - beta2) - 1
    for t in range(1, STEPS + 1):
        g = gradient(theta, t - 1)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        r = r_inf - 2 * t * beta2**t / (1 - beta2**t)
        step = lr * m / (1 - beta1**t)
        if r > 5:
            rect = math.sqrt((r - 4) * (r - 2) * r_inf / ((r_inf - 4) * (r_inf - 2) * r))
            step = step * rect * math.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
        theta = theta - step
        yield theta


def lamb(
    theta: ndarray, lr: float, beta1: float, beta2: float, eps: float, decay: float
) -> Iterator[ndarray]:
    m = v = np.zeros_like(theta)
    for t in range(1, STEPS + 1):
        g = gradient(theta, t - 1)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + decay * theta
        size, length = np.sqrt((theta * theta).sum()), np.sqrt((u * u).sum())
        theta = theta - lr * (size / length if size > 0 < length else 1.0) * u
        yield theta


def adadelta(theta: ndarray, lr: float, rho: float, eps: float) -> Iterator[ndarray]:
    q = s = np.zeros_like(theta)
    for i in range(STEPS):
        g = gradient(theta, i)
        q = rho * q + (1 - rho) * g * g
        d = np.sqrt(s + eps) / np.sqrt(q + eps) * g
        s = rho * s + (1 - rho) * d * d
        theta = theta - lr * d
        yield theta


def lion(theta: ndarray, lr: float, beta1: float, beta2: float) -> Iterator[ndarray]:
    m = np.zeros_like(theta)
    for i in range(STEPS):
        g = gradient(theta, i)
        theta = theta - lr * np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        yield theta


def adafactor(
    theta: ndarray, lr: float, power: float, eps1: float, eps2: float, d: float
) -> Iterator[ndarray]:
    v = np.zeros_like(theta)
    for i in range(STEPS):
        g, beta = gradient(theta, i), 1 - (i + 1.0) ** power
        v = beta * v + (1 - beta) * g**2
        u = g / np.sqrt(np.maximum(v, eps1**2))
        rate = max(eps2, math.sqrt((theta**2).mean())) * min(lr, 1 / math.sqrt(i + 1))
        theta = theta - rate * u / max(1.0, math.sqrt((u**2).mean()) / d)
        yield theta


def clipped_sgd(theta: ndarray, lr: float, limit: float, norm: bool) -> Iterator[ndarray]:
    for i in range(STEPS):
        g = gradient(theta, i)
        length = math.sqrt((g * g).sum())
        g = g * min(1.0, limit / length) if norm else np.clip(g, -limit, limit)
        theta = theta - lr * g
        yield theta


def decayed_sgd(theta: ndarray, lr: float, decay: float) -> Iterator[ndarray]:
    for i in range(STEPS):
        theta = theta - lr * (gradient(theta, i) + decay * theta)
        yield theta


def constant(value: float) -> Callable[[int], float]:
    return lambda i: value  # noqa: ARG005


Formula = Callable[[ndarray], Iterator[ndarray]]

FORMULAS: list[tuple[list[Rule], Formula]] = [
    ([rules.SGD(lr=0.1)], lambda x: sgd(x, 0.1)),
    (
        [rules.Momentum(lr=0.05, momentum=0.8)],
        lambda x: heavy_ball(x, constant(0.05), constant(0.8)),
    ),
    (
        [rules.Nesterov(lr=0.05, momentum=0.8)],
        lambda x: look_ahead(x, constant(0.05), constant(0.8)),
    ),
    (
        [rules.SGDMomentum(lr=0.05, momentum=0.8, dampening=0.3)],
        lambda x: torch_momentum(x, 0.05, 0.8, 0.3, False),
    ),
    (
        [rules.SGDNesterov(lr=0.05, momentum=0.8)],
        lambda x: torch_momentum(x, 0.05, 0.8, 0.0, True),
    ),
    (
        [rules.DeltaBarDelta(lr=0.02, increase=0.1, decrease=0.2, smoothing=0.6)],
        lambda x: jacobs(x, 0.02, 0.02 * 0.1, 0.2, 0.6),
    ),
    (
        [rules.DeltaBarDelta(lr=0.02, increase=0.1, decrease=0.2, smoothing=0.0)],
        lambda x: jacobs(x, 0.02, 0.02 * 0.1, 0.2, 0.0),
    ),
    (
        [rules.Adagrad(lr=0.1, lr_decay=0.01, initial_accumulator_value=0.2, eps=1e-6)],
        lambda x: adagrad(x, 0.1, 0.01, 0.2, 1e-6),
    ),
    (
        [rules.RMSprop(lr=0.01, alpha=0.9, eps=1e-6)],
        lambda x: rmsprop(x, 0.01, 0.9, 1e-6, False, 0.0),
    ),
    (
        [rules.RMSpropMomentum(lr=0.01, alpha=0.9, eps=1e-6, momentum=0.7)],
        lambda x: rmsprop(x, 0.01, 0.9, 1e-6, False, 0.7),
    ),
    (
        [rules.CenteredRMSprop(lr=0.01, alpha=0.9, eps=1e-6)],
        lambda x: rmsprop(x, 0.01, 0.9, 1e-6, True, 0.0),
    ),
    (
        [rules.CenteredRMSpropMomentum(lr=0.01, alpha=0.9, eps=1e-6, momentum=0.7)],
        lambda x: rmsprop(x, 0.01, 0.9, 1e-6, True, 0.7),
    ),
    (
        [rules.Adam(lr=0.03, betas=(0.8, 0.95), eps=1e-6)],
        lambda x: adam(x, 0.03, 0.8, 0.95, 1e-6, False, 0.0),
    ),
    (
        [rules.AMSGrad(lr=0.03, betas=(0.8, 0.95), eps=1e-6)],
        lambda x: adam(x, 0.03, 0.8, 0.95, 1e-6, True, 0.0),
    ),
    (
        [rules.Adam(lr=0.03, betas=(0.8, 0.95), eps=1e-6), rules.DecoupledDecay(weight_decay=0.4)],
        lambda x: adam(x, 0.03, 0.8, 0.95, 1e-6, False, 0.4),
    ),
    (
        [rules.NAdam(lr=0.03, betas=(0.8, 0.95), eps=1e-6, momentum_decay=0.01)],
        lambda x: nadam(x, 0.03, 0.8, 0.95, 1e-6, 0.01),
    ),
    (
        [rules.RAdam(lr=0.03, betas=(0.8, 0.95), eps=1e-6)],
        lambda x: radam(x, 0.03, 0.8, 0.95, 1e-6),
    ),
    # A mean of so few gradients that none of the steps is divided by it.
    (
        [rules.RAdam(lr=0.03, betas=(0.8, 0.6), eps=1e-6)],
        lambda x: radam(x, 0.03, 0.8, 0.6, 1e-6),
    ),
    (
        [rules.Lamb(lr=0.03, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)],
        lambda x: lamb(x, 0.03, 0.8, 0.95, 1e-6, 0.1),
    ),
    ([rules.Adadelta(lr=0.7, rho=0.8, eps=1e-4)], lambda x: adadelta(x, 0.7, 0.8, 1e-4)),
    ([rules.Lion(lr=0.01, betas=(0.8, 0.95))], lambda x: lion(x, 0.01, 0.8, 0.95)),
    (
        [rules.AdafactorVectors(lr=0.2, beta2_decay=-0.7, eps=(1e-3, 1e-2), d=1.2)],
        lambda x: adafactor(x, 0.2, -0.7, 1e-3, 1e-2, 1.2),
    ),
    (
        [rules.ClipValue(clip_value=0.4), rules.SGD(lr=0.1)],
        lambda x: clipped_sgd(x, 0.1, 0.4, False),
    ),
    (
        [rules.ClipNorm(max_norm=0.4), rules.SGD(lr=0.1)],
        lambda x: clipped_sgd(x, 0.1, 0.4, True),
    ),
    (
        [rules.L2Decay(weight_decay=0.3), rules.SGD(lr=0.1)],
        lambda x: decayed_sgd(x, 0.1, 0.3),
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("parts", "formula"), FORMULAS, ids=label)
def test_a_rule_is_its_formula(parts: list[Rule], formula: Formula, shape: tuple[int, ...]) -> None:
    thetas = at_evaluation(chain(*parts), shape)
    for theta, literal in zip(thetas, formula(start(shape)), strict=True):
        np.testing.assert_allclose(theta, literal, rtol=1e-13, atol=1e-13)


def test_every_rule_of_the_package_is_held_against_a_formula() -> None:
    compared = {type(rule) for parts, _ in FORMULAS for rule in parts}
    drawn = {rules.StochasticRounding}  # held against its odds, in a file of its own
    matrices = {rule for rule in RULES if rule.matrices}  # as they are
    assert compared | set(AVERAGES) | drawn | matrices == set(RULES)


COOLING = schedules.linear(0.08, 0.001, steps=30)
WARMING = schedules.warming(0.5, 0.99, steps=40)


@pytest.mark.parametrize("gamma", [0.9, WARMING], ids=["constant", "warming"])
@pytest.mark.parametrize("alpha", [0.02, COOLING], ids=["constant", "cooling"])
@pytest.mark.parametrize(
    ("rule", "formula"), [(rules.Momentum, heavy_ball), (rules.Nesterov, look_ahead)]
)
def test_momentum_under_schedules(
    rule: type[Rule], formula: Callable[..., Iterator[ndarray]], alpha: Any, gamma: Any
) -> None:
    thetas = at_evaluation(chain(rule(lr=alpha, momentum=gamma)), (5,))
    numbers = (value if callable(value) else constant(value) for value in (alpha, gamma))
    for theta, literal in zip(thetas, formula(start((5,)), *numbers), strict=True):
        np.testing.assert_allclose(theta, literal, rtol=1e-13, atol=1e-13)


def test_nesterov_takes_its_gradients_at_the_look_ahead_point() -> None:
    asked = [start((4,)), *(p.detach().numpy().copy() for p, _ in stepped(NESTEROV, (4,)))]
    theta, v = start((4,)), np.zeros(4)
    for i in range(STEPS):
        point = theta + WARMING(i) * v
        np.testing.assert_allclose(asked[i], point, rtol=1e-13, atol=1e-13)
        v = WARMING(i) * v - COOLING(i) * gradient(point, i)
        theta = theta + v


NESTEROV = recipes.nesterov(lr=COOLING, momentum=WARMING)


def test_decay_acts_on_theta_not_on_the_look_ahead_point() -> None:
    thetas = at_evaluation(recipes.nesterov(lr=0.05, momentum=0.8, weight_decay=0.3), (4,))
    theta, v = start((4,)), np.zeros(4)
    for i in range(STEPS):
        g = gradient(theta + 0.8 * v, i) + 0.3 * theta
        v = 0.8 * v - 0.05 * g
        theta = theta + v
        np.testing.assert_allclose(thetas[i], theta, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_lamb_steps_by_its_rate_where_a_norm_is_zero(backend: str) -> None:
    """From a tensor of zeros it steps as Adam does; along a direction of zeros it stays."""
    params = [torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    params[0].grad, params[1].grad = torch.tensor([2.0, -1.0]), torch.zeros(2)
    Optimizer(params, recipes.lamb(lr=0.1, weight_decay=0.0), backend=backend).step()
    assert params[0].tolist() == pytest.approx([-0.1, 0.1], rel=1e-5)
    assert params[1].tolist() == [1.0, 1.0]


# Averages.


def last_mean(count: Callable[[int], int]) -> Callable[[list[ndarray]], ndarray]:
    """The mean of the last count(i) iterates after i steps; the iterate for a count of 0."""
    return lambda thetas: np.mean(thetas[-max(count(len(thetas)), 1) :], axis=0)


def weighted_mean(decay: Callable[[int], float]) -> Callable[[list[ndarray]], ndarray]:
    """Iterate j of i weighs (1 - decay_j) times all the decays after it."""

    def mean(thetas: list[ndarray]) -> ndarray:
        n = len(thetas)
        weights = [(1 - decay(j)) * math.prod(decay(k) for k in range(j + 1, n)) for j in range(n)]
        return np.average(thetas, axis=0, weights=weights)

    return mean


@pytest.mark.parametrize("recipe", [recipes.momentum(lr=0.05), NESTEROV], ids=lambda r: r.name)
@pytest.mark.parametrize(
    ("average", "mean"),
    [
        (rules.TailAverage(last=9, steps=STEPS), last_mean(lambda i: i - (STEPS - 9))),
        (rules.TailAverage(last=STEPS + 7, steps=STEPS), last_mean(lambda i: i)),
        (rules.WindowAverage(last=9), last_mean(lambda i: 9)),  # noqa: ARG005
        (rules.BlockAverage(last=9), last_mean(lambda i: i if i <= 18 else 10 + (i - 1) % 9)),
        (rules.BlockAverage(last=1), last_mean(lambda i: 2)),  # noqa: ARG005
        (rules.ExponentialAverage(decay=0.8), weighted_mean(constant(0.8))),
        (rules.ExponentialAverage(decay=WARMING), weighted_mean(WARMING)),
    ],
    ids=label,
)
def test_an_average_is_the_mean_of_the_iterates(
    recipe: Recipe, average: Rule, mean: Callable[[list[ndarray]], ndarray]
) -> None:
    iterates = at_evaluation(recipe, (5,))
    averages = at_evaluation(chain(recipe, average), (5,))
    for i in range(STEPS):
        np.testing.assert_allclose(averages[i], mean(iterates[: i + 1]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("average", [recipes.ema(0.9), recipes.tail_average(5)], ids=str)
def test_evaluation_gives_the_iterate_back_bit_for_bit(average: Rule) -> None:
    param, optimizer = list(stepped(chain(NESTEROV, average), (6,)))[-1]
    before = param.detach().clone()
    with pytest.raises(KeyError), optimizer.evaluation():
        assert not torch.equal(param, before)
        raise KeyError
    assert torch.equal(param, before)


def test_evaluation_leaves_training_as_it_was() -> None:
    recipe = chain(NESTEROV, recipes.block_average(4))
    undisturbed = list(stepped(recipe, (6,)))[-1][0]
    for param, optimizer in stepped(recipe, (6,)):
        with optimizer.evaluation():
            param.detach().isfinite()
    assert torch.equal(param, undisturbed)


def test_evaluation_before_the_first_step_is_at_the_start() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = Optimizer([param], chain(NESTEROV, recipes.tail_average(5)))
    with optimizer.evaluation():
        assert torch.equal(param, torch.ones(3))
    assert not optimizer.state


# Clipping.


def taken(parts: list[Rule], grads: list[list[float]]) -> list[list[float]]:
    """The gradients as plain descent with rate 1 takes them, one parameter (and group) for each."""
    params = [torch.zeros(len(g), dtype=torch.float64, requires_grad=True) for g in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.tensor(grad, dtype=torch.float64)
    groups = [{"params": [param]} for param in params]
    Optimizer(groups, chain(*parts, rules.SGD(lr=1.0))).step()
    return [(-param).tolist() for param in params]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_clipping_by_value_bounds_both_sides(grad: list[float], limit: float) -> None:
    assert taken([recipes.clip_value(limit)], [grad]) == [np.clip(grad, -limit, limit).tolist()]


def test_clipping_by_value_lets_a_nan_through() -> None:
    (clipped,) = taken([recipes.clip_value(2.0)], [[math.nan, -math.inf, math.inf, -1e9]])
    assert math.isnan(clipped[0])
    assert clipped[1:] == [-2, 2, -2]


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_clipping_by_norm_is_torchs_over_all_groups(max_norm: float) -> None:
    grads = [[3.0, -4.0], [1.0], [-2.0, 0.0, 5.0]]
    params = [torch.zeros(len(g), dtype=torch.float64) for g in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.tensor(grad, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_(params, max_norm)
    for mine, param in zip(taken([recipes.clip_norm(max_norm)], grads), params, strict=True):
        np.testing.assert_allclose(mine, param.grad, rtol=1e-6)  # PyTorch adds 1e-6 to the norm


def test_clipping_by_norm_leaves_what_is_within_as_it_is() -> None:
    grads = [[0.1, -0.7], [0.0]]
    assert taken([recipes.clip_norm(1.0)], grads) == grads
    assert taken([recipes.clip_norm(1.0)], [[0.0, 0.0]]) == [[0.0, 0.0]]


def test_clipping_by_norm_hides_no_divergence() -> None:
    (clipped,) = taken([recipes.clip_norm(1.0)], [[math.inf, 1.0]])
    assert math.isnan(clipped[0])


@pytest.mark.parametrize("recipe", [recipes.lion(), recipes.delta_bar_delta()], ids=label)
def test_a_sign_lets_a_nan_through(recipe: Recipe) -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.tensor([math.nan, 1.0, 0.0])
    Optimizer([param], recipe).step()
    assert param.isnan().tolist() == [True, False, False]
    assert param[1] < 1 == param[2]


def test_a_constant_gradient_makes_no_negative_variance() -> None:
    param = torch.zeros(200, requires_grad=True)
    optimizer = Optimizer([param], chain(rules.CenteredRMSprop(alpha=0.9)))
    param.grad = torch.linspace(-3, 3, 200)
    for _ in range(200):
        optimizer.step()
    assert param.isfinite().all()


# Bad input.


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rules.SGD(lr=-0.1), "lr must be finite and at least 0, not -0.1."),
        (lambda: rules.SGD(lr=math.nan), "lr must be finite and at least 0, not nan."),
        (lambda: rules.SGD(lr=math.inf), "lr must be finite and at least 0, not inf."),
        (lambda: rules.SGD(lr="fast"), "lr must be a number or a schedule, not 'fast'."),
        (lambda: rules.SGD(lr=True), "lr must be a number or a schedule, not True."),
        (lambda: rules.Momentum(momentum=1.0), "momentum must be at least 0 and below 1, not 1.0."),
        (
            lambda: rules.Momentum(momentum=schedules.linear(0.5, 1.0, steps=10)),
            "momentum must be at least 0 and below 1, not 1.0.",
        ),
        (
            lambda: rules.Momentum(momentum=schedules.one_cycle(1.5, 10)),
            "momentum must be at least 0 and below 1, not 1.5.",
        ),
        (lambda: rules.Adam(betas=(0.9, 1.0)), "betas[1] must be at least 0 and below 1, not 1.0."),
        (lambda: rules.Adam(betas=0.9), "betas must be 2 numbers, not 0.9."),
        (lambda: rules.Adam(betas=(0.9,)), "betas must be 2 numbers, not (0.9,)."),
        (
            lambda: rules.DeltaBarDelta(decrease=2),
            "decrease must be at least 0 and at most 1, not 2.",
        ),
        (
            lambda: rules.Momentum(momentun=0.9),
            "Momentum has no setting momentun; did you mean momentum?",
        ),
        (lambda: rules.Lion(wings=2), "Lion has no setting wings; known are lr, betas."),
        (
            lambda: rules.WindowAverage(last=0),
            "last must be a whole number from 1 to 10000, not 0.",
        ),
        (
            lambda: rules.WindowAverage(last=2.5),
            "last must be a whole number from 1 to 10000, not 2.5.",
        ),
        (lambda: rules.TailAverage(last=3), "TailAverage needs steps, a positive whole number."),
    ],
)
def test_a_bad_setting_gets_one_sentence(make: Callable[[], Rule], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        make()
    assert str(raised.value) == sentence
