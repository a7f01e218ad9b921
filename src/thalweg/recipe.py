"""A recipe: a chain of rules with their settings, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from thalweg import recipe_file
from thalweg.arguments import require_kind, require_known, require_text, short
from thalweg.errors import UserError, suggest
from thalweg.rules.record import Named
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.schedules import Schedule

Setting: TypeAlias = "float | Schedule"
Pair: TypeAlias = "tuple[Setting, Setting]"

PRETRAINING = ("by task", "by network")
"""What may go before a training: simpler tasks, or the network grown block by block."""


@dataclass(frozen=True)
class Recipe:
    """A chain of rules: each is given what the one before has made of the gradient.

    rules: in order; exactly one of them takes the step and has the `lr`. Every hyperparameter and
        every state has its name once in a chain.
    name: what the recipe is called in tables and reports.
    pretrain: one of `PRETRAINING` where training goes through such stages, each of which is a
        training with this chain from its first step; see `thalweg.pretrain`. An optimizer made of
        the recipe knows nothing of it.

    Raises UserError for a chain that could not train.
    """

    rules: tuple[Rule, ...]
    name: str = "recipe"
    pretrain: str | None = None

    def __post_init__(self) -> None:
        require_text("the name of a recipe", self.name)
        if self.pretrain is not None:
            require_known("pre-training", self.pretrain, PRETRAINING)
        require_kind("the rules of a recipe", self.rules, (tuple, list), "a tuple of rules")
        for rule in self.rules:
            require_kind(
                "each of a recipe's rules", rule, Rule, "a rule, such as thalweg.rules.Adam()"
            )
        stepping = [i for i, rule in enumerate(self.rules) if "lr" in rule.hypers]
        if len(stepping) != 1:
            raise UserError(
                "a recipe needs exactly one rule that takes the step and has an lr; "
                f"this one has {len(stepping)}."
            )
        check_order(self.rules, stepping[0])
        named = [name for r in self.rules for name in (*r.settings, *r.states, *r.row_states)]
        for name in named:
            if named.count(name) > 1:
                raise UserError(f"two rules of one recipe both have {name}; a chain takes one.")

    @property
    def settings(self) -> dict[str, Any]:
        """Every hyperparameter and option of every rule, by name."""
        return {name: value for rule in self.rules for name, value in rule.settings.items()}

    def replace(self, **settings: Any) -> Recipe:
        """The same chain with some settings changed; UserError for one that it does not have."""
        for name in settings:
            if name not in self.settings:
                hint = suggest(name, self.settings)
                raise UserError(f"recipe {self.name} has no setting {name}; {hint}")
        changed = (
            type(rule)(**{name: settings.get(name, value) for name, value in rule.settings.items()})
            for rule in self.rules
        )
        return replace(self, rules=tuple(changed))

    def to_toml(self) -> str:
        """The recipe as a file that a person can read and change; `from_toml` reads it back."""
        return recipe_file.written(self.name, self.rules, self.pretrain)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """The recipe that a file holds; UserError names the line and what is wrong there."""
        return cls.with_space(text)[0]

    @classmethod
    def with_space(cls, text: str) -> tuple[Recipe, dict[str, Space]]:
        """The recipe that a file holds, and where a race is to tune it: its `[space]` table."""
        name, chain, pretrain, space = recipe_file.read(text)
        return cls(chain, name, pretrain), space


def check_order(chain: tuple[Rule, ...], step: int) -> None:
    """UserError for a rule that computes nonsense at its place; `step` is that of the lr."""
    for i, rule in enumerate(chain):
        kind = type(rule).__name__
        if (rule.place == "before" and i > step) or (rule.place == "behind" and i < step):
            stepping = type(chain[step]).__name__
            raise UserError(f"{kind} must stand {rule.place} {stepping}, which takes the step.")
        if rule.place == "last" and rule is not chain[-1]:
            raise UserError(f"{kind} must stand last in its recipe.")


def chain(*parts: Rule | Recipe, name: str = "recipe") -> Recipe:
    """One recipe from rules and recipes, in order.

        chain(clip_value(1.0), adam(lr=3e-3), tail_average(last=500))

    Raises UserError for a chain that could not train.
    """
    flat: list[Rule] = []
    for part in parts:
        if not isinstance(part, Rule | Recipe):
            raise UserError(f"a chain is made of rules and recipes, not {short(part)}.")
        flat += part.rules if isinstance(part, Recipe) else [part]
    return Recipe(tuple(flat), name)


def function_of(named: Named, module: str) -> Callable[..., Recipe]:
    """The function that makes the recipe of a named optimizer, as of that module."""
    signature = named.recipe_signature

    def make(*args: Any, **settings: Any) -> Recipe:
        given = signature.bind(*args, **settings)
        given.apply_defaults()
        return Recipe(named.rules_with(given.arguments), named.recipe)

    make.__name__ = make.__qualname__ = named.function
    make.__module__, make.__doc__ = module, named.documentation
    make.__signature__ = signature  # type: ignore[attr-defined]
    return make
