"""A physics-informed network: L-BFGS behind the optimizer that races.

    thalweg race examples/pinn.py:train --entrants adam,nadam --trials 8 --seeds 12

It solves u'' = -sin(x) with u(0) = u(pi) = 0, whose solution is sin(x). Each call of the closure of
L-BFGS is a gradient evaluation and counts as a step.
"""

import math

import torch
from torch import Tensor, nn

import thalweg as tw

POINTS = torch.linspace(0, math.pi, 33)[:, None]


def residual(model: nn.Module) -> Tensor:
    x = POINTS.clone().requires_grad_()
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    ends = u[0] ** 2 + u[-1] ** 2
    return ((curvature + torch.sin(x)) ** 2).mean() + ends.sum()


@torch.no_grad()
def error(model: nn.Module) -> float:
    return float((model(POINTS) - torch.sin(POINTS)).abs().max())


@tw.loop(metric="largest error", direction="min", steps=200, name="pinn")
def train(run: tw.loops.Run) -> float:
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    first = run.optimizer(model)
    then = torch.optim.LBFGS(model.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        model.zero_grad()
        loss = residual(model)
        loss.backward()
        return loss

    for step in run.steps():
        if step <= run.budget // 2:
            closure()
            first.step()
        else:
            then.step(closure)
        if step % 50 == 0:
            run.report(error(model))
    return error(model)
