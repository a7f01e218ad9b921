"""One configuration with one seed, in training."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.recipe import Recipe


@dataclass(frozen=True)
class Member:
    """A recipe and a seed; the seed fixes the initial weights and the order of the data."""

    recipe: Recipe
    seed: int
