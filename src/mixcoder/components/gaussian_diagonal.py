"""Gaussians with uncorrelated features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder.components.exponential import write_rows
from mixcoder.components.gaussian import Gaussian, GaussianParams, standard_normal, three_means
from mixcoder.ops.gaussian import (
    EMPTY,
    LOG_2PI,
    safe_means,
    scaled_square_norms,
    total_variances,
    variance_floor,
    variances_alone_on_floor,
)
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianDiagonalParams(GaussianParams):
    """Parameters of :class:`GaussianDiagonal`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    variances : Tensor, shape (k, d)
    """

    variances: Tensor


@final
@dataclass(frozen=True)
class GaussianDiagonal(Gaussian[GaussianDiagonalParams]):
    r"""Gaussian components with diagonal covariances.

    .. math:: \log p(x|k) = -\tfrac12 \sum_d \left[ \frac{(x_d-\mu_{kd})^2}{\sigma^2_{kd}}
              + \log 2\pi\sigma^2_{kd} \right]

    Examples
    --------
    >>> family, params = GaussianDiagonal.examples()[0]
    >>> family.log_likelihood(params, params.means).argmax(1).equal(torch.arange(params.n_components))
    True
    """

    geometry: ClassVar[str] = "units"

    def width(self, n_features: int) -> int:
        """Return 1 + 2d."""
        return 1 + 2 * n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x and its squares."""
        write_rows(x, out[:, : x.shape[1]])
        torch.mul(x, x, out=out[:, x.shape[1] :])

    def natural(self, params: GaussianDiagonalParams) -> Tensor:
        """Return the bias, mu/sigma^2 and -1/(2 sigma^2)."""
        precisions = params.variances.reciprocal()
        linear = params.means * precisions
        bias = torch.addcmul(params.variances.log().add_(LOG_2PI), linear, params.means).sum(1).mul_(-0.5)
        return torch.cat([bias[:, None], linear, -0.5 * precisions], 1)

    def log_likelihood(self, params: GaussianDiagonalParams, x: Tensor) -> Tensor:
        """Return the log-density through differences, shape (n, k)."""
        norms = scaled_square_norms(x, params.means, params.variances.reciprocal())
        constant = -0.5 * (params.variances.log() + LOG_2PI).sum(1)
        return norms.mul_(-0.5).add_(constant.to(x.dtype))

    def maximize(self, statistics: Moments, reference: Tensor | None = None) -> GaussianDiagonalParams:
        """Return means and floored variances."""
        counts = statistics.counts
        first, second = statistics.sums.chunk(2, dim=1)
        means = safe_means(counts, first)
        total = total_variances(counts, first, second.sum(0))
        variances = torch.addcmul(second / counts.clamp_min(EMPTY).unsqueeze(1), means, means, value=-1)
        if float(counts.amin()) <= EMPTY:
            variances = torch.where((counts <= EMPTY)[:, None], total, variances)
        if self.added_variance != 0.0:
            variances.add_(self.added(means))
        floor = variance_floor(total if reference is None else reference, self.min_variance)
        return GaussianDiagonalParams(means, torch.maximum(variances, floor))

    def spreads(self, params: GaussianDiagonalParams) -> Tensor:
        """Return the variances, shape (k, d)."""
        return params.variances

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the sums that ``maximize`` needs, of moments."""
        return Moments(counts, torch.cat([first, second], 1))

    def sample(self, params: GaussianDiagonalParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + sigma_k e, e standard normal."""
        noise = standard_normal(len(index), params.means, generator)
        return params.means[index] + params.variances.sqrt()[index] * noise

    def collapsed(self, params: GaussianDiagonalParams, variances: Tensor) -> Tensor:
        """Return which components stand on the floor along some feature that varies."""
        floor = variance_floor(variances, self.min_variance)
        return variances_alone_on_floor(params.variances, params.means, floor)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianDiagonalParams]]:
        """Return three axis-parallel clouds."""
        variances = torch.tensor([[1.0, 0.5], [0.4, 1.2], [1.5, 0.3]], dtype=torch.float64)
        return [(cls(), GaussianDiagonalParams(three_means(), variances))]
