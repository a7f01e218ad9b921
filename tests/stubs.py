"""Prints the stubs from which type checkers and editors learn what an optimizer takes.

    python tests/stubs.py

writes them. Nothing stands there that the records in `thalweg.rules` do not say.
"""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import Parameter, Signature
from pathlib import Path
from textwrap import indent
from typing import Any

from thalweg import rules
from thalweg.rules.record import Named

SOURCE = Path(rules.__file__).parents[1]
NOTE = "# Printed by tests/stubs.py.\n"
NAMED = list(rules.NAMED.values())


def kind_of(default: Any) -> str:
    if default is Parameter.empty:
        return "ParamsT"
    if default is None:
        return "bool | None"
    if isinstance(default, tuple):
        return f"tuple[{', '.join(map(kind_of, default))}]"
    return "Setting" if isinstance(default, float) else type(default).__name__


def arguments(signature: Signature) -> str:
    typed = [one.replace(annotation=kind_of(one.default)) for one in signature.parameters.values()]
    text = str(signature.replace(parameters=typed)).removeprefix("(").removesuffix(")")
    return re.sub(r": '(.*?)'", r": \1", text)


def documented(named: Named) -> str:
    return indent(f'"""{named.documentation}\n"""\n', "    ")


def recipe_functions() -> str:
    functions = [
        f"def {named.function}({arguments(named.recipe_signature)}) -> Recipe:\n{documented(named)}"
        for named in NAMED
    ]
    head = (
        "from collections.abc import Callable\n"
        "from thalweg.recipe import Recipe, Setting\n"
        "RECIPES: dict[str, Callable[..., Recipe]]\n"
    )
    return head + "\n".join([listed([one.function for one in NAMED]), *functions])


def drop_in_classes() -> str:
    classes = [
        f"class {named.name}(NamedOptimizer):\n{documented(named)}\n"
        f"    def __init__(self, {arguments(named.signature)}) -> None: ...\n"
        for named in NAMED
    ]
    head = (
        "from torch.optim.optimizer import ParamsT\n"
        "from thalweg.optim.drop_in import NamedOptimizer\n"
        "from thalweg.recipe import Setting\n"
    )
    return head + "\n".join([listed([one.name for one in NAMED]), *classes])


def all_rules() -> str:
    homes = {name: sys.modules["thalweg.rules"].__dict__[name] for name in rules.__all__}
    imports = [
        f"from {one.__module__} import {name} as {name}\n"
        for name, one in homes.items()
        if hasattr(one, "__module__")
    ]
    return "".join(imports) + "RULES: dict[str, type[Rule]]\nNAMED: dict[str, Named]\n"


def whole_package() -> str:
    """What stands there, with the functions that make recipes as they are now."""
    lines = (SOURCE / "__init__.pyi").read_text().splitlines(keepends=True)
    others = [line for line in lines if not line.startswith(("from .named", "#"))]
    return "".join(others + [f"from .named import {n} as {n}\n" for n in RECIPES])


def listed(names: list[str]) -> str:
    return f"__all__ = {names!r}\n"


RECIPES = [named.function for named in NAMED]

STUBS = {
    "__init__.pyi": whole_package,
    "named.pyi": recipe_functions,
    "optim/named.pyi": drop_in_classes,
    "rules/__init__.pyi": all_rules,
}


def printed(file: str) -> str:
    """What is to stand in a stub, laid out as all of the source is."""
    text = NOTE + STUBS[file]()
    for step in (["check", "--quiet", "--fix"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *step, f"--stdin-filename={SOURCE / file}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True).stdout
    return text


if __name__ == "__main__":
    for file in STUBS:
        (SOURCE / file).write_text(printed(file))
