"""The record of a named optimizer: its name, its rules, and PyTorch's counterpart.

Its recipe, its drop-in class, its entrant and its lines of PyTorch follow from this record. The
file of the rule that takes the step has the record.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import Parameter, Signature
from textwrap import fill
from typing import Any

import torch

from thalweg.arguments import require_flag
from thalweg.errors import UserError
from thalweg.rules.decay import DecoupledDecay, L2Decay
from thalweg.rules.rule import Hyper, Rule, with_settings

Chain = tuple[type[Rule], ...]

DECOUPLED = "decoupled_weight_decay"
DROP_IN = ("params", "foreach", "maximize", "capturable", "differentiable", "fused")
"""The arguments of a drop-in class that a recipe does not have."""


class Named:
    """A named optimizer, with its rules in order and their defaults.

        Named("AdamW", Adam(), DecoupledDecay())

    In PyTorch, arguments of one class choose between several rules. Rules with the same
    `Counterpart` are variants of one optimizer, one for each set of arguments that are on.

        Named("Muon", Muon(), DecoupledDecay(), to="hidden matrix", rest=[Adam(), DecoupledDecay()])

    to: the words of the parameters that take the rules; `rest` are the rules of all others. A
    setting for which both have the same `Hyper` is one common setting.
    """

    def __init__(self, name: str, *rules: Rule, to: str = "", rest: Sequence[Rule] = ()) -> None:
        self.name = name
        self.rules = rules
        self.to, self.rest = to, tuple(rest)
        self.stepping = next(rule for rule in rules if "lr" in rule.hypers)
        self.decoupled = any(isinstance(rule, DecoupledDecay) for rule in rules)
        # The name in commands, files and reports, and of the function that makes its recipe.
        self.recipe = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "-", name).lower()
        self.function = self.recipe.replace("-", "_")
        self.chains: dict[tuple[str, ...], Chain] = {}

    @cached_property
    def variants(self) -> dict[frozenset[str], type[Rule]]:
        """The rules that may take the step, by the flags that are on."""
        own = type(self.stepping)
        found, kinds = {frozenset[str](): own}, [own]
        for kind in kinds:
            kinds += kind.__subclasses__()
            if own.torch and kind.torch and kind.torch.name == own.torch.name:
                found.setdefault(kind.torch.on - own.torch.on, kind)
        return found

    @cached_property
    def hypers(self) -> dict[str, Hyper]:
        """The hyperparameters of all rules that it may have, by name."""
        kinds = [*self.variants.values(), *(type(rule) for rule in self.rules)]
        return {name: it for kind in reversed(kinds) for name, it in kind.hypers.items()}

    @cached_property
    def flags(self) -> list[str]:
        """The names of the flags that choose the chain."""
        beside = set() if self.decoupled else {DECOUPLED}
        return sorted(beside.union(*self.variants))

    def chain(self, settings: Mapping[str, Any]) -> Chain:
        """The rules that these settings choose. Flags that lack another flag are ignored."""
        on = tuple([flag for flag in self.flags if settings.get(flag)])  # this runs at every step
        if on not in self.chains:
            rule = self.variants[max((one for one in self.variants if one <= set(on)), key=len)]
            kinds = [rule if one is self.stepping else type(one) for one in self.rules]
            if DECOUPLED in on:
                kinds = [*(kind for kind in kinds if kind is not L2Decay), DecoupledDecay]
            self.chains[on] = tuple(kinds)
        return self.chains[on]

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises UserError for a flag with a wrong value, or one that lacks another flag."""
        for flag in settings.keys() & self.flags:
            if flag in self.hypers:
                self.hypers[flag].accepted(flag, settings[flag])
            else:
                require_flag(flag, settings[flag])
        on = frozenset(flag for flag in self.flags if settings.get(flag)) - {DECOUPLED}
        if on not in self.variants:
            lacking = next((one - on for one in self.variants if one > on), {"another"})
            given, needed = (" and ".join(sorted(some)) for some in (on, lacking))
            raise UserError(f"{given} needs {needed} too.")

    def rules_with(self, settings: Mapping[str, Any]) -> tuple[Rule, ...]:
        """The rules that these settings choose, with these settings."""
        self.check(settings)
        return tuple(
            kind(**{name: settings[name] for name in kind.known() if name in settings})
            for kind in self.chain(settings)
        )

    def rest_with(self, settings: Mapping[str, Any]) -> tuple[Rule, ...]:
        """The rules of the other parameters, with those of the settings that they share."""
        hypers = {name: it for rule in self.rest for name, it in rule.hypers.items()}
        theirs = [name for name, it in hypers.items() if it is self.hypers.get(name)]
        return with_settings(self.rest, {n: settings[n] for n in theirs if n in settings})

    @cached_property
    def signature(self) -> Signature:
        """The arguments of its drop-in class: those of PyTorch's class, with our defaults."""
        kind, taken = Parameter.POSITIONAL_OR_KEYWORD, []
        settings = {n: it for one in (self.stepping, *self.rules) for n, it in one.settings.items()}
        theirs = getattr(torch.optim, self.name, None)
        if theirs is None:
            taken = [Parameter(name, kind, default=value) for name, value in settings.items()]
            maximize = Parameter("maximize", Parameter.KEYWORD_ONLY, default=False)
            return Signature([Parameter("params", kind), *taken, maximize])
        known = {*DROP_IN, *self.flags, *self.hypers, *settings}
        for name, one in inspect.signature(theirs).parameters.items():
            if name in known:
                plain = float(one.default) if type(one.default) is int else one.default
                default = settings.get(name, plain)
                taken.append(one.replace(default=default, annotation=Parameter.empty))
        return Signature(taken)

    @property
    def recipe_signature(self) -> Signature:
        """The arguments of the function that makes its recipe."""
        taken = self.signature.parameters.values()
        return Signature([one for one in taken if one.name not in DROP_IN])

    @property
    def fixed(self) -> dict[str, bool]:
        """The flags of PyTorch's class that are always on here: `amsgrad` for AMSGrad."""
        theirs = self.stepping.torch
        on = theirs.on | ({DECOUPLED} & theirs.arguments.keys()) if theirs else frozenset()
        return {flag: True for flag in on if flag not in {*self.signature.parameters, *self.flags}}

    @property
    def documentation(self) -> str:
        """Its formula, the rules that its flags choose, and each setting's range and space."""
        lines = [inspect.getdoc(type(self.stepping)) or "", ""]
        for on, kind in self.variants.items():
            if on:
                lines.append(f"With {' and '.join(sorted(on))}: `thalweg.rules.{kind.__name__}`.")
        known = {**self.hypers, **self.stepping.options}
        told = [name for name in self.signature.parameters if name in known]
        lines += [fill(f"{it}: {known[it]}", 92, subsequent_indent="    ") for it in told]
        return "\n".join(lines)
