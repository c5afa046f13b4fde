"""Gaussians whose features depend on one another, seen through some of their features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.observed import NEGLIGIBLE, Observed, conditional_draw, dense_code, mixed
from mixcoder.ops.gaussian import LOG_2PI, log_det_whitener
from mixcoder.ops.patterns import Patterns
from mixcoder.statistics import Moments

MomentsOf = Callable[[Tensor, Tensor, Tensor], Moments]
"""Makes a family's sums of counts, shape (k,), first moments, (k, d), and second ones, (g, d, d) or (k, d)."""


@final
@dataclass(frozen=True)
class ObservedGaussian(Observed[Moments]):
    r"""Rows seen by Gaussians with full covariances, each its own or all one.

    .. math::
        \hat x_{b} = \mu_b + \Sigma_{ba} \Sigma_{aa}^{-1} (x_a - \mu_a), \qquad
        \mathrm{Cov}[x | x_a] = \Sigma - \Sigma_{\cdot a} \Sigma_{aa}^{-1} \Sigma_{a \cdot}

    With P the precision the same is :math:`\hat x_b = \mu_b - P_{bb}^{-1} P_{ba} (x_a - \mu_a)` and
    :math:`P_{bb}^{-1}`: of the two systems the smaller is factored, one a pattern and covariance.

    Parameters
    ----------
    filled : Tensor, shape (n, k, d)
        E[x | x_a, k].
    """

    family: Any
    params: Any
    x: Tensor
    seen: Tensor
    log_likelihood: Tensor
    filled: Tensor
    patterns: Patterns
    factors: tuple[_Factors, ...]
    moments: MomentsOf

    @classmethod
    def of(cls, family: Any, params: Any, x: Tensor, spreads: Tensor, whiteners: Tensor) -> Self:
        """Return what rows in float64 show, of covariances and their whiteners, shape (g, d, d)."""
        seen = ~x.isnan()
        patterns, zeroed, means = Patterns.of(seen), x.nan_to_num(nan=0.0), params.means
        factors = tuple(_Factors.of(patterns, *pair) for pair in zip(spreads, whiteners, strict=True))
        n_seen = seen.sum(1).to(x.dtype)
        log_likelihood = x.new_empty(len(x), len(means))
        filled = x.new_empty(len(x), *means.shape)
        for k, mean in enumerate(means):
            factor = factors[k if len(factors) > 1 else 0]
            away = torch.where(seen, zeroed - mean, 0.0)
            full, norms = factor.complete(patterns, seen, away)
            log_likelihood[:, k] = -0.5 * (norms + n_seen * LOG_2PI) - factor.half_log_dets[patterns.place]
            filled[:, k] = torch.where(seen, zeroed, full + mean)
        return cls(family, params, x, seen, log_likelihood, filled, patterns, factors, family.moments)

    def statistics(self, code: Code, weights: Tensor | None = None) -> Moments:
        """Return counts, sums of the expected rows, and their scatters with the covariance of what is missing."""
        dense = dense_code(code, weights)
        first = torch.einsum("nk,nkd->kd", dense, self.filled)
        shares = dense.new_zeros(self.patterns.n_patterns, dense.shape[1]).index_add_(
            0, self.patterns.place, dense
        )
        if len(self.factors) == 1:
            shares = shares.sum(1, keepdim=True)
        second = torch.stack([f.covariance(shares[:, g]) for g, f in enumerate(self.factors)])
        for k in range(dense.shape[1]):
            rows = self.filled[:, k]
            second[k if len(second) > 1 else 0] += (rows * dense[:, k : k + 1]).T @ rows
        return self.moments(dense.sum(0), first, second)

    def expected(self, code: Code) -> Tensor:
        """Return the conditional means, mixed by the code; what is seen stays as it is."""
        return torch.where(self.seen, self.x, mixed(code, self.filled))

    def sample(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return conditional draws."""
        return conditional_draw(self, index, generator)


@dataclass(frozen=True)
class _Factors:
    """One covariance, split by the patterns.

    Parameters
    ----------
    factors : Tensor, shape (p, s, s)
        Cholesky factors of P_bb, or of Sigma_aa.
    roots : Tensor, shape (p, s, d)
        V with V'V the conditional covariance, or what it lacks of the whole.
    half_log_dets : Tensor, shape (p,)
        log |Sigma_aa| / 2.
    """

    spread: Tensor
    whitener: Tensor
    of_missing: bool
    factors: Tensor
    roots: Tensor
    half_log_dets: Tensor

    @classmethod
    def of(cls, patterns: Patterns, spread: Tensor, whitener: Tensor) -> Self:
        whole = whitener.mT @ whitener if patterns.of_missing else spread
        factors = torch.linalg.cholesky(patterns.blocks_of(whole))
        half = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        if patterns.of_missing:
            identity = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
            inverse = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
            roots, half = patterns.spread(inverse), half - log_det_whitener(whitener)
        else:
            roots = torch.linalg.solve_triangular(factors, patterns.rows_of(spread), upper=False)
        return cls(spread, whitener, patterns.of_missing, factors, roots, half)

    def complete(self, patterns: Patterns, seen: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[x - mu | x_a], shape (n, d), and the squared norm of what is seen, shape (n,).

        Parameters
        ----------
        away : Tensor, shape (n, d)
            x - mu where it is seen, zero elsewhere.
        """
        pulled = away @ (self.whitener.mT @ self.whitener) if self.of_missing else away
        entries = patterns.entries_of(pulled)  # (n, s)
        if patterns.rows is None:
            factors = patterns.each(self.factors)
            white = torch.linalg.solve_triangular(factors, entries[:, :, None], upper=False)
            drawn = (white.mT @ patterns.each(self.roots))[:, 0]
            norms = white.square().sum((1, 2))
        else:
            drawn, norms = torch.empty_like(away), away.new_empty(len(away))
            for p, rows in enumerate(patterns.rows):
                part = torch.linalg.solve_triangular(self.factors[p], entries[rows].T, upper=False)  # (s, n)
                drawn[rows] = part.T @ self.roots[p]
                norms[rows] = part.square().sum(0)
        if not self.of_missing:
            return torch.where(seen, away, drawn), norms
        full = torch.where(seen, away, -drawn)
        # The norm of the completed row is that of what is seen, and has no difference of large numbers in it.
        return full, (full @ self.whitener.T).square().sum(1)

    def covariance(self, shares: Tensor) -> Tensor:
        """Return the sum of conditional covariances, each pattern's by its share, shape (d, d)."""
        active = (shares > NEGLIGIBLE).nonzero()[:, 0]
        roots = self.roots if len(active) == len(shares) else self.roots[active]
        inner = (roots * shares[active, None, None]).flatten(0, 1).T @ roots.flatten(0, 1)
        return inner if self.of_missing else shares.sum() * self.spread - inner


__all__ = ["MomentsOf", "ObservedGaussian"]
