"""How many times as fast K members train in a stack as in PyTorch's plain loop.

    python benchmarks/stack.py

Both sides train the `digits` perceptron with Adam on the same batches. The sides take turns, so
that each ratio compares neighbours in time; a ratio is of member-steps a second.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import nn

from machine import matmul_peak, save, spread
from thalweg import recipes
from thalweg.stack.batches import fetch, training_order
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.stacked import Stacked
from thalweg.tasks import find

TASK = find("digits")
MEMBERS = (1, 4, 16, 64, 256)
WIDTH = 64
PAIRS = 11
PLAIN_STEPS = 100
MEMBER_STEPS = 1500
"""Member-steps of the stack in a measurement, or two steps where that is more."""

Sides = tuple[Callable[[], float], Callable[[], float]]


def plain() -> Callable[[], float]:
    """One model, `torch.optim.Adam(fused=True)`; measures its member-steps a second."""
    model = initial_model(TASK, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = training_order(TASK, seed=0)

    def rate() -> float:
        start = perf_counter()
        for _ in range(PLAIN_STEPS):
            inputs, targets = fetch(TASK.splits.train, next(batches))
            optimizer.zero_grad()
            TASK.loss(model(inputs), targets).backward()
            optimizer.step()
        return PLAIN_STEPS / (perf_counter() - start)

    return rate


def stacked(count: int, shared: bool) -> Callable[[], float]:
    """`count` members in a stack; measures its member-steps a second."""
    members = [Member(recipes.adam(lr=1e-3), 0 if shared else seed) for seed in range(count)]
    stack = Stacked(TASK, members, min(count, WIDTH))
    steps = max(2, MEMBER_STEPS // count // (4 if count < 16 else 1))

    def rate() -> float:
        start = perf_counter()
        for _ in range(steps):
            stack.step()
        return steps * count / (perf_counter() - start)

    return rate


def pairs(sides: Sides) -> dict[str, Any]:
    """Rates of both sides in turn, after one turn that is thrown away."""
    for side in sides:
        side()
    measured = [(sides[0](), sides[1]()) for _ in range(PAIRS)]
    return {
        "plain_member_steps_a_second": spread([plain for plain, _ in measured]),
        "stacked_member_steps_a_second": spread([stack for _, stack in measured]),
        "ratio": spread([stack / plain for plain, stack in measured]),
    }


def flop_of_step() -> int:
    """Floating-point operations of a member-step's matrix products, forward and backward."""
    layers = [m for m in initial_model(TASK, seed=0).modules() if isinstance(m, nn.Linear)]
    # Forward, the weights' gradient and the inputs', which the first layer does not need.
    products = [layer.weight.numel() * (2 if i == 0 else 3) for i, layer in enumerate(layers)]
    return 2 * TASK.batch_size * sum(products)


def main() -> None:
    peak = matmul_peak()
    bound = flop_of_step() / peak * 1e6
    curve = [
        {"members": count, "batches": "shared" if shared else "own", **pairs(sides)}
        for count in MEMBERS
        for shared in (False, True)
        for sides in [(plain(), stacked(count, shared))]
    ]
    print(f"{'K':>4}  batches  us a member-step  plain  ratio (quartiles)")
    for row in curve:
        ratio = row["ratio"]
        print(
            f"{row['members']:>4}  {row['batches']:<7}"
            f"  {1e6 / row['stacked_member_steps_a_second']['median']:>16.0f}"
            f"  {1e6 / row['plain_member_steps_a_second']['median']:>5.0f}"
            f"  {ratio['median']:.2f} ({ratio['quartile_1']:.2f} to {ratio['quartile_3']:.2f})"
        )
    print(f"arithmetic alone: {bound:.0f} us a member-step at {peak / 1e9:.0f} GFLOP/s")
    results = {"width": WIDTH, "pairs": PAIRS, "microseconds_of_arithmetic": bound, "curve": curve}
    print(f"written to {save('stack', results)}")


if __name__ == "__main__":
    main()
