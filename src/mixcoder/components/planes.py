"""What families of planes with round noise share: packed scatters for few features, latent axes for many."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Kernel, PassSetting, n_components_of
from mixcoder.components.exponential import ExponentialFamily, write_rows
from mixcoder.components.gaussian import GaussianParams
from mixcoder.components.latent_kernel import LatentKernel, LatentMoments, RoundPlanes, latent_moments
from mixcoder.errors import DataError
from mixcoder.ops import low_rank
from mixcoder.ops.gaussian import quadratic_form, write_products
from mixcoder.ops.moments import MAX_PACKED
from mixcoder.ops.workspace import Workspace
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class PlaneParams(GaussianParams):
    """Parameters with a mean and latent axes per component.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    loadings : Tensor, shape (k, d, q)
        What turns z into a row; a component of lower rank has columns of zeros behind its own.
    """

    loadings: Tensor


P = TypeVar("P", bound=PlaneParams)


class Planes(ExponentialFamily[P]):
    r"""Base of the families of planes with round noise around them.

    .. math:: \log p(x|k) = -\tfrac12\left[ |x-\mu_k|^2/s_k^2 - |B_k(x-\mu_k)|^2 + c_k \right]

    A concrete family says ``planes``, its s^2, B and c, and ``maximize``. Up to ``max_packed`` features the sums are
    scatters, d(d+1)/2 numbers a component; above, no d x d matrix is formed and the sums are those of the latent axes
    t = B (x - mu), d q numbers a component.
    """

    n_latent: int | tuple[int, ...]

    writes_columns: ClassVar[bool] = True
    max_packed: ClassVar[int] = MAX_PACKED
    unit_latent: ClassVar[bool] = True
    """Whether t has variance one given x, as that of a normal z; else it is known."""

    @abstractmethod
    def planes(self, params: P) -> RoundPlanes:
        """Return s^2, B and c of each component."""

    def in_domain(self, lowest: Tensor, highest: Tensor) -> Self:
        """Return the family itself, once there are more features than latent axes."""
        del highest
        try:
            low_rank.require_rank(type(self).__name__, self.n_latent, len(lowest))
        except ValueError as error:
            raise DataError(str(error)) from None
        return self

    @property
    def seeding_rank(self) -> int:
        """The largest rank: a plane of too many directions tells more than one of too few."""
        return low_rank.largest_rank(self.n_latent)

    def width(self, n_features: int) -> int:
        """Return 1 + d + d(d+1)/2, or (1 + q)(1 + d) for many features."""
        if n_features > self.max_packed:
            return (1 + low_rank.largest_rank(self.n_latent)) * (1 + n_features)
        return 1 + n_features + n_features * (n_features + 1) // 2

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x and the products x_i x_j, i <= j."""
        write_rows(x, out[:, : x.shape[1]])
        write_products(x, out[:, x.shape[1] :])

    def natural(self, params: P) -> Tensor:
        """Return the bias, P_k mu_k, and the packed -P_k/2, with P = I/s^2 - B'B."""
        planes = self.planes(params)
        precisions = -(planes.axes.mT @ planes.axes)
        precisions = 0.5 * (precisions + precisions.mT)
        precisions.diagonal(dim1=1, dim2=2).add_(planes.noise_variances.reciprocal()[:, None])
        linear = (precisions @ params.means[:, :, None])[:, :, 0]
        bias = -0.5 * (planes.constants + (linear * params.means).sum(1))
        return torch.cat([bias[:, None], linear, quadratic_form(precisions)], 1)

    def statistics(  # type: ignore[override]
        self, params: P | None, x: Tensor, code: Code, weights: Tensor | None = None
    ) -> Moments | LatentMoments:
        """Return counts, sums and packed scatters; for many features the sums of the latent axes."""
        if x.shape[1] <= self.max_packed:
            return super().statistics(params, x, code, weights)
        low_rank.require_rank(type(self).__name__, self.n_latent, x.shape[1])
        if params is not None:
            equal = x.new_zeros(params.n_components, dtype=torch.float64)
            setting = PassSetting(x.dtype, Workspace(), x.new_zeros(x.shape[1]), math.inf)
            code = code.clone() if isinstance(code, Tensor) else code
            sums = self._latent_kernel(params, equal, setting, x.dtype).statistics(x, code, weights)
            return replace(sums, pooled=self.pooled(x, weights))
        # No axes yet: the same random ones for every component.
        generator, k = torch.Generator().manual_seed(0), n_components_of(code)
        q = low_rank.largest_rank(self.n_latent)
        axes = torch.randn(x.shape[1], q, generator=generator, dtype=torch.float64).to(x)
        latent = (x @ axes).repeat(1, k)
        has_axis = low_rank.axis_mask(self.n_latent, k, x.device)
        if has_axis is not None:
            latent = latent * has_axis.flatten()
        if isinstance(code, Tensor) and weights is not None:
            code = code * weights.to(code.dtype)[:, None]
        norms = x.double().square().sum(1)
        return latent_moments(x, latent, norms, code, weights, unit=False, pooled=self.pooled(x, weights))

    def kernel(self, params: P, log_weights: Tensor, setting: PassSetting) -> Kernel[P, Moments]:
        """Return the packed products for few features, latent axes for many; float64 where it must be."""
        if params.means.shape[1] <= self.max_packed:
            return super().kernel(params, log_weights, setting)
        narrow = self.rounding(params, setting.dtype) <= setting.tolerance
        dtype = setting.dtype if narrow else torch.float64
        return self._latent_kernel(params, log_weights, setting, dtype)  # type: ignore[return-value]

    def rounding(self, params: P, dtype: torch.dtype) -> float:
        """Return the error in nats to expect of the latent axes in a dtype, on a typical row of each component."""
        planes = self.planes(params)
        reach = params.loadings.square().sum((1, 2))
        return LatentKernel.rounding(params.means, reach, planes.noise_variances, dtype)

    def latent_means(self, params: P, x: Tensor) -> Tensor:
        """Return E[z | x_n, k], shape (n, k, q)."""
        return low_rank.latent_means(x, params.means, self.projections(params))

    @abstractmethod
    def projections(self, params: P) -> Tensor:
        """Return what turns a row less the mean into its latent mean, shape (k, q, d)."""

    def decode_latent(self, params: P, index: Tensor, z: Tensor) -> Tensor:
        """Return the row of each code (k, z), mu_k + W_k z_n, shape (n, d)."""
        return low_rank.decode_latent(params.means, params.loadings, index, z)

    def _latent_kernel(
        self, params: P, log_weights: Tensor, setting: PassSetting, dtype: torch.dtype
    ) -> LatentKernel:
        planes = self.planes(params)
        return LatentKernel.of(self, params, planes, log_weights, setting, dtype, unit=self.unit_latent)
