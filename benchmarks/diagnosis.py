"""How often the doctor finds a planted fault, and how often it calls a healthy run ill.

    python benchmarks/diagnosis.py [--seeds N] [--healthy N] [--only NAME ...]

A fault is planted in a bundled task, its size drawn by the seed, which also draws the weights and
the order of the data. It is *named* where an ill finding of its name stands as a cause, and *found*
where it stands there or among the symptoms of an ill one. What a task of ours never does, such as
to read its samples in order or to wait for them, is planted in a plain loop that a `Doctor`
watches.

A healthy run is a bundled task with one of two recipes that stood well in a race.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from math import nan
from multiprocessing import get_context
from random import Random
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch
from torch import nn

from machine import save
from thalweg import diagnose, recipes, schedules
from thalweg.doctor import Doctor
from thalweg.doctor.judge.finding import Finding
from thalweg.recipes import Recipe
from thalweg.stack.batches import Batches, in_order, length_of
from thalweg.stack.population import batch_norms, initial_model
from thalweg.stack.reading import Batch
from thalweg.statistics import wilson
from thalweg.tasks import Data, Task, find
from thalweg.tasks.adding import RecurrentNetwork, adding_problem
from thalweg.tasks.landscapes import Landscape, saddle

FRESH = 4
"""The first seed of faults: those below were looked at while the criteria were made."""

SEEDS, HEALTHY = 20, 9
PROCESSES = 2

DIGITS, CONVOLUTIONS = find("digits"), find("digits-conv")
DIABETES, ADDING = find("diabetes"), find("adding")
TUNED = 5e-3
"""A good rate of Adam on digits, from a race."""

Training = tuple[Task, Recipe]


# Faults of a task or of a recipe


def rate_too_high(draw: Random) -> Training:
    return DIGITS, recipes.adam(lr=TUNED * between(draw, 30, 100))


def rate_too_low(draw: Random) -> Training:
    return DIGITS, recipes.adam(lr=TUNED / between(draw, 30, 100))


def vanishing_depth(draw: Random) -> Training:
    """8 to 12 layers of sigmoid units."""
    depth = draw.randint(8, 12)
    return replace(DIGITS, model=lambda: sigmoids(depth)), recipes.adam(lr=TUNED)


def sigmoids(depth: int) -> nn.Module:
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(32, 32), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), *hidden, nn.Linear(32, 10))


def exploding_recurrence(draw: Random) -> Training:
    """A recurrent matrix of spectral radius 2.5 to 4, over 50 time steps."""
    radius = between(draw, 2.5, 4)
    return replace(ADDING, model=lambda: recurrent(radius), steps=100), recipes.adam(lr=3e-3)


def recurrent(radius: float) -> nn.Module:
    """Girko's circular law: entries of deviation r / sqrt(width) give a spectral radius of r."""
    model = RecurrentNetwork()
    nn.init.normal_(model.recurrent.weight, std=radius / model.recurrent.in_features**0.5)
    return model


def dead_layer(draw: Random) -> Training:
    """A hidden layer with a bias that no input overcomes."""
    bias = -between(draw, 8, 16)
    return replace(DIGITS, model=lambda: biased(bias)), recipes.adam(lr=TUNED)


def biased(bias: float) -> nn.Module:
    model = DIGITS.model()
    nn.init.constant_(model[2].bias, bias)
    return model


def unscaled_input(draw: Random) -> Training:
    """The ten features of the patients in units from 1/100 to 100."""
    units = torch.tensor([10 ** draw.uniform(-2, 2) for _ in range(10)])
    data = with_inputs(DIABETES, lambda inputs: inputs * units)
    return replace(DIABETES, data=lambda: data), recipes.adam(lr=1e-2)


def shifted_input(draw: Random) -> Training:
    """Pixels far from 0."""
    shift = between(draw, 30, 100)
    data = with_inputs(DIGITS, lambda inputs: inputs + shift)
    return replace(DIGITS, data=lambda: data), recipes.adam(lr=TUNED)


def with_inputs(task: Task, change: Callable[[torch.Tensor], torch.Tensor]) -> Data:
    splits = (task.splits.train, task.splits.validation, task.given.test)
    return Data(*((change(split.tensors[0]), split.tensors[1]) for split in splits))


def noise(draw: Random) -> Training:
    """Two samples a step, of which a third to a half have a wrong class, at a rate that stays."""
    wrong = between(draw, 0.3, 0.5)
    inputs, classes = DIGITS.splits.train.tensors
    generator = torch.Generator().manual_seed(draw.randrange(2**32))
    others = torch.randint(10, classes.shape, generator=generator)
    mixed = torch.where(torch.rand(classes.shape, generator=generator) < wrong, others, classes)
    data = Data((inputs, mixed), DIGITS.splits.validation, DIGITS.given.test)
    task = replace(DIGITS, data=lambda: data, batch_size=2, epochs=None, steps=600)
    return task, recipes.momentum(lr=between(draw, 0.025, 0.04))


def off_the_cliff(draw: Random) -> Training:
    """A flat slope that ends at a wall, under momentum at a rate for the slope."""
    return find("cliff"), recipes.momentum(lr=between(draw, 0.7, 1.2))


def recurrent_cliff(draw: Random) -> Training:
    """A recurrent network under momentum, whose gradients jump once it has learned to carry."""
    task = replace(adding_problem(25), steps=150)
    return task, recipes.momentum(lr=between(draw, 0.1, 0.3))


def evaluated_batch_norm(draw: Random) -> Training:
    """Batch normalization in evaluation mode while it trains, by statistics of pictures that had
    other units.
    """
    unit = between(draw, 16, 255)
    task = replace(CONVOLUTIONS, model=lambda: held(unit))
    return task, recipes.adam(lr=between(draw, 5e-3, 2e-2))


def held(unit: float) -> nn.Module:
    model = Held(CONVOLUTIONS.model())
    for layer in batch_norms(model):
        layer.running_mean += unit * torch.rand_like(layer.running_mean) / 4
        layer.running_var *= unit**2
    return model


class Held(nn.Sequential):
    def train(self, mode: bool = True) -> Held:
        super().train(mode)
        for layer in batch_norms(self):
            layer.eval()
        return self


def slow_batch_norm(draw: Random) -> Training:
    """Batch normalization whose running statistics hardly move."""
    momentum = between(draw, 1e-5, 1e-3)
    return replace(CONVOLUTIONS, model=lambda: slowed(momentum)), recipes.adam(lr=1e-2)


def slowed(momentum: float) -> nn.Module:
    model = CONVOLUTIONS.model()
    for layer in batch_norms(model):
        layer.momentum = momentum
    return model


def decayed_rates(draw: Random) -> Training:
    """AdaGrad, whose rates have decayed before it is there."""
    return DIGITS, recipes.adagrad(lr=between(draw, 1e-3, 3e-3))


def narrow_valley(draw: Random) -> Training:
    """Plain descent in a valley of condition number 100, at a tenth to a third of the highest rate
    that it bears.
    """
    return find("ravine-rotated"), recipes.sgd(lr=between(draw, 2e-3, 7e-3))


def at_a_saddle(draw: Random) -> Training:
    """Plain descent along the ridge that leads to the saddle."""
    model = partial(Landscape, saddle, (1.0, 0.0), 1e-4)
    return replace(find("saddle"), model=model, steps=60), recipes.sgd(lr=between(draw, 0.08, 0.14))


def between(draw: Random, low: float, high: float) -> float:
    """Evenly on a logarithmic scale."""
    return float(low * (high / low) ** draw.random())


# Faults of a loop


def sorted_samples(_: Random, seed: int) -> Sequence[Finding]:
    """The digits in the order of their classes."""
    inputs, classes = DIGITS.splits.train.tensors
    order = classes.argsort(stable=True)
    data = torch.utils.data.TensorDataset(inputs[order], classes[order])
    batches = list(in_order(data, DIGITS.batch_size))
    return watched(seed, islice(cycle(batches), 150))


def starving_loader(draw: Random, seed: int) -> Sequence[Finding]:
    """A loader that takes 10 to 30 milliseconds a batch."""
    seconds = between(draw, 0.01, 0.03)

    def slowly() -> Iterator[Batch]:
        batches = Batches(DIGITS, [seed])
        for _ in range(60):
            sleep(seconds)
            yield batches.each()[0]

    return watched(seed, slowly())


def watched(seed: int, batches: Iterator[Batch]) -> Sequence[Finding]:
    model = initial_model(DIGITS, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=TUNED)
    with Doctor(model, DIGITS.loss, optimizer, budget=None) as doctor:
        for inputs, targets in doctor.loading(batches):
            optimizer.zero_grad()
            DIGITS.loss(model(inputs), targets).backward()
            optimizer.step()
    return doctor.diagnosis().findings


@dataclass(frozen=True)
class Fault:
    """finding: its name in a diagnosis. Either `training` or `loop` plants it."""

    finding: str
    training: Callable[[Random], Training] | None = None
    loop: Callable[[Random, int], Sequence[Finding]] | None = None

    def findings(self, seed: int) -> Sequence[Finding]:
        draw = Random(seed)
        if self.loop:
            return self.loop(draw, seed)
        assert self.training
        return diagnose(*self.training(draw), seed=seed).findings


FAULTS = {
    "rate too high": Fault("learning rate too high", rate_too_high),
    "rate too low": Fault("learning rate too low", rate_too_low),
    "vanishing depth": Fault("vanishing signals", vanishing_depth),
    "exploding recurrence": Fault("exploding signals", exploding_recurrence),
    "dead layer": Fault("dead units", dead_layer),
    "unscaled input": Fault("unscaled inputs", unscaled_input),
    "shifted input": Fault("unscaled inputs", shifted_input),
    "missing shuffle": Fault("samples are not shuffled", loop=sorted_samples),
    "noise": Fault("noise", noise),
    "cliff": Fault("cliffs", off_the_cliff),
    "cliff of a recurrence": Fault("cliffs", recurrent_cliff),
    "batch norm held": Fault("batch normalization by wrong statistics", evaluated_batch_norm),
    "batch norm too slow": Fault("batch normalization by wrong statistics", slow_batch_norm),
    "decayed rates": Fault("rates decayed too early", decayed_rates),
    "narrow valley": Fault("narrow valley", narrow_valley),
    "saddle": Fault("saddle", at_a_saddle),
    "starving loader": Fault("waits for data", loop=starving_loader),
}


# Healthy runs


def cooled(make: Callable[..., Recipe], lr: float, **settings: Any) -> Callable[[int], Recipe]:
    """With a straight line to a hundredth of the rate, as in the race."""
    return lambda steps: make(lr=schedules.linear(lr, lr / 100, steps=steps), **settings)


# From `race(task, ["momentum", "rmsprop", "adam", "nadam"], trials=16, seeds=8)`, the best two of
# each; of `adding` the best alone, since the second missed the target for most seeds. `topics`,
# half an hour a diagnosis, is left out.
WELL = {
    "ravine": (
        cooled(recipes.rmsprop, 0.3425, alpha=0.9932),
        cooled(recipes.nadam, 0.3425, betas=(0.9192, 0.8066)),
    ),
    "ravine-rotated": (
        cooled(recipes.momentum, 0.02117, momentum=0.8118),
        cooled(recipes.nadam, 0.3425, betas=(0.9192, 0.8066)),
    ),
    "rosenbrock": (
        cooled(recipes.adam, 0.179, betas=(0.8799, 0.931)),
        cooled(recipes.rmsprop, 0.07865, alpha=0.9971),
    ),
    "saddle": (
        cooled(recipes.rmsprop, 0.179, alpha=0.9787),
        cooled(recipes.adam, 0.6641, betas=(0.5261, 0.998)),
    ),
    "cliff": (
        cooled(recipes.rmsprop, 0.179, alpha=0.9787),
        cooled(recipes.nadam, 0.6641, betas=(0.5261, 0.998)),
    ),
    "diabetes": (
        cooled(recipes.nadam, 0.01692, betas=(0.9598, 0.9995)),
        cooled(recipes.rmsprop, 0.001411, alpha=0.999),
    ),
    "digits": (
        cooled(recipes.nadam, 0.04596, betas=(0.9792, 0.9827)),
        cooled(recipes.momentum, 0.2525, momentum=0.879),
    ),
    "waveform": (
        cooled(recipes.nadam, 0.179, betas=(0.8799, 0.931)),
        cooled(recipes.rmsprop, 0.04596, alpha=0.8873),
    ),
    "digits-conv": (
        cooled(recipes.rmsprop, 0.04596, alpha=0.8873),
        cooled(recipes.nadam, 0.04596, betas=(0.9792, 0.9827)),
    ),
    "adding": (cooled(recipes.nadam, 0.001411, betas=(0.9782, 0.9572)),),
}


def healthy(name: str, which: int, seed: int) -> Sequence[Finding]:
    task = find(name)
    recipe = WELL[name][which](task.total_steps(length_of(task)))
    return diagnose(task, recipe, seed=seed).findings


# Running them


Job = tuple[str, int, int]
"""A fault or a task by name, which recipe (-1 for a fault), and the seed."""


def run(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    name, which, seed = job
    began = perf_counter()
    found = FAULTS[name].findings(seed) if which < 0 else healthy(name, which, seed)
    seconds = perf_counter() - began
    return {
        "name": name,
        "recipe": which,
        "seed": seed,
        "seconds": round(seconds, 2),
        "findings": [told(finding) for finding in found],
    }


def told(finding: Finding) -> dict[str, Any]:
    best = finding.best
    return {
        "name": finding.name,
        "severity": finding.severity,
        "remedy": best.words if best else "",
        "gain": best.gain.estimate if best else nan,
        "share": best.share if best else nan,
        "symptoms": [one.name for one in finding.symptoms],
        "sentence": finding.suspicion.sentence,
        "untried": finding.untried,
    }


def ill(one: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in one["findings"] if finding["severity"] == "ill"]


def named(one: dict[str, Any], finding: str) -> bool:
    return any(found["name"] == finding for found in ill(one))


def found_at_all(one: dict[str, Any], finding: str) -> bool:
    return any(finding in (found["name"], *found["symptoms"]) for found in ill(one))


def share(count: int, n: int) -> dict[str, float]:
    interval = wilson(count, n)
    return {"count": count, "of": n, "low": interval.low, "high": interval.high}


def of_fault(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    finding = FAULTS[name].finding
    shares = [found["share"] for one in runs for found in ill(one) if found["name"] == finding]
    helped = [own for own in shares if own == own]
    others = Counter(
        found["name"] for one in runs for found in ill(one) if found["name"] != finding
    )
    return {
        "finding": finding,
        "named": share(sum(named(one, finding) for one in runs), len(runs)),
        "found": share(sum(found_at_all(one, finding) for one in runs), len(runs)),
        "called ill": share(sum(bool(ill(one)) for one in runs), len(runs)),
        "share of the way that its remedy wins, median": median(helped) if helped else None,
        "other causes named": dict(others),
        "seconds, median": median(one["seconds"] for one in runs),
    }


def of_healthy(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "called ill": share(sum(bool(ill(one)) for one in runs), len(runs)),
        "with": dict(Counter(found["name"] for one in runs for found in ill(one))),
        "seconds, median": median(one["seconds"] for one in runs),
    }


def in_words(counted: dict[str, float]) -> str:
    low, high = round(100 * counted["low"]), round(100 * counted["high"])
    return f"{counted['count']:>4}/{counted['of']:<3} {f'({low}-{high} %)':<12}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each fault")
    parser.add_argument("--healthy", type=int, default=HEALTHY, help="seeds of each healthy recipe")
    parser.add_argument("--only", nargs="*", help="faults or tasks, by name")
    given = parser.parse_args()
    fresh = range(FRESH, FRESH + given.seeds)
    jobs = [(name, -1, seed) for name in FAULTS for seed in fresh]
    jobs += [
        (name, which, seed)
        for name, made in WELL.items()
        for which in range(len(made))
        for seed in range(given.healthy)
    ]
    jobs = [job for job in jobs if given.only is None or job[0] in given.only]
    runs = []
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, job) for job in jobs]):
            runs.append(done.result())
            show(runs[-1])
    faults = {
        name: of_fault(name, own)
        for name in FAULTS
        if (own := [one for one in runs if (one["name"], one["recipe"]) == (name, -1)])
    }
    well = [one for one in runs if one["recipe"] >= 0]
    results: dict[str, Any] = {"faults": faults}
    for name, row in faults.items():
        print(
            f"{name:<22}named{in_words(row['named'])}found{in_words(row['found'])}"
            f"ill{in_words(row['called ill'])}{row['other causes named']}"
        )
    if faults:
        kinds = ("named", "found", "called ill")
        totals = {
            kind: share(
                sum(row[kind]["count"] for row in faults.values()),
                sum(row[kind]["of"] for row in faults.values()),
            )
            for kind in kinds
        }
        results["all faults"] = totals
        print("all faults: " + ", ".join(f"{k}{in_words(v)}" for k, v in totals.items()))
    if well:
        results["healthy"] = of_healthy(well)
        results["healthy by task"] = {
            name: of_healthy(own)
            for name in WELL
            if (own := [one for one in well if one["name"] == name])
        }
        print(f"healthy, called ill: {in_words(results['healthy']['called ill'])}")
        print(f"  with {results['healthy']['with']}")
    print(f"written to {save('diagnosis', {**results, 'runs': runs})}")


def show(one: dict[str, Any]) -> None:
    findings = ", ".join(
        f"{f['name']} ({f['severity']}, {f['share']:.2f})"
        + (f" <- {f['symptoms']}" if f["symptoms"] else "")
        for f in one["findings"]
    )
    kind = f"recipe {one['recipe']} " if one["recipe"] >= 0 else ""
    print(f"{one['name']} {kind}{one['seed']} [{one['seconds']} s]: {findings}", flush=True)


if __name__ == "__main__":
    main()
