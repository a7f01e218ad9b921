"""What training, the race and the doctor need of an optimizer, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, overload


class Cost(NamedTuple):
    """What an optimizer costs beside its arithmetic.

    numbers: how many it keeps for each number of the parameters. evaluations: of the gradient, for
    each step.
    """

    numbers: float
    evaluations: float


class Stepper(Protocol):
    """The optimizers of this package are such; `Foreign` makes one of any other."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """As in PyTorch."""

    @property
    def state(self) -> Mapping[Any, Any]:
        """What is kept for each parameter, by name, as in PyTorch."""

    @property
    def needs_closure(self) -> bool:
        """Whether a step computes the gradients itself, as often as it needs them."""

    @property
    def averages(self) -> bool:
        """Whether evaluation is at an average of the iterates."""

    @property
    def last_lr(self) -> float:
        """The highest rate of all groups in the last step."""

    @property
    def cost(self) -> Cost: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float:
        """One step; `closure` computes the gradients, and gives the loss."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def evaluation(self) -> AbstractContextManager[None]:
        """The model at the parameters that evaluation uses, for the time of the block."""

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Tells schedules that follow a metric what it is."""
