"""Shows a fault of an optimizer with PyTorch alone, in a few lines for each promise of PyTorch.

    python benchmarks/promises.py adds_groups torch_optimizer:MADGRAD

ends with an AssertionError, or with the optimizer's own error, if `MADGRAD` breaks the promise.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from importlib import import_module

import torch


def params():
    torch.manual_seed(0)
    return [torch.randn(3, 4).requires_grad_(), torch.randn(2, 3, 2, 2).requires_grad_()]


def steps(optimizer, params, those=range(4)):
    for i in those:
        torch.manual_seed(i)
        for p in params:
            p.grad = p.detach() - 1 + 0.3 * torch.randn(p.shape)
        optimizer.step()


def resumes(cls):
    """`load_state_dict` restores all that the next steps depend on."""
    whole, parts = params(), params()
    steps(cls(whole), whole, range(8))
    first = cls(parts)
    steps(first, parts, range(4))
    second = cls(parts)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(second, parts, range(4, 8))
    assert all(map(torch.equal, whole, parts))


def resumes_from_a_file(cls):
    """`torch.load` reads the `state_dict` with its default, `weights_only=True`."""
    ps, file = params(), io.BytesIO()
    optimizer = cls(ps)
    steps(optimizer, ps)
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    cls(ps).load_state_dict(torch.load(file))


def copies_deeply(cls):
    """A deep copy takes the steps that the original takes."""
    ps = params()
    optimizer = cls(ps)
    steps(optimizer, ps)
    others, another = copy.deepcopy((ps, optimizer))
    steps(another, others)
    steps(optimizer, ps)
    assert all(map(torch.equal, ps, others))


def pickles(cls):
    """`Optimizer` defines `__getstate__` and `__setstate__`: a pickle goes on as the original."""
    ps = params()
    optimizer = cls(ps)
    steps(optimizer, ps)
    others, another = pickle.loads(pickle.dumps((ps, optimizer)))
    steps(another, others)
    steps(optimizer, ps)
    assert all(map(torch.equal, ps, others))


def leaves_parameters_without_gradients(cls):
    """A parameter whose gradient is None is skipped (documentation of `zero_grad`)."""
    ps = params()
    optimizer = cls(ps)
    steps(optimizer, ps)
    before = ps[0].detach().clone()
    for _ in range(4):
        ps[0].grad, ps[1].grad = None, torch.ones_like(ps[1])
        optimizer.step()
    assert torch.equal(ps[0], before)
    optimizer.zero_grad()
    optimizer.step()


def thaws_frozen_parameters(cls):
    """A parameter whose first gradient comes late starts as a new one."""
    (other, late), (_, fresh) = params(), params()
    optimizer = cls([other, late])
    steps(optimizer, [other])
    other.grad = None
    steps(optimizer, [late])
    steps(cls([fresh]), [fresh])
    torch.testing.assert_close(late, fresh, rtol=1e-4, atol=1e-5)


def has_groups(cls):
    """Each group has its own `lr` (documentation, "Per-parameter options")."""
    (first, second), (_, alone) = params(), params()
    lr = cls([alone]).param_groups[0]["lr"]
    steps(cls([{"params": [first]}, {"params": [second], "lr": lr / 2}]), [second])
    steps(cls([alone], lr=lr / 2), [alone])
    torch.testing.assert_close(second, alone, rtol=1e-4, atol=1e-5)


def adds_groups(cls):
    """`add_param_group` adds thawed layers during training (its documentation)."""
    (first, added), (_, fresh) = params(), params()
    optimizer = cls([first])
    steps(optimizer, [first])
    optimizer.add_param_group({"params": [added]})
    first.grad = None
    steps(optimizer, [added])
    steps(cls([fresh]), [fresh])
    torch.testing.assert_close(added, fresh, rtol=1e-4, atol=1e-5)


def follows_schedulers(cls):
    """A scheduler of `torch.optim.lr_scheduler` sets the learning rate."""
    scheduled, halved = params(), params()
    optimizer = cls(scheduled)
    lr = optimizer.param_groups[0]["lr"]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    steps(optimizer, scheduled)
    steps(cls(halved, lr=lr / 2), halved)
    torch.testing.assert_close(scheduled, halved, rtol=1e-4, atol=1e-5)


def takes_closures(cls):
    """`step(closure)` evaluates the model again and returns the loss."""
    ps = params()
    optimizer = cls(ps)

    def closure():
        optimizer.zero_grad()
        loss = sum((p - 1).square().sum() for p in ps)
        loss.backward()
        return loss

    wanted = float(closure())
    optimizer.zero_grad()
    assert float(optimizer.step(closure)) == wanted


def calls_hooks(cls):
    """`register_step_pre_hook` and `register_step_post_hook` are called once each step."""
    ps, calls = params(), []
    optimizer = cls(ps)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    steps(optimizer, ps, range(2))
    assert calls == 2 * ["before", "after"]


def takes_dtypes(cls):
    """PyTorch's optimizers step parameters in float64 and in bfloat16."""
    for dtype in (torch.float64, torch.bfloat16):
        ps = [p.detach().to(dtype).requires_grad_() for p in params()]
        optimizer = cls(ps)
        for _ in range(20):
            for p in ps:
                p.grad = p.detach() - 1
            optimizer.step()
        assert all(p.dtype == dtype and p.isfinite().all() for p in ps)


def takes_transposed_parameters(cls):
    """The layout in memory, such as `channels_last`, does not change the steps."""
    plain = params()
    other = [p.detach().mT.contiguous().mT.requires_grad_() for p in params()]
    steps(cls(plain), plain)
    optimizer = cls(other)
    for i in range(4):
        torch.manual_seed(i)
        for p in other:  # the gradient has the parameter's layout, as after backward()
            grad = p.detach() - 1 + 0.3 * torch.randn(p.shape)
            p.grad = torch.empty_like(p).copy_(grad)
        optimizer.step()
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-5)


def package(name):
    module = import_module(name)
    if name == "heavyball":
        module.utils.compile_mode = None  # compiling would take minutes
    return module


if __name__ == "__main__":
    promise, optimizer_class = sys.argv[1:]
    module, name = optimizer_class.split(":")
    globals()[promise](getattr(package(module), name))
