"""The protocol of an optimizer that training, the race and the doctor can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, overload


class Cost(NamedTuple):
    """The cost of an optimizer, without its arithmetic.

    numbers: how many numbers it keeps for each number of the parameters. evaluations: how often it
    needs the gradient in a step.
    """

    numbers: float
    evaluations: float


class Stepper(Protocol):
    """An optimizer that can be trained with.

    The optimizers of this package meet this protocol; `Foreign` adapts all others.
    """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """As in PyTorch."""

    @property
    def state(self) -> Mapping[Any, Any]:
        """The states of each parameter, by name, as in PyTorch."""

    @property
    def needs_closure(self) -> bool:
        """Whether `step` needs a closure, with which it computes the gradients itself."""

    @property
    def averages(self) -> bool:
        """Whether evaluation uses an average of the iterates."""

    @property
    def last_lr(self) -> float:
        """The highest learning rate of all groups in the last step."""

    @property
    def cost(self) -> Cost: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float:
        """Takes one step; `closure` computes the gradients and returns the loss."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def evaluation(self) -> AbstractContextManager[None]:
        """Within the block, the model holds the parameters for evaluation."""

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Gives the metrics to the schedules that follow one."""
