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
from the folder that one is in. A setting that a file leaves out has its default. Above the rules a
file may say `pretrain = "by task"` or `"by network"`. A last table may say where a race is to tune
it, in a range with the scale that is documented for the setting, or with another one:

    [space]
    lr = [1e-4, 1e-1]
    "betas[0]" = [0.5, 0.99]
    eps = {low = 1e-9, high = 1e-6, scale = "log"}
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tomli_w

from thalweg import schedules
from thalweg.arguments import require_kind, require_text, short
from thalweg.errors import UserError, suggest
from thalweg.rule_names import name_of, rule_named
from thalweg.rules.rule import Rule
from thalweg.rules.space import Space
from thalweg.rules.tuning import space_of
from thalweg.schedules import Schedule

KEYS = ("name", "pretrain", "rules", "space")
HEADER = re.compile(r"\s*\[\[\s*rules\s*\]\]")
SPACE = re.compile(r"\s*\[\s*space\b")
BARE = re.compile(r"\s*\w+\[\d*\]\s*=")


def written(name: str, chain: Sequence[Rule], pretrain: str | None) -> str:
    """The file of a recipe of that name; `read` gives all three back, and an empty space."""
    tables = [
        {"rule": name_of(type(rule))} | {key: plain(value) for key, value in rule.settings.items()}
        for rule in chain
    ]
    before = {"pretrain": pretrain} if pretrain else {}
    return tomli_w.dumps({"name": name, **before, "rules": tables})


def read(text: str) -> tuple[str, tuple[Rule, ...], str | None, dict[str, Space]]:
    """The name, the rules and the pre-training of a recipe, and where it is to be tuned, by the
    name of the setting; UserError names the line and what is wrong there.
    """
    data = tables_of(text)
    for key in data:
        if key not in KEYS:
            hint = suggest(key, KEYS)
            raise UserError(f"line {line(text, key)}: a recipe file has no {key}; {hint}")
    name, tables, space = data.get("name", "recipe"), data.get("rules"), data.get("space")
    with on_line(line(text, "name")):
        require_text("name", name)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError("the recipe has no [[rules]]; it needs such a table for each of its rules.")
    chain = tuple(rule_from(table, text, place) for place, table in enumerate(tables))
    spaces = {} if space is None else spaces_from(space, chain, text)
    return name, chain, data.get("pretrain"), spaces


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


def spaces_from(table: Any, chain: Sequence[Rule], text: str) -> dict[str, Space]:
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
            spaces[name] = space_of(chain, name, given)
    return spaces


def rule_from(table: dict[str, Any], text: str, place: int) -> Rule:
    """The rule of one [[rules]] table, of which `place` others stand above it."""
    header = line(text, "rule", place)
    with on_line(header):
        kind = kind_of(table)
    settings = {}
    for key, value in table.items():
        if key != "rule":
            with on_line(line(text, key, place)):
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
        raise UserError(f"line {number}: {error}") from None


def line(text: str, key: str, place: int = -1) -> int:
    """The number of the line on which a [[rules]] table gives a key, or else begins.

    place: how many such tables stand above it; -1 for a key outside of them.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    headers = [i for i, line in enumerate(lines) if HEADER.match(line)]
    start, end = 0, len(lines)
    if 0 <= place < len(headers):
        start, end = [*headers, end][place : place + 2]
    return line_from(lines, key, start, end)


def line_from(lines: Sequence[str], key: str, start: int, end: int) -> int:
    """The number of the first of these lines that gives the key, or else of the line `start`."""
    given = re.compile(rf"(?<![\w-]){re.escape(key)}[\"']?\s*[=.\]]")
    return next((i for i in range(start, end) if given.search(lines[i])), start) + 1
