"""Triton's kernels against the eager arithmetic of the same chain.

On a GPU where there is one, else on the CPU in Triton's interpreter.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import test_arithmetic
import test_matrices
import test_sums
from test_fuse import CHAINS, assert_close
from thalweg import recipes, rules
from thalweg.fuse.choice import kernel_on
from thalweg.fuse.triton_kernel import BLOCK, TritonKernel
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe
from thalweg.stack import rows

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", torch.cuda.current_device()) if GPU else torch.device("cpu")
if not GPU:
    # Triton reads it when it is first imported.
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed")

SHAPES = [(), (0,), (7,), (3, 5), (BLOCK + 3,)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]

RANDOM = {
    "stochastic rounding": recipes.chain(
        recipes.sgd(), rules.StochasticRounding(seed=2**31 - 1), recipes.ema(0.9)
    )
}


def both(
    recipe: Recipe, dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES
) -> list[tuple[list[Tensor], Optimizer]]:
    sides = []
    for backend in ("triton", "eager"):
        params = [made(shape, dtype, seed).requires_grad_() for seed, shape in enumerate(shapes)]
        sides.append((params, Optimizer(params, recipe, backend=backend)))
    return sides


def made(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def give_gradients(params: list[Tensor], step: int) -> None:
    for seed, param in enumerate(params):
        param.grad = made(tuple(param.shape), param.dtype, 100 * step + seed)


def numbers(params: list[Tensor], optimizer: Optimizer) -> list[Tensor]:
    """All that a step has changed."""
    kept = [optimizer.state[p][name] for p in params for name in sorted(optimizer.state[p])]
    return [*params, *(state.to(DEVICE) for state in kept)]


def allowed(source: str, dtype: torch.dtype) -> float:
    """Units in the last place by which a step of a printed kernel may differ from the eager one."""
    if dtype is torch.float64 and "power" in source:
        # Powers are within some units of float64, and 1 - beta**t cancels most of their digits.
        return 2**14
    # PyTorch's roots are not always the nearest on the CPU, nor its quotients by a number on a GPU.
    differ = GPU or any(word in source for word in ("sqrt", "power", "sums_1"))
    return 4 if differ else 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CHAINS | RANDOM)
def test_each_step_of_a_kernel_is_the_eager_one(name: str, dtype: torch.dtype) -> None:
    (params, fused), (others, eager) = both((CHAINS | RANDOM)[name], dtype)
    for step in range(3):
        give_gradients(params, step)
        give_gradients(others, step)
        fused.step()
        eager.step()
        assert not fused.fusing.left
        ulps = allowed(fused.kernel_source(), dtype)
        assert_close(numbers(params, fused), numbers(others, eager), ulps)
        # From here both go on from the same numbers, so that each step is judged alone.
        for one, other in zip(params, others, strict=True):
            one.data.copy_(other)
            for key, state in eager.state[other].items():
                fused.state[one][key].copy_(state)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["clip by value, tail average", "amsgrad", "lion", "sgd"])
def test_numbers_that_are_not_finite_go_where_they_go_eagerly(
    name: str, dtype: torch.dtype, bad: float
) -> None:
    (params, fused), (others, eager) = both(CHAINS[name], dtype, [(5,)])
    for step in range(2):
        for side in (params, others):
            give_gradients(side, step)
            assert side[0].grad is not None
            side[0].grad[2] = bad
        fused.step()
        eager.step()
    for one, other in zip(numbers(params, fused), numbers(others, eager), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_no_kind_of_not_a_number_is_lost_in_bfloat16() -> None:
    """A GPU's own has all bits set, which rounding up would make a 0."""
    (params, optimizer), _ = both(recipes.momentum(), torch.bfloat16, [(4,)])
    for step in range(2):
        give_gradients(params, step)
        optimizer.step()
        (velocity,) = (v for k, v in optimizer.state[params[0]].items() if k != "step")
        velocity[1:3] = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32)
    assert params[0].isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functions_of_elements_are_numpys(dtype: torch.dtype) -> None:
    test_arithmetic.test_functions_of_elements_are_numpys("triton", dtype, DEVICE)


@pytest.mark.parametrize("lr", [0.3, 0.5, 2.5])
def test_functions_of_a_setting_are_numpys(lr: float) -> None:
    test_arithmetic.test_functions_of_a_setting_are_numpys("triton", lr, DEVICE)


TRACED = [name for name in test_sums.CASES if name not in test_sums.UNTRACED]


@pytest.mark.parametrize("dtypes", test_sums.KINDS, ids=str)
@pytest.mark.parametrize("name", TRACED)
def test_sums_are_those_of_the_formula(name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    test_sums.test_sums_are_those_of_the_formula(name, dtypes, "triton", SHAPES, DEVICE)


@pytest.mark.parametrize("name", TRACED)
def test_sums_in_a_stack_are_each_members_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_triton(*asked: Any) -> Any:
        kernels.append(kernel_on(*asked, backend="triton"))
        return kernels[-1]

    kernels: list[Any] = []
    monkeypatch.setattr(rows, "kernel_on", of_triton)
    test_sums.test_sums_in_a_stack_are_each_members_own(name, SHAPES, DEVICE)
    assert {type(kernel) for kernel in kernels} == {TritonKernel}


@pytest.mark.parametrize("dtypes", test_sums.KINDS, ids=str)
@pytest.mark.parametrize("name", ["clip, muon, decay", "adafactor", "two of them"])
def test_rules_on_matrices_are_their_formula(name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    formula = test_matrices.test_a_rule_on_matrices_is_its_formula_in_any_chain
    formula(name, dtypes, "triton", device=DEVICE)


def test_late_and_moved_tensors_and_groups_with_rates_of_their_own() -> None:
    sides = []
    for backend in ("triton", "eager"):
        params = [made((4,), torch.float32, seed).requires_grad_() for seed in range(3)]
        groups = [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.01}]
        optimizer = Optimizer(groups, recipes.nadam(), backend=backend)
        for step in range(4):
            give_gradients(params, step)
            if step < 2:
                params[0].grad = None
            if step == 3:
                params[1].data = params[1].data.clone()
            optimizer.param_groups[1]["lr"] *= 2
            optimizer.step()
        sides.append(numbers(params, optimizer))
    assert_close(*sides, ulps=16)


def test_kernels_can_be_read() -> None:
    (params, fused), _ = both(recipes.adam(), torch.float32)
    give_gradients(params, 0)
    source = fused.kernel_source()
    assert "new_exp_avg = x" in source
    assert "tl.store(param_ptr, new_param, inside)" in source
    assert max(map(len, source.splitlines())) <= 100


@pytest.mark.skipif(GPU, reason="Triton steps tensors on a GPU")
def test_tensors_on_the_cpu_are_left_where_nothing_interprets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    (params, optimizer), _ = both(recipes.adam(), torch.float32, [(3,)])
    give_gradients(params, 0)
    with pytest.warns(UserWarning, match="1 of 1 tensors are stepped eagerly"):
        optimizer.step()


@pytest.mark.skipif(not GPU, reason="only a GPU runs on while the host goes ahead")
@pytest.mark.parametrize("name", ["nadam", "clip by norm of decayed gradients"])
def test_a_step_does_not_wait_for_the_gpu(name: str) -> None:
    (params, optimizer), _ = both(CHAINS[name], torch.float32)
    for step in range(3):
        give_gradients(params, step)
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from thalweg import recipes
from thalweg.fuse.triton_kernel import BLOCK, TritonKernel

recipe = recipes.chain(recipes.clip_norm(1.0), recipes.nadam(), recipes.stochastic_rounding())
chain = tuple(type(rule) for rule in recipe.rules)
integers = "tensors tensor_of starts lengths row_of are_wide firsts counts".split()
types = {f"{name}_ptr": "*i64" for name in integers} | {"width": "i32"}
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    kernel = TritonKernel(chain, dtype, False, torch.device("cuda"))
    for name in ("rows", "sums_1", "fold_add", "tiles"):
        function = getattr(kernel.module, name)
        signature = {arg: types.get(arg, "*fp64") for arg in function.arg_names}
        constants = {"LAST": True} if name == "rows" else {"BLOCK": BLOCK}
        signature |= dict.fromkeys(constants, "constexpr")
        compiled = triton.compile(
            ASTSource(function, signature, constants),
            target=GPUTarget("cuda", 80, 32),
            options={"enable_fp_fusion": False},
        )
        print("//", dtype, name)
        print(compiled.asm["ptx"])
"""


def test_kernels_compile_for_a_gpu_with_exact_roots_and_quotients(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    parts = dict(part.split("\n", 1) for part in run.stdout.split("// torch.")[1:])
    assert len(parts) == 12
    for name, real in (("float32", "f32"), ("bfloat16", "f32"), ("float64", "f64")):
        ptx = parts[f"{name} tiles"]
        assert f"div.rn.{real}" in ptx
        assert f"sqrt.rn.{real}" in ptx
        for inexact in ("fma.", ".approx", "div.full", ".ftz"):
            assert inexact not in ptx
