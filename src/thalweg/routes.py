"""Routes, which send parameters of a model to a chain, or change settings for them.

A route chooses parameters by words. A word is a role (`ROLES`), a shape ("matrix" or "vector"), or
a pattern of names such as "body.*". "hidden matrix & body.*" chooses what fits both words.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from thalweg.arguments import require_kind, require_text, short
from thalweg.errors import UserError, suggest
from thalweg.rules.rule import Hyper, Option, Rule, settings_of, with_settings
from thalweg.rules.tuning import Tunable, tunables
from thalweg.schedules import Schedule, times

HIDDEN = "hidden matrix"
ROLES = ("bias", "norm", "embedding", "head", HIDDEN, "other")
"""The roles of parameters. The head is the matrix of the last layer; a matrix that is both head and
embedding counts as an embedding. Kernels of convolutions are matrices.
"""

SHAPES = ("matrix", "vector")
"""The shapes: a matrix has two dimensions or more, a vector has fewer."""

EVERYTHING = "*"
REST = "rest"
FACTOR = "lr_factor"

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORM = re.compile(r"Norm(\dd)?$")
NORM_NAME = re.compile(r"(^|[._])(\w*norm\w*|ln(_\w+)?|bn\d*)\.")
EMBEDDING_NAME = re.compile(r"embed|wte|wpe|token|(^|[._])pos")
WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


class Parameter(NamedTuple):
    """A parameter with its name and its role, which are empty if they are not known."""

    name: str
    shape: tuple[int, ...]
    role: str


def parameters_of(model: nn.Module) -> list[Parameter]:
    """All parameters of a model, with the roles that follow from its layers."""
    owners: dict[int, nn.Module] = {}
    head: Tensor | None = None
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        matrices = [param for param in own if param.ndim >= 2]
        if matrices:
            head = matrices[0] if len(matrices) == 1 else None
        for param in own:
            if not isinstance(owners.get(id(param)), EMBEDDINGS):
                owners[id(param)] = module
    found = []
    for name, param in model.named_parameters():
        role = role_of(name, param, owners[id(param)])
        if param is head and role == HIDDEN:
            role = "head"
        found.append(Parameter(plain_name(name), tuple(param.shape), role))
    return found


def parameters_by_name(named: Iterable[tuple[str, Tensor]]) -> list[Parameter]:
    """All parameters of a model, with the roles that their names suggest."""
    found = [parameter_by_name(*each) for each in named]
    last = max((place for place, one in enumerate(found) if len(one.shape) >= 2), default=0)
    # If a norm follows the last matrix, the head is not this matrix, but is also the embedding.
    if found and found[last].role == HIDDEN and all(one.role != "norm" for one in found[last:]):
        found[last] = found[last]._replace(role="head")
    return found


def parameter_by_name(full: str, param: Tensor) -> Parameter:
    """A single parameter of a model, by its name. Its role is never the head."""
    name = plain_name(full)
    return Parameter(name, tuple(param.shape), role_of(name, param))


def role_of(name: str, param: Tensor, module: nn.Module | None = None) -> str:
    """The role of a parameter by its name and, if it is known, its module. It is never the head."""
    if not name:
        return ""
    last = name.rpartition(".")[2]
    gain = param.ndim == 1 and last == "weight"  # such a weight nearly always belongs to a norm
    if NORM.search(type(module).__name__) if module else gain or NORM_NAME.search(name):
        return "norm"
    if "bias" in last:
        return "bias"
    if isinstance(module, EMBEDDINGS) or EMBEDDING_NAME.search(last if module else name):
        return "embedding"
    return HIDDEN if param.ndim >= 2 else "other"


def listed(params: Any) -> Any:
    """The parameters of a group as a list; a set, or something that is no collection, unchanged."""
    if isinstance(params, Tensor):
        return [params]
    return list(params) if isinstance(params, Iterable) and not isinstance(params, set) else params


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes of `torch.compile` and other wrappers."""
    return WRAPPERS.sub("", name).removeprefix("module.")


To = str | Sequence[str]
"""One word by which a route chooses parameters, or several."""


def in_words(to: To) -> tuple[str, ...]:
    """The words by which a route chooses parameters. Raises UserError for other values."""
    words = (to,) if isinstance(to, str) else to
    require_kind("to", words, (tuple, list), 'words, such as ["bias", "norm"] or ["body.*"]')
    if not words:
        raise UserError('a route needs words that choose parameters: to = ["bias", "norm"].')
    for word in words:
        require_text("each word of a route", word)
    return tuple(words)


@dataclass(frozen=True)
class Route:
    """Sends parameters to a chain of their own, or changes settings for them.

        Route(("hidden matrix",), tw.muon().rules)
        Route(("bias", "norm"), settings={"weight_decay": 0.0})
        Route(("body.*",), settings={"lr_factor": 0.1})

    to: words; a parameter is chosen if one of them fits. rules: the chain. settings: the settings
    that change, instead of a chain; `lr_factor` multiplies the `lr`. name: the name of the route,
    which comes before its settings, as in "bias, norm.weight_decay".
    """

    to: To
    rules: tuple[Rule, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        to = in_words(self.to)
        name = self.name or (REST if to == (EVERYTHING,) and self.rules else ", ".join(to))
        require_text("the name of a route", name)
        if bool(self.rules) == bool(self.settings):
            raise UserError(
                f"route {name} needs either a chain of rules, or settings that it changes, such as"
                " weight_decay = 0."
            )
        object.__setattr__(self, "to", to)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "rules", tuple(self.rules))
        object.__setattr__(self, "settings", dict(self.settings))

    def __hash__(self) -> int:
        return hash(repr(self))

    def takes(self, parameter: Parameter) -> bool:
        return any(fits(word, parameter) for word in self.to)

    @property
    def named_settings(self) -> dict[str, Any]:
        """The settings of the route, with its name in front of each."""
        settings = settings_of(self.rules) if self.rules else self.settings
        return {f"{self.name}.{name}": value for name, value in settings.items()}

    def with_settings(self, named: Mapping[str, Any]) -> Route:
        """The same route with some settings changed. named: settings as in `named_settings`."""
        own = {name.removeprefix(f"{self.name}."): named[name] for name in self.named_settings}
        if self.rules:
            return replace(self, rules=with_settings(self.rules, own))
        return replace(self, settings=own)

    def accepted(self, chains: Sequence[Rule]) -> Route:
        """The route with settings that the rules accept. UserError if no rule has a setting."""
        known = known_in(chains)
        for name in self.settings:
            if name not in known:
                raise UserError(f"route {self.name}: no chain has {name}; {suggest(name, known)}")
        taken = {name: known[name].accepted(name, value) for name, value in self.settings.items()}
        if isinstance(taken.get(FACTOR), Schedule):
            raise UserError(
                f"route {self.name}: lr_factor must be a number, which multiplies a schedule of lr"
                " too; for another schedule, give the route its own lr."
            )
        return replace(self, settings=taken)

    def tunables(self, chains: Sequence[Rule]) -> dict[str, Tunable]:
        """All settings of the route that can be tuned; changed ones have no documented space."""
        if self.rules:
            return {f"{self.name}.{name}": one for name, one in tunables(self.rules).items()}
        hypers = {n: one for n, one in known_in(chains).items() if isinstance(one, Hyper)}
        return {
            f"{self.name}.{name}": Tunable(hypers[name], None, value)
            for name, value in self.settings.items()
            if name in hypers and not isinstance(value, tuple)
        }


def fits(word: str, parameter: Parameter) -> bool:
    """Whether a word fits a parameter."""
    if "&" in word:
        return all(fits(part.strip(), parameter) for part in word.split("&"))
    if word in ROLES:
        chosen = word == HIDDEN and not parameter.name  # see `check_known`
        return chosen or parameter.role == word
    if word in SHAPES:
        return (len(parameter.shape) >= 2) == (word == "matrix")
    return fnmatchcase(parameter.name, word)


def both(one: str, other: str) -> str:
    """The word that fits if both words fit."""
    if one in (EVERYTHING, other):
        return other
    return one if other == EVERYTHING else f"{one} & {other}"


def known_in(chains: Iterable[Rule]) -> dict[str, Hyper | Option]:
    """All settings that a route may change."""
    return {FACTOR: Hyper(1.0)} | {n: one for rule in chains for n, one in rule.known().items()}


def tunables_of(rules: Sequence[Rule], routes: Sequence[Route]) -> dict[str, Tunable]:
    """All that can be tuned in a recipe, by name."""
    chains = [*rules, *(rule for route in routes for rule in route.rules)]
    found = tunables(rules)
    for route in routes:
        found |= route.tunables(chains)
    return found


@dataclass(frozen=True)
class Track:
    """The chain and the settings of the parameters that the same routes take.

    name: the names of these routes. branch: the name of the route that sends them to a chain of
    their own. Sums over the model are then over its parameters, except in the first `shared` rules,
    which are common to all parameters. changes: the settings that routes change.
    """

    name: str
    branch: str
    rules: tuple[Rule, ...]
    shared: int
    changes: Mapping[str, Any]

    def settings(self, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All settings. own: those that a parameter group of the user replaces."""
        chosen = {**settings_of(self.rules), **(own or {})}
        chosen |= {name: value for name, value in self.changes.items() if name in chosen}
        factor = self.changes.get(FACTOR, 1.0)
        return chosen if factor == 1.0 else chosen | {"lr": times(chosen["lr"], factor)}


def track_of(
    rules: tuple[Rule, ...], routes: Sequence[Route], parameter: Parameter
) -> Track | None:
    """The track of a parameter; None if no route takes it.

    The parameter goes to the chain of the first route that takes it. All routes that take it and
    change settings apply, one after the other.
    """
    branching = [route for route in routes if route.rules]
    first = next((route for route in branching if route.takes(parameter)), None)
    if branching and first is None:
        return None
    taking = [route for route in routes if not route.rules and route.takes(parameter)]
    changes: dict[str, Any] = {}
    for route in taking:
        factor = changes.get(FACTOR, 1.0) * route.settings.get(FACTOR, 1.0)
        changes |= {**route.settings, FACTOR: factor}
    branch = first.name if first else ""
    names = [branch or REST] if first or not taking else []
    names += [route.name for route in taking]
    own = first.rules if first else ()
    return Track(" + ".join(names), branch, rules + own, len(rules), changes)


def tracks_of(
    rules: tuple[Rule, ...], routes: Sequence[Route], parameters: Sequence[Parameter]
) -> list[Track]:
    """The track of each parameter. Raises UserError for parameters that no route takes.

    A recipe without routes needs no names of parameters.
    """
    check_known(routes, parameters)
    tracks = [track_of(rules, routes, parameter) for parameter in parameters]
    left = [one for one, track in zip(parameters, tracks, strict=True) if track is None]
    if left:
        told = "; ".join(f"{one.name} {list(one.shape)} ({one.role})" for one in left[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        raise UserError(f"no route takes {told}{more}: add a route for them, or a default recipe.")
    return [track for track in tracks if track]


def check_known(routes: Sequence[Route], parameters: Sequence[Parameter]) -> None:
    """Raises UserError for routes by name or role if names of parameters are not known.

    If routes ask only for hidden matrices, all matrices without names count as hidden: a user who
    gives tensors to such an optimizer has chosen them, as for PyTorch's Muon.
    """
    words = {part.strip() for route in routes for word in route.to for part in word.split("&")}
    asking = sorted(words.difference(SHAPES, (EVERYTHING,)))
    nameless = [one for one in parameters if not one.name]
    chosen = asking == [HIDDEN] and all(len(one.shape) >= 2 for one in nameless)
    if asking and nameless and not chosen:
        raise UserError(
            f"a route goes to {short(asking[0])}, but the names of these tensors are not known:"
            " give the model, or model.named_parameters()."
        )


def check_all_taken(routes: Sequence[Route], parameters: Sequence[Parameter]) -> None:
    """Reports routes that take no parameter.

    A route by roles gets a warning, because another model may have the role. A route by a name
    raises UserError.
    """
    free = list(parameters)
    for route in routes:
        taken = [one for one in (free if route.rules else parameters) if route.takes(one)]
        if route.rules:
            free = [one for one in free if one not in taken]
        if taken or route.to == (EVERYTHING,):
            continue
        said = f"route {route.name} takes no parameter of this model"
        words = {part.strip() for word in route.to for part in word.split("&")}
        if words <= {*ROLES, *SHAPES}:
            warnings.warn(f"{said}.", stacklevel=4)
        else:
            known = [*ROLES, *SHAPES, *(one.name for one in parameters)]
            close = get_close_matches(sorted(words)[0], known, 1)
            some = f"it has {', '.join(known[8:13])}, ..."
            raise UserError(f"{said}; {f'did you mean {close[0]}?' if close else some}")
