"""The functions that rules use, on elements and on numbers of the row, against NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg import recipes, rules
from thalweg.optim import Optimizer
from thalweg.rules.arithmetic import exp, log, maximum, minimum, nearest, sqrt, where
from thalweg.rules.rule import Hyper, Option, Rule, State
from thalweg.rules.space import Space

CPU = torch.device("cpu")

NUMBERS = [-2.5, -1.5, -0.4, -0.0, 0.3, 0.5, 1.5, 2.5, 7.0, np.inf, -np.inf, np.nan]

FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "abs": (abs, np.abs),
    "exp": (exp, np.exp),
    "log": (log, np.log),
    "sqrt": (sqrt, np.sqrt),
    "nearest": (nearest, np.rint),
    "cube": (lambda x: x**3, lambda x: x**3),
    "power": (lambda x: 2**x, lambda x: 2.0**x),
    "remainder": (lambda x: x % 2, lambda x: np.mod(x, 2)),
    "less": (lambda x: where(x < 0.5, 1.0, 2.0), lambda x: np.where(x < 0.5, 1, 2)),
    "at most": (lambda x: where(x <= 0.5, 1.0, 2.0), lambda x: np.where(x <= 0.5, 1, 2)),
    "greater": (lambda x: where(x > 0.5, 1.0, 2.0), lambda x: np.where(x > 0.5, 1, 2)),
    "at least": (lambda x: where(x >= 0.5, 1.0, 2.0), lambda x: np.where(x >= 0.5, 1, 2)),
    "equal": (lambda x: where(x == 0.5, 1.0, 2.0), lambda x: np.where(x == 0.5, 1, 2)),
    "smaller": (lambda x: minimum(x, 0.5), lambda x: np.minimum(x, 0.5)),
    "smaller, turned": (lambda x: minimum(0.5, x), lambda x: np.minimum(0.5, x)),
    "larger": (lambda x: maximum(x, 0.5), lambda x: np.maximum(x, 0.5)),
    "larger, turned": (lambda x: maximum(0.5, x), lambda x: np.maximum(0.5, x)),
}
"""Each with what NumPy makes of the same numbers."""


class OfElements(Rule):
    lr = Hyper(1.0)

    def update(self, g: Any) -> Any:
        for place, (ours, _) in enumerate(FUNCTIONS.values()):
            setattr(self, f"made_{place}", ours(g))
        return g


class OfTheRow(Rule):
    """The same of a setting, which is a number."""

    lr = Hyper(1.0)

    def update(self, g: Any) -> Any:
        for place, (ours, _) in enumerate(FUNCTIONS.values()):
            setattr(self, f"made_{place}", ours(self.lr) + 0.0 * g)
        return g


for each in (OfElements, OfTheRow):
    for place in range(len(FUNCTIONS)):
        setattr(each, f"made_{place}", State())
    each.__init_subclass__()


def after_a_step(rule: Rule, grad: Tensor, backend: str) -> list[np.ndarray]:
    """What each function has made."""
    param = torch.zeros_like(grad).requires_grad_()
    optimizer = Optimizer([param], recipes.chain(rule), backend=backend)
    param.grad = grad
    optimizer.step()
    assert bool(optimizer.kernel_source()) == (backend != "eager")
    kept = optimizer.state[param]
    return [kept[f"made_{place}"].double().cpu().numpy() for place in range(len(FUNCTIONS))]


@pytest.mark.parametrize("backend", ["numba", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functions_of_elements_are_numpys(
    backend: str, dtype: torch.dtype, device: torch.device = CPU
) -> None:
    given = torch.tensor(NUMBERS, dtype=dtype, device=device)
    found = after_a_step(OfElements(), given, backend)
    for name, made in zip(FUNCTIONS, found, strict=True):
        with np.errstate(all="ignore"):
            right = FUNCTIONS[name][1](given.double().cpu().numpy())
        tolerance = 1e-6 if dtype is torch.float32 else 1e-14
        np.testing.assert_allclose(made, right, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("backend", ["numba", "eager"])
@pytest.mark.parametrize("lr", [0.3, 0.5, 2.5])
def test_functions_of_a_setting_are_numpys(
    backend: str, lr: float, device: torch.device = CPU
) -> None:
    ones = torch.ones(2, dtype=torch.float64, device=device)
    found = after_a_step(OfTheRow(lr=lr), ones, backend)
    for name, made in zip(FUNCTIONS, found, strict=True):
        right = FUNCTIONS[name][1](np.float64(lr))
        np.testing.assert_allclose(made, right, rtol=1e-14, err_msg=name)


class Warm(Rule):
    """The smaller of two settings, and a number that is larger than both."""

    lr = Hyper(0.1)
    steps = Option(1)

    def update(self, g: Any) -> Any:
        return -minimum(self.lr, self.t / self.steps) * maximum(0.2, maximum(self.lr, 0.0)) * g


@pytest.mark.parametrize("backend", ["numba", "eager"])
def test_the_smaller_and_the_larger_of_two_numbers(backend: str) -> None:
    param = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = Optimizer([param], recipes.chain(Warm(lr=0.5, steps=4)), backend=backend)
    rates = []
    for _ in range(3):
        before = param.detach().clone()
        param.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
        rates.append(float((before - param.detach())[0]))
    assert rates == pytest.approx([0.5 * rate for rate in (0.25, 0.5, 0.5)])


def test_a_logarithm_of_two_ends_is_a_space() -> None:
    assert log(1e-3, 1.0) == Space(1e-3, 1.0, "log")


def test_a_decision_of_pythons_own_on_elements_is_left_to_eager_arithmetic() -> None:
    class Deciding(Rule):
        lr = Hyper(0.1)

        def update(self, g: Any) -> Any:
            return -self.lr * (g if self.lr < 1 else 2 * g)

    param = torch.zeros(1)
    assert not Optimizer([param], recipes.chain(Deciding())).kernel_source()
    assert Optimizer([param], recipes.chain(rules.SGD())).kernel_source()
