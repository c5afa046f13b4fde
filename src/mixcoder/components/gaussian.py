"""What all Gaussian families share: units, floors, means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Params, decode_means
from mixcoder.components.exponential import ExponentialFamily
from mixcoder.components.observed import Observed
from mixcoder.components.observed_columns import Columns, ObservedColumns
from mixcoder.components.observed_gaussian import ObservedGaussian
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class GaussianParams(Params):
    """Parameters with a mean per component.

    Parameters
    ----------
    means : Tensor, shape (k, d)
    """

    means: Tensor


P = TypeVar("P", bound=GaussianParams)


@dataclass(frozen=True)
class Gaussian(ExponentialFamily[P]):
    """Base of the Gaussian families; the concrete ones differ in what their covariances share.

    Parameters
    ----------
    min_variance : float
        Smallest variance of a component in any direction, as a fraction of the variance of the data
        there. The M-step is the exact maximiser under this constraint, so the bound still never falls.
    added_variance : float or sequence of d floats
        Added to the diagonal of every covariance, in squared units of the rows (scikit-learn's
        ``reg_covar``). It is part of no bound: with it the bound may fall by as little as it adds.

    Examples
    --------
    >>> from mixcoder.components import GaussianDiagonal
    >>> issubclass(GaussianDiagonal, Gaussian), GaussianDiagonal(min_variance=1e-3)
    (True, GaussianDiagonal(min_variance=0.001, added_variance=0.0))
    """

    min_variance: float = 1e-6
    added_variance: float | tuple[float, ...] = 0.0

    common_scale: ClassVar[bool] = False
    """Whether all features must share one unit (round covariances)."""

    marginalizes: ClassVar[bool] = True
    floors_variances: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.min_variance >= 0:
            raise ValueError(f"min_variance must be non-negative, got {self.min_variance!r}.")
        if not bool((torch.as_tensor(self.added_variance) >= 0).all()):
            raise ValueError(f"added_variance must be non-negative, got {self.added_variance!r}.")

    def decode(self, params: P, code: Code) -> Tensor:
        """Return the mean of the components under the code, shape (n, d)."""
        return decode_means(params.means, code)

    def frame(self, mean: Tensor, std: Tensor) -> Frame:
        """Return centred rows of a spread near one."""
        return Frame.around(mean, std, common_scale=self.common_scale)

    def in_frame(self, frame: Frame) -> Self:
        """Return the family with ``added_variance`` in squared working units."""
        if self.added_variance == 0.0:
            return self
        added = torch.as_tensor(self.added_variance, dtype=torch.float64, device=frame.scale.device)
        return replace(self, added_variance=tuple((added * frame.scale.square()).tolist()))

    def added(self, like: Tensor) -> Tensor:
        """Return ``added_variance`` as a tensor, shape () or (d,)."""
        return torch.as_tensor(self.added_variance, dtype=like.dtype, device=like.device)

    # Missing entries: a concrete family says its spreads, and makes its sums of first and second moments.

    def spreads(self, params: P) -> Tensor:
        """Return the covariances, shape (g, d, d), or the variances of uncorrelated features, (k, d)."""
        raise NotImplementedError

    def moments(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Return the family's sums of counts, shape (k,), and of first and second moments.

        Parameters
        ----------
        first : Tensor, shape (k, d)
            Sum of u x.
        second : Tensor, shape (g, d, d) or (k, d)
            Sum of u xx', or of u x^2, in the shape of the spreads.
        """
        raise NotImplementedError

    def observe(self, params: P, x: Tensor) -> Observed[Any]:
        """Return the rows with missing entries integrated out."""
        spreads = self.spreads(params)
        if spreads.ndim == 3:
            return ObservedGaussian.of(self, params, x, spreads, _whiteners(params))
        return _observed_diagonal(self, params, x, spreads)

    def observed_size(self, params: P) -> tuple[int, int]:
        """Return how many numbers ``observe`` keeps for a pattern of missing entries, and for a row."""
        spreads, (k, d) = self.spreads(params), params.means.shape
        if spreads.ndim == 3:
            return len(spreads) * (d // 2 + 1) * d, (k + 4) * d
        return 0, 8 * d + k


def _whiteners(params: Any) -> Tensor:
    """Return the whitening factors of full covariances, shape (g, d, d)."""
    return params.whitener if hasattr(params, "whitener") else params.whiteners


# Largest error in nats that an observed log-density may owe to squares that cancel.
_TOLERANCE = 1e-9


def _observed_diagonal(family: Any, params: Any, x: Tensor, variances: Tensor) -> ObservedColumns:
    """Return rows seen by Gaussians of uncorrelated features."""
    means, d = params.means, x.shape[1]
    zeroed, precisions = x.nan_to_num(nan=0.0), variances.reciprocal()
    columns = Columns(
        torch.cat([zeroed, zeroed.square()], 1),
        torch.arange(d, device=x.device).repeat(2),
        torch.cat([means * precisions, -0.5 * precisions], 1),
        -0.5 * (variances.log() + LOG_2PI + means.square() * precisions),
        torch.cat([means, means.square() + variances], 1),
    )

    def to_moments(counts: Tensor, sums: Tensor, base: Tensor | None) -> Moments:
        del base
        return family.moments(counts, sums[:, :d], sums[:, d:])

    # Squares far larger than the variances cancel: then subtract before squaring, one component at a time.
    reach = zeroed.abs().amax(0) + means.abs() if len(x) else means
    cancels = float((reach.square() * precisions).sum(1).amax()) * torch.finfo(x.dtype).eps > _TOLERANCE
    log_likelihood = None
    if cancels:
        seen = ~x.isnan()
        constants = (variances.log() + LOG_2PI) @ seen.to(x.dtype).T  # (k, n)
        norms = [
            (torch.where(seen, zeroed - mean, 0.0).square() * precision).sum(1)
            for mean, precision in zip(means, precisions, strict=True)
        ]
        log_likelihood = -0.5 * (torch.stack(norms, 1) + constants.T)
    return ObservedColumns.of(family, params, x, columns, to_moments, log_likelihood)


def standard_normal(n_rows: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return independent standard normal numbers, shape (n, d), d from the last axis of ``like``."""
    return torch.randn(n_rows, like.shape[-1], generator=generator, dtype=like.dtype, device=like.device)


def three_means() -> Tensor:
    """Return the means that the Gaussian examples share, shape (3, 2)."""
    return torch.tensor([[0.0, 0.0], [4.0, 1.0], [-3.0, 3.0]], dtype=torch.float64)
