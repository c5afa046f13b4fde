"""Gaussians that share one diagonal covariance."""

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
    safe_means,
    scaled_square_norms,
    variance_floor,
    variances_alone_on_floor,
)
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianTiedDiagonalParams(GaussianParams):
    """Parameters of :class:`GaussianTiedDiagonal`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    variances : Tensor, shape (g, d)
        One set a group.
    """

    variances: Tensor
    shared: ClassVar[tuple[str, ...]] = ("variances",)


@final
@dataclass(frozen=True)
class GaussianTiedDiagonal(Gaussian[GaussianTiedDiagonalParams]):
    r"""Gaussian components with one diagonal covariance in common.

    .. math:: \log p(x|k) = -\tfrac12 \sum_d \left[ \frac{(x_d-\mu_{kd})^2}{\sigma^2_d}
              + \log 2\pi\sigma^2_d \right]

    Examples
    --------
    >>> family, params = GaussianTiedDiagonal.examples()[0]
    >>> family.log_likelihood(params, params.means).argmax(1).equal(torch.arange(params.n_components))
    True
    """

    geometry: ClassVar[str] = "units"

    def width(self, n_features: int) -> int:
        """Return 1 + d."""
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x."""
        write_rows(x, out)

    def natural(self, params: GaussianTiedDiagonalParams) -> Tensor:
        """Return the bias and mu/sigma^2."""
        means = by_group(params.means, params.variances)  # (g, k/g, d)
        linear = means / params.variances[:, None]
        constant = (params.variances.log() + LOG_2PI).sum(1)[:, None]
        bias = -0.5 * (constant + (linear * means).sum(2))
        return torch.cat([bias[:, :, None], linear], 2).flatten(0, 1)

    def row_terms(self, x: Tensor) -> Tensor:
        """Return the squares of the row."""
        return x.square()

    def common(self, params: GaussianTiedDiagonalParams) -> Tensor:
        """Return -1/(2 sigma^2)."""
        return -0.5 / params.variances

    def log_likelihood(self, params: GaussianTiedDiagonalParams, x: Tensor) -> Tensor:
        """Return the log-density through differences, shape (n, k)."""
        precisions = params.variances.reciprocal().expand_as(params.means)
        norms = scaled_square_norms(x, params.means, precisions)
        return norms.mul_(-0.5).add_(-0.5 * (params.variances.log() + LOG_2PI).sum().to(x.dtype))

    def maximize(self, statistics: Moments, reference: Tensor | None = None) -> GaussianTiedDiagonalParams:
        """Return means and the floored pooled variances within components."""
        assert statistics.pooled is not None
        counts = by_group(statistics.counts, statistics.pooled)  # (g, k/g)
        sums = by_group(statistics.sums, statistics.pooled)
        means, total = safe_means(counts, sums), counts.sum(1, keepdim=True)
        second = statistics.pooled / total
        variances = second - (means.square() * (counts / total)[:, :, None]).sum(1)
        overall = second - (sums.sum(1) / total).square()
        whole = overall[0].clamp_min(0) if reference is None else reference
        floor = variance_floor(whole, self.min_variance)
        return GaussianTiedDiagonalParams(
            means.flatten(0, 1), torch.maximum(variances + self.added(means), floor)
        )

    def spreads(self, params: GaussianTiedDiagonalParams) -> Tensor:
        """Return the variances of each component, shape (k, d)."""
        return params.variances.expand_as(params.means)

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the sums that ``maximize`` needs, of moments."""
        return Moments(counts, first, second.sum(0, keepdim=True))

    def sample(self, params: GaussianTiedDiagonalParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + sigma e, e standard normal."""
        noise = standard_normal(len(index), params.means, generator)
        return params.means[index] + params.variances[0].sqrt() * noise

    def collapsed(self, params: GaussianTiedDiagonalParams, variances: Tensor) -> Tensor:
        """Return whether the common variances touch the floor, for all components alike."""
        floor = variance_floor(variances, self.min_variance)
        return variances_alone_on_floor(params.variances[:1].expand_as(params.means), params.means, floor)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianTiedDiagonalParams]]:
        """Return three clouds of one axis-parallel shape."""
        variances = torch.tensor([1.2, 0.5], dtype=torch.float64)
        return [(cls(), GaussianTiedDiagonalParams(three_means(), variances[None]))]
