"""The contracts that PyTorch tests its own optimizers for, over the table that drives its tests.

`optim_db` has an entry for each optimizer of PyTorch, with the settings that it is tested with and
the input that it must refuse. Every optimizer of ours that has PyTorch's name goes through all of
them. PyTorch's own optimizer is the truth wherever numbers are compared.
"""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from test_optim import through_a_file
from thalweg import optim, rules

with pytest.MonkeyPatch.context() as patch:
    # The import would choose examples and freeze flags for the tests of other files too.
    profile = settings.get_current_profile_name()
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    from torch.testing._internal.common_optimizers import optim_db

    settings.load_profile(profile)


pytestmark = pytest.mark.filterwarnings("ignore:.* are stepped eagerly")

STEPS = 7

CANNOT = {
    r"test_what_pytorch_refuses_is_refused\[AdamW?, .*(foreach|both floats or both Tensors)": (
        "ours takes a tensor of one number wherever a number stands, under every flag"
    ),
    r"test_groups_may_decay_differently\[Adagrad, initial_accumulator_value": (
        "PyTorch takes the start of the sum from the constructor; ours takes each group's own"
    ),
    r"test_a_differentiable_step_passes_gradients_on": (
        "a kernel writes in place, where autograd cannot follow it"
    ),
}
"""The cases that cannot be had, and why. They run, and must go on failing."""


@pytest.fixture(autouse=True)
def known_to_fail(request: pytest.FixtureRequest) -> None:
    for pattern, reason in CANNOT.items():
        if re.match(pattern, request.node.name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@dataclass(frozen=True)
class Case:
    """An optimizer's entry, and one of the settings that it is tested with."""

    entry: Any
    given: Any

    @property
    def settings(self) -> dict[str, Any]:
        """A copy, since schedulers write into a rate that is a tensor."""
        return copy.deepcopy(self.given.kwargs)

    def ours(self, params: Any, **more: Any) -> Any:
        return getattr(optim, self.entry.name)(params, **{**self.settings, **more})

    def theirs(self, params: Any, **more: Any) -> Any:
        return self.entry.optim_cls(params, **{**self.settings, **more})

    def both(self, params: list[Tensor], **more: Any) -> list[Any]:
        """Ours and PyTorch's, each on parameters of its own."""
        return [make(copy.deepcopy(params), **more) for make in (self.ours, self.theirs)]

    def __str__(self) -> str:
        return f"{self.entry.name}, {self.given.desc}"


ALIKE = [name for name, known in rules.NAMED.items() if not known.to]
"""Those with routes have several groups, and take other tensors: test_matrices.py holds them."""

ENTRIES = [entry for entry in optim_db if entry.name in ALIKE]
CASES = [Case(entry, given) for entry in ENTRIES for given in entry.optim_inputs_func(device="cpu")]
PLAIN = [case for case in CASES if case.given.desc == "default"]

FULL = list({case.entry.name: case for case in CASES}.values())

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_optimizer = pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.entry.name)
where_fused = pytest.mark.parametrize(
    "case", [case for case in CASES if "fused" in case.entry.supported_impls], ids=str
)


@pytest.fixture
def double() -> Iterator[None]:
    """PyTorch keeps ages and NAdam's product in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


in_double = pytest.mark.usefixtures("double")


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator)


def weights(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A matrix, a vector and a number."""
    shapes: list[tuple[int, ...]] = [(4, 3), (4,), ()]
    return [randn(*s, dtype=dtype, seed=i).requires_grad_() for i, s in enumerate(shapes)]


def named(params: list[Tensor], name: str | None) -> list[Any]:
    return [(f"{name} {i}", param) for i, param in enumerate(params)] if name else params


def params_of(optimizer: Any) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def loss_of(params: list[Tensor]) -> Tensor:
    """A bowl with waves, lowest at about -0.45 in every number."""
    return torch.stack([(param.square() + param.sin()).sum() for param in params]).sum()


def backward(optimizer: Any) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(params_of(optimizer))
    loss.backward()
    return loss.detach()


def train(optimizer: Any, steps: int = STEPS) -> None:
    for _ in range(steps):
        backward(optimizer)
        optimizer.step()


def close(ours: Any, theirs: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def agree(ours: Any, theirs: Any) -> None:
    """Parameters, and all states that PyTorch has."""
    for mine, its in zip(params_of(ours), params_of(theirs), strict=True):
        close(mine, its)
        state = ours.state[mine]
        for key, value in theirs.state[its].items():
            close(state[key].to(value.dtype), value)


# What is refused.

REFUSED = [
    pytest.param(entry, error, id=f"{entry.name}, {error.optimizer_error_input.desc}")
    for entry in ENTRIES
    for error in entry.optim_error_inputs_func(device="cpu", dtype=torch.float32)
]


@pytest.mark.parametrize(("entry", "error"), REFUSED)
def test_what_pytorch_refuses_is_refused(entry: Any, error: Any) -> None:
    """With an error of PyTorch's type, which names the setting; that of parameters is PyTorch's."""
    given = error.optimizer_error_input
    wrong = given.kwargs if len(given.kwargs) == 1 else given.kwargs.keys() - {"lr"}
    sense = "|".join(wrong) if wrong else error.error_regex
    caught = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
    with caught(error.error_type, match=sense):
        getattr(optim, entry.name)(given.params, **given.kwargs)


@every_optimizer
def test_a_refused_setting_is_refused_in_a_later_group_too(case: Case) -> None:
    first, *others = weights()
    optimizer = case.ours([first])
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": others, "lr": torch.tensor([0.1, 0.1])})
    assert len(optimizer.param_groups) == 1


# The way down.


@every_case
def test_strided_parameters_step_as_contiguous_ones(case: Case) -> None:
    strided = [torch.stack([p, p], -1).detach()[..., 0].requires_grad_() for p in weights()]
    optimizers = case.ours(weights()), case.ours(strided)
    for optimizer in optimizers:
        train(optimizer)
    close(*map(params_of, optimizers))


@every_case
def test_the_loss_goes_the_right_way_under_schedulers(case: Case) -> None:
    for makers in case.entry.scheduler_inputs:
        optimizer = case.ours(weights())
        goes_right(optimizer, [make(optimizer) for make in makers])


@every_optimizer
def test_groups_go_the_right_way_under_schedulers(case: Case) -> None:
    for makers in case.entry.scheduler_inputs:
        first, *others = weights()
        optimizer = case.ours([{"params": [first]}, {"params": others, "lr": 0.01}])
        goes_right(optimizer, [make(optimizer) for make in makers])


def goes_right(optimizer: Any, schedulers: list[Any]) -> None:
    before = loss_of(params_of(optimizer))
    for _ in range(20):
        loss = backward(optimizer)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*[loss] if isinstance(scheduler, ReduceLROnPlateau) else [])
    after = loss_of(params_of(optimizer))
    assert after > before if optimizer.param_groups[0]["maximize"] else after < before


# The same numbers as PyTorch's.


@every_case
@in_double
def test_steps_and_states_are_pytorchs(case: Case) -> None:
    """Also where gradients are missing for a step, and where one parameter is frozen for two."""
    ours, theirs = case.both(weights())
    for i in range(STEPS):
        for optimizer in (ours, theirs):
            params_of(optimizer)[0].requires_grad_(i not in (3, 4))
            backward(optimizer)
            if i == 2:
                optimizer.zero_grad()
            optimizer.step()
        agree(ours, theirs)


def test_nadam_differs_from_pytorchs_by_its_float32_product_alone() -> None:
    """PyTorch rounds the product of the momenta to the default precision; ours is float64."""
    (nadam,) = [case for case in PLAIN if case.entry.name == "NAdam"]
    ours, theirs = nadam.both(weights())
    exact = nadam.theirs(weights())
    for param in params_of(exact):
        zeros = torch.zeros_like(param)
        exact.state[param] = {
            "step": torch.tensor(0.0),
            "exp_avg": zeros,
            "exp_avg_sq": zeros.clone(),
        }
        exact.state[param]["mu_product"] = torch.tensor(1.0, dtype=torch.float64)
    for optimizer in (ours, theirs, exact):
        train(optimizer)
    agree(ours, exact)
    with pytest.raises(AssertionError):
        close(params_of(ours), params_of(theirs))
    close(params_of(ours), params_of(theirs), 1e-9)


@every_case
@in_double
def test_a_rate_may_be_a_tensor(case: Case) -> None:
    ours, theirs = case.both(weights(), lr=torch.tensor(1e-3))
    by_number = case.ours(weights(), lr=1e-3)
    for optimizer in (ours, theirs, by_number):
        train(optimizer)
    same(params_of(ours), params_of(by_number))
    agree(ours, theirs)


@every_optimizer
def test_a_rate_that_is_a_tensor_may_be_changed_in_place(case: Case) -> None:
    """As PyTorch's schedulers do: the group holds the person's own tensor."""
    rate = torch.tensor(1e-3)
    optimizer = case.ours(weights(), lr=rate)
    assert optimizer.param_groups[0]["lr"] is rate
    train(optimizer, 1)
    rate.zero_()
    before = copy.deepcopy(params_of(optimizer))
    train(optimizer, 1)
    same(params_of(optimizer), before)


@every_case
@in_double
def test_groups_may_decay_differently(case: Case) -> None:
    def made(make: Callable[..., Any]) -> Any:
        first, *others = weights()
        plain = {**case.settings, "weight_decay": 0.0}
        return make([{"params": [first], **case.settings}, {"params": others, **plain}])

    ours, theirs = made(getattr(optim, case.entry.name)), made(case.entry.optim_cls)
    train(ours)
    train(theirs)
    agree(ours, theirs)


@every_case
def test_groups_may_have_rates_of_their_own(case: Case) -> None:
    first, *others = weights()
    rate = case.settings.get("lr", 1e-3)
    optimizer = case.ours([{"params": [first], "lr": rate}, {"params": others}], lr=1e-28)
    train(optimizer)
    same(others, weights()[1:])
    assert not torch.equal(first, weights()[0])


@every_case
def test_complex_numbers_are_pairs_of_real_ones(case: Case) -> None:
    """Beside a real parameter."""
    some = [randn(4, 3, dtype=torch.complex64), randn(4, dtype=torch.complex64), randn(4, 3)]
    pairs = [torch.view_as_real(x).clone() if x.is_complex() else x.clone() for x in some]
    complex_, real = case.ours(some), case.ours(pairs)
    for i in range(3):
        for x, pair in zip(some, pairs, strict=True):
            pair.grad = randn(*pair.shape, dtype=pair.dtype, seed=i)
            x.grad = torch.view_as_complex(pair.grad) if x.is_complex() else pair.grad
        complex_.step()
        real.step()
    close([torch.view_as_real(x) if x.is_complex() else x for x in some], pairs, 1e-6)


@every_case
def test_complex_gradients_are_those_of_both_parts(case: Case) -> None:
    """Of the Rosenbrock function, in one complex number and in two real ones."""
    whole = randn(2, dtype=torch.complex128).requires_grad_()
    parts = [whole.real.detach().clone(), whole.imag.detach().clone()]
    in_one, in_two = case.ours([whole]), case.ours([part.requires_grad_() for part in parts])
    for _ in range(3):
        for x, y in (whole, torch.complex(*parts)):
            ((1 - x) ** 2 + 100 * (y - x**2) ** 2).abs().backward()
        in_one.step()
        in_two.step()
        in_one.zero_grad()
        in_two.zero_grad()
    close([whole.real, whole.imag], parts)


@pytest.mark.parametrize("under_schedulers", [False, True], ids=["", "under schedulers"])
@pytest.mark.parametrize("case", [case for case in CASES if case.entry.supports_sparse], ids=str)
def test_sparse_gradients_step_as_dense_ones_do(case: Case, under_schedulers: bool) -> None:
    """Of one number at a time, in two parts that have yet to be added."""
    tuned, makers = case.entry.metadata_for_sparse
    params = [torch.full((2,), 1.5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizers = [case.ours([param], **tuned) for param in params]
    schedulers = [make(each) for make in makers for each in optimizers if under_schedulers]
    for i in range(20):
        for param, optimizer in zip(params, optimizers, strict=True):
            backward(optimizer)
            param.grad[i % 2] = 0
        value = params[0].grad[(i + 1) % 2] / 4
        where, parts = torch.full((1, 2), (i + 1) % 2), torch.stack([value, 3 * value])
        params[0].grad = torch.sparse_coo_tensor(where, parts, (2,))
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*[1.0] if isinstance(scheduler, ReduceLROnPlateau) else [])
    close(*params)


# Precisions, sizes and devices.


@pytest.mark.parametrize("case", PLAIN + FULL, ids=str)
def test_half_precision_steps_are_those_of_float32_rounded(case: Case) -> None:
    """Also for gradients so small that PyTorch's own lose eps in float16, and with it the model."""
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    params = [randn(4, 3, dtype=torch.float32).to(dtype) for dtype in dtypes]
    twins = [param.to(torch.promote_types(param.dtype, torch.float32)) for param in params]
    ours, theirs = case.ours(params), case.theirs(twins)
    sizes = torch.tensor([1.0, 1e-3, 1e-5])
    for i in range(STEPS):
        for param, twin in zip(params, twins, strict=True):
            param.grad = (sizes * randn(4, 3, dtype=torch.float32, seed=i)).to(param.dtype)
            twin.grad = param.grad.to(twin.dtype)
        ours.step()
        theirs.step()
    for param, twin in zip(params, twins, strict=True):
        close(param.to(twin.dtype), twin, max(4 * torch.finfo(param.dtype).eps, 1e-9))


@pytest.mark.parametrize("default", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@every_optimizer
def test_the_default_precision_changes_the_ages_alone(case: Case, default: torch.dtype) -> None:
    usual = case.ours(weights())
    train(usual)
    torch.set_default_dtype(default)
    try:
        optimizer = case.ours(weights())
        train(optimizer)
    finally:
        torch.set_default_dtype(torch.float32)
    same(params_of(optimizer), params_of(usual))
    ages = torch.float64 if default == torch.float64 else torch.float32
    assert {state["step"].dtype for state in optimizer.state.values()} == {ages}


@every_optimizer
@in_double
def test_large_and_empty_tensors(case: Case) -> None:
    shapes: list[tuple[int, ...]] = [(300_007,), (0,), (2, 0, 3), (), (1,)]
    ours, theirs = case.both([randn(*shape).requires_grad_() for shape in shapes])
    train(ours, 2)
    train(theirs, 2)
    agree(ours, theirs)


@pytest.mark.parametrize("case", [c for c in PLAIN if "fused" in c.entry.supported_impls], ids=str)
def test_fused_refuses_a_step_on_meta(case: Case) -> None:
    """The model that is made afterwards steps."""
    params = [torch.empty(4, 3, device="meta", requires_grad=True)]
    optimizer = case.ours(params, fused=True)
    params[0].grad = torch.empty_like(params[0])
    with pytest.raises((RuntimeError, ValueError), match="meta"):
        optimizer.step()
    assert not optimizer.state
    optimizer.zero_grad()
    torch.utils.swap_tensors(params[0], weights()[0])
    whole = case.ours(weights()[:1], fused=True)
    train(optimizer)
    train(whole)
    same(params_of(optimizer), params_of(whole))


# The flags.


@every_case
def test_flags_choose_nothing(case: Case) -> None:
    plain = case.ours(weights())
    train(plain)
    for flag in {"foreach", "fused"} & set(case.entry.supported_impls):
        flagged = case.ours(weights(), **{flag: True})
        train(flagged)
        same(params_of(flagged), params_of(plain))


@every_optimizer
def test_a_differentiable_step_passes_gradients_on(case: Case) -> None:
    start = weights()[0]
    param = start.clone()
    param.grad = torch.ones_like(param)
    case.ours([param], differentiable=True).step()
    param.sum().backward()
    assert start.grad is not None


@pytest.mark.parametrize("case", [c for c in PLAIN if c.entry.has_capturable_arg], ids=str)
def test_capturable_steps_on_the_cpu_are_refused(case: Case) -> None:
    """As PyTorch refuses them: it is for CUDA graphs."""
    for make in (case.ours, case.theirs):
        with pytest.raises((ValueError, AssertionError), match="capturable"):
            train(make(weights(), capturable=True, foreach=False))


@pytest.mark.parametrize("scale", [None, 2.0], ids=str)
@where_fused
@in_double
def test_fused_heeds_what_a_scaler_hands_over(case: Case, scale: float | None) -> None:
    """No step where gradients are infinite; else that of PyTorch's from unscaled gradients."""
    ours, theirs = case.ours(weights(), fused=True), case.theirs(weights())
    for infinite in (True, False, True, False):
        backward(ours)
        ours.grad_scale = None if scale is None else torch.tensor(scale)
        ours.found_inf = torch.tensor(float(infinite))
        ours.step()
        if not infinite:
            backward(theirs)
            for param in params_of(theirs):
                param.grad /= scale or 1.0
            theirs.step()
        close(params_of(ours), params_of(theirs))
    agree(ours, theirs)


# Closures, and steps that are none.


@every_optimizer
@in_double
def test_a_closure_is_called_with_gradients_and_gives_the_loss(case: Case) -> None:
    ours, theirs = case.both(weights())
    for _ in range(STEPS):
        with torch.no_grad():
            losses = [each.step(partial(backward, each)) for each in (ours, theirs)]
        close(*losses)
    agree(ours, theirs)


@every_case
def test_without_gradients_a_step_calls_the_closure_alone(case: Case) -> None:
    params = [param.requires_grad_(False) for param in weights()]
    optimizer = case.ours(params)
    assert optimizer.step(lambda: 7.0) == 7.0
    same(params, [param.detach() for param in weights()])
    assert not optimizer.state


@every_case
@in_double
def test_zero_gradients_change_nothing_but_by_decay(case: Case) -> None:
    ours, theirs = case.both(weights())
    for optimizer in (ours, theirs):
        for param in params_of(optimizer):
            param.grad = torch.zeros_like(param)
        optimizer.step()
    close(params_of(ours), params_of(theirs))
    if "weight_decay" not in case.settings and case.entry.name != "AdamW":
        same(params_of(ours), weights())


# States and their dictionaries.


@every_case
def test_every_stepped_parameter_has_states(case: Case) -> None:
    ours, theirs = case.both(weights())
    train(ours, 1)
    train(theirs, 1)
    for mine, its in zip(params_of(ours), params_of(theirs), strict=True):
        assert ours.state[mine]
        for key, value in theirs.state[its].items():
            assert ours.state[mine][key].shape == value.shape


@every_optimizer
def test_it_prints_its_settings(case: Case) -> None:
    printed = repr(case.ours(weights()))
    assert printed.startswith(case.entry.name)
    for key in case.theirs(weights()).defaults:
        assert f"    {key}: " in printed


@every_case
def test_it_goes_on_from_a_file(case: Case) -> None:
    optimizer = case.ours(weights())
    train(optimizer)
    given = through_a_file(optimizer.state_dict())
    same(given["state"], optimizer.state_dict()["state"])
    kept = copy.deepcopy(given)
    resumed = case.ours(copy.deepcopy(params_of(optimizer)))
    resumed.load_state_dict(given)
    same(given["state"], kept["state"])
    train(optimizer)
    train(resumed)
    same(params_of(resumed), params_of(optimizer))
    same(resumed.state_dict()["state"], optimizer.state_dict()["state"])
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize("names", [("old", None), (None, "new"), ("old", "new")], ids=str)
@every_optimizer
def test_names_of_parameters_are_the_files_or_else_those_before(
    case: Case, names: tuple[str | None, str | None]
) -> None:
    wrote, resumed = [case.ours(named(weights(), name)) for name in names]
    train(wrote)
    resumed.load_state_dict(through_a_file(wrote.state_dict()))
    expected = [f"{names[0] or names[1]} {i}" for i in range(3)]
    assert resumed.state_dict()["param_groups"][0]["param_names"] == expected
    for mine, its in zip(params_of(resumed), params_of(wrote), strict=True):
        same(resumed.state[mine], wrote.state[its])


@every_optimizer
def test_the_same_parameters_are_written_the_same(case: Case) -> None:
    optimizer = case.ours(weights())
    optimizer.param_groups.extend(optimizer.param_groups)
    first, second = optimizer.state_dict()["param_groups"]
    assert first == second


@every_optimizer
def test_a_loaded_state_is_shared_with_nobody(case: Case) -> None:
    """Not even an age; PyTorch's own share all of it."""
    wrote = case.ours(weights())
    train(wrote)
    resumed = case.ours(copy.deepcopy(params_of(wrote)))
    resumed.load_state_dict(wrote.state_dict())
    kept = copy.deepcopy(resumed.state_dict()["state"])
    train(wrote)
    same(resumed.state_dict()["state"], kept)


def without_later_settings(case: Case, saved: dict[str, Any]) -> None:
    """As it was written before these settings came to PyTorch."""
    for group in saved["param_groups"]:
        for name in case.entry.not_og_supported_flags:
            group.pop(name, None)


def with_numbers(_: Case, saved: dict[str, Any]) -> None:
    """As it was written when ages were numbers of Python."""
    for state in saved["state"].values():
        numbers = {k: v.item() for k, v in state.items() if k in ("step", "mu_product")}
        state.update(numbers)


@pytest.mark.parametrize("older", [without_later_settings, with_numbers])
@every_case
@in_double
def test_older_files_load(case: Case, older: Callable[..., None]) -> None:
    wrote = case.theirs(weights())
    train(wrote)
    saved = copy.deepcopy(wrote.state_dict())
    older(case, saved)
    ours, theirs = case.both(params_of(wrote))
    for each in (ours, theirs):
        each.load_state_dict(copy.deepcopy(saved))
        train(each)
    agree(ours, theirs)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@every_optimizer
def test_loaded_states_are_cast_to_their_parameters(case: Case, dtype: torch.dtype) -> None:
    """But states of half-precision weights are float32 here, and ages are never cast."""
    wrote = case.theirs(weights(torch.float32))
    train(wrote)
    optimizer = case.ours([param.detach().to(dtype) for param in params_of(wrote)])
    optimizer.load_state_dict(wrote.state_dict())
    for mine, its in zip(params_of(optimizer), params_of(wrote), strict=True):
        for key, value in wrote.state[its].items():
            alone = key in ("step", "mu_product")
            kept = optimizer.state[mine][key]
            assert alone or kept.dtype == torch.promote_types(dtype, torch.float32)
            close(kept.double(), value.double())


# Copies.


@every_case
def test_a_deep_copy_has_all_that_the_original_has(case: Case) -> None:
    optimizer = case.ours(weights())
    train(optimizer)
    twin = copy.deepcopy(optimizer)
    assert {n for n in vars(twin) if n[0] != "_"} == {n for n in vars(optimizer) if n[0] != "_"}
    train(optimizer)
    train(twin)
    same(params_of(twin), params_of(optimizer))


@every_optimizer
def test_it_is_freed_as_soon_as_it_is_dropped(case: Case) -> None:
    """With its states, without waiting for the collector of garbage."""
    optimizer = case.ours(weights())
    train(optimizer)
    dropped = weakref.ref(optimizer)
    del optimizer
    assert dropped() is None


# Hooks.


@every_optimizer
def test_hooks_on_writing_a_state(case: Case) -> None:
    optimizer = case.ours(weights())
    optimizer.register_state_dict_pre_hook(lambda each: each.state.update(note=1))
    assert optimizer.state_dict()["state"] == {"note": 1}
    optimizer.register_state_dict_post_hook(lambda _, written: {**written, "state": {}})
    assert optimizer.state_dict()["state"] == {}
    train(optimizer, 2)
    assert optimizer.state["note"] == 1


@every_optimizer
def test_hooks_on_loading_a_state(case: Case) -> None:
    """One may change what is given in place, another gives something else; in this order."""
    optimizer = case.ours(weights())
    rates: list[float] = []

    def in_place(_: Any, given: dict[str, Any]) -> None:
        given["param_groups"][0]["lr"] = 0.002

    def another(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        group = {**given["param_groups"][0], "lr": 0.003}
        return {**given, "param_groups": [group]}

    optimizer.register_load_state_dict_post_hook(lambda o: rates.append(o.param_groups[0]["lr"]))
    optimizer.register_load_state_dict_pre_hook(in_place)
    optimizer.load_state_dict(optimizer.state_dict())
    handle = optimizer.register_load_state_dict_pre_hook(another, prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    handle.remove()
    optimizer.register_load_state_dict_pre_hook(another)
    optimizer.load_state_dict(optimizer.state_dict())
    assert rates == [0.002, 0.002, 0.003]


@every_optimizer
def test_hooks_on_steps(case: Case) -> None:
    """Those of all optimizers stand outside of its own; none is called once it is removed."""
    heard: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda *_: heard.append(name)

    optimizer, other = case.ours(weights()), case.theirs(weights())
    handles = [
        register_optimizer_step_pre_hook(hook("all before")),
        register_optimizer_step_post_hook(hook("all after")),
        optimizer.register_step_pre_hook(hook("before")),
        optimizer.register_step_post_hook(hook("after")),
    ]
    train(optimizer, 2)
    train(other, 1)
    for handle in handles:
        handle.remove()
    train(optimizer, 1)
    once = ["all before", "before", "after", "all after"]
    assert heard == [*once, *once, "all before", "all after"]
