"""Compiled kernels against the eager arithmetic of the same chain."""

from __future__ import annotations

import copy
import multiprocessing
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from thalweg import optim, recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.fuse.threads import share
from thalweg.optim import Optimizer
from thalweg.recipes import RECIPES, Recipe
from thalweg.rules.rule import Hyper, State

SHAPES = [(), (0,), (1,), (7,), (3, 5), (2, 3, 4), (1000,)]

CHAINS: dict[str, Recipe] = {
    name: recipe for name, make in RECIPES.items() if not (recipe := make()).routes
} | {
    "sgd with PyTorch's momentum": recipes.chain(rules.SGDMomentum(dampening=0.2)),
    "sgd with PyTorch's nesterov": recipes.chain(rules.SGDNesterov()),
    "rmsprop with momentum": recipes.rmsprop(momentum=0.8),
    "centered rmsprop": recipes.chain(rules.CenteredRMSprop()),
    "centered rmsprop with momentum": recipes.chain(rules.CenteredRMSpropMomentum()),
    "l2 decay": recipes.adam(weight_decay=0.1),
    "clip by value, tail average": recipes.chain(
        recipes.clip_value(0.5), recipes.adam(), recipes.tail_average(last=3, steps=6)
    ),
    "clip by norm of decayed gradients": recipes.chain(
        rules.L2Decay(weight_decay=0.1), recipes.clip_norm(0.5), rules.SGD()
    ),
    "block average": recipes.chain(recipes.nesterov(), recipes.block_average(last=2)),
    "exponential average": recipes.chain(recipes.lion(), recipes.ema(0.9)),
    "rounded at random": recipes.chain(recipes.sgd(), recipes.stochastic_rounding(seed=3)),
    "scheduled": recipes.nesterov(
        lr=schedules.linear(0.1, steps=5), momentum=schedules.warming(steps=5)
    ),
}


def parameters(dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return [param.to(dtype).requires_grad_() for param in made]


def give_gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        made = torch.randn(param.shape, dtype=torch.float64, generator=generator)
        param.grad = made.to(param.dtype)


def both(
    recipe: Recipe, dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES
) -> list[tuple[list[Tensor], Optimizer]]:
    sides = []
    for backend in ("numba", "eager"):
        params = parameters(dtype, shapes)
        sides.append((params, Optimizer(params, recipe, backend=backend)))
    return sides


def numbers(params: list[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that a step has changed."""
    kept = [optimizer.state[p][name] for p in params for name in sorted(optimizer.state[p])]
    return [*params, *kept]


def assert_close(
    ours: list[Tensor], theirs: list[Tensor], ulps: float, sizes: list[float] | None = None
) -> None:
    """sizes: the numbers that the units in the last place are of; else the largest of each."""
    for one, other, size in zip(ours, theirs, sizes or map(largest, theirs), strict=True):
        unit = torch.finfo(one.dtype).eps
        torch.testing.assert_close(one, other, rtol=0, atol=ulps * unit * size)


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


CASES = [(name, dtype) for name in CHAINS for dtype in (torch.float32, torch.float64)]
CASES += [(name, torch.bfloat16) for name in ("adam", "lion", "scheduled", "rounded at random")]
CASES += [("clip by norm of decayed gradients", torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_each_step_of_a_kernel_is_the_eager_one(name: str, dtype: torch.dtype) -> None:
    (params, fused), (others, eager) = both(CHAINS[name], dtype)
    for step in range(6):
        give_gradients(params, step)
        give_gradients(others, step)
        fused.step()
        eager.step()
        assert_close(params, others, ulps=2)
        # A squared update has the rounding errors of its roots twice.
        assert_close(numbers(params, fused), numbers(others, eager), ulps=4)
        # From here both go on from the same numbers, so that each step is judged alone.
        for one, other in zip(params, others, strict=True):
            one.data.copy_(other)
            for key, state in eager.state[other].items():
                fused.state[one][key].copy_(state)
    assert fused.kernel_source()


FRONTS = [None, rules.ClipValue(clip_value=0.5), rules.ClipNorm(), rules.L2Decay(weight_decay=0.1)]
STEPPING = [r() for r in rules.RULES.values() if "lr" in r.hypers and not r.matrices]
BEHIND = [None, rules.DecoupledDecay(weight_decay=0.1)]
LAST = [
    None,
    rules.TailAverage(last=2, steps=3),
    rules.BlockAverage(last=2),
    rules.ExponentialAverage(),
]
EVERY = [
    recipes.chain(*filter(None, parts), name="+".join(type(p).__name__ for p in parts if p))
    for parts in product(FRONTS, STEPPING, BEHIND, LAST)
    if sum("weight_decay" in part.hypers for part in parts if part) < 2  # one a recipe
]
POOL = random.Random(0).sample(EVERY, 16)
"""Chains that the suite has time to compile."""

SIZES = st.one_of(st.integers(0, 70), st.sampled_from([2**16 - 1, 2**16 + 1, 2**18 + 3]))


def assert_chains_agree(recipe: Recipe, sizes: list[int], offset: int) -> None:
    """A few steps of tensors that begin so many elements into their memory."""
    sides = []
    for backend in ("numba", "eager"):
        whole = parameters(torch.float32, [(size + offset,) for size in sizes])
        params = [param.detach()[offset:].requires_grad_() for param in whole]
        sides.append((params, Optimizer(params, recipe, backend=backend)))
    sizes: list[float] = []
    for step in range(3):
        for params, optimizer in sides:
            give_gradients(params, step)
            optimizer.step()
        # Steps in opposite directions leave the rounding errors of what they have cancelled.
        now = list(map(largest, numbers(*sides[1])))
        sizes = list(map(max, sizes or now, now))
    assert_close(*(numbers(*side) for side in sides), ulps=16, sizes=sizes)


@settings(max_examples=40)
@given(st.sampled_from(POOL), st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 17))
def test_chains_of_any_rules_at_any_size_and_alignment(
    recipe: Recipe, sizes: list[int], offset: int
) -> None:
    assert_chains_agree(recipe, sizes, offset)


@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_every_chain(recipe: Recipe) -> None:
    assert_chains_agree(recipe, [0, 1, 1000, 2**20], offset=3)


def test_many_tiles_and_odd_alignments() -> None:
    sides = []
    for backend in ("numba", "eager"):
        whole = torch.randn(2**18 + 9, generator=torch.Generator().manual_seed(0))
        params = [whole[1 : 2**17 + 4].detach(), whole[2**17 + 5 :].detach()]
        optimizer = Optimizer([p.requires_grad_() for p in params], recipes.adam(), backend=backend)
        give_gradients(params, 0)
        optimizer.step()
        sides.append(numbers(params, optimizer))
    assert_close(*sides, ulps=4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["clip by value, tail average", "amsgrad", "adam", "sgd"])
def test_numbers_that_are_not_finite_go_where_they_go_eagerly(name: str, bad: float) -> None:
    (params, fused), (others, eager) = both(CHAINS[name], torch.float32, [(5,)])
    for step in range(2):
        for side in (params, others):
            give_gradients(side, step)
            assert side[0].grad is not None
            side[0].grad[2] = bad
        fused.step()
        eager.step()
    torch.testing.assert_close(params[0], others[0], equal_nan=True)


def made_late(params: list[Tensor], step: int) -> None:
    if step < 2:
        params[3].grad = None


def not_contiguous(params: list[Tensor], _: int) -> None:
    assert params[4].grad is not None
    params[4].grad = params[4].grad.t().contiguous().t()


def expanded(params: list[Tensor], _: int) -> None:
    params[6].grad = torch.ones(1).expand(1000)


def elsewhere(params: list[Tensor], step: int) -> None:
    if step == 2:
        params[6].data = params[6].data.clone()


@pytest.mark.parametrize("change", [made_late, not_contiguous, expanded, elsewhere])
@pytest.mark.parametrize("name", ["adam", "nadam", "clip by norm of decayed gradients"])
def test_tensors_that_come_late_move_or_lie_otherwise(
    name: str, change: Callable[[list[Tensor], int], None]
) -> None:
    (params, fused), (others, eager) = both(CHAINS[name], torch.float32)
    fused.backend = "auto"
    for step in range(4):
        for side in (params, others):
            give_gradients(side, step)
            change(side, step)
        fused.step()
        eager.step()
    assert_close(numbers(params, fused), numbers(others, eager), ulps=32)


@pytest.mark.parametrize("backend", ["auto", "numba"])
def test_what_no_kernel_takes_is_said_once(backend: str) -> None:
    params = parameters(torch.float32, [(3, 5), (4,)])
    optimizer = Optimizer(params, recipes.adam(), backend=backend)
    with pytest.warns(UserWarning, match="1 of 2 tensors are stepped eagerly") as told:
        for step in range(3):
            give_gradients(params, step)
            params[0].grad = torch.ones(1, 1).expand(3, 5)
            optimizer.step()
    assert len(told) == 1


def test_without_numbas_compiler_the_arithmetic_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which people switch off to debug, or to measure the coverage of tests."""
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    (params, fused), (others, eager) = both(RECIPES["adam"](), torch.float32)
    fused.backend = "auto"
    give_gradients(params, 0)
    give_gradients(others, 0)
    with pytest.warns(UserWarning, match="stepped eagerly"):
        fused.step()
    eager.step()
    assert_close(numbers(params, fused), numbers(others, eager), ulps=0)


def test_groups_that_climb() -> None:
    sides = []
    for backend in ("numba", "eager"):
        params = parameters(torch.float32, [(4,), (5,)])
        groups = [{"params": params[:1], "maximize": True}, {"params": params[1:]}]
        optimizer = Optimizer(groups, recipes.nesterov(), backend=backend)
        for step in range(2):
            give_gradients(params, step)
            optimizer.step()
        assert not optimizer.fusing.left
        sides.append(numbers(params, optimizer))
    assert_close(*sides, ulps=4)


def test_groups_have_rates_of_their_own_that_may_change() -> None:
    sides = []
    for backend in ("numba", "eager"):
        params = parameters(torch.float32, [(4,), (5,)])
        groups = [{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.01}]
        optimizer = Optimizer(groups, recipes.adam(), backend=backend)
        for step in range(4):
            give_gradients(params, step)
            optimizer.param_groups[1]["lr"] *= 2
            optimizer.step()
        sides.append(numbers(params, optimizer))
    assert_close(*sides, ulps=16)


@pytest.mark.parametrize("name", ["adam", "nadam", "nesterov"])
def test_a_saved_state_goes_on_in_the_other_backend(name: str) -> None:
    (params, fused), (others, eager) = both(CHAINS[name], torch.float64)
    for step in range(2):
        give_gradients(params, step)
        give_gradients(others, step)
        fused.step()
        eager.step()
    fused_state, eager_state = copy.deepcopy((fused.state_dict(), eager.state_dict()))
    fused.load_state_dict(eager_state)
    eager.load_state_dict(fused_state)
    for step in range(2, 4):
        give_gradients(params, step)
        give_gradients(others, step)
        fused.step()
        eager.step()
    assert_close(numbers(params, fused), numbers(others, eager), ulps=32)


def test_a_copy_steps_its_own_parameters() -> None:
    params = parameters(torch.float32, [(4,)])
    optimizer = optim.Adam(params)
    give_gradients(params, 0)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    before = params[0].detach().clone()
    (copied,) = twin.param_groups[0]["params"]
    copied.grad = torch.ones(4)
    twin.step()
    assert torch.equal(params[0], before)
    assert float(optimizer.state[params[0]]["step"]) == 1


def momentum_forgotten(optimizer: Optimizer, param: Tensor) -> None:
    optimizer.state[param]["exp_avg"] = torch.zeros_like(param)


def all_forgotten(optimizer: Optimizer, param: Tensor) -> None:
    optimizer.state[param] = {}


def in_double_precision(_: Optimizer, param: Tensor) -> None:
    param.data, param.grad = param.data.double(), None


def transposed(_: Optimizer, param: Tensor) -> None:
    param.data = param.data.t()


@pytest.mark.parametrize(
    "change", [momentum_forgotten, all_forgotten, in_double_precision, transposed]
)
def test_what_changes_between_steps_is_seen(change: Callable[[Optimizer, Tensor], None]) -> None:
    sides = []
    for backend in ("auto", "eager"):
        (param,) = parameters(torch.float32, [(40, 40)])
        optimizer = Optimizer([param], recipes.adam(), backend=backend)
        for step in range(6):
            if step == 3:
                change(optimizer, param)
            give_gradients([param], step)
            optimizer.step()
        sides.append(numbers([param], optimizer))
    torch.testing.assert_close(*sides, rtol=1e-5, atol=1e-6)


def zero(grad: Tensor) -> Tensor:
    return torch._efficientzerotensor(grad.shape)


def negated(grad: Tensor) -> Tensor:
    return torch.complex(grad, -grad).conj().imag


def sparse(grad: Tensor) -> Tensor:
    return grad.to_sparse()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", [zero, negated, sparse])
def test_gradients_of_another_kind_come_and_go(kind: Callable[[Tensor], Tensor], size: int) -> None:
    sides = []
    for backend in ("auto", "eager"):
        (param,) = parameters(torch.float32, [(size,)])
        optimizer = Optimizer([param], recipes.sgd(), backend=backend)
        for step in range(4):
            give_gradients([param], step)
            if step % 2:
                assert param.grad is not None
                param.grad = kind(param.grad)
            optimizer.step()
        sides.append(numbers([param], optimizer))
    assert_close(*sides, ulps=8)


@pytest.mark.parametrize("of", ["param", "grad", "exp_avg"])
@pytest.mark.parametrize("size", [0, 8])
def test_memory_that_was_given_away_is_not_touched(of: str, size: int) -> None:
    (param,) = parameters(torch.float32, [(300,)])
    optimizer = Optimizer([param], recipes.adam(), backend="numba")
    for step in range(2):
        give_gradients([param], step)
        if step == 0:
            optimizer.step()
    found = {"param": param, "grad": param.grad, "exp_avg": optimizer.state[param]["exp_avg"]}[of]
    assert found is not None
    whole = found.detach().clone()
    found.untyped_storage().resize_(size)
    with pytest.raises(UserError, match="was freed or made smaller"):
        optimizer.step()
    found.untyped_storage().resize_(4 * 300)
    found.data.copy_(whole)
    optimizer.step()
    assert float(optimizer.state[param]["step"]) == 2


class Absolute(rules.Rule):
    def update(self, g: Tensor) -> Tensor:
        return g.abs()


class Weighted(rules.Rule):
    def update(self, g: Tensor) -> Tensor:
        return g * torch.full((3,), 2.0)


class Odd(rules.Rule):
    """Its names are words of the printed code."""

    range, float_ = Hyper(0.5), Hyper(0.25)
    total, sums = State(), State()

    def update(self, g: Tensor) -> Tensor:
        self.total = self.total + self.range * g
        self.sums = self.sums + self.float_ * self.total
        return g + self.sums * (-0.5) ** self.t


@pytest.mark.parametrize("front", [[Absolute()], [Weighted()], [Odd()]])
def test_rules_of_a_users_own(front: list[rules.Rule]) -> None:
    sides = []
    for backend in ("auto", "eager"):
        params = parameters(torch.float32, [(3,), (3,)])
        optimizer = Optimizer(params, recipes.chain(*front, recipes.sgd()), backend=backend)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        sides.append(numbers(params, optimizer))
    assert_close(*sides, ulps=8)


def test_a_step_that_fails_leaves_the_next_ones_right() -> None:
    params = parameters(torch.float32, [(3,), (3,), (3,)])
    optimizer = Optimizer(params, recipes.adam())
    for step, without in enumerate([None, 1, 1]):
        give_gradients(params, step)
        if without is not None:
            params[without].grad = None
        optimizer.step()
    good = optimizer.state[params[1]]["exp_avg"]
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(5)
    give_gradients(params, 3)
    with pytest.raises(UserError, match="exp_avg has the shape"):
        optimizer.step()
    optimizer.state[params[1]]["exp_avg"] = good
    params[1].grad = None
    optimizer.step()
    assert [int(optimizer.state[param]["step"]) for param in params] == [4, 1, 4]


def test_autograd_is_told_that_parameters_have_changed() -> None:
    (param,) = parameters(torch.float32, [(4,)])
    loss = (param**3).sum()
    give_gradients([param], 0)
    Optimizer([param], recipes.sgd(), backend="numba").step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


@pytest.mark.usefixtures("two_threads")
def test_threads_take_each_piece_once_and_failures_come_through() -> None:
    taken: list[tuple[int, int]] = []
    pieces = [(i, i + 1) for i in range(1000)]
    share(lambda first, last: taken.append((first, last)), pieces)
    assert sorted(taken) == pieces
    with pytest.raises(ZeroDivisionError):
        share(lambda first, _: 1 // (first - 500), pieces)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, TimeoutError])
def test_what_a_signal_raises_comes_when_all_threads_have_done_their_work(
    raised: type[BaseException],
) -> None:
    """They write to memory that may be freed as soon as the step has ended."""
    begun, done = threading.Event(), threading.Event()

    def work(_first: int, _last: int) -> None:
        if threading.current_thread() is threading.main_thread():
            begun.wait()
            return
        begun.set()
        time.sleep(0.1)  # until the main thread waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        time.sleep(0.1)
        done.set()

    def handler(*_: Any) -> None:
        raise raised

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(raised):
            share(work, [(0, 1), (1, 2)])
        assert done.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)


def large() -> tuple[Tensor, Optimizer]:
    """A parameter of several tiles, after one step, with the gradient of the next."""
    param = torch.zeros(2**18, requires_grad=True)
    optimizer = Optimizer([param], recipes.adam(), backend="numba")
    for step in range(2):
        give_gradients([param], step)
        if step == 0:
            optimizer.step()
    return param, optimizer


@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_goes_on() -> None:
    """Its threads are new ones: those of its parent are not in it."""
    (param, optimizer), (other, expected) = large(), large()
    expected.step()
    right = other.detach().numpy().copy()

    def child() -> None:
        optimizer.step()
        helped = any(thread.name.startswith("thalweg") for thread in threading.enumerate())
        sys.exit(int(not (helped and np.array_equal(param.detach().numpy(), right))))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0


class Steps(Dataset[Tensor]):
    """Samples that are made with an optimizer, in whatever process a loader asks for them."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, _: int) -> Tensor:
        param, optimizer = large()
        optimizer.step()
        return param.detach()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_loader_step_as_their_parent_does(start: str) -> None:
    right = Steps()[0]
    loader = DataLoader(Steps(), batch_size=None, num_workers=2, multiprocessing_context=start)
    for found in loader:
        assert torch.equal(found, right)


def test_kernels_can_be_read() -> None:
    source = Optimizer(parameters(torch.float32), recipes.adam()).kernel_source()
    assert "new_exp_avg" in source
    assert "param_array[i] = new_param" in source
    assert source.count("for i in range(n):") == 1


def test_an_exact_window_has_no_kernel() -> None:
    windowed = recipes.chain(recipes.sgd(), recipes.tail_average(last=3))
    assert Optimizer(parameters(torch.float32), windowed).kernel_source() == ""


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="no backend is called nunba; did you mean numba"):
        Optimizer(parameters(torch.float32), recipes.adam(), backend="nunba")
