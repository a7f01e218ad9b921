"""The adding problem: add two marked numbers of a long sequence (Hochreiter, Schmidhuber 1997)."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.arguments import require_whole
from thalweg.tasks.data import Data
from thalweg.tasks.task import Task


class RecurrentNetwork(nn.Module):
    """h <- tanh(W z_t + U h + b) over the sequence, then one linear output (Elman 1990).

    z_t is a hidden layer over the pair (number, mark). The loop is written out, because `nn.RNN`
    cannot be stacked with vmap. U starts as the identity (Le, Jaitly and Hinton 2015) and W starts
    small, so that the network carries a sum before it learns what to add.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.element = nn.Sequential(nn.Linear(2, width), nn.ReLU())
        self.input = nn.Linear(width, width)
        self.recurrent = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, 1)
        nn.init.normal_(self.input.weight, std=0.01)
        nn.init.zeros_(self.input.bias)
        nn.init.eye_(self.recurrent.weight)

    def forward(self, sequence: Float[Tensor, "N T 2"]) -> Float[Tensor, " N"]:
        first, *others = self.input(self.element(sequence)).unbind(1)
        hidden = first.tanh()
        for driven in others:
            hidden = (driven + self.recurrent(hidden)).tanh()
        total: Tensor = self.output(hidden)
        return total.squeeze(-1)


def sequences(n: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`n` sequences `[n, length, 2]` of (number in [0, 1), mark), and the sums of the marked
    numbers.

    One mark is in the first half, one in the second. The sum has variance 2/12, which is the error
    of the constant answer 1.
    """
    numbers = torch.rand(n, length, generator=generator)
    half = length // 2
    first = torch.randint(half, (n,), generator=generator)
    second = torch.randint(half, length, (n,), generator=generator)
    marks = F.one_hot(first, length) + F.one_hot(second, length)
    return torch.stack([numbers, marks.float()], dim=-1), (numbers * marks).sum(1)


def generated_sequences(length: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    return Data(*(sequences(n, length, generator) for n in (8192, 512, 512)))


def adding_problem(length: int = 50) -> Task:
    """The problem on sequences of `length` numbers, 2 or more. Longer sequences are harder."""
    length = require_whole("length", length, 2)
    return Task(
        name="adding",
        model=RecurrentNetwork,
        data=partial(generated_sequences, length),
        loss=F.mse_loss,
        metric_name="mean squared error",
        batch_size=64,
        steps=600,
        target=0.02,
        difficulty=adding_problem,
        curriculum=tuple(shorter for shorter in (10, 25) if shorter < length),
        shows=f"Gradients through {length} steps of a recurrent network, which vanish or explode:"
        " clipping helps.",
    )


adding = adding_problem()
