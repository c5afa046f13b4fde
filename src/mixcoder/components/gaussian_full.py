"""Gaussians, each with a covariance of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Kernel, PassSetting
from mixcoder.components.exponential import write_rows
from mixcoder.components.gaussian import Gaussian, GaussianParams, standard_normal, three_means
from mixcoder.ops.gaussian import (
    EMPTY,
    LOG_2PI,
    floor_covariances,
    log_det_whitener,
    pack,
    packed_diagonal,
    quadratic_form,
    safe_means,
    stands_alone_on_floor,
    total_variances,
    unpack,
    variance_floor,
    whitened_square_norms,
    whitening_factors,
    write_products,
)
from mixcoder.ops.moments import MAX_PACKED, class_scatters, packed_features
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianFullParams(GaussianParams):
    """Parameters of :class:`GaussianFull`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    covariances : Tensor, shape (k, d, d)
    whiteners : Tensor, shape (k, d, d)
        Lower triangular W with W' W the precision.
    """

    covariances: Tensor
    whiteners: Tensor

    @classmethod
    def build(cls, means: Tensor, covariances: Tensor) -> Self:
        """Return the parameters of given means and positive definite covariances."""
        return cls(means, covariances, whitening_factors(covariances)[0])


@final
@dataclass(frozen=True)
class GaussianFull(Gaussian[GaussianFullParams]):
    r"""Gaussian components with full covariances.

    .. math::
        \log p(x|k) = -\tfrac12 (x-\mu_k)'\Sigma_k^{-1}(x-\mu_k) - \tfrac12\log|\Sigma_k|
                      - \tfrac d2 \log 2\pi

    Examples
    --------
    >>> family, params = GaussianFull.examples()[0]
    >>> family.log_likelihood(params, params.means).argmax(1).equal(torch.arange(params.n_components))
    True
    """

    geometry: ClassVar[str] = "affine"
    writes_columns: ClassVar[bool] = True

    def width(self, n_features: int) -> int:
        """Return 1 + d + d(d+1)/2."""
        return 1 + n_features + n_features * (n_features + 1) // 2

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x and the products x_i x_j, i <= j."""
        write_rows(x, out[:, : x.shape[1]])
        write_products(x, out[:, x.shape[1] :])

    def natural(self, params: GaussianFullParams) -> Tensor:
        """Return the bias, P_k mu_k, and the packed -P_k/2."""
        precisions = params.whiteners.mT @ params.whiteners
        linear = (precisions @ params.means.unsqueeze(2)).squeeze(2)
        bias = torch.sub(_log_constant(params), torch.linalg.vecdot(linear, params.means), alpha=0.5)
        return torch.cat([bias[:, None], linear, quadratic_form(precisions)], 1)

    def log_likelihood(self, params: GaussianFullParams, x: Tensor) -> Tensor:
        """Return the log-density through whitened differences, shape (n, k)."""
        norms = whitened_square_norms(x, params.means, params.whiteners)
        return norms.mul_(-0.5).add_(_log_constant(params).to(x.dtype))

    def statistics(
        self, params: GaussianFullParams | None, x: Tensor, code: Code, weights: Tensor | None = None
    ) -> Moments:
        """Return counts, sums and packed scatters; never the products of many features row by row."""
        if x.shape[1] <= MAX_PACKED:
            return super().statistics(params, x, code, weights)
        return Moments(*class_scatters(x, code, weights))

    def maximize(self, statistics: Moments, reference: Tensor | None = None) -> GaussianFullParams:
        """Return means and floored covariances."""
        counts, d = statistics.counts, packed_features(statistics.sums.shape[1])
        averages = statistics.sums / counts.clamp_min(EMPTY).unsqueeze(1)
        means, second = averages[:, :d].contiguous(), unpack(averages[:, d:], d)
        covariances = torch.addcmul(second, means.unsqueeze(2), means.unsqueeze(1), value=-1)
        some_empty = float(counts.amin()) <= EMPTY
        variances = reference
        if variances is None or some_empty:
            first, total = statistics.sums[:, :d], statistics.sums[:, d:].sum(0)
            variances = total_variances(counts, first, packed_diagonal(total, d))
        if some_empty:
            means = safe_means(counts, statistics.sums[:, :d])
            covariances = torch.where((counts <= EMPTY)[:, None, None], torch.diag(variances), covariances)
        if self.added_variance != 0.0:
            covariances.diagonal(dim1=1, dim2=2).add_(self.added(means))
        floor = variance_floor(variances if reference is None else reference, self.min_variance)
        return GaussianFullParams(means, *floor_covariances(covariances, floor))

    def spreads(self, params: GaussianFullParams) -> Tensor:
        """Return the covariances, shape (k, d, d)."""
        return params.covariances

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the sums that ``maximize`` needs, of moments."""
        return Moments(counts, torch.cat([first, pack(second)], 1))

    def sample(self, params: GaussianFullParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + L_k e, with L_k L_k' the covariance and e standard normal."""
        factors = torch.linalg.cholesky(params.covariances)
        noise = standard_normal(len(index), params.means, generator)
        rows = torch.empty_like(noise)
        for k in range(params.n_components):
            chosen = index == k
            rows[chosen] = params.means[k] + noise[chosen] @ factors[k].T
        return rows

    def n_parameters(self, params: GaussianFullParams) -> int:
        """Return k (d + d(d+1)/2)."""
        k, d = params.means.shape
        return k * (d + d * (d + 1) // 2)

    def collapsed(self, params: GaussianFullParams, variances: Tensor) -> Tensor:
        """Return which covariances touch the floor in some direction that the rows do vary in."""
        floor = variance_floor(variances, self.min_variance)
        return stands_alone_on_floor(params.covariances, params.means, floor)

    def kernel(
        self, params: GaussianFullParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[GaussianFullParams, Moments]:
        """Return the packed products for few features, whitening for many."""
        if params.means.shape[1] <= MAX_PACKED:
            return super().kernel(params, log_weights, setting)
        dtype = setting.dtype
        return GaussianFullKernel(
            self, params.to(dtype=dtype), log_weights.to(dtype), dtype, setting.workspace
        )

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianFullParams]]:
        """Return three tilted clouds in the plane, and two on the line."""
        factors = torch.tensor(
            [[[1.0, 0.0], [0.5, 0.7]], [[0.6, 0.0], [-0.4, 1.1]], [[1.3, 0.0], [0.2, 0.5]]],
            dtype=torch.float64,
        )
        line = torch.tensor([[-2.0], [1.5]], dtype=torch.float64)
        widths = torch.tensor([[[0.25]], [[1.44]]], dtype=torch.float64)
        return [
            (cls(), GaussianFullParams.build(three_means(), factors @ factors.mT)),
            (cls(), GaussianFullParams.build(line, widths)),
        ]


@dataclass(frozen=True)
class GaussianFullKernel(Kernel[GaussianFullParams, Moments]):
    """A pass for many features: one whitening and one weighted scatter a component."""

    def statistics(self, rows: Tensor, code: Code, weights: Tensor | None) -> Moments:
        """Return counts, sums and packed scatters of the block."""
        return Moments(*class_scatters(rows, code, weights))


def _log_constant(params: GaussianFullParams) -> Tensor:
    return log_det_whitener(params.whiteners) - 0.5 * params.means.shape[1] * LOG_2PI
