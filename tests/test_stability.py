"""The edge of stability: where an optimizer in use begins to oscillate, found by letting it run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patients import NOTHING, Bowl, batch_of, exact, height, small_network
from thalweg import optim, rules, schedules
from thalweg.doctor.objective.objective import Objective
from thalweg.doctor.readings.limits import group_rule
from thalweg.doctor.readings.stability import stability
from thalweg.errors import UserError
from thalweg.recipes import adam, chain, clip_norm, delta_bar_delta, momentum, tail_average
from thalweg.rules import RULES, Rule

Make = Callable[[list[Any], float], torch.optim.Optimizer]

# Moments that hardly move, so that the metric stays what it was measured to be.
SLOW = 1 - 1e-12
EIGENVALUES = torch.tensor([0.3, 2.0, 7.0], dtype=torch.float64)
SPREAD = torch.tensor([4.0, 9.0, 0.25], dtype=torch.float64)
TINY = 1e-12
STEADY = {"betas": (0.9, SLOW), "alpha": SLOW, "lr_decay": 1e-9, "weight_decay": 1e-9}

OPTIMIZERS: dict[str, Make] = {
    "SGD with dampening": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, dampening=0.3),
    "our chain": lambda p, lr: optim.Optimizer(
        p, chain(clip_norm(1e9), momentum(lr=lr, momentum=0.8), tail_average(5))
    ),
}


def every_variant() -> Iterator[tuple[str, Make]]:
    """Every optimizer whose rule says its edge, ours and PyTorch's, with all that it can do."""
    for named, module in product(rules.NAMED.values(), (optim, torch.optim)):
        for on, rule in named.variants.items():
            if rule.edge is not Rule.edge and hasattr(module, named.name):
                given = {flag: 0.8 if flag in named.hypers else True for flag in on}
                taken = named.signature.parameters
                given |= {name: value for name, value in STEADY.items() if name in taken}
                make = partial(getattr(module, named.name), **given)
                yield f"{module.__name__}.{named.name}, {', '.join(sorted(on))}", make


OPTIMIZERS |= dict(every_variant())


def started(make: Make, lr: float) -> tuple[Bowl, torch.optim.Optimizer]:
    """A bowl and its optimizer long after the start, with a metric that differs by parameter."""
    model = Bowl(EIGENVALUES)
    model.x.data.fill_(TINY)
    optimizer = make([model.x], lr)
    descend(model, optimizer)
    model.x.data.fill_(TINY)
    state = optimizer.state[model.x]
    for name in ("momentum_buffer", "velocity", "exp_avg", "grad_avg"):
        if isinstance(state.get(name), Tensor):
            state[name].zero_()
    for name in ("sum", "square_avg", "exp_avg_sq", "max_exp_avg_sq"):
        if name in state:
            state[name].copy_(SPREAD)
    if "exp_avg_sq" in state:
        # So old that neither moment is corrected for its start.
        state["step"].fill_(1e14)
    return model, optimizer


def descend(model: Bowl, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    height(model(NOTHING[0]), NOTHING[1]).backward()
    optimizer.step()


def ratio_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    return stability(Objective(model, height, [NOTHING]), optimizer, tolerance=1e-6).ratio.value


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_steps_shrink_just_below_the_edge_and_grow_just_above_it(make: Make) -> None:
    at_one = ratio_of(*started(make, 1.0))
    for ratio, grows in ((0.95, False), (1.05, True)):
        model, optimizer = started(make, ratio / at_one)
        assert ratio_of(model, optimizer) == pytest.approx(ratio, rel=1e-4)
        start = model.x.abs().max().item()
        for _ in range(200):
            descend(model, optimizer)
        assert (model.x.abs().max() > 2 * start) == grows
        assert (model.x.abs().max() < start / 2) != grows


def test_every_rule_that_says_its_edge_is_let_run() -> None:
    params = [torch.ones(1, requires_grad=True)]
    run = {group_rule(make(params, 1.0), 0).kind for make in OPTIMIZERS.values()}
    assert run == {rule for rule in RULES.values() if rule.edge is not Rule.edge}


def test_the_bias_corrections_of_adam_belong_to_its_metric() -> None:
    model = Bowl(EIGENVALUES)
    optimizer = torch.optim.Adam([model.x], lr=1.0, betas=(0.9, 0.99))
    for _ in range(3):
        descend(model, optimizer)
    moment = optimizer.state[model.x]["exp_avg_sq"]
    divisor = (1 - 0.9**3) * ((moment / (1 - 0.99**3)).sqrt() + 1e-8)
    expected = (EIGENVALUES / divisor).max() / (3.8 / 0.1)
    assert ratio_of(model, optimizer) == pytest.approx(float(expected))


def test_radam_moves_in_plain_gradients_until_it_divides() -> None:
    model = Bowl(EIGENVALUES)
    optimizer = torch.optim.RAdam([model.x], lr=1.0, betas=(0.9, 0.99))
    for _ in range(3):
        descend(model, optimizer)
    expected = EIGENVALUES.max() / (1 - 0.9**3) / (3.8 / 0.1)
    assert ratio_of(model, optimizer) == pytest.approx(float(expected))


def test_each_group_has_its_own_rate_and_the_whole_is_nearer_than_any() -> None:
    model = small_network()
    objective = Objective(model, F.mse_loss, [batch_of(16)], dtype=torch.float64)
    first, last = model[0], model[2]
    groups = [{"params": first.parameters()}, {"params": last.parameters(), "lr": 0.5}]
    found = stability(objective, torch.optim.SGD(groups, lr=0.1, momentum=0.9), tolerance=1e-6)
    matrix, cut = exact(objective), sum(p.numel() for p in first.parameters())
    for group, place, lr in zip(
        found.groups, (slice(0, cut), slice(cut, None)), (0.1, 0.5), strict=True
    ):
        sharpness = torch.linalg.eigvalsh(matrix[place, place])[-1]
        assert group.sharpness.value == pytest.approx(float(sharpness), rel=1e-5)
        assert (group.lr, group.limit) == (lr, pytest.approx(3.8 / lr))
    rates = torch.full((len(objective),), 0.1, dtype=torch.float64)
    rates[cut:] = 0.5
    whole = torch.linalg.eigvals(rates.diag() @ matrix).real.max() / 3.8
    assert found.ratio.value == pytest.approx(float(whole), rel=1e-5)
    assert found.ratio.value >= max(group.ratio for group in found.groups)


def test_the_rate_is_that_of_the_coming_step() -> None:
    model = Bowl(EIGENVALUES)
    schedule = schedules.linear(1.0, 0.5, steps=10)
    optimizer = optim.SGD([model.x], lr=schedule)
    first = ratio_of(model, optimizer)
    for _ in range(5):
        descend(model, optimizer)
    assert ratio_of(model, optimizer) == pytest.approx(0.75 * first)


def test_a_rate_of_zero_is_as_far_from_the_edge_as_can_be() -> None:
    model = Bowl(EIGENVALUES)
    found = stability(Objective(model, height, [NOTHING]), torch.optim.SGD([model.x], lr=0.0))
    assert found.ratio.value == found.groups[0].ratio == 0
    assert found.groups[0].sharpness.value == pytest.approx(7)


def test_what_has_no_limit_is_refused() -> None:
    def of(optimizer: Callable[[Tensor], torch.optim.Optimizer]) -> None:
        model = Bowl(EIGENVALUES)
        ratio_of(model, optimizer([model.x]))

    class Adam(torch.optim.Optimizer):
        pass

    refused: list[tuple[Any, str]] = [
        (lambda p: optim.Lion(p), "No limit of stability is known for Lion"),
        (lambda p: optim.Optimizer(p, chain(clip_norm(1.0), delta_bar_delta())), "DeltaBarDelta"),
        (lambda p: torch.optim.LBFGS(p), "No limit of stability is known for LBFGS"),
        (lambda p: Adam(p, {"lr": 0.1}), "No limit of stability is known for Adam"),
        (lambda p: optim.Optimizer(p, adam()), "Adam has no metric before its first step"),
        (lambda p: torch.optim.Adagrad(p), "Adagrad has no metric before its first step"),
        (lambda _: torch.optim.SGD([torch.zeros(3)]), "steps none of the parameters"),
    ]
    for optimizer, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            of(optimizer)
