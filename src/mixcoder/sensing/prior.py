"""A mixture of Gaussians of any family, as means, spreads and loadings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import FactorAnalyzer, Gaussian
from mixcoder.components.factor_analyzer import FactorAnalyzerParams
from mixcoder.components.gaussian_diagonal import GaussianDiagonalParams
from mixcoder.components.gaussian_full import GaussianFullParams
from mixcoder.components.gaussian_low_rank_tied import GaussianLowRankTiedParams
from mixcoder.components.gaussian_spherical import GaussianSphericalParams
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.components.gaussian_tied_diagonal import GaussianTiedDiagonalParams
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.components.ppca import PPCAParams
from mixcoder.ops import low_rank
from mixcoder.sensing.given import as_model
from mixcoder.sensing.operators import Operator

# Smallest share of a measurement's variance that the measurements before it may leave unexplained.
SINGULAR = 1e-12


@dataclass(frozen=True)
class GaussianPrior:
    r"""The mixture :math:`\sum_k \pi_k\, N(x;\ \mathrm{shift} + \mu_k, \Sigma_k)`, in the units of the rows.

    .. math:: \Sigma_k = W_k W_k' + B_k

    Parameters
    ----------
    log_weights : Tensor, shape (k,)
    shift : Tensor, shape (d,)
        What all means have in common: it meets an observation before anything is squared.
    means : Tensor, shape (k, d)
        Means, less the shift.
    spreads : Tensor, shape (g, d, d), (g, d) or (g, 1)
        B: covariances, the variances of uncorrelated features, or one variance for all features (0: a point); one a
        component, or one for all.
    loadings : Tensor, shape (k, d, q), optional
        W; q may be zero, as where it is left out.

    Examples
    --------
    >>> prior = GaussianPrior(
    ...     log_weights=torch.tensor([0.5, 0.5], dtype=torch.float64).log(),
    ...     shift=torch.zeros(2, dtype=torch.float64),
    ...     means=torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64),
    ...     spreads=torch.tensor([[1.0]], dtype=torch.float64),
    ... )
    >>> prior.n_features, prior.is_round, prior.variances(0)
    (2, True, tensor([1., 1.], dtype=torch.float64))
    """

    log_weights: Tensor
    shift: Tensor
    means: Tensor
    spreads: Tensor
    loadings: Tensor | None = None

    @classmethod
    def of(cls, model: Any) -> Self:
        """Return the prior of a fitted model, or estimator, whose components are Gaussian; a prior as it is."""
        if isinstance(model, cls):
            return model
        model = as_model(model)
        require_normal(model)
        params, scale = model.params, model.frame.scale
        means: Tensor = params.means / scale  # type: ignore[attr-defined]
        if isinstance(params, PPCAParams | FactorAnalyzerParams):
            noise = params.noise_variances
            spreads = noise[:, None] / scale[:1].square() if noise.ndim == 1 else noise / scale.square()
            return cls(model.log_weights, model.frame.shift, means, spreads, params.loadings / scale[:, None])
        if isinstance(params, GaussianLowRankTiedParams):
            spreads = params.covariance / scale / scale[:, None]
            return cls(model.log_weights, model.frame.shift, means, spreads, params.loadings / scale[:, None])
        if isinstance(params, GaussianSphericalParams | GaussianTiedSphericalParams):
            rounds = params.variances if isinstance(params, GaussianSphericalParams) else params.variance
            return cls(model.log_weights, model.frame.shift, means, rounds[:, None] / scale[:1].square())
        spreads = spreads_of(params)
        spreads = spreads / scale / (scale[:, None] if spreads.ndim == 3 else scale)
        return cls(model.log_weights, model.frame.shift, means, spreads)

    @property
    def n_features(self) -> int:
        """Number of features, d."""
        return int(self.means.shape[1])

    @property
    def n_latent(self) -> int:
        """Number of columns of each W, q."""
        return 0 if self.loadings is None else int(self.loadings.shape[2])

    @property
    def is_diagonal(self) -> bool:
        """Whether each B is diagonal."""
        return self.spreads.ndim == 2

    @property
    def is_round(self) -> bool:
        """Whether each B is a number times the identity."""
        return self.is_diagonal and self.spreads.shape[1] == 1

    @property
    def has_one_covariance(self) -> bool:
        """Whether all components have the same covariance."""
        return len(self.spreads) == 1 and self.n_latent == 0

    @property
    def used(self) -> list[int]:
        """Components with a weight."""
        return (self.log_weights > -torch.inf).nonzero()[:, 0].tolist()

    def group(self, k: int) -> int:
        """Return which spread component k has."""
        return k if len(self.spreads) > 1 else 0

    def spread(self, k: int) -> Tensor:
        """Return B_k, shape (d, d), or its diagonal, shape (d,)."""
        spread = self.spreads[self.group(k)]
        return spread.expand(self.n_features) if self.is_diagonal else spread

    def loading(self, k: int) -> Tensor:
        """Return W_k, shape (d, q)."""
        return self.means.new_empty(self.n_features, 0) if self.loadings is None else self.loadings[k]

    def covariances(self) -> Tensor:
        """Return Sigma of each component with a weight, written out, shape (k, d, d)."""
        spreads = [self.spread(k) for k in self.used]
        loadings = [self.loading(k) for k in self.used]
        whole = [torch.diag(spread) if spread.ndim == 1 else spread for spread in spreads]
        return torch.stack([spread + w @ w.T for spread, w in zip(whole, loadings, strict=True)])

    def cross(self, k: int, operator: Operator) -> Tensor:
        """Return Cov[x, H x] = Sigma_k H', shape (d, m), from the factors of Sigma_k."""
        spread, loading = self.spread(k), self.loading(k)
        if spread.ndim == 2:
            cross = operator.apply(spread)
        else:
            cross = (operator.matrix(self.means) * spread).mT
        return cross + loading @ operator.apply(loading.mT) if self.n_latent else cross

    def log_det(self, k: int) -> Tensor:
        """Return ``log |Sigma_k|``."""
        spread, loading = self.spread(k), self.loading(k)
        if spread.ndim == 1:
            _, factors = low_rank.posterior(loading[None], spread[None])
            return low_rank.log_det(spread[None], factors, self.n_features)[0]
        factor = torch.linalg.cholesky(spread + loading @ loading.mT)
        return 2 * factor.diagonal().log().sum()

    def variances(self, k: int) -> Tensor:
        """Return the diagonal of Sigma_k, shape (d,)."""
        spread = self.spread(k)
        return (spread if spread.ndim == 1 else spread.diagonal()) + self.loading(k).square().sum(1)

    def deviations(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return draws from N(0, Sigma_k), one for each entry k of ``index``, shape (n, d)."""
        n, d, q = len(index), self.n_features, self.n_latent
        dtype, device = self.means.dtype, self.means.device
        normal = torch.randn(n, d + q, generator=generator, dtype=dtype, device=device)
        draws, latent = normal[:, :d], normal[:, d:]
        if self.is_diagonal:
            draws = draws * self.spreads.sqrt()[index if len(self.spreads) > 1 else torch.zeros_like(index)]
        elif len(self.spreads) == 1:
            draws = draws @ torch.linalg.cholesky(self.spreads[0]).T
        for k in torch.unique(index).tolist():
            chosen = index == k
            if not self.is_diagonal and len(self.spreads) > 1:
                draws[chosen] = draws[chosen] @ torch.linalg.cholesky(self.spreads[k]).T
            if q:
                draws[chosen] += latent[chosen] @ self.loading(k).T
        return draws


def require_normal(model: MixtureAutoencoder) -> None:
    """Raise a TypeError where the components of a model have no normal density, low rank ones included."""
    if not isinstance(model.family, FactorAnalyzer | Gaussian):
        raise TypeError(
            f"A closed form needs normal components, but this model has {type(model.family).__name__}; fit a "
            "GaussianMixture, PPCAMixture or FactorAnalyzerMixture, or a Mixture of a family whose name begins with "
            "'gaussian'."
        )


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


__all__ = ["SINGULAR", "GaussianPrior", "require_gaussian", "require_normal", "spreads_of"]
