"""The Gauss-Newton matrix of an objective."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from thalweg.doctor.curvature.batchwise import Batchwise, Graph
from thalweg.doctor.objective.derivatives import is_underivable, pulled
from thalweg.errors import UserError
from thalweg.stack.reading import Batch


class OutputGraph(Graph):
    """The outputs for one batch, J'u as a function of u, and the loss's slope in the outputs."""

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
        # An output need not count in the loss.
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
    """G = J' H_out J, J the derivative of the outputs, H_out the Hessian of the loss in them.

    It is the Hessian of the loss where the model is taken as linear in theta. For a loss that is
    convex in the outputs it has no negative eigenvalue, and where every residual vanishes it is the
    Hessian. A product costs about three gradient evaluations.

    Raises UserError where an operation of the model has no second derivative: the product J v is
    taken from J' by differentiating once more. Source: Schraudolph 2002.
    """

    graph = OutputGraph

    def times(self, vectors: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
        try:
            return super().times(vectors)
        except RuntimeError as error:
            if is_underivable(error):
                raise UserError(
                    "An operation of the model has no second derivative, which products with the"
                    f" Gauss-Newton matrix need: {str(error).splitlines()[0]}"
                ) from error
            raise


def depends(output: object) -> bool:
    """Whether an output is a tensor with a graph behind it."""
    return isinstance(output, Tensor) and output.requires_grad
