"""One run of a loop: what the loop's function is given."""

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

Look = Callable[[Any, nn.Module, Any, AnyOptimizer], Any]
"""`look(batches, model, loss, optimizer)`: the batches, as a doctor hands them on."""


class LeftError(BaseException):
    """A run ends here. No `except Exception` of the loop takes it for its own."""


@dataclass(frozen=True)
class Given:
    """What a run begins with.

    recipe: what its optimizers step by. seed: of its random numbers. steps: its budget in gradient
    evaluations. place: the file that keeps what it saves, if anything is to be kept. watch: is
    told the step whenever the run goes on. look: what a doctor does with `run.watch`.
    """

    recipe: Recipe
    seed: int
    steps: int
    place: Path | None = None
    watch: Callable[[int, int], None] = lambda *_: None
    look: Look | None = None


class Run:
    """One run of a loop. The race makes it, and gives it to the function.

    seed: random numbers of torch, NumPy and Python are seeded with it when the function begins.
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

    # What a loop calls

    @property
    def budget(self) -> int:
        """How many gradient evaluations the run may take, for a trainer that wants to know."""
        return self.given.steps

    @property
    def step(self) -> int:
        """The gradient evaluations so far, the one of this step included.

        Where the loop goes by `steps()`, each of them counts once, and each further call of a
        closure in it; elsewhere those of the optimizer that has taken the most count.
        """
        if self.rounds:
            return self.rounds + self.extra
        return self.before + max(self.taken.values(), default=0)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps, from 1 to the end of the budget.

        After `load` they go on behind the step at which the state was saved. A step whose closure
        is called k times, as by L-BFGS, counts k times.
        """
        while self.step < self.budget:
            self.rounds += 1
            self.given.watch(self.step, 1)
            yield self.step

    def optimizer(self, params: ParamsT | nn.Module, role: str = "") -> optim.Optimizer:
        """An optimizer of these parameters that steps by the recipe of this run.

        params: a model, tensors, or groups with settings of their own. role: what the optimizer is
        for, such as "generator", where a loop has several. A schedule advances with its steps.

        Raises UserError for a role that the loop does not name, where it names any.
        """
        if self.loop.roles:
            require_known("role of this loop", role, self.loop.roles)
        made = optim.Optimizer(params, of_role(self.given.recipe, role))
        self.optimizers.setdefault(role, []).append(made)
        return made

    def param(self, name: str, space: Any, default: float | None = None) -> Any:
        """A setting of the loop's own, such as a share of dropout, which is tuned with the recipe.

        space: where it is tuned: a pair of ends, such as (0.0, 0.5), or a `thalweg.Space`. A pair
        of whole numbers, such as (16, 256), gives whole numbers. A pair is searched on the log
        scale where both ends are above 0, else evenly. default: its value where it is not tuned;
        the middle of the space, if not given.

        Raises UserError for a name, a space or a default that cannot be used.
        """
        self.params[name] = found = param_of(name, space, default)
        return found.value(self.given.recipe.params.get(name, found.default))

    def report(self, metric: Any, training: Any = None) -> None:
        """Tells the race how good the run is by now, on validation data.

        metric: a number, as the loop returns it at its end. training: the training loss, for a
        recipe whose schedule watches it. A run whose metric is not finite has diverged: it stops
        here.

        Raises UserError for what is no number.
        """
        value = self.accepted("report", metric)
        loss = None if training is None else self.accepted("report", training)
        self.note(value, math.nan if loss is None else loss)
        self.observe(value, loss)
        self.given.watch(self.step, 1)

    def save(self, state: Any) -> None:
        """Keeps a state, from which the run goes on where it is interrupted, at the end of a step.

        state: tensors, numbers and texts, in dictionaries and lists, such as the `state_dict`s of
        model and optimizer. The steps, the reports and the random numbers are kept beside it.

        Raises UserError for what `torch.load(weights_only=True)` does not read.
        """
        if self.given.place is not None:
            saved.put(self.given.place, state, self.progress())
        self.given.watch(self.step, 1)

    def load(self) -> Any:
        """The state that was saved last, or None in a run that was not interrupted.

        The steps, the reports and the random numbers go on from there.
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
        """The batches as they are; in `thalweg doctor`, the doctor watches the steps taken on them.

        loss: `loss(outputs, targets)`, the mean over a batch; see `thalweg.Doctor`.
        """
        look = self.given.look
        return batches if look is None else look(batches, model, loss, optimizer)

    # What its race asks

    @property
    def all_optimizers(self) -> list[optim.Optimizer]:
        """Those that were made by `optimizer`."""
        return [one for some in self.optimizers.values() for one in some]

    def parameters(self) -> list[Parameter]:
        """Those of these optimizers by name, the role in front."""
        return [
            one._replace(name=f"{role}.{one.name}" if role else one.name)
            for role, some in self.optimizers.items()
            for optimizer in some
            for one in optimizer.known.values()
        ]

    def stepping(self, optimizer: AnyOptimizer) -> None:
        """An optimizer is about to take a step."""
        self.stepped[id(optimizer)] = optimizer  # kept, so that no id is given again
        self.taken[id(optimizer)] += 1
        self.given.watch(self.step, 1)

    def evaluating(self, optimizer: AnyOptimizer) -> None:
        """A closure is about to be called once more within a step."""
        self.extra += 1
        self.taken[id(optimizer)] += 1

    def note(self, metric: float, loss: float) -> None:
        """Adds a point to the curve, in place of one at the same step; ends a run that diverged."""
        if not math.isfinite(metric):
            self.diverged = Divergence(self.step, f"the {self.loop.metric} is {metric}")
            raise LeftError
        if self.curve and self.curve[-1].step == self.step:
            self.curve.pop()
        self.curve.append(Evaluation(self.step, loss, metric))

    def observe(self, validation: float, training: float | None) -> None:
        """Tells the schedules that watch a metric; UserError for one that is not reported."""
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
        """The value as a float; UserError for what is no number."""
        if not is_number(value):
            raise UserError(
                f"loop '{self.loop.name}' must {what} its {self.loop.metric} as one number, not"
                f" {short(value)}."
            )
        return float(value)

    def end(self, returned: Any) -> None:
        """The function has returned; UserError where it has told no metric."""
        if returned is not None:
            self.note(self.accepted("return", returned), math.nan)
        elif not self.curve:
            raise UserError(
                f"loop '{self.loop.name}' returned nothing and reported nothing: return its"
                f" {self.loop.metric}."
            )

    def forget(self) -> None:
        """Takes away what was saved: the run has ended."""
        if self.given.place is not None:
            self.given.place.unlink(missing_ok=True)
