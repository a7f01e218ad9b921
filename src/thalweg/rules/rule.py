"""A rule: the arithmetic of one idea, on one number at a time.

A rule declares what it needs as class attributes, and computes in `update`:

    class Momentum(Rule):
        lr = Hyper(0.01)
        momentum = Hyper(0.9)
        velocity = State()

        def update(self, g):
            self.velocity = self.momentum * self.velocity - self.lr * g
            return self.velocity

In a recipe, an instance holds settings: `Momentum(lr=0.1).lr` is 0.1, or a schedule. For a step,
`bound` gives a copy that holds the values of that step instead, and `update` runs on these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import torch.optim
from torch import Tensor, float32
from torch import dtype as Precision

from thalweg.arguments import FAR, MOST, number, require_whole, short
from thalweg.errors import UserError, suggest
from thalweg.rules.space import Space
from thalweg.rules.value import Value

Place = Literal["anywhere", "before", "behind", "last"]
"""The position of a rule in a chain: before or behind the rule that takes the step, or last."""


class Declared:
    """Something that a rule declares. On an instance, a value of the same name replaces it."""

    def __get__(self, rule: Rule | None, kind: type[Rule]) -> Any:
        return self


@dataclass(frozen=True)
class Hyper(Declared):
    """A hyperparameter: a number or a schedule, or a pair of these. Every row has its own value.

    default: its value if none is given. space: the search space; None if it is not tuned (for a
    pair, a space or None for each part). low, high: the range of its values; below: whether `high`
    itself is excluded. absent: the value that None stands for, in the part of a pair that has this
    default.
    """

    default: float | tuple[float, ...]
    space: Space | tuple[Space | None, ...] | None = None
    low: float = 0.0
    high: float = math.inf
    below: bool = False
    absent: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", self.accepted("the default", self.default))
        several = isinstance(self.default, tuple)
        spaces = self.space if several and isinstance(self.space, tuple) else (self.space,)
        if not all(one is None or isinstance(one, Space) for one in spaces):
            raise UserError(
                "the space of a Hyper must be a search space, such as log(1e-4, 0.1), not"
                f" {short(self.space)}."
            )

    def accepted(self, name: str, value: Any) -> Any:
        """The value in its plain form. Raises UserError if it is not allowed."""
        if not isinstance(self.default, tuple):
            return self.one(name, value)
        if not isinstance(value, Sequence) or len(value) != len(self.default):
            raise UserError(f"{name} must be {len(self.default)} numbers, not {short(value)}.")
        parts = [
            default if part is None and default == self.absent else part
            for part, default in zip(value, self.default, strict=True)
        ]
        return tuple(self.one(f"{name}[{i}]", part) for i, part in enumerate(parts))

    def one(self, name: str, value: Any) -> Any:
        """Checks a number or a schedule, whose extreme values are its base, start and end."""
        if callable(value) and hasattr(value, "base"):
            self.check(name, value.base)
            for step in (0, FAR):
                self.check(name, value(step))
            return value
        if isinstance(value, bool) or not isinstance(value, Real):
            raise UserError(f"{name} must be a number or a schedule, not {short(value)}.")
        self.check(name, value)
        return float(value)

    def check(self, name: str, value: Any) -> None:
        held = number(value)
        too_high = held >= self.high if self.below else held > self.high
        if not math.isfinite(held) or held < self.low or too_high:
            raise UserError(f"{name} must be {self.range()}, not {short(value)}.")

    def __str__(self) -> str:
        spaces = self.space if isinstance(self.space, tuple) else (self.space,)
        tuned = " and ".join(str(space) for space in spaces if space)
        return f"{self.range()}{'; tuned ' if tuned else ''}{tuned}."

    def range(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if math.isinf(self.high):
            return f"finite and at least {self.low:g}"
        if math.isinf(self.low):
            return f"finite and at most {self.high:g}"
        return f"at least {self.low:g} and {'below' if self.below else 'at most'} {self.high:g}"


@dataclass(frozen=True)
class Option(Declared):
    """A setting that is a positive whole number, or a word or a flag; it cannot be scheduled.

    default: its value if none is given; without a default it must be given. high: the largest
    number. among: the words or flags that it can be instead of a number; None means the default.
    """

    default: int | str | None = None
    high: int = MOST
    among: tuple[str | bool, ...] = ()

    def accepted(self, name: str, value: Any) -> int | str | None:
        """The value. Raises UserError if it is not allowed."""
        if not self.among:
            return require_whole(name, value, 1, self.high)
        if value is None:
            return self.default
        if not isinstance(value, str | bool) or value not in self.among:
            raise UserError(f"{name} must be {self.words()}, not {short(value)}.")
        return value

    def words(self) -> str:
        among = " or ".join(map(repr, self.among))
        return among or f"a whole number from 1 to {self.high}"

    def __str__(self) -> str:
        return f"{self.words()}."


@dataclass(frozen=True)
class State(Declared):
    """A tensor of the parameter's shape that a rule keeps from step to step.

    init: the initial value, which is a number or the name of a hyperparameter.
    copies: the name of the option that gives the number of such tensors, as a leading dimension.
    shape: if the state of a matrix `[m, n]` has another shape, that shape in letters: "m1" for
    `[m, 1]`, "nn" for `[n, n]`.
    """

    init: float | str = 0.0
    copies: str | None = None
    shape: str | None = None


@dataclass(frozen=True)
class RowState(Declared):
    """One number for each row that a rule keeps from step to step, in float64."""

    init: float = 0.0


@dataclass(frozen=True)
class Next(Declared):
    """The value of a hyperparameter at the next step."""

    hyper: str


class Counterpart:
    """The class of `torch.optim` that takes the same steps as a rule.

        Counterpart("SGD", "momentum", "nesterov")

    A rule that takes no step has a function of `torch.nn.utils`, which is called before the step
    with the parameters and the rule's settings.

    name: the name of the class or function. on: its arguments that must not be 0 or False. counts:
    whether its state counts the steps. note: a comment after the function's line.
    """

    def __init__(self, name: str, *on: str, counts: bool = True, note: str = "") -> None:
        self.name = name
        self.on = frozenset(on)
        self.counts = counts
        self.note = note

    @property
    def arguments(self) -> Mapping[str, Parameter]:
        """The arguments of the class."""
        return signature(getattr(torch.optim, self.name)).parameters


class Rule:
    """The arithmetic of one idea. See the module's docstring.

    During a step, a bound rule also has `param`, the parameter before the step; `t`, the number of
    this step of the tensor, from 1; and `dtype`, the type in which the model holds the parameter.

    matrices: whether the rule works on a whole matrix, `[m, n]`, with any functions of PyTorch.
    `update` then takes and returns a matrix. The kernel of a convolution, `[out, in, height,
    width]`, counts as the matrix `[out, in * height * width]`. `vmap` steps all matrices of one
    shape at once.

    Raises UserError for a setting that the rule does not have, or that is out of range.
    """

    hypers: ClassVar[Mapping[str, Hyper]] = {}
    options: ClassVar[Mapping[str, Option]] = {}
    states: ClassVar[Mapping[str, State]] = {}
    row_states: ClassVar[Mapping[str, RowState]] = {}
    coming: ClassVar[Mapping[str, Next]] = {}
    place: ClassVar[Place] = "anywhere"
    matrices: ClassVar[bool] = False
    torch: ClassVar[Counterpart | None] = None
    __signature__: ClassVar[Signature]

    t: int
    param: Tensor
    dtype: Precision = float32
    lr: Value

    def __init_subclass__(cls) -> None:
        named = {name: x for base in reversed(cls.__mro__) for name, x in vars(base).items()}
        declared = {name: kind for name, kind in named.items() if isinstance(kind, Declared)}
        for name in declared.keys() & RESERVED:
            raise UserError(
                f"{cls.__name__} cannot call a setting or a state {name}, which means something"
                " else to an optimizer; choose another name."
            )
        kinds = {"hypers": Hyper, "options": Option, "states": State}
        kinds |= {"row_states": RowState, "coming": Next}
        for plural, kind in kinds.items():
            setattr(cls, plural, {n: d for n, d in declared.items() if isinstance(d, kind)})
        cls.check_states()
        cls.__signature__ = Signature(
            [
                Parameter(name, Parameter.KEYWORD_ONLY, default=it.default)
                for name, it in cls.known().items()
            ]
        )
        # PyTorch's counterpart of a rule may not be that of a subclass.
        if "torch" not in vars(cls):
            cls.torch = None
        if "update" in vars(cls) and "edge" not in vars(cls):
            cls.edge = Rule.edge  # type: ignore[method-assign]

    @classmethod
    def check_states(cls) -> None:
        """Raises UserError for a state that a rule of this kind cannot keep."""
        if cls.matrices and cls.row_states:
            raise UserError(
                f"{cls.__name__} works on matrices and cannot keep a RowState: a number of a matrix"
                ' is a State(shape="1").'
            )
        for name, state in cls.states.items():
            if isinstance(state.init, str) and state.init not in cls.hypers:
                raise UserError(
                    f"{name} starts at {short(state.init)}, which is no hyperparameter of"
                    f" {cls.__name__}; {suggest(state.init, cls.hypers)}"
                )
            if state.shape is not None and not cls.matrices:
                raise UserError(
                    f"{name} has a shape of its own, which only a rule on matrices may keep: write"
                    f" matrices = True in {cls.__name__}, or leave out the shape."
                )
            if not set(state.shape or "") <= set("mn1") or (state.shape and state.copies):
                raise UserError(
                    f"the shape of {name} is one of the letters m, n and 1 for each dimension, such"
                    f' as "m1" for a number for each row, not {short(state.shape)}.'
                )

    def __init__(self, **settings: Any) -> None:
        if type(self).update is Rule.update:
            raise UserError(
                f"{type(self).__name__} has no update(self, g), which takes the gradient and"
                " returns a step, or what the gradient becomes."
            )
        given = {name: self.accepted(name, value) for name, value in settings.items()}
        for name, declared in self.known().items():
            value = given.get(name, declared.default)
            if value is None:
                raise UserError(f"{type(self).__name__} needs {name}, a positive whole number.")
            setattr(self, name, value)

    @classmethod
    def accepted(cls, name: str, value: Any) -> Any:
        """The value of one setting. Raises UserError for an unknown setting or a wrong value.

        Numbers become floats; a list of two becomes a pair.
        """
        known = cls.known()
        if name not in known:
            raise UserError(f"{cls.__name__} has no setting {name}; {suggest(name, known)}")
        return known[name].accepted(name, value)

    @classmethod
    def known(cls) -> dict[str, Hyper | Option]:
        """All settings of the rule, by name."""
        return {**cls.hypers, **cls.options}

    @property
    def settings(self) -> dict[str, Any]:
        """The value of every hyperparameter and option, by name."""
        return {name: getattr(self, name) for name in self.known()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{type(self).__name__}({settings})"

    @classmethod
    def bound(cls, values: Mapping[str, Value]) -> Self:
        """A rule whose attributes hold the values of one step."""
        live = object.__new__(cls)
        live.__dict__.update(values)
        return live

    def update(self, g: Value) -> Value:
        """The gradient or the step after this rule. g: the one that the rules before have made."""
        raise NotImplementedError

    def rate(self) -> Value:
        """The learning rate of this step: `lr`, times a factor that may depend on `t`."""
        return self.lr

    def divisor(self) -> Value:
        """The divisor of the step, element by element; None if there is none."""

    def edge(self) -> Value:
        """The largest stable curvature at a rate of 1, in the metric of `divisor`.

        Steps on a quadratic with the Hessian H grow if an eigenvalue of D^-1 H is above this value
        over `lr`. D is the `divisor`, times the factor by which `rate` is below `lr`. None if the
        value is not known.
        """

    def position(self, param: Value) -> Value:
        """The parameter theta. param: the point at which the gradient was taken."""
        return param

    def stored(self, theta: Value) -> Value:
        """The point at which the next gradient is taken. theta: the parameter."""
        return theta

    def evaluated(self, theta: Value) -> Value:
        """The parameter that evaluation uses."""
        return theta


RESERVED = {*dir(Rule), "params", "param", "grad", "t", "step", "maximize", "memory", "route"}
RESERVED |= {"step_count", "foreach", "fused", "capturable", "differentiable"}
RESERVED |= {"param_names", "initial_lr"}
"""Names that already have a meaning in a group, a state or a rule."""


def settings_of(rules: Iterable[Rule]) -> dict[str, Any]:
    """The value of every hyperparameter and option of all rules, by name."""
    return {name: value for rule in rules for name, value in rule.settings.items()}


def with_settings(rules: Iterable[Rule], settings: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The same rules with some settings changed."""
    return tuple(
        type(rule)(**{name: settings.get(name, value) for name, value in rule.settings.items()})
        for rule in rules
    )


def every_rule() -> list[type[Rule]]:
    """All rules, including the user's own."""
    found: list[type[Rule]] = [Rule]
    for kind in found:
        found += kind.__subclasses__()
    return found
