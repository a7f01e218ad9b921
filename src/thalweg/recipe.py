"""A recipe: a chain of rules with their settings, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from thalweg import recipe_file
from thalweg.arguments import number, require_kind, require_known, require_text, short
from thalweg.errors import UserError, suggest
from thalweg.foreign import ForeignRule, where
from thalweg.routes import EVERYTHING, Parameter, Route, Track, tracks_of, tunables_of
from thalweg.rules.record import Named
from thalweg.rules.rule import Hyper, Rule, settings_of, with_settings
from thalweg.rules.space import Space
from thalweg.rules.tuning import Tunable, is_rate
from thalweg.schedules import Schedule

Setting: TypeAlias = "float | Schedule"

ANY_NUMBER = Hyper(0.0, low=-math.inf)
"""A setting of which nothing is known."""

PRETRAINING = ("by task", "by network")
"""The kinds of pre-training: on simpler tasks, or with a network that grows block by block."""


@dataclass(frozen=True)
class Recipe:
    """A chain of rules. Each rule takes what the rule before has made of the gradient.

    rules: the rules in order. Exactly one of them takes the step and has the `lr`. In a chain every
        hyperparameter and every state has a different name.
    name: the name of the recipe in tables and reports.
    routes: the parameters that go to chains of their own, each of which follows `rules`, and those
        with changed settings; see `thalweg.route`. Without routes to other chains, all parameters
        go through `rules`.
    pretrain: None, or one of `PRETRAINING`; training then goes through stages, each of which is a
        training with this chain from its first step; see `thalweg.pretrain`. An optimizer of the
        recipe ignores it.
    params: the numbers that a training loop of a user asks for by `run.param`, by name. An
        optimizer of the recipe ignores them.

    Raises UserError for a chain that could not train.
    """

    rules: tuple[Rule, ...]
    name: str = "recipe"
    pretrain: str | None = None
    routes: tuple[Route, ...] = ()
    params: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require_text("the name of a recipe", self.name)
        if self.pretrain is not None:
            require_known("pre-training", self.pretrain, PRETRAINING)
        require_kind("the rules of a recipe", self.rules, (tuple, list), "a tuple of rules")
        for rule in self.rules:
            require_kind(
                "each of a recipe's rules", rule, Rule, "a rule, such as thalweg.rules.Adam()"
            )
        require_kind("the routes of a recipe", self.routes, (tuple, list), "a tuple of routes")
        for route in self.routes:
            require_kind("each of a recipe's routes", route, Route, "a thalweg.routes.Route")
        names = [route.name for route in self.routes]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two routes of one recipe are called {name}; give one a name.")
        for rules in self.chains:
            check_chain(rules)
        self.check_foreign()
        stepping = [rule for rules in self.chains for rule in rules]
        routes = tuple(route.accepted(stepping) for route in self.routes)
        object.__setattr__(self, "rules", tuple(self.rules))
        object.__setattr__(self, "routes", routes)
        object.__setattr__(self, "params", accepted_params(self.params, self.of_rules))

    @property
    def branches(self) -> tuple[Route, ...]:
        """The routes to chains of their own."""
        return tuple(route for route in self.routes if route.rules)

    @property
    def chains(self) -> list[tuple[Rule, ...]]:
        """The whole chains through which parameters may go."""
        return [self.rules + route.rules for route in self.branches] or [self.rules]

    @property
    def foreign(self) -> ForeignRule | None:
        """The rule of an optimizer that steps by itself, or None."""
        rules = [rule for rules in self.chains for rule in rules]
        return next((rule for rule in rules if isinstance(rule, ForeignRule)), None)

    def check_foreign(self) -> None:
        """UserError for an optimizer that steps by itself beside other rules."""
        if (foreign := self.foreign) and (len(self.rules) > 1 or self.branches):
            raise UserError(
                f"{where(foreign.optimizer)} steps by itself, so no other rules can stand in its"
                " recipe, and no routes to other rules."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by its name, the params too."""
        return self.of_rules | dict(self.params)

    @property
    def of_rules(self) -> dict[str, Any]:
        """Every hyperparameter and option of every rule, by name, and those of routes by theirs:
        `lr`, `bias, norm.weight_decay`.
        """
        found = settings_of(self.rules)
        for route in self.routes:
            found |= route.named_settings
        return found

    def tracks(self, parameters: Sequence[Parameter]) -> list[Track]:
        """The track of each parameter. Raises UserError for parameters that no route takes."""
        return tracks_of(self.rules, self.routes, parameters)

    @property
    def tunables(self) -> dict[str, Tunable]:
        """All that can be tuned, by the name of the setting."""
        own = {name: Tunable(ANY_NUMBER, None, value) for name, value in self.params.items()}
        return tunables_of(self.rules, self.routes) | own

    @property
    def rates(self) -> dict[str, Setting]:
        """The `lr` of every chain, by the name of the setting."""
        return {name: value for name, value in self.settings.items() if is_rate(name)}

    @property
    def rate(self) -> float:
        """The `lr` of the first chain, or the base of its schedule."""
        first = next(iter(self.rates.values()))
        return float(first.base if isinstance(first, Schedule) else first)

    def at_rate(self, lr: float) -> Recipe:
        """The same recipe with this number as the `lr` of its first chain.

        The `lr` of other chains keep their ratios to it; they become equal to it if it was 0.
        """

        def rate(own: Setting) -> float:
            start = float(own.base if isinstance(own, Schedule) else own)
            return lr * start / self.rate if self.rate else lr

        return self.with_rates(rate)

    def with_rates(self, change: Callable[[Setting], Setting]) -> Recipe:
        """The same recipe with the `lr` of every chain changed."""
        return self.replace(**{name: change(lr) for name, lr in self.rates.items()})

    def replace(self, **settings: Any) -> Recipe:
        """The same recipe with some settings changed. UserError for a setting that it does not
        have.

        If no rule before the routes has an `lr`, then `lr` means that of each route's chain.
        """
        named = self.settings
        for name, value in settings.items():
            of_routes = [f"{route.name}.{name}" for route in self.branches]
            meant = [name] if name in named else [one for one in of_routes if one in named]
            if not meant:
                hint = suggest(name, self.settings)
                raise UserError(f"recipe {self.name} has no setting {name}; {hint}")
            named |= dict.fromkeys(meant, value)
        routes = tuple(route.with_settings(named) for route in self.routes)
        params = {name: named[name] for name in self.params}
        return replace(self, rules=with_settings(self.rules, named), routes=routes, params=params)

    def to_toml(self) -> str:
        """The recipe as TOML that a person can read and change. `from_toml` reads it back."""
        return recipe_file.written(self.name, self.rules, self.pretrain, self.routes, self.params)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """The recipe in a file's text. A UserError names the line and what is wrong there."""
        return cls.with_space(text)[0]

    @classmethod
    def with_space(cls, text: str) -> tuple[Recipe, dict[str, Space]]:
        """The recipe in a file's text, and the spaces in which a race tunes it: `[space]`."""
        name, chain, pretrain, routes, params, space = recipe_file.read(text)
        return cls(chain, name, pretrain, routes, params), space


def accepted_params(params: Any, taken: Container[str]) -> dict[str, float]:
    """The numbers of a loop by name; UserError for what are none, and for a name that is taken."""
    require_kind("the params of a recipe", params, Mapping, "numbers by name")
    for name, value in params.items():
        if name in taken:
            raise UserError(
                f"the recipe has a setting {name} of its own: give the param of your loop another"
                " name."
            )
        if not math.isfinite(number(value)):
            raise UserError(f"param {name} must be a finite number, not {short(value)}.")
    return {name: float(value) for name, value in params.items()}


def check_chain(chain: tuple[Rule, ...]) -> None:
    """Raises UserError for rules that cannot train in this order."""
    stepping = [i for i, rule in enumerate(chain) if "lr" in rule.hypers]
    if len(stepping) != 1:
        raise UserError(
            "a recipe needs exactly one rule that takes the step and has an lr; "
            f"this one has {len(stepping)}."
        )
    check_order(chain, stepping[0])
    named = [name for r in chain for name in (*r.settings, *r.states, *r.row_states)]
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"two rules of one recipe both have {name}; a chain takes one.")


def check_order(chain: tuple[Rule, ...], step: int) -> None:
    """Raises UserError for a rule at a wrong place. step: the place of the rule with the lr."""
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

    Rules before a recipe with routes are shared: a norm over the model is there over all
    parameters, while one in a route's own chain is over the parameters that the route takes. Rules
    after it go into every chain. Raises UserError for a chain that cannot train.
    """
    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()
    for part in parts:
        if not isinstance(part, Rule | Recipe):
            raise UserError(f"a chain is made of rules and recipes, not {short(part)}.")
        own, further = (part.rules, part.routes) if isinstance(part, Recipe) else ((part,), ())
        if any(route.rules for route in routes):
            routes = tuple(
                replace(route, rules=route.rules + own) if route.rules else route
                for route in routes
            )
        else:
            rules += own
        routes += further
    return Recipe(rules, name, routes=routes)


def recipe_with(named: Named, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of a named optimizer at these settings."""
    rules = named.rules_with(settings)
    if not named.to:
        return Recipe(rules, named.recipe)
    rest = Route((EVERYTHING,), named.rest_with(settings))
    return Recipe((), named.recipe, routes=(Route((named.to,), rules), rest))


def function_of(named: Named, module: str) -> Callable[..., Recipe]:
    """The function that makes the recipe of a named optimizer, as of that module."""
    signature = named.recipe_signature

    def make(*args: Any, **settings: Any) -> Recipe:
        given = signature.bind(*args, **settings)
        given.apply_defaults()
        return recipe_with(named, given.arguments)

    make.__name__ = make.__qualname__ = named.function
    make.__module__, make.__doc__ = module, named.documentation
    make.__signature__ = signature  # type: ignore[attr-defined]
    return make
