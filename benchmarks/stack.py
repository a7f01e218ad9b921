"""How many times as fast members train as in PyTorch's plain loop, and as beside its rivals.

    python benchmarks/stack.py [--jax PYTHON] [--race]

Every bundled task is trained in each way that a race may choose, against the plain loop with
`torch.optim.Adam(fused=True)`, against two processes of one thread that run that loop, and, for the
`digits` perceptron, against JAX with optax, where a Python that has them is named. All sides train
with Adam on batches of their own, and take turns, so that each ratio compares neighbours in time; a
ratio is of member-steps a second, batches and bookkeeping included. `--race` also times a whole
race on `digits`, from the command to the verdict, against the same race one by one; a race before
has filled the caches.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from machine import matmul_peak, save, spread
from thalweg import recipes
from thalweg.lanes.lanes import Lanes, most_lanes, one_thread
from thalweg.stack.batches import fetch, training_order
from thalweg.stack.compiled import TooLongError
from thalweg.stack.member import Member
from thalweg.stack.population import initial_model
from thalweg.stack.way import populate
from thalweg.tasks import Task, bundled, find

MEMBERS = {"digits": 64, "digits-conv": 32, "adding": 64, "waveform": 64, "diabetes": 256}
MEMBERS |= {"topics": 16}
OTHERWISE = 64
LARGE = 256
WIDTH = 32
SECONDS = 0.4
"""What a turn of a side takes, about."""
ROUNDS = 7
RACES = 2

Side = Callable[[], float]
"""Takes a turn; gives its member-steps a second."""


def turns(run: Callable[[int], float]) -> Side:
    """A side of which `run(n)` takes about n units of work and gives member-steps a second."""
    run(1)
    began = perf_counter()
    run(2)
    count = max(1, math.ceil(2 * SECONDS / (perf_counter() - began)))
    return lambda: run(count)


class Plain:
    """One model, the plain loop with `torch.optim.Adam(fused=True)`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = initial_model(task, seed=0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.batches = training_order(task, seed=0)

    def steps(self, count: int) -> None:
        for _ in range(count):
            *inputs, targets = fetch(self.task.splits.train, next(self.batches))
            self.optimizer.zero_grad()
            self.task.loss(self.model(*inputs), targets).backward()
            self.optimizer.step()


class Block:
    """A block of members, stepped in one way."""

    def __init__(self, task: Task, way: Any, width: int) -> None:
        self.population = populate(task, members(width), width, way)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.population.step()


def members(count: int) -> list[Member]:
    return [Member(recipes.adam(lr=1e-3), seed) for seed in range(count)]


def alone(plain: Plain) -> Side:
    def run(count: int) -> float:
        began = perf_counter()
        plain.steps(count)
        return count / (perf_counter() - began)

    return turns(run)


def in_lanes(made: Callable[[], Any], width: int, blocks: int, stack: ExitStack) -> Side:
    """`blocks` blocks of `width` members, in lanes that each make one at its first use."""
    lanes = stack.enter_context(Lanes(lambda count, _: made().steps(count), most_lanes()))

    def run(count: int) -> float:
        began = perf_counter()
        list(lanes.run([count] * blocks))
        return count * width * blocks / (perf_counter() - began)

    return turns(run)


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a thing at its first use, in each process."""
    held: list[Any] = []

    def get() -> Any:
        if not held:
            held.append(make())
        return held[0]

    return get


@contextmanager
def jax(python: str, count: int) -> Iterator[Side]:
    """JAX with optax, in a process of another Python."""
    script = str(Path(__file__).with_name("jax_peer.py"))
    with subprocess.Popen(
        [python, script, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdout.readline()

        def run(steps: int) -> float:
            print(steps, file=peer.stdin, flush=True)
            return steps * count / float(peer.stdout.readline())

        yield turns(run)
        peer.stdin.close()


def measured(task: Task, count: int, python: str | None) -> dict[str, Any]:
    """Member-steps a second of all sides in turn, and the ratios to the plain loop's."""
    width = min(WIDTH, count // 2)
    blocks = count // width
    with ExitStack() as stack:
        sides: dict[str, Side] = {"plain": alone(Plain(task))}
        sides["two plain processes"] = in_lanes(once(lambda: Plain(task)), 1, 2, stack)
        for way in ("single", "stacked", "compiled"):
            make = once(lambda way=way: Block(task, way, width))
            try:
                if way == "compiled":
                    with one_thread():
                        Block(task, way, width).steps(1)  # lanes are born with what it compiles
                sides[way] = in_lanes(make, width, blocks, stack)
            except TooLongError:
                print(f"{task.name}: a graph of too many operations to compile")
        if python:
            sides["jax"] = stack.enter_context(jax(python, count))
        rounds = [{name: side() for name, side in sides.items()} for _ in range(ROUNDS)]
    ours = {name: median(one[name] for one in rounds) for name in sides if name in WAYS}
    best = max(ours, key=lambda name: ours[name])
    return {
        "task": task.name,
        "members": count,
        "width": width,
        "member_steps_a_second": {name: spread([one[name] for one in rounds]) for name in sides},
        "to_plain": {n: spread([one[n] / one["plain"] for one in rounds]) for n in sides},
        "best": best,
        "best_to_two_plain_processes": spread(
            [one[best] / one["two plain processes"] for one in rounds]
        ),
        **({"best_to_jax": spread([one[best] / one["jax"] for one in rounds])} if python else {}),
    }


WAYS = ("single", "stacked", "compiled")


def flop_of_step(task: Task) -> int:
    """Floating-point operations of a member-step's matrix products, of linear layers."""
    layers = [m for m in initial_model(task, seed=0).modules() if isinstance(m, nn.Linear)]
    # Forward, the weights' gradient and the inputs', which the first layer does not need.
    products = [layer.weight.numel() * (2 if i == 0 else 3) for i, layer in enumerate(layers)]
    return 2 * task.batch_size * sum(products)


def largest_shares(task: Task, count: int = 3) -> dict[str, float]:
    """What a compiled block spends most of its time in, on one thread, as shares of it."""
    with one_thread():
        block = Block(task, "compiled", WIDTH)
        block.steps(2)
        with torch.profiler.profile() as seen:
            block.steps(3)
    spent = {one.key: one.self_cpu_time_total for one in seen.key_averages()}
    whole = sum(spent.values())
    largest = sorted(spent, key=lambda name: -spent[name])[:count]
    graph = "the graph's own kernels and calls"
    return {graph if n.startswith("##") else n: spent[n] / whole for n in largest}


COMMAND = str(Path(sys.executable).with_name("thalweg"))
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}


def whole_races() -> dict[str, Any]:
    """Seconds from the command to the verdict: one by one, and as a race chooses itself."""

    def seconds(*step: str) -> float:
        with tempfile.TemporaryDirectory() as runs:
            command = [COMMAND, "race", "digits", "--runs", runs, *step]
            began = perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=UNBUFFERED) as race:
                assert race.stdout is not None
                next(line for line in race.stdout if line.startswith(b"winner: "))
                told = perf_counter() - began
                race.stdout.read()
            return told

    ways = {
        "one by one": ("--step", "single", "--lanes", "1"),
        "measured": (),
        "compiled": ("--step", "compiled"),
    }
    seconds(*ways["compiled"])
    rounds = [{name: seconds(*step) for name, step in ways.items()} for _ in range(RACES)]
    return {
        "seconds": {name: spread([one[name] for one in rounds]) for name in ways},
        "times as fast": {
            name: spread([one["one by one"] / one[name] for one in rounds]) for name in ways
        },
    }


def show(row: dict[str, Any]) -> None:
    plain = row["member_steps_a_second"]["plain"]["median"]
    ratios = ", ".join(f"{name} {one['median']:.2f}" for name, one in row["to_plain"].items())
    print(f"{row['task']}, K = {row['members']}: plain {1e6 / plain:.0f} us; {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jax", metavar="PYTHON")
    parser.add_argument("--race", action="store_true")
    given = parser.parse_args()
    peak, digits = matmul_peak(), find("digits")
    rows = []
    for task, count in [(digits, LARGE), *((t, MEMBERS.get(t.name, OTHERWISE)) for t in bundled())]:
        rows.append(measured(task, count, given.jax if task is digits else None))
        show(rows[-1])
    every = [row["best_to_two_plain_processes"]["median"] for row in rows[1:]]
    results: dict[str, Any] = {
        "microseconds_of_arithmetic_on_digits": flop_of_step(digits) / peak * 1e6,
        "matrix_peak_gflops": peak / 1e9,
        "tasks": rows,
        "to_two_plain_processes_geometric_mean": geometric_mean(every),
        "largest_shares_of_a_compiled_step": {
            name: largest_shares(find(name)) for name in ("digits", "adding")
        },
    }
    print(f"to two plain processes: at least {min(every):.2f}, mean {geometric_mean(every):.2f}")
    if given.race:
        results["whole race on digits"] = whole_races()
        print(results["whole race on digits"]["times as fast"])
    print(f"written to {save('stack', results)}")


if __name__ == "__main__":
    main()
