"""Training with all data goes to the edge of stability and stays there.

    python benchmarks/edge.py

The `digits` perceptron with tanh units and squared loss (with cross-entropy the sharpness falls
again late), on its whole training data: plain descent, momentum and Adam. Every few steps the
doctor says how near the edge the next step is taken, 1 being the edge: 2 / lr for the sharpness of
plain descent, (2 + 2 momentum) / lr with momentum, and 38 / lr in the metric of Adam
(Cohen et al. 2021, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from machine import save, spread
from picture import blank, take
from thalweg.doctor import Objective, stability
from thalweg.tasks import find

INPUTS, CLASSES = find("digits").splits.train.tensors

LATE = 0.5
"""Of the looks: those in the last half of the training are summed up."""

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

RUNS: dict[str, tuple[int, int, Make]] = {
    "plain descent, lr 0.2": (2000, 50, lambda p: torch.optim.SGD(p, lr=0.2)),
    "momentum 0.9, lr 0.3": (2000, 50, lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9)),
    "Adam, lr 0.005": (2000, 50, lambda p: torch.optim.Adam(p, lr=0.005)),
}


def squared_error(scores: Tensor, classes: Tensor) -> Tensor:
    """Half the squared distance from the class as a unit vector, the mean over samples."""
    return (scores - F.one_hot(classes, 10)).square().sum(1).mean() / 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)
    )


def watched(steps: int, every: int, make: Make) -> list[dict[str, float]]:
    """What the doctor says on the way."""
    model = network()
    optimizer = make(model.parameters())
    looks = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = squared_error(model(INPUTS), CLASSES)
        loss.backward()
        optimizer.step()
        if step % every == 0:
            found = stability(Objective(model, squared_error, [(INPUTS, CLASSES)]), optimizer)
            (group,) = found.groups
            told = {"sharpness": group.sharpness.value, "limit": group.limit}
            looks.append({"step": step, "loss": loss.item(), "ratio": group.ratio, **told})
    return looks


def draw(results: dict[str, Any]) -> None:
    figure = blank()
    for name, told in results.items():
        steps, ratios = ([look[key] for look in told["looks"]] for key in ("step", "ratio"))
        figure.add_scatter(x=steps, y=ratios, name=name, mode="lines")
    figure.add_hline(1, line_dash="dash", annotation_text="the edge of stability")
    figure.update_layout(xaxis_title="step", yaxis_title="sharpness over its limit")
    take(figure, "edge")


def main() -> None:
    results: dict[str, Any] = {}
    for name, run in RUNS.items():
        looks = watched(*run)
        late = [look["ratio"] for look in looks[int(LATE * len(looks)) :]]
        results[name] = {"looks": looks, "ratio in the last half": spread(late)}
        told = results[name]["ratio in the last half"]
        first, *_, last = looks
        print(
            f"{name}: from {first['ratio']:.2f} to {told['median']:.2f} of the limit"
            f" (quartiles {told['quartile_1']:.2f} to {told['quartile_3']:.2f}),"
            f" loss {first['loss']:.3g} to {last['loss']:.3g}"
        )
    print(f"written to {save('edge', results)}")
    draw(results)


if __name__ == "__main__":
    main()
