"""The Lanczos recurrence: a matrix, projected on the space of a start vector and its products."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from thalweg.doctor.curvature.curvature import Curvature
from thalweg.errors import UserError

Floats = NDArray[np.float64]

ASYMMETRY = 0.1
"""A relative asymmetry above this cannot come from round-off or from differences of gradients."""

FIRST = 8
"""The number of basis vectors for which memory is reserved at first."""


class Ritz(NamedTuple):
    """Eigenvalues of the tridiagonal matrix in rising order, and the eigenvectors in columns."""

    values: Floats
    vectors: Floats


class Lanczos:
    """K runs at once, each from its own start vector.

        beta_j v_(j+1) = A v_j - alpha_j v_j - beta_(j-1) v_(j-1)

    Each new vector is made orthogonal to the two before it, and then to all. So V'AV = T holds to
    round-off, where T is tridiagonal with alpha and beta. (Plain Lanczos loses orthogonality when
    an eigenvalue converges, and then finds false copies of it.) Paige 1972; Parlett 1998, chapter
    13.

    Each step costs K products, and memory for K P numbers.
    """

    def __init__(self, curvature: Curvature, starts: Float[Tensor, "K P"]) -> None:
        self.curvature = curvature
        self.steps = 0
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self.basis = starts.new_empty(len(starts), FIRST, starts.shape[1])
        self.next = starts / starts.norm(dim=1, keepdim=True)
        self.scale = torch.zeros_like(starts[:, 0])

    def step(self) -> None:
        """Adds a basis vector to each run. Raises UserError where a product is not finite."""
        if self.steps == self.basis.shape[1]:
            self.basis = torch.cat([self.basis, torch.empty_like(self.basis)], dim=1)
        self.basis[:, self.steps] = self.next
        self.steps += 1
        product = self.curvature.times(self.next)
        if not product.isfinite().all():
            raise UserError(
                "A product with the curvature is not finite, so eigenvalues cannot be computed."
            )
        known = self.basis[:, : self.steps]
        rest, along = without(product, known[:, -2:])
        rest, more = without(rest, known)
        self.scale = torch.maximum(self.scale, product.norm(dim=1))
        if asymmetric(more, self.scale):
            raise UserError(
                "The Hessian's products are not those of a symmetric matrix, so an operation of the"
                " model has a wrong second derivative, as PyTorch's weight normalization has; use"
                " Hessian(objective, differences=True) instead."
            )
        self.alphas.append((along[:, -1] + more[:, -1]).double().cpu())
        beta = rest.norm(dim=1)
        ended = beta <= self.round_off()
        self.betas.append(beta.masked_fill(ended, 0.0).double().cpu())
        self.next = (rest / beta.unsqueeze(1)).masked_fill(ended.unsqueeze(1), 0.0)

    def round_off(self) -> Float[Tensor, " K"]:
        """A remainder below this norm is only round-off: the space of the run is exhausted."""
        return self.scale * (self.curvature.resolution() * math.sqrt(self.curvature.size))

    @property
    def ended(self) -> bool:
        """Whether all runs have exhausted their spaces, so that their eigenvalues are exact."""
        return self.steps == self.curvature.size or not self.betas[-1].any()

    def ritz(self, run: int) -> Ritz:
        alphas = np.array([float(alpha[run]) for alpha in self.alphas])
        betas = np.array([float(beta[run]) for beta in self.betas[:-1]])
        return Ritz(*eigh_tridiagonal(alphas, betas))

    def errors(self, run: int, ritz: Ritz) -> Floats:
        """For each Ritz value, a distance within which A has an eigenvalue.

        The distance is |A x - t x| = beta_m |s_m| for the Ritz value t with vector x, where s_m is
        the last entry of the eigenvector of T. It is at least the machine's resolution of the
        largest Ritz value.
        """
        beta = 0.0 if self.ended else float(self.betas[-1][run])
        least = self.curvature.resolution() * abs(ritz.values).max()
        errors: Floats = np.maximum(beta * abs(ritz.vectors[-1]), least)
        return errors

    def combined(self, run: int, coefficients: Floats) -> Float[Tensor, " P"]:
        """The vector of a run's space that has these coefficients in the run's basis."""
        weights = torch.tensor(coefficients).to(self.basis)
        return weights @ self.basis[run, : self.steps]


def asymmetric(along: Float[Tensor, "K j"], scale: Float[Tensor, " K"]) -> bool:
    """Whether the products show that A is not symmetric.

    For a symmetric A, v_i'A v_j is 0 for i < j - 1; differences of gradients make it a little
    larger. along: the parts of a product along the earlier basis vectors. scale: the norm of the
    largest product so far.
    """
    return bool((along[:, :-2].norm(dim=1) > ASYMMETRY * scale).any())


def without(
    vectors: Float[Tensor, "K P"], known: Float[Tensor, "K j P"]
) -> tuple[Float[Tensor, "K P"], Float[Tensor, "K j"]]:
    """Each vector without its parts along known directions, and these parts."""
    along = torch.bmm(known, vectors.unsqueeze(2)).squeeze(2)
    return vectors - torch.bmm(along.unsqueeze(1), known).squeeze(1), along
