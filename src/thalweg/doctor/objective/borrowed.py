"""Borrowing a model: it has a fixed state during a measurement, and is as before afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Literal

import torch
from torch import nn

from thalweg.random_numbers import drawing

Mode = Literal["training", "evaluation"]

SEED = 0
"""The seed of the random numbers that a model draws (dropout) during each measurement."""


@contextmanager
def borrowed(model: nn.Module, mode: Mode | None, device: torch.device) -> Iterator[None]:
    """Fixes, within the block, all that the outputs depend on beside weights and inputs.

    These are the modes of the layers and the random numbers that they draw. With the mode None each
    layer keeps its own mode. Gradients can be taken, even inside `torch.no_grad`. Autocast is off,
    so that numbers have the precision of the weights. A compiled model runs uncompiled, because
    PyTorch's compiled graphs have no second derivative. After the block all is as it was before,
    also after an error.
    """
    modules = list(model.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if any(map(is_compiled, modules)):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(same_draws(device))
        stack.enter_context(kept_traits(modules))
        make_dense(modules)
        if mode:
            model.train(mode == "training")
        yield


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """Seeds torch, NumPy and Python with `SEED` within the block, on the model's device too.

    After the block their random states are what they were before.
    """
    on_cpu = device.type == "cpu"
    kind = "cuda" if on_cpu else device.type
    with drawing(SEED), torch.random.fork_rng([] if on_cpu else [device], device_type=kind):
        if not on_cpu:
            torch.get_device_module(device).manual_seed(SEED)
        yield


TRAITS = ("training", "sparse", "_flat_weights")
"""The attributes of a layer, beside weights and buffers, that a measurement may change: its mode,
whether an embedding's gradients are sparse, and the list in which PyTorch's recurrent layers find
their weights."""


@contextmanager
def kept_traits(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restores the traits of each layer after the block."""
    kept = [
        (vars(module), name, copy(vars(module)[name]))
        for module in modules
        for name in TRAITS
        if name in vars(module)
    ]
    try:
        yield
    finally:
        for held, name, value in kept:
            held[name] = value


def make_dense(modules: Iterable[nn.Module]) -> None:
    """Gives embeddings dense gradients, because sparse ones cannot be parts of one vector."""
    for module in modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False


def is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")


def mode_of(model: nn.Module) -> str:
    """The mode of all layers, training or evaluation; "mixed" where layers differ."""
    modes = {module.training for module in model.modules()}
    if len(modes) > 1:
        return "mixed"
    return "training" if modes.pop() else "evaluation"
