"""The base class of the drop-in optimizers: parameter groups, state, steps and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT, StateDict

from thalweg.arguments import require_flag, short, word
from thalweg.errors import UserError
from thalweg.fuse import eager
from thalweg.fuse.eager import Cell
from thalweg.fuse.matrices import check_matrices
from thalweg.fuse.passes import (
    BranchPart,
    Combine,
    Part,
    by_branches,
    eagerly,
    over_model,
    shared_sums,
    sum_places,
)
from thalweg.optim.description import Described, Description, kept_numbers, state_bytes
from thalweg.optim.fused import (
    Branch,
    Fusing,
    ParamWithGrad,
    by_branch,
    kernel_for,
)
from thalweg.optim.loading import A_STATE, copied, dictionary, fitted
from thalweg.optim.rows import Group, Held, Row, stepped
from thalweg.optim.settings import (
    base,
    in_group,
    memory,
    metric,
    number,
    resumed,
)
from thalweg.optim.sharded import (
    check_by_shards,
    check_gathered,
    check_summable,
    is_spread,
    local,
    local_gradient,
    over_spread_model,
    received,
    step_sharded,
    zero_above,
)
from thalweg.optim.state import CPU, Chain, age_in, as_real, complete, starting, working
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


class RuleOptimizer(UntracedOptimizer):
    """A `torch.optim.Optimizer` that steps by a chain of rules.

    Its groups hold a number for each hyperparameter, under PyTorch's name. Each may be changed
    between steps. A tensor of one number is kept as that tensor. Where a schedule was given, the
    group holds the schedule's base, and the schedule multiplies it by a factor; the schedule counts
    the steps of the group from 0. A parameter counts its own steps from 1, without the steps in
    which it had no gradient.
    """

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Settings that belong to the class; a loaded state cannot change them."""

    needs_closure = False

    recipe: Recipe | None = None
    """The recipe, where it has routes. A group whose parameters take different routes is split."""

    def __init__(self, params: ParamsT | nn.Module, defaults: Mapping[str, Any]) -> None:
        self.schedules: list[dict[str, Any]] = []
        self.tracks: dict[str, Track] = {}
        self.backend = "auto"
        self.training_point: list[tuple[Tensor, Tensor]] = []
        self.fusing = Fusing()
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

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step with the gradients of the parameters; `closure`, if given, is called first."""
        if self.training_point:
            raise UserError(
                "step was called within evaluation(), where the model does not hold the parameters"
                " of training."
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = self.with_gradients()
        if found_infinite(self):
            return loss
        unscale(self, params)
        if self.backend == "eager":
            spread = is_spread(self.parameters(), self.zero)
            self.step_in_passes(self.eager_parts(params), spread)
        else:
            self.fusing.step(self, params)
        for index in range(len(self.param_groups)):
            self.row(index).advance()
        return loss

    def with_gradients(self) -> list[ParamWithGrad]:
        """The parameters that have a gradient, with the local part of the gradient."""
        return [
            (param, grad if type(grad) is Tensor else local_gradient(grad, param), index)
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
            if (grad := param.grad) is not None
        ]

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

    def branches(self) -> list[Branch]:
        """The branches of all groups, without duplicates."""
        return list(dict.fromkeys(map(self.branch, self.param_groups)))

    def chains(self) -> list[Chain]:
        """The chains of all groups, without duplicates."""
        return list(dict.fromkeys(chain for _, chain in self.branches()))

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

    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [param for group in self.param_groups for param in group["params"]]

    def kernel_source(self) -> str:
        """The text of the kernels that step the parameters; "" where no kernel does."""
        kernels = {
            kernel_for(self, self.chain(group), (param, local(param), index)): None
            for index, group in enumerate(self.param_groups)
            for param in group["params"]
        }
        return "\n\n".join(kernel.source for kernel in kernels if kernel)

    def step_in_passes(self, parts: Sequence[BranchPart], spread: bool) -> None:
        """Runs all parts of a step, pass by pass; sums are over all parts of a branch.

        spread: whether the model is spread over processes.
        """
        branches, there = self.branches(), {part.branch for part in parts}
        if spread:
            asking = [one for one in branches if sum_places(one[1], torch.float32) != ()]
            parts = [*parts, *(self.standing_by(one) for one in asking if one not in there)]
        order: dict[Hashable, int] = {branch: place for place, branch in enumerate(branches)}

        def combine_for(some: Sequence[BranchPart]) -> Combine:
            if not spread:
                return over_model
            params = [param for each in some for param in each.params]
            return partial(over_spread_model, params, self.parameters(), self.zero)

        # All processes must run the branches in the same order.
        by_branches(sorted(parts, key=lambda part: order[part.branch]), combine_for)

    def of_branch(self, branch: Branch, params: Sequence[Tensor], part: Part) -> BranchPart:
        """A part that steps these parameters, with its branch."""
        return BranchPart(branch, part, shared_sums(branch[1], self.shared_rules), params)

    @torch.no_grad()
    def standing_by(self, branch: Branch) -> BranchPart:
        """A part without elements, for a branch of which this process has no gradient.

        The process must still join in the sums of the other processes.
        """
        model, (_, chain) = self.parameters(), branch
        check_by_shards(model, chain)
        index = [self.branch(group) for group in self.param_groups].index(branch)
        nothing = local(model[0]).new_empty(0, 0) if model else torch.empty(0, 0)
        values = self.values(index) | {"t": 1, "dtype": nothing.dtype}
        states: dict[str, Any] = {}
        for rule in chain:
            states |= {name: starting(nothing, s, values) for name, s in rule.states.items()}
            states |= {name: state.init for name, state in rule.row_states.items()}
        cell = Cell(working(nothing), working(nothing), values, states)
        return self.of_branch(branch, model[:1], eagerly(chain, [cell]))

    def eager_parts(self, params: Sequence[ParamWithGrad]) -> list[BranchPart]:
        """The parts that step parameters by eager arithmetic, one for each branch.

        RuntimeError for a parameter on the device meta in a group with `fused=True`, as in PyTorch.
        """
        if any(param.is_meta and self.param_groups[i].get("fused") for param, _, i in params):
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors with numbers in"
                " them; move the model from the device meta by its to_empty()."
            )
        parts = []
        for branch, some in by_branch(self, params).items():
            mine = [params[place] for place in some]
            own = [param for param, _, _ in mine]
            check_by_shards(own, branch[1])
            parts.append(self.of_branch(branch, own, self.eagerly(branch[1], mine)))
        return parts

    def eagerly(self, chain: Chain, params: Sequence[ParamWithGrad]) -> Part:
        """A part that steps parameters by the eager arithmetic of their chain."""
        held = [self.held(chain, *each) for each in params]
        return stepped(chain, held, partial(step_sharded, [param for param, _, _ in params]))

    def held(
        self, chain: Chain, param: Tensor, grad: Tensor, index: int, device: torch.device = CPU
    ) -> Held:
        """A parameter before its next step, with its complete state.

        index: the index of its group. device: where its count of steps lies.
        """
        values, saved = self.values(index), self.state[param]
        complete(saved, chain=chain, param=param, values=values, device=device)
        return Held(param, descending(grad, self.param_groups[index]["maximize"]), saved, values)

    def values(self, index: int) -> dict[str, Any]:
        """The hyperparameters and options of a group at its next step, with schedules applied."""
        return self.row(index).values(self.chain(self.param_groups[index]))

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within the block, the model holds the parameters for evaluation.

        Averages and look-ahead rules evaluate at another point than the one at which they train.
        Save the checkpoints that you want to use later within the block. After the block, training
        goes on as before. Within the block a second `evaluation()` does nothing, and `step` raises
        UserError.

        A model of `fully_shard` may still hold the parameters that it gathered for its last forward
        pass: call its `reshard()` at the start of the block and after the block. Under a
        `ZeroRedundancyOptimizer`, call its `optim.evaluation()` in all processes: each process
        sends the others the averages of its parameters.
        """
        if self.training_point:
            yield
            return
        if any(map(eager.elsewhere, self.chains())):
            check_gathered(self.parameters())
        try:
            with torch.no_grad():
                values = list(self.evaluated())
                while values:  # parameters may share memory: no value is set before all are known
                    param, value = values.pop()
                    self.training_point.append((param, param.clone()))
                    as_real(param).copy_(value)
                if self.zero is not None and any(map(eager.elsewhere, self.chains())):
                    self.training_point += received(self.zero, self.parameters())
            yield
        finally:
            self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the model its parameters of training back, also if a signal's handler raises."""
        try:
            while self.training_point:
                param, value = self.training_point[-1]
                param.copy_(value)
                self.training_point.pop()
        except (KeyboardInterrupt, SystemExit):
            self.put_back()
            raise

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The local parameters that have another value in evaluation, each with that value."""
        for index, group in enumerate(self.param_groups):
            chain = self.chain(group)
            for param in group["params"]:
                if age_in(chain, self.state.get(param, {})) == 0:
                    continue
                value = self.held(chain, param, torch.empty(0), index).evaluated(chain)
                if value is not None:
                    yield local(param), value

    def observe(self, validation: float | None = None, training: float | None = None) -> None:
        """Gives plateau schedules the metric that they watch; UserError if it is not a number."""
        metrics = {"validation": metric("validation", validation)}
        metrics["training"] = metric("training", training)
        for index in range(len(self.param_groups)):
            self.row(index).observe(**metrics)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Loads a saved state: one of this optimizer, or of PyTorch's optimizer of the same name.

        The state is copied. UserError for a state that does not fit; the optimizer then does not
        change.
        """
        fitting: list[tuple[Tensor, dict[str, Any]]] = []

        def prepare(_: Any, given: StateDict) -> None:
            fitting.extend(fitted(self, given))

        def put(_: Any) -> None:
            self.fusing.forget()
            for group in self.param_groups:
                group |= self.accepted(group)
            for param, states in fitting:
                self.state[param] = copied(self.state[param]) | states

        hooks = [
            self.register_load_state_dict_pre_hook(prepare),
            self.register_load_state_dict_post_hook(put, prepend=True),
        ]
        try:
            super().load_state_dict(dictionary(state_dict))
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor for a flag
            why = word(str(error))
            raise UserError(f"{A_STATE}; this one cannot be read: {why}.") from error
        finally:
            for hook in hooks:
                hook.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        routes = [group.get("route") for group in self.__dict__.get("param_groups", ())]
        super().__setstate__(state)
        for group, route in zip(self.param_groups, routes, strict=False):
            group |= {"route": route} if route else {}
        for index, group in enumerate(self.param_groups):
            for name, value in {**self.defaults_of(group), "maximize": False}.items():
                group.setdefault(name, base(value))
            group |= self.fixed
            fresh = {name: memory(value) for name, value in self.scheduled(index).items()}
            steps, saved = group.pop("step_count", 0), group.pop("memory", None) or {}
            if fresh:
                group["step_count"] = steps
                group["memory"] = {n: resumed(start, saved.get(n)) for n, start in fresh.items()}

    def __getstate__(self) -> dict[str, Any]:
        if self.training_point:
            raise UserError(
                "an optimizer cannot be copied within evaluation(), where the model does not hold"
                " the parameters of training."
            )
        kept = ("schedules", "recipe", "tracks", "known", "backend")
        return {
            **super().__getstate__(),
            **{name: value for name, value in vars(self).items() if name in kept},
            "training_point": [],
            "fusing": Fusing(),
            "zero": None,
        }


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


def found_infinite(optimizer: Any) -> bool:
    """Whether a GradScaler has told the optimizer that some gradient is not finite."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def unscale(optimizer: Any, params: Sequence[ParamWithGrad]) -> None:
    """Divides the gradients by the scale that a GradScaler has given to the optimizer."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        for _, grad, _ in params:
            grad.div_(scale)


def descending(grad: Tensor, maximize: bool) -> Tensor:
    """The dense gradient of the function to minimize."""
    dense = working((grad.to_dense() if grad.is_sparse else grad).resolve_conj())
    return -dense if maximize else dense
