"""A Lightning module in a loop: the trainer goes on as ever, the race gives the optimizer.

thalweg race examples/lightning_loop.py:train --entrants sgd,adam --trials 8 --seeds 12
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw


class Regression(lightning.LightningModule):
    def __init__(self, run: tw.loops.Run) -> None:
        super().__init__()
        self.run = run
        self.net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.net(inputs), targets)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        inputs, targets = batch
        self.log("loss", nn.functional.mse_loss(self.net(inputs), targets))

    def on_validation_epoch_end(self) -> None:
        self.run.report(self.trainer.callback_metrics["loss"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.run.optimizer(self.net)


def loader(count: int, seed: int, shuffle: bool) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator)
    targets = torch.sin(inputs[:, :1]) + inputs[:, 1:2]
    return DataLoader(TensorDataset(inputs, targets), batch_size=20, shuffle=shuffle)


@tw.loop(metric="validation loss", direction="min", steps=40, name="lightning")
def train(run: tw.loops.Run) -> None:
    trainer = lightning.Trainer(
        max_steps=run.budget,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Regression(run), loader(200, 1, shuffle=True), loader(100, 2, shuffle=False))
