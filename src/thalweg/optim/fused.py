"""Steps the parameters of an optimizer with compiled kernels, where they lie.

A kernel works on addresses. Parameters, gradients and states belong to the user, who may move,
replace, cast or share them between two steps, so all of them are looked at in front of every step:
addresses are read anew, and where anything else has changed, the kernels are chosen anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain as joined
from operator import call, is_, itemgetter
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from thalweg.errors import UserError
from thalweg.fuse.choice import AnyKernel, kernel_on
from thalweg.fuse.located import Located, implementations_of
from thalweg.fuse.passes import Part, places_of
from thalweg.optim.rows import Group, Held, Launch
from thalweg.optim.settings import is_plain
from thalweg.optim.sharded import is_in_parts, is_sharded, local, step_sharded
from thalweg.optim.state import Chain, complete

if TYPE_CHECKING:
    from thalweg.optim.base import RuleOptimizer

PLAIN = (Tensor, nn.Parameter)
ParamWithGrad = tuple[Tensor, Tensor, int]
"""A parameter, what is here of the gradient that it has, and its group's index."""
Branch = tuple[str, Chain]
"""The route to a chain of its own, none for the chain of all, and the chain."""


class Fused:
    """Parameters that one kernel steps together.

    places: theirs among the parameters of a step. readable: whether the kernel can work on them.
    """

    def __init__(
        self,
        optimizer: RuleOptimizer,
        kernel: AnyKernel,
        params: Sequence[ParamWithGrad],
        places: Sequence[int],
        branch: Branch,
    ) -> None:
        self.kernel, self.places, self.branch = kernel, places, branch
        taken = [params[place] for place in places]
        self.params = [param for param, _, _ in taken]
        self.indices = [index for _, _, index in taken]
        for param, index in zip(self.params, self.indices, strict=True):
            values = optimizer.values(index)
            complete(optimizer.state[param], kernel.chain, param, values, kernel.device)
        order = {id(param): place for place, param in enumerate(optimizer.state)}
        self.kept_at = [order[id(param)] for param in self.params]
        self.sharded = any(map(is_sharded, self.params))
        self.known: tuple[list[ref[Tensor]], NDArray[np.int64]] = [], np.empty(0, np.int64)
        found = self.located([grad for _, grad, _ in params], list(optimizer.state.values()))
        self.marks, self.readable = found.marks, found.readable
        self.groups = sorted(set(self.indices))
        self.launch = Launch(
            kernel,
            sizes=[local(param).numel() for param in self.params],
            row_of=[self.groups.index(index) for index in self.indices],
            wide=[optimizer.state[param]["step"].dtype == torch.float64 for param in self.params],
        )

    def located(self, gradients: Sequence[Tensor], kept: Sequence[Mapping[str, Any]]) -> Located:
        """At all that the kernel works on; KeyError for a state that is gone.

        gradients: of all parameters of the step. kept: all that the optimizer keeps, in its order.
        """
        saved = [kept[place] for place in self.kept_at]
        names = self.kernel.layout.columns[2:]
        states = self.here([each[name] for name in names for each in saved])
        references, numbers = self.known
        if not same(states, list(map(call, references))):
            numbers = implementations_of(states)
            # They keep no memory alive. PyTorch swaps what lies behind two tensors, but not where
            # there are such references.
            self.known = list(map(ref, states)), numbers
        params, mine = self.here(self.params), [gradients[place] for place in self.places]
        everything = np.concatenate([implementations_of([*params, *mine]), numbers])
        return Located(everything.reshape(-1, len(params)), (params, mine, states))

    def here(self, tensors: list[Tensor]) -> list[Tensor]:
        """What is here of tensors."""
        return list(map(local, tensors)) if self.sharded else tensors

    def stands(self, found: Located) -> bool:
        """Whether the kernel still fits what it works on, wherever that lies now."""
        return bool((found.marks == self.marks).all())

    def renew(self, optimizer: RuleOptimizer, groups: Iterable[int]) -> None:
        """Makes the numbers of groups anew."""
        for index in groups:
            if index in self.groups:
                self.launch.renew(self.groups.index(index), optimizer.values(index))

    def step(self, optimizer: RuleOptimizer, found: Located) -> Part:
        on_whole = partial(step_sharded, self.params)
        yield from self.launch.step(found.addresses, partial(self.held, optimizer), on_whole)
        # Autograd has to know that what it may have saved has changed.
        increment_version(self.params)

    def held(self, optimizer: RuleOptimizer) -> list[Held]:
        """Its parameters before their coming step, of which kernels alone know the gradients."""
        chain, device, unread = self.kernel.chain, self.kernel.device, torch.empty(0)
        return [
            optimizer.held(chain, param, unread, index, device)
            for param, index in zip(self.params, self.indices, strict=True)
        ]


class Watch:
    """Looks at the settings of groups, and tells which groups have others than the last time.

    varying: the groups whose numbers may change though their settings are the same objects.
    """

    def __init__(self) -> None:
        self.reads: list[Callable[[Group], tuple[Any, ...]]] = []
        self.known: list[tuple[Any, ...]] = []
        self.varying: list[int] = []

    def changed(self, optimizer: RuleOptimizer) -> list[int]:
        """The groups whose numbers may be others than at the last call."""
        before, groups = self.known, optimizer.param_groups
        for group in groups[len(self.reads) :]:
            own = optimizer.defaults_of(group)
            self.reads.append(itemgetter(*(name for name in own if name in group)))
        self.known = list(map(call, self.reads, groups))
        if same(list(joined(*self.known)), list(joined(*before))):
            return self.varying
        self.varying = [
            index
            for index, settings in enumerate(self.known)
            if optimizer.scheduled(index) or not all(map(is_plain, settings))
        ]
        others = {
            index
            for index, settings in enumerate(self.known)
            if index >= len(before) or not same(settings, before[index])
        }
        return sorted(others.union(self.varying))


class Fusing:
    """The compiled steps of an optimizer: which of its parameters they take, and how."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.forget()
        self.told = False

    def forget(self) -> None:
        self.kinds: list[tuple[Branch, bool]] = []
        self.params: list[Tensor] = []
        self.groups: tuple[int, ...] = ()
        self.owners: list[Tensor] = []
        self.left: list[int] = []
        self.summing = self.parted = False
        self.lone: list[int] = []
        self.parts: list[Fused] = []

    def step(self, optimizer: RuleOptimizer, params: list[ParamWithGrad]) -> None:
        """Steps what kernels can, and with it, where there are sums over both, the rest."""
        try:
            changed = self.watch.changed(optimizer)
            found = self.located(optimizer, params) if self.same_kinds(optimizer, changed) else None
            if found is None:
                self.settle(optimizer, params)
                changed = list(range(len(self.kinds)))
                gradients, kept = [grad for _, grad, _ in params], list(optimizer.state.values())
                found = [(part, part.located(gradients, kept)) for part in self.parts]
            for part, _ in found:
                part.renew(optimizer, changed)
            if self.left or self.summing:
                parts = [
                    optimizer.of_branch(part.branch, part.params, part.step(optimizer, own))
                    for part, own in found
                ]
                if self.left:
                    parts += optimizer.eager_parts([params[place] for place in self.left])
                optimizer.step_in_passes(parts, self.parted)
            else:
                for part, own in found:
                    list(part.step(optimizer, own))  # it gives no sums, and so runs to its end
        except BaseException:
            self.forget()  # not all parts may know what has changed
            raise

    def same_kinds(self, optimizer: RuleOptimizer, changed: Iterable[int]) -> bool:
        """Whether the kernels are still those of the groups that have changed."""
        return all(self.kinds[index : index + 1] == [kind(optimizer, index)] for index in changed)

    def located(
        self, optimizer: RuleOptimizer, params: list[ParamWithGrad]
    ) -> list[tuple[Fused, Located]] | None:
        """What each part works on now; none where another choice of kernels may be due."""
        stepping, gradients, groups = zip(*params, strict=True) if params else ((), (), ())
        if not (
            same(stepping, self.params)
            and groups == self.groups
            and same(optimizer.state, self.owners)
            and not any(gradients[place].is_neg() for place in self.lone)
        ):
            return None
        kept = list(optimizer.state.values())
        try:
            found = [(part, part.located(gradients, kept)) for part in self.parts]
        except (KeyError, AttributeError):  # a state was taken away, or is no tensor
            return None
        return found if all(part.stands(own) for part, own in found) else None

    def settle(self, optimizer: RuleOptimizer, params: list[ParamWithGrad]) -> None:
        """Finds the kernels for the parameters, and those that no kernel steps."""
        self.forget()
        left, taken = sorted_out(optimizer, params)
        parts = [
            Fused(optimizer, kernel, params, some, branch)
            for (branch, kernel), some in taken.items()
        ]
        if not all(part.readable for part in parts):
            raise UserError(
                "a parameter, a gradient or a state has no memory for its numbers any more: its"
                " storage was freed or made smaller."
            )
        self.parts, self.left = parts, left
        self.summing = any(places_of(chain, torch.float32) != () for chain in optimizer.chains())
        self.parted = is_in_parts(optimizer.parameters(), optimizer.zero)
        self.params = [param for param, _, _ in params]
        self.groups = tuple(index for _, _, index in params)
        self.owners = list(optimizer.state)
        # A negative view is the imaginary part of a conjugate, whose numbers lie two apart: a mark
        # tells it, but for a lone number.
        self.lone = [place for place, (_, grad, _) in enumerate(params) if grad.numel() == 1]
        self.kinds = [kind(optimizer, index) for index in range(len(optimizer.param_groups))]
        if self.left and not self.told:
            warnings.warn(
                f"{len(self.left)} of {len(params)} tensors are stepped eagerly: kernels take "
                "contiguous float32, float64 and bfloat16 where their compiler runs (numba: on the "
                "CPU, triton: on a GPU), and chains that can be traced.",
                stacklevel=5,
            )
            self.told = True


def same(some: Collection[Any], others: Collection[Any]) -> bool:
    """Whether both hold the same objects in the same order."""
    return len(some) == len(others) and all(map(is_, some, others))


def kind(optimizer: RuleOptimizer, index: int) -> tuple[Branch, bool]:
    """What a group's kernel is chosen by."""
    group = optimizer.param_groups[index]
    return optimizer.branch(group), group["maximize"]


def sorted_out(
    optimizer: RuleOptimizer, params: Sequence[ParamWithGrad]
) -> tuple[list[int], dict[tuple[Branch, AnyKernel], list[int]]]:
    """The places of the parameters that no kernel can step, and of those of each kernel."""
    left: list[int] = []
    taken: dict[tuple[Branch, AnyKernel], list[int]] = {}
    for branch, places in by_branch(optimizer, params).items():
        for place in places:
            kernel = kernel_for(optimizer, branch[1], params[place])
            (left if kernel is None else taken.setdefault((branch, kernel), [])).append(place)
    return left, taken


def by_branch(optimizer: RuleOptimizer, params: Iterable[ParamWithGrad]) -> dict[Branch, list[int]]:
    """The places of the parameters that each branch steps."""
    branches = [optimizer.branch(group) for group in optimizer.param_groups]
    found: dict[Branch, list[int]] = {}
    for place, (_, _, index) in enumerate(params):
        found.setdefault(branches[index], []).append(place)
    return found


def kernel_for(
    optimizer: RuleOptimizer, chain: Chain, param_with_grad: ParamWithGrad
) -> AnyKernel | None:
    """The kernel that steps a parameter; none where eager arithmetic has to."""
    param, grad, index = local(param_with_grad[0]), *param_with_grad[1:]
    plain = (
        type(param) in PLAIN
        and type(grad) in PLAIN
        and grad.dtype is param.dtype
        and grad.device == param.device
        and grad.layout is torch.strided
        and grad.shape == param.shape
        and param.is_contiguous()
        and grad.is_contiguous()
        and not (grad._is_zerotensor() or grad.is_neg() or param.is_neg())
    )
    if not plain:
        return None
    maximize = optimizer.param_groups[index]["maximize"]
    return kernel_on(param.device, chain, param.dtype, maximize, optimizer.backend)
