"""Batch normalization, as a layer, and as a change to a model."""

from thalweg.nn.batch_norm import BatchNorm
from thalweg.nn.normalized_model import with_batch_norm

__all__ = ["BatchNorm", "with_batch_norm"]
