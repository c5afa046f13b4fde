"""The conjugate prior of Gaussian components, and what their sums make of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

from mixcoder.components.gaussian import Gaussian, GaussianParams
from mixcoder.components.gaussian_diagonal import GaussianDiagonal, GaussianDiagonalParams
from mixcoder.components.gaussian_full import GaussianFull, GaussianFullParams
from mixcoder.components.gaussian_spherical import GaussianSpherical, GaussianSphericalParams
from mixcoder.components.gaussian_tied import GaussianTied, GaussianTiedParams
from mixcoder.ops.gaussian import LOG_2PI, floor_covariances, log_det_whitener, unpack
from mixcoder.ops.tempered import tempered_digamma, tempered_log_gamma
from mixcoder.statistics import Moments

P = TypeVar("P", bound=GaussianParams)


@dataclass(frozen=True)
class NormalWishart(ABC, Generic[P]):
    r"""Means given precisions are normal, precisions are Wishart.

    .. math::
        \Lambda_k \sim \mathcal W(\nu_0, V_0^{-1}), \qquad
        \mu_k | \Lambda_k \sim \mathcal N(m_0, (\beta_0 \Lambda_k)^{-1})

    After N_k rows with mean :math:`\bar x_k` and scatter :math:`N_k S_k`

    .. math::
        \beta_k = \beta_0 + N_k, \quad \nu_k = \nu_0 + N_k, \quad
        m_k = \frac{\beta_0 m_0 + N_k \bar x_k}{\beta_k}, \quad
        V_k = V_0 + N_k S_k + \frac{\beta_0 N_k}{\beta_k} (\bar x_k - m_0)(\bar x_k - m_0)'

    The E-step of variational Bayes is that of a Gaussian mixture with means :math:`m_k`, covariances
    :math:`V_k/\nu_k` and its log-weights shifted by ``tilts``.

    Parameters
    ----------
    gaussian : Gaussian
        The family, in working units.
    mean : Tensor, shape (d,)
        m_0.
    mean_precision, degrees_of_freedom : float
        beta_0 > 0 and nu_0 > d - 1, in units of rows.
    scatter : Tensor
        V_0, in the shape of one covariance.
    floor : Tensor, shape (d,)
        Smallest variances that arithmetic can hold apart from zero.
    exact : bool
        Whether the precision of a diagonal or round component is given its own gamma distributions. If
        not, it takes the expected log-determinant of a Wishart matrix in full, as scikit-learn has it: by
        Hadamard's inequality the bound stays one, and loses a little.

    References
    ----------
    Bishop (2006), equations 10.60-10.65; exercise 10.18 for what 10.63 should say.

    Examples
    --------
    >>> from mixcoder.components import GaussianSpherical
    >>> prior = conjugate_prior(
    ...     GaussianSpherical(),
    ...     mean=torch.zeros(2, dtype=torch.float64),
    ...     mean_precision=1.0,
    ...     degrees_of_freedom=2.0,
    ...     scatter=torch.ones(1, dtype=torch.float64),
    ...     floor=torch.full((2,), 1e-12, dtype=torch.float64),
    ... )
    >>> x = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    >>> sums = GaussianSpherical().statistics(None, x, torch.ones(2, 1, dtype=torch.float64))
    >>> gaussians, precisions, degrees = prior.posterior(sums)  # the prior counts for one row at zero
    >>> gaussians.means, float(precisions), float(degrees)
    (tensor([[1.3333, 0.6667]], dtype=torch.float64), 3.0, 4.0)
    """

    gaussian: Gaussian[P]
    mean: Tensor
    mean_precision: float
    degrees_of_freedom: float
    scatter: Tensor
    floor: Tensor
    exact: bool = False

    def no_rows(self) -> Moments:
        """Return the sums of no rows for one component: with them the posterior is the prior."""
        row = torch.zeros_like(self.mean)[None]
        sums = row.new_zeros(1, self.gaussian.width(self.n_features) - 1)
        return Moments(row.new_zeros(1), sums, self.gaussian.pooled(row))

    @property
    def n_features(self) -> int:
        """Number of features, D."""
        return int(self.mean.shape[0])

    def posterior(self, statistics: Moments) -> tuple[P, Tensor, Tensor]:
        """Return the plug-in Gaussians (m_k, V_k / nu_k), and beta_k and nu_k, each of shape (k,)."""
        counts, first = statistics.counts, statistics.sums[:, : self.n_features]
        precisions = self.mean_precision + counts
        means = (self.mean_precision * self.mean + first) / precisions[:, None]
        degrees = self._degrees(counts)
        return self._gaussians(statistics, precisions, means, degrees), precisions, degrees

    def tilts(self, precisions: Tensor, degrees: Tensor, temperature: float) -> Tensor:
        r"""Return what expectation takes from the log-density of the plug-in Gaussian, shape (k,).

        .. math:: E[\log \mathcal N(x; \mu_k, \Lambda_k^{-1})] - \log \mathcal N(x; m_k, V_k/\nu_k)
                  = \tfrac12 \left( E\log|\Lambda_k| - \log|\nu_k V_k^{-1}| \right) - \frac{D}{2\beta_k}

        Parameters
        ----------
        precisions, degrees : Tensor, shape (k,)
            beta and nu.
        temperature : float
            Of the posterior: at t, beta and nu are those of q divided by t.

        References
        ----------
        Bishop (2006), equations 10.64 and 10.65.
        """
        d = self.n_features
        return 0.5 * self._log_det_excess(degrees, temperature) - 0.5 * d * temperature / precisions

    def log_normalizer(self, gaussians: P, precisions: Tensor, degrees: Tensor, temperature: float) -> Tensor:
        r"""Return t log Z of each component's posterior raised to the power 1/t, shape (k,).

        .. math:: \log Z(\beta, \nu, V) = \tfrac D2 \log\frac{2\pi}{\beta} + \tfrac{\nu D}2 \log 2
                  + \log\Gamma_D(\tfrac\nu2) - \tfrac\nu2 \log|V|

        The power is taken of the density with respect to the measure that affine maps leave unchanged,
        so that every hyper-parameter is divided by t and the mode, at t = 0, is at
        :math:`(m_k, \nu_k V_k^{-1})`.

        References
        ----------
        Bishop (2006), equation B.79, and the integral of a normal density over its mean.
        """
        d = self.n_features
        log_det = d * degrees.log() - self._log_det_precisions(gaussians)
        result = self._log_volume(degrees, temperature) + 0.5 * degrees * (d * math.log(2) - log_det)
        if temperature == 0:
            return result
        return result + 0.5 * temperature * d * (LOG_2PI + math.log(temperature) - precisions.log())

    def _degrees(self, counts: Tensor) -> Tensor:
        return self.degrees_of_freedom + counts

    def _shapes(self, degrees: Tensor, temperature: float) -> Tensor:
        """Return the arguments of the gamma functions of a Wishart distribution, shape (k, d)."""
        steps = torch.arange(self.n_features, dtype=degrees.dtype, device=degrees.device)
        return 0.5 * (degrees[:, None] - temperature * steps)

    def _log_volume(self, degrees: Tensor, temperature: float) -> Tensor:
        """Return t log Gamma_D(nu / 2t) + (nu D / 2) log t, shape (k,)."""
        result = tempered_log_gamma(self._shapes(degrees, temperature), temperature).sum(1)
        if temperature == 0:
            return result
        pairs = 0.25 * self.n_features * (self.n_features - 1)
        return result + pairs * temperature * math.log(math.pi * temperature)

    def _log_det_excess(self, degrees: Tensor, temperature: float) -> Tensor:
        """Return E log|Lambda| - log|E Lambda|, shape (k,): never positive."""
        expected = tempered_digamma(self._shapes(degrees, temperature), temperature).sum(1)
        return expected - self.n_features * (0.5 * degrees).log()

    @abstractmethod
    def _gaussians(self, statistics: Moments, precisions: Tensor, means: Tensor, degrees: Tensor) -> P:
        """Return m_k with V_k / nu_k."""

    @abstractmethod
    def _log_det_precisions(self, gaussians: P) -> Tensor:
        """Return log|nu_k V_k^-1|, shape (k,)."""


@final
@dataclass(frozen=True)
class NormalWishartFull(NormalWishart[GaussianFullParams]):
    """The prior of components with covariances of their own."""

    def _gaussians(
        self, statistics: Moments, precisions: Tensor, means: Tensor, degrees: Tensor
    ) -> GaussianFullParams:
        d = self.n_features
        scatter = unpack(statistics.sums[:, d:], d) - _outer(means, precisions)
        scatter += self.scatter + self.mean_precision * torch.outer(self.mean, self.mean)
        _add_to_diagonals(scatter, statistics.counts[:, None] * self.gaussian.added(means))
        return GaussianFullParams(means, *floor_covariances(scatter / degrees[:, None, None], self.floor))

    def _log_det_precisions(self, gaussians: GaussianFullParams) -> Tensor:
        return 2.0 * log_det_whitener(gaussians.whiteners)


@final
@dataclass(frozen=True)
class NormalWishartTied(NormalWishart[GaussianTiedParams]):
    """The prior of components whose precisions have one posterior in common.

    Each component has a precision of its own and all posteriors are asked to be the same: the best such
    posterior has the mean of what the components' own would have, nu_0 + N/K and V_0 + (sum of scatters)/K.
    """

    def _degrees(self, counts: Tensor) -> Tensor:
        return (self.degrees_of_freedom + counts.mean()).expand_as(counts)

    def _gaussians(
        self, statistics: Moments, precisions: Tensor, means: Tensor, degrees: Tensor
    ) -> GaussianTiedParams:
        assert statistics.pooled is not None
        d, k = means.shape[1], means.shape[0]
        scatter = unpack(statistics.pooled, d) - means.mT @ (means * precisions[:, None])
        scatter = 0.5 * (scatter + scatter.mT) / k
        scatter += self.scatter + self.mean_precision * torch.outer(self.mean, self.mean)
        _add_to_diagonals(scatter, statistics.counts.mean() * self.gaussian.added(means))
        return GaussianTiedParams(means, *floor_covariances(scatter / degrees[0], self.floor))

    def _log_det_precisions(self, gaussians: GaussianTiedParams) -> Tensor:
        return (2.0 * log_det_whitener(gaussians.whitener)).expand(gaussians.n_components)


@final
@dataclass(frozen=True)
class NormalWishartDiagonal(NormalWishart[GaussianDiagonalParams]):
    """The prior of components with uncorrelated features."""

    def _gaussians(
        self, statistics: Moments, precisions: Tensor, means: Tensor, degrees: Tensor
    ) -> GaussianDiagonalParams:
        second = statistics.sums[:, self.n_features :]
        scatter = second - precisions[:, None] * means.square()
        scatter += self.scatter + self.mean_precision * self.mean.square()
        scatter += statistics.counts[:, None] * self.gaussian.added(means)
        return GaussianDiagonalParams(means, torch.maximum(scatter / degrees[:, None], self.floor))

    def _log_det_precisions(self, gaussians: GaussianDiagonalParams) -> Tensor:
        return -gaussians.variances.log().sum(1)

    def _log_volume(self, degrees: Tensor, temperature: float) -> Tensor:
        if not self.exact:
            return super()._log_volume(degrees, temperature)
        return self.n_features * tempered_log_gamma(0.5 * degrees, temperature)

    def _log_det_excess(self, degrees: Tensor, temperature: float) -> Tensor:
        if not self.exact:
            return super()._log_det_excess(degrees, temperature)
        shapes = 0.5 * degrees
        return self.n_features * (tempered_digamma(shapes, temperature) - shapes.log())


@final
@dataclass(frozen=True)
class NormalWishartSpherical(NormalWishart[GaussianSphericalParams]):
    """The prior of round components: V is a number, the mean over the features."""

    def _gaussians(
        self, statistics: Moments, precisions: Tensor, means: Tensor, degrees: Tensor
    ) -> GaussianSphericalParams:
        d = self.n_features
        squares = statistics.sums[:, d] - precisions * means.square().sum(1)
        squares += self.mean_precision * self.mean.square().sum()
        scatter = self.scatter + squares / d + statistics.counts * self.gaussian.added(means).mean()
        return GaussianSphericalParams(means, torch.maximum(scatter / degrees, self.floor.mean()))

    def _log_det_precisions(self, gaussians: GaussianSphericalParams) -> Tensor:
        return -self.n_features * gaussians.variances.log()

    def _log_volume(self, degrees: Tensor, temperature: float) -> Tensor:
        if not self.exact:
            return super()._log_volume(degrees, temperature)
        shapes = 0.5 * self.n_features * degrees
        return tempered_log_gamma(shapes, temperature) - shapes * math.log(self.n_features)

    def _log_det_excess(self, degrees: Tensor, temperature: float) -> Tensor:
        if not self.exact:
            return super()._log_det_excess(degrees, temperature)
        shapes = 0.5 * self.n_features * degrees
        return self.n_features * (tempered_digamma(shapes, temperature) - shapes.log())


def _outer(means: Tensor, precisions: Tensor) -> Tensor:
    """Return beta_k m_k m_k', shape (k, d, d)."""
    return (precisions[:, None] * means)[:, :, None] * means[:, None, :]


def _add_to_diagonals(matrices: Tensor, values: Tensor) -> None:
    matrices.diagonal(dim1=-2, dim2=-1).add_(values)


def conjugate_prior(gaussian: Gaussian[Any], **beliefs: Any) -> NormalWishart[Any]:
    """Return the prior that belongs to a family, with the fields of :class:`NormalWishart`.

    Raises
    ------
    TypeError
        The family has none here.

    Examples
    --------
    >>> from mixcoder.components import GaussianSpherical
    >>> prior = conjugate_prior(
    ...     GaussianSpherical(),
    ...     mean=torch.zeros(2, dtype=torch.float64),
    ...     mean_precision=1.0,
    ...     degrees_of_freedom=2.0,
    ...     scatter=torch.ones(1, dtype=torch.float64),
    ...     floor=torch.full((2,), 1e-12, dtype=torch.float64),
    ... )
    >>> type(prior).__name__
    'NormalWishartSpherical'
    """
    known: dict[type[Any], type[NormalWishart[Any]]] = {
        GaussianFull: NormalWishartFull,
        GaussianTied: NormalWishartTied,
        GaussianDiagonal: NormalWishartDiagonal,
        GaussianSpherical: NormalWishartSpherical,
    }
    if type(gaussian) not in known:
        raise TypeError(
            f"{type(gaussian).__name__} has no conjugate prior here; these have: {[c.__name__ for c in known]}."
        )
    return known[type(gaussian)](gaussian, **beliefs)
