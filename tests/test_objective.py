"""What instruments are pointed at: the right function of the weights, and a patient left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from patients import batch_of, exact, small_network, small_objective
from thalweg.doctor import (
    GaussNewton,
    Hessian,
    Objective,
    condition_number,
    extremes,
    index,
    joint,
    look_at_step,
    noise,
    signals,
    stability,
    trace,
    units,
)
from thalweg.errors import UserError


class Patient(nn.Module):
    """Has all that a look could change: buffers, random draws, layers in different modes, hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.frozen_norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 2))
        self.broken = False

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.dropout(self.frozen_norm(self.norm(self.first(inputs)).tanh()))
        if self.broken:
            raise RuntimeError("in the middle of it")
        outputs: Tensor = self.last(hidden)
        return outputs


def ill() -> Patient:
    """A patient in the middle of its training."""
    model = Patient()
    inputs, targets = batch_of(16)
    F.mse_loss(model(inputs), targets).backward()
    model.frozen_norm.eval()
    model.first.register_forward_hook(lambda *_: None)
    model.first.weight.register_hook(lambda gradient: gradient)
    return model


def record(model: nn.Module) -> dict[str, Any]:
    """All of a patient that must stay, by identity and to the bit."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "random": torch.get_rng_state().clone(),
        "tensors": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "identity": {name: id(tensor) for name, tensor in tensors.items()},
        "gradients": {n: None if t.grad is None else t.grad.clone() for n, t in tensors.items()},
        "graphs": {n: t.grad is not None and t.grad.requires_grad for n, t in tensors.items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [
            [len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks")]
            for module in model.modules()
        ],
        "attributes": [len(vars(module)) for module in model.modules()],
        "enabled": torch.is_grad_enabled(),
    }


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before = record(model)
    yield
    torch.testing.assert_close(record(model), before, rtol=0, atol=0, equal_nan=True)


LOOKS: dict[str, Callable[[Objective], Any]] = {
    "value": lambda objective: objective.value(),
    "gradient": lambda objective: objective.gradient(),
    "hessian": lambda objective: Hessian(objective).times(torch.ones(3, len(objective))),
    "gauss_newton": lambda objective: GaussNewton(objective).times(torch.ones(3, len(objective))),
    "extremes": lambda objective: extremes(Hessian(objective), steps=3),
    "condition_number": lambda objective: condition_number(
        Hessian(objective), probes=2, steps=2, tolerance=0.5
    ),
    "trace": lambda objective: trace(Hessian(objective), probes=2),
    "stability": lambda objective: stability(
        objective, torch.optim.SGD(objective.parameters, lr=0.1), steps=3
    ),
    "look_at_step": lambda objective: look_at_step(objective, 1e-3 * objective.gradient()),
    "signals": signals,
    "units": units,
    "noise": noise,
    "index": lambda objective: index(objective, probes=2, steps=2, tolerance=0.5),
    "joint": lambda objective: joint(objective, 1e-3 * torch.ones(len(objective))),
}
BATCHES = [batch_of(16, seed) for seed in range(3)]


@pytest.mark.parametrize("mode", [None, "training", "evaluation"])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_leaves_the_patient_as_it_was_to_the_bit(
    look: Callable[[Objective], Any], mode: Any
) -> None:
    model = ill()
    with unchanged(model):
        look(Objective(model, F.mse_loss, BATCHES, mode=mode))


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_that_fails_leaves_the_patient_as_it_was(look: Callable[[Objective], Any]) -> None:
    model = ill()
    model.broken = True
    objective = Objective(model, F.mse_loss, BATCHES, mode="evaluation")
    with unchanged(model), torch.no_grad():
        before = record(model)
        with pytest.raises((UserError, RuntimeError), match="in the middle of it"):
            look(objective)
        torch.testing.assert_close(record(model), before, rtol=0, atol=0)


class Counting(nn.Module):
    """Its answer depends on how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("model", [ill(), small_network(Counting())], ids=["draws", "counts"])
def test_every_look_sees_the_same_function_whatever_the_model_draws_or_counts(
    model: nn.Module,
) -> None:
    objective = Objective(model, F.mse_loss, [batch_of(16)], mode="training")
    values = {objective.value() for _ in range(5)}
    assert len(values) == 1
    assert torch.equal(objective.gradient(), objective.gradient())


def test_the_objective_stays_what_it_was_while_the_model_trains_on() -> None:
    model = small_network(nn.BatchNorm1d(6))
    objective = Objective(model, F.mse_loss, [batch_of(16)], mode="evaluation")
    before = objective.value()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1)
    assert objective.value() == before


def test_the_loss_is_the_mean_over_samples_of_unequal_batches() -> None:
    inputs, targets = batch_of(10)
    model = small_network()
    parts = [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])]
    whole = Objective(model, F.mse_loss, [(inputs, targets)], dtype=torch.float64)
    halves = Objective(model, F.mse_loss, parts, dtype=torch.float64)
    assert halves.value() == pytest.approx(whole.value(), rel=1e-12)
    torch.testing.assert_close(halves.gradient(), whole.gradient(), rtol=1e-12, atol=0)
    vectors = torch.eye(len(whole), dtype=torch.float64)
    for kind in (Hessian, GaussNewton):
        torch.testing.assert_close(
            kind(halves).times(vectors), kind(whole).times(vectors), rtol=1e-9, atol=1e-12
        )
    assert (halves.conditions.samples, halves.conditions.batches) == (10, 2)


def test_the_gradient_is_that_of_a_plain_backward_pass() -> None:
    model = small_network()
    inputs, targets = batch_of(16)
    F.mse_loss(model(inputs), targets).backward()
    objective = Objective(model, F.mse_loss, [(inputs, targets)])
    expected = torch.cat([param.grad.flatten() for param in model.parameters()])
    torch.testing.assert_close(objective.gradient(), expected)


@pytest.mark.parametrize(
    ("mode", "told"), [(None, "mixed"), ("training", "training"), ("evaluation", "evaluation")]
)
def test_the_mode_is_fixed_and_told(mode: Any, told: str) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    model[1].eval()
    batch = batch_of(64)
    objective = Objective(model, F.mse_loss, [batch], mode=mode)
    assert objective.conditions.mode == told
    without_dropout = F.mse_loss(model[0](batch[0]), batch[1]).item()
    assert (objective.value() == pytest.approx(without_dropout)) == (mode != "training")


def test_the_precision_is_that_of_the_weights_also_under_autocast_and_float64_on_request() -> None:
    model, batch = small_network(), batch_of(16)
    plain = Objective(model, F.mse_loss, [batch])
    double = Objective(model, F.mse_loss, [batch], dtype=torch.float64)
    half = Objective(small_network().bfloat16(), F.mse_loss, [batch])
    told = [objective.conditions.precision for objective in (plain, double, half)]
    assert told == ["float32", "float64", "float32"]
    value = plain.value()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain.value() == value
    assert double.gradient().dtype == torch.float64
    assert double.value() == pytest.approx(value, rel=1e-6)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 4, bias=False)
        self.down = nn.Linear(4, 2)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.up.weight
        self.down.weight.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.down(self.again(self.up(inputs).tanh()))
        return outputs


def test_tied_weights_count_once_and_frozen_ones_not_at_all() -> None:
    torch.manual_seed(0)
    model = Tied()
    batch = batch_of(16)
    objective = Objective(model, F.mse_loss, [batch])
    F.mse_loss(model(batch[0]), batch[1]).backward()
    assert len(objective) == 16 + 2
    expected = torch.cat([model.up.weight.grad.flatten(), model.down.bias.grad])
    torch.testing.assert_close(objective.gradient(), expected)


class Checkpointed(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(super().forward, inputs, use_reentrant=False)


def test_activation_checkpointing_runs_again_at_the_point_that_is_looked_at() -> None:
    plain = small_objective()
    model = Checkpointed(*small_network())
    again = Objective(model, F.mse_loss, [batch_of(16)], dtype=torch.float64)
    point = plain.point + 1
    vectors = torch.eye(len(plain), dtype=torch.float64)
    expected = Hessian(plain, point).times(vectors)
    torch.testing.assert_close(Hessian(again, point).times(vectors), expected)


class Recurrent(nn.Module):
    """A symbol at each time step, and PyTorch's own recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase], sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.symbol = nn.Embedding(5, 3, sparse=sparse)
        self.recurrent = kind(3, 4, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, symbols: Tensor) -> Tensor:
        outputs: Tensor = self.out(self.recurrent(self.symbol(symbols))[0][:, -1])
        return outputs


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("sparse", [False, True])
def test_recurrent_layers_and_sparse_embeddings_are_looked_at_and_train_on(
    kind: type[nn.RNNBase], sparse: bool
) -> None:
    model = Recurrent(kind, sparse)
    symbols, targets = torch.arange(30).reshape(5, 6) % 5, torch.ones(5, 2)
    objective = Objective(model, F.mse_loss, [(symbols, targets)])
    gradient = objective.gradient()
    extremes(Hessian(objective), steps=3)
    assert model.symbol.sparse == sparse
    F.mse_loss(model(symbols), targets).backward()
    own = [param.grad.to_dense().flatten() for param in model.parameters()]
    torch.testing.assert_close(gradient, torch.cat(own))


def test_a_compiled_or_parallel_model_is_looked_at_as_it_was_written() -> None:
    vectors = torch.eye(len(small_objective()), dtype=torch.float64)
    expected = Hessian(small_objective()).times(vectors)
    inside = nn.Sequential(torch.compile(small_network(), backend="aot_eager"))
    for model in (torch.compile(small_network()), nn.DataParallel(small_network()), inside):
        objective = Objective(model, F.mse_loss, [batch_of(16)], dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(Hessian(objective).times(vectors), expected)


@pytest.mark.parametrize(
    ("model", "batches", "sentence"),
    [
        (small_network(), [], "needs a list of at least one batch"),
        (small_network(), batch_of(4), r"each must be a tuple \(inputs..., target\)"),
        (nn.ReLU(), [batch_of(4)], "no trainable parameters"),
        (nn.Linear(4, 2, dtype=torch.complex64), [batch_of(4)], "complex parameters"),
        (small_network(), [(1, 2)], r"must be a tuple \(inputs..., target\) of tensors"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(model: Any, batches: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Objective(model, F.mse_loss, batches)


def test_a_model_that_fails_is_told_in_one_sentence() -> None:
    objective = Objective(small_network(), F.mse_loss, [(torch.ones(3, 9), torch.ones(3, 2))])
    with pytest.raises(UserError, match="The model failed in float32: RuntimeError: mat1"):
        objective.value()


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda outputs, targets: outputs - targets, r"must be a scalar .* not of shape \[16, 2\]"),
        (lambda outputs, _: outputs.sum().item(), "must be a scalar .* not of type float"),
        (lambda outputs, targets: outputs @ targets, "The loss failed in float32: RuntimeError"),
    ],
)
def test_a_loss_that_is_none_is_told_by_every_kind_of_look(loss: Any, sentence: str) -> None:
    objective = Objective(small_network(), loss, [batch_of(16)])
    for look in (Objective.value, Objective.gradient, Hessian, GaussNewton):
        with pytest.raises(UserError, match=sentence):
            look(objective)


def test_sharded_parameters_are_refused() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = small_network()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UserError, match="sharded; first gather them into a whole model"):
            Objective(model, F.mse_loss, [batch_of(16)])
    finally:
        distributed.destroy_process_group()


def test_the_exact_hessian_of_these_tests_is_that_of_differences() -> None:
    objective = small_objective()
    matrix, h = exact(objective), 1e-5
    direction = torch.linspace(-1, 1, len(objective), dtype=torch.float64)
    ahead, behind = (objective.gradient(objective.point + s * h * direction) for s in (1, -1))
    torch.testing.assert_close(matrix @ direction, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)
