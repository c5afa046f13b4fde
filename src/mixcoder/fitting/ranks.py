"""How many latent axes each component has: given in a list, or read off the spectra of its rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mixcoder.components import PPCA, FactorAnalyzer
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start
from mixcoder.ops import low_rank

# Most axes that are looked for, and rows of an average component that each must have.
_MOST_AXES = 32
_ROWS_PER_AXIS = 4

LowRank = PPCA | FactorAnalyzer


def most_axes(n_rows: float, n_features: int, n_components: int) -> int:
    """Return the largest rank that rows of so many features can tell."""
    return max(1, min(n_features - 1, _MOST_AXES, round(n_rows) // (_ROWS_PER_AXIS * n_components)))


def with_ranks(problem: Problem, n_latent: int | tuple[int, ...]) -> Problem:
    """Return the problem with another number of latent axes."""
    family: Any = problem.family
    return replace(problem, family=replace(family, n_latent=n_latent))


def chosen_ranks(params: Any, counts: Tensor) -> tuple[int, ...]:
    r"""Return the rank of each component that its own Bayesian information criterion prefers.

    With eigenvalues l of its covariance in units of the noise, and q axes,

    .. math:: \mathrm{BIC}_q = N_k \Bigl[\sum_{j\le q} \log l_j + (d-q) \log \frac{\sum_{j>q} l_j}{d-q}\Bigr]
              + \bigl(dq - q(q-1)/2\bigr) \log N_k,

    the maximum of the likelihood over all PPCA of rank q.

    Parameters
    ----------
    params : PPCAParams or FactorAnalyzerParams
        Of a fit with more axes than are expected.
    counts : Tensor, shape (k,)
        Rows of each component.

    References
    ----------
    Tipping & Bishop (1999), section 3.2; Schwarz (1978).
    """
    _, d, most = params.loadings.shape
    ranks = torch.arange(1, most + 1, dtype=torch.float64)
    free = d * ranks - ranks * (ranks - 1) / 2
    criteria = -2 * _rank_log_likelihoods(params, counts)
    criteria = criteria + free * counts.clamp_min(2.0).log().cpu()[:, None]
    return tuple((criteria.argmin(1) + 1).tolist())


def matched(params: Any, counts: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """Return which component of a fit with the largest rank takes each of given ranks: the likeliest assignment."""
    wanted = torch.tensor(ranks)
    gains = _rank_log_likelihoods(params, counts)[:, wanted - 1]  # (component, place)
    order = linear_sum_assignment(-gains.T.numpy())[1]
    return torch.from_numpy(order).to(counts.device)


def truncated(params: Any, ranks: tuple[int, ...]) -> Any:
    """Return parameters with the strongest axes alone; what the others carried is noise."""
    noise = params.noise_variances if params.noise_variances.ndim == 2 else params.noise_variances[:, None]
    stds = noise.sqrt()[:, :, None]
    axes, sizes, _ = torch.linalg.svd(params.loadings / stds, full_matrices=False)
    loadings = axes * sizes[:, None, :] * stds  # falling in units of the noise
    has_axis = low_rank.axis_mask(ranks, len(noise), noise.device)
    assert has_axis is not None
    dropped = (
        (loadings * ~torch.nn.functional.pad(has_axis, (0, sizes.shape[1] - max(ranks)))[:, None])
        .square()
        .sum(2)
    )
    noise = noise + (dropped if noise.shape[1] > 1 else dropped.mean(1, keepdim=True))
    loadings = loadings[:, :, : max(ranks)] * has_axis[:, None]
    return replace(params, loadings=loadings, noise_variances=noise.view_as(params.noise_variances))


def ranked(
    problem: Problem, start: Start, ranks: tuple[int, ...] | None, n_rows: float
) -> tuple[Problem, Start]:
    """Return the problem and the start with a rank of its own for each component.

    Parameters
    ----------
    problem : Problem
        Of a low rank family with one rank, which no component should exceed.
    start : Start
        Parameters and log-weights that a fit of it has found.
    ranks : tuple of int, optional
        Given ranks: the components are put in the order that suits them. By default they are read off the spectra.
    n_rows : float
        How many rows there are; a weight of two is a row twice.
    """
    params, log_weights = start
    counts = log_weights.exp() * n_rows
    if ranks is None:
        ranks = chosen_ranks(params, counts)
    else:
        order = matched(params, counts, ranks)
        params, log_weights = params.take(order), log_weights[order]
    return with_ranks(problem, ranks), (truncated(params, ranks), log_weights)


def _rank_log_likelihoods(params: Any, counts: Tensor) -> Tensor:
    """Return the log-likelihood of each component's rows at ranks 1..q, up to a constant of its own, shape (k, q)."""
    noise = params.noise_variances if params.noise_variances.ndim == 2 else params.noise_variances[:, None]
    _, d, most = params.loadings.shape
    values = 1 + torch.linalg.svdvals(params.loadings / noise.sqrt()[:, :, None]).square()  # (k, q), falling
    total = values.sum(1, keepdim=True) + (d - most)
    ranks = torch.arange(1, most + 1, dtype=values.dtype, device=values.device)
    rest = (total - values.cumsum(1)).clamp_min(math.ulp(1.0)) / (d - ranks)
    logs = values.log().cumsum(1) + (d - ranks) * rest.log()
    return (-0.5 * counts[:, None] * logs).cpu()
