"""What a measurement was made on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """What a measurement was made on; it holds for nothing else.

    samples, batches: the data, fixed for the whole measurement. mode: that of the model's layers,
    "training", "evaluation" or "mixed". precision: of the arithmetic, such as "float32".
    products: how products with a matrix of second derivatives were made; empty where there were
    none.
    """

    samples: int
    batches: int
    mode: str
    precision: str
    products: str = ""
