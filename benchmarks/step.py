"""What a step takes beside the best that PyTorch has, and beside a copy of the same memory.

    python benchmarks/step.py

Gradients are made anew before every timed step, as in training. The sides take turns, so that each
ratio compares neighbours in time. Where there is a GPU, all lies on it. `torch.compile` of
PyTorch's step is measured too with `--compile`, which takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from machine import save, spread
from thalweg import (
    adam,
    chain,
    clip_norm,
    clip_value,
    delta_bar_delta,
    lion,
    optim,
    tail_average,
)
from thalweg.fuse.located import Located, implementations_of
from thalweg.optim.fused import Fused

SMALL = [(29, 29), (29,)] * 30
MANY = [(256, 256), (256,)] * 160
LARGE = [(2048, 2048)] * 8
ROUNDS = 41
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 10**6

Params = list[Tensor]
Step = Callable[[], Any]
Side = Callable[[Params], Step]


def stepping(make: Callable[[Params], torch.optim.Optimizer]) -> Side:
    return lambda params: make(params).step


def eager(recipe: Any) -> Side:
    return stepping(lambda params: optim.Optimizer(params, recipe, backend="eager"))


def clipped_and_averaged(params: Params) -> Step:
    """What PyTorch needs three calls for: clip by value, Adam, the mean of the iterates."""
    model = torch.nn.Module()
    model.params = torch.nn.ParameterList(params)
    averaged = AveragedModel(model)
    held = list(model.parameters())
    optimizer = torch.optim.Adam(held, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_value_(held, 1.0)
        optimizer.step()
        averaged.update_parameters(model)

    return step


def clipped(params: Params) -> Step:
    """What PyTorch needs two calls for: clip by the norm over all, Adam."""
    optimizer = torch.optim.Adam(params, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


def blind(params: Params) -> Step:
    """Adam that looks at gradients alone, and takes all else to lie where it lay: not safe."""
    optimizer = optim.Adam(params)

    def look(part: Fused, last: Located, gradients: Sequence[Tensor], _: Any) -> Located:
        now = Located(implementations_of(gradients).reshape(1, -1), gradients)
        last.addresses[:, part.kernel.layout.column("grad")] = now.addresses[:, 0]
        return last

    def step() -> None:
        optimizer.step()
        for part in optimizer.fusing.parts:
            if "located" not in vars(part):
                kept = list(optimizer.state.values())
                last = part.located([param.grad for param in params], kept)
                part.located = partial(look, part, last)

    return step


def in_groups(params: Params) -> list[dict[str, Any]]:
    """A group for each parameter."""
    return [{"params": [param]} for param in params]


ADAM = {
    "thalweg": stepping(lambda params: optim.Adam(params)),
    "torch fused": stepping(lambda params: torch.optim.Adam(params, fused=True)),
}
LAMB = stepping(lambda params: optim.Lamb(params))
LOOKED = ADAM | {"thalweg, looking at gradients alone": blind}
CASES: dict[str, tuple[list[tuple[int, ...]], dict[str, Side]]] = {
    "Adam, 60 small tensors": (SMALL, LOOKED),
    "Adam, 320 tensors": (MANY, LOOKED),
    "Adam, 8 tensors of 4 M": (LARGE, ADAM),
    "Adam, 465 groups of one small tensor": (
        [(29,)] * 465,
        {
            "thalweg": stepping(lambda params: optim.Adam(in_groups(params))),
            "torch fused": stepping(lambda params: torch.optim.Adam(in_groups(params), fused=True)),
            "thalweg, one group": stepping(optim.Adam),
        },
    ),
    **{
        f"clip by norm and Adam, {name}": (
            shapes,
            {
                "thalweg": stepping(
                    lambda params: optim.Optimizer(params, chain(clip_norm(1.0), adam()))
                ),
                "torch, two calls": clipped,
                "thalweg, Adam alone": ADAM["thalweg"],
            },
        )
        for name, shapes in {"60 small tensors": SMALL, "320 tensors": MANY}.items()
    },
    "LAMB, 320 tensors": (MANY, {"thalweg": LAMB, "thalweg, Adam alone": ADAM["thalweg"]}),
    **{
        f"{name}, 320 tensors": (
            MANY,
            {
                "thalweg": stepping(getattr(optim, name)),
                "torch": stepping(getattr(torch.optim, name)),
                "torch foreach": stepping(
                    lambda p, n=name: getattr(torch.optim, n)(p, foreach=True)
                ),
            },
        )
        for name in ("RMSprop", "NAdam", "Adadelta")
    },
    "Lion, 320 tensors": (
        MANY,
        {"thalweg": stepping(optim.Lion), "eager": eager(lion())},
    ),
    "delta-bar-delta, 320 tensors": (
        MANY,
        {"thalweg": stepping(optim.DeltaBarDelta), "eager": eager(delta_bar_delta())},
    ),
    "clip by value, Adam, tail average, 320 tensors": (
        MANY,
        {
            "thalweg": stepping(
                lambda params: optim.Optimizer(
                    params, chain(clip_value(1.0), adam(), tail_average(last=STEPS, steps=STEPS))
                )
            ),
            "torch, three calls": clipped_and_averaged,
        },
    ),
}


def timed(side: Side, shapes: list[tuple[int, ...]]) -> Callable[[], float]:
    """Measures the seconds of one step of a side."""
    params = [torch.nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in shapes]
    step = side(params)

    def seconds() -> float:
        for param in params:
            param.grad = torch.randn_like(param)
        return seconds_of(step)

    return seconds


def seconds_of(step: Step) -> float:
    wait()
    start = perf_counter()
    step()
    wait()
    return perf_counter() - start


def wait() -> None:
    """Until a GPU has done all that it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def measured(shapes: list[tuple[int, ...]], sides: dict[str, Side]) -> dict[str, Any]:
    """Milliseconds of each side, and how many times as fast thalweg is as each other."""
    steps = {name: timed(side, shapes) for name, side in sides.items()}
    rounds = [{name: step() for name, step in steps.items()} for _ in range(ROUNDS + 4)][4:]
    others = [name for name in sides if name != "thalweg"]
    return {
        "milliseconds": {name: spread([1e3 * one[name] for one in rounds]) for name in sides},
        "times as fast": {n: spread([one[n] / one["thalweg"] for one in rounds]) for n in others},
    }


def bandwidth_used(side: Side, moved: int, rounds: int = 15) -> dict[str, Any]:
    """The bytes a second that a step moves, as a share of what a copy moves; both large.

    moved: the bytes that a step reads and writes for each parameter.
    """
    step = timed(side, LARGE)
    source = torch.randn(7 * 2**22, device=DEVICE)
    sink = torch.empty_like(source)
    shares = []
    for _ in range(rounds + 3):
        copy = 8 * source.numel() / seconds_of(lambda: sink.copy_(source))
        shares.append(moved * 8 * 2**22 / step() / copy)
    return spread(shares[3:])


FIRST_STEP = """
import sys
from time import perf_counter
import torch
from thalweg import optim
params = [torch.randn(s, requires_grad=True) for s in [(256, 256), (256,)] * 160]
for param in params:
    param.grad = torch.randn_like(param)
if sys.argv[1] == "compile":
    optimizer = torch.optim.Adam(params)
    step = torch.compile(optimizer.step)
else:
    optimizer = optim.Adam(params)
    step = optimizer.step
start = perf_counter()
step()
print(perf_counter() - start)
"""


def first_step(way: str, cache: str) -> float:
    """Seconds of the first step of a process, compilation included."""
    environment = os.environ | {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, "-c", FIRST_STEP, way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def first_steps(repeats: int = 5) -> dict[str, Any]:
    cold, warm = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_step("thalweg", cache))
            warm.append(first_step("thalweg", cache))
    found: dict[str, Any] = {"cold cache, seconds": spread(cold), "warm, seconds": spread(warm)}
    if "--compile" in sys.argv:
        with tempfile.TemporaryDirectory() as cache:
            found["torch.compile, seconds, once"] = first_step("compile", cache)
    return found


IMPORT = """
from time import perf_counter
start = perf_counter()
import torch
between = perf_counter()
from thalweg.optim import Adam
print(between - start, perf_counter() - between)
"""


def imports(repeats: int = 9) -> dict[str, Any]:
    """What the import of an optimizer takes beyond torch's, in seconds and in imports of torch."""
    command = [sys.executable, "-c", IMPORT]
    printed = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(repeats + 1)
    ][1:]
    return {
        "seconds": spread([float(ours) for _, ours in printed]),
        "times torch's": spread([float(ours) / float(torchs) for torchs, ours in printed]),
    }


def main() -> None:
    steps = {}
    for name, (shapes, sides) in CASES.items():
        steps[name] = row = measured(shapes, sides)
        ratios = ", ".join(f"{r['median']:.2f} {n}" for n, r in row["times as fast"].items())
        print(f"{name}: {row['milliseconds']['thalweg']['median']:.2f} ms, times as fast: {ratios}")
    shares = {"Adam": bandwidth_used(ADAM["thalweg"], 28)}
    # The first of its two passes reads what the second reads and writes.
    shares["LAMB"] = bandwidth_used(LAMB, 16 + 28)
    for name, share in shares.items():
        print(f"{name}, 8 tensors of 4 M, share of the copy bandwidth: {share['median']:.2f}")
    beyond = imports()
    print(f"import of an optimizer beyond torch's: {beyond}")
    results = {
        "steps": steps,
        "share of the copy bandwidth": shares,
        "import of an optimizer beyond torch's": beyond,
    }
    if DEVICE.type == "cpu":
        results["first step"] = first_steps()
        print(f"first step of 320 tensors: {results['first step']}")
    print(f"written to {save('step' if DEVICE.type == 'cpu' else 'step-gpu', results)}")


if __name__ == "__main__":
    main()
