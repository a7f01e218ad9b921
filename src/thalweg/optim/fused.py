"""Steps the parameters of an optimizer in place with compiled kernels.

A kernel works on addresses. Parameters, gradients and states belong to the user, who may move,
replace, cast or share them between two steps. So every step begins by reading the address, shape
and type of each tensor. Where more than the addresses has changed, the kernels are chosen again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain as joined
from operator import call, is_, itemgetter
from typing import Any
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from thalweg.errors import UserError
from thalweg.fuse.choice import AnyKernel, kernel_on
from thalweg.fuse.located import Located, implementations_of
from thalweg.fuse.passes import Part, sum_places
from thalweg.optim.branches import ParamWithGrad, by_branch, eager_parts, of_branch, step_in_passes
from thalweg.optim.groups import Branch, GroupedOptimizer
from thalweg.optim.rows import Group, Held, Launch
from thalweg.optim.settings import is_immutable
from thalweg.optim.sharded import is_sharded, is_spread, local, step_sharded
from thalweg.optim.state import Chain, complete

PLAIN = (Tensor, nn.Parameter)


class Fused:
    """Parameters that one kernel steps together.

    places: the places of these parameters among all parameters of a step. readable: whether the
    kernel can read all their tensors.
    """

    def __init__(
        self,
        optimizer: GroupedOptimizer,
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
            saved = optimizer.state[param]
            complete(saved, chain=kernel.chain, param=param, values=values, device=kernel.device)
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
        """Reads where the kernel's parameters, gradients and states lie now.

        gradients: the gradients of all parameters of the step. kept: the states of all parameters,
        in the optimizer's order. KeyError for a state that was removed.
        """
        saved = [kept[place] for place in self.kept_at]
        names = self.kernel.layout.columns[2:]
        states = self.here([each[name] for name in names for each in saved])
        references, numbers = self.known
        if not same(states, list(map(call, references))):
            numbers = implementations_of(states)
            # Weak references keep no memory alive. PyTorch can swap the contents of two tensors
            # (`torch.utils.swap_tensors`), but refuses to where there are weak references.
            self.known = list(map(ref, states)), numbers
        params, mine = self.here(self.params), [gradients[place] for place in self.places]
        everything = np.concatenate([implementations_of([*params, *mine]), numbers])
        return Located(everything.reshape(-1, len(params)), (params, mine, states))

    def here(self, tensors: list[Tensor]) -> list[Tensor]:
        """The local parts of tensors."""
        return list(map(local, tensors)) if self.sharded else tensors

    def fits(self, found: Located) -> bool:
        """Whether the tensors differ only in their addresses from those the kernel was made for."""
        return bool((found.marks == self.marks).all())

    def renew(self, optimizer: GroupedOptimizer, groups: Iterable[int]) -> None:
        """Reads the hyperparameters of these groups again."""
        for index in groups:
            if index in self.groups:
                self.launch.renew(self.groups.index(index), optimizer.values(index))

    def step(self, optimizer: GroupedOptimizer, found: Located) -> Part:
        on_whole = partial(step_sharded, self.params)
        yield from self.launch.step(found.addresses, partial(self.held, optimizer), on_whole)
        # Tells autograd that tensors which it may have saved for a backward pass have changed.
        increment_version(self.params)

    def held(self, optimizer: GroupedOptimizer) -> list[Held]:
        """Its parameters before their next step, without gradients: only the kernel reads those."""
        chain, device, unread = self.kernel.chain, self.kernel.device, torch.empty(0)
        return [
            optimizer.held(chain, param, unread, index=index, device=device)
            for param, index in zip(self.params, self.indices, strict=True)
        ]


class ChangedSettings:
    """Finds the groups whose settings have changed since the last step.

    varying: the groups whose hyperparameters may change while their settings stay the same objects.
    """

    def __init__(self) -> None:
        self.reads: list[Callable[[Group], tuple[Any, ...]]] = []
        self.known: list[tuple[Any, ...]] = []
        self.varying: list[int] = []

    def changed(self, optimizer: GroupedOptimizer) -> list[int]:
        """The groups whose hyperparameters may have changed since the last call."""
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
            if optimizer.scheduled(index) or not all(map(is_immutable, settings))
        ]
        others = {
            index
            for index, settings in enumerate(self.known)
            if index >= len(before) or not same(settings, before[index])
        }
        return sorted(others.union(self.varying))


class Fusing:
    """Chooses kernels for the parameters of an optimizer, and steps with them.

    parts: the parameters of each kernel. left: the places of the parameters that no kernel steps.
    """

    def __init__(self) -> None:
        self.watch = ChangedSettings()
        self.forget()
        self.warned = False

    def forget(self) -> None:
        """Makes the next step choose the kernels again."""
        self.kinds: list[tuple[Branch, bool]] = []
        self.params: list[Tensor] = []
        self.groups: tuple[int, ...] = ()
        self.owners: list[Tensor] = []
        self.left: list[int] = []
        self.summing = self.spread = False
        self.lone: list[int] = []
        self.parts: list[Fused] = []

    def step(self, optimizer: GroupedOptimizer, params: list[ParamWithGrad]) -> None:
        """Steps all parameters: with kernels where there are any, the others eagerly."""
        try:
            changed = self.watch.changed(optimizer)
            found = self.located(optimizer, params) if self.same_kinds(optimizer, changed) else None
            if found is None:
                self.choose(optimizer, params)
                changed = list(range(len(self.kinds)))
                gradients, kept = [grad for _, grad, _ in params], list(optimizer.state.values())
                found = [(part, part.located(gradients, kept)) for part in self.parts]
            for part, _ in found:
                part.renew(optimizer, changed)
            if self.left or self.summing:
                parts = [
                    of_branch(optimizer, part.branch, part.params, part.step(optimizer, own))
                    for part, own in found
                ]
                if self.left:
                    parts += eager_parts(optimizer, [params[place] for place in self.left])
                step_in_passes(optimizer, parts, self.spread)
            else:
                for part, own in found:
                    list(part.step(optimizer, own))  # without sums, the generator yields nothing
        except BaseException:
            self.forget()  # some kernels may not have read the new settings yet
            raise

    def same_kinds(self, optimizer: GroupedOptimizer, changed: Iterable[int]) -> bool:
        """Whether the groups that have changed still need the same kernels."""
        return all(self.kinds[index : index + 1] == [kind(optimizer, index)] for index in changed)

    def located(
        self, optimizer: GroupedOptimizer, params: list[ParamWithGrad]
    ) -> list[tuple[Fused, Located]] | None:
        """Where the tensors of each part lie now; None where the kernels must be chosen again."""
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
        except (KeyError, AttributeError):  # a state was removed, or is not a tensor
            return None
        return found if all(part.fits(own) for part, own in found) else None

    def choose(self, optimizer: GroupedOptimizer, params: list[ParamWithGrad]) -> None:
        """Chooses the kernels for the parameters, and finds those that no kernel can step."""
        self.forget()
        left, taken = sorted_out(optimizer, params)
        parts = [
            Fused(optimizer, kernel, params=params, places=some, branch=branch)
            for (branch, kernel), some in taken.items()
        ]
        if not all(part.readable for part in parts):
            raise UserError(
                "the storage of a parameter, a gradient or a state was freed or made smaller, and"
                " no longer holds its numbers."
            )
        self.parts, self.left = parts, left
        self.summing = any(sum_places(chain, torch.float32) != () for chain in optimizer.chains())
        self.spread = is_spread(optimizer.parameters(), optimizer.zero)
        self.params = [param for param, _, _ in params]
        self.groups = tuple(index for _, _, index in params)
        self.owners = list(optimizer.state)
        # A negative view is the imaginary part of a conjugate tensor. It has a stride of two, which
        # changes the mark. Only for a tensor of one number the stride does not count.
        self.lone = [place for place, (_, grad, _) in enumerate(params) if grad.numel() == 1]
        self.kinds = [kind(optimizer, index) for index in range(len(optimizer.param_groups))]
        if self.left and not self.warned:
            warnings.warn(
                f"{len(self.left)} of {len(params)} tensors are stepped eagerly, without a kernel."
                " A kernel needs a chain that can be traced, and contiguous tensors of float32,"
                " float64 or bfloat16 on a device of its compiler (numba: the CPU, triton: a GPU).",
                stacklevel=5,
            )
            self.warned = True


def same(some: Collection[Any], others: Collection[Any]) -> bool:
    """Whether both hold the same objects in the same order."""
    return len(some) == len(others) and all(map(is_, some, others))


def kind(optimizer: GroupedOptimizer, index: int) -> tuple[Branch, bool]:
    """What decides the kernel of a group: its branch, and whether it maximizes."""
    group = optimizer.param_groups[index]
    return optimizer.branch(group), group["maximize"]


def sorted_out(
    optimizer: GroupedOptimizer, params: Sequence[ParamWithGrad]
) -> tuple[list[int], dict[tuple[Branch, AnyKernel], list[int]]]:
    """The places of the parameters that no kernel can step, and those of each kernel."""
    left: list[int] = []
    taken: dict[tuple[Branch, AnyKernel], list[int]] = {}
    for branch, places in by_branch(optimizer, params).items():
        for place in places:
            kernel = kernel_for(optimizer, branch[1], params[place])
            (left if kernel is None else taken.setdefault((branch, kernel), [])).append(place)
    return left, taken


def kernel_for(
    optimizer: GroupedOptimizer, chain: Chain, param_with_grad: ParamWithGrad
) -> AnyKernel | None:
    """The kernel that steps a parameter; None where no kernel can."""
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
    return kernel_on(param.device, chain, param.dtype, maximize=maximize, backend=optimizer.backend)
