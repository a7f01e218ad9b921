"""One run of a loop: the object that the function of the loop takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer as AnyOptimizer
from torch.optim.optimizer import ParamsT

from thalweg import optim
from thalweg.arguments import require_known, short
from thalweg.errors import UserError
from thalweg.loops import saved
from thalweg.loops.param import Param, param_of
from thalweg.loops.roles import of_role
from thalweg.recipe import Recipe
from thalweg.routes import Parameter
from thalweg.schedules import Plateau
from thalweg.stack.divergence import Divergence
from thalweg.tasks.user_code import is_number
from thalweg.training.run import Evaluation

if TYPE_CHECKING:
    from thalweg.loops.loop import Loop

Examine = Callable[[Any, nn.Module, Any, AnyOptimizer], Any]
"""`examine(batches, model, loss, optimizer)` returns the batches, which a doctor then watches."""


class LeftError(BaseException):
    """Raised to end a run. An `except Exception` in the loop does not catch it."""


@dataclass(frozen=True)
class Given:
    """The values with which a run begins.

    recipe: the recipe of the optimizers. seed: the seed of all random numbers. steps: the budget in
    gradient evaluations. place: the file for `run.save`; None if nothing is saved. watch: is called
    with the step whenever the run makes progress. examine: what `run.watch` does under a doctor.
    """

    recipe: Recipe
    seed: int
    steps: int
    place: Path | None = None
    watch: Callable[[int, int], None] = lambda *_: None
    examine: Examine | None = None


class Run:
    """One run of a loop. The race makes it, and calls the function with it.

    seed: the seed of the random numbers of torch, NumPy and Python.
    """

    def __init__(self, loop: Loop, given: Given) -> None:
        self.loop, self.given, self.seed = loop, given, given.seed
        self.rounds = self.extra = self.before = 0
        self.taken: Counter[int] = Counter()
        self.stepped: dict[int, AnyOptimizer] = {}
        self.optimizers: dict[str, list[optim.Optimizer]] = {}
        self.params: dict[str, Param] = {}
        self.curve: list[Evaluation] = []
        self.diverged: Divergence | None = None

    # Methods for the loop

    @property
    def budget(self) -> int:
        """The number of gradient evaluations that the run may take."""
        return self.given.steps

    @property
    def step(self) -> int:
        """The number of gradient evaluations so far, including this step.

        If the loop uses `steps()`, each step counts once, and so does each further call of a
        closure in a step. If not, the steps of the optimizer with the most steps count.
        """
        if self.rounds:
            return self.rounds + self.extra
        return self.before + max(self.taken.values(), default=0)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps, from 1 to the end of the budget.

        After `load` the numbers continue from the step at which the state was saved. A step that
        calls its closure k times, as with L-BFGS, counts k times.
        """
        while self.step < self.budget:
            self.rounds += 1
            self.given.watch(self.step, 1)
            yield self.step

    def optimizer(self, params: ParamsT | nn.Module, role: str = "") -> optim.Optimizer:
        """An optimizer of these parameters that steps by the recipe of this run.

        params: a model, tensors, or groups with settings of their own. role: the task of the
        optimizer, such as "generator", in a loop with several optimizers. Schedules advance with
        the steps of the optimizer.

        Raises UserError for a role that is not among the roles of the loop, if it has any.
        """
        if self.loop.roles:
            require_known("role of this loop", role, self.loop.roles)
        made = optim.Optimizer(params, of_role(self.given.recipe, role))
        self.optimizers.setdefault(role, []).append(made)
        return made

    def param(self, name: str, space: Any, default: float | None = None) -> Any:
        """The value of a setting of the loop, such as the share of dropout. It is tuned too.

        space: the search space: a pair of ends, such as (0.0, 0.5), or a `thalweg.Space`. A pair of
        whole numbers, such as (16, 256), gives whole numbers. A pair is searched on the log scale
        if both ends are above 0, else evenly. default: the value if the setting is not tuned; the
        middle of the space if not given.

        Raises UserError for a name, a space or a default that cannot be used.
        """
        self.params[name] = found = param_of(name, space, default)
        return found.value(self.given.recipe.params.get(name, found.default))

    def report(self, metric: Any, training: Any = None) -> None:
        """Reports the metric on validation data at this step.

        metric: a number, as the loop returns at its end. training: the training loss, if a schedule
        of the recipe watches it. A run with a metric that is not finite has diverged: it ends.

        Raises UserError for a value that is not a number.
        """
        value = self.accepted("report", metric)
        loss = None if training is None else self.accepted("report", training)
        self.note(value, math.nan if loss is None else loss)
        self.observe(value, loss)
        self.given.watch(self.step, 1)

    def save(self, state: Any) -> None:
        """Saves a state, from which an interrupted run continues. Call it at the end of a step.

        state: tensors, numbers and texts, in dictionaries and lists, such as the `state_dict`s of
        model and optimizer. The steps, the reports and the random numbers are saved with it.

        Raises UserError for a state that `torch.load(weights_only=True)` cannot read.
        """
        if self.given.place is not None:
            saved.put(self.given.place, state, self.progress())
        self.given.watch(self.step, 1)

    def load(self) -> Any:
        """The last saved state, or None in a run that was not interrupted.

        The steps, the reports and the random numbers continue from it.
        """
        kept = saved.get(self.given.place) if self.given.place else {}
        if not kept:
            return None
        self.rounds, self.extra = kept["rounds"], kept["extra"]
        self.before = kept["step"]  # counts if the loop does not use `steps()`
        self.curve = [Evaluation(*numbers) for numbers in kept["curve"]]
        return kept["state"]

    def progress(self) -> dict[str, Any]:
        """The steps and the evaluations so far, as plain data."""
        curve = [(one.step, one.train_loss, one.metric) for one in self.curve]
        return {"rounds": self.rounds, "extra": self.extra, "step": self.step, "curve": curve}

    def watch(
        self, batches: Iterable[Any], model: nn.Module, loss: Any, optimizer: AnyOptimizer
    ) -> Any:
        """Returns the batches. In `thalweg doctor`, the doctor watches the steps on them.

        loss: `loss(outputs, targets)`, the mean over a batch; see `thalweg.Doctor`.
        """
        examine = self.given.examine
        return batches if examine is None else examine(batches, model, loss, optimizer)

    # Methods for the race

    @property
    def all_optimizers(self) -> list[optim.Optimizer]:
        """All optimizers that `optimizer` has made."""
        return [one for some in self.optimizers.values() for one in some]

    def parameters(self) -> list[Parameter]:
        """The parameters of these optimizers, by names that begin with the role."""
        return [
            one._replace(name=f"{role}.{one.name}" if role else one.name)
            for role, some in self.optimizers.items()
            for optimizer in some
            for one in optimizer.known.values()
        ]

    def stepping(self, optimizer: AnyOptimizer) -> None:
        """Is called before a step of an optimizer."""
        self.stepped[id(optimizer)] = optimizer  # kept, so that no id is given again
        self.taken[id(optimizer)] += 1
        self.given.watch(self.step, 1)

    def evaluating(self, optimizer: AnyOptimizer) -> None:
        """Is called before each further call of a closure in a step."""
        self.extra += 1
        self.taken[id(optimizer)] += 1

    def note(self, metric: float, loss: float) -> None:
        """Adds an evaluation to the curve, or replaces that of this step. Ends a diverged run."""
        if not math.isfinite(metric):
            self.diverged = Divergence(self.step, f"the {self.loop.metric} is {metric}")
            raise LeftError
        if self.curve and self.curve[-1].step == self.step:
            self.curve.pop()
        self.curve.append(Evaluation(self.step, loss, metric))

    def observe(self, validation: float, training: float | None) -> None:
        """Gives schedules the metrics that they watch. UserError if a metric is not reported."""
        watched = {
            setting.metric
            for setting in self.given.recipe.settings.values()
            if isinstance(setting, Plateau)
        }
        if "training" in watched and training is None:
            raise UserError(
                f"a schedule of recipe {self.given.recipe.name} watches the training loss: report"
                " it too, as run.report(metric, training=loss)."
            )
        for optimizer in self.all_optimizers if watched else ():
            optimizer.observe(validation=validation, training=training)

    def accepted(self, what: str, value: Any) -> float:
        """The value as a float. Raises UserError if it is not a number."""
        if not is_number(value):
            raise UserError(
                f"loop '{self.loop.name}' must {what} its {self.loop.metric} as one number, not"
                f" {short(value)}."
            )
        return float(value)

    def end(self, returned: Any) -> None:
        """Is called when the function has returned. UserError if it has given no metric."""
        if returned is not None:
            self.note(self.accepted("return", returned), math.nan)
        elif not self.curve:
            raise UserError(
                f"loop '{self.loop.name}' returned nothing and reported nothing: return its"
                f" {self.loop.metric}."
            )
