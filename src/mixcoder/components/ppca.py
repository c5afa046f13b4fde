"""Probabilistic principal component analysis: flat clouds in round noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder.components.gaussian import Gaussian
from mixcoder.components.latent_kernel import LatentMoments, RoundPlanes, regressed
from mixcoder.components.observed import Observed
from mixcoder.components.observed_low_rank import LatentSums, ObservedLowRank
from mixcoder.components.planes import PlaneParams, Planes
from mixcoder.ops import low_rank
from mixcoder.ops.gaussian import EMPTY, LOG_2PI, safe_means, total_variances, unpack, variance_floor
from mixcoder.ops.moments import packed_features
from mixcoder.statistics import Moments

NOISES = ("component", "shared")
"""Whose noise it is: each component's own, or one for all."""


@dataclass(frozen=True)
class PPCAParams(PlaneParams):
    """Parameters of :class:`PPCA`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    loadings : Tensor, shape (k, d, q)
        W, orthogonal columns by falling length.
    noise_variances : Tensor, shape (k,)
        s^2; all equal where it is shared.
    """

    noise_variances: Tensor


@final
@dataclass(frozen=True)
class PPCA(Planes[PPCAParams], Gaussian[PPCAParams]):  # type: ignore[override]
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
    n_latent : int or tuple of int
        q, the dimension of the planes, at least one and less than the number of features; or one a component.
    noise : {"component", "shared"}
        Whether each component has its own s^2, or all have one.
    shrinkage : float
        Strength of a prior on the noise: each component is given the noise variance of its own rows and of
        ``shrinkage`` times an average component's rows more, whose noise is the variance v of the data averaged over
        the features. With N rows the bound then has the log-prior

        .. math:: -\tfrac12\, \mathrm{shrinkage}\, \tfrac NK \sum_k d\, [\log s_k^2 + v / s_k^2],

        inverse gamma, and no component gains by shrinking to a row or to a few.

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

    n_latent: int | tuple[int, ...] = field(kw_only=True)  # no default: the fields of the base have some
    noise: str = "component"
    shrinkage: float = 0.0

    common_scale: ClassVar[bool] = True

    def __init__(
        self,
        n_latent: int | tuple[int, ...],
        min_variance: float = 1e-6,
        added_variance: float | tuple[float, ...] = 0.0,
        noise: str = "component",
        shrinkage: float = 0.0,
    ) -> None:
        object.__setattr__(self, "n_latent", n_latent)
        object.__setattr__(self, "min_variance", min_variance)
        object.__setattr__(self, "added_variance", added_variance)
        object.__setattr__(self, "noise", noise)
        object.__setattr__(self, "shrinkage", shrinkage)
        self.__post_init__()

    def __post_init__(self) -> None:
        low_rank.require_whole(self.n_latent)
        require_noise(self.min_variance, self.noise, self.shrinkage)
        super().__post_init__()

    def planes(self, params: PPCAParams) -> RoundPlanes:
        r"""Return s^2, B = L^-1 W'/s^2 with M = I + W'W/s^2 = L L', and c = log|WW' + s^2 I| + d log 2 pi."""
        noise, d = params.noise_variances[:, None], params.means.shape[1]
        _, factors = low_rank.posterior(params.loadings, noise)
        axes = torch.linalg.solve_triangular(factors, params.loadings.mT / noise[:, :, None], upper=False)
        return RoundPlanes(params.noise_variances, axes, low_rank.log_det(noise, factors, d) + d * LOG_2PI)

    def projections(self, params: PPCAParams) -> Tensor:
        """Return M^-1 W'/s^2, shape (k, q, d)."""
        return low_rank.posterior(params.loadings, params.noise_variances[:, None])[0]

    def row_terms(self, x: Tensor) -> Tensor | None:
        """Return |x|^2 where components share their noise: its sum knows no code."""
        return x.square().sum(1, keepdim=True) if self.noise == "shared" else None

    def log_likelihood(self, params: PPCAParams, x: Tensor) -> Tensor:
        """Return the log-density through the latent means, shape (n, k)."""
        return low_rank.log_density(x, params.means, params.loadings, params.noise_variances[:, None])

    def maximize(  # type: ignore[override]
        self, statistics: Moments | LatentMoments, reference: Tensor | None = None
    ) -> PPCAParams:
        """Return means, principal axes, and the floored mean of the variances that they leave out."""
        if isinstance(statistics, LatentMoments):
            return self._step(statistics, reference)
        counts, d = statistics.counts, packed_features(statistics.sums.shape[1])
        low_rank.require_rank("PPCA", self.n_latent, d)
        first, second = statistics.sums[:, :d], unpack(statistics.sums[:, d:], d)
        means, overall = safe_means(counts, first), self._overall(statistics, reference)
        covariances = second / counts.clamp_min(EMPTY)[:, None, None] - means[:, :, None] * means[:, None, :]
        # A component without rows is a ball of the variance of all: it favours no direction.
        ball = overall * torch.eye(d, dtype=means.dtype, device=means.device)
        covariances = torch.where((counts <= EMPTY)[:, None, None], ball, covariances)
        covariances.diagonal(dim1=1, dim2=2).add_(self.added(means).mean())
        floor = variance_floor(overall[None], self.min_variance)
        loadings, noise = low_rank.principal_axes(
            covariances,
            self.n_latent,
            floor,
            shares=counts / counts.mean() if self._couples else None,
            n_groups=None if statistics.pooled is None else len(statistics.pooled),
            prior=(self.shrinkage, overall) if self.shrinkage else None,
        )
        return PPCAParams(means, loadings, noise)

    def _step(self, statistics: LatentMoments, reference: Tensor | None) -> PPCAParams:
        """Return the parameters after one EM step from the sums of the latent axes."""
        d = statistics.sums.shape[1]
        means, loadings, noise, found = regressed(statistics)
        overall = self._overall(statistics, reference)
        floor = variance_floor(overall[None], self.min_variance)
        if self._couples:
            shares = torch.where(found, statistics.counts / statistics.counts.mean(), 0.0)
            rows = (shares * torch.where(found, noise, 0.0) + self.shrinkage * overall)[:, None]
            noise = blended(rows, shares + self.shrinkage, statistics.pooled)[:, 0]
        noise = torch.maximum(noise + self.added(means).mean(), floor)
        if not bool(found.all()):
            # A component without rows: half of the variance is noise, half belongs to the axes in turn. With no
            # loadings at all, no EM step would ever find any.
            half = 0.5 * torch.maximum(overall, floor[0])
            axes = low_rank.even_axes(half.expand(d), self.n_latent, len(found))
            loadings = torch.where(found[:, None, None], loadings, axes)
            if not self._couples:
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
                None if self.noise == "component" else sums.squares.sum()[None, None],
            )

        noise = params.noise_variances[:, None].expand_as(params.means)
        packed = x.shape[1] <= self.max_packed
        return ObservedLowRank.of(self, params, x, noise, None if packed else to_statistics)

    def observed_size(self, params: PPCAParams) -> tuple[int, int]:
        """Return how many numbers ``observe`` keeps for a pattern of missing entries, and for a row."""
        k, d, q = params.loadings.shape
        return 0, k * (q * q + q + 1) + (q + 8) * d

    def log_prior(
        self, params: PPCAParams, statistics: Moments | LatentMoments, reference: Tensor | None = None
    ) -> Tensor | None:
        """Return the log-prior of the noise of each component, up to a constant, shape (k,)."""
        if not self.shrinkage:
            return None
        noise, d = params.noise_variances, params.means.shape[1]
        rows = self.shrinkage * statistics.counts.mean()
        return -0.5 * d * rows * (noise.log() + self._overall(statistics, reference) / noise)

    @property
    def _couples(self) -> bool:
        """Whether the noise of a component depends on how many rows it has."""
        return self.noise == "shared" or self.shrinkage > 0

    def _overall(self, statistics: Moments | LatentMoments, reference: Tensor | None) -> Tensor:
        """Return the variance of all rows, averaged over the features; that of ``reference`` where it is given."""
        if reference is not None:
            return reference.mean()
        if isinstance(statistics, LatentMoments):
            weight, d = statistics.counts.sum().clamp_min(EMPTY), statistics.sums.shape[1]
            centre = statistics.sums.sum(0) / weight
            return (statistics.squares.sum() / weight - centre.square().sum()).clamp_min(0) / d
        d = packed_features(statistics.sums.shape[1])
        first, second = statistics.sums[:, :d], unpack(statistics.sums[:, d:], d)
        return total_variances(statistics.counts, first, second.diagonal(dim1=1, dim2=2).sum(0)).mean()

    def sample(self, params: PPCAParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + W_k z + s_k e, z and e standard normal."""
        noise = params.noise_variances[:, None]
        return low_rank.draw(params.means, params.loadings, noise, index, generator)

    def n_parameters(self, params: PPCAParams) -> int:
        """Return k (d + dq - q(q-1)/2 + 1), or one s^2 for all: a rotation of z changes nothing."""
        k, d, _ = params.loadings.shape
        return k * d + low_rank.n_free_loadings(self.n_latent, k, d) + (1 if self.noise == "shared" else k)

    def collapsed(self, params: PPCAParams, variances: Tensor) -> Tensor:
        """Return which noise variances stand on the floor."""
        return params.noise_variances <= variance_floor(variances.mean()[None], self.min_variance) * 1.01

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, PPCAParams]]:
        """Return two planes in four dimensions, two lines in three, and a line and a plane with one noise in four."""
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
        mixed = planes * torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]], dtype=torch.float64)
        shared = torch.full((2,), 0.25, dtype=torch.float64)
        return [
            (cls(2), PPCAParams(means, planes, noise)),
            (cls(1), PPCAParams(means[:, :3], lines, noise)),
            (cls((1, 2), noise="shared", shrinkage=0.002), PPCAParams(means, mixed, shared)),
        ]


def require_noise(min_variance: float, noise: str, shrinkage: float) -> None:
    """Raise a ValueError unless the settings of the noise of a low rank family are possible."""
    if not min_variance > 0:
        raise ValueError(f"min_variance must be positive, got {min_variance!r}.")
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {NOISES}, got {noise!r}.")
    if not 0 <= shrinkage < float("inf"):
        raise ValueError(f"shrinkage must be non-negative and finite, got {shrinkage!r}.")


def blended(rows: Tensor, shares: Tensor, pooled: Tensor | None) -> Tensor:
    """Return noise variances of components, shape (k, d), from their sums of squares and shares of the rows.

    Where there are pooled sums, one a group of components, the noise of a group is that of all its rows.
    """
    if pooled is None:
        return rows / shares.clamp_min(EMPTY)[:, None]
    groups = len(pooled)
    means = rows.unflatten(0, (groups, -1)).sum(1) / shares.view(groups, -1).sum(1, keepdim=True)
    return means.repeat_interleave(len(rows) // groups, 0)
