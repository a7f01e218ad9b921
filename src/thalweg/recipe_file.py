"""Recipes as TOML, for a person to read and change.

    name = "adam"

    [[rules]]
    rule = "ClipValue"
    clip_value = 1.0

    [[rules]]
    rule = "Adam"
    lr = {schedule = "linear", start = 0.003, end = 3e-5, steps = 2000}
    betas = [0.9, 0.999]

A rule of one's own is `rule = "rules.py:Mine"`, the class Mine in that file, whose path is seen
from the folder that one is in. An optimizer of another package is `rule = "torch.optim:RAdam"`; it
stands alone in its recipe. A setting that a file leaves out has its default. Above the rules a
file may say `pretrain = "by task"` or `"by network"`. A last table may say where a race is to tune
it, in a range with the scale that is documented for the setting, or with another one:

    [space]
    lr = [1e-4, 1e-1]
    "betas[0]" = [0.5, 0.99]
    eps = {low = 1e-9, high = 1e-6, scale = "log"}

Routes send parameters to a chain of their own behind the rules above, or change settings for them:

    [[routes]]
    to = ["hidden matrix"]

    [[routes.rules]]
    rule = "Muon"

    [[routes]]
    to = ["bias", "norm"]
    name = "no decay"
    weight_decay = 0.0

A setting of a route is tuned by the names of both: `"hidden matrix.lr" = [1e-3, 0.1]`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import tomli_w

from thalweg import schedules
from thalweg.arguments import require_kind, require_text, short
from thalweg.errors import UserError, suggest
from thalweg.routes import Route, tunables_of
from thalweg.rule_names import name_of, rule_named
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.rules.tuning import Tunable, space_of
from thalweg.schedules import Schedule

KEYS = ("name", "pretrain", "rules", "routes", "params", "space")
RULES = re.compile(r"\s*\[\[\s*rules\s*\]\]")
ROUTES = re.compile(r"\s*\[\[\s*routes\s*\]\]")
ROUTE_RULES = re.compile(r"\s*\[\[\s*routes\s*\.\s*rules\s*\]\]")
LINE = re.compile(r"line \d+: ")
SPACE = re.compile(r"\s*\[\s*space\b")
BARE = re.compile(r"\s*\w+\[\d*\]\s*=")


def written(
    name: str,
    chain: Sequence[Rule],
    pretrain: str | None,
    routes: Sequence[Route] = (),
    params: Mapping[str, float] | None = None,
) -> str:
    """The file of a recipe of that name; `read` gives all of it back, and an empty space."""
    held: dict[str, Any] = {"name": name, **({"pretrain": pretrain} if pretrain else {})}
    if chain or not routes:
        held["rules"] = tables(chain)
    if routes:
        held["routes"] = [
            {"to": list(route.to), "name": route.name}
            | {key: plain(value) for key, value in route.settings.items()}
            | ({"rules": tables(route.rules)} if route.rules else {})
            for route in routes
        ]
    if params:
        held["params"] = dict(params)
    return tomli_w.dumps(held)


def tables(chain: Sequence[Rule]) -> list[dict[str, Any]]:
    return [
        {"rule": name_of(type(rule))}
        | {key: plain(value) for key, value in rule.settings.items() if value is not None}
        for rule in chain
    ]


class Read(NamedTuple):
    """What a recipe file says; `space` is where it is to be tuned, by the name of the setting."""

    name: str
    rules: tuple[Rule, ...]
    pretrain: str | None
    routes: tuple[Route, ...]
    params: dict[str, Any]
    space: dict[str, Space]


def read(text: str) -> Read:
    """What a recipe file says; UserError names the line and what is wrong there."""
    data = tables_of(text)
    for key in data:
        if key not in KEYS:
            hint = suggest(key, KEYS)
            raise UserError(f"line {line(text, key)}: a recipe file has no {key}; {hint}")
    name, space = data.get("name", "recipe"), data.get("space")
    with on_line(line(text, "name")):
        require_text("name", name)
    routed = data.get("routes", [])
    given: Any = data.get("rules", [] if routed else None)
    if not are_tables(given):
        raise UserError("the recipe has no [[rules]]; it needs such a table for each of its rules.")
    chain = tuple(rule_from(table, text, place) for place, table in enumerate(given))
    if not are_tables(routed):
        raise UserError(f"routes must be [[routes]] tables, not {short(routed)}.")
    above = count()
    routes = tuple(route_from(table, text, place, above) for place, table in enumerate(routed))
    chains = [*chain, *(rule for route in routes for rule in route.rules)]
    for place, route in enumerate(routes):
        with on_line(line(text, "to", place, ROUTES)):
            route.accepted(chains)
    spaces = {} if space is None else spaces_from(space, tunables_of(chain, routes), text)
    return Read(name, chain, data.get("pretrain"), routes, data.get("params", {}), spaces)


def are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(table, dict) for table in value)


def route_from(table: dict[str, Any], text: str, place: int, above: Iterator[int]) -> Route:
    """The route of one [[routes]] table, of which `place` others stand above it.

    above: counts the [[routes.rules]] tables of all routes.
    """
    header = line(text, "to", place, ROUTES)
    with on_line(header):
        given = table.get("rules", [])
        if "to" not in table or not are_tables(given):
            raise UserError('a route needs to = ["bias", "norm"], and may have [[routes.rules]].')
        rules = [rule_from(rule, text, next(above), ROUTE_RULES) for rule in given]
        settings = {k: setting(v) for k, v in table.items() if k not in ("to", "name", "rules")}
        to = table["to"]
        return Route(
            tuple(to) if isinstance(to, list) else to, tuple(rules), settings, table.get("name", "")
        )


def tables_of(text: str) -> dict[str, Any]:
    """What stands in a file of TOML."""
    require_kind("a recipe", text, str, "the text of a recipe file")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(
            "the recipe is nested too deep; a setting is a number or a table."
        ) from None
    # Beside its own error, the parser passes on what Python says of a number or a date.
    except ValueError as error:
        last = f"at the end, line {len(text.splitlines())}"
        said = str(error).replace("at end of document", last).removesuffix(".")
        bare = any(BARE.match(line) for line in text.splitlines())
        hint = '; a name with brackets stands in quotes, such as "betas[0]"' if bare else ""
        raise UserError(f"the recipe is no TOML: {said}{hint}.") from None


def spaces_from(table: Any, known: Mapping[str, Tunable], text: str) -> dict[str, Space]:
    """The spaces of a [space] table."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if SPACE.match(line)), 0)
    if not isinstance(table, dict) or not table:
        raise UserError(
            f"line {line(text, 'space')}: space must be a table that says where a setting is tuned,"
            f" such as lr = [1e-4, 0.1], not {short(table)}."
        )
    spaces = {}
    for name, given in table.items():
        with on_line(line_from(lines, name, start, len(lines))):
            spaces[name] = space_of(known, name, given)
    return spaces


def rule_from(
    table: dict[str, Any], text: str, place: int, kind_of_table: re.Pattern[str] = RULES
) -> Rule:
    """The rule of one table, of which `place` others of its kind stand above it."""
    header = line(text, "rule", place, kind_of_table)
    with on_line(header):
        kind = kind_of(table)
    settings = {}
    for key, value in table.items():
        if key != "rule":
            with on_line(line(text, key, place, kind_of_table)):
                settings[key] = kind.accepted(key, setting(value))
    with on_line(header):
        return kind(**settings)


def kind_of(table: dict[str, Any]) -> type[Rule]:
    if "rule" not in table:
        raise UserError('this table does not say which rule it is, such as rule = "Adam".')
    return rule_named(table["rule"])


def plain(value: Any) -> Any:
    """A setting as TOML writes it."""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value.to_dict() if isinstance(value, Schedule) else value


def setting(value: Any) -> Any:
    """A setting from what TOML has read."""
    if isinstance(value, list):
        return tuple(setting(part) for part in value)
    return schedules.from_dict(value) if isinstance(value, dict) else value


@contextmanager
def on_line(number: int) -> Iterator[None]:
    """Adds to an error of the block the line that it comes from."""
    try:
        yield
    except UserError as error:
        if LINE.match(str(error)):
            raise
        raise UserError(f"line {number}: {error}") from None


def line(text: str, key: str, place: int = -1, kind: re.Pattern[str] = RULES) -> int:
    """The number of the line on which a table gives a key, or else begins.

    place: how many tables of its kind stand above it; -1 for a key outside of them.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    headers = [i for i, line in enumerate(lines) if kind.match(line)]
    start, end = 0, len(lines)
    if 0 <= place < len(headers):
        start, end = [*headers, end][place : place + 2]
    return line_from(lines, key, start, end)


def line_from(lines: Sequence[str], key: str, start: int, end: int) -> int:
    """The number of the first of these lines that gives the key, or else of the line `start`."""
    given = re.compile(rf"(?<![\w-]){re.escape(key)}[\"']?\s*[=.\]]")
    return next((i for i in range(start, end) if given.search(lines[i])), start) + 1
