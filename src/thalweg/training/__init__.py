"""The one training loop."""

from thalweg.training import pretrain

__all__ = ["pretrain"]
