"""Flat clouds of their own in one full covariance that all share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Kernel, PassSetting
from mixcoder.components.gaussian import Gaussian, standard_normal
from mixcoder.components.latent_kernel import (
    LatentKernel,
    LatentMoments,
    RoundPlanes,
    TiedLatentKernel,
    regressed,
)
from mixcoder.components.observed import Observed
from mixcoder.components.observed_gaussian import ObservedGaussian
from mixcoder.components.planes import PlaneParams, Planes
from mixcoder.components.ppca import require_noise
from mixcoder.ops import low_rank
from mixcoder.ops.gaussian import (
    EMPTY,
    LOG_2PI,
    by_group,
    floor_covariances,
    log_det_whitener,
    pack,
    pooled_covariance,
    products_sum,
    quadratic_form,
    safe_means,
    stands_on_floor,
    unpack,
    variance_floor,
    whitening_factors,
)
from mixcoder.ops.moments import class_scatters, packed_features
from mixcoder.statistics import Moments

# Smallest share of the variance along an axis that it carries at first: from none, no EM step would find any.
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class GaussianLowRankTiedParams(PlaneParams):
    """Parameters of :class:`GaussianLowRankTied`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    loadings : Tensor, shape (k, d, q)
        W; a rotation of the latent axes changes nothing.
    covariance : Tensor, shape (g, d, d)
        S_0, one a group.
    whitener : Tensor, shape (g, d, d)
        Lower triangular V with V' V the inverse of S_0.
    """

    covariance: Tensor
    whitener: Tensor
    shared: ClassVar[tuple[str, ...]] = ("covariance", "whitener")

    @classmethod
    def build(cls, means: Tensor, loadings: Tensor, covariance: Tensor) -> Self:
        """Return the parameters of given means, loadings and one positive definite covariance."""
        return cls(means, loadings, covariance[None], whitening_factors(covariance[None])[0])


@final
@dataclass(frozen=True)
class GaussianLowRankTied(Planes[GaussianLowRankTiedParams], Gaussian[GaussianLowRankTiedParams]):  # type: ignore[override]
    r"""Gaussian components with covariance W_k W_k' + S_0: low rank of their own, tied in what is left.

    .. math:: x|z,k \sim N(\mu_k + W_k z,\, S_0), \quad z \sim N(0, I)

    S_0 is full and one for all components. What all rows have in common is learned from all rows, and a component
    needs rows for its d q numbers alone: between :class:`~mixcoder.components.GaussianTied` (W = 0) and
    :class:`~mixcoder.components.GaussianFull`. The family is closed under linear maps of the rows. In the metric of S_0
    it is one of planes with unit noise: V factors S_0 once, and with U = VW, LL' = I + U'U,

    .. math:: -2 \log p(x|k) = |V(x - \mu_k)|^2 - |t|^2 + \log|LL'| + \log|S_0| + d \log 2\pi,
              \qquad t = L^{-1} U' V (x - \mu_k).

    The first term of :math:`|V(x - \mu_k)|^2`, :math:`|Vx|^2`, is the same for every component: no code sees it, and
    its sum needs only X'X, once a fit. A pass costs 4 n k d q operations and forms no d x d matrix. The M-step is one
    parameter-expanded EM step, after which the likelihood is never lower; with C the moments about the means under
    the code,

    .. math:: W = C_{xt} L^{-\top}, \quad LL' = C_{tt}, \qquad
              S_0 = \tfrac1N \Bigl[\sum_n x_n x_n' - \sum_k N_k (\mu_k \mu_k' + W_k W_k')\Bigr].

    The first M-step, without parameters, finds the W that are most likely for S_0 the pooled covariance within
    components (residual component analysis): it alone needs the d(d+1)/2 products of the columns. Two components can
    trade some of W against S_0 without a change of any covariance, one can trade all of it.

    Parameters
    ----------
    n_latent : int or tuple of int
        q, at least one and less than the number of features; or one a component.
    min_variance : float
        Smallest variance of S_0 in any direction, as a fraction of the variance of the data there; positive. The step
        is exact under this constraint.
    added_variance : float or sequence of d floats
        Added to the diagonal of S_0, in squared units of the rows. See :class:`~mixcoder.components.Gaussian`.
    shrinkage : float
        Strength of a prior on S_0: it is given the covariance of its own rows and, for each of them, of ``shrinkage``
        rows more, whose covariance is that of the data, T. With N rows the bound then has the log-prior

        .. math:: -\tfrac12\, \mathrm{shrinkage}\, N\, [\log |S_0| + \mathrm{tr}(S_0^{-1} T)],

        inverse Wishart. It decides what W and S_0 can trade, in favour of S_0, and no direction is left without noise
        where the loadings would explain it entirely (a Heywood case), which EM approaches slowly. Where entries are
        missing, T has the variances of what is seen on its diagonal, and nothing beside it.

    Examples
    --------
    >>> family, params = GaussianLowRankTied.examples()[0]
    >>> row = family.decode_latent(params, torch.tensor([1]), torch.ones(1, 1, dtype=torch.float64))
    >>> family.latent_means(params, row).shape
    torch.Size([1, 3, 1])

    References
    ----------
    Kalaitzis & Lawrence (2012), "Residual component analysis", section 2, for W given S_0; Ghahramani & Hinton (1996),
    "The EM algorithm for mixtures of factor analyzers", whose shared noise is the diagonal case; Liu, Rubin & Wu
    (1998), "Parameter expansion to accelerate EM".
    """

    n_latent: int | tuple[int, ...] = field(kw_only=True)  # no default: the fields of the base have some
    shrinkage: float = 0.0

    # Whitened by the covariance of all rows, planes hide: starts in the units of the columns lead farther (measured).
    geometry: ClassVar[str] = "units"
    max_packed: ClassVar[int] = 0

    def __init__(
        self,
        n_latent: int | tuple[int, ...],
        min_variance: float = 1e-6,
        added_variance: float | tuple[float, ...] = 0.0,
        shrinkage: float = 0.0,
    ) -> None:
        object.__setattr__(self, "n_latent", n_latent)
        object.__setattr__(self, "min_variance", min_variance)
        object.__setattr__(self, "added_variance", added_variance)
        object.__setattr__(self, "shrinkage", shrinkage)
        self.__post_init__()

    def __post_init__(self) -> None:
        low_rank.require_whole(self.n_latent)
        require_noise(self.min_variance, "shared", self.shrinkage)
        super().__post_init__()

    # Densities

    def planes(self, params: GaussianLowRankTiedParams) -> RoundPlanes:
        """Return the planes in the metric of S_0: unit noise, the axes L^-1 U'V of rows, and the constants."""
        seen, factors = _whitened(params)
        axes = _in_rows(torch.linalg.solve_triangular(factors, seen.mT, upper=False), params.whitener)
        log_dets = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        log_dets = log_dets - _spread(log_det_whitener(params.whitener), len(seen))
        return RoundPlanes(axes.new_ones(len(axes)), axes, 2 * log_dets + params.means.shape[1] * LOG_2PI)

    def projections(self, params: GaussianLowRankTiedParams) -> Tensor:
        """Return M^-1 U'V, shape (k, q, d)."""
        seen, factors = _whitened(params)
        return _in_rows(torch.cholesky_solve(seen.mT, factors), params.whitener)

    def log_likelihood(self, params: GaussianLowRankTiedParams, x: Tensor) -> Tensor:
        """Return the log-density through the latent means of rows that are whitened once, shape (n, k)."""
        whitener, centre = params.whitener[0], params.means.mean(0)
        rows = (x - centre.to(x.dtype)) @ whitener.to(x.dtype).T
        means = (params.means - centre) @ whitener.T
        unit = means.new_ones(len(means), 1)
        result = low_rank.log_density(rows, means, _whitened(params)[0], unit)
        return result.add_(float(log_det_whitener(whitener)))

    def width(self, n_features: int) -> int:
        """Return 1 + d + d(d+1)/2, the sums of the first M-step: they are what memory must hold."""
        return 1 + n_features + n_features * (n_features + 1) // 2

    def natural(self, params: GaussianLowRankTiedParams) -> Tensor:
        """Return the bias, P_k mu_k, and what P_k, the precision, lacks of the inverse of S_0, packed."""
        planes = self.planes(params)
        explained = planes.axes.mT @ planes.axes
        linear = _pulled(params) - (explained @ params.means[:, :, None])[:, :, 0]
        bias = -0.5 * (planes.constants + (linear * params.means).sum(1))
        return torch.cat([bias[:, None], linear, quadratic_form(-0.5 * (explained + explained.mT))], 1)

    def common(self, params: GaussianLowRankTiedParams) -> Tensor:
        """Return the packed -V'V/2."""
        return quadratic_form(params.whitener.mT @ params.whitener)

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the packed X'X, in float64."""
        return products_sum(x, weights)

    # A pass over the rows

    def statistics(  # type: ignore[override]
        self,
        params: GaussianLowRankTiedParams | None,
        x: Tensor,
        code: Code,
        weights: Tensor | None = None,
    ) -> Moments | LatentMoments:
        """Return the sums of the latent axes, or without parameters the packed scatters."""
        if params is None:
            return Moments(*class_scatters(x, code, weights), self.pooled(x, weights))
        return super().statistics(params, x, code, weights)

    def kernel(
        self, params: GaussianLowRankTiedParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[GaussianLowRankTiedParams, Moments]:
        """Return the pass through latent axes, in the narrowest precision that keeps within the tolerance.

        Where none does, the family's own ``log_likelihood`` in float64, which subtracts before it squares.
        """
        for dtype in dict.fromkeys((setting.dtype, torch.float64)):
            wide = setting.tolerance < math.inf and not (
                self.error(params, setting.magnitude, dtype) <= setting.tolerance
            )
            if not wide:
                return self._latent_kernel(params, log_weights, setting, dtype)  # type: ignore[return-value]
        return Kernel(self, params, log_weights, torch.float64, setting.workspace)

    def error(self, params: GaussianLowRankTiedParams, magnitude: Tensor, dtype: torch.dtype) -> float:
        """Return the error in nats to expect of the latent axes in a dtype, on a typical row of each component.

        S_0 may be far from round: what counts is how much larger than a product its terms are. Their roundings are of
        either sign and add up like their root mean square (Higham & Mary 2019).
        """
        axes, pulled = self.planes(params).axes, _pulled(params)
        reach = magnitude + params.means.abs()  # (k, d)
        off_axes = (axes * reach[:, None, :]).square().sum(2)  # (k, q)
        off_score = (pulled * reach).square().sum(1)
        sizes = (axes @ params.loadings).square().sum(2) + 1  # E t^2
        largest = (sizes * off_axes).sum(1).sqrt() + off_score.sqrt() + 0.5 * sizes.sum(1)
        return torch.finfo(dtype).eps * float(largest.amax())

    def _latent_kernel(
        self,
        params: GaussianLowRankTiedParams,
        log_weights: Tensor,
        setting: PassSetting,
        dtype: torch.dtype,
    ) -> LatentKernel:
        lead = self, params, log_weights, dtype, setting.workspace
        return TiedLatentKernel.tied(*lead, self.planes(params), _pulled(params), self.common(params))

    # The M-step

    def maximize(  # type: ignore[override]
        self, statistics: Moments | LatentMoments, reference: Tensor | None = None
    ) -> GaussianLowRankTiedParams:
        """Return means, the loadings that the latent moments ask for, and what they leave of the covariance."""
        pooled, counts = statistics.pooled, statistics.counts
        assert pooled is not None
        latent = isinstance(statistics, LatentMoments)
        d = statistics.sums.shape[1] if latent else packed_features(statistics.sums.shape[1])
        low_rank.require_rank(type(self).__name__, self.n_latent, d)
        low_rank.axis_mask(self.n_latent, len(counts))  # one rank a component, or an error
        sums = statistics.sums[:, :d]
        means = safe_means(counts, sums)
        groups = [by_group(value, pooled) for value in (counts, sums, means)]
        within, overall = pooled_covariance(pooled, *groups)
        if reference is not None:
            overall = torch.diag(reference)[None]
        floor = variance_floor(overall[0].diagonal(), self.min_variance)
        if latent:
            _, loadings, _, found = regressed(statistics)
        else:
            metric = _spread(floor_covariances(within, floor)[1], len(means))
            loadings, found = self._residual(statistics, means, metric), counts > EMPTY
        if not bool(found.all()):
            # A component without rows: half of the variance is on its axes in turn.
            axes = low_rank.even_axes(
                0.5 * torch.maximum(overall[0].diagonal(), floor), self.n_latent, len(found)
            )
            loadings = torch.where(found[:, None, None], loadings, axes)
        shares = groups[0] * by_group(found, pooled) / groups[0].sum(1, keepdim=True)
        scaled = (loadings * shares.flatten().sqrt()[:, None, None]).mT  # (k, q, d)
        carried = by_group(scaled, pooled).flatten(1, 2)  # (g, (k/g) q, d)
        left = (within - carried.mT @ carried + self.shrinkage * overall) / (1 + self.shrinkage)
        left = 0.5 * (left + left.mT)
        left.diagonal(dim1=1, dim2=2).add_(self.added(means))
        return GaussianLowRankTiedParams(means, loadings, *floor_covariances(left, floor))

    def _residual(self, statistics: Moments, means: Tensor, metric: Tensor) -> Tensor:
        """Return the loadings that scatters ask for where S_0 has the whiteners ``metric``, shape (k, d, q).

        The principal axes of the whitened covariance K, less its unit noise. K R (R'KR)^-1 R'K is never more than K,
        whatever the directions R: what is left for S_0 is a covariance.
        """
        k, d = means.shape
        q = low_rank.largest_rank(self.n_latent)
        mask = low_rank.axis_mask(self.n_latent, k, means.device)
        loadings = means.new_empty(k, d, q)
        for i in range(k):
            second = unpack(statistics.sums[i, d:], d) / statistics.counts[i].clamp_min(EMPTY)
            covariance = metric[i] @ (second - means[i, :, None] * means[i]) @ metric[i].T
            images, values = low_rank.strongest(0.5 * (covariance + covariance.T), q)
            share = (1 - 1 / values.clamp_min(1)).clamp_min(_LEAST_SHARE)
            axes = images * (share / values.clamp_min(EMPTY)).sqrt()
            loadings[i] = torch.linalg.solve_triangular(metric[i], axes, upper=False)
        return loadings if mask is None else loadings * mask[:, None, :]

    def log_prior(
        self,
        params: GaussianLowRankTiedParams,
        statistics: Moments | LatentMoments,
        reference: Tensor | None = None,
    ) -> Tensor | None:
        """Return each component's part of the log-prior of S_0, up to a constant, shape (k,)."""
        if not self.shrinkage:
            return None
        pooled, whitener = statistics.pooled, params.whitener
        assert pooled is not None
        means = by_group(params.means, pooled)
        counts, sums = (by_group(value, pooled) for value in (statistics.counts, statistics.sums))
        if reference is None:
            _, overall = pooled_covariance(pooled, counts, sums[:, :, : means.shape[2]], means)
        else:
            overall = torch.diag(reference)[None]
        trace = ((whitener @ overall) * whitener).sum((1, 2))
        whole = -0.5 * self.shrinkage * counts.sum(1) * (trace - 2 * log_det_whitener(whitener))
        return _spread(whole, len(params.means)) / counts.shape[1]

    # Missing entries

    def observe(self, params: GaussianLowRankTiedParams, x: Tensor) -> Observed[Any]:
        """Return the rows with missing entries integrated out, of covariances written out."""
        axes, means = self.planes(params).axes, params.means

        def to_statistics(counts: Tensor, first: Tensor, second: Tensor) -> Any:
            at_means = (axes @ means[:, :, None])[:, :, 0]  # (k, q)
            latent = (axes @ first[:, :, None])[:, :, 0] - counts[:, None] * at_means
            cross = axes @ second - at_means[:, :, None] * first[:, None, :]
            products = cross @ axes.mT - latent[:, :, None] * at_means[:, None, :]
            products.diagonal(dim1=1, dim2=2).add_(counts[:, None])
            squares = second.diagonal(dim1=1, dim2=2).sum(1)
            return LatentMoments(counts, first, squares, latent, products, cross, pack(second.sum(0))[None])

        spreads = self.spreads(params)
        whole = ObservedGaussian.of(self, params, x, spreads, whitening_factors(spreads)[0])
        return replace(whole, moments=to_statistics)

    def observed_size(self, params: GaussianLowRankTiedParams) -> tuple[int, int]:
        """Return how many numbers ``observe`` keeps for a pattern of missing entries, and for a row."""
        k, d = params.means.shape
        return k * (d // 2 + 1) * d, (k + 4) * d

    def spreads(self, params: GaussianLowRankTiedParams) -> Tensor:
        """Return the covariances, written out, shape (k, d, d)."""
        own = params.loadings @ params.loadings.mT
        return own + _spread(params.covariance, len(own))

    # The rest

    def sample(self, params: GaussianLowRankTiedParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + W_k z + S_0^(1/2) e, z and e standard normal."""
        q, factor = params.loadings.shape[2], torch.linalg.cholesky(params.covariance[0])
        normal = standard_normal(len(index), torch.cat([params.means, params.loadings[:, 0]], 1), generator)
        rows = low_rank.decode_latent(params.means, params.loadings, index, normal[:, :q])
        return rows + normal[:, q:] @ factor.T

    def n_parameters(self, params: GaussianLowRankTiedParams) -> int:
        """Return k (d + dq - q(q-1)/2) + d(d+1)/2, less what W and S_0 trade without a change of any covariance."""
        k, d, _ = params.loadings.shape
        ranks = self.n_latent if isinstance(self.n_latent, tuple) else (self.n_latent,) * k
        free = low_rank.n_free_loadings(self.n_latent, k, d)
        return k * d + free + d * (d + 1) // 2 - low_rank.n_traded(ranks, d)

    def collapsed(self, params: GaussianLowRankTiedParams, variances: Tensor) -> Tensor:
        """Return whether S_0 touches the floor, for all components alike."""
        floor = variance_floor(variances, self.min_variance)
        return stands_on_floor(params.covariance[:1], floor).expand(params.n_components)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, GaussianLowRankTiedParams]]:
        """Return three lines in three dimensions, and two lines and a plane in four.

        The components lie along their own axes, and there is a little of a prior: where W and S_0 can trade, or S_0 has
        next to no variance left, an EM step moves them only as one over the number of steps.
        """
        means = torch.tensor(
            [[0.0, 0.0, 0.0, 0.0], [4.0, 1.0, -2.0, 3.0], [-3.0, 3.0, 2.0, 1.0]], dtype=torch.float64
        )
        # Columns at right angles to one another
        axes = torch.tensor(
            [[1.5, 1.5, 1.5, 1.5], [1.5, -1.5, 1.5, -1.5], [1.5, 1.5, -1.5, -1.5], [1.5, -1.5, -1.5, 1.5]],
            dtype=torch.float64,
        )
        covariance = torch.tensor(
            [[0.8, 0.3, 0.0, 0.1], [0.3, 0.7, -0.2, 0.0], [0.0, -0.2, 0.6, 0.1], [0.1, 0.0, 0.1, 0.7]],
            dtype=torch.float64,
        )
        lines = torch.tensor([[2.4, 0.8, -0.4], [-0.8, 2.2, -0.4], [0.2, 0.6, 2.4]], dtype=torch.float64)
        planes = torch.stack([axes[:, :2], axes[:, 1:3], axes[:, 3:].expand(-1, 2)])
        planes = planes * torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
        build = GaussianLowRankTiedParams.build
        return [
            (cls(1, shrinkage=0.002), build(means[:, :3], lines[:, :, None], covariance[:3, :3])),
            (cls((1, 2, 1), shrinkage=0.002), build(means, planes, covariance)),
        ]


def _spread(of_groups: Tensor, n_components: int) -> Tensor:
    """Return what each group has, for each of its components, shape (k, ...)."""
    return of_groups.repeat_interleave(n_components // len(of_groups), 0)


def _whitened(params: GaussianLowRankTiedParams) -> tuple[Tensor, Tensor]:
    """Return U = VW, shape (k, d, q), and the Cholesky factors of I + U'U."""
    seen = _in_rows(params.loadings.mT, params.whitener.mT).mT
    identity = torch.eye(seen.shape[2], dtype=seen.dtype, device=seen.device)
    return seen, torch.linalg.cholesky(identity + seen.mT @ seen)


def _in_rows(axes: Tensor, metric: Tensor) -> Tensor:
    """Return the axes of each component, shape (k, q, d), times its group's matrix, shape (g, d, d)."""
    return (by_group(axes, metric).flatten(1, 2) @ metric).view(axes.shape)


def _pulled(params: GaussianLowRankTiedParams) -> Tensor:
    """Return V'V mu, shape (k, d)."""
    means = by_group(params.means, params.whitener)
    return (means @ (params.whitener.mT @ params.whitener)).flatten(0, 1)
