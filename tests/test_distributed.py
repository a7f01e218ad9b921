"""The drop-in optimizers in two processes, against one process that does the same."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_reduce
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from test_matrices import Shampoo
from test_sums import OneAfterTheOther
from thalweg import optim, recipes, rules, schedules
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain
from thalweg.rules.arithmetic import norm
from thalweg.rules.rule import Rule

WORLD = 2
STEPS = 4

# Rules that work element by element take one path, so some of them stand for all.
RECIPES: dict[str, Recipe] = {
    **{name: recipes.named(name).replace(lr=0.1) for name in ("adam", "lion", "lamb", "adafactor")},
    "sgd behind a clip": chain(recipes.clip_norm(0.05), recipes.sgd(lr=0.5)),
    "adam behind a clip": chain(recipes.clip_norm(0.05), recipes.adam(lr=0.1)),
    "nadam, averaged": chain(recipes.nadam(lr=0.1), recipes.ema(0.9)),
    "lamb behind a clip": chain(recipes.clip_norm(0.05), recipes.lamb(lr=0.1)),
    "sums one after the other": chain(OneAfterTheOther()),
    "a clip in front of routes": chain(
        recipes.clip_norm(0.05),
        recipes.route(("matrix", recipes.sgd(lr=0.5)), default=chain(OneAfterTheOther())),
    ),
    "nesterov, the last averaged": chain(recipes.nesterov(lr=0.1), recipes.tail_average(3)),
}
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
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo's may abort an interpreter that ends


def model_of_one_seed() -> nn.Module:
    """Its last bias, of one number, leaves one of two processes without any of it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int | None = None
) -> None:
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


def alone(recipe: Recipe) -> Numbers:
    model = model_of_one_seed()
    optimizer = Optimizer(model, recipe)
    train(model, optimizer, range(STEPS))
    return numbers(optimizer)


def assert_same(found: Numbers, expected: Numbers, case: str) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-9, atol=1e-12, msg=lambda text: f"{case}: {text}"
        )


def but_the_first_layer(model: nn.Module) -> nn.Module:
    """Sharded, but for the first layer, which each process has, with the mean of the gradients."""
    whole_ones = list(model.get_submodule("0").parameters())
    for param in whole_ones:
        param.register_post_accumulate_grad_hook(mean_gradient)
    return fully_shard(model, ignored_params=set(whole_ones))


def mean_gradient(param: Tensor) -> None:
    assert param.grad is not None
    dist.all_reduce(param.grad)
    param.grad /= WORLD


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "replicated": DistributedDataParallel,
    "sharded": fully_shard,
    "some sharded": but_the_first_layer,
    "replicated shards": lambda model: fully_shard(
        model, mesh=init_device_mesh("cpu", (WORLD, 1), mesh_dim_names=("replicas", "shards"))
    ),
}


def tensor_parallel(model: nn.Module) -> nn.Module:
    plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (WORLD,)), plan)


FEWER, UNEVEN = 2, "sgd behind a clip"


def alone_on_uneven_data() -> Numbers:
    """Gradients are divided by the number of all processes when one has run out of data, too."""
    model = model_of_one_seed()
    optimizer = Optimizer(model.parameters(), RECIPES[UNEVEN])
    train(model, optimizer, range(FEWER))
    for param in model.parameters():
        param.register_hook(lambda grad: grad / WORLD)
    train(model, optimizer, range(FEWER, STEPS), rank=0)
    return numbers(optimizer)


def trained(rank: int, _: Path) -> list[tuple[str, str, Numbers]]:
    found = []
    for way, spread in WAYS.items():
        for name, recipe in RECIPES.items():
            for backend in ("numba", "eager"):
                model = spread(model_of_one_seed())
                optimizer = Optimizer(model, recipe, backend=backend)
                train(model, optimizer, range(STEPS), rank)
                if backend == "numba" and "last" not in name:
                    assert not optimizer.fusing.left, "each shard has its kernel"
                found.append((f"{way}, {name}, {backend}", name, numbers(optimizer)))
    for name, recipe in RECIPES.items():
        model = tensor_parallel(model_of_one_seed())
        optimizer = Optimizer(model, recipe)
        train(model, optimizer, range(STEPS))
        found.append((f"tensor parallel, {name}", name, numbers(optimizer)))
    model = DistributedDataParallel(model_of_one_seed())
    optimizer = Optimizer(model.parameters(), RECIPES[UNEVEN])
    with model.join():
        train(model, optimizer, range(STEPS if rank == 0 else FEWER), rank)
    found.append(("uneven data", "uneven data", numbers(optimizer)))
    return found


def test_two_processes_step_as_one(tmp_path: Path) -> None:
    expected = {name: alone(recipe) for name, recipe in RECIPES.items()}
    expected["uneven data"] = alone_on_uneven_data()
    found = in_two_processes(trained, tmp_path)
    assert len(found) == len(RECIPES) * (len(WAYS) * 2 + 1) + 1
    for case, name, theirs in found:
        assert_same(theirs, expected[name], case)


MATRICES: dict[str, Recipe] = {
    "muon behind a clip": chain(
        recipes.clip_norm(0.05), rules.Muon(lr=0.1), rules.DecoupledDecay(weight_decay=0.1)
    ),
    "adafactor": chain(rules.Adafactor(lr=0.1)),
    "shampoo, the last averaged": chain(Shampoo(lr=0.1), recipes.tail_average(3)),
}


def model_of_matrices() -> nn.Module:
    """The last one, of one row, leaves one of two processes without any of it."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 1, bias=False)
    return nn.Sequential(*layers).double()


def matrices_trained(rank: int, _: Path) -> list[tuple[str, str, Numbers]]:
    found = []
    for (way, spread), (name, recipe) in product(WAYS.items(), MATRICES.items()):
        for backend in ("numba", "eager"):
            model = spread(model_of_matrices())
            optimizer = Optimizer(model, recipe, backend=backend)
            train(model, optimizer, range(STEPS // 2), rank)
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = Optimizer(model, recipe, backend=backend)
            optimizer.load_state_dict(saved)
            train(model, optimizer, range(STEPS // 2, STEPS), rank)
            found.append((f"{way}, {name}, {backend}", name, numbers(optimizer)))
    return found


def test_two_processes_step_whole_matrices_of_which_each_has_a_part(tmp_path: Path) -> None:
    def expected(recipe: Recipe) -> Numbers:
        model = model_of_matrices()
        optimizer = Optimizer(model, recipe)
        train(model, optimizer, range(STEPS))
        return numbers(optimizer)

    right = {name: expected(recipe) for name, recipe in MATRICES.items()}
    found = in_two_processes(matrices_trained, tmp_path)
    assert len(found) == len(WAYS) * len(MATRICES) * 2
    for case, name, theirs in found:
        assert_same(theirs, right[name], case)


CLIPPED = RECIPES["adam behind a clip"]
"""Its kernel and its arithmetic on whole tensors both take a norm."""


class Unit(Rule):
    """g <- g / norm(g)."""

    def update(self, g: Any) -> Any:
        return g / norm(g, over="model")


TWO_NORMS = chain(recipes.clip_norm(0.05), recipes.sgd(lr=0.5), Unit())
"""Each of them is a sum over all processes."""

UNTRACED = chain(TWO_NORMS, recipes.tail_average(last=3))
"""It has no kernel, and asks for one sum after the other."""


def rows(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, generator=generator, dtype=torch.float64)


def by_hand(rank: int, _: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (WORLD,))
    found: dict[str, Any] = {
        "all-reduces": [],
        "all-reduces of two passes": [],
        "lost": [],
        "copied": [],
    }
    for backend in ("numba", "eager"):

        def made(*placements: Any, backend: str = backend) -> tuple[DTensor, Optimizer]:
            param = distribute_tensor(rows(0), mesh, placements).requires_grad_()
            return param, Optimizer([param], CLIPPED, backend=backend)

        # The second process has no gradient.
        lone, optimizer = made(Shard(0))
        lone.grad = distribute_tensor(rows(1), mesh, [Shard(0)])
        if rank == 1:
            lone.grad = None
        with CommDebugMode() as communication:
            optimizer.step()
        found["all-reduces"].append(communication.get_total_counts())
        found[f"lone, {backend}"] = [lone.to_local().detach()]

        for name, recipe in (("two norms", TWO_NORMS), ("untraced", UNTRACED)):
            lone = distribute_tensor(rows(0), mesh, [Shard(0)]).requires_grad_()
            optimizer = Optimizer([lone], recipe, backend=backend)
            lone.grad = distribute_tensor(rows(1), mesh, [Shard(0)])
            if rank == 1:
                lone.grad = None
            optimizer.step()
            found[f"lone, {name}, {backend}"] = [lone.to_local().detach()]

        # Two passes, and a divergence in one process that the largest number must not hide.
        spread = distribute_tensor(rows(0), mesh, [Shard(0)]).requires_grad_()
        optimizer = Optimizer([spread], RECIPES["lamb behind a clip"], backend=backend)
        spread.grad = distribute_tensor(rows(1), mesh, [Shard(0)])
        with CommDebugMode() as communication:
            optimizer.step()
        found["all-reduces of two passes"].append(communication.get_total_counts())
        optimizer = Optimizer([spread], chain(OneAfterTheOther()), backend=backend)
        spread.grad = distribute_tensor(rows(1), mesh, [Shard(0)])
        if rank == 1:
            spread.grad.to_local().fill_(torch.nan)
        optimizer.step()
        found["lost"].append(bool(whole(spread).isfinite().any()))

        # Gradients that every process has all of, and that are parts of a sum.
        param, optimizer = made(Shard(0))
        param.grad = distribute_tensor(rows(1), mesh, [Replicate()])
        optimizer.step()
        found[f"whole gradients, {backend}"] = [whole(param)]
        param, optimizer = made(Replicate())
        param.grad = DTensor.from_local(rows(1) / WORLD, mesh, [Partial()])
        optimizer.step()
        found[f"parts of gradients, {backend}"] = [whole(param)]

        twin = copy.deepcopy(optimizer)
        (copied,) = twin.param_groups[0]["params"]
        for each, one in ((param, optimizer), (copied, twin)):
            each.grad = distribute_tensor(rows(2), mesh, [Replicate()])
            one.step()
        found["copied"].append(
            bool(copied is not param and torch.equal(whole(copied), whole(param)))
        )

        param, optimizer = made(Shard(0))
        param.grad = distribute_tensor(rows(1), mesh, [Shard(0)])
        optimizer.step()
        saved = optimizer.state_dict()
        saved["state"][0]["exp_avg"] = whole(saved["state"][0]["exp_avg"])
        with pytest.raises(UserError, match=r"has the shape \(3, 2\) in the state, but"):
            optimizer.load_state_dict(saved)
    return found


def test_gradients_that_lie_otherwise_or_nowhere(tmp_path: Path) -> None:
    def stepped(param: Tensor, grad: Tensor, recipe: Recipe = CLIPPED) -> Numbers:
        param.requires_grad_().grad = grad
        Optimizer([param], recipe).step()
        return [param.detach()]

    found = in_two_processes(by_hand, tmp_path)
    # A chunk of three rows in two has two of them.
    lone = stepped(rows(0)[:2], rows(1)[:2])
    twice = stepped(rows(0)[:2], rows(1)[:2], TWO_NORMS)
    untraced = stepped(rows(0)[:2], rows(1)[:2], UNTRACED)
    everywhere = stepped(rows(0), rows(1))
    for backend in ("numba", "eager"):
        assert_same(found[f"lone, {backend}"], lone, f"lone, {backend}")
        assert_same(found[f"lone, two norms, {backend}"], twice, f"lone, two norms, {backend}")
        assert_same(found[f"lone, untraced, {backend}"], untraced, f"lone, untraced, {backend}")
        for case in (f"whole gradients, {backend}", f"parts of gradients, {backend}"):
            assert_same(found[case], everywhere, case)
    assert found["all-reduces"] == [1, 1]
    assert found["all-reduces of two passes"] == [2, 2]
    assert found["lost"] == [False, False]
    assert found["copied"] == [True, True]


SAVED = chain(
    recipes.clip_norm(0.05),
    recipes.nadam(
        lr=schedules.plateau(0.1, gamma=0.5, patience=0),
        betas=(schedules.warming(0.5, 0.9, steps=8), 0.999),
    ),
    recipes.ema(0.9),
)
"""A norm, numbers of the row, and schedules that count steps and remember a metric."""

HALF, END = range(4), range(4, 8)


def begun(model: nn.Module, rank: int | None = None) -> Optimizer:
    """After half the steps."""
    optimizer = Optimizer(model.parameters(), SAVED)
    train(model, optimizer, HALF, rank)
    for metric in (1.0, 1.0):
        optimizer.observe(validation=metric)
    return optimizer


def save(model: nn.Module, optimizer: Optimizer, file: Path) -> None:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    dcp.save(
        {"model": of_model, "optimizer": of_optimizer},
        checkpoint_id=file,
        no_dist=not dist.is_initialized(),
    )


def gone_on(model: nn.Module, file: Path, rank: int | None = None) -> Numbers:
    """After the other half, from a checkpoint."""
    optimizer = Optimizer(model.parameters(), SAVED)
    of_model, of_optimizer = get_state_dict(model, optimizer)
    dcp.load(
        {"model": of_model, "optimizer": of_optimizer},
        checkpoint_id=file,
        no_dist=not dist.is_initialized(),
    )
    set_state_dict(model, optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)
    train(model, optimizer, END, rank)
    return numbers(optimizer)


def saved_and_gone_on(rank: int, folder: Path) -> Numbers:
    model = fully_shard(model_of_one_seed())
    save(model, begun(model, rank), folder / "of two")
    return gone_on(fully_shard(model_of_one_seed()), folder / "of one", rank)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    model = model_of_one_seed()
    optimizer = begun(model)
    save(model, optimizer, tmp_path / "of one")
    train(model, optimizer, END)
    expected = numbers(optimizer)
    assert_same(in_two_processes(saved_and_gone_on, tmp_path), expected, "from one to two")
    assert_same(gone_on(model_of_one_seed(), tmp_path / "of two"), expected, "from two to one")


PARTS = {
    "parts that look alike": (torch.float64, 2, 2),
    "a process without a gradient": (torch.float64, 2, 1),
    "a process without a parameter": (torch.float64, 1, 1),
    "half precision": (torch.bfloat16, 4, 4),
}
"""The type and the number of parameters, and how many have a gradient."""


UNDER_ZERO = ["sgd behind a clip", "sums one after the other"]


def stepped_by_hand(case: str, name: str, made: Callable[..., Any]) -> Numbers:
    """Parameters after a step, with a closure, of the optimizer that `made` gives for them."""
    dtype, n, with_gradient = PARTS[case]
    params = [rows(0).to(dtype).requires_grad_() for _ in range(n)]

    def closure() -> float:
        for seed, param in enumerate(params[:with_gradient]):
            param.grad = rows(seed).to(dtype)
        return 0.5

    assert made(params, recipe=RECIPES[name]).step(closure) == 0.5
    return [param.detach() for param in params]


def evaluated(model: nn.Module, optimizer: Optimizer) -> Numbers:
    """The parameters that a model is evaluated at, and those that it trains at."""
    with optimizer.evaluation():
        found = list(map(whole, model.parameters()))
    return found + list(map(whole, model.parameters()))


def of_zero(rank: int, folder: Path) -> dict[str, Numbers]:
    found = {}
    for case, name, backend in product(PARTS, UNDER_ZERO, ("numba", "eager")):
        made = partial(ZeroRedundancyOptimizer, optimizer_class=Optimizer, backend=backend)
        found[f"{case}, {name}, {backend}"] = stepped_by_hand(case, name, made)

    def zero(model: nn.Module) -> ZeroRedundancyOptimizer:
        return ZeroRedundancyOptimizer(
            model.parameters(), partial(Optimizer, recipe=SAVED), parameters_as_bucket_view=True
        )

    model = model_of_one_seed()
    optimizer = zero(model)
    train(model, optimizer, HALF)
    for metric in (1.0, 1.0):
        optimizer.optim.observe(validation=metric)
    found["half"] = evaluated(model, optimizer.optim)

    optimizer.consolidate_state_dict()
    if rank == 0:
        torch.save((model.state_dict(), optimizer.state_dict()), folder / "of two.pt")
        with copy.deepcopy(optimizer.optim).evaluation():
            pass  # a copy has no processes to wait for
    model = model_of_one_seed()
    optimizer = zero(model)
    of_model, of_optimizer = torch.load(folder / "of one.pt")
    model.load_state_dict(of_model)
    optimizer.load_state_dict(of_optimizer)
    train(model, optimizer, END)
    found["from one to two"] = evaluated(model, optimizer.optim)
    return found


def test_two_processes_under_zero_step_as_one(tmp_path: Path) -> None:
    model = model_of_one_seed()
    optimizer = begun(model)
    half = evaluated(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "of one.pt")
    train(model, optimizer, END)
    end = evaluated(model, optimizer)

    found = in_two_processes(of_zero, tmp_path)
    for case, name, backend in product(PARTS, UNDER_ZERO, ("numba", "eager")):
        expected = stepped_by_hand(case, name, partial(Optimizer, backend=backend))
        every = f"{case}, {name}, {backend}"
        assert_same(found[every], expected, every)
    assert_same(found["half"], half, "half")
    assert_same(found["from one to two"], end, "from one to two")
    model = model_of_one_seed()
    optimizer = Optimizer(model.parameters(), SAVED)
    of_model, of_optimizer = torch.load(tmp_path / "of two.pt")
    model.load_state_dict(of_model)
    optimizer.load_state_dict(of_optimizer)
    train(model, optimizer, END)
    assert_same(evaluated(model, optimizer), end, "from two to one")


@pytest.fixture
def lone_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("lone_process")
@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
def test_a_gradient_may_still_be_on_its_way() -> None:
    """As the functional collectives give it; the first arithmetic waits for it."""
    found = []
    for module in (optim, torch.optim):
        param = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = module.Adam([param], lr=0.1)
        for value in (1.0, 3.0):
            param.grad = all_reduce(torch.full_like(param, value), "sum", dist.group.WORLD)
            assert isinstance(param.grad, AsyncCollectiveTensor)
            optimizer.step()
        found.append(param)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("lone_process")
def test_no_routes_are_taken_where_groups_cannot_be_split() -> None:
    params = list(model_of_one_seed().parameters())
    with pytest.raises(UserError, match="a recipe under it can have no routes: give it groups"):
        ZeroRedundancyOptimizer(params, Optimizer, recipe=RECIPES["a clip in front of routes"])


def with_flat_parameters(model: nn.Module, named: bool) -> nn.Module:
    return FullyShardedDataParallel(model, use_orig_params=named, device_id=torch.device("cpu"))


@pytest.mark.usefixtures("lone_process")
@pytest.mark.filterwarnings("ignore:FSDP is switching")
def test_no_norm_is_taken_of_parameters_that_do_not_tell_their_part() -> None:
    clipped = RECIPES["sgd behind a clip"]
    for named in (True, False):
        model = with_flat_parameters(model_of_one_seed(), named)
        with pytest.raises(UserError, match="leave clip_norm out"):
            Optimizer(model.parameters(), clipped)
        train(model, Optimizer(model.parameters(), RECIPES["adam"]), range(1))

    model = model_of_one_seed()
    optimizer = Optimizer(model.parameters(), clipped)
    with pytest.raises(UserError, match="leave clip_norm out"):
        train(with_flat_parameters(model, named=True), optimizer, range(1))
