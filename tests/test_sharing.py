"""Optimizers whose states other threads and other processes have too."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import multiprocessing as processes

from thalweg import optim, recipes
from thalweg.optim import Adam, Optimizer

STEPS = 5


def made(size: int = 2**17) -> tuple[Tensor, Adam]:
    param = torch.linspace(-1, 1, size).requires_grad_()
    return param, Adam([param], lr=0.1)


def step(param: Tensor, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    for i in range(steps):
        param.grad = torch.full_like(param, 0.5 + i)
        optimizer.step()


def expected(steps: int) -> Tensor:
    param, optimizer = made()
    for i in range(steps // STEPS):
        del i
        step(param, optimizer)
    return param.detach()


def test_a_state_may_be_put_in_a_queue() -> None:
    """Which moves it to memory that processes share."""
    param, optimizer = made()
    step(param, optimizer)
    queue: Queue[Any] = processes.get_context("spawn").Queue()
    queue.put(optimizer.state_dict())
    sent = queue.get(timeout=60)
    step(param, optimizer)
    assert torch.equal(param.detach(), expected(2 * STEPS))
    assert torch.equal(sent["state"][0]["exp_avg"], optimizer.state[param]["exp_avg"])
    assert float(sent["state"][0]["step"]) == 2 * STEPS


def step_shared(param: Tensor, optimizer: Adam) -> None:
    torch.set_num_threads(1)
    step(param, optimizer)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("backend", ["numba", "eager"])
def test_a_shared_adam_counts_the_steps_of_all_processes(start: str, backend: str) -> None:
    """As in asynchronous actor-critic training; here one process steps after another."""
    param = torch.linspace(-1, 1, 2**17).requires_grad_()
    optimizer = Optimizer([param], recipes.adam(lr=0.1), backend=backend)
    param.share_memory_()
    optimizer.state[param] = {
        "step": torch.zeros(1).share_memory_(),
        "exp_avg": torch.zeros_like(param).share_memory_(),
        "exp_avg_sq": torch.zeros_like(param).share_memory_(),
    }
    for _ in range(2):
        process = processes.get_context(start).Process(target=step_shared, args=(param, optimizer))
        process.start()
        process.join(120)
        assert process.exitcode == 0
    step(param, optimizer)
    assert float(optimizer.state[param]["step"]) == 3 * STEPS
    torch.testing.assert_close(param.detach(), expected(3 * STEPS))


def step_sent(sent: bytes, queue: Queue[Any]) -> None:
    torch.set_num_threads(1)
    optimizer = pickle.loads(sent)
    (param,) = optimizer.param_groups[0]["params"]
    step(param, optimizer)
    queue.put(param.detach().numpy())


def test_a_pickled_optimizer_steps_in_another_process() -> None:
    param, optimizer = made()
    step(param, optimizer)
    context = processes.get_context("spawn")
    queue: Queue[Any] = context.Queue()
    process = context.Process(target=step_sent, args=(pickle.dumps(optimizer), queue))
    process.start()
    found = torch.from_numpy(queue.get(timeout=120))
    process.join(60)
    assert torch.equal(found, expected(2 * STEPS))
    assert torch.equal(param.detach(), expected(STEPS))


@pytest.mark.usefixtures("two_threads")
def test_two_optimizers_step_in_two_threads() -> None:
    right = expected(4 * STEPS)
    sides = [made() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            list(pool.map(lambda side: step(*side), sides))
    for param, _ in sides:
        assert torch.equal(param.detach(), right)


def test_one_optimizer_may_be_stepped_by_several_threads() -> None:
    """Whose steps meet in any order, as PyTorch's do; all memory stays in order."""
    param, optimizer = made()
    gradient = torch.ones_like(param)

    def work(_: int) -> None:
        for _ in range(50):
            param.grad = gradient.clone()
            optimizer.step()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert param.isfinite().all()
    assert 50 <= float(optimizer.state[param]["step"]) <= 200


def test_a_copy_shares_nothing() -> None:
    param, optimizer = made()
    step(param, optimizer)
    twin = copy.deepcopy(optimizer)
    (other,) = twin.param_groups[0]["params"]
    step(param, optimizer)
    step(other, twin, 2 * STEPS)
    assert torch.equal(param.detach(), expected(2 * STEPS))
    assert float(twin.state[other]["step"]) == 3 * STEPS


@pytest.mark.usefixtures("two_threads")
def test_parameters_that_share_memory_are_stepped_one_after_the_other() -> None:
    found = []
    for module in (optim, torch.optim):
        generator = torch.Generator().manual_seed(0)
        whole = torch.zeros(2**17)
        params = [whole.requires_grad_(), whole.detach().requires_grad_()]
        optimizer = module.Adam(params, lr=0.1)
        for _ in range(100):
            for param in params:
                param.grad = torch.randn(2**17, generator=generator)
            optimizer.step()
        found.append(whole.detach())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


LATE = """
import atexit, threading, torch
torch.set_num_threads(2)
from thalweg.optim import Adam
param = torch.zeros(2**18, requires_grad=True)
optimizer = Adam([param], lr=0.5)
def step():
    param.grad = torch.ones_like(param)
    optimizer.step()
    print(float(param.detach().mean()), flush=True)
def late():
    threading.main_thread().join()
    step()
step()
threading.Thread(target=late).start()
atexit.register(step)
"""


def test_steps_are_taken_while_the_interpreter_ends() -> None:
    """By a thread that outlives the main one, and by what is called at the exit."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert list(map(float, done.stdout.split())) == pytest.approx([-0.5, -1.0, -1.5])


FEW_THREADS = """
import threading, torch
torch.set_num_threads(4)
from thalweg.optim import Adam
started, start = [], threading.Thread.start
def limited(thread):
    if started:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)
threading.Thread.start = limited
param = torch.zeros(2**20, requires_grad=True)
optimizer = Adam([param], lr=0.5)
for _ in range(2):
    param.grad = torch.ones_like(param)
    optimizer.step()
    print(float(param.detach().min()), float(param.detach().max()))
"""


def test_a_step_needs_no_thread_that_the_system_does_not_have() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW_THREADS], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert list(map(float, done.stdout.split())) == pytest.approx([-0.5, -0.5, -1.0, -1.0])
