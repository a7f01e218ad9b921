"""A character-level language model on the text of Python's own help topics."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.tasks.data import Data
from thalweg.tasks.task import Task

# The alphabet is fixed: the text, which differs between versions of Python, must not change the
# model's shape.
ALPHABET = ["\n", *map(chr, range(ord(" "), ord("~") + 1))]
OTHER = len(ALPHABET)
SYMBOLS = len(ALPHABET) + 1

CONTEXT = 64
EVALUATION_WINDOWS = 64


class Block(nn.Module):
    """Causal self-attention, then a feed-forward layer. Each normalises its input, and is added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "N T width"]) -> Float[Tensor, "N T width"]:
        x = x + self.attention(self.attention_norm(x))
        fed_forward: Tensor = self.feed_forward(x)
        return x + fed_forward

    def attention(self, x: Float[Tensor, "N T width"]) -> Float[Tensor, "N T width"]:
        """softmax(Q K' / sqrt(d)) V for each head, over the keys that are no later than the query.

        The formula is written out, because under vmap the fused form takes one sample at a time.
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        agreement = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        later = torch.ones(agreement.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        weights = agreement.masked_fill(later, -math.inf).softmax(-1)
        attended: Tensor = self.attention_out((weights @ value).transpose(1, 2).flatten(2))
        return attended


class Transformer(nn.Module):
    """Scores of the next symbol after each of a window of symbols (Vaswani et al. 2017)."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.symbol = nn.Embedding(SYMBOLS, width)
        self.position = nn.Parameter(torch.randn(CONTEXT, width) / math.sqrt(width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, SYMBOLS))

    def forward(self, symbols: Int[Tensor, "N T"]) -> Float[Tensor, "N T symbols"]:
        scores: Tensor = self.out(self.blocks(self.symbol(symbols) + self.position))
        return scores


def windows(text: Int[Tensor, " characters"]) -> tuple[Tensor, Tensor]:
    """Adjacent windows of `CONTEXT` symbols, and the next symbol of each symbol: `[N, CONTEXT]`.

    Entry (i, j) of the second tensor is the symbol after entry (i, j) of the first.
    """
    n = (len(text) - 1) // CONTEXT
    return (
        text[: n * CONTEXT].reshape(n, CONTEXT),
        text[1 : n * CONTEXT + 1].reshape(n, CONTEXT),
    )


def evenly_spaced(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Some of the windows, spread over the split, so that an evaluation is cheap."""
    chosen = torch.linspace(0, len(inputs) - 1, min(EVALUATION_WINDOWS, len(inputs))).long()
    return inputs[chosen], targets[chosen]


def encode(text: str) -> Int[Tensor, " characters"]:
    number = {character: index for index, character in enumerate(ALPHABET)}
    return torch.tensor([number.get(character, OTHER) for character in text])


def help_topics() -> Data:
    """The topics in alphabetical order as one text, which is cut into the splits."""
    from pydoc_data.topics import topics as text_of

    return cut(encode("\n\n".join(text_of[title] for title in sorted(text_of))))


def cut(text: Int[Tensor, " characters"]) -> Data:
    """The first 80 % of the text to train on, the next 10 % to validate, the last 10 % to test."""
    n = len(text)
    train, validation, test = text.tensor_split((n * 80 // 100, n * 90 // 100))
    return Data(windows(train), evenly_spaced(*windows(validation)), evenly_spaced(*windows(test)))


def nats_per_character(
    scores: Float[Tensor, "N T symbols"], following: Int[Tensor, "N T"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the next character; a uniform guess has log(97) = 4.57."""
    return F.cross_entropy(scores.flatten(0, 1), following.flatten())


topics = Task(
    name="topics",
    model=Transformer,
    data=help_topics,
    loss=nats_per_character,
    metric_name="nats per character",
    batch_size=16,
    steps=200,
    target=2.4,
    shows="A small transformer on text: its layers differ in scale, so adaptive rates help.",
)
