"""How an operator sees a prior: what does not depend on the observations, factorised once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from mixcoder.ops.gaussian import LOG_2PI

# Rows index what a view answers: the rows of a block, by slice or by number.
Index = slice | Tensor


class View(ABC):
    r"""An operator, its noise and a prior, in the coordinates in which y is cheapest to explain.

    A residual e is an observation less its expectation under a component, in the coordinates of :meth:`see`. ``rows``
    says which rows of y the residuals belong to; only views with an operator a row ask.
    """

    @abstractmethod
    def see(self, y: Tensor, rows: Index) -> tuple[Tensor, Tensor]:
        """Return observations in coordinates of the view, shape (n, r), and log p of what these leave out, (n,)."""

    @abstractmethod
    def expect(self, x: Tensor) -> Tensor:
        """Return H x of each row, without noise, in coordinates of the view, shape (n, r)."""

    @abstractmethod
    def log_density(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return log N(e; 0, S_k), shape (n,)."""

    @abstractmethod
    def correction(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return Sigma_k H' S_k^-1 e, shape (n, d)."""

    @abstractmethod
    def variances(self, k: int, rows: Index) -> Tensor:
        """Return the diagonal of C_k, shape (d,) or (n, d)."""

    @abstractmethod
    def log_det(self, k: int, rows: Index) -> Tensor:
        """Return log |S_k|, shape () or (n,)."""


def rotated(y: Tensor, axes: Tensor | None, noise_variance: float) -> tuple[Tensor, Tensor]:
    """Return T y and log N of what it leaves out, noise alone in m - r dimensions."""
    if axes is None:
        return y, y.new_zeros(len(y))
    seen = y @ axes
    left = axes.shape[0] - axes.shape[1]
    if left == 0:
        return seen, y.new_zeros(len(y))
    norms = (y - seen @ axes.T).square().sum(1)
    return seen, -0.5 * (norms / noise_variance + left * (math.log(noise_variance) + LOG_2PI))


def singular(where: str, noise_variance: float) -> str:
    """Return what to say of a covariance that is singular."""
    return (
        f"The covariance of y under {where} is singular: noise_variance={noise_variance:g} is too small for an "
        "operator with dependent rows. Give a larger noise_variance, or drop rows."
    )


__all__ = ["Index", "View", "rotated", "singular"]
