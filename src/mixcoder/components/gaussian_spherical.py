"""Round Gaussians, each of its own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder.components.exponential import write_rows
from mixcoder.components.gaussian import Gaussian, GaussianParams, standard_normal, three_means
from mixcoder.ops.gaussian import EMPTY, LOG_2PI, safe_means, scaled_square_norms, variance_floor
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianSphericalParams(GaussianParams):
    """Parameters of :class:`GaussianSpherical`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    variances : Tensor, shape (k,)
    """

    variances: Tensor


@final
@dataclass(frozen=True)
class GaussianSpherical(Gaussian[GaussianSphericalParams]):
    r"""Gaussian components with covariance sigma_k^2 I.

    .. math:: \log p(x|k) = -\frac{|x-\mu_k|^2}{2\sigma^2_k} - \tfrac d2 \log 2\pi\sigma^2_k

    Examples
    --------
    >>> family, params = GaussianSpherical.examples()[0]
    >>> family.log_likelihood(params, params.means).argmax(1).equal(torch.arange(params.n_components))
    True
    """

    common_scale: ClassVar[bool] = True

    def width(self, n_features: int) -> int:
        """Return 2 + d."""
        return 2 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x and its squared norm."""
        d = x.shape[1]
        write_rows(x, out[:, :d])
        torch.sum(x.square(), 1, out=out[:, d])

    def natural(self, params: GaussianSphericalParams) -> Tensor:
        """Return the bias, mu/sigma^2 and -1/(2 sigma^2)."""
        precisions = params.variances.reciprocal()
        linear = params.means * precisions[:, None]
        bias = _log_constant(params) - 0.5 * (linear * params.means).sum(1)
        return torch.cat([bias[:, None], linear, -0.5 * precisions[:, None]], 1)

    def log_likelihood(self, params: GaussianSphericalParams, x: Tensor) -> Tensor:
        """Return the log-density through differences, shape (n, k)."""
        norms = scaled_square_norms(x, params.means, params.variances.reciprocal()[:, None])
        return norms.mul_(-0.5).add_(_log_constant(params).to(x.dtype))

    def maximize(self, statistics: Moments, reference: Tensor | None = None) -> GaussianSphericalParams:
        """Return means and floored mean variances."""
        counts, d = statistics.counts, statistics.sums.shape[1] - 1
        first, second = statistics.sums[:, :d], statistics.sums[:, d]
        means, total = safe_means(counts, first), counts.sum()
        overall = first.sum(0) / total
        pooled = ((second.sum() / total - overall.square().sum()) / d).clamp_min(0)
        variances = (second / counts.clamp_min(EMPTY) - means.square().sum(1)) / d
        variances = torch.where(counts <= EMPTY, pooled, variances)
        floor = variance_floor((pooled if reference is None else reference.mean())[None], self.min_variance)
        return GaussianSphericalParams(means, torch.maximum(variances + self.added(means).mean(), floor))

    def spreads(self, params: GaussianSphericalParams) -> Tensor:
        """Return the variance of each feature, shape (k, d)."""
        return params.variances[:, None].expand_as(params.means)

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the sums that ``maximize`` needs, of moments."""
        return Moments(counts, torch.cat([first, second.sum(1, keepdim=True)], 1))

    def sample(self, params: GaussianSphericalParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + sigma_k e, e standard normal."""
        noise = standard_normal(len(index), params.means, generator)
        return params.means[index] + params.variances.sqrt()[index, None] * noise

    def collapsed(self, params: GaussianSphericalParams, variances: Tensor) -> Tensor:
        """Return which components stand on the floor."""
        return params.variances <= variance_floor(variances.mean()[None], self.min_variance) * 1.01

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianSphericalParams]]:
        """Return three balls of different sizes."""
        variances = torch.tensor([1.0, 0.4, 1.5], dtype=torch.float64)
        return [(cls(), GaussianSphericalParams(three_means(), variances))]


def _log_constant(params: GaussianSphericalParams) -> Tensor:
    return -0.5 * params.means.shape[1] * (params.variances.log() + LOG_2PI)
