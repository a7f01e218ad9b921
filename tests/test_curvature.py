"""Curvature: products, eigenvalues, spectra, traces and condition numbers against exact ones."""

from __future__ import annotations

import gc
import math
import resource
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from patients import (
    Matrix,
    batch_of,
    bowl,
    exact,
    first,
    objective_of,
    random_symmetric,
    small_network,
    small_objective,
)
from thalweg.doctor.curvature.condition_number import condition_number
from thalweg.doctor.curvature.curvature import Curvature, Preconditioned
from thalweg.doctor.curvature.eigenvalues import extremes
from thalweg.doctor.curvature.gauss_newton import GaussNewton
from thalweg.doctor.curvature.hessian import Hessian
from thalweg.doctor.curvature.lanczos import Lanczos
from thalweg.doctor.curvature.spectrum import spectrum
from thalweg.doctor.curvature.trace import diagonal_share, trace
from thalweg.doctor.objective.objective import Objective
from thalweg.errors import UserError
from thalweg.stack.population import initial_model
from thalweg.tasks import find

SMALL = ("diabetes", "waveform", "ravine", "ravine-rotated", "rosenbrock", "saddle", "cliff")


def all_of(curvature: Curvature) -> Tensor:
    return curvature.times(torch.eye(curvature.size, dtype=curvature.dtype))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Products


@pytest.mark.parametrize("name", SMALL)
def test_extremes_of_bundled_tasks_are_exact_to_a_millionth(name: str) -> None:
    objective = objective_of(name, samples=8, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(exact(objective))
    scale = eigenvalues.abs().max()
    found = extremes(Hessian(objective), tolerance=1e-6)
    for end, expected in ((found.lowest, eigenvalues[0]), (found.highest, eigenvalues[-1])):
        assert end.converged
        assert abs(end.value - expected) <= 1e-6 * scale
        product = Hessian(objective).times(end.vector.unsqueeze(0))[0]
        torch.testing.assert_close(
            product, end.value * end.vector, rtol=0, atol=2e-3 * float(scale)
        )


@pytest.mark.parametrize("name", ["adding", "digits-conv", "topics"])
def test_products_with_larger_tasks_are_differences_of_plain_gradients(name: str) -> None:
    task = find(name)
    *inputs, targets = first(task, 4)
    model = initial_model(task, seed=0).double()
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    targets = targets.double() if targets.is_floating_point() else targets
    objective = Objective(model, task.loss, [(*inputs, targets)])
    point, h = nn.utils.parameters_to_vector(model.parameters()).detach(), 1e-6
    direction = torch.randn(len(point), dtype=torch.float64, generator=seeded(0))

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, model.parameters())
        loss = task.loss(model(*inputs), targets)
        return nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))

    expected = (gradient(point + h * direction) - gradient(point - h * direction)) / (2 * h)
    found = Hessian(objective).times(direction.unsqueeze(0))[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6 * float(expected.norm()))


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return scores.softmax(-1) @ value


class Attention(nn.Module):
    def __init__(self, attention: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(4, 12)
        self.out = nn.Linear(4, 2)
        self.attention = attention

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.mix(inputs).unflatten(0, (2, 1, -1)).chunk(3, dim=-1)
        outputs: Tensor = self.out(self.attention(query, key, value).flatten(0, 2))
        return outputs


def test_fused_attention_has_exact_second_derivatives_without_a_warning() -> None:
    batch = batch_of(16)
    fused, written = (
        Objective(Attention(attention), F.mse_loss, [batch], dtype=torch.float64)
        for attention in (F.scaled_dot_product_attention, attended)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Hessian(fused)
        torch.testing.assert_close(all_of(found), all_of(Hessian(written)))
    assert found.conditions.products == "double backward"


class OnceSine(torch.autograd.Function):
    """A sine whose gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return slopes[0] * x.cos()


class Sine(nn.Module):
    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once = once

    def forward(self, x: Tensor) -> Tensor:
        return OnceSine.apply(x) if self.once else x.sin()


def test_without_second_derivatives_products_are_differences_which_is_said_once() -> None:
    smooth, once = (
        Objective(small_network(Sine(once)), F.mse_loss, [batch_of(16)], dtype=torch.float64)
        for once in (False, True)
    )
    hessian = Hessian(once)
    with pytest.warns(UserWarning, match="no second derivative") as said:
        found = all_of(hessian)
        hessian.times(torch.zeros(1, len(once), dtype=torch.float64))
    assert len(said) == 1
    torch.testing.assert_close(found, exact(smooth), rtol=1e-6, atol=1e-7)
    assert hessian.conditions.products == "differences of gradients"
    with pytest.raises(UserError, match="Products with the Gauss"):
        all_of(GaussNewton(once))


class Unbatched(nn.Module):
    """Asks for a number, which vmap refuses, in the second backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return UnbatchedSquare.apply(x)


class UnbatchedSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slopes[0] * float(slopes[0].detach().isfinite().all().item())


def test_products_that_cannot_be_batched_are_made_one_by_one() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    unbatched, plain = (
        Objective(small_network(layer), F.mse_loss, [batch_of(16)], dtype=torch.float64)
        for layer in (Unbatched(), Square())
    )
    torch.testing.assert_close(all_of(Hessian(unbatched)), all_of(Hessian(plain)))


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    objective = Objective(nn.Linear(4, 2), lambda outputs, _: outputs.mean(), [batch_of(8)])
    for kind in (Hessian, GaussNewton):
        assert not all_of(kind(objective)).any()
        found = extremes(kind(objective))
        assert (found.lowest.value, found.highest.value) == (0, 0)


def test_gauss_newton_is_the_outer_part_of_the_hessian() -> None:
    objective = small_objective()
    ((inputs, targets),) = objective.batches

    def outputs(point: Tensor) -> Tensor:
        return functional_call(objective.model, objective.views(point), (inputs,))

    jacobian = jacrev(outputs)(objective.point).flatten(0, 1)
    expected = jacobian.T @ jacobian * 2 / targets.numel()
    found = all_of(GaussNewton(objective))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, exact(objective), rtol=1e-3)


def test_gauss_newton_takes_the_losss_own_curvature_and_several_outputs() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"a": self.a(x), "name": "heads", "b": self.b(x), "unused": 2 * self.a(x)}

    def loss(outputs: dict[str, Any], targets: Tensor) -> Tensor:
        classes = targets[:, 0].gt(0).long()
        return F.cross_entropy(outputs["a"], classes) + outputs["b"].square().mean().exp()

    objective = Objective(Heads(), loss, [batch_of(16)], dtype=torch.float64)
    # The model is linear in its weights, so that the Gauss-Newton matrix is all of the Hessian.
    torch.testing.assert_close(all_of(GaussNewton(objective)), all_of(Hessian(objective)))


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    objective = Objective(nn.Linear(4, 2), lambda o, _: o.sum() * math.nan, [batch_of(8)])
    with pytest.raises(UserError, match="gradient is not finite here"):
        Hessian(objective)


def test_memory_stays_flat_over_200_uses() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    batch = batch_of(512)

    def look() -> None:
        objective = Objective(model, F.mse_loss, [batch])
        extremes(Hessian(objective), steps=3)
        GaussNewton(objective).times(torch.ones(1, len(objective)))

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(x, Tensor) for x in gc.get_objects())

    look()
    before, peak = tensors(), peak_megabytes()
    for _ in range(200):
        look()
    assert tensors() == before
    # One look keeps a graph of half a megabyte.
    assert peak_megabytes() - peak < 20


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Eigenvalues


@given(size=st.integers(1, 40), seed=st.integers(0, 10**6), tolerance=st.sampled_from([0.1, 1e-3]))
def test_within_the_error_of_an_extreme_value_there_is_an_eigenvalue(
    size: int, seed: int, tolerance: float
) -> None:
    matrix = random_symmetric(size, seed)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    found = extremes(Matrix(matrix), tolerance=tolerance)
    for end in (found.lowest, found.highest):
        assert end.converged
        assert (eigenvalues - end.value).abs().min() <= end.error + 1e-13 * size
        assert end.error <= tolerance * eigenvalues.abs().max()


def test_the_extreme_values_are_the_outermost() -> None:
    missed = 0
    for seed in range(100):
        matrix = random_symmetric(20, seed)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        found = extremes(Matrix(matrix), tolerance=1e-3)
        missed += abs(found.lowest.value - eigenvalues[0]) > found.lowest.error
        missed += abs(found.highest.value - eigenvalues[-1]) > found.highest.error
    assert missed <= 2


def quadratic(size: int) -> Tensor:
    """Eigenvalues of a known spectrum: a bulk in [-1, 1], and -30, 50 and 100 beside it."""
    eigenvalues = torch.linspace(-1, 1, size, dtype=torch.float64)
    eigenvalues[[7, size // 2, size - 5]] = torch.tensor([100.0, -30.0, 50.0], dtype=torch.float64)
    return eigenvalues


def test_a_quadratic_of_a_hundred_thousand_dimensions_is_read_as_it_was_made() -> None:
    eigenvalues = quadratic(100_000)
    for kind in (torch.float64, torch.float32):
        curvature = Hessian(bowl(eigenvalues.to(kind)))
        found = extremes(curvature, tolerance=1e-4)
        assert found.highest.value == pytest.approx(100, rel=1e-4)
        assert found.lowest.value == pytest.approx(-30, rel=1e-4)
        assert found.products < 15
        assert found.highest.vector[7].abs() == pytest.approx(1, abs=1e-3)
    seen = spectrum(curvature, probes=4, steps=20)
    for value, share in ((-1.5, 1e-5), (-0.5, 0.25), (0.5, 0.75), (1.5, 1 - 2e-5)):
        interval = seen.share_below(value)
        assert interval.low <= share <= interval.high
        assert interval.high - interval.low < 0.25
    # The Hessian is diagonal, and then Hutchinson's estimate is exact.
    told = trace(Hessian(bowl(eigenvalues)), probes=2)
    assert told.value == pytest.approx(float(eigenvalues.sum()), abs=1e-6)
    assert diagonal_share(Hessian(bowl(eigenvalues)), probes=3).value == pytest.approx(1)


def test_a_matrix_of_low_rank_is_exhausted_and_not_taken_for_an_asymmetric_one() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(60, 3, generator=generator)
    found = extremes(Matrix(factor @ factor.T), tolerance=1e-7)
    assert found.products <= 6
    assert found.highest.value == pytest.approx(float(torch.linalg.matrix_norm(factor, 2)) ** 2)
    assert found.lowest.value == pytest.approx(0, abs=1e-4)


def test_an_end_that_has_not_converged_says_so() -> None:
    matrix = Matrix(torch.linspace(0, 1, 300, dtype=torch.float64).diag())
    found = extremes(matrix, tolerance=1e-8, steps=5)
    assert (found.products, found.highest.converged, found.lowest.converged) == (5, False, False)
    assert abs(found.highest.value - 1) <= found.highest.error


def test_only_the_ends_that_are_asked_for_must_converge() -> None:
    eigenvalues = torch.linspace(0, 1, 1000, dtype=torch.float64)
    eigenvalues[0] = 50
    found = extremes(Matrix(eigenvalues.diag()), ends=["highest"], tolerance=1e-4)
    both = extremes(Matrix(eigenvalues.diag()), tolerance=1e-4)
    assert found.highest.converged
    assert found.products < both.products


def test_the_lanczos_basis_stays_orthogonal_long_after_convergence() -> None:
    eigenvalues = torch.logspace(-8, 4, 120, dtype=torch.float64)
    run = Lanczos(Matrix(eigenvalues.diag()), torch.ones(1, 120, dtype=torch.float64))
    for _ in range(100):
        run.step()
    basis = run.basis[0, :100]
    torch.testing.assert_close(basis @ basis.T, torch.eye(100, dtype=torch.float64))


class ForgetfulSine(torch.autograd.Function):
    """A sine whose gradient does not let its own derivative through, without a word."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.cos().detach())
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (cosine,) = ctx.saved_tensors
        return slopes[0].detach() * cosine


class Forgetful(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ForgetfulSine.apply(x)


def normalized(layer: nn.Linear) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(layer)


@pytest.mark.parametrize(
    "model", [small_network(Forgetful()), normalized(nn.Linear(4, 2))], ids=["own", "PyTorch's"]
)
def test_a_wrong_second_derivative_is_refused_and_differences_go_around_it(
    model: nn.Module,
) -> None:
    objective = Objective(model, F.mse_loss, [batch_of(16)], dtype=torch.float64)
    with pytest.raises(
        UserError, match=r"symmetric matrix.*Hessian\(objective, differences=True\)"
    ):
        extremes(Hessian(objective))
    around = Hessian(objective, differences=True)
    found, matrix = extremes(around, tolerance=1e-4), all_of(around)
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-6)
    assert found.highest.value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)
    assert found.conditions.products == "differences of gradients"


# Spectra


def spectral_matrix() -> tuple[Tensor, Curvature]:
    """A matrix with a bulk at 0, a tail on both sides, in no special basis."""
    generator = torch.Generator().manual_seed(1)
    eigenvalues = torch.randn(400, generator=generator, dtype=torch.float64)
    eigenvalues = eigenvalues.sign() * eigenvalues.abs() ** 3
    basis, _ = torch.linalg.qr(torch.randn(400, 400, generator=generator, dtype=torch.float64))
    return eigenvalues, Matrix(basis @ eigenvalues.diag() @ basis.T)


def test_the_density_agrees_with_that_of_all_eigenvalues_within_its_error() -> None:
    eigenvalues, matrix = spectral_matrix()
    seen = spectrum(matrix, probes=20, steps=80)
    at, width = np.linspace(-6, 6, 100), 0.5
    density, error = seen.density(at, width)
    distances = (at[:, None] - eigenvalues.numpy()) / width
    expected = np.exp(-(distances**2) / 2).mean(1) / (math.sqrt(2 * math.pi) * width)
    deviations = abs(density - expected) / error
    assert np.mean(deviations < 2) > 0.85
    assert deviations.max() < 4
    assert error.max() < 0.05 * expected.max()


def test_shares_lie_within_their_intervals_as_often_as_promised() -> None:
    eigenvalues, matrix = spectral_matrix()
    hits = []
    for seed in range(12):
        seen = spectrum(matrix, probes=5, steps=24, seed=seed)
        for value in (-4.0, -1.0, -0.1, 0.0, 0.1, 1.0, 4.0):
            share = (eigenvalues < value).double().mean()
            below = seen.share_below(value)
            hits.append(below.low <= share <= below.high)
            assert below.low <= below.estimate <= below.high
            within = seen.share_within(abs(value) + 0.01)
            share = (eigenvalues.abs() <= abs(value) + 0.01).double().mean()
            hits.append(within.low <= share <= within.high)
    assert np.mean(hits) >= 0.95


def test_a_quantile_of_the_absolute_eigenvalues_lies_in_its_interval() -> None:
    eigenvalues, matrix = spectral_matrix()
    seen = spectrum(matrix, probes=10, steps=80)
    for share in (0.3, 0.5, 0.9, 0.99):
        found = seen.size_at(share)
        expected = torch.quantile(eigenvalues.abs(), share)
        assert found.low <= expected <= found.high
        assert found.estimate == pytest.approx(float(expected), rel=0.3, abs=0.04)


def test_a_spectrum_of_more_steps_than_eigenvalues_is_exact_for_each_vector() -> None:
    seen = spectrum(Matrix(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).diag()), steps=64)
    np.testing.assert_allclose(seen.nodes, np.tile([1.0, 2.0, 3.0], (10, 1)))
    np.testing.assert_allclose(seen.weights, 1 / 3)


# Traces


def test_the_error_of_the_trace_is_its_spread() -> None:
    matrix = random_symmetric(50, seed=3)
    found = [trace(Matrix(matrix), probes=16, seed=100 * seed) for seed in range(100)]
    deviations = [(one.value - float(matrix.trace())) / one.error for one in found]
    # Student's t of 15 degrees of freedom has a standard deviation of 1.07.
    assert np.mean(deviations) == pytest.approx(0, abs=0.35)
    assert np.std(deviations) == pytest.approx(1.07, rel=0.25)


def test_the_share_on_the_diagonal_is_unbiased_and_its_error_is_its_spread() -> None:
    matrix = random_symmetric(30, seed=4) + 5 * torch.eye(30, dtype=torch.float64)
    expected = float(matrix.diag().square().sum() / matrix.square().sum())
    found = [diagonal_share(Matrix(matrix), probes=16, seed=100 * seed) for seed in range(100)]
    values = [one.value for one in found]
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / 10)
    assert np.mean([one.error for one in found]) == pytest.approx(np.std(values), rel=0.3)


def test_a_ravine_along_the_axes_is_diagonal_and_a_rotated_one_is_not() -> None:
    along, across = (
        diagonal_share(Hessian(objective_of(name))) for name in ("ravine", "ravine-rotated")
    )
    assert along.value == pytest.approx(1)
    # (1 + 100) / 2 twice on the diagonal, (1 - 100) / 2 twice beside it.
    assert across.value == pytest.approx(101**2 / (101**2 + 99**2), abs=4 * across.error + 1e-6)


# Condition numbers


def test_the_condition_number_of_a_ravine_is_a_hundred() -> None:
    found = condition_number(Hessian(objective_of("ravine-rotated", dtype=torch.float64)))
    assert found.value == pytest.approx(100)
    assert found.low <= 100.000001 and found.high >= 99.999999
    assert (found.kind, found.converged) == ("highest over lowest", True)


def test_where_eigenvalues_have_both_signs_the_largest_is_divided_by_a_quantile() -> None:
    eigenvalues, matrix = spectral_matrix()
    found = condition_number(matrix, share=0.8, probes=10, steps=80)
    size = eigenvalues.abs()
    assert found.kind == "largest over quantile"
    assert found.low <= size.max() / torch.quantile(size, 0.8) <= found.high
    assert found.high < 3 * found.low


def test_a_singular_curvature_has_no_upper_bound_on_its_condition() -> None:
    eigenvalues = torch.zeros(200, dtype=torch.float64)
    eigenvalues[:20] = torch.linspace(1, 10, 20, dtype=torch.float64)
    found = condition_number(Matrix(eigenvalues.diag()))
    assert found.high == math.inf
    assert found.low >= 1


# The metric of an optimizer


def test_preconditioning_divides_rows_and_columns() -> None:
    matrix = random_symmetric(12, seed=5)
    scale = torch.linspace(0.1, 2, 12, dtype=torch.float64)
    found = extremes(Preconditioned(Matrix(matrix), scale), tolerance=1e-6)
    expected = torch.linalg.eigvals(scale.diag() @ matrix).real
    assert found.highest.value == pytest.approx(float(expected.max()), rel=1e-6)
    assert found.lowest.value == pytest.approx(float(expected.min()), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: extremes(m, tolerance=0), "tolerance must be above 0 and below 1"),
        (lambda m: extremes(m, steps=2), "steps must be a whole number from 3"),
        (lambda m: spectrum(m, probes=1), "probes must be a whole number from 2"),
        (lambda m: spectrum(m).density([0.0], 0), "width must be above 0"),
        (lambda m: spectrum(m).size_at(1), "share must be above 0 and below 1"),
        (lambda m: trace(m, probes=1), "probes must be a whole number from 2"),
        (lambda m: diagonal_share(m, probes=2), "probes must be a whole number from 3"),
        (lambda m: extremes(Matrix(m.matrix * math.inf)), "product with the curvature is not fini"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call(Matrix(random_symmetric(5, seed=0)))


def test_vectors_in_blocks_are_the_vectors_one_by_one() -> None:
    hessian = Hessian(small_objective())
    vectors = hessian.gaussian(4, seed=0)
    together = hessian.times(vectors)
    alone = torch.cat([hessian.times(vector.unsqueeze(0)) for vector in vectors])
    torch.testing.assert_close(together, alone)
