"""The training loop, with checkpoints and pre-training."""

from thalweg.training import pretrain

__all__ = ["pretrain"]
