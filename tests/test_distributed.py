"""The drop-in optimizers in two processes, against one process that does the same."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from thalweg import recipes, schedules
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain

WORLD = 2
STEPS = 4

RECIPES: dict[str, Recipe] = {
    "adam": recipes.adam(lr=0.1),
    "sgd behind a clip": chain(recipes.clip_norm(0.05), recipes.sgd(lr=0.5)),
    "adam behind a clip": chain(recipes.clip_norm(0.05), recipes.adam(lr=0.1)),
    "nadam, averaged": chain(recipes.nadam(lr=0.1), recipes.ema(0.9)),
    "nesterov, the last averaged": chain(recipes.nesterov(lr=0.1), recipes.tail_average(3)),
}
SAVED = chain(
    recipes.clip_norm(0.05), recipes.nadam(lr=schedules.linear(0.1, steps=8)), recipes.ema(0.9)
)

Numbers = list[Tensor]
Work = Callable[[int, Path], Any]


def in_two_processes(work: Work, folder: Path) -> Any:
    """What `work` gives in the first of two processes; one that waits for ever fails."""
    processes = spawn(in_a_process, (work, folder), WORLD, join=False)
    end = time.monotonic() + 100
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < end, "the processes wait for each other"
    finally:
        for process in processes.processes:
            process.kill()
    return torch.load(folder / "found.pt", weights_only=True)


def in_a_process(rank: int, work: Work, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=20),
    )
    found = work(rank, folder)
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


def model_of_one_seed() -> nn.Module:
    """Its last bias, of one number, leaves one of two processes without any of it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def train(model: nn.Module, optimizer: Optimizer, steps: range, rank: int | None = None) -> None:
    """Steps on whole batches, or on the half of each that a process has."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        mine = batch if rank is None else batch.chunk(WORLD)[rank]
        optimizer.zero_grad()
        (model(mine) - mine.prod(1, keepdim=True)).square().mean().backward()
        optimizer.step()


def whole(x: Tensor) -> Tensor:
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()


def numbers(optimizer: Optimizer) -> Numbers:
    """Parameters and states, and the parameters to evaluate at."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [optimizer.state[p][name] for p in params for name in sorted(optimizer.state[p])]
    found = list(map(whole, [*params, *states]))
    with optimizer.evaluation():
        return found + list(map(whole, params))


def alone(recipe: Recipe, steps: int = STEPS) -> Numbers:
    model = model_of_one_seed()
    optimizer = Optimizer(model.parameters(), recipe)
    train(model, optimizer, range(steps))
    return numbers(optimizer)


def assert_same(found: Numbers, expected: Numbers, case: str) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-9, atol=1e-12, msg=lambda text: f"{case}: {text}"
        )


def replicated(rank: int, _: Path) -> dict[str, Numbers]:
    found = {}
    for name in ("adam", "sgd behind a clip"):
        model = DistributedDataParallel(model_of_one_seed())
        optimizer = Optimizer(model.parameters(), RECIPES[name])
        train(model, optimizer, range(STEPS), rank)
        found[name] = numbers(optimizer)
    return found


def test_replicas_step_as_one_process(tmp_path: Path) -> None:
    for name, found in in_two_processes(replicated, tmp_path).items():
        assert_same(found, alone(RECIPES[name]), name)


def sharded(rank: int, _: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, recipe in RECIPES.items():
        for backend in ("numba", "eager"):
            model = fully_shard(model_of_one_seed())
            optimizer = Optimizer(model.parameters(), recipe, backend=backend)
            train(model, optimizer, range(STEPS), rank)
            optimizer.zero_grad()
            twin = copy.deepcopy(optimizer)
            found[f"{name}, {backend}"] = numbers(optimizer)
            found[f"{name}, {backend}, a copy"] = numbers(twin)
            lying = [s for p in model.parameters() for s in optimizer.state[p].values() if s.ndim]
            assert all(isinstance(state, DTensor) for state in lying)
            assert optimizer.backend == backend or "last" in name, "each shard has its kernel"
    return found


def test_shards_step_as_one_process(tmp_path: Path) -> None:
    for case, found in in_two_processes(sharded, tmp_path).items():
        assert_same(found, alone(RECIPES[case.split(", numba")[0].split(", eager")[0]]), case)
