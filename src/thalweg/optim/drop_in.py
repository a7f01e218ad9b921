"""Makes the drop-in class of a named optimizer from its record."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter
from typing import Any, ClassVar

from torch import nn
from torch.optim.optimizer import ParamsT

from thalweg.arguments import require_flag
from thalweg.errors import UserError
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.rows import Group
from thalweg.optim.settings import number
from thalweg.optim.state import Chain
from thalweg.recipe import recipe_with
from thalweg.routes import REST, Track
from thalweg.rules.record import DROP_IN, Named


class NamedOptimizer(RuleOptimizer):
    """An optimizer whose groups each choose their chain by their own settings."""

    named: ClassVar[Named]

    def __init__(self, params: ParamsT | nn.Module, settings: dict[str, Any]) -> None:
        settings |= self.named.fixed
        self.own: dict[str, Any] = {}
        if self.named.to:
            self.recipe = recipe_with(self.named, settings)
            self.own = {name: value for name, value in settings.items() if name not in DROP_IN}
        super().__init__(params, {n: x for n, x in settings.items() if n not in self.own})

    def chain(self, group: Group) -> Chain:
        if group.get("route") == REST:
            return tuple(map(type, self.named.rest))
        return self.named.chain(group)

    def settings_on(self, track: Track, group: Group) -> Group:
        own = {} if track.name == REST else self.own
        return own | super().settings_on(track, group)

    def accepted(self, group: Group) -> Group:
        if group.get("route") != REST:
            self.named.check({name: number(group[name]) for name in group if name != "params"})
        return super().accepted(group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "own": self.own}


def classes_of(all_named: Iterable[Named], module: str) -> dict[str, type[NamedOptimizer]]:
    """The drop-in classes by name. AdamW is a subclass of Adam, as in PyTorch.

    module: the name of the module that the classes say they come from.
    """
    made: dict[str, type[NamedOptimizer]] = {}
    for named in all_named:
        rule = named.stepping
        other = made.get(rule.torch.name) if rule.torch else None
        like = other and issubclass(type(rule), type(other.named.stepping))
        made[named.name] = class_of(named, other if other and like else NamedOptimizer, module)
    return made


def class_of(named: Named, base: type[NamedOptimizer], module: str) -> type[NamedOptimizer]:
    signature = named.signature

    def __init__(self: NamedOptimizer, *args: Any, **settings: Any) -> None:  # noqa: N807
        given = signature.bind(*args, **settings)
        given.apply_defaults()
        params = given.arguments.pop("params")
        for unbuilt in ("capturable", "differentiable"):
            require_flag(unbuilt, given.arguments.get(unbuilt, False))
            if given.arguments.get(unbuilt):
                raise UserError(f"{unbuilt}=True is not built; leave it out.")
        NamedOptimizer.__init__(self, params, given.arguments)

    __init__.__module__, __init__.__qualname__ = module, f"{named.name}.__init__"
    itself = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[itself, *signature.parameters.values()]
    )
    contents = {"__init__": __init__, "__module__": module, "__doc__": named.documentation}
    return type(named.name, (base,), {**contents, "named": named, "fixed": named.fixed})
