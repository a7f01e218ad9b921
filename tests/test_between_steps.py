"""What people do to an optimizer between two steps, against PyTorch's optimizer treated alike."""

from __future__ import annotations

import copy
import io
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from test_fuse import EVERY
from thalweg import optim, recipes, rules
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe

SHAPES = [(3, 4), (5,), ()]

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd with momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    "sgd with nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "adadelta": ("Adadelta", {}),
    "adam": ("Adam", {"lr": 0.02, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": torch.tensor(0.02, dtype=torch.float64), "weight_decay": 0.1}),
}
NAMED |= {
    name: (name, {"weight_decay": 0.1})
    for name, known in rules.NAMED.items()
    if hasattr(torch.optim, name) and not known.to
    if name not in {kind for kind, _ in NAMED.values()}
}
CHAINS: dict[str, Recipe] = {
    recipe.name: recipe for recipe in random.Random(1).sample(EVERY, 6)
} | {
    "nesterov, averaged": recipes.chain(recipes.nesterov(lr=0.05), recipes.ema(0.9)),
    "clipped adam": recipes.chain(recipes.clip_norm(0.5), recipes.adamw(lr=0.02)),
    "delta-bar-delta": recipes.delta_bar_delta(lr=0.05),
    "lion, the last averaged": recipes.chain(recipes.lion(lr=0.01), recipes.block_average(2)),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """PyTorch keeps NAdam's product, and counts of steps, in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Side:
    """An optimizer and its parameters, to which things are done."""

    def __init__(self, make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
        self.make, self.optimizer, self.steps = make, make(params), 0

    @property
    def params(self) -> list[Tensor]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def states(self) -> list[Tensor]:
        """The tensors that are kept for parameters, but for counts and numbers of a row."""
        return [
            state
            for param in self.params
            for name, state in self.optimizer.state.get(param, {}).items()
            if name not in ("step", "mu_product", "ahead", "weight")
        ]

    def numbers(self) -> list[Tensor]:
        """Parameters, and what is kept for each under the names that PyTorch has."""
        found = []
        for param in self.params:
            found.append(param.detach().double())
            kept = self.optimizer.state.get(param, {})
            found += [kept[name].double() for name in sorted(kept)]
        return found


def step(side: Side) -> None:
    generator = torch.Generator().manual_seed(side.steps)
    for param in side.params:
        noise = torch.randn(param.shape, generator=generator).to(param)
        param.grad = (param.detach() - 1).tanh() + 0.3 * noise if param.requires_grad else None
    side.optimizer.step()
    side.steps += 1


def step_without_a_gradient(side: Side) -> None:
    side.params[1].requires_grad_(False)
    step(side)
    side.params[1].requires_grad_(True)


def freeze(side: Side) -> None:
    side.params[0].requires_grad_(False)


def thaw(side: Side) -> None:
    side.params[0].requires_grad_(True)


def give_parameters_other_data(side: Side) -> None:
    for param in side.params:
        param.data = param.data.clone()


def set_parameters(side: Side) -> None:
    with torch.no_grad():
        for param in side.params:
            param.set_(param.detach().clone())


def swap_a_parameters_tensor(side: Side) -> None:
    param = side.params[0]
    param.grad = None
    other = param.detach().clone().requires_grad_(param.requires_grad)
    torch.utils.swap_tensors(param, other)


def give_states_other_data(side: Side) -> None:
    for state in side.states():
        state.data = state.data.clone()


def set_states(side: Side) -> None:
    for state in side.states():
        state.set_(state.clone())


def replace_states(side: Side) -> None:
    for kept in side.optimizer.state.values():
        kept |= {name: x.clone() for name, x in kept.items() if isinstance(x, Tensor)}


def optimizer_to_device(side: Side) -> None:
    """The public snippet, which walks over the state."""
    for kept in side.optimizer.state.values():
        for x in kept.values():
            if isinstance(x, Tensor):
                x.data = x.data.to("cpu", copy=True)


def share_states(side: Side) -> None:
    for kept in side.optimizer.state.values():
        for x in kept.values():
            x.share_memory_()


def share_parameters(side: Side) -> None:
    for param in side.params:
        param.share_memory_()


def cast_there_and_back(side: Side) -> None:
    """As `model.float()` and `model.double()` do, with the states cast alike."""
    for dtype in (torch.float32, torch.float64):
        for x in [*side.params, *side.states()]:
            x.data = x.data.to(dtype)


def lie_otherwise(side: Side) -> None:
    for x in [*side.params, *side.states()]:
        if x.dim() == 2:
            x.data = x.data.t().contiguous().t()


def forget_a_state(side: Side) -> None:
    side.optimizer.state.pop(side.params[0], None)


def save_and_load(side: Side) -> None:
    file = io.BytesIO()
    torch.save(side.optimizer.state_dict(), file)
    file.seek(0)
    side.optimizer.load_state_dict(torch.load(file, weights_only=True))


def load_into_another(side: Side) -> None:
    """Which another optimizer's further steps do not change."""
    first, side.optimizer = side.optimizer, side.make(side.params[: len(SHAPES)])
    for group in first.param_groups[1:]:
        side.optimizer.add_param_group(group)
    side.optimizer.load_state_dict(copy.deepcopy(first.state_dict()))


def copy_deeply(side: Side) -> None:
    side.optimizer = copy.deepcopy(side.optimizer)


def pickle_and_unpickle(side: Side) -> None:
    side.optimizer = pickle.loads(pickle.dumps(side.optimizer))


def change_a_rate(side: Side) -> None:
    for group in side.optimizer.param_groups:
        group["lr"] = 0.7 * group["lr"]


def change_a_rate_in_place(side: Side) -> None:
    for group in side.optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(0.7)


def change_other_settings(side: Side) -> None:
    for group in side.optimizer.param_groups:
        group["weight_decay"] = 0.05 if group["weight_decay"] == 0.0 else 0.0
        if "betas" in group:
            group["betas"] = (0.8, 0.95)


def toggle_momentum(side: Side) -> None:
    """PyTorch keeps a buffer that is not used, and begins it when it is used first."""
    for group in side.optimizer.param_groups:
        if "dampening" in group:
            group["momentum"] = 0.0 if group["momentum"] else 0.8


def add_a_group(side: Side) -> None:
    if len(side.optimizer.param_groups) == 1:
        late = torch.linspace(-1, 1, 4).requires_grad_()
        side.optimizer.add_param_group({"params": [late], "lr": 0.03})


def zero_gradients(side: Side) -> None:
    side.optimizer.zero_grad(set_to_none=False)


FOR_ALL = [
    step_without_a_gradient,
    freeze,
    thaw,
    give_parameters_other_data,
    set_parameters,
    swap_a_parameters_tensor,
    give_states_other_data,
    set_states,
    replace_states,
    optimizer_to_device,
    share_states,
    share_parameters,
    cast_there_and_back,
    lie_otherwise,
    save_and_load,
    load_into_another,
    copy_deeply,
    pickle_and_unpickle,
    change_a_rate,
    zero_gradients,
    add_a_group,
]
FOR_NAMED = [
    *FOR_ALL,
    forget_a_state,
    change_a_rate_in_place,
    change_other_settings,
    toggle_momentum,
]
Change = Callable[[Side], None]


def assert_alike(ours: Side, theirs: Side) -> None:
    for i, (mine, its) in enumerate(zip(ours.params, theirs.params, strict=True)):
        torch.testing.assert_close(
            mine, its, rtol=1e-12, atol=1e-12, msg=lambda m, i=i: f"{i}: {m}"
        )
        kept = ours.optimizer.state.get(mine, {})
        for name, state in theirs.optimizer.state.get(its, {}).items():
            torch.testing.assert_close(kept[name], state, rtol=1e-12, atol=1e-12, check_dtype=False)


def do(changes: list[Change], ours: Side, theirs: Side) -> None:
    for change in [step, *changes]:
        for side in (ours, theirs):
            change(side)
            step(side)
        assert_alike(ours, theirs)


def named(name: str) -> tuple[Side, Side]:
    kind, arguments = NAMED[name]
    made = [
        Side(
            lambda params, module=module: getattr(module, kind)(params, **copy.deepcopy(arguments))
        )
        for module in (optim, torch.optim)
    ]
    return made[0], made[1]


def by_backend(name: str) -> tuple[Side, Side]:
    made = [
        Side(lambda params, backend=backend: Optimizer(params, CHAINS[name], backend=backend))
        for backend in ("auto", "eager")
    ]
    return made[0], made[1]


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@pytest.mark.parametrize("change", FOR_NAMED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", NAMED)
def test_each_change_does_what_it_does_in_pytorch(name: str, change: Change) -> None:
    do([change, change], *named(name))


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NAMED)), st.lists(st.sampled_from(FOR_NAMED), max_size=8))
def test_any_changes_do_what_they_do_in_pytorch(name: str, changes: list[Change]) -> None:
    do(changes, *named(name))


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CHAINS)), st.lists(st.sampled_from(FOR_ALL), max_size=8))
def test_any_changes_do_what_they_do_to_the_eager_rule(name: str, changes: list[Change]) -> None:
    do(changes, *by_backend(name))


def assign(model: nn.Module) -> None:
    """The model gets other parameters, and the optimizer keeps those that it has."""
    model.load_state_dict({name: x.clone() for name, x in model.state_dict().items()}, assign=True)


def half_and_back(model: nn.Module) -> None:
    model.half()
    model.double()


def move_by_swapping(model: nn.Module) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.zero_grad()
        half_and_back(model)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize(
    "change", [assign, half_and_back, move_by_swapping, nn.Module.share_memory]
)
@pytest.mark.parametrize("name", ["adam", "sgd with momentum"])
def test_models_are_changed_between_steps(name: str, change: Callable[[nn.Module], Any]) -> None:
    kind, arguments = NAMED[name]
    found = []
    for module in (optim, torch.optim):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        held = list(model.parameters())
        optimizer = getattr(module, kind)(held, **arguments)
        for i in range(6):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 6).view(2, 3)).square().sum().backward()
            optimizer.step()
            if i == 2:
                change(model)
        found.append([*model.parameters(), *held])
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def test_a_setting_that_no_step_takes_hides_no_other_change() -> None:
    found = []
    for module in (optim, torch.optim):
        params = [torch.ones(3, requires_grad=True) for _ in range(2)]
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:]}]
        optimizer = module.SGD(groups, lr=0.1)
        for param in params:
            param.grad = torch.ones(3)
        optimizer.step()
        decayed, plain = optimizer.param_groups
        decayed["lr"], plain["lr"] = "fast", 0.01
        with pytest.raises((TypeError, ValueError)):
            optimizer.step()
        decayed["lr"] = 0.02
        optimizer.step()
        found.append(params)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_a_warning_that_is_an_error_prepares_no_step_by_half() -> None:
    found = []
    for module in (optim, torch.optim):
        params = [torch.ones(3, requires_grad=True), torch.ones(3, 3, requires_grad=True)]
        params[1].data = params[1].data[:, :2]
        optimizer = module.Adam(params, lr=0.1)
        for param in params:
            param.grad = torch.ones_like(param)
        if module is optim:
            with warnings.catch_warnings(), pytest.raises(UserWarning, match="stepped eagerly"):
                warnings.simplefilter("error")
                optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
        found.append(params)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
def test_a_model_made_half_is_stepped_as_by_the_eager_rule() -> None:
    found = []
    for backend in ("auto", "eager"):
        torch.manual_seed(0)
        model = nn.Linear(3, 2).float()
        optimizer = Optimizer(model.parameters(), recipes.adam(lr=0.1), backend=backend)
        for cast in (model.float, model.bfloat16, model.half, model.float):
            cast()
            for param in model.parameters():
                param.grad = torch.full_like(param, 0.5)
            optimizer.step()
        kept = [optimizer.state[param]["exp_avg"] for param in model.parameters()]
        found.append([*model.parameters(), *kept])
    torch.testing.assert_close(*found)
