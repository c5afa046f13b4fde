"""Flat clouds seen through some of their features: nothing larger than the latent axes is factored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.observed import NEGLIGIBLE, Observed, conditional_draw, dense_code, mixed
from mixcoder.ops.gaussian import LOG_2PI, pack
from mixcoder.statistics import Moments, Statistics


class LatentSums(NamedTuple):
    """Sums over rows under a code r, with z the latent axes and expectations over what is missing.

    Parameters
    ----------
    counts : Tensor, shape (k,)
        Sum of r.
    sums, squares : Tensor, shape (k, d)
        Sums of r E[x] and r E[x^2].
    latent_sums : Tensor, shape (k, q)
        Sum of r E[z].
    latent_products : Tensor, shape (k, q, q)
        Sum of r E[z z'].
    cross_products : Tensor, shape (k, d, q)
        Sum of r E[x z'].
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    latent_sums: Tensor
    latent_products: Tensor
    cross_products: Tensor


@final
@dataclass(frozen=True)
class ObservedLowRank(Observed[Statistics]):
    r"""Rows seen by Gaussians of covariance W W' + Psi.

    With a the features that are seen, z given x_a has the precision and mean

    .. math::
        M_a = I + W_a'\Psi_a^{-1}W_a, \qquad \hat z = M_a^{-1}W_a'\Psi_a^{-1}(x_a-\mu_a), \qquad
        x_b | x_a \sim N(\mu_b + W_b \hat z,\ W_b M_a^{-1} W_b' + \Psi_b)

    One product of the masks with W W' / Psi, feature by feature, gives the precisions of all rows: 2 n k d q^2
    operations for a pass.

    Parameters
    ----------
    latent : Tensor, shape (n, k, q)
        E[z | x_a, k].
    covariances : Tensor, shape (n, k, q, q)
        M_a^-1.
    to_statistics : callable, optional
        Makes the family's sums of :class:`LatentSums`. Without it they are those of full covariances, which know
        no latent axes: d(d+1)/2 numbers a component, and 2 n k q d^2 operations more.

    References
    ----------
    Ghahramani & Hinton (1996); Tipping & Bishop (1999), section 4.2, for missing entries.
    """

    family: Any
    params: Any
    x: Tensor
    seen: Tensor
    log_likelihood: Tensor
    noise_variances: Tensor
    latent: Tensor
    covariances: Tensor
    to_statistics: Callable[[LatentSums], Statistics] | None

    @classmethod
    def of(
        cls,
        family: Any,
        params: Any,
        x: Tensor,
        noise_variances: Tensor,
        to_statistics: Callable[[LatentSums], Statistics] | None,
    ) -> Self:
        """Return what rows in float64 show, of noise variances of shape (k, d)."""
        seen, zeroed, n = ~x.isnan(), x.nan_to_num(nan=0.0), len(x)
        mask = seen.to(x.dtype)
        k, _, q = params.loadings.shape
        log_likelihood, latent = x.new_empty(n, k), x.new_empty(n, k, q)
        covariances = x.new_empty(n, k, q, q)
        identity = torch.eye(q, dtype=x.dtype, device=x.device)
        constants = -0.5 * mask @ (noise_variances.log() + LOG_2PI).T  # (n, k)
        for i, (mean, loadings, noise) in enumerate(
            zip(params.means, params.loadings, noise_variances, strict=True)
        ):
            scaled = loadings / noise[:, None]  # (d, q)
            outer = (loadings[:, :, None] * scaled[:, None, :]).flatten(1)
            factors = torch.linalg.cholesky(identity + (mask @ outer).view(n, q, q))
            covariances[:, i] = torch.cholesky_inverse(factors)
            away = (zeroed - mean) * mask
            z = torch.cholesky_solve((away @ scaled)[:, :, None], factors)[:, :, 0]
            # Squares are added, as in ops.low_rank.log_density: nothing cancels, however small the noise.
            rest = (away - (z @ loadings.T) * mask).square() @ noise.reciprocal()
            half_log_dets = factors.diagonal(dim1=1, dim2=2).log().sum(1)
            log_likelihood[:, i] = constants[:, i] - 0.5 * (rest + z.square().sum(1)) - half_log_dets
            latent[:, i] = z
        return cls(
            family, params, x, seen, log_likelihood, noise_variances, latent, covariances, to_statistics
        )

    def statistics(self, code: Code, weights: Tensor | None = None) -> Statistics:
        """Return the sums of the expected rows, latent means and their products, or of the rows' products."""
        dense = dense_code(code, weights)
        if self.to_statistics is None:
            return self._packed_moments(dense)
        missing = (~self.seen).to(dense.dtype)
        k, d, q = self.params.loadings.shape
        sums, squares = dense.new_empty(k, d), dense.new_empty(k, d)
        products, cross = dense.new_empty(k, q, q), dense.new_empty(k, d, q)
        for i in range(k):
            share, z, loadings = dense[:, i], self.latent[:, i], self.params.loadings[i]
            rows, spread = self._filled(i), self.covariances[:, i]
            weighted = z * share[:, None]
            # Sum of r Cov[z | x_a] over the rows that miss a feature, for every feature
            hidden = ((missing * share[:, None]).T @ spread.flatten(1)).view(d, q, q)
            extra = (loadings[:, None, :] @ hidden)[:, 0]  # (d, q)
            sums[i] = share @ rows
            squares[i] = share @ rows.square() + (extra * loadings).sum(1)
            squares[i] += (share @ missing) * self.noise_variances[i]
            products[i] = weighted.T @ z + (share @ spread.flatten(1)).view(q, q)
            cross[i] = rows.T @ weighted + extra
        latent_sums = torch.einsum("nk,nkq->kq", dense, self.latent)
        return self.to_statistics(LatentSums(dense.sum(0), sums, squares, latent_sums, products, cross))

    def _packed_moments(self, dense: Tensor) -> Moments:
        k, d, q = self.params.loadings.shape
        missing = (~self.seen).to(dense.dtype)
        sums, squares = dense.new_empty(k, d + d * (d + 1) // 2), dense.new_zeros(1, 1)
        for i in range(k):
            rows, share = self._filled(i), dense[:, i]
            # Rows of V with V'V = W_b M_a^-1 W_b', weighted: the roots of all rows make one product.
            active = (share > NEGLIGIBLE).nonzero()[:, 0]
            factors = torch.linalg.cholesky(self.covariances[active, i] * share[active, None, None])
            roots = (factors.mT.reshape(-1, q) @ self.params.loadings[i].T).view(-1, q, d)
            roots = (roots * missing[active, None, :]).flatten(0, 1)
            second = (rows * share[:, None]).T @ rows + roots.T @ roots
            second.diagonal().add_((share @ missing) * self.noise_variances[i])
            sums[i, :d], sums[i, d:] = share @ rows, pack(second)
            squares += second.trace()
        pools = self.family.row_terms(self.x[:0]) is not None
        return Moments(dense.sum(0), sums, squares if pools else None)

    def expected(self, code: Code) -> Tensor:
        """Return the conditional means, mixed by the code; what is seen stays as it is."""
        rows = torch.stack([self._filled(i) for i in range(self.latent.shape[1])], 1)
        return torch.where(self.seen, self.x, mixed(code, rows))

    def sample(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return conditional draws."""
        return conditional_draw(self, index, generator)

    def _filled(self, k: int) -> Tensor:
        """Return E[x | x_a, k], shape (n, d)."""
        return torch.where(
            self.seen, self.x, self.params.means[k] + self.latent[:, k] @ self.params.loadings[k].T
        )


__all__ = ["LatentSums", "ObservedLowRank"]
