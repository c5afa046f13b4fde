"""Factor analysis: flat clouds, and noise of its own in every column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Kernel, Params, PassSetting, decode_means
from mixcoder.components.observed import Observed
from mixcoder.components.observed_low_rank import LatentSums, ObservedLowRank
from mixcoder.components.ppca import blended, require_noise
from mixcoder.errors import DataError
from mixcoder.ops import low_rank
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import EMPTY, safe_means, total_variances, unpack, variance_floor
from mixcoder.ops.moments import class_scatters
from mixcoder.statistics import Statistics


@dataclass(frozen=True)
class FactorAnalyzerParams(Params):
    """Parameters of :class:`FactorAnalyzer`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    loadings : Tensor, shape (k, d, q)
        W; a rotation of the latent axes changes nothing.
    noise_variances : Tensor, shape (k, d)
        The diagonal of Psi; all rows equal where it is shared.
    """

    means: Tensor
    loadings: Tensor
    noise_variances: Tensor


@dataclass(frozen=True)
class FactorAnalyzerStatistics(Statistics):
    """The sums of :class:`FactorAnalyzer`, with r the (weighted) code and z the latent axes.

    Parameters
    ----------
    counts : Tensor, shape (k,)
        Sum of r.
    sums, squares : Tensor, shape (k, d)
        Sums of r x and r x^2.
    latent_sums : Tensor, shape (k, q), optional
        Sum of r E[z]; like the next two absent before there are parameters.
    latent_products : Tensor, shape (k, q, q), optional
        Sum of r E[z z'].
    cross_products : Tensor, shape (k, d, q), optional
        Sum of r x E[z]'.
    products : Tensor, shape (k, d(d+1)/2), optional
        Sum of the packed r x x', only in the first M-step.
    pooled : Tensor, shape (g, d), optional
        Sum of x^2, which no code weighs, where components share their noise.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    latent_sums: Tensor | None = None
    latent_products: Tensor | None = None
    cross_products: Tensor | None = None
    products: Tensor | None = None
    pooled: Tensor | None = None


@final
@dataclass(frozen=True)
class FactorAnalyzer(Family[FactorAnalyzerParams, FactorAnalyzerStatistics]):
    r"""Gaussian components with covariance W_k W_k' + Psi_k, Psi_k diagonal.

    .. math:: x|z,k \sim N(\mu_k + W_k z,\, \Psi_k), \quad z \sim N(0, I)

    A row's code is (component, z): ``latent_means`` and ``decode_latent``, of a fitted model in the coordinates of
    its ``frame``. ``statistics`` takes the expectations of z and z z' at the current
    parameters, ``maximize`` raises the bound that follows: one EM step, after which the likelihood is never lower.
    The step also fits the mean and covariance of z and then absorbs them into mu and W, which makes fewer steps do
    (parameter expansion); with C the moments about the means under the code,

    .. math:: W = C_{xz} L^{-\top}, \quad LL' = C_{zz}, \qquad
              \Psi = \mathrm{diag}(C_{xx} - WW')

    The first M-step, without parameters, is probabilistic principal component analysis in units of the columns'
    standard deviations within the component. It alone needs the d(d+1)/2 products of the columns; later passes
    cost O(d q) a row and component, in time and in sums.

    Parameters
    ----------
    n_latent : int or tuple of int
        q, at least one and less than the number of features; or one a component. Beyond Ledermann's bound,
        (d - q)^2 < d + q, several parameters have one density.
    min_variance : float
        Smallest noise variance of a column, as a fraction of its variance over all rows: where a factor would
        explain a column entirely (a Heywood case), the noise stops there. The step is exact under this constraint.
    noise : {"component", "shared"}
        Whether each component has its own Psi, or all have one:
        :math:`\Psi = \tfrac1N \sum_k N_k\, \mathrm{diag}(C_{k,xx} - W_kW_k')`.
    shrinkage : float
        Strength of a prior on the noise: each component is given the noise variances of its own rows and of
        ``shrinkage`` times an average component's rows more, whose noise variances are those v of the columns. With N
        rows the bound then has the log-prior

        .. math:: -\tfrac12\, \mathrm{shrinkage}\, \tfrac NK \sum_{kd} [\log \Psi_{kd} + v_d / \Psi_{kd}],

        inverse gamma, and no component gains by shrinking to a row or to a few.

    Examples
    --------
    >>> family, params = FactorAnalyzer.examples()[0]
    >>> row = family.decode_latent(params, torch.tensor([1]), torch.ones(1, 1, dtype=torch.float64))
    >>> family.latent_means(params, row).shape
    torch.Size([1, 2, 1])

    References
    ----------
    Ghahramani & Hinton (1996), "The EM algorithm for mixtures of factor analyzers", equations 2-14; Liu, Rubin & Wu
    (1998), "Parameter expansion to accelerate EM: the PX-EM algorithm".
    """

    n_latent: int | tuple[int, ...]
    min_variance: float = 1e-6
    noise: str = "component"
    shrinkage: float = 0.0

    geometry: ClassVar[str] = "units"
    marginalizes: ClassVar[bool] = True
    floors_variances: ClassVar[bool] = True

    def __post_init__(self) -> None:
        low_rank.require_whole(self.n_latent)
        require_noise(self.min_variance, self.noise, self.shrinkage)

    def in_domain(self, lowest: Tensor, highest: Tensor) -> Self:
        """Return the family itself, once there are more features than latent axes."""
        del highest
        try:
            low_rank.require_rank("FactorAnalyzer", self.n_latent, len(lowest))
        except ValueError as error:
            raise DataError(str(error)) from None
        return self

    @property
    def seeding_rank(self) -> int:
        """The largest rank: a plane of too many directions tells more than one of too few."""
        return low_rank.largest_rank(self.n_latent)

    def width(self, n_features: int) -> int:
        """Return 1 + d + d(d+1)/2, the sums of the first M-step: they are what memory must hold."""
        return 1 + n_features + n_features * (n_features + 1) // 2

    def log_likelihood(self, params: FactorAnalyzerParams, x: Tensor) -> Tensor:
        """Return the log-density through the latent means, shape (n, k)."""
        return low_rank.log_density(x, params.means, params.loadings, params.noise_variances)

    def pooled(self, x: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Return the sum of x^2 where components share their noise, shape (1, d)."""
        if self.noise == "component":
            return None
        squares = x.double().square()
        return (squares.sum(0) if weights is None else weights.double() @ squares)[None]

    def statistics(
        self, params: FactorAnalyzerParams | None, x: Tensor, code: Code, weights: Tensor | None = None
    ) -> FactorAnalyzerStatistics:
        """Return the sums of rows, latent means and their products under the code."""
        dense = code.dense(x.dtype) if isinstance(code, HardCode) else code
        if weights is not None:
            dense = dense * weights.to(dense.dtype)[:, None]
        d = x.shape[1]
        squares = (dense.T @ x.square()).double()
        if params is None:
            counts, sums = class_scatters(x, dense)
            return FactorAnalyzerStatistics(
                counts, sums[:, :d], squares, products=sums[:, d:], pooled=self.pooled(x, weights)
            )
        counts = dense.sum(0, dtype=torch.float64)
        projections, factors = low_rank.posterior(params.loadings, params.noise_variances)
        z = low_rank.latent_means(x, params.means, projections)  # (n, k, q)
        weighted = z * dense[:, :, None]
        products = torch.einsum("nkq,nkr->kqr", weighted, z).double()
        products = products + counts[:, None, None] * torch.cholesky_inverse(factors)
        cross = torch.stack([x.T @ weighted[:, k] for k in range(len(counts))])  # (k, d, q)
        return FactorAnalyzerStatistics(
            counts,
            (dense.T @ x).double(),
            squares,
            weighted.sum(0).double(),
            products,
            cross.double(),
            pooled=self.pooled(x, weights),
        )

    def maximize(
        self, statistics: FactorAnalyzerStatistics, reference: Tensor | None = None
    ) -> FactorAnalyzerParams:
        """Return means, the loadings that the latent moments ask for, and what they leave of the variances."""
        counts, first = statistics.counts, statistics.sums
        low_rank.require_rank("FactorAnalyzer", self.n_latent, first.shape[1])
        low_rank.axis_mask(self.n_latent, len(counts))  # one rank a component, or an error
        means = safe_means(counts, first)
        overall = self._overall(statistics, reference)
        floor = variance_floor(overall, self.min_variance)
        total = counts.clamp_min(EMPTY)
        variances = statistics.squares / total[:, None] - means.square()
        if statistics.products is None:
            loadings, found = _regressed(statistics, means, total)
            noise = variances - loadings.square().sum(2)
        else:
            covariances = unpack(statistics.products, first.shape[1]) / total[:, None, None]
            covariances = covariances - means[:, :, None] * means[:, None, :]
            loadings, noise = self._principal(covariances, torch.maximum(variances, floor))
            found = torch.ones_like(counts, dtype=torch.bool)
        found = found & (counts > EMPTY)
        couples = self.noise == "shared" or self.shrinkage > 0
        if couples:
            shares = torch.where(found, counts / counts.mean(), 0.0)
            rows = torch.where(found[:, None], shares[:, None] * noise, 0.0) + self.shrinkage * overall
            noise = blended(rows, shares + self.shrinkage, statistics.pooled)
        noise = torch.maximum(noise, floor)
        if not bool(found.all()):
            # Half of a variance is noise, the other half belongs to the latent axes in turn; with none, no EM step
            # would ever find any.
            half = 0.5 * torch.maximum(overall, floor)
            axes = low_rank.even_axes(half, self.n_latent, len(counts))
            loadings = torch.where(found[:, None, None], loadings, axes)
            if not couples:
                noise = torch.where(found[:, None], noise, torch.maximum(half, floor))
        return FactorAnalyzerParams(means, loadings, noise)

    def decode(self, params: FactorAnalyzerParams, code: Code) -> Tensor:
        """Return the mean of the components under the code, shape (n, d)."""
        return decode_means(params.means, code)

    def observe(self, params: FactorAnalyzerParams, x: Tensor) -> Observed[Any]:
        """Return the rows with missing entries integrated out."""

        def to_statistics(sums: LatentSums) -> FactorAnalyzerStatistics:
            pooled = None if self.noise == "component" else sums.squares.sum(0)[None]
            return FactorAnalyzerStatistics(*sums, pooled=pooled)

        return ObservedLowRank.of(self, params, x, params.noise_variances, to_statistics)

    def observed_size(self, params: FactorAnalyzerParams) -> tuple[int, int]:
        """Return how many numbers ``observe`` keeps for a pattern of missing entries, and for a row."""
        k, d, q = params.loadings.shape
        return 0, k * (q * q + q + 1) + 8 * d

    def sample(self, params: FactorAnalyzerParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + W_k z + Psi_k^(1/2) e, z and e standard normal."""
        return low_rank.draw(params.means, params.loadings, params.noise_variances, index, generator)

    def log_prior(
        self,
        params: FactorAnalyzerParams,
        statistics: FactorAnalyzerStatistics,
        reference: Tensor | None = None,
    ) -> Tensor | None:
        """Return the log-prior of the noise of each component, up to a constant, shape (k,)."""
        if not self.shrinkage:
            return None
        overall = self._overall(statistics, reference)
        rows, noise = self.shrinkage * statistics.counts.mean(), params.noise_variances
        return -0.5 * rows * (noise.log() + overall / noise).sum(1)

    def projections(self, params: FactorAnalyzerParams) -> Tensor:
        """Return M^-1 W' Psi^-1, what turns a row less the mean into its latent mean, shape (k, q, d)."""
        return low_rank.posterior(params.loadings, params.noise_variances)[0]

    def latent_means(self, params: FactorAnalyzerParams, x: Tensor) -> Tensor:
        """Return E[z | x_n, k], shape (n, k, q)."""
        return low_rank.latent_means(x, params.means, self.projections(params))

    def decode_latent(self, params: FactorAnalyzerParams, index: Tensor, z: Tensor) -> Tensor:
        """Return the row of each code (k, z), mu_k + W_k z_n, shape (n, d)."""
        return low_rank.decode_latent(params.means, params.loadings, index, z)

    def n_parameters(self, params: FactorAnalyzerParams) -> int:
        """Return k (2d + dq - q(q-1)/2), or one Psi for all: a rotation of z changes nothing."""
        k, d, _ = params.loadings.shape
        return (
            k * d + low_rank.n_free_loadings(self.n_latent, k, d) + (d if self.noise == "shared" else k * d)
        )

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return centred rows of a spread near one."""
        return Frame.around(mean, std, common_scale=False)

    def collapsed(self, params: FactorAnalyzerParams, variances: Tensor) -> Tensor:
        """Return which components have noise on the floor in a column that varies."""
        low = params.noise_variances <= variance_floor(variances, self.min_variance) * 1.01
        return (low & (variances > 0)).any(1)

    def kernel(
        self, params: FactorAnalyzerParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[FactorAnalyzerParams, FactorAnalyzerStatistics]:
        """Return the pass through latent means, in float64 where the tolerance asks for it."""
        largest = low_rank.largest_terms(setting.magnitude, params.means, params.noise_variances)
        wide = not largest * torch.finfo(setting.dtype).eps <= setting.tolerance
        return super().kernel(params, log_weights, replace(setting, dtype=torch.float64) if wide else setting)

    def _overall(self, statistics: FactorAnalyzerStatistics, reference: Tensor | None) -> Tensor:
        """Return the variance of each feature over all rows; ``reference`` where it is given."""
        if reference is not None:
            return reference
        return total_variances(statistics.counts, statistics.sums, statistics.squares.sum(0))

    def _principal(self, covariances: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Return loadings and noise of PPCA in units of each column's standard deviation."""
        stds = variances.sqrt()
        correlations = covariances / (stds[:, :, None] * stds[:, None, :])
        least = variances.new_tensor([self.min_variance])
        loadings, noise = low_rank.principal_axes(correlations, self.n_latent, least)
        return loadings * stds[:, :, None], noise[:, None] * variances

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, FactorAnalyzerParams]]:
        """Return two lines in four dimensions, two planes in six, and a line and a plane with one noise in six.

        The components lie along their own axes, so that a code that mixes them up leaves noise in every column too:
        at a Heywood case an EM step moves the noise towards its floor only as one over the number of steps.
        """
        ends = torch.tensor([3.0, 2.8, -3.0, 2.6, -2.8, 3.2], dtype=torch.float64)
        means = torch.stack([-0.6 * ends, 0.6 * ends])
        lines = torch.tensor(
            [[[0.7], [0.6], [-0.8], [0.5]], [[0.5], [0.7], [-0.6], [0.7]]], dtype=torch.float64
        )
        planes = torch.tensor(
            [
                [[0.5, 0.8], [0.6, -0.7], [-0.6, 0.6], [0.4, 0.9], [-0.5, -0.6], [0.6, -0.8]],
                [[0.6, 0.7], [0.5, -0.8], [-0.5, 0.7], [0.6, 0.7], [-0.4, -0.8], [0.5, -0.7]],
            ],
            dtype=torch.float64,
        )
        noise = torch.tensor(
            [[0.3, 0.2, 0.4, 0.25, 0.35, 0.3], [0.25, 0.4, 0.2, 0.3, 0.3, 0.4]], dtype=torch.float64
        )
        mixed = planes * torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]], dtype=torch.float64)
        return [
            (cls(1), FactorAnalyzerParams(means[:, :4], lines, noise[:, :4])),
            (cls(2), FactorAnalyzerParams(means, planes, noise)),
            (cls((1, 2), noise="shared", shrinkage=0.002), FactorAnalyzerParams(means, mixed, noise[[0, 0]])),
        ]


def _regressed(statistics: FactorAnalyzerStatistics, means: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return W = C_xz L^-T, shape (k, d, q), and for which components C_zz = L L' exists, shape (k,).

    Sums that were extrapolated may have none.
    """
    assert statistics.latent_sums is not None
    assert statistics.latent_products is not None
    assert statistics.cross_products is not None
    centres = statistics.latent_sums / total[:, None]
    within = statistics.latent_products / total[:, None, None] - centres[:, :, None] * centres[:, None, :]
    factors, info = torch.linalg.cholesky_ex(within)
    cross = statistics.cross_products / total[:, None, None] - means[:, :, None] * centres[:, None, :]
    loadings = torch.linalg.solve_triangular(factors, cross.mT, upper=False).mT
    return loadings, info == 0
