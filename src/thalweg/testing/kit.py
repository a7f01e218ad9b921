"""The doors of the kit: all checks in one call, or as the cases of one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from thalweg.arguments import require_known, short
from thalweg.errors import UserError
from thalweg.optim import Optimizer
from thalweg.recipe import Recipe
from thalweg.rules import SGD
from thalweg.rules.rule import Rule
from thalweg.testing.checks import CHECKS, FIRST, close, takes_steps
from thalweg.testing.subject import SHAPES, Formula, Shape, Subject, train

Check = Callable[[Subject], None]


class ConformanceError(AssertionError):
    """An optimizer does not do what users of PyTorch rely on.

    failures: what is wrong, by the name of the check.
    """

    def __init__(self, name: str, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        lines = [f"  {check}: {why}" for check, why in failures.items()]
        super().__init__("\n".join([f"{name} fails {len(failures)} of the checks:", *lines]))


def check_optimizer(
    cls: type[torch.optim.Optimizer],
    *,
    formula: Formula | None = None,
    shapes: Sequence[Shape] = SHAPES,
    **settings: Any,
) -> None:
    """Checks that an optimizer does what PyTorch's do; it takes seconds.

        check_optimizer(MyOptimizer, lr=0.1)

    The checks are the functions of `thalweg.testing.checks`. They train a few small parameters on
    the CPU.

    cls: a subclass of `torch.optim.Optimizer`, made as `cls(params, **settings)`.
    formula: `formula(theta, gradients)` returns the parameter after steps with these gradients, all
        in float64. The optimizer must agree to nine digits.
    shapes: the shapes of the parameters, for an optimizer that takes only some.

    Raises ConformanceError with all that fails, and UserError if `cls` is no class of optimizers.
    If the first steps fail, the other checks do not run.
    """
    subject = subject_of(cls, formula, shapes, settings)
    require_passed(cls.__name__, CHECKS, subject)


def check_rule(
    cls: type[Rule],
    *,
    formula: Formula | None = None,
    shapes: Sequence[Shape] = SHAPES,
    **settings: Any,
) -> None:
    """Checks a rule in an optimizer, as `check_optimizer` does, and its compiled kernel.

        check_rule(Mine, lr=0.1, formula=mine)

    A rule that takes no step is checked together with `SGD`. Arguments and errors are those of
    `check_optimizer`.
    """
    subject = subject_of_rule(cls, formula, shapes, settings)
    require_passed(cls.__name__, RULE_CHECKS, subject)


def optimizer_checks(
    cls: type[torch.optim.Optimizer],
    *,
    known: Mapping[str, str] | None = None,
    formula: Formula | None = None,
    shapes: Sequence[Shape] = SHAPES,
    **settings: Any,
) -> Any:
    """A decorator for pytest that makes each check one case of a test.

        @optimizer_checks(MyOptimizer, lr=0.1)
        def test_my_optimizer(check):
            check()

    known: the checks that are known to fail, each with the reason. They still run, and pytest tells
    when one passes. The other arguments are those of `check_optimizer`.
    """
    return cases(CHECKS, subject_of(cls, formula, shapes, settings), known or {})


def rule_checks(
    cls: type[Rule],
    *,
    known: Mapping[str, str] | None = None,
    formula: Formula | None = None,
    shapes: Sequence[Shape] = SHAPES,
    **settings: Any,
) -> Any:
    """A decorator for pytest, as `optimizer_checks`, with the checks of `check_rule`."""
    return cases(RULE_CHECKS, subject_of_rule(cls, formula, shapes, settings), known or {})


def subject_of(
    cls: type[torch.optim.Optimizer],
    formula: Formula | None,
    shapes: Sequence[Shape],
    settings: Mapping[str, Any],
) -> Subject:
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise UserError(
            f"the optimizer must be a subclass of torch.optim.Optimizer, not {short(cls)}."
        )
    return Subject(partial(cls, **settings), shapes, formula)


def subject_of_rule(
    cls: type[Rule],
    formula: Formula | None,
    shapes: Sequence[Shape],
    settings: Mapping[str, Any],
) -> Subject:
    if not (isinstance(cls, type) and issubclass(cls, Rule)):
        raise UserError(f"the rule must be a subclass of thalweg.rules.Rule, not {short(cls)}.")

    def make(params: Any, backend: str = "eager", **changed: Any) -> Optimizer:
        return Optimizer(params, recipe(cls, {**settings, **changed}), backend=backend)

    return Subject(make, shapes, formula)


def recipe(cls: type[Rule], settings: Mapping[str, Any]) -> Recipe:
    """The rule, with the step of SGD before or behind it if it takes no step itself."""
    if "lr" in cls.hypers:
        return Recipe((cls(**settings),))
    own = {name: value for name, value in settings.items() if name != "lr"}
    step = SGD(lr=settings.get("lr", 0.1))
    behind = cls.place in ("behind", "last")
    return Recipe((step, cls(**own)) if behind else (cls(**own), step))


def has_a_true_kernel(subject: Subject) -> None:
    """The compiled kernel takes the steps that PyTorch's functions take."""
    eager, _ = subject.trained(FIRST)
    params = subject.parameters()
    train(subject.make(params, backend="auto"), params, FIRST)
    for found, wanted in zip(params, eager, strict=True):
        close(found, wanted, msg="the kernel takes other steps than the eager rule")


RULE_CHECKS: dict[str, Check] = {**CHECKS, has_a_true_kernel.__name__: has_a_true_kernel}


def require_passed(name: str, checks: Mapping[str, Check], subject: Subject) -> None:
    failures = failures_of({takes_steps.__name__: takes_steps}, subject)
    failures = failures or failures_of(checks, subject)
    if failures:
        raise ConformanceError(name, failures)


def failures_of(checks: Mapping[str, Check], subject: Subject) -> dict[str, str]:
    """The first line of what each failing check raises, by the name of the check."""
    failures = {}
    for name, check in checks.items():
        try:
            with own_random_numbers():
                check(subject)
        except AssertionError as error:
            failures[name] = f"{error}.".splitlines()[0]
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return failures


def cases(checks: Mapping[str, Check], subject: Subject, known: Mapping[str, str]) -> Any:
    import pytest

    def marks(name: str) -> Any:
        return pytest.mark.xfail(reason=known[name], strict=True) if name in known else ()

    for name in known:
        require_known("check", name, checks)
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(partial(run, check, subject), id=name, marks=marks(name))
            for name, check in checks.items()
        ],
    )


def run(check: Check, subject: Subject) -> None:
    with own_random_numbers():
        check(subject)


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Within the block, random numbers of the CPU begin anew; behind it, they are as before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
