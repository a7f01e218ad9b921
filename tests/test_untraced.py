"""Optimizers inside what `torch.compile` compiles: Dynamo stays out, the training is the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR

import thalweg
from thalweg import optim, recipes, schedules

SIZES = (8, 8, 8, 5, 6, 7)
"""Sizes of batches that Dynamo compiles for twice: for the first, and then for any."""

Step = Callable[[Tensor], Any]
Door = Callable[[nn.Sequential], tuple[Step, list[Optimizer]]]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def traced() -> Iterator[set[str]]:
    """The files of what Dynamo has compiled."""
    from torch._dynamo.convert_frame import register_bytecode_hook

    files: set[str] = set()
    hook = register_bytecode_hook(lambda code, _: files.add(code.co_filename))
    yield files
    hook.remove()
    torch._dynamo.reset()


def is_of_an_optimizer(file: str) -> bool:
    ours = Path(thalweg.__file__).parent in Path(file).parents
    return ours or file == sys.modules["torch.optim.optimizer"].__file__


def trained(door: Door, sizes: Sequence[int] = (8, 8, 8), **compilation: Any) -> list[Any]:
    """What the steps return, and the weights and the states behind the last of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    step, optimizers = door(model)
    step = torch.compile(step, **compilation) if compilation else step
    returned = [step(torch.randn(size, 4)) for size in sizes]
    states = [each.state_dict() for each in optimizers]
    return [returned, [param.detach() for param in model.parameters()], states]


def same(found: list[Any], expected: list[Any]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def learn(model: nn.Module, optimizer: Optimizer, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def plain(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    return lambda x: learn(model, optimizer, x), [optimizer]


def eager(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Optimizer(model.parameters(), recipes.adam(lr=0.1), backend="eager")
    return lambda x: learn(model, optimizer, x), [optimizer]


def closure(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Any:
        def loss() -> Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        return optimizer.step(loss).detach() + x.sum()

    return step, [optimizer]


def evaluation(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Nesterov(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        learn(model, optimizer, x)
        with optimizer.evaluation():
            return model(x).detach()

    return step, [optimizer]


def plateau(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=schedules.plateau(0.1, patience=1))

    def step(x: Tensor) -> float:
        learn(model, optimizer, x)
        optimizer.observe(validation=1.0)
        return optimizer.last_lr

    return step, [optimizer]


def state(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        loss = learn(model, optimizer, x)
        optimizer.load_state_dict(optimizer.state_dict())
        return loss

    return step, [optimizer]


def added(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)

    def step(x: Tensor) -> Tensor:
        if len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.2})
        return learn(model, optimizer, x)

    return step, [optimizer]


def made_inside(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    params = list(model.parameters())

    def step(x: Tensor) -> Tensor:
        return learn(model, optim.Optimizer(params, recipes.adam(lr=0.1)), x)

    return step, []


def hooks(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_value_(model.parameters(), 0.1))
    optimizer.register_step_post_hook(lambda *_: model[0].bias.data.zero_())
    return lambda x: learn(model, optimizer, x), [optimizer]


def scheduler(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    scheduler = ExponentialLR(optimizer, 0.9)

    def step(x: Tensor) -> Tensor:
        loss = learn(model, optimizer, x)
        scheduler.step()
        return loss

    return step, [optimizer]


def accumulation(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        model(x[:3]).square().mean().backward()
        return learn(model, optimizer, x[3:])

    return step, [optimizer]


def several(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    first = optim.Adam(model[0].parameters(), lr=0.1)
    second = optim.SGD(model[2].parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        loss = learn(model, first, x)
        second.step()
        second.zero_grad()
        return loss

    return step, [first, second]


class Halved(optim.Adam):
    def step(self, closure: Any = None) -> Any:
        for param in self.parameters():
            param.grad *= 0.5
        return super().step(closure)


def subclass(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizer = Halved(model.parameters(), lr=0.1)
    return lambda x: learn(model, optimizer, x), [optimizer]


def in_the_backward_pass(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
    optimizers = {param: optim.Adam([param], lr=0.1) for param in model.parameters()}

    def stepped(param: Tensor) -> None:
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in optimizers:
        param.register_post_accumulate_grad_hook(stepped)

    def step(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        return loss.detach()

    return step, list(optimizers.values())


DOORS: list[Door] = [
    plain, eager, closure, evaluation, plateau, state, added, made_inside, hooks, scheduler,
    accumulation, several, subclass, in_the_backward_pass,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_dynamo_stays_out_and_the_training_is_the_same(door: Door, traced: set[str]) -> None:
    found = trained(door, backend="eager")
    assert __file__ in traced
    assert not list(filter(is_of_an_optimizer, traced))
    same(found, trained(door))


@pytest.mark.parametrize(
    "compilation",
    [
        {"backend": "aot_eager"},
        {"backend": "aot_eager", "dynamic": True},
        pytest.param({"mode": "reduce-overhead"}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_compiled_gradients_are_read_at_every_step(
    compilation: dict[str, Any], traced: set[str]
) -> None:
    found = trained(plain, SIZES, **compilation)
    assert __file__ in traced
    same(found, trained(plain, SIZES))


def test_compiled_autograd_steps_in_the_backward_pass(traced: set[str]) -> None:
    with torch._dynamo.config.patch(compiled_autograd=True):
        found = trained(in_the_backward_pass, backend="eager")
    assert not list(filter(is_of_an_optimizer, traced))
    same(found, trained(in_the_backward_pass))


def test_a_step_that_is_compiled_alone_is_run_as_it_is(traced: set[str]) -> None:
    def compiled(model: nn.Sequential) -> tuple[Step, list[Optimizer]]:
        step, [optimizer] = plain(model)
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
        return step, [optimizer]

    same(trained(compiled), trained(plain))
    assert not traced


@pytest.mark.parametrize("door", [plain, evaluation, made_inside, subclass])
def test_one_graph_of_a_whole_step_is_refused_with_the_reason(door: Door) -> None:
    with pytest.raises(RuntimeError, match="cannot trace an optimizer of thalweg"):
        trained(door, backend="eager", fullgraph=True)


def test_a_function_that_a_subclass_borrows_can_be_compiled() -> None:
    class Borrowing(optim.Adam):
        together = nn.utils.parameters_to_vector

    together = torch.compile(Borrowing.together, backend="eager", fullgraph=True)
    assert together([torch.ones(2), torch.zeros(1, 1)]).tolist() == [1, 1, 0]


def test_a_training_that_is_not_compiled_never_imports_the_compiler() -> None:
    script = """
import sys
import torch
from thalweg import optim, recipes

def trained(optimizer):
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    optimizer.load_state_dict(optimizer.state_dict())
    with optimizer.evaluation():
        model(torch.ones(2, 3))

model = torch.nn.Linear(3, 1)
trained(optim.Nesterov(model.parameters(), lr=0.1))
trained(optim.Optimizer(model.parameters(), recipes.adam(lr=0.1), backend="eager"))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
