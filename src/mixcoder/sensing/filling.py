"""Patches of which some pixels are known: the exact posterior of the others, under the components that may fit."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcoder.ops.gaussian import log_det_whitener, whitened_square_norms, whitening_factors

# Components that a patch is held against: the most probable ones of its completed pixels.
CANDIDATES = 4

# Numbers in the largest tensor of a block.
_ENTRIES = 1 << 22


def likely_components(
    log_weights: Tensor, means: Tensor, covariances: Tensor, rows: Tensor, variance: float, n_candidates: int
) -> Tensor:
    """Return the components that explain each row best through noise of some variance, shape (n, j), best first."""
    noisy = covariances.double()
    noisy = noisy + variance * torch.eye(noisy.shape[1], dtype=noisy.dtype, device=noisy.device)
    white, _ = whitening_factors(noisy)
    constants = (log_weights.double() + log_det_whitener(white)).to(rows)
    means, white = means.to(rows), white.to(rows)
    size = max(1, _ENTRIES // len(means))
    return torch.cat(
        [
            (constants - 0.5 * whitened_square_norms(rows[at : at + size], means, white))
            .topk(min(n_candidates, len(means)), 1)
            .indices
            for at in range(0, len(rows), size)
        ]
    )


def expected_entries(
    log_weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    rows: Tensor,
    seen: Tensor,
    candidates: Tensor,
    noise_variance: float,
) -> tuple[Tensor, Tensor]:
    r"""Return the posterior mean and variance of every entry of rows of which some are seen, shapes (n, d).

    .. math:: E[x | x_a] = \sum_k r_k\,[\mu_k + \Sigma_{k,\cdot a} (\Sigma_{k,aa} + s^2 I)^{-1} (x_a - \mu_{k,a})]

    Parameters
    ----------
    log_weights, means, covariances : Tensor, shapes (k,), (k, d) and (k, d, d)
    rows : Tensor, shape (n, d)
        What it holds where nothing is seen is not looked at.
    seen : Tensor, shape (n, d)
        bool.
    candidates : Tensor, shape (n, j)
        Which components each row may come from.
    noise_variance : float
        s^2, positive.
    """
    d = rows.shape[1]
    log_weights, means, covariances = (part.to(rows) for part in (log_weights, means, covariances))
    expected, variances = torch.empty_like(rows), torch.empty_like(rows)
    counts = seen.sum(1)
    order = counts.argsort()  # rows of a block see about as many entries
    at = 0
    while at < len(order):
        most = max(1, int(counts[order[min(len(order), at + 512) - 1]]))
        size = min(512, max(1, _ENTRIES // (candidates.shape[1] * most * d)))
        block = order[at : at + size]
        at += size
        # The places of what is seen, filled up with places of what is not, whose entries are then made to say nothing.
        told, places = seen[block].to(torch.uint8).sort(dim=1, descending=True, stable=True)
        told, places = told[:, None, :most].to(rows), places[:, None, :most]  # (b, 1, m)
        k = candidates[block][:, :, None]  # (b, j, 1)
        apart = told * (rows[block].gather(1, places[:, 0])[:, None] - means[k, places])
        inner = covariances[k[..., None], places[..., :, None], places[..., None, :]]
        inner = inner * told[..., :, None] * told[..., None, :]
        inner.diagonal(dim1=2, dim2=3).add_(torch.where(told > 0, noise_variance, 1.0))
        cross = told[..., None] * covariances[k, places]  # (b, j, m, d)
        factor = torch.linalg.cholesky(inner)
        white = torch.linalg.solve_triangular(factor, torch.cat([apart[..., None], cross], -1), upper=False)
        error, cross = white[..., 0], white[..., 1:]
        log_dets = factor.diagonal(dim1=2, dim2=3).log().sum(2)
        # What is padded has a factor of one and an error of zero: the evidence is that of what is seen.
        log_joint = log_weights[candidates[block]] - 0.5 * error.square().sum(2) - log_dets
        r = torch.softmax(log_joint, 1)[..., None]
        estimates = means[candidates[block]] + (error[..., None, :] @ cross)[..., 0, :]
        left = covariances.diagonal(dim1=1, dim2=2)[candidates[block]] - cross.square().sum(2)
        mean = (r * estimates).sum(1)
        expected[block] = mean
        variances[block] = (r * (left + (estimates - mean[:, None]).square())).sum(1)
    return expected, variances.clamp_min(0)


__all__ = ["CANDIDATES", "expected_entries", "likely_components"]
