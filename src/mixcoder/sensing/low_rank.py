"""The covariances of an observation as low rank and diagonal, in one set of axes for all components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from mixcoder.ops import low_rank
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sensing.dense import DenseView
from mixcoder.sensing.operators import Operator, Rows
from mixcoder.sensing.prior import SINGULAR, GaussianPrior
from mixcoder.sensing.views import Index, View, rotated, singular


@final
@dataclass(frozen=True)
class LowRankView(View):
    r"""Covariances of y that are low rank and diagonal in one set of axes for all components: nothing m x m.

    .. math::
        T S_k T' = V_k V_k' + R_k, \quad V_k = T H W_k, \qquad
        \Sigma_k H' S_k^{-1} e = W_k z + B_k H' T' R_k^{-1} (Te - V_k z), \quad
        z = (I + V_k' R_k^{-1} V_k)^{-1} V_k' R_k^{-1} T e

    Round B_k need one singular value decomposition H = T' diag(a) U' for all components, and R_k is
    :math:`b_k a^2 + s^2` (rotate once). Where H chooses features, T is the identity and B_k may be any diagonal.
    A B that all share is rotated too: T holds the eigenvectors of H B H'.

    Parameters
    ----------
    axes : Tensor, shape (m, r), optional
        T', orthonormal; the identity where it is left out.
    back : Tensor, shape (r, d), or None
        :math:`T H B` for one B = 1 or a shared one; ``None``: the adjoint of the operator.
    scales : Tensor, shape (g, 1) or (g, r)
        What is left of B_k once ``back`` has its share.
    noise : Tensor, shape (g, r)
        The diagonals of R_k.
    """

    prior: GaussianPrior
    operator: Operator
    noise_variance: float
    axes: Tensor | None
    back: Tensor | None
    scales: Tensor
    noise: Tensor
    seen_loadings: Tensor
    projections: Tensor
    factors: Tensor

    @classmethod
    def of(cls, prior: GaussianPrior, operator: Operator, noise_variance: float) -> LowRankView:
        """Rotate once, then 2 r q (d + q) operations a component."""
        axes, back, least = None, None, SINGULAR**2
        if prior.is_diagonal and _chooses(operator):
            columns = operator.columns  # type: ignore[attr-defined]
            scales = prior.spreads if prior.is_round else prior.spreads[:, columns]
            noise = (scales + noise_variance).expand(-1, len(columns))
        elif prior.is_round:
            axes, sizes, across = torch.linalg.svd(operator.matrix(prior.means), full_matrices=False)
            back = sizes[:, None] * across
            scales, noise = prior.spreads, prior.spreads * sizes.square() + noise_variance
        else:
            matrix, shared = operator.matrix(prior.means), prior.spreads[0]
            cross = matrix * shared if shared.ndim == 1 else matrix @ shared
            seen = cross @ matrix.T
            sizes, axes = torch.linalg.eigh(0.5 * (seen + seen.T))
            back, least = axes.T @ cross, SINGULAR
            scales = prior.spreads.new_ones(1, 1)
            noise = (sizes.clamp_min(0) + noise_variance)[None]
        k, q = len(prior.means), prior.n_latent
        loadings = prior.means.new_empty(k, prior.n_features, 0) if prior.loadings is None else prior.loadings
        seen_loadings = operator.apply(loadings.mT.flatten(0, 1)).unflatten(0, (k, q)).mT  # (k, m, q)
        if axes is not None:
            seen_loadings = axes.T @ seen_loadings
        _require_noise(noise, seen_loadings, least, noise_variance)
        if axes is not None and len(axes) > axes.shape[1] and noise_variance <= 0:
            raise ValueError(singular("some component", noise_variance))
        groups = noise if q == 0 else noise.expand(k, -1)
        projections, factors = low_rank.posterior(seen_loadings[: len(groups)], groups)
        return cls(
            prior,
            operator,
            noise_variance,
            axes,
            back,
            scales,
            noise,
            seen_loadings,
            projections,
            factors,
        )

    def see(self, y: Tensor, rows: Index) -> tuple[Tensor, Tensor]:
        """Return T y and the density of what is orthogonal to it."""
        del rows
        return rotated(y, self.axes, self.noise_variance)

    def expect(self, x: Tensor) -> Tensor:
        """Return T H x."""
        seen = self.operator.apply(x)
        return seen if self.axes is None else seen @ self.axes

    def log_density(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return the density through the latent means: squares are added, none are subtracted."""
        del rows
        z, left = self._explained(k, residuals)
        norms = left.square().mul_(self._noise(k).reciprocal()).sum(1).add_(z.square().sum(1))
        return norms.mul_(-0.5).sub_(0.5 * (self.log_det(k, slice(None)) + residuals.shape[1] * LOG_2PI))

    def correction(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return W z and what the rest says about B."""
        del rows
        z, left = self._explained(k, residuals)
        left *= self.scales[self._at(k, self.scales)] / self._noise(k)
        result = self.operator.adjoint(left) if self.back is None else left @ self.back
        return result + z @ self.prior.loading(k).T if self.prior.n_latent else result

    def variances(self, k: int, rows: Index) -> Tensor:
        r"""Return the diagonal of :math:`B - B H' R^{-1} H B + (W - JV) M^{-1} (W - JV)'`, J = B H' T' R^-1."""
        del rows
        spread = self.prior.spread(k)
        left = spread.clone() if spread.ndim == 1 else spread.diagonal().clone()
        scale = self.scales[self._at(k, self.scales)].expand(self.noise.shape[1])
        gain, loading = scale / self._noise(k), self.prior.loading(k)
        seen = self.seen_loadings[k]
        if self.back is None:
            left -= self.operator.adjoint((gain * scale)[None])[0]
            loading = loading - self.operator.adjoint((gain[:, None] * seen).T).T
        else:
            left -= (gain * scale) @ self.back.square()
            loading = loading - self.back.T @ (gain[:, None] * seen)
        left.clamp_min_(0)
        if not self.prior.n_latent:
            return left
        white = torch.linalg.solve_triangular(self.factors[k], loading.T, upper=False)  # (q, d)
        return left + white.square().sum(0)

    def log_det(self, k: int, rows: Index) -> Tensor:
        """Return log |S_k|; of measurements that were rotated to fewer, what the component says of it."""
        del rows
        factor = self.factors[self._at(k, self.factors)]
        return self._noise(k).log().sum() + 2 * factor.diagonal().log().sum()

    def _explained(self, k: int, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent means and what they leave of the residuals."""
        if not self.prior.n_latent:
            return residuals.new_empty(len(residuals), 0), residuals.clone()
        z = residuals @ self.projections[k].T
        return z, residuals - z @ self.seen_loadings[k].T

    def _noise(self, k: int) -> Tensor:
        return self.noise[self._at(k, self.noise)]

    @staticmethod
    def _at(k: int, values: Tensor) -> int:
        return k if len(values) > 1 else 0


def view_of(prior: GaussianPrior, operator: Operator, noise_variance: float) -> View:
    """Return the cheapest view of a prior through one operator for all rows.

    A row and component take about m (m + d) operations in the dense view, m (3 q + d) + d q in the low rank one,
    where that one is possible.
    """
    m, q = min(operator.shape), prior.n_latent
    possible = (
        prior.is_round or (prior.is_diagonal and _chooses(operator)) or (q > 0 and len(prior.spreads) == 1)
    )
    if possible and q * (3 * m + prior.n_features) <= m * m:
        return LowRankView.of(prior, operator, noise_variance)
    return DenseView.of(prior, operator, noise_variance)


def _chooses(operator: Operator) -> bool:
    """Return whether an operator shows some features, each once."""
    return isinstance(operator, Rows) and len(torch.unique(operator.columns)) == len(operator.columns)


def _require_noise(noise: Tensor, loadings: Tensor, least: float, noise_variance: float) -> None:
    """Raise a ValueError where a direction of y has no noise that its rounding would not drown."""
    largest = noise.amax() if noise.numel() else noise.new_ones(())
    if loadings.numel():
        largest = largest + loadings.square().sum(1).amax()
    if not bool((noise > least * largest).all()):
        raise ValueError(singular("some component", noise_variance))


__all__ = ["LowRankView", "view_of"]
