"""The tasks of the benchmark of regret: bundled ones, some of them shortened, and two of its own.

All have a loss as their metric. On `scales` one family is clearly ahead.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.tasks import Task, find
from thalweg.tasks.adding import adding_problem
from thalweg.tasks.task import Data
from thalweg.tasks.topics import Transformer

WORDS, LENGTH, SUBJECTS, SIZES = 400, 12, 8, (1000, 200, 200)


def texts() -> Data:
    """Texts of a few words, and their subjects. Most words are rare (Zipf 1949), and each subject
    has its own that are less so.
    """
    generator = torch.Generator().manual_seed(3)
    zipf = 1 / torch.arange(1, WORDS + 1)
    shares = zipf * torch.randn(SUBJECTS, WORDS, generator=generator).mul(1.5).exp()
    subjects = torch.randint(SUBJECTS, (sum(SIZES),), generator=generator)
    words = shares[subjects].multinomial(LENGTH, replacement=True, generator=generator)
    return Data(*zip(words.split(SIZES), subjects.split(SIZES), strict=True))


class MeanOfWords(nn.Module):
    """A vector for each word; the subject is a linear function of their mean."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.word = nn.Embedding(WORDS, width)
        self.subject = nn.Linear(width, SUBJECTS)

    def forward(self, words: Int[Tensor, "N words"]) -> Float[Tensor, "N subjects"]:
        scores: Tensor = self.subject(self.word(words).mean(1))
        return scores


words = Task(
    name="words",
    model=MeanOfWords,
    data=texts,
    loss=F.cross_entropy,
    batch_size=20,
    epochs=2,
)

INPUTS, ROWS = 16, (600, 300, 300)


def unequal() -> Data:
    """A noisy function of inputs whose scales lie between 0.01 and 10."""
    generator = torch.Generator().manual_seed(5)
    count = sum(ROWS)
    inputs = torch.randn(count, INPUTS, generator=generator)
    directions = torch.randn(INPUTS, 8, generator=generator) / INPUTS**0.5
    targets = (1.5 * inputs @ directions).tanh().sum(1, keepdim=True)
    targets += torch.randn(count, 1, generator=generator)
    scaled = inputs * torch.logspace(-2, 1, INPUTS)
    return Data(*zip(scaled.split(ROWS), targets.split(ROWS), strict=True))


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, 1))


scales = Task(
    name="scales",
    model=small_network,
    data=unequal,
    loss=F.mse_loss,
    batch_size=30,
    epochs=8,
)

smaller = partial(Transformer, width=32, heads=2, layers=1)

TASKS = {
    "digits": find("digits"),
    "digits-conv": replace(find("digits-conv"), epochs=3),
    "adding": replace(adding_problem(20), batch_size=32, steps=150),
    "topics": replace(find("topics"), model=smaller, batch_size=8, steps=40),
    "scales": scales,
    "words": words,
}
