"""The covariances of an observation, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sensing.operators import Matrix, Operator
from mixcoder.sensing.prior import SINGULAR, GaussianPrior
from mixcoder.sensing.views import Index, View, rotated, singular


@final
@dataclass(frozen=True)
class DenseView(View):
    r"""Covariances S_k of y written out: few measurements, or no structure.

    .. math:: S_k = H \Sigma_k H' + s^2 I = L L', \qquad G_k = \Sigma_k H' S_k^{-1}

    More measurements than features are first rotated to as many, y' = Q'y with H = Q R: what is orthogonal to the
    range of H is noise alone, and the same under every component.
    """

    prior: GaussianPrior
    operator: Operator
    noise_variance: float
    axes: Tensor | None
    factors: Tensor
    gains: Tensor
    left: Tensor

    @classmethod
    def of(cls, prior: GaussianPrior, operator: Operator, noise_variance: float) -> DenseView:
        """Factorise: m^3/3 + 2 m d (m + d) operations a covariance, d (q + m) a row of H where it has factors."""
        m, d = operator.shape
        axes = None
        seen = operator
        if m > d and noise_variance > 0:
            axes, narrow = torch.linalg.qr(operator.matrix(prior.means))  # (m, d), (d, d)
            seen = Matrix(narrow)
        groups = [0] if prior.has_one_covariance else range(len(prior.means))
        factors, gains, left = [], [], []
        for k in groups:
            cross = prior.cross(k, seen)
            covariance = seen.apply(cross.mT)  # (m, m)
            covariance = 0.5 * (covariance + covariance.mT)
            covariance.diagonal().add_(noise_variance)
            factor = _cholesky_of(covariance, k, noise_variance, needed=k in prior.used or len(groups) == 1)
            white = torch.linalg.solve_triangular(factor, cross.mT, upper=False)  # (m, d)
            factors.append(factor)
            gains.append(torch.linalg.solve_triangular(factor.mT, white, upper=True))
            left.append((prior.variances(k) - white.square().sum(0)).clamp_min(0))
        return cls(
            prior,
            operator,
            noise_variance,
            axes,
            torch.stack(factors),
            torch.stack(gains),
            torch.stack(left),
        )

    def see(self, y: Tensor, rows: Index) -> tuple[Tensor, Tensor]:
        """Return y, or Q'y and the density of the rest."""
        del rows
        return rotated(y, self.axes, self.noise_variance)

    def expect(self, x: Tensor) -> Tensor:
        """Return H x, or R x."""
        seen = self.operator.apply(x)
        return seen if self.axes is None else seen @ self.axes

    def log_density(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return the density by forward substitution."""
        del rows
        factor = self.factors[self._group(k)]
        white = torch.linalg.solve_triangular(factor, residuals.T, upper=False)
        constant = factor.diagonal().log().sum() + 0.5 * len(factor) * LOG_2PI
        return white.square_().sum(0).mul_(-0.5).sub_(constant)

    def correction(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return G_k e."""
        del rows
        return residuals @ self.gains[self._group(k)]

    def variances(self, k: int, rows: Index) -> Tensor:
        """Return what the measurements leave of each feature's variance."""
        del rows
        return self.left[self._group(k)]

    def log_det(self, k: int, rows: Index) -> Tensor:
        """Return log |S_k|; of measurements that were rotated, what the component says of it."""
        del rows
        return 2 * self.factors[self._group(k)].diagonal().log().sum()

    def _group(self, k: int) -> int:
        return k if len(self.factors) > 1 else 0


def _cholesky_of(covariance: Tensor, k: int, noise_variance: float, *, needed: bool) -> Tensor:
    """Return the lower factor of Cov[y] under component k; refuse one that is singular to rounding.

    Then its measurements explain one another, and there is too little noise.
    """
    factor, info = torch.linalg.cholesky_ex(covariance)
    left = factor.diagonal().square() / covariance.diagonal()
    if needed and (int(info) != 0 or not bool((left > SINGULAR).all())):
        raise ValueError(singular(f"component {k}", noise_variance))
    return factor


__all__ = ["DenseView"]
