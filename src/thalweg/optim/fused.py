"""Steps the parameters of an optimizer with compiled kernels, where they lie."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain as joined
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from thalweg.fuse.kernel import Kernel, kernel_of, labelled
from thalweg.fuse.triton_kernel import TritonKernel, runs_on, triton_kernel_of
from thalweg.optim.settings import number
from thalweg.optim.sharded import is_sharded, local, placed_as, total
from thalweg.rules.rule import Rule

if TYPE_CHECKING:
    from thalweg.optim.base import RuleOptimizer

AnyKernel = Kernel | TritonKernel
Chain = tuple[type[Rule], ...]
Group = dict[str, Any]
ParamWithGrad = tuple[Tensor, Tensor, int]
"""A parameter, what is here of the gradient that it has, and its group's index."""

nbytes = attrgetter("nbytes")
negated = Tensor.is_neg


class Fused:
    """Parameters that one kernel steps together, and the table that says where they are.

    places: theirs among the parameters of a step. Their states stay those of the optimizer; each
    `step` and each number of a row becomes a view of one tensor for all, so that the kernel moves
    them on in one pass.
    """

    def __init__(
        self,
        optimizer: RuleOptimizer,
        kernel: AnyKernel,
        params: Sequence[ParamWithGrad],
        places: Sequence[int],
    ) -> None:
        self.optimizer, self.kernel, self.places = optimizer, kernel, places
        taken = [params[place] for place in places]
        self.params = [param for param, _, _ in taken]
        self.saved = [optimizer.state[param] for param in self.params]
        device = self.params[0].device
        ages = torch.tensor([age(saved) for saved in self.saved], dtype=torch.float32).to(device)
        for (param, _, index), saved in zip(taken, self.saved, strict=True):
            states = optimizer.states(kernel.chain, param, optimizer.values(index))
            tensors = {n: state for n, state in states.items() if isinstance(state, Tensor)}
            saved |= {n: placed_as(param, tensor.contiguous()) for n, tensor in tensors.items()}
        starts = {n: state.init for rule in kernel.chain for n, state in rule.row_states.items()}
        numbers = [[float(s.get(n, init)) for n, init in starts.items()] for s in self.saved]
        row_states = torch.tensor(numbers, dtype=torch.float64).reshape(len(taken), -1).to(device)
        for k, saved in enumerate(self.saved):
            saved["step"] = ages[k]
            saved |= {name: row_states[k, i] for i, name in enumerate(starts)}
        self.kept = [tensor for saved in self.saved for tensor in saved.values()]
        # Held, so that the table never points to memory that is no more.
        self.memory = [local(tensor).detach() for tensor in self.kept]
        self.model = optimizer.parameters()
        self.sharded = any(map(is_sharded, self.model))
        here = self.here()
        self.addresses = list(map(Tensor.data_ptr, here))
        self.sizes = list(map(nbytes, here))
        labels = [label for label in kernel.layout.tensors if label != "grad"]
        columns = [
            [param if label == "param" else local(saved[label]) for label in labels]
            for param, saved in zip(here, self.saved, strict=True)
        ]
        self.groups = sorted({index for _, _, index in taken})
        self.names = [name for rule in kernel.chain for name in rule.known()]
        self.scheduled = any(optimizer.schedules[index] for index in self.groups)
        self.settings: list[Any] | None = None
        group_of = [self.groups.index(index) for _, _, index in taken]
        # The sums over shards are told from those over what is whole, so each is one of its own.
        member_of = range(len(taken)) if self.sharded else [0] * len(taken)
        self.table = kernel.table(columns, group_of, member_of, ages, row_states)
        if self.sharded:
            self.table.total = self.over_shards

    def here(self) -> list[Tensor]:
        """What is here of the parameters."""
        return list(map(local, self.params)) if self.sharded else self.params

    def over_shards(self, squares: Tensor) -> Tensor:
        """For each tensor the sum over the whole model, from the sums over what is here of each."""
        return total(squares, self.params, self.model).expand(len(squares))

    def stands(self) -> bool:
        """Whether parameters and states are those that the table has, where it has them."""
        here = self.here()
        return (
            list(map(Tensor.data_ptr, here)) == self.addresses
            and all(map(Tensor.is_contiguous, here))
            and same(list(joined.from_iterable(map(dict.values, self.saved))), self.kept)
        )

    def gradients(self, params: Sequence[ParamWithGrad]) -> list[int] | None:
        """Where the gradients are; none if one cannot be read so."""
        found = [params[place][1] for place in self.places]
        try:
            fit = list(map(nbytes, found)) == self.sizes and all(map(Tensor.is_contiguous, found))
        except RuntimeError:  # a sparse one has no such thing
            return None
        addresses = list(map(Tensor.data_ptr, found))
        # One that PyTorch knows to be zero has no memory, as an empty one has none.
        fit = fit and addresses.count(0) == self.sizes.count(0) and not any(map(negated, found))
        return addresses if fit else None

    def step(self, gradients: list[int]) -> None:
        self.table.step(gradients, self.hypers())
        # Autograd has to know that what it may have saved has changed.
        increment_version(self.params)

    def hypers(self) -> NDArray[np.float64]:
        """The groups' numbers at this step, made anew only where one has changed."""
        groups = [self.optimizer.param_groups[index] for index in self.groups]
        settings = [number(group[name]) for group in groups for name in self.names]
        if self.scheduled or settings != self.settings:
            self.settings = settings
            values = [labelled(self.optimizer.values(index)) for index in self.groups]
            hypers = [[each[label] for label in self.kernel.layout.hypers] for each in values]
            self.numbers = np.array(hypers, np.float64).reshape(len(values), -1)
        return self.numbers


class Fusing:
    """The compiled steps of an optimizer: which of its parameters they take, and their tables."""

    def __init__(self) -> None:
        self.settled: tuple[list[int], list[Any]] = [], []
        self.states: list[Any] = []
        self.left: list[int] = []
        self.parts: list[Fused] = []
        self.told = False

    def step(self, optimizer: RuleOptimizer, params: list[ParamWithGrad]) -> list[ParamWithGrad]:
        """Steps what kernels can, and returns the rest."""
        groups = [(optimizer.chain(each), each["maximize"]) for each in optimizer.param_groups]
        now = [id(param) for param, _, _ in params], groups
        stands = (
            now == self.settled
            and same(optimizer.state.values(), self.states)
            and all(part.stands() for part in self.parts)
        )
        gradients = [part.gradients(params) for part in self.parts] if stands else [None]
        if None in gradients:
            self.settle(optimizer, params)
            self.settled = now
            self.states = list(optimizer.state.values())
            gradients = [part.gradients(params) for part in self.parts]
        for part, addresses in zip(self.parts, gradients, strict=True):
            assert addresses is not None, "only gradients that a kernel can read were taken"
            part.step(addresses)
        return [params[place] for place in self.left]

    def settle(self, optimizer: RuleOptimizer, params: list[ParamWithGrad]) -> None:
        """Finds the kernels for the parameters, and those that no kernel steps."""
        self.settled = [], []
        self.left, taken = sorted_out(optimizer, params)
        self.parts = [Fused(optimizer, kernel, params, some) for kernel, some in taken.items()]
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


def sorted_out(
    optimizer: RuleOptimizer, params: Sequence[ParamWithGrad]
) -> tuple[list[int], dict[AnyKernel, list[int]]]:
    """The places of the parameters that no kernel can step, and of those of each kernel.

    A norm is over all parameters of a chain: one kernel takes all of them, or none does.
    """
    left: list[int] = []
    taken: dict[AnyKernel, list[int]] = {}
    for chain, places in by_chain(optimizer, params).items():
        kernels = [kernel_for(optimizer, chain, params[i]) for i in places]
        if any(rule.norms for rule in chain) and len(set(kernels)) > 1:
            kernels = [None] * len(places)
        for place, kernel in zip(places, kernels, strict=True):
            (left if kernel is None else taken.setdefault(kernel, [])).append(place)
    return left, taken


def by_chain(optimizer: RuleOptimizer, params: Iterable[ParamWithGrad]) -> dict[Chain, list[int]]:
    """The places of the parameters that each chain steps."""
    chains = [optimizer.chain(group) for group in optimizer.param_groups]
    found: dict[Chain, list[int]] = {}
    for place, (_, _, index) in enumerate(params):
        found.setdefault(chains[index], []).append(place)
    return found


def kernel_for(
    optimizer: RuleOptimizer, chain: Chain, param_with_grad: ParamWithGrad
) -> AnyKernel | None:
    """The kernel that steps a parameter; none where eager arithmetic has to."""
    param, grad, index = local(param_with_grad[0]), *param_with_grad[1:]
    plain = (
        type(param) in (Tensor, nn.Parameter)
        and grad.dtype is param.dtype
        and grad.device == param.device
        and grad.layout is torch.strided
        and param.is_contiguous()
        and grad.is_contiguous()
        and not (grad._is_zerotensor() or grad.is_neg())
    )
    maximize = optimizer.param_groups[index]["maximize"]
    if plain and param.device.type == "cpu" and optimizer.backend in ("auto", "numba"):
        return kernel_of(chain, param.dtype, maximize)
    if plain and runs_on(param.device) and optimizer.backend in ("auto", "triton"):
        return triton_kernel_of(chain, param.dtype, maximize, param.device)
    return None


def age(saved: Mapping[str, Any]) -> int:
    """The steps a parameter has taken; PyTorch does not count them for every optimizer."""
    if "step" in saved:
        return int(saved["step"])
    return int(any(value is not None for value in saved.values()))
