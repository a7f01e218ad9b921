"""The plain loop that trainers of other libraries are held against."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.optim import Optimizer
from thalweg.recipes import Recipe

EPOCHS, BATCH = 3, 8

Samples = tuple[Tensor, Tensor]


def trained(
    model: nn.Module, recipe: Recipe, training: Samples, validation: Samples
) -> tuple[list[float], list[dict[str, Tensor]]]:
    """The validation losses after each epoch, and the model as it was evaluated then."""
    optimizer = Optimizer(model.parameters(), recipe)
    x, y = validation
    losses, kept = [], []
    for _ in range(EPOCHS):
        seen = []
        for inputs, targets in zip(*(part.split(BATCH) for part in training), strict=True):
            optimizer.zero_grad()
            loss = F.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        with optimizer.evaluation():
            losses.append(F.mse_loss(model(x), y).item())
            kept.append({name: x.clone() for name, x in model.state_dict().items()})
        optimizer.observe(validation=losses[-1], training=sum(seen) / len(seen))
    return losses, kept
