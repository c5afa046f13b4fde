"""A mixture of Gaussians of any family, as means and covariances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import (
    Gaussian,
)
from mixcoder.components.gaussian_diagonal import GaussianDiagonalParams
from mixcoder.components.gaussian_full import GaussianFullParams
from mixcoder.components.gaussian_spherical import GaussianSphericalParams
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.components.gaussian_tied_diagonal import GaussianTiedDiagonalParams
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.sensing.operators import Operator

# Smallest share of a measurement's variance that the measurements before it may leave unexplained.
SINGULAR = 1e-12


@dataclass(frozen=True)
class GaussianPrior:
    r"""The mixture :math:`\sum_k \pi_k\, N(x;\ \mathrm{shift} + \mu_k, \Sigma_k)`, in the units of the rows.

    Parameters
    ----------
    log_weights : Tensor, shape (k,)
    shift : Tensor, shape (d,)
        What all means have in common: it meets an observation before anything is squared.
    means : Tensor, shape (k, d)
        Means, less the shift.
    spreads : Tensor, shape (g, d, d) or (g, d)
        Covariances, or the variances of uncorrelated features; one a component, or one for all.
    """

    log_weights: Tensor
    shift: Tensor
    means: Tensor
    spreads: Tensor

    @classmethod
    def of(cls, model: MixtureAutoencoder) -> Self:
        """Return the prior of a fitted model whose components are Gaussian."""
        require_gaussian(model)
        spreads, scale = spreads_of(model.params), model.frame.scale
        spreads = spreads / scale / (scale[:, None] if spreads.ndim == 3 else scale)
        return cls(model.log_weights, model.frame.shift, model.params.means / scale, spreads)  # type: ignore[attr-defined]

    @property
    def used(self) -> list[int]:
        """Components with a weight."""
        return (self.log_weights > -torch.inf).nonzero()[:, 0].tolist()

    def group(self, k: int) -> int:
        """Return which spread component k has."""
        return k if len(self.spreads) > 1 else 0

    def crosses(self, operator: Operator) -> Tensor:
        """Return Cov[x, H x] = Sigma H' of each spread, shape (g, d, m)."""
        if self.spreads.ndim == 3:
            return operator.apply(self.spreads.flatten(0, 1)).unflatten(0, self.spreads.shape[:2])
        return (operator.matrix(self.means) * self.spreads[:, None, :]).mT

    def log_dets(self) -> Tensor:
        """Return log |Sigma| of each spread, shape (g,)."""
        if self.spreads.ndim == 2:
            return self.spreads.log().sum(1)
        return 2 * torch.linalg.cholesky(self.spreads).diagonal(dim1=1, dim2=2).log().sum(1)

    def variances(self) -> Tensor:
        """Return the diagonals of the spreads, shape (g, d)."""
        return self.spreads if self.spreads.ndim == 2 else self.spreads.diagonal(dim1=1, dim2=2)

    def deviations(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return draws from N(0, Sigma_k), one for each entry k of ``index``, shape (n, d)."""
        shape = (len(index), self.means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=self.means.dtype, device=self.means.device)
        if self.spreads.ndim == 2:
            return noise * self.spreads.sqrt()[index if len(self.spreads) > 1 else torch.zeros_like(index)]
        factors = torch.linalg.cholesky(self.spreads)
        if len(factors) == 1:
            return noise @ factors[0].T
        for k in range(len(factors)):
            noise[index == k] = noise[index == k] @ factors[k].T
        return noise


def require_gaussian(model: MixtureAutoencoder) -> None:
    """Raise a TypeError where the components of a model are not Gaussian."""
    if not isinstance(model.family, Gaussian):
        raise TypeError(
            f"A closed form needs Gaussian components, but this model has {type(model.family).__name__}; fit a "
            "GaussianMixture, or a Mixture of a family whose name begins with 'gaussian'."
        )


def spreads_of(params: Any) -> Tensor:
    """Return the covariances of a Gaussian family's parameters, shape (g, d, d), or its variances, shape (g, d)."""
    match params:
        case GaussianFullParams():
            return params.covariances
        case GaussianTiedParams():
            return params.covariance
        case GaussianDiagonalParams() | GaussianTiedDiagonalParams():
            return params.variances
        case GaussianSphericalParams():
            return params.variances[:, None].expand_as(params.means)
        case GaussianTiedSphericalParams():
            return params.variance[:, None].expand(-1, params.means.shape[1])
        case _:
            raise TypeError(
                f"{type(params).__name__} are no parameters of a Gaussian family of this library."
            )


def cholesky_of(covariances: Tensor, used: list[int], noise_variance: float) -> Tensor:
    """Return the lower factors of Cov[y] of each spread, shape (g, m, m).

    Raises
    ------
    ValueError
        If one is singular: to rounding, its measurements explain one another, and there is too little noise.
    """
    factors, info = torch.linalg.cholesky_ex(covariances)
    left = factors.diagonal(dim1=1, dim2=2).square() / covariances.diagonal(dim1=1, dim2=2)
    bad = (info != 0) | ~(left > SINGULAR).all(1)
    for place in used if len(factors) > 1 else [0]:
        if bool(bad[place]):
            raise ValueError(
                f"The covariance of y under component {place} is singular: noise_variance={noise_variance:g} is too "
                "small for an operator with dependent rows. Give a larger noise_variance, or drop rows."
            )
    return factors
