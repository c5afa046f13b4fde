"""Rows of which some entries are missing, as a family sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.ops.patterns import parts
from mixcoder.statistics import Statistics

S = TypeVar("S", bound=Statistics)

NEGLIGIBLE = 1e-14
"""A row of a smaller share in a component adds nothing to what is missing of its sums."""


class Observed(ABC, Generic[S]):
    r"""What the seen entries x_a of some rows say about the missing ones x_b, under each component.

    Integrating x_b out of the likelihood, and taking the expectation of the sums that an M-step needs over
    p(x_b | x_a, k), is the exact E-step for missing entries: the likelihood of what was seen never falls.

    Parameters
    ----------
    log_likelihood : Tensor, shape (n, k)
        log p(x_a | k), in nats; zero for a row without any entry.

    References
    ----------
    Ghahramani & Jordan (1994), "Supervised learning from incomplete data via an EM approach".
    """

    log_likelihood: Tensor

    @abstractmethod
    def statistics(self, code: Code, weights: Tensor | None = None) -> S:
        r"""Return the sums over rows that ``maximize`` needs, :math:`\sum_n u_{nk} E[T(x_n) | x_{n,a}, k]`."""

    @abstractmethod
    def expected(self, code: Code) -> Tensor:
        r"""Return the rows with missing entries expected, :math:`\sum_k u_{nk} E[x_b | x_a, k]`, shape (n, d)."""

    @abstractmethod
    def sample(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the rows with missing entries drawn from p(x_b | x_a, k), k from ``index``, shape (n, d)."""


def observed_parts(family: Any, params: Any, x: Tensor) -> Iterator[tuple[Tensor, Observed[Any]]]:
    """Yield row numbers and what is seen of these rows, a bounded number at a time.

    Parameters
    ----------
    family : Family
        One that ``marginalizes``.
    x : Tensor, shape (n, d)
        In working coordinates, float64; NaN where an entry is missing.
    """
    for rows in parts(~x.isnan(), *family.observed_size(params)):
        yield rows, family.observe(params, x[rows])


def dense_code(code: Code, weights: Tensor | None) -> Tensor:
    """Return weights times code in float64, shape (n, k)."""
    dense = code.dense(torch.float64) if isinstance(code, HardCode) else code.to(torch.float64)
    return dense if weights is None else dense * weights.to(torch.float64)[:, None]


def mixed(code: Code, rows: Tensor) -> Tensor:
    """Return sum_k u_nk of a row for every component, shape (n, k, d), by code, shape (n, d)."""
    if isinstance(code, HardCode):
        return rows[torch.arange(len(rows), device=rows.device), code.index]
    return (code.to(rows.dtype)[:, None, :] @ rows)[:, 0]


def conditional_draw(seen: Any, index: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws from p(x_b | x_a, k) of Gaussian components, shape (n, d).

    A draw of the whole row, corrected by what its own seen entries would have told: the conditional mean is affine
    in what is seen, and the conditional covariance does not depend on it, so that no other factor is needed.

    References
    ----------
    Hoffman & Ribak (1991), "Constrained realizations of Gaussian fields", equation 3.
    """
    code = HardCode(index, seen.params.n_components)
    free = seen.family.sample(seen.params, index, generator)
    told = seen.family.observe(seen.params, torch.where(seen.seen, free, torch.nan)).expected(code)
    return torch.where(seen.seen, seen.x, seen.expected(code) + (free - told))
