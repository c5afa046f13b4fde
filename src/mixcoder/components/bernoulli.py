"""Independent bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Params, decode_means
from mixcoder.components.exponential import ExponentialFamily, write_rows
from mixcoder.components.observed_columns import Columns, ObservedColumns
from mixcoder.ops.gaussian import safe_means
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class BernoulliParams(Params):
    """Parameters of :class:`Bernoulli`.

    Parameters
    ----------
    probabilities : Tensor, shape (k, d)
        Of a one.
    """

    probabilities: Tensor


@final
@dataclass(frozen=True)
class Bernoulli(ExponentialFamily[BernoulliParams]):
    r"""Components of independent bits, each with its own probability of a one.

    .. math:: \log p(x|k) = \sum_d \left[ x_d \log p_{kd} + (1-x_d) \log (1-p_{kd}) \right]

    Parameters
    ----------
    min_probability : float
        Smallest probability of a one, and of a zero, from 1e-15 to below 1/2. The M-step is the exact
        maximiser under this constraint (the likelihood is concave in each probability), so the bound
        still never falls. Parameters given from outside are read as if they obeyed it.

    Examples
    --------
    >>> family, params = Bernoulli.examples()[0]
    >>> rows = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    >>> family.log_likelihood(params, rows).argmax(1)
    tensor([0])

    References
    ----------
    Bishop (2006), section 9.3.3.
    """

    min_probability: float = 1e-6

    marginalizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        # Below 1e-15, 1 - p rounds to one and its complement to zero.
        if not 1e-15 <= self.min_probability < 0.5:
            raise ValueError(f"min_probability must be in [1e-15, 0.5), got {self.min_probability!r}.")

    def width(self, n_features: int) -> int:
        """Return 1 + d."""
        return 1 + n_features

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write x."""
        write_rows(x, out)

    def natural(self, params: BernoulliParams) -> Tensor:
        """Return the sum of log(1 - p), and the log-odds."""
        probabilities = self._floored(params.probabilities)
        bias = torch.log1p(-probabilities).sum(1)
        return torch.cat([bias[:, None], torch.logit(probabilities)], 1)

    def log_likelihood(self, params: BernoulliParams, x: Tensor) -> Tensor:
        """Return the log-probability of ones and zeros apart, shape (n, k)."""
        # Terms of one sign: where p is near one, bias and log-odds are large and cancel.
        probabilities = self._floored(params.probabilities)
        ones, zeros = probabilities.log().to(x.dtype), torch.log1p(-probabilities).to(x.dtype)
        return x @ ones.T + (1 - x) @ zeros.T

    def maximize(self, statistics: Moments) -> BernoulliParams:
        """Return the share of ones, floored."""
        return BernoulliParams(self._floored(safe_means(statistics.counts, statistics.sums)))

    def decode(self, params: BernoulliParams, code: Code) -> Tensor:
        """Return the probabilities of a one under the code, shape (n, d)."""
        return decode_means(params.probabilities, code)

    def sample(self, params: BernoulliParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return ones where a uniform number is below p."""
        return torch.bernoulli(params.probabilities[index], generator=generator)

    def observe(self, params: BernoulliParams, x: Tensor) -> ObservedColumns:
        """Return the rows without their missing bits."""
        p = self._floored(params.probabilities)
        owner = torch.arange(x.shape[1], device=x.device)
        columns = Columns(x.nan_to_num(nan=0.0), owner, torch.logit(p), torch.log1p(-p), p)
        return ObservedColumns.of(self, params, x, columns)

    def check_rows(self, x: Tensor) -> str | None:
        """Return the first entry that is neither 0 nor 1."""
        found = first_entry(x, (x != 0) & (x != 1))
        return found and f"{found}, but Bernoulli features are 0 or 1: threshold them first, as in x > 0."

    def _floored(self, probabilities: Tensor) -> Tensor:
        return probabilities.to(torch.float64).clamp(self.min_probability, 1 - self.min_probability)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, BernoulliParams]]:
        """Return three patterns of eight bits."""
        patterns = torch.tensor(
            [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 1, 1, 1]],
            dtype=torch.float64,
        )
        return [(cls(), BernoulliParams(0.1 + 0.8 * patterns))]


class Entry(NamedTuple):
    """One entry of a table, as messages name it."""

    row: int
    column: int
    value: float

    def __str__(self) -> str:
        return f"Row {self.row}, column {self.column} holds {self.value:.6g}"


def first_entry(x: Tensor, wrong: Tensor) -> Entry | None:
    """Return the first wrong entry, row by row; ``None`` where none is wrong.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0], [0.5, 7.0]])
    >>> str(first_entry(x, x > 0.2))
    'Row 0, column 1 holds 1'
    """
    if not bool(wrong.any()):
        return None
    row, column = divmod(int(wrong.flatten().to(torch.uint8).argmax()), x.shape[1])
    return Entry(row, column, float(x[row, column]))
