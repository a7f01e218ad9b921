"""A small GAN: two optimizers, each with a recipe of its own in the race.

    thalweg race examples/gan.py:train --entrants adam,rmsprop --trials 8 --seeds 12

The generator learns a Gaussian of two dimensions; it is ranked by the distance between the true
mean and covariance and those of what it makes.
"""

import torch
from torch import nn
from torch.nn.functional import softplus

import thalweg as tw

MEAN = torch.tensor([1.0, -1.0])
MIXING = torch.tensor([[1.0, 0.0], [0.8, 0.6]])


def real(count: int) -> torch.Tensor:
    return MEAN + torch.randn(count, 2) @ MIXING.T


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


@torch.no_grad()
def distance(generator: nn.Module) -> float:
    made = generator(torch.randn(2000, 2))
    of_means = (made.mean(0) - MEAN).norm()
    of_covariances = (made.T.cov() - MIXING @ MIXING.T).norm()
    return float(of_means + of_covariances)


@tw.loop(
    metric="distance", direction="min", steps=300, roles=("generator", "discriminator"), name="gan"
)
def train(run: tw.loops.Run) -> float:
    generator, discriminator = network(2, 2), network(2, 1)
    of_generator = run.optimizer(generator, role="generator")
    of_discriminator = run.optimizer(discriminator, role="discriminator")
    for step in run.steps():
        made = generator(torch.randn(64, 2))
        of_discriminator.zero_grad()
        told_apart = softplus(-discriminator(real(64))) + softplus(discriminator(made.detach()))
        told_apart.mean().backward()
        of_discriminator.step()

        of_generator.zero_grad()
        softplus(-discriminator(made)).mean().backward()
        of_generator.step()
        if step % 60 == 0:
            run.report(distance(generator))
    return distance(generator)
