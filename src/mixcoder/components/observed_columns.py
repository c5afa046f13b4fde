"""Families of independent features, seen through some of them: what is missing drops out of every sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.observed import Observed, dense_code
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class Columns:
    r"""A family whose log-density is a sum over features, feature by feature.

    .. math:: \log p(x|k) = \sum_d \left[ \langle \eta_{kd}, T_d(x_d) \rangle + b_{kd} + t_d(x_d) \right]

    Parameters
    ----------
    features : Tensor, shape (n, f)
        T, of rows whose missing entries hold any number of the domain.
    owner : Tensor, shape (f,)
        The feature d of the row that each of them belongs to.
    natural : Tensor, shape (k, f)
        eta.
    biases : Tensor, shape (k, d)
        b.
    expected : Tensor, shape (k, f)
        E[T | k].
    base : Tensor, shape (n, d), optional
        t.
    """

    features: Tensor
    owner: Tensor
    natural: Tensor
    biases: Tensor
    expected: Tensor
    base: Tensor | None = None

    def log_likelihood(self, seen: Tensor) -> Tensor:
        """Return the sum over what is seen, shape (n, k)."""
        mask = seen.to(self.features.dtype)
        result = (self.features * mask[:, self.owner]) @ self.natural.T
        result.addmm_(mask, self.biases.T)
        return result if self.base is None else result + (self.base * mask).sum(1, keepdim=True)


@final
@dataclass(frozen=True)
class ObservedColumns(Observed[Moments]):
    """Rows seen by components of independent features: what is seen tells nothing else about what is missing.

    Parameters
    ----------
    to_moments : callable
        Makes the family's sums of counts, sums of T, shape (k, f), and the sum of base measures or ``None``.
    """

    family: Any
    params: Any
    x: Tensor
    seen: Tensor
    log_likelihood: Tensor
    columns: Columns
    to_moments: Callable[[Tensor, Tensor, Tensor | None], Moments]

    @classmethod
    def of(
        cls,
        family: Any,
        params: Any,
        x: Tensor,
        columns: Columns,
        to_moments: Callable[[Tensor, Tensor, Tensor | None], Moments] | None = None,
        log_likelihood: Tensor | None = None,
    ) -> Self:
        """Return what rows in float64 show."""
        seen = ~x.isnan()
        if log_likelihood is None:
            log_likelihood = columns.log_likelihood(seen)
        return cls(family, params, x, seen, log_likelihood, columns, to_moments or Moments)

    def statistics(self, code: Code, weights: Tensor | None = None) -> Moments:
        """Return counts, and sums of what is seen and of what is expected in the place of what is not."""
        dense, columns = dense_code(code, weights), self.columns
        mask = self.seen.to(dense.dtype)
        sums = dense.T @ (columns.features * mask[:, columns.owner])
        sums += (dense.T @ (1 - mask))[:, columns.owner] * columns.expected
        base = None
        if columns.base is not None:
            rows = (
                torch.ones(len(mask), dtype=dense.dtype, device=dense.device) if weights is None else weights
            )
            base = (rows.to(dense.dtype) @ (columns.base * mask).sum(1))[None, None]
        return self.to_moments(dense.sum(0), sums, base)

    def expected(self, code: Code) -> Tensor:
        """Return what the family decodes of the code where an entry is missing."""
        return torch.where(self.seen, self.x, self.family.decode(self.params, code).to(self.x.dtype))

    def sample(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return draws from the components where an entry is missing."""
        drawn = self.family.sample(self.params, index, generator)
        return torch.where(self.seen, self.x, drawn.to(self.x.dtype))


__all__ = ["Columns", "ObservedColumns"]
