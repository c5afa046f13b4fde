"""Independent categorical columns: latent class analysis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Kernel, Params, PassSetting, decode_means
from mixcoder.components.bernoulli import first_entry
from mixcoder.components.exponential import ExponentialFamily
from mixcoder.components.observed_columns import Columns, ObservedColumns
from mixcoder.ops.gaussian import safe_means
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class CategoricalParams(Params):
    """Parameters of :class:`Categorical`.

    Parameters
    ----------
    log_probabilities : Tensor, shape (k, c)
        The categories of all columns one after another; those of one column are a log-simplex.
    """

    log_probabilities: Tensor


@final
@dataclass(frozen=True)
class Categorical(ExponentialFamily[CategoricalParams]):
    r"""Components of independent columns, each one of a few categories coded 0, 1, 2, ...

    .. math:: \log p(x|k) = \sum_d \log p_{kd}(x_d)

    Parameters
    ----------
    n_categories : int or tuple of d ints, optional
        How many categories a column has: one number for all columns, or one each. ``None`` takes them
        from the largest code of each column at the beginning of a fit, see :meth:`in_domain`.
    min_probability : float
        Smallest probability of a category, positive and below one over the number of categories. The
        M-step is the exact maximiser under this constraint, so the bound still never falls. Parameters
        given from outside are read as if they obeyed it.

    Examples
    --------
    >>> colours = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    >>> family = Categorical().in_domain(colours.amin(0), colours.amax(0))
    >>> family.n_categories
    (2, 3)
    >>> family.features(colours)
    tensor([[1., 1., 0., 0., 0., 1.],
            [1., 0., 1., 1., 0., 0.]])

    References
    ----------
    Goodman (1974), latent class analysis.
    """

    n_categories: int | tuple[int, ...] | None = None
    min_probability: float = 1e-6

    leads_with_rows: ClassVar[bool] = False
    marginalizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = self.n_categories
        sizes = () if given is None else (given,) if isinstance(given, int) else tuple(given)
        if not isinstance(given, int | None):
            object.__setattr__(self, "n_categories", sizes)
        if not all(size >= 1 for size in sizes):
            raise ValueError(f"n_categories must be positive, got {given!r}.")
        largest = max((2, *sizes))
        if not 0 < self.min_probability < 1 / largest:
            raise ValueError(
                f"min_probability must be positive and below one over the number of categories "
                f"({largest}), got {self.min_probability!r}."
            )

    def in_domain(self, lowest: Tensor, highest: Tensor) -> Self:
        """Return the family that knows its categories, from the smallest and largest code of each column.

        Parameters
        ----------
        lowest, highest : Tensor, shape (d,)
            Of each column, over all rows.
        """
        if self.n_categories is not None:
            return self
        if problem := _uncoded(torch.stack([lowest, highest])):
            raise ValueError(problem)
        return replace(self, n_categories=tuple(int(code) + 1 for code in highest.tolist()))

    def width(self, n_features: int) -> int:
        """Return 1 + the number of all categories."""
        return 1 + sum(self._categories(n_features))

    def write_features(self, x: Tensor, out: Tensor) -> None:
        """Write the categories as ones among zeros."""
        categories = torch.tensor(self._categories(x.shape[1]), device=x.device)
        # A missing entry has no category: x - x marks it by NaN, as arithmetic does elsewhere.
        index = x.to(torch.int64).clamp_min_(0) + (categories.cumsum(0) - categories)
        out.zero_().scatter_(1, index, (x - x).add_(1.0).to(out.dtype))

    def natural(self, params: CategoricalParams) -> Tensor:
        """Return zero and the log-probabilities."""
        columns = [column.log_softmax(1) for column in self._columns(params.log_probabilities)]
        logs = torch.cat(columns, 1).clamp_min(math.log(self.min_probability))
        return torch.nn.functional.pad(logs, (1, 0))

    def maximize(self, statistics: Moments) -> CategoricalParams:
        """Return the logarithms of floored shares."""
        shares = self._columns(safe_means(statistics.counts, statistics.sums))
        floored = [_floored(share, self.min_probability) for share in shares]
        return CategoricalParams(torch.cat(floored, 1).log())

    def decode(self, params: CategoricalParams, code: Code) -> Tensor:
        """Return the most probable category of each column under the code, shape (n, d).

        A mean of codes would mean nothing: this is the mode of sum_k u_nk p_kd, the lowest on ties.
        """
        probabilities = self._columns(decode_means(params.log_probabilities.exp(), code))
        return torch.stack([column.argmax(1) for column in probabilities], 1).to(probabilities[0].dtype)

    def sample(self, params: CategoricalParams, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return for each column the category in which a uniform number falls."""
        columns = self._columns(params.log_probabilities.exp())
        n, dtype, device = len(index), columns[0].dtype, columns[0].device
        uniform = torch.rand(n, len(columns), generator=generator, dtype=dtype, device=device)
        # The last bound is left out: it is one up to rounding, and a number above it must not fall outside.
        bounds = [column.cumsum(1)[:, :-1] for column in columns]
        drawn = [(uniform[:, d : d + 1] >= bound[index]).sum(1) for d, bound in enumerate(bounds)]
        return torch.stack(drawn, 1).to(dtype)

    def n_parameters(self, params: CategoricalParams) -> int:
        """Return k sum_d (C_d - 1)."""
        columns = self._columns(params.log_probabilities)
        return params.n_components * sum(column.shape[1] - 1 for column in columns)

    def observe(self, params: CategoricalParams, x: Tensor) -> ObservedColumns:
        """Return the rows without their missing columns."""
        sizes = torch.tensor(self._categories(x.shape[1]), device=x.device)
        owner = torch.arange(len(sizes), device=x.device).repeat_interleave(sizes)
        natural = self.natural(params)[:, 1:]
        features = self.features(x.nan_to_num(nan=0.0))[:, 1:]
        biases = natural.new_zeros(len(natural), x.shape[1])
        columns = Columns(features, owner, natural, biases, natural.exp())
        return ObservedColumns.of(self, params, x, columns)

    def check_rows(self, x: Tensor) -> str | None:
        """Return the first entry that is no category of its column."""
        if self.n_categories is None:
            return _uncoded(x)
        if isinstance(self.n_categories, tuple) and len(self.n_categories) != x.shape[1]:
            return (
                f"X has {x.shape[1]} features, but n_categories has {len(self.n_categories)} entries: "
                f"{self.n_categories}."
            )
        if problem := _uncoded(x):
            return problem
        sizes = self._categories(x.shape[1])
        found = first_entry(x, x >= torch.tensor(sizes, device=x.device))
        if found is None:
            return None
        size = sizes[found.column]
        return f"{found}, but that column has {size} categories, 0 to {size - 1}: raise n_categories."

    def seeding_view(self, x: Tensor) -> Tensor:
        """Return the categories as ones among zeros: squared distances count differing columns twice."""
        return self.features(x)[:, 1:]

    def kernel(
        self, params: CategoricalParams, log_weights: Tensor, setting: PassSetting
    ) -> Kernel[CategoricalParams, Moments]:
        """Return the feature products, in float64 where the tolerance asks for it."""
        # A column's root mean square is no category; the first is as typical as any. All terms of a
        # log-probability have one sign, so that a product of any dtype is as good as its sum is small.
        return super().kernel(params, log_weights, replace(setting, magnitude=0 * setting.magnitude))

    def _categories(self, n_features: int) -> tuple[int, ...]:
        if self.n_categories is None:
            raise ValueError(
                "n_categories is not known yet: give it, or complete the family with "
                "in_domain(x.amin(0), x.amax(0))."
            )
        if isinstance(self.n_categories, int):
            return (self.n_categories,) * n_features
        return self.n_categories

    def _columns(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Return the categories of each column apart, d tensors of shape (k, C_d)."""
        sizes = self._categories(1)
        return flat.split(sizes[0] if isinstance(self.n_categories, int) else list(sizes), dim=1)

    @classmethod
    def examples(cls) -> Sequence[tuple[Self, CategoricalParams]]:
        """Return three habits in six columns, of three or of two to four categories."""
        favourites = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1], [2, 1, 2, 0, 1, 0]])
        even = torch.nn.functional.one_hot(favourites, 3).to(torch.float64) * 0.76 + 0.08  # (k, d, 3)
        sizes = (2, 3, 4, 2, 3, 4)
        uneven = [
            torch.nn.functional.one_hot(favourites[:, d] % size, size).to(torch.float64) * 0.7 + 0.3 / size
            for d, size in enumerate(sizes)
        ]
        return [
            (cls(3), CategoricalParams(even.flatten(1).log())),
            (cls(sizes), CategoricalParams(torch.cat(uneven, 1).log())),
        ]


def _floored(shares: Tensor, floor: float) -> Tensor:
    r"""Return the maximiser of sum_c s_c log p_c over the simplex with every p_c >= floor, shape (k, c).

    .. math:: p_c = \max(\mathrm{floor},\ s_c / \nu), \qquad \textstyle\sum_c p_c = 1

    How many categories stay above the floor is the largest j for which the j-th largest share does.
    """
    n_categories = shares.shape[1]
    descending = shares.sort(dim=1, descending=True).values
    above = torch.arange(1, n_categories + 1, device=shares.device)
    scales = (1 - floor * (n_categories - above)) / descending.cumsum(1)
    kept = (descending * scales >= floor).sum(1, keepdim=True).clamp_min(1)
    return (shares * scales.gather(1, kept - 1)).clamp_min(floor)


def _uncoded(x: Tensor) -> str | None:
    found = first_entry(x, ~((x >= 0) & (x == x.floor()) & x.isfinite()))
    return found and f"{found}, but categories are coded 0, 1, 2, ...: encode the column first."
