"""Round Gaussians of one size, fitted or fixed: the model under k-means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder.components.exponential import write_rows
from mixcoder.components.gaussian import Gaussian, GaussianParams, standard_normal, three_means
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import LOG_2PI, by_group, safe_means, scaled_square_norms, variance_floor
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianTiedSphericalParams(GaussianParams):
    """Parameters of :class:`GaussianTiedSpherical`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    variance : Tensor, shape (g,)
        One a group.
    """

    variance: Tensor
    shared: ClassVar[tuple[str, ...]] = ("variance",)


@final
@dataclass(frozen=True)
class GaussianTiedSpherical(Gaussian[GaussianTiedSphericalParams]):
    r"""Gaussian components with one covariance sigma^2 I in common.

    .. math:: \log p(x|k) = -\frac{|x-\mu_k|^2}{2\sigma^2} - \tfrac d2 \log 2\pi\sigma^2

    Parameters
    ----------
    variance : float, optional
        Fixes sigma^2, in squared units of the rows, instead of fitting it. With equal weights and a hard
        code the fit is then k-means: the sum of squares is -2 sigma^2 times the bound, up to a constant.

    Examples
    --------
    >>> family, params = GaussianTiedSpherical.examples()[0]
    >>> family.log_likelihood(params, params.means).argmax(1).equal(torch.arange(params.n_components))
    True
    """

    variance: float | None = None

    common_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance is not None and not self.variance > 0:
            raise ValueError(f"variance must be positive or None, got {self.variance!r}.")

    def width(self, n_features: int) -> int:
        """Return 1 + d."""
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x."""
        write_rows(x, out)

    def natural(self, params: GaussianTiedSphericalParams) -> Tensor:
        """Return the bias and mu/sigma^2."""
        means = by_group(params.means, params.variance)  # (g, k/g, d)
        linear = means / params.variance[:, None, None]
        bias = _log_constant(params)[:, None] - 0.5 * (linear * means).sum(2)
        return torch.cat([bias[:, :, None], linear], 2).flatten(0, 1)

    def row_terms(self, x: Tensor) -> Tensor:
        """Return the squared norm of the row."""
        return x.square().sum(1, keepdim=True)

    def common(self, params: GaussianTiedSphericalParams) -> Tensor:
        """Return -1/(2 sigma^2)."""
        return -0.5 / params.variance[:, None]

    def log_likelihood(self, params: GaussianTiedSphericalParams, x: Tensor) -> Tensor:
        """Return the log-density through differences, shape (n, k)."""
        precisions = params.variance.reciprocal().expand(params.n_components, 1)
        norms = scaled_square_norms(x, params.means, precisions)
        return norms.mul_(-0.5).add_(_log_constant(params)[0].to(x.dtype))

    def maximize(self, statistics: Moments, reference: Tensor | None = None) -> GaussianTiedSphericalParams:
        """Return means and the floored mean variance within components, or the fixed one."""
        assert statistics.pooled is not None
        counts = by_group(statistics.counts, statistics.pooled)  # (g, k/g)
        sums = by_group(statistics.sums, statistics.pooled)
        means, total, d = safe_means(counts, sums), counts.sum(1), sums.shape[2]
        if self.variance is not None:
            fixed = torch.full_like(total, self.variance)
            return GaussianTiedSphericalParams(means.flatten(0, 1), fixed)
        second = statistics.pooled[:, 0] / total
        variance = (second - (means.square().sum(2) * counts).sum(1) / total) / d
        overall = (second - (sums.sum(1) / total[:, None]).square().sum(1)) / d
        whole = overall[:1].clamp_min(0) if reference is None else reference.mean()[None]
        floor = variance_floor(whole, self.min_variance)
        variance = torch.maximum(variance + self.added(means).mean(), floor)
        return GaussianTiedSphericalParams(means.flatten(0, 1), variance)

    def spreads(self, params: GaussianTiedSphericalParams) -> Tensor:
        """Return the variance of each feature, shape (k, d)."""
        return params.variance[:, None].expand_as(params.means)

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the sums that ``maximize`` needs, of moments."""
        return Moments(counts, first, second.sum()[None, None])

    def sample(
        self, params: GaussianTiedSphericalParams, index: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return mu_k + sigma e, e standard normal."""
        noise = standard_normal(len(index), params.means, generator)
        return params.means[index] + params.variance.sqrt() * noise

    def n_parameters(self, params: GaussianTiedSphericalParams) -> int:
        """Return k d, and one more where the variance is fitted."""
        return params.means.numel() + (self.variance is None)

    def in_frame(self, frame: Frame) -> Self:
        """Return the family with its variances in squared working units."""
        family = super().in_frame(frame)
        if family.variance is None:
            return family
        return replace(family, variance=family.variance * float(frame.scale[0]) ** 2)

    def collapsed(self, params: GaussianTiedSphericalParams, variances: Tensor) -> Tensor | None:
        """Return whether the common variance stands on the floor, for all components alike."""
        if self.variance is not None:
            return None
        floor = variance_floor(variances.mean()[None], self.min_variance)
        return (params.variance <= floor * 1.01).expand(params.n_components)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianTiedSphericalParams]]:
        """Return three balls of one size, fitted and fixed."""
        variance = torch.tensor([0.8], dtype=torch.float64)
        params = GaussianTiedSphericalParams(three_means(), variance)
        return [(cls(), params), (cls(variance=0.8), params)]


def _log_constant(params: GaussianTiedSphericalParams) -> Tensor:
    return -0.5 * params.means.shape[1] * (params.variance.log() + LOG_2PI)
