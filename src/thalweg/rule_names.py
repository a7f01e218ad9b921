"""The names of rules in files and commands: our rules by class, a user's own by file and class.

rule_named("Adam")             the package's
rule_named("rules.py:Mine")    the class Mine in the file rules.py
rule_named("torch.optim:SGD")  an optimizer of another package, which steps by itself
"""

from __future__ import annotations

import sys
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeGuard

from thalweg.arguments import require_known, short
from thalweg.errors import UserError
from thalweg.foreign import ForeignRule, imported, is_optimizer, rule_of, where
from thalweg.rules import RULES
from thalweg.rules.rule import Rule, every_rule
from thalweg.user_file import USER_MODULE, load

FILE = "rule file"
NOWHERE = ", which stands in no file"

known: dict[str, type[Rule]] = {}
"""The rules by earlier names, which are kept because the process may change its folder."""


def is_in_file(name: object) -> TypeGuard[str]:
    """Whether a name denotes something in a user's file."""
    return isinstance(name, str) and ".py:" in name


def is_import(name: object) -> TypeGuard[str]:
    """Whether a name denotes an optimizer in a package."""
    return isinstance(name, str) and ":" in name and not is_in_file(name)


def rule_named(name: Any) -> type[Rule]:
    """The rule of that name. Raises UserError if there is none, or if its file fails."""
    if isinstance(name, str) and name.endswith(NOWHERE):
        raise UserError(f"the rule {name}, cannot be found again: put it at the top of a .py file.")
    if not is_in_file(name):
        if is_import(name):
            return rule_of(imported(name))
        require_known("rule", name, RULES)
        return RULES[name]
    if not Path(name.rpartition(":")[0]).is_file() and name in known:
        return known[name]
    found = in_file(name)
    if is_optimizer(found):
        found = rule_of(found)
    if not is_rule(found):
        raise UserError(f"'{name}' must be a class of thalweg.rules.Rule, not {short(found)}.")
    known[name] = found
    return found


def in_file(name: str) -> Any:
    """The object in a user's file that has a name such as `rules.py:Mine`.

    If the rule is already in this process, as from a script or a task's file, it is that rule.
    """
    path, _, attribute = name.rpartition(":")
    for kind in reversed(every_rule()):
        if kind.__qualname__ == attribute and file_of(kind) == Path(path).resolve():
            return kind
    module = load(FILE, Path(path))
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        there = [name for name, one in vars(module).items() if is_rule(one)]
        rules = f"its rules are {', '.join(there)}" if there else "and no rule at all"
        raise UserError(f"There is no '{attribute}' in {path}; {rules}.") from None


def is_rule(value: object) -> TypeGuard[type[Rule]]:
    return isinstance(value, type) and issubclass(value, Rule) and value is not Rule


def name_of(kind: type[Rule]) -> str:
    """The name by which `rule_named` finds a rule again."""
    if RULES.get(kind.__name__) is kind:
        return kind.__name__
    if issubclass(kind, ForeignRule) and is_importable(kind):
        return where(kind.optimizer)
    file = file_of(kind)
    if file is None or "<locals>" in kind.__qualname__:
        return f"{kind.__qualname__}{NOWHERE}"
    here = Path.cwd()
    name = f"{file.relative_to(here) if file.is_relative_to(here) else file}:{kind.__qualname__}"
    known[name] = kind
    return name


def is_importable(kind: type) -> bool:
    """Whether a class belongs to a module that other programs can import by its name."""
    spec = getattr(sys.modules.get(kind.__module__), "__spec__", None)
    return spec is not None and not kind.__module__.startswith(USER_MODULE)


def file_of(kind: type[Rule]) -> Path | None:
    """The file that defines a rule; None for a rule in a notebook."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file).resolve() if file else None
