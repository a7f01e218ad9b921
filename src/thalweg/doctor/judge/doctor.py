"""A doctor for any training loop: it watches, says what it has found, and tries remedies."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from thalweg.arguments import require_list
from thalweg.doctor.criteria.criterion import Suspicion
from thalweg.doctor.judge.diagnose import judged, suspicions, told, tried
from thalweg.doctor.judge.diagnosis import Diagnosis
from thalweg.doctor.judge.finding import Finding
from thalweg.doctor.objective.objective import plain, samples_in
from thalweg.doctor.trials.in_use import recipe_in_use
from thalweg.doctor.trials.trial import Trials
from thalweg.doctor.watch.watcher import Watcher
from thalweg.errors import UserError
from thalweg.recipe import Recipe
from thalweg.stack.checkpoint import Checkpoint, model_state, optimizer_state
from thalweg.stack.rows import Tensors
from thalweg.stack.single import outputs_over
from thalweg.tasks.data import Data
from thalweg.tasks.evaluation import UnjoinableError, whole
from thalweg.tasks.forms import Batch
from thalweg.tasks.task import Score, Task

FEWEST = 5
"""The fewest coming batches for trials. One of every FEWEST samples is kept for the score."""


class Doctor(Watcher):
    """Watches a training. The training gives the same weights, to the bit, as without the doctor.

        doctor = Doctor(model, loss, optimizer)
        for inputs, targets in doctor.loading(loader):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
        print(doctor.diagnosis())

    loss: `loss(outputs, targets)`, the mean over a batch; batches are tuples (inputs..., target).
    every: the doctor measures the loss along one of this number of steps (`StepWatch`). Each such
        measurement costs about a gradient evaluation.
    budget: the share of the training's own time that all measurements together may take, 0.15 if
        not given. A measurement that does not fit waits. With None, each is made when it is due.
        Hooks and colder caches are not counted; they cost another twentieth of a step that takes a
        millisecond.

    The norm of the gradient is measured at every step, as far as a third of the budget allows. The
    other instruments are read at the steps 0, 10, 30, 90, and so on, on the batch of the step or on
    the last 8 batches. `close()` removes the doctor's hooks, and so does the end of a `with` block.

    Raises UserError for an `every` below 1 and a budget outside (0, 1).
    """

    def diagnosis(self, coming: Iterable[Batch] | None = None) -> Diagnosis:
        """The findings so far, at any step of the training.

        coming: the next batches, five or more tuples of tensors. If they are given, remedies are
        tried: copies of the model go on from its state with and without a remedy. They train on
        four fifths of the samples, in 8 different orders, and their score is the loss on the other
        samples. The model, the optimizer and the random state of the loop do not change.

        Raises UserError before the first step.
        """
        if coming is not None:
            coming = require_list("coming", coming, "a list of the next batches")
        if not self.step:
            raise UserError(
                "The doctor has watched no step yet: call diagnosis() after some steps."
            )
        recipe, unknown = self.recipe()
        finite = all(weight.isfinite().all() for weight in plain(self.model).parameters())
        case = self.case(recipe, self.step, "" if finite else "the weights are not finite")
        found = suspicions(case)
        if coming is None:
            why = "remedies are tried if the next batches are given, as doctor.diagnosis(batches)"
            findings = [judged(one, untried=why) for one in found]
        elif recipe is None:
            findings = [judged(one, untried=unknown) for one in found]
        else:
            findings = self.tried(found, recipe, coming)
        return told(case, findings, self, task=type(plain(self.model)).__name__, metric="loss")

    def recipe(self) -> tuple[Recipe | None, str]:
        """The recipe in use; or None, and the reason why it is not known."""
        try:
            return recipe_in_use(self.optimizer, plain(self.model)), ""
        except UserError as error:
            return None, str(error)

    def tried(
        self, found: Sequence[Suspicion], recipe: Recipe, coming: Sequence[Batch]
    ) -> list[Finding]:
        """The findings after trials on the coming batches."""
        self.looking = True  # the copies of the model have its hooks
        try:
            task = recorded(plain(self.model), self.loss, coming)
            model = plain(self.model)
            state = Checkpoint(0, self.weights(), optimizer_state(model, self.optimizer))
            outputs, targets = outputs_over(task, task.model().eval(), task.splits.validation)
            start = float(self.loss(outputs, targets))
            trials = Trials(task, recipe, start)
            return tried(trials, [going_on(one) for one in found], {0: state})
        except UserError as error:
            return [judged(one, untried=str(error)) for one in found]
        finally:
            self.looking = False

    def weights(self) -> Tensors:
        return model_state(plain(self.model))


def recorded(model: nn.Module, loss: Score, batches: Sequence[Batch]) -> Task:
    """A task that trains on four fifths of the samples in these batches; the others score it."""
    if not all(isinstance(batch, tuple | list) for batch in batches):
        raise UserError("the coming batches must be tuples of tensors.")
    if len(batches) < FEWEST:
        raise UserError(f"trials need {FEWEST} coming batches or more, not {len(batches)}.")
    if not all(isinstance(x, Tensor) for batch in batches for x in batch):
        raise UserError("the coming batches cannot be recorded: they must be tuples of tensors.")
    try:
        samples = whole(batches, [len(batch[-1]) for batch in batches], 0)
    except UnjoinableError:
        raise UserError(
            "the coming batches cannot be recorded: their tensors differ in shape beyond the"
            " dimension of samples."
        ) from None
    numbers = torch.arange(len(samples[-1]))
    unseen = numbers % FEWEST == FEWEST - 1
    train, validation = (tuple(x[chosen] for x in samples) for chosen in (~unseen, unseen))
    size = samples_in(batches[0])
    return Task(
        "coming batches",
        partial(copy.deepcopy, model),
        lambda: Data(train, validation, validation),
        loss,
        batch_size=size,
        steps=len(train[-1]) // size,
    )


def going_on(suspicion: Suspicion) -> Suspicion:
    """A suspicion without the remedies that need a new model, because the training goes on."""
    kept = tuple(remedy for remedy in suspicion.remedies if not remedy.model)
    return replace(suspicion, remedies=kept)
