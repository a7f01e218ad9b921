"""What is known of an optimizer: its name, the rules it is made of, and PyTorch's counterpart.

All that carries an optimizer's name follows from here: its recipe, its drop-in class, its entrant,
its lines of PyTorch. `Named` stands in the file of the rule that takes the step.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cached_property
from inspect import Parameter, Signature
from textwrap import fill
from typing import Any

import torch

from thalweg.arguments import number
from thalweg.errors import UserError
from thalweg.rules.decay import DecoupledDecay, L2Decay
from thalweg.rules.rule import Rule

Chain = tuple[type[Rule], ...]

DECOUPLED = "decoupled_weight_decay"
DROP_IN = ("params", "foreach", "maximize", "capturable", "differentiable", "fused")
"""What a drop-in class takes and a recipe does not."""


class Named:
    """An optimizer by its name, with its rules in order at its defaults.

        Named("AdamW", Adam(), DecoupledDecay())

    PyTorch tells several rules apart by arguments of one class: those of one `Counterpart` are
    variants of one optimizer, each for the arguments that are on.
    """

    def __init__(self, name: str, *rules: Rule) -> None:
        self.name = name
        self.rules = rules
        self.stepping = next(rule for rule in rules if "lr" in rule.hypers)
        self.chains: dict[tuple[str, ...], Chain] = {}

    @property
    def recipe(self) -> str:
        """What commands, files and reports call it: delta-bar-delta for DeltaBarDelta."""
        return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "-", self.name).lower()

    @property
    def function(self) -> str:
        """The name of the function that makes its recipe."""
        return self.recipe.replace("-", "_")

    @property
    def defaults(self) -> dict[str, Any]:
        """Its settings, those of the rule that takes the step first."""
        settings = dict(self.stepping.settings)
        for rule in self.rules:
            settings |= rule.settings
        return settings

    @cached_property
    def variants(self) -> dict[frozenset[str], type[Rule]]:
        """The rules that may take the step, by the arguments that are on."""
        own = type(self.stepping)
        found = {frozenset[str](): own}
        kinds = [own]
        for kind in kinds:
            kinds += kind.__subclasses__()
            if own.torch and kind.torch and kind.torch.name == own.torch.name:
                found.setdefault(kind.torch.on - own.torch.on, kind)
        return found

    @cached_property
    def flags(self) -> list[str]:
        """The settings that choose the chain, by being on."""
        decoupled = {DECOUPLED} if any(isinstance(rule, L2Decay) for rule in self.rules) else set()
        return sorted(decoupled.union(*self.variants))

    def chain(self, settings: Mapping[str, Any]) -> Chain:
        """The rules that these settings choose; UserError where nothing has what is on."""
        on = tuple(flag for flag in self.flags if is_on(settings.get(flag, False)))
        if on not in self.chains:
            self.chains[on] = self.chain_with(frozenset(on))
        return self.chains[on]

    def chain_with(self, on: frozenset[str]) -> Chain:
        flags = on - {DECOUPLED}
        if flags not in self.variants:
            lacking = next((known - flags for known in self.variants if known > flags), ["more"])
            needed = " and ".join(sorted(lacking))
            raise UserError(f"{' and '.join(sorted(flags))} needs {needed} too.")
        kinds = [self.variants[flags] if r is self.stepping else type(r) for r in self.rules]
        if DECOUPLED in on:
            kinds = [*(kind for kind in kinds if kind is not L2Decay), DecoupledDecay]
        return tuple(kinds)

    def rules_with(self, settings: Mapping[str, Any]) -> tuple[Rule, ...]:
        """The chain that these settings choose, at these settings."""
        return tuple(
            kind(**{name: settings[name] for name in kind.known() if name in settings})
            for kind in self.chain(settings)
        )

    @cached_property
    def signature(self) -> Signature:
        """The arguments of its drop-in class: those of PyTorch's of that name, at our defaults."""
        known = {**self.hypers, **dict.fromkeys((*DROP_IN, *self.flags))}
        theirs = getattr(torch.optim, self.name, None)
        if theirs:
            taken = inspect.signature(theirs).parameters.values()
            return Signature([self.at_default(one) for one in taken if one.name in known])
        kind = Parameter.POSITIONAL_OR_KEYWORD
        settings = [Parameter(name, kind, default=it) for name, it in self.defaults.items()]
        maximize = Parameter("maximize", Parameter.KEYWORD_ONLY, default=False)
        return Signature([Parameter("params", kind), *settings, maximize])

    @property
    def recipe_signature(self) -> Signature:
        """The arguments of the function that makes its recipe."""
        taken = self.signature.parameters.values()
        return Signature([one for one in taken if one.name not in DROP_IN])

    def at_default(self, argument: Parameter) -> Parameter:
        default = self.defaults.get(argument.name, argument.default)
        whole = type(default) is int
        return argument.replace(
            default=float(default) if whole else default, annotation=Parameter.empty
        )

    @property
    def fixed(self) -> dict[str, bool]:
        """The flags of PyTorch's class that are always on here: `amsgrad` for AMSGrad."""
        counterpart = self.stepping.torch
        if counterpart is None:
            return {}
        on = counterpart.on.difference(self.defaults)
        decoupled = any(isinstance(rule, DecoupledDecay) for rule in self.rules)
        if decoupled and DECOUPLED in counterpart.arguments:
            on |= {DECOUPLED}
        return {flag: True for flag in on if flag not in self.signature.parameters}

    @property
    def hypers(self) -> dict[str, Any]:
        """The hyperparameters of all that it may be made of, by name."""
        kinds = [*self.variants.values(), *(type(rule) for rule in self.rules)]
        return {name: it for kind in reversed(kinds) for name, it in kind.hypers.items()}

    @property
    def documentation(self) -> str:
        """Its formula, what its flags choose, and where each setting may lie and is tuned."""
        chosen = [
            f"With {' and '.join(sorted(on))}: `thalweg.rules.{kind.__name__}`."
            for on, kind in self.variants.items()
            if on
        ]
        ranges = [
            fill(f"{name}: {self.hypers[name]}", 92, subsequent_indent="    ")
            for name in self.signature.parameters
            if name in self.hypers
        ]
        return "\n".join([inspect.getdoc(type(self.stepping)) or "", "", *chosen, *ranges])


def is_on(value: Any) -> bool:
    """Whether a flag, or a number that is one where it is 0, is on; a schedule is."""
    return value is not False and number(value) != 0
