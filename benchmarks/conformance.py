"""Checks the optimizers of other packages, and writes the table in docs/conformance.md.

    python benchmarks/conformance.py torch_optimizer pytorch_optimizer timm.optim heavyball

A fault stands in the table only if the script benchmarks/promises.py shows it with PyTorch alone.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import signal
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import torch

import promises
from thalweg.testing import ConformanceError, check_optimizer

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
SHAPES = [tuple(param.shape) for param in promises.params()]
SECONDS = 30
"""The longest time that the checks of one optimizer may take."""


def classes(module: str) -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizers that a package exports, without those of PyTorch."""
    return {
        name: cls
        for name, cls in sorted(vars(promises.package(module)).items())
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
        if cls.__name__ == name and not cls.__module__.startswith("torch.optim")
    }


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer than SECONDS, and hides what it prints."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"the checks take more than {SECONDS} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)


def failures(cls: type[torch.optim.Optimizer]) -> dict[str, str]:
    """What is wrong, by the name of the check; empty if nothing is."""
    try:
        with limited():
            check_optimizer(cls, shapes=SHAPES)
    except ConformanceError as error:
        return error.failures
    except TimeoutError as error:
        return {"takes_steps": str(error)}
    return {}


def is_shown(check: str, cls: type[torch.optim.Optimizer]) -> bool:
    """Whether the script without this package shows the fault too."""
    try:
        with limited():
            getattr(promises, check)(cls)
    except Exception:
        return True
    return False


def cell(text: str) -> str:
    short = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return short if len(short) <= 110 else f"{short[:107]}..."


def rows(name: str, shown: dict[str, str]) -> list[str]:
    """A line for each fault, with all scripts that show it."""
    scripts: dict[str, list[str]] = {}
    for check, said in shown.items():
        scripts.setdefault(cell(said), []).append(f"`{check}`")
    return [f"| {name} | {', '.join(checks)} | {said} |" for said, checks in scripts.items()]


def section(module: str) -> str:
    """The table of one package, and the optimizers that could not be checked."""
    package = packages_distributions()[module.partition(".")[0]][0]
    faults, unchecked, whole = [], [], []
    for name, cls in classes(module).items():
        found = failures(cls)
        why = found.pop("takes_steps", "")
        shown = {check: said for check, said in found.items() if is_shown(check, cls)}
        faults += rows(name, shown)
        unchecked += [f"| {name} | {cell(why)} |"] if why else []
        whole += [] if why or shown else [name]
    parts = [f"## {package} {version(package)}"]
    parts += [f"Without a fault: {', '.join(whole) or 'none'}."]
    if faults:
        parts += [
            "\n".join([f"| {module} | scripts | what fails |", "| --- | --- | --- |", *faults])
        ]
    if unchecked:
        head = ["| not checked | its first steps in the kit |", "| --- | --- |"]
        parts += ["\n".join([*head, *unchecked])]
    return "\n\n".join(parts)


def scripts() -> str:
    """The text of each script."""
    functions = [
        inspect.getsource(function)
        for name, function in vars(promises).items()
        if inspect.isfunction(function) and function.__module__ == promises.__name__
    ]
    return "## The scripts\n\n```python\n" + "\n\n".join(functions) + "```\n"


INTRODUCTION = f"""# What optimizers of other packages do otherwise than PyTorch's

`thalweg.testing.check_optimizer` found these differences, with PyTorch {torch.__version__} on the
CPU. Each class had its default settings, and stepped a matrix and the kernel of a convolution. A
script without thalweg shows each difference too. For the line "Lamb" of `torch_optimizer` and the
script `pickles`, the command is `python benchmarks/promises.py pickles torch_optimizer:Lamb`.

- PyTorch documents parameter groups, schedulers, closures, hooks, `state_dict`, and that a gradient
  of None skips a parameter. It does not document the rest. That a late parameter starts as a new
  one, that a deep copy or a pickle goes on, and that dtypes and layouts in memory are taken, is
  what most of its optimizers do. Its LBFGS fails seven of the checks.
- Some differences are meant: D-Adaptation and Prodigy estimate one step length for all parameters,
  and Schedule-Free and warm-ups count the steps of a whole group. There, a late parameter cannot
  start as a new one.
- Optimizers that need more than gradients (`create_graph`, an inner optimizer, a model, two passes)
  cannot take the steps of the kit. They are listed as not checked.
- HeavyBall ran without `torch.compile`.

`benchmarks/conformance.py` writes this page."""


def main(modules: list[str]) -> None:
    pages = []
    for module in modules:
        pages.append(section(module))
        print(f"{module} is done", file=sys.stderr)
    PAGE.write_text("\n\n".join([INTRODUCTION, *pages, scripts()]))


if __name__ == "__main__":
    main(sys.argv[1:])
