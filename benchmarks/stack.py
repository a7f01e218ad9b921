"""How many times as fast K members train in a stack as in PyTorch's plain loop.

    python benchmarks/stack.py

Both sides train with Adam on the same batches: the `digits` perceptron over a curve of K, then the
larger bundled tasks at one K, under vmap and as one compiled graph. The sides take turns, so that
each ratio compares neighbours in time; a ratio is of member-steps a second.
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
from thalweg.stack.compiled import Compiled
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.stacked import Stacked
from thalweg.tasks import Task, find

DIGITS = find("digits")
MEMBERS = (1, 4, 16, 64, 256)
WIDTH = 64
PLAIN_STEPS = 100
MEMBER_STEPS = 1500
"""Member-steps of the stack in a measurement, or two steps where that is more."""
PAIRS = 11

WAYS = {"stacked": Stacked, "compiled": Compiled}

LARGER = ("digits-conv", "adding", "waveform", "topics")
TOO_LONG = ("waveform", "compiled")
LARGER_MEMBERS = 16
LARGER_STEPS = 3
"""Steps of the stack in a measurement; as many member-steps of the plain loop."""
LARGER_PAIRS = 5

Sides = tuple[Callable[[], float], Callable[[], float]]


def plain(task: Task, steps: int) -> Callable[[], float]:
    """One model, `torch.optim.Adam(fused=True)`; measures its member-steps a second."""
    model = initial_model(task, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = training_order(task, seed=0)

    def rate() -> float:
        start = perf_counter()
        for _ in range(steps):
            *inputs, targets = fetch(task.splits.train, next(batches))
            optimizer.zero_grad()
            task.loss(model(*inputs), targets).backward()
            optimizer.step()
        return steps / (perf_counter() - start)

    return rate


def stacked(task: Task, count: int, shared: bool, steps: int, way: str) -> Callable[[], float]:
    """`count` members in a stack; measures its member-steps a second."""
    members = [Member(recipes.adam(lr=1e-3), 0 if shared else seed) for seed in range(count)]
    stack = WAYS[way](task, members, min(count, WIDTH))

    def rate() -> float:
        start = perf_counter()
        for _ in range(steps):
            stack.step()
        return steps * count / (perf_counter() - start)

    return rate


def pairs(sides: Sides, count: int) -> dict[str, Any]:
    """Rates of both sides in turn, after one turn that is thrown away."""
    for side in sides:
        side()
    measured = [(sides[0](), sides[1]()) for _ in range(count)]
    return {
        "plain_member_steps_a_second": spread([plain for plain, _ in measured]),
        "stacked_member_steps_a_second": spread([stack for _, stack in measured]),
        "ratio": spread([stack / plain for plain, stack in measured]),
    }


def on_digits(count: int, shared: bool, way: str) -> dict[str, Any]:
    """A point of the curve over K."""
    steps = max(2, MEMBER_STEPS // count // (4 if count < 16 else 1))
    sides = plain(DIGITS, PLAIN_STEPS), stacked(DIGITS, count, shared, steps, way)
    measured = pairs(sides, PAIRS)
    return labelled("digits", count, shared, way) | measured


def on_larger(name: str, way: str) -> dict[str, Any]:
    """A larger task at one K, each member with its own batches."""
    task = find(name)
    alone = plain(task, LARGER_STEPS * LARGER_MEMBERS)
    together = stacked(task, LARGER_MEMBERS, False, LARGER_STEPS, way)
    return labelled(name, LARGER_MEMBERS, False, way) | pairs((alone, together), LARGER_PAIRS)


def labelled(task: str, members: int, shared: bool, way: str) -> dict[str, Any]:
    batches = "shared" if shared else "own"
    return {"task": task, "members": members, "batches": batches, "way": way}


def flop_of_step() -> int:
    """Floating-point operations of a member-step's matrix products, forward and backward."""
    layers = [m for m in initial_model(DIGITS, seed=0).modules() if isinstance(m, nn.Linear)]
    # Forward, the weights' gradient and the inputs', which the first layer does not need.
    products = [layer.weight.numel() * (2 if i == 0 else 3) for i, layer in enumerate(layers)]
    return 2 * DIGITS.batch_size * sum(products)


def show(row: dict[str, Any]) -> None:
    ratio = row["ratio"]
    print(
        f"{row['task']:<12}{row['members']:>4}  {row['batches']:<7}  {row['way']:<8}"
        f"  {1e6 / row['stacked_member_steps_a_second']['median']:>16.0f}"
        f"  {1e6 / row['plain_member_steps_a_second']['median']:>6.0f}"
        f"  {ratio['median']:.2f} ({ratio['quartile_1']:.2f} to {ratio['quartile_3']:.2f})"
    )


def main() -> None:
    peak = matmul_peak()
    bound = flop_of_step() / peak * 1e6
    print(f"{'task':<12}{'K':>4}  batches  way       us a member-step   plain  ratio (quartiles)")
    curve = []
    for count in MEMBERS:
        for shared in (False, True):
            for way in WAYS:
                curve.append(on_digits(count, shared, way))
                show(curve[-1])
    larger = []
    for name in LARGER:
        for way in WAYS:
            if (name, way) != TOO_LONG:
                larger.append(on_larger(name, way))
                show(larger[-1])
    print(f"arithmetic alone on digits: {bound:.0f} us a member-step at {peak / 1e9:.0f} GFLOP/s")
    measured = {"width": WIDTH, "microseconds_of_arithmetic": bound, "curve": curve}
    print(f"written to {save('stack', {**measured, 'larger': larger})}")


if __name__ == "__main__":
    main()
