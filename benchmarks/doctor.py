"""What the doctor's instruments take beside those of others.

    pip install -e '.[benchmarks]'
    python benchmarks/doctor.py

The largest eigenvalue of the Hessian, to one per cent by each side's own tolerance, of the `digits`
perceptron on all its training data: at the initial weights, and after some epochs. The sides take
turns, so that each ratio compares neighbours in time; what each finds is held against the value to
nine digits. PyHessian's tolerance is of the change from one iteration to the next, and is tried at
a tenth too. A side that is not installed is left out.

The spectral density there by as many random vectors and points on both sides, held against all
eigenvalues of the dense Hessian by Wasserstein's distance. And training under a doctor's eyes
against training alone: as a Doctor comes, with looks along every tenth step, and within 3 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from machine import save, spread
from thalweg.doctor import Doctor, Hessian, Objective, extremes, spectrum
from thalweg.stack.batches import Batches, fetch, training_order
from thalweg.stack.population import initial_model
from thalweg.tasks import Task, find

Floats = NDArray[np.float64]
Measure = tuple[Floats, Floats]
"""Nodes, and the weight of each."""

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


PROBES, POINTS, DENSITIES = 10, 64, 5


def density(model: nn.Module) -> Measure:
    seen = spectrum(Hessian(Objective(model, DIGITS.loss, [BATCH])), probes=PROBES, steps=POINTS)
    return seen.nodes.ravel(), seen.weights.ravel() / PROBES


def pyhessian_density(model: nn.Module) -> Measure:
    import pyhessian

    # It calls a function that PyTorch has removed, of a symmetric matrix.
    torch.eig = removed_eig  # type: ignore[attr-defined]
    looking = pyhessian.hessian(model, DIGITS.loss, data=BATCH, cuda=False)
    nodes, weights = looking.density(iter=POINTS, n_v=PROBES)
    return np.ravel(nodes), np.ravel(weights) / PROBES


def removed_eig(matrix: Tensor, eigenvectors: bool = True) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


def all_eigenvalues(model: nn.Module) -> Floats:
    """Those of the dense Hessian, in float64."""
    hessian = Hessian(Objective(model, DIGITS.loss, [BATCH], dtype=torch.float64))
    rows = [hessian.times(block) for block in torch.eye(hessian.size).double().split(64)]
    return np.linalg.eigvalsh(torch.cat(rows).numpy())


def densities() -> dict[str, Any]:
    """Each side's time and error; the error is in units of the largest eigenvalue."""
    model = trained(1)
    truth = all_eigenvalues(model)
    sides = {US: density}
    try:
        import pyhessian  # noqa: F401

        sides["pyhessian"] = pyhessian_density
    except ImportError as error:
        print(f"the other density is left out: {error}")
    rounds = []
    for _ in range(DENSITIES + 1):
        round_ = {}
        for name, side in sides.items():
            patient = deepcopy(model)
            start = perf_counter()
            nodes, weights = side(patient)
            seconds = perf_counter() - start
            error = wasserstein_distance(nodes, truth, np.maximum(weights, 0)) / abs(truth).max()
            round_[name] = seconds, float(error)
        rounds.append(round_)
    told: dict[str, Any] = {"probes": PROBES, "points": POINTS}
    for name in sides:
        told[name] = {
            "seconds": spread([one[name][0] for one in rounds[1:]]),
            "error": spread([one[name][1] for one in rounds[1:]]),
            f"times the time of {US}": spread([o[name][0] / o[US][0] for o in rounds[1:]]),
        }
        print(f"density by {name}: {told[name]}")
    return told


WATCHED = {"digits": 4000, "digits-conv": 1600, "adding": 600, "topics": 80}
"""Steps by task: some seconds of training each."""

PIECES, WATCHES = 20, 5
DOCTORS: dict[str, dict[str, Any]] = {"as it comes": {}, "budget 3 %": {"budget": 0.03}}


class Training:
    """A plain loop, alone or under a doctor's eyes, trained piece by piece."""

    def __init__(self, task: Task, settings: dict[str, Any] | None) -> None:
        self.task, self.model = task, initial_model(task, seed=0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        own = Batches(task, [0])
        self.batches = iter(lambda: own.each()[0], None)
        self.seconds, self.doctor, self.left = 0.0, None, perf_counter()
        if settings is not None:
            self.doctor = Doctor(self.model, task.loss, self.optimizer, **settings)
            self.batches = self.doctor.loading(self.batches)

    def train(self, steps: int) -> None:
        start = perf_counter()
        if self.doctor:
            self.doctor.budget.began += start - self.left  # what others took is no training of its
        for *inputs, targets in islice(self.batches, steps):
            self.optimizer.zero_grad()
            self.task.loss(self.model(*inputs), targets).backward()
            self.optimizer.step()
        self.left = perf_counter()
        self.seconds += self.left - start

    def looks(self) -> int:
        assert self.doctor
        looks = self.doctor.budget.looks.items()
        return sum(own.count for name, own in looks if name != "gradient norm")


def side_by_side(task: Task, steps: int) -> dict[str, Training]:
    """The trainings with and without a doctor, in turn for a piece each."""
    sides = {name: Training(task, given) for name, given in {"alone": None, **DOCTORS}.items()}
    for _ in range(PIECES):
        for side in sides.values():
            side.train(steps // PIECES)
    return sides


def watching(name: str, steps: int) -> dict[str, Any]:
    """By how much training is slower under a doctor's eyes."""
    rounds = [side_by_side(find(name), steps) for _ in range(WATCHES + 1)]
    told: dict[str, Any] = {"steps": steps}
    for side in DOCTORS:
        shares = [one[side].seconds / one["alone"].seconds - 1 for one in rounds[1:]]
        told[side] = {"share of training": spread(shares), "looks": rounds[-1][side].looks()}
        print(f"{name}, {side}: {told[side]}")
    return told


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
    results = {
        "largest eigenvalue to 1 %": rows,
        "spectral density": densities(),
        "watched": {name: watching(name, steps) for name, steps in WATCHED.items()},
    }
    print(f"written to {save('doctor', results)}")


if __name__ == "__main__":
    main()
