"""Each row its own choice of features: one mask a row, and posteriors through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sensing.given import as_tensor
from mixcoder.sensing.prior import GaussianPrior
from mixcoder.sensing.views import Index, View


@final
@dataclass(frozen=True)
class RowMasks:
    """An operator a row: it shows the features where the row's mask is true.

    An observation keeps the shape (n, d) of the rows; what it holds where the mask is false is not looked at, and may
    be NaN. A row that shows nothing has the prior as its posterior; :attr:`unseen` lists those rows.

    Parameters
    ----------
    observed : Tensor or array, shape (n, d)
        bool.

    Examples
    --------
    >>> masks = RowMasks.of_present(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]))
    >>> masks.observed.tolist(), masks.unseen.tolist()
    ([[True, False], [False, False]], [1])
    """

    observed: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "observed", as_tensor("observed", self.observed))
        if self.observed.ndim != 2 or self.observed.dtype != torch.bool:
            raise ValueError(
                f"observed must be bool of shape (n_rows, n_features), got {self.observed.dtype} of shape "
                f"{tuple(self.observed.shape)}; one mask for all rows is Rows.observed."
            )

    @classmethod
    def of_present(cls, y: Any) -> RowMasks:
        """Return the masks that show what is not NaN."""
        return cls(~as_tensor("y", y).isnan())

    @property
    def unseen(self) -> Tensor:
        """Rows of which nothing is shown, int64."""
        return (~self.observed.any(1)).nonzero()[:, 0]

    def patterns(self) -> tuple[Tensor, Tensor]:
        """Return the distinct masks, shape (p, d), and which one each row has, shape (n,)."""
        return torch.unique(self.observed, dim=0, return_inverse=True)


@final
@dataclass(frozen=True)
class MaskedView(View):
    r"""A mask a row, and covariances W W' + diag(b): a q x q system a mask and component, no d x d matrix.

    With o the features of a row that are seen and r = b + s^2,

    .. math:: M = I + \sum_{d \in o} w_d w_d' / r_d, \qquad z = M^{-1} \sum_{d \in o} w_d e_d / r_d

    and the sums of all masks are one matrix product of masks and outer products of loadings.
    """

    prior: GaussianPrior
    noise_variance: float
    patterns: Tensor
    place: Tensor

    def see(self, y: Tensor, rows: Index) -> tuple[Tensor, Tensor]:
        """Return what is seen, zeros elsewhere."""
        return y * self.patterns[self.place[rows]], y.new_zeros(len(y))

    def expect(self, x: Tensor) -> Tensor:
        """Return the rows."""
        return x

    def log_density(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return the density of what is seen through the latent means."""
        seen, z, left = self._explained(k, residuals, rows)
        norms = (left.square() / self._noise(k)).sum(1) + z.square().sum(1)
        return -0.5 * (norms + self.log_det(k, rows) + seen.sum(1) * LOG_2PI)

    def correction(self, k: int, residuals: Tensor, rows: Index) -> Tensor:
        """Return W z and what the rest says about the seen features' own noise."""
        _, z, left = self._explained(k, residuals, rows)
        return z @ self.prior.loading(k).T + left * (self.prior.spread(k) / self._noise(k))

    def variances(self, k: int, rows: Index) -> Tensor:
        r"""Return :math:`b_d - m_d b_d^2/r_d + (1 - m_d b_d/r_d)^2\, w_d' M^{-1} w_d`, shape (n, d)."""
        which, place = torch.unique(self.place[rows], return_inverse=True)
        spread, seen = self.prior.spread(k), self.patterns[which].to(self.prior.means)
        left = 1 - seen * (spread / self._noise(k))  # (p, d)
        result = spread * left
        if self.prior.n_latent:
            inverses = torch.cholesky_inverse(self._factors(k, seen))
            result += left.square() * (inverses.flatten(1) @ self._products(k).T)
        return result[place]

    def log_det(self, k: int, rows: Index) -> Tensor:
        """Return log |S_k| of what each row shows, shape (n,)."""
        which, place = torch.unique(self.place[rows], return_inverse=True)
        seen = self.patterns[which].to(self.prior.means)
        total = seen @ self._noise(k).log()
        if self.prior.n_latent:
            total = total + 2 * self._factors(k, seen).diagonal(dim1=1, dim2=2).log().sum(1)
        return total[place]

    def _noise(self, k: int) -> Tensor:
        return self.prior.spread(k) + self.noise_variance

    def _products(self, k: int) -> Tensor:
        """Return w_d w_d' of each feature, shape (d, q q)."""
        loading = self.prior.loading(k)
        return (loading[:, :, None] * loading[:, None, :]).flatten(1)

    def _factors(self, k: int, seen: Tensor) -> Tensor:
        """Return Cholesky factors of M, shape (p, q, q)."""
        q = self.prior.n_latent
        precisions = ((seen / self._noise(k)) @ self._products(k)).unflatten(1, (q, q))
        precisions.diagonal(dim1=1, dim2=2).add_(1.0)
        return torch.linalg.cholesky(precisions)

    def _explained(self, k: int, residuals: Tensor, rows: Index) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks as numbers, latent means, and what these leave of the seen residuals."""
        which, place = torch.unique(self.place[rows], return_inverse=True)
        seen = self.patterns[which].to(self.prior.means)
        residuals = residuals * seen[place]
        if not self.prior.n_latent:
            return seen[place], residuals.new_zeros(len(residuals), 0), residuals
        loading = self.prior.loading(k)
        right = (residuals / self._noise(k)) @ loading  # (n, q)
        z = torch.cholesky_solve(right[:, :, None], self._factors(k, seen)[place])[:, :, 0]
        return seen[place], z, residuals - seen[place] * (z @ loading.T)


__all__ = ["MaskedView", "RowMasks"]
