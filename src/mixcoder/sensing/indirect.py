"""The two steps of EM for mixtures of full Gaussians of which only indirect observations are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sensing.prior import GaussianPrior
from mixcoder.statistics import Statistics

# Smallest variance of a component in any direction, as a fraction of the mean variance of the first prior.
_FLOOR = 1e-8

# Fewer observations than this are none.
_NONE = 1e-10


@dataclass(frozen=True)
class IndirectSums(Statistics):
    """What the M-step needs of all observations.

    Parameters
    ----------
    counts : Tensor, shape (k,)
    firsts : Tensor, shape (k, d)
        Expected rows, about a centre of each component.
    seconds : Tensor, shape (k, d, d)
        Their expected products.
    noise : Tensor, shape (1,)
        Expected squares of what the rows leave of the measurements.
    """

    counts: Tensor
    firsts: Tensor
    seconds: Tensor
    noise: Tensor

    def about(self, moved: Tensor) -> IndirectSums:
        """Return the sums about centres that lie elsewhere by ``moved``, shape (k, d)."""
        cross = self.firsts[:, :, None] * moved[:, None, :]
        square = self.counts[:, None, None] * moved[:, :, None] * moved[:, None, :]
        firsts = self.firsts - self.counts[:, None] * moved
        return replace(self, firsts=firsts, seconds=self.seconds - cross - cross.mT + square)


@dataclass(frozen=True)
class Look:
    """A mixture and a noise level, the sums that they see (about their means), and their bound an observation."""

    prior: GaussianPrior
    level: float
    sums: IndirectSums
    bound: float


@dataclass(frozen=True)
class IndirectProblem:
    """Observations, and what is to be learned of them.

    Parameters
    ----------
    batches : list of (y, matrix)
        float64, shapes (n_b, m_b) and (m_b, d).
    strength, scale : float
        kappa and the variance of Lambda.
    level : float, optional
        s^2 where it is known.
    least_level : float
        Smallest s^2 otherwise.
    """

    batches: list[tuple[Tensor, Tensor]]
    strength: float
    scale: float
    level: float | None
    least_level: float

    def look(self, prior: GaussianPrior, level: float) -> Look:
        """Return the E-step."""
        k, d = prior.means.shape
        new = prior.means.new_zeros
        counts, firsts, seconds = new(k), new(k, d), new(k, d, d)
        noise, evidence = new(1), 0.0
        for y, matrix in self.batches:
            centred = y - prior.shift @ matrix.T
            log_joint = y.new_full((len(y), k), -torch.inf)
            parts: dict[int, tuple[Tensor, Tensor]] = {}
            for c in prior.used:
                cross = prior.spreads[c] @ matrix.T  # (d, m)
                covariance = matrix @ cross
                covariance.diagonal().add_(level)
                factor = torch.linalg.cholesky(covariance)
                white = torch.linalg.solve_triangular(factor, cross.T, upper=False)  # (m, d)
                apart = torch.linalg.solve_triangular(
                    factor, (centred - prior.means[c] @ matrix.T).T, upper=False
                )
                log_det = 2 * factor.diagonal().log().sum() + len(factor) * LOG_2PI
                log_joint[:, c] = prior.log_weights[c] - 0.5 * (apart.square().sum(0) + log_det)
                parts[c] = (white, apart.T)
            evidence += float(torch.logsumexp(log_joint, 1).sum())
            weights = torch.softmax(log_joint, 1)
            for c, (white, apart) in parts.items():
                r = weights[:, c]
                moved = apart @ white  # m_bk - mu_k, (n, d)
                left = prior.spreads[c] - white.T @ white
                counts[c] += r.sum()
                firsts[c] += r @ moved
                seconds[c] += (moved * r[:, None]).T @ moved + r.sum() * left
                residual = centred - (prior.means[c] + moved) @ matrix.T
                trace = ((matrix @ left) * matrix).sum().clamp_min(0)
                noise += r @ residual.square().sum(1) + r.sum() * trace
        n_rows = sum(len(y) for y, _ in self.batches)
        bound = (evidence + self._penalty(prior)) / n_rows
        return Look(prior, level, IndirectSums(counts, firsts, seconds, noise), bound)

    def maximised(self, look: Look) -> tuple[GaussianPrior, float]:
        """Return the M-step; a component that no observation asks for keeps its shape."""
        prior, sums = look.prior, look.sums
        total = sums.counts.clamp_min(_NONE)
        moved = sums.firsts / total[:, None]
        identity = torch.eye(prior.n_features, dtype=moved.dtype, device=moved.device)
        scatter = sums.seconds - sums.counts[:, None, None] * moved[:, :, None] * moved[:, None, :]
        spreads = (scatter + self.strength * self.scale * identity) / (total + self.strength)[:, None, None]
        spreads = 0.5 * (spreads + spreads.mT)
        values, vectors = torch.linalg.eigh(spreads)
        least = _FLOOR * self.scale
        if bool((values < least).any()):
            # The most likely covariance under the floor (its eigenvalues are raised): the bound still never falls.
            spreads = (vectors * values.clamp_min(least)[:, None, :]) @ vectors.mT
        idle = (sums.counts <= _NONE)[:, None]
        following = replace(
            prior,
            log_weights=(sums.counts / sums.counts.sum()).log(),
            means=torch.where(idle, prior.means, prior.means + moved),
            spreads=torch.where(idle[:, :, None], prior.spreads, spreads),
        )
        if self.level is not None:
            return following, self.level
        n_measured = sum(y.numel() for y, _ in self.batches)
        return following, max(float(sums.noise) / n_measured, self.least_level)

    def _penalty(self, prior: GaussianPrior) -> float:
        """Return the log-density of the covariances, to a constant."""
        if self.strength == 0:
            return 0.0
        factors = torch.linalg.cholesky(prior.spreads[prior.used])
        log_dets = 2 * factors.diagonal(dim1=1, dim2=2).log().sum()
        traces = self.scale * torch.cholesky_inverse(factors).diagonal(dim1=1, dim2=2).sum()
        return -0.5 * self.strength * float(log_dets + traces)


__all__ = ["IndirectProblem", "IndirectSums", "Look"]
