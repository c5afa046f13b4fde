"""Gaussians that share one full covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder.components.exponential import write_rows
from mixcoder.components.gaussian import Gaussian, GaussianParams, standard_normal, three_means
from mixcoder.ops.gaussian import (
    LOG_2PI,
    by_group,
    floor_covariances,
    log_det_whitener,
    pack,
    pooled_covariance,
    products_sum,
    quadratic_form,
    safe_means,
    stands_alone_on_floor,
    variance_floor,
    whitening_factors,
)
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianTiedParams(GaussianParams):
    """Parameters of :class:`GaussianTied`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    covariance : Tensor, shape (g, d, d)
        One a group.
    whitener : Tensor, shape (g, d, d)
        Lower triangular W with W' W the precision.
    """

    covariance: Tensor
    whitener: Tensor
    shared: ClassVar[tuple[str, ...]] = ("covariance", "whitener")

    @classmethod
    def build(cls, means: Tensor, covariance: Tensor) -> Self:
        """Return the parameters of given means and one positive definite covariance."""
        return cls(means, covariance[None], whitening_factors(covariance[None])[0])


@final
@dataclass(frozen=True)
class GaussianTied(Gaussian[GaussianTiedParams]):
    r"""Gaussian components with one covariance in common.

    .. math:: \log p(x|k) = \mu_k' P x - \tfrac12 \mu_k' P \mu_k - \tfrac12 x'Px
              + \tfrac12 \log|P| - \tfrac d2 \log 2\pi

    The quadratic term is the same for every component: no code sees it, and its sum over the rows needs
    only X'X, once a fit. An iteration costs as much as one of k-means.

    Examples
    --------
    >>> family, params = GaussianTied.examples()[0]
    >>> family.log_likelihood(params, params.means).argmax(1).equal(torch.arange(params.n_components))
    True
    """

    geometry: ClassVar[str] = "affine"

    def width(self, n_features: int) -> int:
        """Return 1 + d."""
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x."""
        write_rows(x, out)

    def natural(self, params: GaussianTiedParams) -> Tensor:
        """Return the bias and P mu_k."""
        means = by_group(params.means, params.whitener)  # (g, k/g, d)
        linear = means @ (params.whitener.mT @ params.whitener)
        bias = _log_constant(params)[:, None] - 0.5 * (linear * means).sum(2)
        return torch.cat([bias[:, :, None], linear], 2).flatten(0, 1)

    def common(self, params: GaussianTiedParams) -> Tensor:
        """Return the packed -P/2."""
        return quadratic_form(params.whitener.mT @ params.whitener)

    def common_term(self, params: GaussianTiedParams, x: Tensor) -> Tensor:
        """Return -x'Px/2 of each row."""
        return (x @ params.whitener[0].to(x.dtype).T).square().sum(1).mul_(-0.5)

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the packed X'X, in float64."""
        return products_sum(x, weights)

    def log_likelihood(self, params: GaussianTiedParams, x: Tensor) -> Tensor:
        """Return the log-density through whitened differences, shape (n, k)."""
        whitener = params.whitener[0].to(x.dtype)
        norms = x.new_empty(x.shape[0], params.n_components)
        for k, mean in enumerate(params.means.to(x.dtype)):
            norms[:, k] = ((x - mean) @ whitener.T).square().sum(1)
        return norms.mul_(-0.5).add_(_log_constant(params)[0].to(x.dtype))

    def maximize(self, statistics: Moments, reference: Tensor | None = None) -> GaussianTiedParams:
        """Return means and the floored pooled covariance within components."""
        assert statistics.pooled is not None
        counts = by_group(statistics.counts, statistics.pooled)  # (g, k/g)
        sums = by_group(statistics.sums, statistics.pooled)
        means = safe_means(counts, sums)
        within, overall = pooled_covariance(statistics.pooled, counts, sums, means)
        if self.added_variance != 0.0:
            within.diagonal(dim1=1, dim2=2).add_(self.added(means))
        variances = overall[0].diagonal() if reference is None else reference
        floor = variance_floor(variances, self.min_variance)
        return GaussianTiedParams(means.flatten(0, 1), *floor_covariances(within, floor))

    def spreads(self, params: GaussianTiedParams) -> Tensor:
        """Return the covariance, shape (g, d, d)."""
        return params.covariance

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the sums that ``maximize`` needs, of moments."""
        return Moments(counts, first, pack(second))

    def sample(self, params: GaussianTiedParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + L e, with L L' the covariance and e standard normal."""
        noise = standard_normal(len(index), params.means, generator)
        return params.means[index] + noise @ torch.linalg.cholesky(params.covariance[0]).T

    def n_parameters(self, params: GaussianTiedParams) -> int:
        """Return k d + d(d+1)/2."""
        k, d = params.means.shape
        return k * d + d * (d + 1) // 2

    def collapsed(self, params: GaussianTiedParams, variances: Tensor) -> Tensor:
        """Return whether the common covariance touches the floor, for all components alike."""
        floor = variance_floor(variances, self.min_variance)
        return stands_alone_on_floor(
            params.covariance[:1].expand(params.n_components, -1, -1), params.means, floor
        )

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianTiedParams]]:
        """Return three clouds of one tilted shape."""
        covariance = torch.tensor([[1.0, 0.5], [0.5, 0.8]], dtype=torch.float64)
        return [(cls(), GaussianTiedParams.build(three_means(), covariance))]


def _log_constant(params: GaussianTiedParams) -> Tensor:
    return log_det_whitener(params.whitener) - 0.5 * params.means.shape[1] * LOG_2PI
