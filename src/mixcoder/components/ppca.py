"""Probabilistic principal component analysis: flat clouds in round noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Kernel, PassSetting, n_components_of
from mixcoder.components.exponential import write_rows
from mixcoder.components.gaussian import Gaussian, GaussianParams
from mixcoder.components.latent_kernel import LatentKernel, LatentMoments, latent_moments, regressed
from mixcoder.components.observed import Observed
from mixcoder.components.observed_low_rank import LatentSums, ObservedLowRank
from mixcoder.errors import DataError
from mixcoder.ops import low_rank
from mixcoder.ops.gaussian import (
    EMPTY,
    LOG_2PI,
    quadratic_form,
    safe_means,
    total_variances,
    unpack,
    variance_floor,
    write_products,
)
from mixcoder.ops.moments import MAX_PACKED, packed_features
from mixcoder.ops.workspace import Workspace
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class PPCAParams(GaussianParams):
    """Parameters of :class:`PPCA`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    loadings : Tensor, shape (k, d, q)
        W, orthogonal columns by falling length.
    noise_variances : Tensor, shape (k,)
        s^2.
    """

    loadings: Tensor
    noise_variances: Tensor


@final
@dataclass(frozen=True)
class PPCA(Gaussian[PPCAParams]):
    r"""Gaussian components with covariance W_k W_k' + s_k^2 I: planes with round noise around them.

    .. math:: x|z,k \sim N(\mu_k + W_k z,\, s_k^2 I), \quad z \sim N(0, I)

    A row's code is (component, z): ``latent_means`` and ``decode_latent``, of a fitted model in the coordinates of
    its ``frame``. The M-step is in closed form and, at a fixed code, the global maximiser:
    one eigendecomposition a component. Its sums are scatters, d(d+1)/2 numbers a component. Above 160 features
    no d x d matrix is formed: the sums are those of the latent axes, d q numbers a component, and ``maximize`` is one
    parameter-expanded EM step, after which the likelihood is never lower.

    Parameters
    ----------
    min_variance : float
        Smallest s_k^2, as a fraction of the variance of the data averaged over the features.
    added_variance : float
        Added to s_k^2, in squared units of the rows; a sequence is averaged. See
        :class:`~mixcoder.components.Gaussian`.
    n_latent : int
        q, the dimension of the planes; at least one and less than the number of features.

    Examples
    --------
    >>> family, params = PPCA.examples()[0]
    >>> z = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> index = torch.tensor([1])
    >>> row = family.decode_latent(params, index, z)
    >>> family.latent_means(params, row)[0, 1].round(decimals=1) + 0.0
    tensor([1., 0.], dtype=torch.float64)

    References
    ----------
    Tipping & Bishop (1999), "Mixtures of probabilistic principal component analysers", equations 6-8.
    """

    n_latent: int = field(kw_only=True)  # no default: the fields of the base have some

    common_scale: ClassVar[bool] = True
    writes_columns: ClassVar[bool] = True
    max_packed: ClassVar[int] = MAX_PACKED

    def __init__(
        self,
        n_latent: int,
        min_variance: float = 1e-6,
        added_variance: float | tuple[float, ...] = 0.0,
    ) -> None:
        object.__setattr__(self, "n_latent", n_latent)
        object.__setattr__(self, "min_variance", min_variance)
        object.__setattr__(self, "added_variance", added_variance)
        self.__post_init__()

    def __post_init__(self) -> None:
        low_rank.require_whole(self.n_latent)
        if not self.min_variance > 0:
            raise ValueError(f"min_variance must be positive, got {self.min_variance!r}.")
        super().__post_init__()

    def in_domain(self, lowest: Tensor, highest: Tensor) -> Self:
        """Return the family itself, once there are more features than latent axes."""
        del highest
        try:
            low_rank.require_rank("PPCA", self.n_latent, len(lowest))
        except ValueError as error:
            raise DataError(str(error)) from None
        return self

    def width(self, n_features: int) -> int:
        """Return 1 + d + d(d+1)/2, or (1 + q)(1 + d) for many features."""
        if n_features > self.max_packed:
            return (1 + self.n_latent) * (1 + n_features)
        return 1 + n_features + n_features * (n_features + 1) // 2

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x and the products x_i x_j, i <= j."""
        write_rows(x, out[:, : x.shape[1]])
        write_products(x, out[:, x.shape[1] :])

    def natural(self, params: PPCAParams) -> Tensor:
        """Return the bias, P_k mu_k, and the packed -P_k/2."""
        noise = params.noise_variances[:, None]
        precisions = low_rank.precision_matrices(params.loadings, noise)
        linear = (precisions @ params.means[:, :, None])[:, :, 0]
        d = params.means.shape[1]
        _, factors = low_rank.posterior(params.loadings, noise)
        constants = -0.5 * (low_rank.log_det(noise, factors, d) + d * LOG_2PI)
        bias = constants - 0.5 * (linear * params.means).sum(1)
        return torch.cat([bias[:, None], linear, quadratic_form(precisions)], 1)

    def log_likelihood(self, params: PPCAParams, x: Tensor) -> Tensor:
        """Return the log-density through the latent means, shape (n, k)."""
        return low_rank.log_density(x, params.means, params.loadings, params.noise_variances[:, None])

    def statistics(  # type: ignore[override]
        self, params: PPCAParams | None, x: Tensor, code: Code, weights: Tensor | None = None
    ) -> Moments | LatentMoments:
        """Return counts, sums and packed scatters; for many features the sums of the latent axes."""
        if x.shape[1] <= self.max_packed:
            return super().statistics(params, x, code, weights)
        low_rank.require_rank("PPCA", self.n_latent, x.shape[1])
        if params is not None:
            equal = x.new_zeros(params.n_components, dtype=torch.float64)
            setting = PassSetting(x.dtype, Workspace(), x.new_zeros(x.shape[1]), math.inf)
            code = code.clone() if isinstance(code, Tensor) else code
            return LatentKernel.of(self, params, equal, setting, x.dtype).statistics(x, code, weights)
        # No axes yet: the same random ones for every component.
        generator = torch.Generator().manual_seed(0)
        axes = torch.randn(x.shape[1], self.n_latent, generator=generator, dtype=torch.float64).to(x)
        latent = (x @ axes).repeat(1, n_components_of(code))
        if isinstance(code, Tensor) and weights is not None:
            code = code * weights.to(code.dtype)[:, None]
        return latent_moments(x, latent, x.double().square().sum(1), code, weights, unit=False)

    def maximize(  # type: ignore[override]
        self, statistics: Moments | LatentMoments, reference: Tensor | None = None
    ) -> PPCAParams:
        """Return means, principal axes, and the floored mean of the variances that they leave out."""
        if isinstance(statistics, LatentMoments):
            return self._step(statistics, reference)
        counts, d = statistics.counts, packed_features(statistics.sums.shape[1])
        low_rank.require_rank("PPCA", self.n_latent, d)
        first, second = statistics.sums[:, :d], unpack(statistics.sums[:, d:], d)
        means = safe_means(counts, first)
        overall = total_variances(counts, first, second.diagonal(dim1=1, dim2=2).sum(0)).mean()
        covariances = second / counts.clamp_min(EMPTY)[:, None, None] - means[:, :, None] * means[:, None, :]
        # A component without rows is a ball of the variance of all: it favours no direction.
        ball = overall * torch.eye(d, dtype=means.dtype, device=means.device)
        covariances = torch.where((counts <= EMPTY)[:, None, None], ball, covariances)
        covariances.diagonal(dim1=1, dim2=2).add_(self.added(means).mean())
        whole = overall if reference is None else reference.mean()
        floor = variance_floor(whole[None], self.min_variance)
        return PPCAParams(means, *low_rank.principal_axes(covariances, self.n_latent, floor))

    def _step(self, statistics: LatentMoments, reference: Tensor | None) -> PPCAParams:
        """Return the parameters after one EM step from the sums of the latent axes."""
        counts, d = statistics.counts, statistics.sums.shape[1]
        means, loadings, noise, found = regressed(statistics)
        weight = counts.sum().clamp_min(EMPTY)
        centre = statistics.sums.sum(0) / weight
        overall = (statistics.squares.sum() / weight - centre.square().sum()).clamp_min(0) / d
        whole = overall if reference is None else reference.mean()
        floor = variance_floor(whole[None], self.min_variance)
        noise = torch.maximum(noise + self.added(means).mean(), floor)
        if not bool(found.all()):
            # A component without rows: half of the variance is noise, half belongs to the axes in turn. With no
            # loadings at all, no EM step would ever find any.
            half = 0.5 * torch.maximum(overall, floor[0])
            axes = means.new_zeros(d, self.n_latent)
            features = torch.arange(d, device=means.device)
            axes[features, features % self.n_latent] = half.sqrt()
            loadings = torch.where(found[:, None, None], loadings, axes)
            noise = torch.where(found, noise, half)
        return PPCAParams(means, loadings, noise)

    def observe(self, params: PPCAParams, x: Tensor) -> Observed[Any]:
        """Return the rows with missing entries integrated out."""

        def to_statistics(sums: LatentSums) -> LatentMoments:
            return LatentMoments(
                sums.counts,
                sums.sums,
                sums.squares.sum(1),
                sums.latent_sums,
                sums.latent_products,
                sums.cross_products.mT,
            )

        noise = params.noise_variances[:, None].expand_as(params.means)
        packed = x.shape[1] <= self.max_packed
        return ObservedLowRank.of(self, params, x, noise, None if packed else to_statistics)

    def observed_size(self, params: PPCAParams) -> tuple[int, int]:
        """Return how many numbers ``observe`` keeps for a pattern of missing entries, and for a row."""
        k, d, q = params.loadings.shape
        return 0, k * (q * q + q + 1) + (q + 8) * d

    def sample(self, params: PPCAParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + W_k z + s_k e, z and e standard normal."""
        noise = params.noise_variances[:, None]
        return low_rank.draw(params.means, params.loadings, noise, index, generator)

    def latent_means(self, params: PPCAParams, x: Tensor) -> Tensor:
        """Return E[z | x_n, k], shape (n, k, q)."""
        projections, _ = low_rank.posterior(params.loadings, params.noise_variances[:, None])
        return low_rank.latent_means(x, params.means, projections)

    def decode_latent(self, params: PPCAParams, index: Tensor, z: Tensor) -> Tensor:
        """Return the row of each code (k, z), mu_k + W_k z_n, shape (n, d)."""
        return low_rank.decode_latent(params.means, params.loadings, index, z)

    def n_parameters(self, params: PPCAParams) -> int:
        """Return k (d + dq - q(q-1)/2 + 1): a rotation of z changes nothing."""
        k, d, q = params.loadings.shape
        return k * (d + d * q - q * (q - 1) // 2 + 1)

    def collapsed(self, params: PPCAParams, variances: Tensor) -> Tensor:
        """Return which noise variances stand on the floor."""
        return params.noise_variances <= variance_floor(variances.mean()[None], self.min_variance) * 1.01

    def kernel(
        self, params: PPCAParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[PPCAParams, Moments]:
        """Return the packed products for few features, latent axes for many; float64 where it must be."""
        if params.means.shape[1] <= self.max_packed:
            return super().kernel(params, log_weights, setting)
        narrow = LatentKernel.rounding(params, setting.dtype) <= setting.tolerance
        dtype = setting.dtype if narrow else torch.float64
        return LatentKernel.of(self, params, log_weights, setting, dtype)  # type: ignore[return-value]

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, PPCAParams]]:
        """Return two planes in four dimensions, and two lines in three."""
        means = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 1.0, -2.0, 3.0]], dtype=torch.float64)
        planes = torch.tensor(
            [
                [[1.2, 0.0], [0.4, 0.7], [-0.5, 0.5], [0.2, -0.3]],
                [[0.3, 0.8], [-0.9, 0.2], [0.6, 0.3], [0.8, -0.2]],
            ],
            dtype=torch.float64,
        )
        lines = torch.tensor([[[1.3], [0.5], [-0.4]], [[-0.3], [0.9], [0.8]]], dtype=torch.float64)
        noise = torch.tensor([0.2, 0.3], dtype=torch.float64)
        return [(cls(2), PPCAParams(means, planes, noise)), (cls(1), PPCAParams(means[:, :3], lines, noise))]
