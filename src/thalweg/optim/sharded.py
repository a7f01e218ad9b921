"""Models in parts: each process steps the part that it has, and sums are over all parts.

The parts are shards of each parameter (DTensor), or whole parameters, of which each process steps
some. The latter are the work of PyTorch's `ZeroRedundancyOptimizer`, called ZeRO here.
"""

# `torch.distributed.tensor` takes half a second to import, and who has a DTensor has done so: it is
# imported where there is one.

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
    """The part of a DTensor that lies in this process; any other tensor as it is.

    The DTensor's `to_local` would make another tensor every time, and a node of autograd's graph.
    """
    part: Tensor = getattr(x, "_local_tensor", x)
    return part


def local_gradient(grad: Any, param: Any) -> Tensor:
    """The part of a gradient that belongs to what is here of its parameter.

    The gradient of a DTensor may lie otherwise than it does, or be parts that have yet to be added.
    """
    return local(grad.redistribute(placements=param.placements) if is_sharded(grad) else grad)


def placed_as(param: Any, part: Tensor) -> Tensor:
    """The state of a parameter, from what is here of it; with dimensions of its own in front."""
    if not is_sharded(param):
        return part
    from torch.distributed.tensor import DTensor

    own = part.shape[: part.ndim - param.ndim]
    return DTensor.from_local(
        part,
        param.device_mesh,
        [moved(placement, len(own)) for placement in param.placements],
        run_check=False,
        shape=own + param.shape,
        stride=(*(param.numel() for _ in own), *param.stride()),
    )


def step_sharded(params: Sequence[Tensor], rule: type[Rule], cells: Sequence[Cell]) -> None:
    """Takes what is handed on of parameters through a rule on matrices; see `step_matrices`.

    A sharded one is put together in all processes. Each of them steps its share of these, and then
    gives all what the rule has made.
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
            given_by(at, mesh, made.states[name])
        cell.states[HANDED] = part_of(param, made.states[HANDED])
        for name, state in rule.states.items():
            if state.shape is None:
                cell.states[name].copy_(part_of(param, made.states[name]))


def put_together(param: Any, rule: type[Rule], cell: Cell) -> Cell:
    """All of a sharded matrix; a state of a shape of its own is whole already."""

    def whole(part: Tensor) -> Tensor:
        placed: Any = placed_as(param, part)
        found: Tensor = placed.full_tensor()
        return found.contiguous()

    states = {HANDED: whole(cell.states[HANDED])}
    for name, state in rule.states.items():
        kept = cell.states[name]
        states[name] = whole(kept) if state.shape is None else kept
    return Cell(whole(cell.param), cell.grad, cell.values, states)


def given_by(owner: int, mesh: Any, x: Tensor) -> None:
    """Gives all processes of a mesh what the one has that is at this place in each dimension."""
    for group in mesh.get_all_groups():
        source = torch.distributed.get_global_rank(group, owner)
        torch.distributed.broadcast(x, source, group=group)


def part_of(param: Any, x: Tensor) -> Tensor:
    """The part of a tensor that is to be here where it lies as a parameter does."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh, by = param.device_mesh, x.ndim - param.ndim
    everywhere = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    spread = everywhere.redistribute(placements=[moved(each, by) for each in param.placements])
    return local(spread).contiguous()


def moved(placement: Any, by: int) -> Any:
    """How a tensor lies that has so many more dimensions in front."""
    if placement.is_replicate():
        return placement
    strides = {"split_factor": placement.split_factor} if hasattr(placement, "split_factor") else {}
    return type(placement)(placement.dim + by, **strides)


def zero_above() -> Any:
    """The ZeRO that is making an optimizer of ours at this moment; none where none does.

    It tells the optimizer nothing of the other processes, so it is looked for among the callers.
    It holds the optimizer: the reference back is weak, so that both are freed at once.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = sys._getframe() if module else None
    while frame and frame.f_globals is not vars(module):
        frame = frame.f_back
    return weakref.proxy(frame.f_locals["self"]) if frame else None


def is_in_parts(model: Sequence[Tensor], zero: Any) -> bool:
    """Whether other processes have parts of a model of which these parameters are here."""
    return zero is not None or flattened(model) or any(map(is_sharded, model))


def flattened(params: Iterable[Tensor]) -> bool:
    """Whether any of them belongs to a model of FullyShardedDataParallel."""
    return any(getattr(param, "_fsdp_flattened", False) for param in params)


def check_summable(params: Iterable[Tensor]) -> None:
    """UserError for parameters that may be parts and do not tell of what."""
    if flattened(params):
        raise UserError(
            "the parameters of FullyShardedDataParallel do not tell which part of the model they"
            " are, so no rule can have a norm over the whole model or a whole parameter: shard the"
            " model with fully_shard, or leave clip_norm out and call the model's own"
            " clip_grad_norm_ before each step."
        )


def check_by_shards(params: Sequence[Tensor], chain: tuple[type[Rule], ...]) -> None:
    """UserError for a chain that may look at whole parameters, where each process has a part."""
    if is_in_parts(params, None) and not goes_by_shards(chain):
        raise UserError(
            f"{', '.join(rule.__name__ for rule in chain)} may need whole parameters, of which each"
            " process has a part: it cannot be traced. Write its rules in arithmetic and with"
            ' functions such as norm(g, over="tensor"), without decisions of Python\'s own on'
            " numbers, or do not shard the model."
        )


def check_gathered(params: Iterable[Tensor]) -> None:
    """UserError for parameters of a model that may go on with others that it has gathered."""
    if flattened(params):
        raise UserError(
            "a model of FullyShardedDataParallel may hold gathered parameters that evaluation()"
            " cannot change: shard the model with fully_shard for a recipe that evaluates at an"
            " average or with Nesterov's momentum."
        )


def over_parts(
    params: Sequence[Tensor], model: Sequence[Tensor], zero: Any, kinds: Kinds, parts: Numbers
) -> Numbers:
    """The sums over whole tensors and the whole model, from those of what is here of `params`.

    Shards are summed over the processes that they lie in, with one all-reduce for all that have
    one placement; what each process has all of counts once. Under ZeRO, the sums of all processes
    are added. model: all parameters that are here, sharded ones in an order that is the same
    everywhere: every process takes part, whatever it has gradients of.
    """
    check_summable(model)
    sums = torch.as_tensor(parts)
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
    """The processes that a parameter lies in, and how; None for one that is not sharded."""
    if not is_sharded(param):
        return None
    return param.device_mesh, tuple(each.is_replicate() for each in param.placements)


def over_processes(kinds: Kinds, parts: Tensor, reduce: Callable[[Tensor, str], Tensor]) -> Tensor:
    """The sums over all processes, from what each has.

    reduce: adds what all processes have, or takes the largest, which may lose a not-a-number.
    """
    of_largest = torch.tensor([name == "largest" for name, _ in kinds], device=parts.device)
    if not of_largest.any():
        return reduce(parts, "sum")
    lost = parts.isnan()
    added = reduce(torch.where(of_largest, lost.to(parts), parts), "sum")
    largest = reduce(parts.masked_fill(lost, -torch.inf), "max")
    return torch.where(of_largest, largest.masked_fill(added > 0, torch.nan), added)


def reduced(lying: Any, parts: Tensor, operation: str) -> Tensor:
    """Over the processes that parameters of one placement lie in."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, whole = lying
    placements = [Replicate() if each else Partial(operation) for each in whole]
    found = DTensor.from_local(parts, mesh, placements, run_check=False).full_tensor()
    return found.to(parts.device)


def reduced_under_zero(zero: Any, parts: Tensor, operation: str) -> Tensor:
    """Over the processes of a ZeRO."""
    whole = parts.to(zero.join_device, copy=True)
    kind = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
    torch.distributed.all_reduce(whole, kind[operation], group=zero.join_process_group)
    return whole.to(parts.device)


def received(zero: Any, mine: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Gives every process all parameters as they are now in the process that steps them.

    mine: those that this process steps. Gives the others, each with what it was here before.
    """
    known = set(mine)
    every = [param for group in zero.param_groups for param in group["params"]]
    before = [(param, param.clone()) for param in every if param not in known]
    zero._sync_params()
    return before
