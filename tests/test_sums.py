"""Sums over tensors and models as arithmetic, against literal formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import recipes, rules
from thalweg.errors import UserError
from thalweg.fuse.choice import kernel_on
from thalweg.optim import Optimizer
from thalweg.recipes import Recipe, chain
from thalweg.routes import Parameter
from thalweg.rules.arithmetic import dot, largest, maximum, mean, norm, where
from thalweg.rules.rule import Hyper, RowState, Rule, State
from thalweg.stack.neighbours import Neighbours

SHAPES = [(), (0,), (7,), (3, 5), (2**16 + 3,)]
CPU = torch.device("cpu")


class OneAfterTheOther(Rule):
    """Four sums in three passes: each rests on those before it."""

    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        g = g - mean(g, over="model")
        g = g / largest(abs(g), over="model")
        return -self.lr * dot(g, self.param, over="tensor") * g


class Remembering(Rule):
    """Its row state and its state both rest on a sum, and the same sum is asked for twice."""

    lr = Hyper(0.1)
    size = RowState()
    m = State()

    def update(self, g: Any) -> Any:
        self.size = 0.5 * self.size + norm(g, over="tensor")
        self.m = 0.9 * self.m + g / maximum(norm(g, over="tensor"), 1e-3)
        return -self.lr * self.m / (1 + self.size)


class ByDecision(Rule):
    """One after the other as well, with a decision of Python's own that no kernel takes."""

    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        if self.lr > 0:
            g = g - mean(g, over="model")
        return -self.lr * g / norm(g, over="model") * norm(self.param, over="tensor")


Doubles = list[Tensor]
Formula = Callable[[Doubles, list[Doubles]], Doubles]


def lamb(params: Doubles, steps: list[Doubles]) -> Doubles:
    params = list(params)
    m, v = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    for t, grads in enumerate(steps, 1):
        for i, g in enumerate(grads):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            u = m[i] / (1 - 0.9**t) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-6) + 0.01 * params[i]
            trust = params[i].norm() / u.norm() if params[i].numel() else 1.0
            params[i] = params[i] - 1e-3 * trust * u
    return params


def clipped(grads: Doubles, bound: float) -> Doubles:
    size = torch.cat([g.flatten() for g in grads]).norm()
    return [g * min(bound / float(size), 1.0) for g in grads]


def clipped_lamb(params: Doubles, steps: list[Doubles]) -> Doubles:
    return lamb(params, [clipped(grads, 0.5) for grads in steps])


def one_after_the_other(params: Doubles, steps: list[Doubles]) -> Doubles:
    for grads in steps:
        whole = torch.cat([g.flatten() for g in grads])
        scale = (whole - whole.mean()).abs().max()
        made = [(g - whole.mean()) / scale for g in grads]
        params = [p - 0.1 * (g * p).sum() * g for p, g in zip(params, made, strict=True)]
    return params


def remembering(params: Doubles, steps: list[Doubles]) -> Doubles:
    params, sizes, m = list(params), [0.0] * len(params), [torch.zeros_like(p) for p in params]
    for grads in steps:
        for i, g in enumerate(grads):
            sizes[i] = 0.5 * sizes[i] + float(g.norm())
            m[i] = 0.9 * m[i] + g / max(float(g.norm()), 1e-3)
            params[i] = params[i] - 0.1 * m[i] / (1 + sizes[i])
    return params


def by_decision(params: Doubles, steps: list[Doubles]) -> Doubles:
    for grads in steps:
        whole = torch.cat([g.flatten() for g in grads])
        size = (whole - whole.mean()).norm()
        made = [(g - whole.mean()) / size for g in grads]
        params = [p - 0.1 * g * p.norm() for p, g in zip(params, made, strict=True)]
    return params


CASES: dict[str, tuple[Recipe, Formula]] = {
    "lamb": (recipes.lamb(), lamb),
    "clip, lamb": (chain(recipes.clip_norm(0.5), recipes.lamb()), clipped_lamb),
    "one after the other": (chain(OneAfterTheOther()), one_after_the_other),
    "remembering": (chain(Remembering()), remembering),
    "by decision": (chain(ByDecision()), by_decision),
}
UNTRACED = {"by decision"}
STEPS = 3


def drawn(shapes: Sequence[tuple[int, ...]], seed: int) -> Doubles:
    """Exact in every type, so that a formula in float64 begins at the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [x.bfloat16().double() for x in made]


def gradients(shapes: Sequence[tuple[int, ...]]) -> list[Doubles]:
    return [drawn(shapes, 1 + step) for step in range(STEPS)]


def assert_near(found: Tensor, right: Tensor, case: str) -> None:
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}[found.dtype]
    torch.testing.assert_close(
        found.detach().double().cpu(),
        right,
        rtol=tolerance,
        atol=tolerance,
        msg=lambda m: f"{case}: {m}",
    )


def stepped(
    recipe: Recipe,
    dtypes: Sequence[torch.dtype],
    backend: str,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
) -> tuple[list[Tensor], Optimizer]:
    kinds = [dtypes[i % len(dtypes)] for i in range(len(shapes))]
    start = zip(drawn(shapes, 0), kinds, strict=True)
    params = [x.to(device, kind).requires_grad_() for x, kind in start]
    optimizer = Optimizer(params, recipe, backend=backend)
    for grads in gradients(shapes):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.to(param)
        optimizer.step()
    return params, optimizer


KINDS = [(torch.float64,), (torch.float32,), (torch.float32, torch.bfloat16)]


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtypes", KINDS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_sums_are_those_of_the_formula(
    name: str,
    dtypes: tuple[torch.dtype, ...],
    backend: str,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    device: torch.device = CPU,
) -> None:
    """A sum over the model is over parameters of all types, which kernels of two share."""
    recipe, formula = CASES[name]
    params, optimizer = stepped(recipe, dtypes, backend, shapes, device)
    right = formula(drawn(shapes, 0), gradients(shapes))
    for found, expected in zip(params, right, strict=True):
        assert_near(found, expected, f"{name}, {found.dtype}, {tuple(found.shape)}")
    if backend != "eager" and name not in UNTRACED:
        assert not optimizer.fusing.left
        assert len(optimizer.fusing.parts) == len(dtypes)


def test_a_sum_goes_over_what_kernels_take_and_what_they_leave() -> None:
    """A gradient that is not contiguous has no kernel, and is clipped with the others."""
    recipe, formula = CASES["clip, lamb"]
    shapes = [(3, 5), (4,)]
    params = [x.requires_grad_() for x in drawn(shapes, 0)]
    optimizer = Optimizer(params, recipe)
    with pytest.warns(UserWarning, match="1 of 2 tensors are stepped eagerly"):
        for grads in gradients(shapes):
            params[0].grad, params[1].grad = grads[0].t().contiguous().t(), grads[1]
            optimizer.step()
    assert len(optimizer.fusing.left) == 1
    for found, expected in zip(params, formula(drawn(shapes, 0), gradients(shapes)), strict=True):
        assert_near(found, expected, "clip, lamb")


def neighbours(recipes: Sequence[Recipe], params: dict[str, Tensor]) -> Neighbours:
    """Members of a stack that hold these parameters, `[R, *shape]`."""
    known = {name: Parameter(name, tuple(x.shape[1:]), "other") for name, x in params.items()}
    return Neighbours(recipes, 0, known)


def in_a_stack(
    recipes: Sequence[Recipe], shapes: Sequence[tuple[int, ...]], device: torch.device = CPU
) -> list[Tensor]:
    """Members that begin at other multiples of the same numbers, after their steps."""

    def stacked(tensors: Doubles) -> dict[str, Tensor]:
        held = [torch.stack([(1.0 + k) * x for k in range(len(recipes))]) for x in tensors]
        return {str(i): x.to(device) for i, x in enumerate(held)}

    params = stacked(drawn(shapes, 0))
    rows = neighbours(recipes, params)
    for grads in gradients(shapes):
        rows.step(params, stacked(grads))
    return list(params.values())


@pytest.mark.filterwarnings("ignore:no kernel can be made")
@pytest.mark.parametrize("name", CASES)
def test_sums_in_a_stack_are_each_members_own(
    name: str, shapes: Sequence[tuple[int, ...]] = SHAPES, device: torch.device = CPU
) -> None:
    recipe, formula = CASES[name]
    found = in_a_stack([recipe] * 3, shapes, device)
    for k in range(3):
        start = [(1.0 + k) * x for x in drawn(shapes, 0)]
        steps = [[(1.0 + k) * x for x in grads] for grads in gradients(shapes)]
        for rows, expected in zip(found, formula(start, steps), strict=True):
            assert_near(rows[k], expected, f"{name}, member {k}")


def test_a_members_sums_have_the_same_bits_whatever_is_beside_it() -> None:
    recipe = CASES["clip, lamb"][0]
    few, many = (in_a_stack([recipe] * members, SHAPES) for members in (1, 9))
    for one, other in zip(few, many, strict=True):
        assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("backend", ["numba", "eager"])
def test_a_not_a_number_comes_through_every_sum(backend: str) -> None:
    class Each(Rule):
        lr = Hyper(1.0)

        def update(self, g: Any) -> Any:
            rest = dot(g, g, over="model") + mean(g, over="model") + largest(g, over="model")
            return -self.lr * where(rest == rest, 1.0, 2.0) + 0 * self.param

    params = [torch.zeros(4, requires_grad=True) for _ in range(2)]
    optimizer = Optimizer(params, chain(Each()), backend=backend)
    for param in params:
        param.grad = torch.ones(4)
    params[1].grad[2] = torch.nan
    optimizer.step()
    assert [param.tolist() for param in params] == [[-2.0] * 4] * 2


def test_sums_that_can_share_a_pass_do() -> None:
    def passes(*parts: Rule) -> list[list[tuple[str, str]]]:
        kinds = tuple(type(rule) for rule in chain(*parts).rules)
        kernel = kernel_on(CPU, kinds, torch.float32)
        assert kernel is not None
        return [list(kinds) for kinds in kernel.layout.kinds]

    assert passes(rules.SGD()) == []
    assert passes(rules.ClipNorm(), rules.SGD()) == [[("dot", "model")]]
    assert passes(rules.Lamb()) == [[("dot", "tensor"), ("dot", "tensor")]]
    assert passes(rules.ClipNorm(), rules.Lamb()) == [
        [("dot", "model"), ("dot", "tensor")],
        [("dot", "tensor")],
    ]
    # Asked for twice, a sum is computed once.
    assert passes(Remembering()) == [[("dot", "tensor")]]


class InPlace(Rule):
    """It changes its state in place, and then asks for a sum that it waits for."""

    lr = Hyper(0.1)
    m = State()

    def update(self, g: Any) -> Any:
        self.m.mul_(0.9).add_(g)
        return -self.lr * self.m / norm(self.m, over="model")


class Alternating(Rule):
    """It asks for another sum of a vector than of a matrix."""

    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        size = norm(g, over="model") if len(g.shape) > 1 else mean(g, over="model")
        return -self.lr * g * size


class Sometimes(Rule):
    """It asks for a sum of a matrix only."""

    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        return -self.lr * g * (norm(g, over="model") if len(g.shape) > 1 else 1.0)


class Elsewhere(Rule):
    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        return -self.lr * g / norm(g, over="models")  # type: ignore[arg-type]


class Demanding(Rule):
    """It fails in its own way on what stands for a tensor while it is traced."""

    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        assert isinstance(g, Tensor)
        return -self.lr * g


class OfANumber(Rule):
    lr = Hyper(0.1)

    def update(self, g: Any) -> Any:
        return -norm(self.lr, over="tensor") * g


class WhenEvaluated(rules.SGD):
    def evaluated(self, theta: Any) -> Any:
        return theta / norm(theta, over="tensor")


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (InPlace(), "a rule changes a tensor in place before it asks for a sum"),
        (Alternating(), "a rule asks for different sums for different tensors"),
        (Sometimes(), "a rule asks for different sums for different tensors"),
        (Elsewhere(), "no scope is called models; did you mean model?"),
        (OfANumber(), "norm, dot, mean and largest need a tensor, and were given a number"),
        (WhenEvaluated(), "norm, dot, mean and largest can be used only in a rule"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, Rule) else "",
)
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_sum_that_cannot_be_had_gets_one_sentence(
    rule: Rule, sentence: str, backend: str
) -> None:
    params = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    with pytest.raises(UserError) as raised:
        optimizer = Optimizer(params, chain(rule), backend=backend)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        with optimizer.evaluation():
            pass
    assert str(raised.value).startswith(sentence)


@pytest.mark.filterwarnings("ignore:.*stepped eagerly")
def test_a_rule_that_fails_on_what_is_no_tensor_is_stepped_eagerly() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = Optimizer([param], chain(Demanding(lr=0.5)))
    param.grad = torch.ones(3)
    optimizer.step()
    assert param.tolist() == [0.5] * 3
