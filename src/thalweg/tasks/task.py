"""A task: a model, its data, a loss, a metric, and a budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from thalweg import arguments
from thalweg.arguments import require_list, require_text, require_whole, short, word
from thalweg.errors import UserError
from thalweg.random_numbers import (
    EVALUATION,
    RandomStream,
    drawing,
    drawing_alike,
    random_numbers_kept,
)
from thalweg.tasks.data import Data, a_or_an, data_of
from thalweg.tasks.evaluation import as_float, over_parts
from thalweg.tasks.forms import batch_of, is_spread, spread
from thalweg.tasks.held import held
from thalweg.tasks.loaders import read, size_of
from thalweg.tasks.own_loss import own_loss
from thalweg.tasks.sharing import InOneProcess, Reopened, shareable
from thalweg.tasks.sklearn_metrics import from_sklearn
from thalweg.tasks.trained_loss import TrainedLoss, bare, is_trained

Loss = Callable[[Any, Any], Tensor]
"""`loss(outputs, targets)`: a scalar, the mean over a mini-batch, which training lowers."""

Score = Callable[[Any, Any], Any]
"""`score(outputs, targets)`: a scalar tensor or a number; the task says what is better."""

FEW = 8
"""The samples on which it is tried whether evaluation needs gradients."""

INTERVAL = {"low", "high"}
"""The names of the columns next to a metric's column."""


@dataclass(frozen=True, eq=False)
class Task:
    """One network to train, and how well it was trained is measured.

    name: the name of the task in commands, files and reports.
    model: a function that makes a fresh model. Its initial weights come from the global random
        numbers of torch, NumPy or Python, which are seeded for each member.
    data: a function that makes the data: a `Data`, a tuple of its three splits, or a dictionary of
        `train`, `validation` and `test`. It must always make the same data. It is called once, and
        again for data that hold files open.
    loss: `loss(outputs, targets)`, a scalar, the mean over a mini-batch, which training lowers. A
        module with parameters of its own is copied for each model and trained with it. If not
        given, the outputs
        of the model hold the loss: they are a scalar, have it as `outputs.loss` or
        `outputs["loss"]`, begin with it, or are a dictionary of losses that are added.
    metric: `metric(outputs, targets)`, one number over a whole split, by which entrants are ranked;
        the loss if not given. It is called without gradients, for one model at a time. It may be a
        function of `sklearn.metrics`, which gets targets, and labels where it wants them. A metric
        that accumulates until `reset()`, as those of torchmetrics do, is copied for each call.
    metric_name: the name of that number; if not given, "metric", or "loss" without a metric.
    direction: whether "min" or "max" of the metric is better. It is required with a metric, unless
        the metric says it itself as those of torchmetrics do; a loss has "min".
    also: further metrics by name, which are shown but do not rank.
    batch_size: the samples of a step; if not given, as many as in a batch of the training data's
        loader, or 64. The whole training set if that is smaller.
    epochs, steps: the budget; give exactly one of the two.
    target: the value of the metric that counts as reached, for the steps to the target.
    evaluations: how often a run is evaluated on the whole validation data, spread evenly over its
        steps; the last is at the end.
    difficulty: `difficulty(value)` makes the task at another difficulty, such as a frequency, a
        length or a number of classes.
    curriculum: values of the difficulty, from simple to hard, that lead to this task.
    blocks, head: for a network that may grow block by block. `blocks()` makes the hidden layers in
        two blocks or more, and `head(depth)` makes the output layer after the first `depth` blocks.
        The model is then `nn.Sequential(*blocks(), head(len(blocks())))`.
    groups: `groups(model)` gives PyTorch's parameter groups: dictionaries with `params` and their
        own settings. `lr_factor` multiplies the `lr` of the recipe. Every recipe that trains on the
        task has these groups.
    shows: one sentence that says what the task shows.

    Raises `UserError` for a field that cannot be used.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Any]
    loss: Loss = own_loss
    metric: Score | None = None
    metric_name: str = "loss"
    direction: Literal["min", "max"] | None = None
    also: Mapping[str, Score] = field(default_factory=dict)
    batch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    target: float | None = None
    evaluations: int = 15
    difficulty: Callable[[Any], Task] | None = None
    curriculum: Sequence[Any] = ()
    blocks: Callable[[], Sequence[nn.Module]] | None = None
    head: Callable[[int], nn.Module] | None = None
    shows: str = ""
    groups: Callable[[nn.Module], Sequence[Mapping[str, Any]]] | None = None

    def __post_init__(self) -> None:
        require_text("A task's name", self.name)
        if self.metric is not None and self.metric_name == "loss":
            object.__setattr__(self, "metric_name", "metric")
        self._require_makers()
        self._require_scores()
        if is_trained(self.loss):
            object.__setattr__(self, "loss", TrainedLoss(cast("nn.Module", self.loss)))
        self._require_direction()
        self._require_budget()
        if self.target is not None:
            if not math.isfinite(arguments.number(self.target)):
                raise UserError(
                    f"Task '{self.name}' needs a finite number as its target, not"
                    f" {short(self.target)}."
                )
            object.__setattr__(self, "target", float(self.target))
        curriculum = require_list("A task's curriculum", self.curriculum, "a list of difficulties")
        object.__setattr__(self, "curriculum", tuple(curriculum))
        if self.curriculum and not callable(self.difficulty):
            raise UserError(
                f"Task '{self.name}' has a curriculum, so it needs a function that makes the task"
                f" from a value, not {short(self.difficulty)}; write difficulty=lambda value: ..."
            )
        if self.groups is not None and not callable(self.groups):
            raise UserError(
                f"Task '{self.name}' needs a function that takes the model and gives parameter"
                f" groups, not {short(self.groups)}; write groups=lambda model: ..."
            )
        if callable(self.blocks) is not callable(self.head):
            raise UserError(
                f"Task '{self.name}' needs functions for both blocks and head, or for neither."
            )

    @cached_property
    def given(self) -> Data:
        """The data, which are made at the first use and kept."""
        return self._made()

    def _made(self) -> Data:
        with drawing(0):
            data = data_of(self.data(), self.name)
            size = self.batch_size or size_of(data.train)
            enough = None if self.steps is None else self.steps * size
            of = f"data of task '{self.name}'"
            return Data(
                read(f"The training {of}", data.train, enough),
                read(f"The validation {of}", data.validation, None),
                read(f"The test {of}", data.test, None),
            )

    @property
    def samples_per_step(self) -> int:
        """The samples of a training batch: `batch_size`, or that of the training data's loader."""
        return self.batch_size or size_of(self.given.train)

    @cached_property
    def splits(self) -> Data:
        """The data for training and evaluation, in a form that forked processes can read.

        Training and validation data are in memory if `held` can hold them. Test data are read when
        they are checked and when they are scored, and are not kept.
        """
        given = self.given
        used = math.inf if self.steps is None else self.steps * self.samples_per_step
        of = f"data of task '{self.name}'"
        return Data(
            shareable(held(given.train, used), f"The training {of}", lambda: self._made().train),
            shareable(
                held(given.validation), f"The validation {of}", lambda: self._made().validation
            ),
            shareable(given.test, f"The test {of}", lambda: self._made().test),
        )

    @property
    def in_one_process(self) -> bool:
        """Whether some data can be read only in this process."""
        return any(isinstance(split, InOneProcess) for split in vars(self.splits).values())

    @property
    def sharing(self) -> list[str]:
        """A line about each split that forked processes cannot share as it is."""
        splits = vars(self.splits).values()
        return [split.line for split in splits if isinstance(split, Reopened | InOneProcess)]

    def fresh_model(self) -> nn.Module:
        """A model from `model`. Lazy layers get their shapes and weights from a small batch.

        The batch has a few training samples and runs in evaluation mode, so buffers do not change.
        """
        model = self.model()
        if not isinstance(model, nn.Module):
            return model
        if self.spreads:
            model.register_forward_pre_hook(spread, with_kwargs=True)
        if isinstance(self.loss, TrainedLoss):
            self.loss.put_into(model)
        if not any(map(is_lazy, held_by(model))):
            return model
        train: Any = self.given.train
        few = range(min(self.samples_per_step, len(train)))
        batch = batch_of(train, [train[i] for i in few])
        modes = [(module, module.training) for module in model.modules()]
        model.eval()(*batch[:-1])
        for module, mode in modes:
            module.training = mode
        return model

    @cached_property
    def spreads(self) -> bool:
        """Whether models may have to take the parts of their only argument as their arguments."""
        train: Any = self.given.train
        try:
            with random_numbers_kept():
                return is_spread(batch_of(train, [train[0]]))
        except Exception:
            # An error of a sample is reported where the sample is used.
            return False

    @property
    def score(self) -> Score:
        """The function that ranks entrants: the metric, or the loss if there is no metric."""
        return self.loss if self.metric is None else self.metric

    @property
    def better(self) -> Literal["min", "max"]:
        """Whether a small or a large value ranks better."""
        return self.direction or "min"

    @cached_property
    def scores(self) -> dict[str, Score]:
        """The metric that ranks, and the further metrics, by name.

        Each draws the same random numbers at every call, and keeps nothing from call to call.
        """
        scores = {self.metric_name: self.score, **self.also}
        called = {
            name: score if score is self.loss else of_outputs(forgetful(from_sklearn(score)))
            for name, score in scores.items()
        }
        return {name: drawing_alike(score) for name, score in called.items()}

    @cached_property
    def differentiates(self) -> bool:
        """Whether the model or a metric takes derivatives, so that evaluation needs gradients."""

        def fails(enabled: bool) -> bool:
            try:
                with drawing(0), torch.set_grad_enabled(enabled):
                    batch = batch_of(few, [few[i] for i in range(min(FEW, len(few)))])
                    self.metrics(self.fresh_model().eval()(*batch[:-1]), batch[-1])
            except Exception as error:  # another error is reported where it is met
                return "grad" in str(error)
            return False

        few: Any = self.given.validation
        return fails(False) and not fails(True)

    def evaluating(self) -> AbstractContextManager[object]:
        """A context in which models and metrics are evaluated: without gradients, if possible."""
        return torch.set_grad_enabled(self.differentiates)

    @cached_property
    def evaluation_numbers(self) -> RandomStream:
        """The random numbers that a model draws in evaluation: always the same, for all members."""
        return RandomStream(EVALUATION, again=True)

    def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
        """The values of all metrics for these outputs, by name."""
        return {
            name: over_parts(partial(number, score), outputs, targets)
            for name, score in self.scores.items()
        }

    def steps_per_epoch(self, n_train: int) -> int:
        """Steps in one pass over `n_train` samples: floor(n_train / batch_size), at least 1.

        The last incomplete batch of an epoch is dropped. A training set that is smaller than a
        batch is one full batch.
        """
        return max(1, n_train // self.samples_per_step)

    def total_steps(self, n_train: int) -> int:
        """Steps in the whole budget for `n_train` training samples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # a task has either steps or epochs
        return self.epochs * self.steps_per_epoch(n_train)

    def _require_makers(self) -> None:
        for what, value, made in (
            ("model", self.model, nn.Module),
            ("data", self.data, Data),
        ):
            if isinstance(value, made) or not callable(value):
                fresh = "copy.deepcopy(model)" if isinstance(value, nn.Module) else "..."
                raise UserError(
                    f"Task '{self.name}' needs a function without arguments that makes its {what},"
                    f" not {a_or_an(type(value).__name__)}; write {what}=lambda: {fresh}"
                )

    def _require_scores(self) -> None:
        if not isinstance(self.also, Mapping):
            raise UserError(
                f"Task '{self.name}' needs further metrics as a dictionary of functions by name,"
                f" not {a_or_an(type(self.also).__name__)}."
            )
        for name in (self.metric_name, *self.also):
            require_text(f"Task '{self.name}': a metric's name", name)
        scores = {"loss": self.loss, "metric": self.score}
        scores |= {f"further metric '{name}'": score for name, score in self.also.items()}
        for what, score in scores.items():
            if not callable(score):
                raise UserError(
                    f"Task '{self.name}' needs a function of (outputs, targets) as its {what},"
                    f" not {a_or_an(type(score).__name__)}."
                )
        if taken := INTERVAL & self.also.keys():
            raise UserError(
                f"Task '{self.name}' has a further metric called '{min(taken)}', which is also the"
                " name of an interval's end in the table of a race; give it another name."
            )
        if self.metric_name in self.also:
            raise UserError(
                f"Task '{self.name}' has a further metric called '{self.metric_name}', which is the"
                " name of the metric that ranks entrants; give it another name."
            )

    def _require_direction(self) -> None:
        known = getattr(self.metric, "higher_is_better", None)  # of the metrics of torchmetrics
        if self.direction is None and known is not None:
            object.__setattr__(self, "direction", "max" if known else "min")
        if self.direction is not None and word(self.direction) not in ("min", "max"):
            raise UserError(
                f"Task '{self.name}' needs direction 'min' or 'max', not {short(self.direction)}."
            )
        if self.metric is not None and self.direction is None:
            raise UserError(
                f"Task '{self.name}' has a metric, so it must say which direction is better: give"
                " direction='max' if higher is better, as for an accuracy, or else 'min'."
            )
        if self.metric is None and self.direction == "max":
            raise UserError(
                f"Task '{self.name}' has direction 'max' but no metric, and a lower loss is always"
                " better; give a metric."
            )

    def _require_budget(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            both_or_none = "neither" if self.epochs is None else "both"
            raise UserError(
                f"Task '{self.name}' needs exactly one of epochs and steps as its budget,"
                f" and has {both_or_none}."
            )
        for what in ("batch_size", "epochs", "steps", "evaluations"):
            value = getattr(self, what)
            if value is not None:
                whole = require_whole(f"Task '{self.name}': {what}", value, 1)
                object.__setattr__(self, what, whole)


def of_outputs(score: Score) -> Score:
    """The score of a model's outputs, without what belongs to its loss."""
    return lambda outputs, targets: score(bare(outputs), targets)


def number(score: Score, outputs: Any, targets: Any) -> float:
    """The score; nan if it refuses outputs that are not finite, as scikit-learn's metrics do."""
    try:
        return as_float(score(outputs, targets))
    except Exception:
        if all(x.isfinite().all() for x in tree_leaves(outputs)):
            raise
        return math.nan


def forgetful(score: Score) -> Score:
    """The score; if it is an object that accumulates until it is reset, a copy for each call."""
    if not hasattr(score, "reset"):
        return score
    return lambda outputs, targets: copy.deepcopy(score)(outputs, targets)


def held_by(model: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a model."""
    return chain(model.parameters(), model.buffers())
