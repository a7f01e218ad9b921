"""What an import loads, and that public names are found whatever was imported before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import thalweg
from stubs import STUBS

ROOT = Path(__file__).parents[1]
MODULES = {
    "doctor": "thalweg.doctor",
    "loops": "thalweg.loops",
    "nn": "thalweg.nn",
    "optim": "thalweg.optim",
    "pretrain": "thalweg.training.pretrain",
    "recipes": "thalweg.recipes",
    "rules": "thalweg.rules",
    "schedules": "thalweg.schedules",
    "tasks": "thalweg.tasks",
}
"""The public names that are modules; all others are functions and classes."""


def printed_by(script: str) -> Any:
    """What a fresh process prints as JSON."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_optimizer_imports_nothing_heavy_and_numba_at_its_first_step() -> None:
    loaded = printed_by("""
import json, sys
import torch

HEAVY = (
    "numba scipy triton sklearn plotly jinja2 rich typer"
    " torch._dynamo torch._inductor torch.distributed.tensor"
    " thalweg.api thalweg.doctor thalweg.racing thalweg.stack thalweg.tasks thalweg.training"
).split()
by_torch = set(sys.modules)


def loaded():
    return [name for name in HEAVY if name in set(sys.modules) - by_torch]


from thalweg.optim import Adam

imported = loaded()
param = torch.nn.Parameter(torch.zeros(3))
optimizer = Adam([param])
param.grad = torch.ones(3)
made = loaded()
optimizer.step()
print(json.dumps([imported, made, "numba" in loaded()]))
""")
    assert loaded == [[], [], True]


def test_public_names_are_the_same_whatever_was_imported_before() -> None:
    """A module that is imported becomes an attribute of its package, and may hide a name there."""
    alone, names_first, modules_later, modules_first = printed_by("""
import json, pkgutil, sys
from importlib import import_module
import torch


def fresh():
    for name in [name for name in sys.modules if name.partition(".")[0] == "thalweg"]:
        del sys.modules[name]
    return import_module("thalweg")


def import_modules():
    for module in pkgutil.iter_modules(sys.modules["thalweg"].__path__):
        if module.name != "__main__":
            import_module(f"thalweg.{module.name}")


def found(package):
    return {name: getattr(package, name).__name__ for name in package.__all__}


package = fresh()
names_first = found(package)
import_modules()
modules_later = found(package)
homes = {name: getattr(getattr(package, name), "__module__", name) for name in package.__all__}
package = fresh()
import_modules()
modules_first = found(package)
one_of_each_module = {home: name for name, home in homes.items()}.values()
alone = {name: getattr(fresh(), name).__name__ for name in one_of_each_module}
print(json.dumps([alone, names_first, modules_later, modules_first]))
""")
    assert names_first == {name: MODULES.get(name, name) for name in thalweg.__all__}
    assert names_first == modules_later == modules_first
    assert alone.items() <= names_first.items()


def test_names_are_listed_for_completion_and_imported_by_a_star() -> None:
    starred: dict[str, object] = {}
    exec("from thalweg import *", starred)
    assert {"Task", "adam", "chain", "race", "schedules", "train", *MODULES} <= starred.keys()
    assert starred.keys() - {"__builtins__"} == set(dir(thalweg)) == set(thalweg.__all__)


def test_a_wheel_has_the_stubs_that_names_are_read_from(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert {f"thalweg/{stub}" for stub in STUBS} <= set(ZipFile(wheel).namelist())
