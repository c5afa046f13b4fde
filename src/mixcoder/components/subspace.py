"""Planes on which every point is as good as any other: the model under K-subspaces."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import decode_means
from mixcoder.components.latent_kernel import LatentMoments, RoundPlanes, latent_covariances
from mixcoder.components.planes import PlaneParams, Planes
from mixcoder.ops import low_rank
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import EMPTY, LOG_2PI, safe_means, unpack
from mixcoder.ops.moments import packed_features
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class SubspaceParams(PlaneParams):
    """Parameters of :class:`Subspace`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    loadings : Tensor, shape (k, d, q)
        U, orthonormal columns; only the plane that they span has a meaning.
    """


@final
@dataclass(frozen=True)
class Subspace(Planes[SubspaceParams]):
    r"""Planes with one given noise across them, and one given variance, finite or not, along them.

    .. math:: x|z,k = \mu_k + U_k z + (I - U_kU_k')\,e, \quad z \sim N(0, vI), \quad e \sim N(0, s^2 I), \quad
              U_k'U_k = I

    With v infinite the prior on z is flat and the log-density, up to a constant that all components share, is the
    squared distance from the plane,

    .. math:: \log p(x|k) = -\frac{1}{2s^2}\, |(I - U_kU_k')(x-\mu_k)|^2.

    It is then no density: there is nothing to sample from, and a component of higher rank is nearer to every row. With
    equal weights and a hard code the fit is K-subspaces: the sum of squared distances is -2 s^2 times the bound.
    The M-step is the mean and the leading eigenvectors of the scatter. Above 160 features it is one step of orthogonal
    iteration from the current basis, U <- orth(C U), after which the squared distance is never larger:
    tr(U'CU) <= tr(V'CU) for the V nearest to CU, and tr(V'CU)^2 <= tr(V'CV) tr(U'CU).

    Parameters
    ----------
    n_latent : int or tuple of int
        q, the dimension of the planes, at least one and less than the number of features; or one a component.
    variance : float
        s^2, in squared units of the rows.
    latent_variance : float
        v, in the same units, larger than s^2; infinite for a flat prior.

    Examples
    --------
    >>> _, params = Subspace.examples()[0]
    >>> family = Subspace(2)
    >>> row = family.decode_latent(params, torch.tensor([1]), torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    >>> family.latent_means(params, row)[0, 1].round(decimals=6) + 0.0
    tensor([2., 1.], dtype=torch.float64)

    References
    ----------
    Bradley & Mangasarian (2000), "k-plane clustering"; Agarwal & Mustafa (2004), "k-means projective clustering".
    """

    n_latent: int | tuple[int, ...]
    variance: float = 1.0
    latent_variance: float = math.inf

    unit_latent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        low_rank.require_whole(self.n_latent)
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance must be positive and finite, got {self.variance!r}.")
        if not self.latent_variance > self.variance:
            raise ValueError(
                f"latent_variance must be larger than variance={self.variance!r}, got {self.latent_variance!r}."
            )

    @property
    def is_flat(self) -> bool:
        """Whether every point of a plane is as good as any other."""
        return self.latent_variance == math.inf

    def planes(self, params: SubspaceParams) -> RoundPlanes:
        r"""Return s^2, B = (1/s^2 - 1/v)^(1/2) U', and c = d log 2 pi s^2 + q_k log v/s^2, or zero if v is infinite."""
        k, d, _ = params.loadings.shape
        noise = params.means.new_full((k,), self.variance)
        axes = params.loadings.mT * math.sqrt(1 / self.variance - 1 / self.latent_variance)
        if self.is_flat:
            return RoundPlanes(noise, axes, torch.zeros_like(noise))
        ranks = params.loadings.square().sum((1, 2)).round()
        level = d * (LOG_2PI + math.log(self.variance))
        return RoundPlanes(noise, axes, level + ranks * math.log(self.latent_variance / self.variance))

    def log_likelihood(self, params: SubspaceParams, x: Tensor) -> Tensor:
        """Return the log-density through the distance from the plane, shape (n, k)."""
        out = x.new_empty(x.shape[0], params.n_components)
        for k, (mean, basis) in enumerate(
            zip(params.means.to(x.dtype), params.loadings.to(x.dtype), strict=True)
        ):
            centred = x - mean
            z = centred @ basis
            squares = (centred - z @ basis.T).square().sum(1) / self.variance
            out[:, k] = squares + z.square().sum(1) / self.latent_variance
        return out.add_(self.planes(params).constants.to(x.dtype)).mul_(-0.5)

    def maximize(self, statistics: Moments | LatentMoments) -> SubspaceParams:
        """Return means, and orthonormal bases of the leading directions of the scatters."""
        counts = statistics.counts
        if isinstance(statistics, LatentMoments):
            means = safe_means(counts, statistics.sums)
            bases, turns = torch.linalg.qr(latent_covariances(statistics, means).mT)
            # Each axis points to where the one before it did: sums of batches along them can then be averaged.
            bases = torch.where(turns.diagonal(dim1=1, dim2=2)[:, None, :] < 0, -bases, bases)
        else:
            d = packed_features(statistics.sums.shape[1])
            low_rank.require_rank("Subspace", self.n_latent, d)
            means = safe_means(counts, statistics.sums[:, :d])
            scatters = unpack(statistics.sums[:, d:], d) / counts.clamp_min(EMPTY)[:, None, None]
            scatters = scatters - means[:, :, None] * means[:, None, :]
            # Without rows there is no direction: the first axes, whatever rounding would say.
            scatters = torch.where((counts <= EMPTY)[:, None, None], 0.0, scatters)
            bases = low_rank.leading_directions(scatters, low_rank.largest_rank(self.n_latent))[1]
        has_axis = low_rank.axis_mask(self.n_latent, len(counts), counts.device)
        if has_axis is not None:
            bases = bases * has_axis[:, None, :]
        return SubspaceParams(means, bases)

    def decode(self, params: SubspaceParams, code: Code) -> Tensor:
        """Return the mean of the components under the code, shape (n, d)."""
        return decode_means(params.means, code)

    def projections(self, params: SubspaceParams) -> Tensor:
        """Return U': where a row stands in the plane is known, there is no noise along it, shape (k, q, d)."""
        return params.loadings.mT

    def sample(self, params: SubspaceParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return mu_k + U_k z + (I - U_k U_k') e."""
        if self.is_flat:
            raise ValueError("A flat prior on z has no samples: give latent_variance, or fit a PPCA.")
        (n, d), q = (len(index), params.means.shape[1]), params.loadings.shape[2]
        shape, like = (n, q + d), params.means
        normal = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        along = math.sqrt(self.latent_variance) * normal[:, :q]
        across = math.sqrt(self.variance) * normal[:, q:]
        bases = params.loadings[index]  # (n, d, q)
        return (
            params.means[index]
            + across
            + (bases @ (along - (across[:, None] @ bases)[:, 0])[:, :, None])[:, :, 0]
        )

    def n_parameters(self, params: SubspaceParams) -> int:
        """Return k (d + q(d - q)), and q less each where a shift along the plane changes nothing."""
        k, d, _ = params.loadings.shape
        ranks = self.n_latent if isinstance(self.n_latent, tuple) else (self.n_latent,) * k
        return sum(d + q * (d - q) - (q if self.is_flat else 0) for q in ranks)

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return centred rows of a spread near one, in one unit for all features."""
        return Frame.around(mean, std, common_scale=True)

    def in_frame(self, frame: Frame) -> Self:
        """Return the family with its variances in squared working units."""
        # Of units so large or small that their square is no number the nearest that is one is taken.
        least, most = sys.float_info.min, sys.float_info.max / 2
        unit = max(float(frame.scale[0].square()), least)
        variance = min(max(self.variance * unit, least), most)
        latent_variance = max(self.latent_variance * unit, 2 * variance)
        return replace(self, variance=variance, latent_variance=latent_variance)

    def rounding(self, params: SubspaceParams, dtype: torch.dtype) -> float:
        """Return the error in nats to expect of the latent axes in a dtype, on a typical row in working units."""
        means = params.means.square().sum(1)
        d = params.means.shape[1]
        return 0.25 * 0.5 * torch.finfo(dtype).eps * float((2 * means + d).amax()) / self.variance

    def collapsed(self, params: SubspaceParams, variances: Tensor) -> Tensor:
        """Return that no component stands on a floor: there is none. One that lost its rows is given several."""
        del variances
        return torch.zeros(params.n_components, dtype=torch.bool, device=params.means.device)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, SubspaceParams]]:
        """Return two planes in four dimensions, and a line and a plane in three."""
        means = torch.tensor([[-2.0, 1.0, 0.0, -2.0], [4.0, 1.0, -2.0, 3.0]], dtype=torch.float64)
        planes = torch.tensor(
            [
                [[1.2, 0.0], [0.4, 0.7], [-0.5, 0.5], [0.2, -0.3]],
                [[0.3, 0.8], [-0.9, 0.2], [0.6, 0.3], [0.8, -0.2]],
            ],
            dtype=torch.float64,
        )
        bases = torch.linalg.qr(planes)[0]
        mixed = torch.linalg.qr(planes[:, :3])[0] * torch.tensor(
            [[[1.0, 0.0]], [[1.0, 1.0]]], dtype=torch.float64
        )
        return [
            (cls(2, 0.2, 1.5), SubspaceParams(means, bases)),
            (cls((1, 2), 0.3, 2.0), SubspaceParams(means[:, :3], mixed)),
        ]
