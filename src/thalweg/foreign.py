"""Optimizers of PyTorch and of other packages, described as rules, so that recipes can hold them.

Such a rule has the settings of its optimizer, and no arithmetic: the optimizer steps by itself. It
therefore stands alone in its recipe.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

import torch

from thalweg.arguments import number, short
from thalweg.errors import UserError, suggest
from thalweg.rules.rule import RESERVED, Hyper, Option, Rule
from thalweg.rules.space import Space, log, log_one_minus
from thalweg.user_file import USER_MODULE

AROUND = 100.0
"""The search space of a learning rate: from its default divided by this, to its default times it.
Two decades to each side.
"""

SPACES: Mapping[str, Any] = {
    "weight_decay": log(1e-4, 1.0),
    "momentum": log_one_minus(0.5, 0.99),
    "betas": (log_one_minus(0.5, 0.99), log_one_minus(0.8, 0.9999)),
}
"""The search spaces of other settings, as our own rules have them."""

USUAL_LR = 1e-3
"""The learning rate of an optimizer that has no default for it."""


@dataclass(frozen=True)
class Plain(Option):
    """A setting of any plain kind that is not tuned: a flag, a word, a whole number or None."""

    default: Any = None

    def accepted(self, name: str, value: Any) -> Any:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise UserError(f"{name} must be a number, a flag or a text, not {short(value)}.")
        return value

    def words(self) -> str:
        return "a number, a flag or a text"


class ForeignRule(Rule):
    """The settings of an optimizer that steps by itself. optimizer: its class."""

    optimizer: ClassVar[type[torch.optim.Optimizer]]

    def __init__(self, **settings: Any) -> None:
        for name, declared in self.known().items():
            setattr(self, name, declared.default)
        for name, value in settings.items():
            setattr(self, name, self.accepted(name, value))

    def made(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of these parameter groups, which have the values of the hyperparameters.

        Raises UserError where its class refuses them.
        """
        options = {
            name: self.settings[name]
            for name, option in self.options.items()
            if self.settings[name] != option.default
        }
        lr = groups[0]["lr"]
        try:
            return self.optimizer(groups, lr=lr, **options)  # type: ignore[call-arg]
        except Exception as error:
            settings = {name: x for name, x in groups[0].items() if name != "params"} | options
            told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            raise UserError(
                f"{where(self.optimizer)} cannot be made with {told}:"
                f" {type(error).__name__}: {error}"
            ) from error


known: dict[type, type[ForeignRule]] = {}
"""The rules of the classes so far."""


def rule_of(optimizer: type[torch.optim.Optimizer]) -> type[ForeignRule]:
    """The rule of an optimizer's class, always the same one. UserError as `described`."""
    if optimizer not in known:
        known[optimizer] = described(optimizer)
    return known[optimizer]


def described(optimizer: type[torch.optim.Optimizer]) -> type[ForeignRule]:
    """A rule with the settings of an optimizer's class; their spaces come from its signature.

    Raises UserError for a class that takes no parameters, that has no learning rate, or that has
    another argument that must be given.
    """
    arguments = signature(optimizer).parameters
    if "params" not in arguments:
        raise UserError(
            f"{where(optimizer)} takes no params, so a race cannot make it: give a subclass of"
            " torch.optim.Optimizer with __init__(self, params, lr=..., ...)."
        )
    declared: dict[str, Any] = {
        name: setting(optimizer, name, one.default)
        for name, one in arguments.items()
        if one.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        if name not in RESERVED
    }
    if not isinstance(declared.get("lr"), Hyper):
        raise UserError(
            f"{where(optimizer)} has no lr with a number as its default, and a race tunes and cools"
            " the lr: give a subclass that has one, or race the optimizer in a loop of your own."
        )
    names = {"__module__": optimizer.__module__, "__qualname__": optimizer.__qualname__}
    return type(optimizer.__name__, (ForeignRule,), declared | names | {"optimizer": optimizer})


def setting(optimizer: type, name: str, default: Any) -> Hyper | Plain:
    """The declaration of a setting by its default."""
    if default is Parameter.empty:
        if name != "lr":
            raise UserError(
                f"{where(optimizer)} needs {name}, which has no default: give a subclass that has"
                " one."
            )
        default = USUAL_LR
    if name == "lr" and number(default) > 0:
        return Hyper(default, log(default / AROUND, default * AROUND))
    several = isinstance(default, tuple | list)
    if several and all(math.isfinite(number(part)) for part in default):
        spaces: tuple[Space | None, ...] = tuple(SPACES.get(name, ()))[: len(default)]
        spaces += (None,) * (len(default) - len(spaces))
        return Hyper(tuple(map(float, default)), spaces, low=-math.inf)
    if (isinstance(default, float) or name in SPACES) and math.isfinite(number(default)):
        return Hyper(default, SPACES.get(name), low=-math.inf)
    # Another default, such as a member of an enumeration, cannot stand in a file.
    return Plain(default if type(default) in (bool, int, str) else None)


def imported(name: str) -> type[torch.optim.Optimizer]:
    """The class of an optimizer by a name such as `torch.optim:RAdam`.

    Raises UserError for a package that is not installed, and for a name that is no optimizer's.
    """
    module, _, attribute = name.partition(":")
    try:
        found = attrgetter(attribute)(import_module(module))
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"{name} cannot be imported ({error}): install the package {package}, or correct the"
            " name."
        ) from None
    except AttributeError:
        known = [n for n, one in vars(import_module(module)).items() if is_optimizer(one)]
        raise UserError(f"{module} has no {attribute}; {suggest(attribute, known)}") from None
    if not is_optimizer(found):
        raise UserError(f"{name} must be a class of torch.optim.Optimizer, not {short(found)}.")
    return found


def is_optimizer(value: object) -> TypeGuard[type[torch.optim.Optimizer]]:
    base = torch.optim.Optimizer
    return isinstance(value, type) and issubclass(value, base) and value is not base


def needs_closure(optimizer: type) -> bool:
    """Whether `step` of an optimizer's class needs a function that computes the gradients."""
    closure = signature(optimizer.step).parameters.get("closure")  # type: ignore[attr-defined]
    return closure is not None and closure.default is Parameter.empty


def where(optimizer: type) -> str:
    """The shortest name of a class, such as `torch.optim:RAdam`, or `mine.py:Mine` in a file."""
    file = getattr(sys.modules.get(optimizer.__module__), "__file__", None)
    if file and optimizer.__module__.startswith((USER_MODULE, "__main__")):
        return f"{Path(file).name}:{optimizer.__qualname__}"
    parts = optimizer.__module__.split(".")
    for count in range(1, len(parts)):
        module = ".".join(parts[:count])
        if getattr(sys.modules.get(module), optimizer.__qualname__, None) is optimizer:
            return f"{module}:{optimizer.__qualname__}"
    return f"{optimizer.__module__}:{optimizer.__qualname__}"
