"""Reordering a network's hidden units like another network's; the function stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from thalweg.errors import UserError

Weights = Mapping[str, Tensor]
"""A model's `state_dict`."""

BETWEEN = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,
    nn.BatchNorm1d,
)
"""The layers that may stand between linear layers. Each acts on every unit separately."""


@dataclass(frozen=True)
class Hidden:
    """One hidden layer of a chain.

    into, out: the linear layers before and after the units. own: the names of other tensors that
    have one number for each unit.
    """

    into: str
    out: str
    own: tuple[str, ...]


def matched(model: nn.Module, state: Weights, reference: Weights) -> dict[str, Tensor]:
    """`state` with its hidden units in the order that brings it nearest to `reference`.

    The order of a layer is the linear assignment that makes the inner product with the reference
    largest while the other layers stay as they are. The layers are ordered in turn until none
    changes. This finds a local optimum; the joint problem is NP-hard. The search runs twice, and
    the nearer result is taken. One search begins with the given order. The other begins with the
    order that the incoming weights alone give, layer by layer from the inputs; it finds units that
    have only changed places. The network computes the same function as before.

    model: an `nn.Sequential` of `nn.Linear` with elementwise activations, dropout and
    `nn.BatchNorm1d` between them. UserError for any other model, because only its code says which
    units may change places. Source: weight matching, Ainsworth, Hayase and Srinivasa 2023.
    """
    layers = hidden_layers(model)
    tries = [dict(state), dict(state)]
    for layer in layers:
        reorder(layer, tries[1], best_order(layer, tries[1], reference, both=False))
    for held in tries:
        settle(layers, held, reference)
    names = [name for name, _ in model.named_parameters()]
    goal = flattened(reference, names)
    return min(tries, key=lambda held: float((flattened(held, names) - goal).norm()))


def settle(layers: list[Hidden], held: dict[str, Tensor], reference: Weights) -> None:
    """Reorders layer after layer until none changes."""
    changed = True
    while changed:
        changed = False
        for layer in layers:
            order = best_order(layer, held, reference, both=True)
            if not torch.equal(order, torch.arange(len(order))):
                reorder(layer, held, order)
                changed = True


def hidden_layers(model: nn.Module) -> list[Hidden]:
    if not isinstance(model, nn.Sequential):
        raise unmatchable(model)
    names: list[str] = []
    between: list[list[str]] = []
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            names.append(name)
            between.append([f"{name}.bias"] if module.bias is not None else [])
        elif not isinstance(module, BETWEEN if names else (*BETWEEN, nn.Flatten)):
            raise unmatchable(module)
        elif names:
            own = (*module.named_parameters(), *module.named_buffers())
            between[-1] += [f"{name}.{key}" for key, tensor in own if tensor.ndim == 1]
    links = zip(names[:-1], names[1:], between[:-1], strict=True)
    return [Hidden(into, out, tuple(own)) for into, out, own in links]


def best_order(
    layer: Hidden, held: Weights, reference: Weights, *, both: bool
) -> Int64[Tensor, " units"]:
    """The unit of `held` for each place. Units stay where they are if another order is no better.

    both: whether the weights on both sides decide, or only the incoming weights.
    """
    from scipy.optimize import linear_sum_assignment  # takes a while to import, and few need it

    into, out = f"{layer.into}.weight", f"{layer.out}.weight"
    likeness = reference[into] @ held[into].T
    if both:
        likeness = likeness + reference[out].T @ held[out]
    for name in layer.own:
        if not name.endswith(("running_mean", "running_var")):
            likeness = likeness + torch.outer(reference[name], held[name])
    gain = likeness.double().cpu()
    _, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    order = torch.from_numpy(columns)
    stays = torch.arange(len(order))
    better = gain[stays, order].sum() - gain.diag().sum()
    # Round-off must not send units back and forth.
    return order if better > 1e-9 * gain.abs().sum() / len(gain) else stays


def reorder(layer: Hidden, held: dict[str, Tensor], order: Int64[Tensor, " units"]) -> None:
    into, out = f"{layer.into}.weight", f"{layer.out}.weight"
    held[into] = held[into][order]
    held[out] = held[out][:, order]
    for name in layer.own:
        held[name] = held[name][order]


def unmatchable(module: nn.Module) -> UserError:
    return UserError(
        "Units can be matched in an nn.Sequential of nn.Linear with activations, dropout and"
        f" nn.BatchNorm1d between them, but not in a model with {type(module).__name__}."
    )


def flattened(state: Weights, names: list[str]) -> Float[Tensor, " P"]:
    """Some tensors of a `state_dict` as one vector, in float64."""
    return torch.cat([state[name].detach().flatten().double() for name in names])
