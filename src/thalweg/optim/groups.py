"""The parameter groups of an optimizer: their settings, their schedules, and their rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from thalweg.arguments import require_flag, short
from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.matrices import check_matrices
from thalweg.fuse.passes import (
    sum_places,
)
from thalweg.optim.description import Described, Description, kept_numbers, state_bytes
from thalweg.optim.rows import Group, Held, Row
from thalweg.optim.settings import (
    in_group,
    number,
)
from thalweg.optim.sharded import (
    check_summable,
    zero_above,
)
from thalweg.optim.state import CPU, Chain, complete, working
from thalweg.optim.stepper import Cost
from thalweg.optim.untraced import UntracedOptimizer
from thalweg.recipe import Recipe
from thalweg.routes import (
    Parameter,
    Track,
    check_all_taken,
    listed,
    parameter_by_name,
    parameters_by_name,
    parameters_of,
)
from thalweg.rules.rule import settings_of

Branch = tuple[str, Chain]
"""The name of a branch, which is "" where a recipe has no branches, and its chain."""


class GroupedOptimizer(UntracedOptimizer):
    """An optimizer whose parameter groups have a chain of rules each.

    A group holds a number for each hyperparameter, under PyTorch's name. Each may be changed
    between steps. A tensor of one number is kept as that tensor. Where a schedule was given, the
    group holds the schedule's base, and the schedule multiplies it by a factor; the schedule counts
    the steps of the group from 0.
    """

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Settings that make the class what it is, whatever a loaded state says."""

    recipe: Recipe | None = None
    """What sends parameters by different routes; a group that takes several becomes several."""

    def __init__(self, params: ParamsT | nn.Module, defaults: Mapping[str, Any]) -> None:
        self.schedules: list[dict[str, Any]] = []
        self.tracks: dict[str, Track] = {}
        self.backend = "auto"
        self.zero = zero_above()
        defaults = {"maximize": False, **defaults}
        if self.recipe is None:
            self.accepted(defaults)
        elif self.zero is not None:
            raise UserError(
                "a ZeroRedundancyOptimizer keeps the groups that it was given, so a recipe under it"
                " can have no routes: give it groups with settings of their own, or shard the model"
                " with fully_shard."
            )
        given, self.known = with_names(params)
        super().__init__(given, defaults)
        if self.recipe is not None and self.known:
            check_all_taken(self.recipe.routes, list(self.known.values()))

    def chain(self, group: Group) -> Chain:
        """The rules that step a group."""
        raise NotImplementedError

    def defaults_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a group has where the user gave it none."""
        track = self.tracks.get(group.get("route", ""))
        return self.settings_on(track, {}) if track else self.defaults

    @property
    def shared_rules(self) -> int:
        """The number of rules with which all branches begin; their sums are over all branches."""
        return len(self.recipe.rules) if self.recipe and self.recipe.branches else 0

    def branch(self, group: Group) -> Branch:
        """The branch of a group, and its chain. Sums over the model are over one branch."""
        track = self.tracks.get(group.get("route", ""))
        return track.branch if track else "", self.chain(group)

    def branches(self) -> list[Branch]:
        """The branches of all groups, without duplicates."""
        return list(dict.fromkeys(map(self.branch, self.param_groups)))

    def chains(self) -> list[Chain]:
        """The chains of all groups, without duplicates."""
        return list(dict.fromkeys(chain for _, chain in self.branches()))

    def by_routes(self, group: Group) -> list[Group]:
        """Splits a group into one for each track."""
        if self.recipe is None:
            return [{**self.defaults, **group}]
        entries = listed(group["params"])
        named = [entry if isinstance(entry, tuple) else ("", entry) for entry in entries]
        told = [self.known.get(name) or parameter_by_name(name, param) for name, param in named]
        found: dict[str, Group] = {}
        for entry, track in zip(entries, self.recipe.tracks(told), strict=True):
            if track.name not in found:
                self.tracks[track.name] = track
                found[track.name] = self.settings_on(track, group) | {"params": []}
            found[track.name]["params"].append(entry)
        return list(found.values())

    def settings_on(self, track: Track, group: Group) -> dict[str, Any]:
        """The settings of the parameters of a group that have this track."""
        assert self.recipe is not None, "tracks come from a recipe"
        known = track.settings()
        others = {name for rules in self.recipe.chains for name in settings_of(rules)}
        others -= known.keys()
        given = {name: value for name, value in group.items() if name not in others}
        own = {name: given[name] for name in known if name in given}
        return {**self.defaults, **given, **track.settings(own), "route": track.name}

    def accepted(self, group: Group) -> Group:
        """A group with its settings as it will hold them; UserError for one out of range."""
        held = dict(group)
        require_flag("maximize", group["maximize"])
        plain = {name: number(group[name]) for name in group if name != "params"}
        for rule in self.chain(plain):
            for name in rule.known():
                held[name] = in_group(group[name], rule.accepted(name, plain[name]))
        return held

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group; UserError for a hyperparameter that is out of range."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, not {short(param_group)}.")
        if "params" not in param_group:
            raise UserError("a parameter group needs its params, a tensor or several.")
        groups = list(map(self.accepted, self.by_routes(param_group)))
        for group in groups:  # a group that is not split stays the user's dictionary, as in PyTorch
            self.add_one_group(param_group if len(groups) == 1 else {}, group)

    def add_one_group(self, param_group: Group, group: Group) -> None:
        row = Row.of(group)
        param_group.update(row.group)
        super().add_param_group(param_group)
        try:
            check_matrices(self.chain(group), param_group["params"])
            if sum_places(self.chain(group), torch.float32):
                check_summable(param_group["params"])
        except UserError:
            self.param_groups.pop()
            raise
        self.schedules.append(row.schedules)

    def row(self, index: int) -> Row:
        """The row of a group."""
        return Row(self.param_groups[index], self.scheduled(index))

    def scheduled(self, index: int) -> dict[str, Any]:
        """The schedules of a group, by the hyperparameter that each multiplies.

        UserError where the user has added or removed groups by hand, and some have schedules.
        """
        if len(self.schedules) != len(self.param_groups):
            if any(self.schedules):
                raise UserError(
                    "param_groups was changed by hand, so it is not known which schedule belongs to"
                    " which group; add groups by add_param_group."
                )
            self.schedules = [{} for _ in self.param_groups]
        return self.schedules[index]

    def values(self, index: int) -> dict[str, Any]:
        """The hyperparameters and options of a group at its next step, with schedules applied."""
        return self.row(index).values(self.chain(self.param_groups[index]))

    def held(
        self, chain: Chain, param: Tensor, grad: Tensor, index: int, device: torch.device = CPU
    ) -> Held:
        """A parameter before its next step, with its complete state.

        index: the index of its group. device: where its count of steps lies.
        """
        values, saved = self.values(index), self.state[param]
        complete(saved, chain=chain, param=param, values=values, device=device)
        return Held(param, descending(grad, self.param_groups[index]["maximize"]), saved, values)

    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [param for group in self.param_groups for param in group["params"]]

    @property
    def last_lr(self) -> float:
        """The highest rate of all groups in the last step, schedules included."""
        return max(float(self.row(i).now("lr", -1)) for i in range(len(self.param_groups)))

    @property
    def averages(self) -> bool:
        """Whether evaluation uses an average of the iterates."""
        return any(map(eager.averages, self.chains()))

    @property
    def cost(self) -> Cost:
        """What the optimizer keeps for each number of the parameters, and one gradient a step."""
        kept = numbers = 0
        for group in self.param_groups:
            chain = self.chain(group)
            for param in group["params"]:
                kept += kept_numbers(chain, param, group)
                numbers += param.numel()
        return Cost(kept / max(1, numbers), 1.0)

    def describe(self) -> Description:
        """A table with each parameter's shape, role and routes, and the bytes of its states.

        No memory is allocated for it, so a model on the device meta is enough.
        """
        found = Description()
        for index, group in enumerate(self.param_groups):
            names = group.get("param_names") or [
                f"{index}[{i}]" for i in range(len(group["params"]))
            ]
            for name, param in zip(names, group["params"], strict=True):
                known = self.known.get(name) or Parameter(name, tuple(param.shape), "")
                kept = state_bytes(self.chain(group), param, group)
                found.append(Described(*known, group.get("route", ""), kept))
        places = {name: place for place, name in enumerate(self.known)}
        found.sort(key=lambda one: places.get(one.parameter, len(places)))
        return found


def with_names(params: ParamsT | nn.Module) -> tuple[Any, dict[str, Parameter]]:
    """An optimizer's parameters in the form that PyTorch takes, and their roles by name."""
    if isinstance(params, nn.Module):
        named = list(params.named_parameters())
        return named, dict(zip([name for name, _ in named], parameters_of(params), strict=True))
    if isinstance(params, Tensor | set) or not isinstance(params, Iterable):
        return params, {}
    given: list[Any] = list(params)
    grouped = given and all(isinstance(one, dict) and "params" in one for one in given)
    for group in given if grouped else ():
        group["params"] = listed(group["params"])
    entries = [one for group in given for one in group["params"]] if grouped else given
    named = [one for one in entries if isinstance(one, tuple)]
    return given, dict(zip([name for name, _ in named], parameters_by_name(named), strict=True))


def descending(grad: Tensor, maximize: bool) -> Tensor:
    """The dense gradient of the function to minimize."""
    dense = working((grad.to_dense() if grad.is_sparse else grad).resolve_conj())
    return -dense if maximize else dense
