"""What the doctor's instruments take beside those of others.

    pip install -e '.[benchmarks]'
    python benchmarks/doctor.py

The largest eigenvalue of the Hessian, to one per cent by each side's own tolerance, of the `digits`
perceptron on all its training data: at the initial weights, and after some epochs. The sides take
turns, so that each ratio compares neighbours in time; what each finds is held against the value to
nine digits. PyHessian's tolerance is of the change from one iteration to the next, and is tried at
a tenth too. A side that is not installed is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from machine import save, spread
from thalweg.doctor import Hessian, Objective, extremes
from thalweg.stack.batches import fetch, training_order
from thalweg.stack.population import initial_model
from thalweg.tasks import find

DIGITS = find("digits")
BATCH = tuple(DIGITS.splits.train.tensors)
TOLERANCE = 0.01
ROUNDS = 15
EPOCHS = (0, 1, 12)
US = "thalweg"


class Found(NamedTuple):
    """The eigenvalue that a side gives, and the products that it made."""

    value: float
    products: int


Side = Callable[[nn.Module], Found]


def thalweg(model: nn.Module) -> Found:
    hessian = Hessian(Objective(model, DIGITS.loss, [BATCH]))
    found = extremes(hessian, ends=["highest"], tolerance=TOLERANCE)
    return Found(found.highest.value, found.products)


def curvlinops(model: nn.Module) -> Found:
    """Its operator, with SciPy's Lanczos for the algebraically largest."""
    from curvlinops import HessianLinearOperator

    params = list(model.parameters())
    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), params, [BATCH], check_deterministic=False
    ).to_scipy()
    count = 0

    def product(vector: Any) -> Any:
        nonlocal count
        count += 1
        return operator @ vector

    counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
    (value,) = eigsh(counted, k=1, which="LA", tol=TOLERANCE, return_eigenvectors=False)
    return Found(float(value), count)


def pyhessian(model: nn.Module, tolerance: float = TOLERANCE) -> Found:
    """Its power iteration, which ends where two values in turn are within the tolerance."""
    import pyhessian

    within = sys.modules["pyhessian.hessian"]
    original, count = within.hessian_vector_product, 0

    def product(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return original(*arguments)

    within.hessian_vector_product = product
    try:
        looking = pyhessian.hessian(model, DIGITS.loss, data=BATCH, cuda=False)
        (value,), _ = looking.eigenvalues(maxIter=1000, tol=tolerance)
    finally:
        within.hessian_vector_product = original
    return Found(value, count)


def gradient(model: nn.Module) -> Found:
    """The unit of time: forward and backward."""
    model.zero_grad()
    DIGITS.loss(model(BATCH[0]), BATCH[1]).backward()
    return Found(0.0, 0)


def installed(sides: dict[str, Side]) -> dict[str, Side]:
    """The sides that can run here; what the others lack is said."""
    able = {}
    for name, side in sides.items():
        try:
            side(trained(0))
            able[name] = side
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return able


def trained(epochs: int) -> nn.Module:
    """The perceptron after so many epochs of PyTorch's Adam."""
    model = initial_model(DIGITS, seed=0)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=3e-3), training_order(DIGITS, 0)
    for _ in range(epochs * DIGITS.steps_per_epoch(len(BATCH[0]))):
        *inputs, targets = fetch(DIGITS.splits.train, next(batches))
        optimizer.zero_grad()
        DIGITS.loss(model(*inputs), targets).backward()
        optimizer.step()
    return model


def timed(side: Side, model: nn.Module) -> tuple[float, Found]:
    # A copy of its own, since not every side leaves the model as it was.
    patient = deepcopy(model)
    start = perf_counter()
    found = side(patient)
    return perf_counter() - start, found


def exact(model: nn.Module) -> float:
    objective = Objective(model, DIGITS.loss, [BATCH], dtype=torch.float64)
    return extremes(Hessian(objective), ends=["highest"], tolerance=1e-9, steps=500).highest.value


def measured(sides: dict[str, Side], epochs: int) -> dict[str, Any]:
    """Each side's time in gradients, its products, and its error relative to the true value."""
    model = trained(epochs)
    truth = exact(model)
    rounds = [{name: timed(side, model) for name, side in sides.items()} for _ in range(ROUNDS + 2)]
    rounds = rounds[2:]
    unit = [one["gradient"][0] for one in rounds]
    row: dict[str, Any] = {"epochs": epochs, "largest eigenvalue": truth}
    for name in sides:
        if name == "gradient":
            continue
        seconds = [one[name][0] for one in rounds]
        found = [one[name][1] for one in rounds]
        row[name] = {
            "milliseconds": spread([1e3 * s for s in seconds]),
            "gradients": spread([s / u for s, u in zip(seconds, unit, strict=True)]),
            "products": spread([float(one.products) for one in found]),
            "relative error": spread([abs(one.value - truth) / abs(truth) for one in found]),
            f"times the time of {US}": spread([one[name][0] / one[US][0] for one in rounds]),
        }
    return row


def show(row: dict[str, Any]) -> None:
    print(f"after {row['epochs']} epochs, largest eigenvalue {row['largest eigenvalue']:.4g}")
    for name, told in row.items():
        if isinstance(told, dict):
            print(
                f"  {name:<16}{told['products']['median']:>6.0f} products"
                f"{told['gradients']['median']:>8.1f} gradients"
                f"{100 * told['relative error']['median']:>8.2f} % off"
                f"{told[f'times the time of {US}']['median']:>8.2f} times our time"
            )


def main() -> None:
    sides = installed(
        {
            "gradient": gradient,
            US: thalweg,
            "curvlinops": curvlinops,
            "pyhessian": pyhessian,
            "pyhessian, 0.1 %": partial(pyhessian, tolerance=TOLERANCE / 10),
        }
    )
    rows = []
    for epochs in EPOCHS:
        rows.append(measured(sides, epochs))
        show(rows[-1])
    print(f"written to {save('doctor', {'largest eigenvalue to 1 %': rows})}")


if __name__ == "__main__":
    main()
