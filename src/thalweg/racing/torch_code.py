"""The lines of `torch.optim` and `lr_scheduler` that do the same as a recipe."""

from __future__ import annotations

import textwrap
from typing import Any

import torch

from thalweg import rules, schedules
from thalweg.errors import NoCounterpartError
from thalweg.foreign import ForeignRule, needs_closure, where
from thalweg.recipe import Recipe
from thalweg.rules.record import DECOUPLED
from thalweg.rules.rule import Rule
from thalweg.schedules import Schedule

WIDTH = 80

EVERY_STEP = "# in every step, after loss.backward()"
EVERY_EVALUATION = "# after every evaluation"

# The velocity of our rule contains the lr, the buffer of PyTorch's SGD does not. With b = -v / lr,
# the buffer follows b <- momentum (lr before / lr now) b + g.
RESCALED = """\
before = scheduler.get_last_lr()[0]
scheduler.step()
now = scheduler.get_last_lr()[0] or before
for group in optimizer.param_groups:  # past gradients keep the lr of their own time
    group["momentum"] = {momentum!r} * before / now"""


def in_torch(recipe: Recipe) -> tuple[str | None, str | None]:
    """The lines of PyTorch that train `model` as the recipe does; or None, and the reason why not.

    From the same gradients they take the same steps, to round-off, within the number of steps for
    which the schedule was made. The only exception is clipping by norm, where PyTorch divides by
    the norm + 1e-6. The lines above the comment `# in every step` run once.
    """
    try:
        return "\n".join(translated(recipe)), None
    except NoCounterpartError as reason:
        return None, str(reason)


def translated(recipe: Recipe) -> list[str]:
    """The lines of a recipe. Raises NoCounterpartError if PyTorch cannot do the same."""
    if recipe.pretrain:
        raise NoCounterpartError(
            f"The recipe begins with a pre-training ({recipe.pretrain}), which torch.optim does not"
            " have; use `thalweg train` or `thalweg.pretrain`."
        )
    if recipe.routes:
        raise NoCounterpartError(
            "The recipe has routes; in PyTorch, each needs its own parameter group or optimizer."
            " `describe()` of its `thalweg.optim.Optimizer` shows the route of each parameter."
        )
    if recipe.foreign:
        return foreign_lines(recipe.foreign)
    clips, rule, decay = parts(recipe)
    step = [*map(clip_line, clips), "optimizer.step()"]
    optimizer = f"optimizer = {optimizer_call(rule, decay)}"
    lr = rule.settings["lr"]
    if not isinstance(lr, Schedule) or isinstance(lr, schedules.Constant):
        return [optimizer, "", EVERY_STEP, *step]
    scheduler = f"scheduler = {laid_out(f'torch.optim.lr_scheduler.{lr.scheduler()}')}"
    return [optimizer, scheduler, "", EVERY_STEP, *step, *cooling_lines(rule, lr)]


def foreign_lines(rule: ForeignRule) -> list[str]:
    """The lines of an optimizer of another package."""
    changed = {
        name: plain(name, value)
        for name, value in rule.settings.items()
        if value != rule.known()[name].default
    }
    kind = rule.optimizer
    if needs_closure(kind):
        raise NoCounterpartError(
            f"{kind.__name__} may compute the gradient several times in a step, and lr_scheduler"
            " counts steps; use `thalweg train` with the recipe."
        )
    arguments = "".join(f", {name}={value!r}" for name, value in changed.items())
    module = where(kind).partition(":")[0]
    call = laid_out(f"{kind.__name__}(model.parameters(){arguments})")
    made = [f"from {module} import {kind.__name__}", "", f"optimizer = {call}"]
    lr, step = rule.settings["lr"], "optimizer.step()"
    if not isinstance(lr, Schedule) or isinstance(lr, schedules.Constant):
        return [*made, "", EVERY_STEP, step]
    scheduler = f"scheduler = {laid_out(f'torch.optim.lr_scheduler.{lr.scheduler()}')}"
    return [*made, scheduler, "", EVERY_STEP, step, *cooling_lines(rule, lr)]


def parts(recipe: Recipe) -> tuple[list[Rule], Rule, Rule | None]:
    """The clipping, the rule that takes the step and the decay of a chain, in PyTorch's order."""
    decays = (rules.L2Decay, rules.DecoupledDecay)
    chain = [r for r in recipe.rules if not (isinstance(r, decays) and r.weight_decay == 0)]
    clips = [chain.pop(0)] if chain[0].torch and "lr" not in chain[0].hypers else []
    before = chain.pop(0) if isinstance(chain[0], rules.L2Decay) else None
    behind = chain.pop() if isinstance(chain[-1], rules.DecoupledDecay) else None
    others = [rule for rule in chain if "lr" not in rule.hypers]
    if others:
        raise NoCounterpartError(
            f"torch.optim has nothing for {type(others[-1]).__name__} at its place in the chain."
        )
    return clips, chain[0], before or behind


def optimizer_call(rule: Rule, decay: Rule | None) -> str:
    if isinstance(rule, rules.Nesterov):
        raise NoCounterpartError(
            "torch.optim.SGD(nesterov=True) is similar, but not equal: it leaves the model at the"
            " look-ahead point, and rescales the whole velocity when the lr falls."
        )
    name, flags = counterpart(rule, isinstance(decay, rules.DecoupledDecay))
    settings = {**rule.settings, **(decay.settings if decay else {})}
    given = {key: plain(key, value) for key, value in settings.items()}
    arguments = [f"{key}={value!r}" for key, value in {**given, **flags}.items()]
    return laid_out(f"torch.optim.{name}(model.parameters(), {', '.join(arguments)})")


def counterpart(rule: Rule, beside: bool) -> tuple[str, dict[str, bool]]:
    """The class of `torch.optim` that takes the steps of a rule, and the flags to switch on.

    beside: whether the weight decay is decoupled, and not a part of the gradient.
    """
    if rule.torch:
        name, on = rule.torch.name, rule.torch.on - rule.settings.keys()
        flags = dict.fromkeys(sorted(on), True)
        if not beside:
            return name, flags
        if hasattr(torch.optim, f"{name}W"):
            return f"{name}W", flags
        if DECOUPLED in rule.torch.arguments:
            return name, {**flags, DECOUPLED: True}
    with_decay = " with decoupled decay" if beside else ""
    raise NoCounterpartError(f"torch.optim has no {type(rule).__name__}{with_decay}.")


def laid_out(call: str) -> str:
    """A call on one line if it fits; otherwise with each argument on its own line."""
    if len(call) <= WIDTH:
        return call
    function, _, arguments = call.removesuffix(")").partition("(")
    wrapped = textwrap.fill(arguments, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{function}(\n{wrapped},\n)"


def plain(name: str, value: Any) -> Any:
    """A setting as a plain number. In PyTorch only the lr can follow a schedule."""
    if isinstance(value, tuple):
        return tuple(plain(name, part) for part in value)
    if not isinstance(value, Schedule):
        return value
    if name == "lr" or isinstance(value, schedules.Constant):
        return value.base
    raise NoCounterpartError(f"{name} follows a schedule, but lr_scheduler changes only the lr.")


def clip_line(clip: Rule) -> str:
    assert clip.torch is not None, "a rule counts as a clip only if PyTorch has it"
    limits = ", ".join(repr(plain(name, value)) for name, value in clip.settings.items())
    return f"torch.nn.utils.{clip.torch.name}(model.parameters(), {limits}){clip.torch.note}"


def cooling_lines(rule: Rule, lr: Schedule) -> list[str]:
    """The lines that tell the scheduler that a step, or an evaluation, is over."""
    rescaled = isinstance(rule, rules.Momentum)
    if isinstance(lr, schedules.Plateau):
        if rescaled:
            raise NoCounterpartError(
                "torch.optim.SGD rescales the whole velocity when a plateau reduces the lr; here"
                " past gradients keep the lr with which they were added."
            )
        return ["", EVERY_EVALUATION, f"scheduler.step({lr.metric}_metric)"]
    if rescaled:
        return [RESCALED.format(momentum=plain("momentum", rule.settings["momentum"]))]
    return ["scheduler.step()"]
