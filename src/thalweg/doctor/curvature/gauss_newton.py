"""The Gauss-Newton matrix of an objective."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from thalweg.doctor.curvature.batchwise import Batchwise, Graph
from thalweg.doctor.objective.derivatives import is_underivable, pulled
from thalweg.errors import UserError
from thalweg.tasks.forms import Batch


class OutputGraph(Graph):
    """The graph of one batch: its outputs, J'u as a function of u, and the loss's slope in them."""

    def record(self, model: nn.Module, batch: Batch) -> None:
        leaves, structure = tree_flatten(self.objective.outputs(model, batch))
        places = [i for i, leaf in enumerate(leaves) if depends(leaf)]
        if not places:
            raise UserError("The outputs of the model do not depend on its trainable parameters.")
        self.outputs = [leaves[i] for i in places]
        self.cut = [output.detach().requires_grad_() for output in self.outputs]
        for i, cut in zip(places, self.cut, strict=True):
            leaves[i] = cut
        loss = self.objective.loss_of(tree_unflatten(leaves, structure), batch)
        # The loss need not depend on every output.
        self.slopes = torch.autograd.grad(
            loss, self.cut, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self.pushing = [torch.zeros_like(output, requires_grad=True) for output in self.outputs]
        (self.pulled,) = torch.autograd.grad(
            self.outputs, self.point, self.pushing, create_graph=True
        )
        self.recorded = [self.pulled, *self.slopes]

    def product(self, vectors: Tensor, *, batched: bool) -> Tensor:
        pushed = pulled([self.pulled], self.pushing, [vectors], batched=batched)
        bent = pulled(self.slopes, self.cut, pushed, batched=batched)
        (made,) = pulled(self.outputs, [self.point], bent, batched=batched)
        return made


class GaussNewton(Batchwise):
    """G = J' H_out J, with J the derivative of the outputs and H_out the loss's Hessian in them.

    G is the Hessian of the loss of a model that is linearised in theta. If the loss is convex in
    the outputs, G has no negative eigenvalue. Where every residual is 0, G is the Hessian. A
    product costs about three gradient evaluations.

    Raises UserError where an operation of the model has no second derivative, because the product
    J v is computed by differentiating J'u once more. Source: Schraudolph 2002.
    """

    graph = OutputGraph

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        try:
            return super().times(vectors)
        except RuntimeError as error:
            if is_underivable(error):
                raise UserError(
                    "Products with the Gauss-Newton matrix need second derivatives, and an"
                    f" operation of the model has none: {str(error).splitlines()[0]}"
                ) from error
            raise


def depends(output: object) -> bool:
    """Whether an output is a tensor with a graph behind it."""
    return isinstance(output, Tensor) and output.requires_grad
