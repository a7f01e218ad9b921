"""A loop that runs a program instead of a Python function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.command import Command, Value
from thalweg.loops.loop import Loop
from thalweg.loops.param import Param, param_of
from thalweg.loops.run import Run
from thalweg.optim.settings import base

OPTIMIZER, SEED = "optimizer", "seed"


@dataclass(frozen=True)
class Program:
    """Runs a command with the settings of a run.

    params: the program's own settings. timeout: seconds after which a run is given up; no limit if
    None.
    """

    command: Command
    params: Mapping[str, Param]
    timeout: float | None = None

    def __call__(self, run: Run) -> float:
        recipe = run.given.recipe
        own = {
            name: param.value(recipe.params.get(name, param.default))
            for name, param in self.params.items()
        }
        values = {OPTIMIZER: recipe.name, SEED: run.seed, **settings(recipe.of_rules), **own}
        return self.command.run(values, self.timeout, recipe.to_toml())


def program(
    command: Command,
    space: Mapping[str, Any] | None = None,
    *,
    name: str = "program",
    steps: int = 1,
    timeout: float | None = None,
) -> Loop:
    """A loop that runs a program. The program can race although it is not imported.

        tw.loops.program(
            tw.Command("python train.py --optimizer {optimizer} --lr {lr} --seed {seed}",
                       metric=r"val_loss: ([\\d.]+)", direction="min"),
            space={"dropout": (0.0, 0.5)},
        )

    command: the command, with names in braces. `{optimizer}` is the name of the entrant's recipe,
    `{seed}` is the seed, and `{lr}` and others are settings of the recipe. The program may also
    read them in environment variables, or in the recipe file at `{recipe}`. space: the program's
    own settings, which are tuned too, each with a pair of ends. steps: the number of steps of a
    run, for a cooling that the program reads in the recipe file. timeout: seconds after which a run
    is given up.
    """
    params = {key: param_of(key, given, None) for key, given in (space or {}).items()}
    body = Program(command, params, timeout)
    return Loop(body, name, command.metric_name, command.direction, steps, declared=params)


def settings(named: Mapping[str, Any]) -> dict[str, Value]:
    """All settings as numbers or words. A schedule is given as its first value, and the parts of a
    pair as `betas[0]` and `betas[1]`.
    """
    found: dict[str, Value] = {}
    for name, value in named.items():
        several = isinstance(value, tuple)
        parts = {f"{name}[{i}]": part for i, part in enumerate(value)} if several else {name: value}
        found |= {key: base(part) for key, part in parts.items()}
    return found
