"""Independent waiting times: a family in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from mixcoder.components import ExponentialFamily, Params
from mixcoder.components.base import decode_means
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class ExponentialParams(Params):
    """Mean waiting times, positive, shape (k, d), in the units of the rows."""

    means: Tensor


@final
@dataclass(frozen=True)
class Exponential(ExponentialFamily[ExponentialParams]):
    r"""Components of independent waiting times: log p(x|k) = - sum_d [log m_kd + x_d / m_kd], x >= 0.

    Means are kept above ``min_mean`` times the mean over all rows. The likelihood of one mean rises up to its maximum
    and falls beyond: the clamped maximiser is that under the constraint, and the bound still never falls.
    """

    min_mean: float = 1e-6

    # T(x) = x, and the constant that every family has: two products are then the whole algorithm.

    def width(self, n_features: int) -> int:
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        if out.data_ptr() != x.data_ptr():  # the rows may be there already
            out.copy_(x)

    def natural(self, params: ExponentialParams) -> Tensor:
        return torch.cat([-params.means.log().sum(1, keepdim=True), -1 / params.means], 1)

    def maximize(self, statistics: Moments) -> ExponentialParams:
        counts, sums = statistics.counts[:, None], statistics.sums
        overall = sums.sum(0) / counts.sum().clamp_min(1e-10)
        overall = torch.where(overall > 0, overall, 1.0)  # a column of zeros
        means = torch.where(counts > 1e-10, sums / counts.clamp_min(1e-10), overall)
        return ExponentialParams(torch.maximum(means, self.min_mean * overall))

    def decode(self, params: ExponentialParams, code) -> Tensor:
        return decode_means(params.means, code)

    def sample(self, params: ExponentialParams, index: Tensor, generator: torch.Generator) -> Tensor:
        means = params.means[index]
        return means * torch.empty_like(means).exponential_(generator=generator)

    def check_rows(self, x: Tensor) -> str | None:
        bad = (~(x >= 0)).nonzero()
        if not len(bad):
            return None
        row, column = bad[0].tolist()
        return f"Row {row}, column {column} holds {x[row, column]:g}, but waiting times are zero or more."

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, ExponentialParams]]:
        means = torch.tensor([[0.2, 3.0], [2.0, 0.3], [9.0, 9.0]], dtype=torch.float64)
        return [(cls(), ExponentialParams(means))]
