"""Models that are spread over processes: each process steps its own part of the model.

Either each process has a shard of each parameter (DTensor), or each process steps some whole
parameters, as under PyTorch's `ZeroRedundancyOptimizer`, called ZeRO here. In both cases sums are
over the whole model.
"""

# `torch.distributed.tensor` takes half a second to import. It is imported only where there is a
# DTensor, for which the user has imported it already.

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError
from thalweg.fuse.eager import Cell
from thalweg.fuse.matrices import HANDED, step_matrices
from thalweg.fuse.passes import Kinds, Numbers, goes_by_shards, over_model
from thalweg.rules.primitives import SUMS
from thalweg.rules.rule import Rule


def is_sharded(x: Tensor) -> bool:
    return local(x) is not x


def local(x: Tensor) -> Tensor:
    """The local part of a tensor: for a DTensor its shard in this process, else the tensor.

    DTensor's `to_local` would make a new tensor and a node of autograd's graph at every call.
    """
    part: Tensor = getattr(x, "_local_tensor", x)
    return part


def local_gradient(grad: Any, param: Any) -> Tensor:
    """The local part of a gradient, for the local part of its parameter.

    The gradient of a DTensor may have another placement, or may still have to be summed.
    """
    return local(grad.redistribute(placements=param.placements) if is_sharded(grad) else grad)


def placed_as(param: Any, part: Tensor) -> Tensor:
    """The state of a parameter as a DTensor where the parameter is one, from its local part.

    A state may have more dimensions than the parameter, in front.
    """
    if not is_sharded(param):
        return part
    from torch.distributed.tensor import DTensor

    own = part.shape[: part.ndim - param.ndim]
    return DTensor.from_local(
        part,
        param.device_mesh,
        [shifted(placement, len(own)) for placement in param.placements],
        run_check=False,
        shape=own + param.shape,
        stride=(*(param.numel() for _ in own), *param.stride()),
    )


def step_sharded(params: Sequence[Tensor], rule: type[Rule], cells: Sequence[Cell]) -> None:
    """Steps cells by a rule on matrices, where parameters may be sharded; see `step_matrices`.

    Every process puts the whole matrices together. Each process steps some of them, and then
    sends the results to all processes.
    """
    both = list(zip(params, cells, strict=True))
    step_matrices(rule, [cell for param, cell in both if not is_sharded(param)])
    sharded: list[tuple[Any, Cell]] = [(param, cell) for param, cell in both if is_sharded(param)]
    whole = [put_together(param, rule, cell) for param, cell in sharded]
    meshes = [param.device_mesh for param, _ in sharded]
    owners = [i % min(mesh.shape) for i, mesh in enumerate(meshes)]
    mine = [set(mesh.get_coordinate()) == {at} for mesh, at in zip(meshes, owners, strict=True)]
    step_matrices(rule, list(compress(whole, mine)))
    for (param, cell), made, mesh, at in zip(sharded, whole, meshes, owners, strict=True):
        for name in (HANDED, *rule.states):
            broadcast_from(at, mesh, made.states[name])
        cell.states[HANDED] = part_of(param, made.states[HANDED])
        for name, state in rule.states.items():
            if state.shape is None:
                cell.states[name].copy_(part_of(param, made.states[name]))


def put_together(param: Any, rule: type[Rule], cell: Cell) -> Cell:
    """A cell with the whole matrix, from a cell with a shard of it.

    A state whose shape is not the parameter's is whole in every process already.
    """

    def whole(part: Tensor) -> Tensor:
        placed: Any = placed_as(param, part)
        found: Tensor = placed.full_tensor()
        return found.contiguous()

    states = {HANDED: whole(cell.states[HANDED])}
    for name, state in rule.states.items():
        kept = cell.states[name]
        states[name] = whole(kept) if state.shape is None else kept
    return Cell(whole(cell.param), cell.grad, cell.values, states)


def broadcast_from(owner: int, mesh: Any, x: Tensor) -> None:
    """Copies x from one process of a mesh to all others.

    owner: the process's coordinate, the same in each dimension of the mesh.
    """
    for group in mesh.get_all_groups():
        source = torch.distributed.get_global_rank(group, owner)
        torch.distributed.broadcast(x, source, group=group)


def part_of(param: Any, x: Tensor) -> Tensor:
    """The local part of a whole tensor, when it is placed like a parameter."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh, by = param.device_mesh, x.ndim - param.ndim
    everywhere = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    placements = [shifted(each, by) for each in param.placements]
    return local(everywhere.redistribute(placements=placements)).contiguous()


def shifted(placement: Any, by: int) -> Any:
    """The same placement for a tensor with `by` more dimensions in front."""
    if placement.is_replicate():
        return placement
    strides = {"split_factor": placement.split_factor} if hasattr(placement, "split_factor") else {}
    return type(placement)(placement.dim + by, **strides)


def zero_above() -> Any:
    """The ZeRO that is creating this optimizer at the moment; None where there is none.

    ZeRO tells the optimizer nothing about the other processes, so it is searched for among the
    callers. ZeRO holds the optimizer, so the reference back is weak, and both are freed together.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = sys._getframe() if module else None
    while frame and frame.f_globals is not vars(module):
        frame = frame.f_back
    return weakref.proxy(frame.f_locals["self"]) if frame else None


def is_spread(model: Sequence[Tensor], zero: Any) -> bool:
    """Whether a model is spread over processes. model: its parameters in this process."""
    return zero is not None or flattened(model) or any(map(is_sharded, model))


def flattened(params: Iterable[Tensor]) -> bool:
    """Whether any parameter belongs to a model of FullyShardedDataParallel."""
    return any(getattr(param, "_fsdp_flattened", False) for param in params)


def check_summable(params: Iterable[Tensor]) -> None:
    """UserError for shards of FullyShardedDataParallel, over which no sums can be computed."""
    if flattened(params):
        raise UserError(
            "the parameters of FullyShardedDataParallel do not say which part of the model they"
            " are, so no norm over the model or over a parameter can be computed: shard the model"
            " with fully_shard, or leave clip_norm out and call the model's own clip_grad_norm_"
            " before each step."
        )


def check_by_shards(params: Sequence[Tensor], chain: tuple[type[Rule], ...]) -> None:
    """UserError for a chain that may need whole parameters, where the parameters are sharded."""
    if is_spread(params, None) and not goes_by_shards(chain):
        raise UserError(
            f"{', '.join(rule.__name__ for rule in chain)} cannot be traced, so it may need whole"
            " parameters, and each process has only a shard of them. Write its rules as arithmetic,"
            ' with functions such as norm(g, over="tensor") and without Python\'s if on numbers, or'
            " do not shard the model."
        )


def check_gathered(params: Iterable[Tensor]) -> None:
    """UserError for parameters of FullyShardedDataParallel, which may use gathered copies."""
    if flattened(params):
        raise UserError(
            "a model of FullyShardedDataParallel may hold gathered parameters that evaluation()"
            " cannot change: shard the model with fully_shard for a recipe that evaluates at an"
            " average or with Nesterov's momentum."
        )


def over_spread_model(
    params: Sequence[Tensor], model: Sequence[Tensor], zero: Any, kinds: Kinds, local_sums: Numbers
) -> Numbers:
    """The sums over whole tensors and the whole model, from the sums over local parts of `params`.

    Sums over shards are added over the processes that have the shards, with one all-reduce for all
    parameters of the same placement. A tensor that every process has as a whole counts once. Under
    ZeRO, the sums of all processes are added. model: all parameters in this process, also those
    without gradients. Sharded ones are in the same order in all processes, because every process
    must join in every all-reduce.
    """
    check_summable(model)
    sums = torch.as_tensor(local_sums)
    if zero is not None:
        of_model = tuple((name, "model") for name, _ in kinds)
        here = torch.as_tensor(over_model(of_model, sums.clone()))[:1]
        whole = over_processes(kinds, here, partial(reduced_under_zero, zero))
        own = torch.tensor([over == "tensor" for _, over in kinds], device=sums.device)
        return torch.where(own, sums, whole)
    every = sums.new_tensor([SUMS[name].start for name, _ in kinds]).repeat(len(model), 1)
    order = {id(param): place for place, param in enumerate(model)}
    places = [order[id(param)] for param in params]
    every[places] = sums
    placed = [placement(param) for param in model]
    for each in dict.fromkeys(filter(None, placed)):
        alike = torch.tensor([other == each for other in placed])
        every[alike] = over_processes(kinds, every[alike], partial(reduced, each))
    return over_model(kinds, every)[places]


def placement(param: Any) -> Any:
    """The mesh of a sharded parameter, and for each of its dimensions whether it has whole copies.

    None for a parameter that is not sharded.
    """
    if not is_sharded(param):
        return None
    return param.device_mesh, tuple(each.is_replicate() for each in param.placements)


def over_processes(kinds: Kinds, sums: Tensor, reduce: Callable[[Tensor, str], Tensor]) -> Tensor:
    """The sums over all processes, from the sums of this process.

    reduce: reduces a tensor over all processes, by "sum" or "max". With "max", a not-a-number may
    be lost, so it is counted by a sum.
    """
    of_largest = torch.tensor([name == "largest" for name, _ in kinds], device=sums.device)
    if not of_largest.any():
        return reduce(sums, "sum")
    nan = sums.isnan()
    added = reduce(torch.where(of_largest, nan.to(sums), sums), "sum")
    largest = reduce(sums.masked_fill(nan, -torch.inf), "max")
    return torch.where(of_largest, largest.masked_fill(added > 0, torch.nan), added)


def reduced(placement: Any, sums: Tensor, operation: str) -> Tensor:
    """Sums reduced over the processes of one placement."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, whole = placement
    placements = [Replicate() if each else Partial(operation) for each in whole]
    found = DTensor.from_local(sums, mesh, placements, run_check=False).full_tensor()
    return found.to(sums.device)


def reduced_under_zero(zero: Any, sums: Tensor, operation: str) -> Tensor:
    """Sums reduced over the processes of a ZeRO."""
    whole = sums.to(zero.join_device, copy=True)
    kind = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
    torch.distributed.all_reduce(whole, kind[operation], group=zero.join_process_group)
    return whole.to(sums.device)


def received(zero: Any, mine: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Copies all parameters from the processes that step them to all other processes.

    mine: the parameters that this process steps. Returns the other parameters, each with its value
    before the copy.
    """
    known = set(mine)
    every = [param for group in zero.param_groups for param in group["params"]]
    before = [(param, param.clone()) for param in every if param not in known]
    zero._sync_params()
    return before
