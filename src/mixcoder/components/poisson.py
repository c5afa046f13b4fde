"""Independent counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Params, decode_means
from mixcoder.components.bernoulli import first_entry
from mixcoder.components.exponential import ExponentialFamily, write_rows
from mixcoder.components.observed_columns import Columns, ObservedColumns
from mixcoder.ops.gaussian import EMPTY, safe_means, variance_floor
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class PoissonParams(Params):
    """Parameters of :class:`Poisson`.

    Parameters
    ----------
    rates : Tensor, shape (k, d)
        Means, positive.
    """

    rates: Tensor


@final
@dataclass(frozen=True)
class Poisson(ExponentialFamily[PoissonParams]):
    r"""Components of independent counts.

    .. math:: \log p(x|k) = \sum_d \left[ x_d \log \lambda_{kd} - \lambda_{kd} - \log x_d! \right]

    The factorial is the same for every component: no code sees it, and its sum over the rows is needed
    once a fit.

    Parameters
    ----------
    min_rate : float
        Smallest rate of a component, as a fraction of the feature's mean over all rows (a feature
        without any count takes the mean of the others, or one), positive and at most one. The M-step is
        the exact maximiser under this constraint (the likelihood is concave in each rate), so the bound
        still never falls.

    Examples
    --------
    >>> family, params = Poisson.examples()[0]
    >>> family.log_likelihood(params, torch.tensor([[2.0, 9.0, 1.0]])).argmax(1)
    tensor([0])

    References
    ----------
    Loader (2000), Fast and accurate computation of binomial probabilities, for the deviance form.
    """

    min_rate: float = 1e-6

    marginalizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.min_rate <= 1:
            raise ValueError(f"min_rate must be in (0, 1], a fraction of the mean, got {self.min_rate!r}.")

    def width(self, n_features: int) -> int:
        """Return 1 + d."""
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x."""
        write_rows(x, out)

    def natural(self, params: PoissonParams) -> Tensor:
        """Return the negative sum of rates, and the log-rates."""
        return torch.cat([-params.rates.sum(1, keepdim=True), params.rates.log()], 1)

    def row_terms(self, x: Tensor) -> Tensor:
        """Return -sum_d log x_d! of the row."""
        return -torch.lgamma(x + 1).sum(1, keepdim=True)

    def common(self, params: PoissonParams) -> Tensor:
        """Return one."""
        return params.rates.new_ones(1, 1)

    def log_likelihood(self, params: PoissonParams, x: Tensor) -> Tensor:
        """Return the log-probability through deviances, shape (n, k)."""
        # x log(rate) and log x! cancel: counts near 1e5 would leave float32 no digit after the point.
        out = x.new_empty(x.shape[0], params.n_components)
        for k, rates in enumerate(params.rates.to(x.dtype)):
            out[:, k] = _deviances(x, rates).sum(1)
        return -out - _log_roots(x).sum(1, keepdim=True)

    def maximize(self, statistics: Moments) -> PoissonParams:
        """Return floored mean counts."""
        counts, sums = statistics.counts, statistics.sums
        overall = sums.sum(0) / counts.sum().clamp_min(EMPTY)
        # The variance of a Poisson count is its mean: the floor of one is that of the other.
        return PoissonParams(torch.maximum(safe_means(counts, sums), variance_floor(overall, self.min_rate)))

    def decode(self, params: PoissonParams, code: Code) -> Tensor:
        """Return the rates under the code, shape (n, d)."""
        return decode_means(params.rates, code)

    def sample(self, params: PoissonParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return Poisson counts."""
        return torch.poisson(params.rates[index], generator=generator)

    def observe(self, params: PoissonParams, x: Tensor) -> ObservedColumns:
        """Return the rows without their missing counts."""
        counts, rates = x.nan_to_num(nan=0.0), params.rates
        owner = torch.arange(x.shape[1], device=x.device)
        columns = Columns(counts, owner, rates.log(), -rates, rates, -torch.lgamma(counts + 1))
        return ObservedColumns.of(self, params, x, columns)

    def check_rows(self, x: Tensor) -> str | None:
        """Return the first entry that is not a count."""
        found = first_entry(x, ~((x >= 0) & (x == x.floor()) & x.isfinite()))
        return found and f"{found}, but Poisson features are counts: whole numbers, zero or more."

    def seeding_view(self, x: Tensor) -> Tensor:
        """Return Anscombe's root 2 (x + 3/8)^(1/2), of a variance near one at any rate."""
        return 2 * (x + 0.375).sqrt()

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, PoissonParams]]:
        """Return three profiles of three counts, and two rates of one."""
        profiles = torch.tensor([[1.0, 10.0, 2.0], [8.0, 1.0, 15.0], [20.0, 6.0, 0.5]], dtype=torch.float64)
        rates = torch.tensor([[2.0], [15.0]], dtype=torch.float64)
        return [(cls(), PoissonParams(profiles)), (cls(), PoissonParams(rates))]


def _deviances(x: Tensor, rates: Tensor) -> Tensor:
    """Return x log(x/rate) - (x - rate) >= 0, with 0 log 0 = 0, shape (n, d)."""
    excess = x - rates
    return x * torch.log1p((excess / rates).masked_fill(x == 0, 0.0)) - excess


def _log_roots(x: Tensor) -> Tensor:
    """Return log x! - x log x + x, which is near log(2 pi x) / 2."""
    large = x.clamp_min(16.0)
    stirling = 0.5 * torch.log(2 * math.pi * large) + 1 / (12 * large) - 1 / (360 * large**3)
    stirling = stirling + 1 / (1260 * large**5) - 1 / (1680 * large**7)
    return torch.where(x < 16, torch.lgamma(x + 1) - torch.special.xlogy(x, x) + x, stirling)
