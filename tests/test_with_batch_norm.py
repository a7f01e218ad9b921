"""Batch normalization put into users' models, and the layers that it leaves alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.errors import UserError
from thalweg.nn import with_batch_norm
from thalweg.tasks import find


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def perceptron_by_hand() -> nn.Module:
    """The same with PyTorch's layers, biases kept."""
    return nn.Sequential(
        *(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()),
        *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()),
        nn.Linear(5, 2),
    )


class Pictures(nn.Module):
    """Layers in attributes, and a transposed convolution in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 2)
        self.more = nn.ModuleList([nn.ConvTranspose2d(3, 2, 2)])
        self.out = nn.Linear(32, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.out(self.more[0](self.first(pictures).tanh()).tanh().flatten(1))


def pictures_by_hand() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh()),
        *(nn.ConvTranspose2d(3, 2, 2), nn.BatchNorm2d(2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(32, 2)),
    )


class SequenceModel(nn.Module):
    """Linear layers on `[N, T, C]`, where T is C."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, sequences: Tensor) -> Tensor:
        return self.out(self.first(sequences).tanh())


class SequenceModelByHand(SequenceModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, sequences: Tensor) -> Tensor:
        units = self.norm(self.first(sequences).transpose(1, 2)).transpose(1, 2)
        return self.out(units.tanh())


def linear_weights(model: nn.Module) -> list[Tensor]:
    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    return [module.weight for module in model.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(
    ("model", "by_hand", "shape"),
    [
        (perceptron, perceptron_by_hand, (8, 4)),
        (Pictures, pictures_by_hand, (8, 1, 4, 4)),
        (SequenceModel, SequenceModelByHand, (8, 5, 4)),
    ],
)
def test_the_function_is_that_with_pytorchs_layers_between(
    model: Callable[[], nn.Module], by_hand: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    given, x = model().double(), torch.randn(shape, dtype=torch.float64)
    normalized, expected = with_batch_norm(given), by_hand().double()
    hand = [m for m in expected.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    original = [m for m in given.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    for layer, source in zip(hand, original, strict=True):
        layer.load_state_dict(source.state_dict())
    assert sum(layer.bias is not None for layer in hand) == len(hand)
    torch.testing.assert_close(normalized(x), expected(x), rtol=1e-9, atol=1e-9)
    for output in (normalized(x), expected(x)):
        output.square().sum().backward()
    for ours, theirs in zip(linear_weights(normalized), linear_weights(expected), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10)
    for _ in range(400):
        for trained in (normalized, expected):
            trained(x)
    torch.testing.assert_close(normalized.eval()(x), expected.eval()(x), rtol=1e-9, atol=1e-9)


def test_redundant_biases_are_gone_and_the_given_model_is_as_it_was() -> None:
    given = perceptron()
    before = {name: x.clone() for name, x in given.state_dict().items()}
    normalized = with_batch_norm(given)
    assert {name: x.shape for name, x in given.state_dict().items()} == {
        name: x.shape for name, x in before.items()
    }
    names = {name for name, _ in normalized.named_parameters()}
    layers = {f"{i}.{name}" for i in (0, 2) for name in ("0.weight", "1.weight", "1.bias")}
    assert names == layers | {"4.weight", "4.bias"}
    with torch.no_grad():
        normalized[0][0].weight.zero_()
    assert torch.equal(given[0].weight, before["0.weight"])


def test_device_precision_and_mode_are_the_layers_own() -> None:
    normalized = with_batch_norm(perceptron().to("meta", torch.bfloat16).eval())
    tensors = [x for x in normalized.state_dict().values() if x.is_floating_point()]
    assert {(x.device.type, x.dtype) for x in tensors} == {("meta", torch.bfloat16)}
    assert not any(module.training for module in normalized.modules())


def test_which_layers_to_leave_as_they_are() -> None:
    def linear(model: nn.Module) -> list[int]:
        return [i for i in (0, 2, 4) if isinstance(model[i], nn.Linear)]  # type: ignore[index]

    assert linear(with_batch_norm(perceptron())) == [4]
    assert linear(with_batch_norm(perceptron(), but=())) == []
    assert linear(with_batch_norm(perceptron(), but=["0", "2"])) == [0, 2]
    with pytest.raises(
        UserError, match="no linear or convolutional layer 'head'; known are 0, 2, "
    ):
        with_batch_norm(perceptron(), but=["head"])


def test_a_model_that_is_a_layer() -> None:
    assert isinstance(with_batch_norm(nn.Linear(3, 2)), nn.Linear)
    alone = with_batch_norm(nn.Linear(3, 2), but=())
    torch.testing.assert_close(alone(torch.randn(8, 3)).mean(0), torch.zeros(2), rtol=0, atol=1e-6)


SHARED = "its parameters are used in several places"
FOLLOWED = "a normalization is next to it"


class Tied(nn.Module):
    """One weight tied to an embedding, one to another layer; a layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols = nn.Embedding(5, 4)
        self.same = self.again = nn.Linear(4, 4)
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight
        self.free = nn.Linear(4, 4)
        self.scores = nn.Linear(4, 5)
        self.scores.weight = self.symbols.weight
        self.out = nn.Linear(5, 1)


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.norm = nn.BatchNorm1d(2)
        self.plain = nn.Linear(2, 2)
        self.behind_activation = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.LayerNorm(2))
        self.out = nn.Linear(2, 1)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.plain = nn.Linear(4, 4)
        self.out = nn.Linear(4, 1)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Tied, dict.fromkeys(("same", "one", "other", "scores"), SHARED)),
        (Normalized, dict.fromkeys(("conv", "behind_activation.0"), FOLLOWED)),
        (Attending, {"attention.out_proj": "nn.MultiheadAttention uses its parameters"}),
    ],
)
def test_layers_that_are_left_alone_are_named(
    model: type[nn.Module], named: dict[str, str]
) -> None:
    with pytest.warns(UserWarning) as told:
        normalized = with_batch_norm(model())
    (warning,) = told
    layers = ", ".join(f"'{name}' ({why})" for name, why in named.items())
    assert str(warning.message) == f"with_batch_norm has not changed these layers: {layers}."
    assert warning.filename == __file__
    for name in named:
        assert isinstance(normalized.get_submodule(name), nn.Linear | nn.Conv1d)
    changed = [name for name in ("free", "plain") if hasattr(normalized, name)]
    assert [type(normalized.get_submodule(name)) for name in changed] == [nn.Sequential]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_batch_norm(model(), but=[*named, *changed, "out"])


def test_ties_are_kept() -> None:
    with pytest.warns(UserWarning):
        normalized = with_batch_norm(Tied())
    assert normalized.scores.weight is normalized.symbols.weight
    assert normalized.same is normalized.again


def test_a_normalized_network_learns() -> None:
    task = find("diabetes")
    torch.manual_seed(0)
    model = with_batch_norm(task.model())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = task.splits.train.tensors  # type: ignore[attr-defined]
    first = F.mse_loss(model(x), y).item()
    for _ in range(50):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    assert F.mse_loss(model.eval()(x), y).item() < 0.5 < first
