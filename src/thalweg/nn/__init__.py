"""Batch normalization."""

from thalweg.nn.batch_norm import BatchNorm

__all__ = ["BatchNorm"]
