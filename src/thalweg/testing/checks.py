"""The checks of an optimizer. Each is one promise of PyTorch's, told in its docstring.

A check raises AssertionError, or whatever the optimizer raises, if the promise is not kept.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from thalweg.testing.subject import Subject, closure_of, learning_rate, needs_closure, train

FIRST, THEN = range(4), range(4, 8)
"""The steps before something happens to the optimizer, and the steps after it."""

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


def copies(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().clone() for param in params]


def require_same(found: list[Tensor], wanted: list[Tensor], what: str) -> None:
    assert all(map(torch.equal, found, wanted)), what


def takes_steps(subject: Subject) -> None:
    """The steps change every parameter, and the parameters stay finite."""
    before = subject.parameters()
    after, _ = subject.trained(range(20))
    for old, new in zip(before, after, strict=True):
        assert new.isfinite().all(), "a parameter is not finite after 20 steps"
        assert not torch.equal(old, new), "a parameter does not change in 20 steps"


def resumes(subject: Subject) -> None:
    """A new optimizer that loads the `state_dict` goes on to the bit."""
    continue_from(subject, deepcopy)


def resumes_from_a_file(subject: Subject) -> None:
    """The `state_dict` goes through `torch.save` and `torch.load` with their defaults."""

    def through_a_file(saved: dict[str, Any]) -> Any:
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        return torch.load(file)

    continue_from(subject, through_a_file)


def continue_from(subject: Subject, saved: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    whole, _ = subject.trained(range(THEN.stop))
    params, optimizer = subject.trained(FIRST)
    another = subject.make(params)
    another.load_state_dict(saved(optimizer.state_dict()))
    train(another, params, THEN)
    require_same(params, whole, "the steps after loading are not those of a training without it")


def copies_deeply(subject: Subject) -> None:
    """A deep copy of the parameters and the optimizer goes on to the bit, apart from both."""
    go_on_apart(subject, deepcopy)


def pickles(subject: Subject) -> None:
    """The parameters and the optimizer go through `pickle`, and go on to the bit."""
    go_on_apart(subject, lambda pair: pickle.loads(pickle.dumps(pair)))


def go_on_apart(subject: Subject, copied: Callable[..., tuple[list[Tensor], object]]) -> None:
    whole, _ = subject.trained(range(THEN.stop))
    pair = subject.trained(FIRST)
    still = copies(pair[0])
    params, optimizer = copied(pair)
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(optimizer, params, THEN)
    require_same(params, whole, "the steps of the copy are not those of a training without copies")
    require_same(pair[0], still, "the steps of the copy change the parameters of the original")
    train(pair[1], pair[0], THEN)
    require_same(pair[0], whole, "the steps of the copy change the state of the original")


def leaves_parameters_without_gradients(subject: Subject) -> None:
    """A parameter whose gradient is None is not stepped; the others are."""
    params, optimizer = subject.trained(FIRST)
    before = copies(params)
    train(optimizer, params, THEN, missing=params[:1])
    assert torch.equal(params[0], before[0]), "a parameter without a gradient changes"
    assert not torch.equal(params[-1], before[-1]), "a parameter with a gradient does not change"
    before = copies(params)
    if not needs_closure(optimizer):
        optimizer.zero_grad()
        optimizer.step()
        require_same(params, before, "a step without any gradient changes parameters")


def thaws_frozen_parameters(subject: Subject) -> None:
    """A frozen parameter is left alone; after it is thawed, its first step is that of a new one."""
    params = subject.parameters()
    *others, frozen = params
    optimizer = subject.make(params)
    frozen.requires_grad_(False)
    before = frozen.clone()
    train(optimizer, params, FIRST)
    assert torch.equal(frozen, before), "a frozen parameter changes"
    frozen.requires_grad_(True)
    train(optimizer, params, THEN, missing=others)

    fresh = subject.parameters()
    train(subject.make(fresh), fresh, THEN, missing=fresh[:-1])
    close(frozen, fresh[-1], msg="a thawed parameter does not take the steps of a new one")


def has_groups(subject: Subject) -> None:
    """Each group has a learning rate of its own."""
    fresh = subject.parameters()
    lr = learning_rate(subject.make(fresh))
    if lr is None:
        return
    *others, last = params = subject.parameters()
    groups = [{"params": others}, {"params": [last], "lr": lr / 2}]
    train(subject.make(groups), params, FIRST, missing=others)
    train(subject.make(fresh[-1:], lr=lr / 2), fresh, FIRST, missing=fresh[:-1])
    close(last, fresh[-1], msg="the parameters of a group do not follow the group's lr")


def adds_groups(subject: Subject) -> None:
    """A group that is added during training is stepped as a new one."""
    *others, last = params = subject.parameters()
    optimizer = subject.make(others)
    train(optimizer, others, FIRST)
    optimizer.add_param_group({"params": [last]})
    train(optimizer, params, THEN, missing=others)

    fresh = subject.parameters()
    train(subject.make(fresh[-1:]), fresh, THEN, missing=fresh[:-1])
    close(last, fresh[-1], msg="an added group does not take the steps of a new one")


def follows_schedulers(subject: Subject) -> None:
    """A scheduler of `torch.optim.lr_scheduler` sets the learning rate."""
    params = subject.parameters()
    optimizer = subject.make(params)
    lr = learning_rate(optimizer)
    if lr is None:
        return
    LambdaLR(optimizer, lambda _: 0.5)
    train(optimizer, params, FIRST)
    halved = subject.parameters()
    train(subject.make(halved, lr=lr / 2), halved, FIRST)
    for found, wanted in zip(params, halved, strict=True):
        close(found, wanted, msg="the steps do not follow the lr that a scheduler sets")


def takes_closures(subject: Subject) -> None:
    """`step(closure)` evaluates the closure, steps by its gradients, and returns its loss."""
    params = subject.parameters()
    optimizer = subject.make(params)
    wanted, _ = subject.trained(FIRST)
    for i in FIRST:
        closure = closure_of(optimizer, params, i)
        loss = closure().item()
        optimizer.zero_grad()
        torch.manual_seed(i)
        returned: object = optimizer.step(closure)
        assert isinstance(returned, float | Tensor), "step(closure) does not return the loss"
        assert torch.as_tensor(returned).item() == loss, (
            "step(closure) returns another number than the loss"
        )
    for found, want in zip(params, wanted, strict=True):
        close(found, want, msg="steps with a closure are not the steps without one")


def calls_hooks(subject: Subject) -> None:
    """The hooks of `register_step_pre_hook` and `register_step_post_hook` run once a step."""
    calls: list[str] = []
    params = subject.parameters()
    optimizer = subject.make(params)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, params, range(2))
    assert calls == 2 * ["before", "after"], f"two steps call the hooks in this order: {calls}"


def takes_dtypes(subject: Subject) -> None:
    """Parameters in float64 and in bfloat16 are stepped, and keep their dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        params = subject.parameters(dtype)
        train(subject.make(params), params, range(20))
        for param in params:
            assert param.dtype == dtype, f"a parameter in {dtype} becomes {param.dtype}"
            assert param.isfinite().all(), f"a parameter in {dtype} is not finite after 20 steps"


def takes_transposed_parameters(subject: Subject) -> None:
    """A parameter that lies otherwise in memory, as in `channels_last`, takes the same steps."""
    wanted, _ = subject.trained(FIRST)
    params = [transposed(param) for param in subject.parameters()]
    train(subject.make(params), params, FIRST)
    for found, want in zip(params, wanted, strict=True):
        close(found, want, msg="a transposed parameter takes other steps")


def transposed(param: Tensor) -> Tensor:
    """The same values with the last two dimensions in the other order in memory."""
    if param.ndim < 2:
        return param
    return param.detach().mT.contiguous().mT.requires_grad_()


def follows_the_formula(subject: Subject) -> None:
    """In float64 the parameters are those that the formula computes from the same gradients."""
    if subject.formula is None:
        return
    params = subject.parameters(torch.float64)
    start = copies(params)
    gradients = train(subject.make(params), params, range(10))
    for theta, seen, found in zip(start, gradients, params, strict=True):
        wanted = subject.formula(theta, seen)
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12), (
            f"the formula gives {wanted.flatten()[:3].tolist()}, the optimizer"
            f" {found.flatten()[:3].tolist()} in the first numbers of a parameter"
        )


CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        takes_steps,
        resumes,
        resumes_from_a_file,
        copies_deeply,
        pickles,
        leaves_parameters_without_gradients,
        thaws_frozen_parameters,
        has_groups,
        adds_groups,
        follows_schedulers,
        takes_closures,
        calls_hooks,
        takes_dtypes,
        takes_transposed_parameters,
        follows_the_formula,
    )
}
