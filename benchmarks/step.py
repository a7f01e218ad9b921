"""What a step of the drop-in Adam takes beside PyTorch's own.

    python benchmarks/step.py

Gradients are made anew before every timed step, as in training. The sides take turns, so that each
ratio compares neighbours in time.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from machine import save, spread
from thalweg import optim

SHAPES = {
    "60 tensors, 26 k": [(29, 29), (29,)] * 30,
    "320 tensors, 10 M": [(256, 256), (256,)] * 160,
}
SIDES: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "thalweg": lambda params: optim.Adam(params),
    "torch": lambda params: torch.optim.Adam(params),
    "torch, fused": lambda params: torch.optim.Adam(params, fused=True),
}
ROUNDS = 31


def step_of(side: str, shapes: list[tuple[int, ...]]) -> Callable[[], float]:
    """Measures the seconds of one step of a side's optimizer."""
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    optimizer = SIDES[side](params)

    def seconds() -> float:
        for param in params:
            param.grad = torch.randn_like(param)
        start = perf_counter()
        optimizer.step()
        return perf_counter() - start

    return seconds


def measured(shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    """Milliseconds of each side, and how many times as long thalweg takes as the others."""
    steps = {side: step_of(side, shapes) for side in SIDES}
    rounds = [{side: step() for side, step in steps.items()} for _ in range(ROUNDS + 3)][3:]
    others = [side for side in SIDES if side != "thalweg"]
    return {
        "milliseconds": {side: spread([1e3 * one[side] for one in rounds]) for side in SIDES},
        "ratio": {side: spread([one["thalweg"] / one[side] for one in rounds]) for side in others},
    }


def main() -> None:
    results = {name: measured(shapes) for name, shapes in SHAPES.items()}
    for name, row in results.items():
        times = ", ".join(f"{side} {t['median']:.2f} ms" for side, t in row["milliseconds"].items())
        ratios = ", ".join(f"{r['median']:.1f} times {side}" for side, r in row["ratio"].items())
        print(f"{name}: {times}; thalweg takes {ratios}")
    print(f"written to {save('step', {'adam': results})}")


if __name__ == "__main__":
    main()
