"""How many latent axes each component has: given in a list, or read off the spectra of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mixcoder.components import FactorAnalyzer
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start
from mixcoder.ops import low_rank
from mixcoder.ops.gaussian import variance_floor

# Axes that are looked for first, and rows of an average component that each must have.
_FIRST_AXES = 32
_ROWS_PER_AXIS = 4

# EM steps of a factor analysis of a covariance.
_FACTOR_STEPS = 200


def most_axes(n_rows: float, n_features: int, n_components: int) -> int:
    """Return the largest rank that rows of so many features can tell."""
    return max(1, min(n_features - 1, round(n_rows) // (_ROWS_PER_AXIS * n_components)))


def with_chosen_ranks(
    fitted: Callable[[int], tuple[Problem, Start]],
    ranks: tuple[int, ...] | None,
    n_rows: float,
    n_features: int,
    n_components: int,
) -> tuple[Problem, Start]:
    """Return what ``ranked`` makes of fits wide enough: with more axes while some component keeps all of them.

    Parameters
    ----------
    fitted : callable
        From a rank to a problem with it, and the parameters and log-weights of its fit.
    """
    most = most_axes(n_rows, n_features, n_components) if ranks is None else max(ranks)
    width = most if ranks is not None else min(_FIRST_AXES, most)
    while True:
        found = ranked(*fitted(width), ranks, n_rows)
        kept: Any = found[0].family
        if width == most or max(kept.n_latent) < width:
            return found
        width = min(2 * width, most)


def with_ranks(problem: Problem, n_latent: int | tuple[int, ...]) -> Problem:
    """Return the problem with another number of latent axes."""
    family: Any = problem.family
    return replace(problem, family=replace(family, n_latent=n_latent))


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
    likelihoods, of_ranks = _alternatives(problem, params)
    likelihoods = counts[:, None] * likelihoods
    order = torch.arange(len(counts), device=counts.device)
    if ranks is None:
        ranks = chosen_ranks(likelihoods, counts, problem.source.n_features)
    else:
        order = matched(likelihoods, ranks)
    chosen, log_weights = of_ranks(order, ranks), log_weights[order]
    return with_ranks(problem, ranks), (_within(problem, chosen, log_weights.exp()), log_weights)


def _within(problem: Problem, params: Any, weights: Tensor) -> Any:
    """Return parameters that the family can have: one noise where it is shared, none below the floor.

    From others the bound would fall in the first step.
    """
    family: Any = problem.family
    noise: Tensor = params.noise_variances
    if family.noise == "shared":
        noise = (weights @ noise / weights.sum()).expand_as(noise)
    variances = problem.variances if noise.ndim == 2 else problem.variances.mean()
    return replace(
        params, noise_variances=torch.maximum(noise, variance_floor(variances, family.min_variance))
    )


def chosen_ranks(likelihoods: Tensor, counts: Tensor, n_features: int) -> tuple[int, ...]:
    r"""Return the rank of each component that its own Bayesian information criterion prefers.

    .. math:: \mathrm{BIC}_q = -2 \log L_q + \bigl(dq - q(q-1)/2\bigr) \log N_k

    Parameters
    ----------
    likelihoods : Tensor, shape (k, q)
        Greatest log-likelihoods log L of each component's rows at ranks 1..q, up to a constant of its own.
    counts : Tensor, shape (k,)
        Rows of each component.

    References
    ----------
    Schwarz (1978).
    """
    ranks = torch.arange(1, likelihoods.shape[1] + 1, dtype=counts.dtype, device=counts.device)
    free = n_features * ranks - ranks * (ranks - 1) / 2
    criteria = free * counts.clamp_min(2.0).log()[:, None] - 2 * likelihoods
    return tuple((criteria.argmin(1) + 1).tolist())


def matched(likelihoods: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """Return which component takes each of given ranks: the assignment of the greatest likelihood, shape (k,)."""
    places = torch.tensor(ranks, device=likelihoods.device) - 1
    order = linear_sum_assignment(-likelihoods[:, places].T.numpy(force=True))[1]
    return torch.from_numpy(order).to(likelihoods.device)


def principal_log_likelihoods(params: Any) -> Tensor:
    r"""Return the greatest log-likelihoods of PPCA of lower ranks, a row, up to a constant, shape (k, q).

    With eigenvalues l of a component's covariance, in units of the noise,

    .. math:: \log L_q = -\tfrac12 \Bigl[\sum_{j\le q} \log l_j + (d-q) \log \frac{\sum_{j>q} l_j}{d-q}\Bigr].

    References
    ----------
    Tipping & Bishop (1999), section 3.2.
    """
    _, d, most = params.loadings.shape
    values = 1 + torch.linalg.svdvals(params.loadings).square() / params.noise_variances[:, None]  # falling
    total = values.sum(1, keepdim=True) + (d - most)
    ranks = torch.arange(1, most + 1, dtype=values.dtype, device=values.device)
    rest = (total - values.cumsum(1)).clamp_min(math.ulp(1.0)) / (d - ranks)
    return -0.5 * (values.log().cumsum(1) + (d - ranks) * rest.log())


def nested_factors(
    covariances: Tensor, most: int, min_variance: float
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    r"""Return factor analyses of covariances at ranks 1..q, and their log-likelihoods a row up to a constant.

    Fewer factors than a fit has found are no part of that fit: those that are left out have explained noise, down to
    none in some column. Each rank has its own EM, from the covariances alone,

    .. math:: W \leftarrow S B' (B S B' + M^{-1})^{-1/2}, \qquad \Psi \leftarrow \mathrm{diag}(S - WW'),
              \qquad B = M^{-1} W' \Psi^{-1}.

    Parameters
    ----------
    covariances : Tensor, shape (k, d, d)
        S.
    min_variance : float
        Smallest noise variance, as a share of that of the column.

    Returns
    -------
    list of (loadings, noise_variances), shapes (k, d, q) and (k, d), and log-likelihoods, shape (k, q)
    """
    d = covariances.shape[1]
    variances = covariances.diagonal(dim1=1, dim2=2)
    stds = variances.sqrt()
    correlations = covariances / (stds[:, :, None] * stds[:, None, :])
    found: list[tuple[Tensor, Tensor]] = []
    scores: list[Tensor] = []
    for q in range(1, most + 1):
        loadings, even = low_rank.principal_axes(correlations, q, variances.new_tensor([min_variance]))
        noise = even[:, None].expand(-1, d)
        for _ in range(_FACTOR_STEPS):
            projections, factors = low_rank.posterior(loadings, noise)
            cross = correlations @ projections.mT  # (k, d, q)
            within = torch.linalg.cholesky(projections @ cross + torch.cholesky_inverse(factors))
            loadings = torch.linalg.solve_triangular(within, cross.mT, upper=False).mT
            noise = (1 - loadings.square().sum(2)).clamp_min(min_variance)
        _, factors = low_rank.posterior(loadings, noise)
        trace = (low_rank.precision_matrices(loadings, noise) * correlations).sum((1, 2))
        scores.append(-0.5 * (low_rank.log_det(noise, factors, d) + trace))
        found.append((loadings * stds[:, :, None], noise * variances))
    return found, torch.stack(scores, 1)


def _alternatives(problem: Problem, params: Any) -> tuple[Tensor, Callable[[Tensor, tuple[int, ...]], Any]]:
    """Return log-likelihoods a row at ranks 1..q, shape (k, q), and what makes parameters of components and ranks."""
    q = params.loadings.shape[2]
    if not isinstance(problem.family, FactorAnalyzer):
        return principal_log_likelihoods(params), lambda order, ranks: _truncated(params.take(order), ranks)
    covariances = params.loadings @ params.loadings.mT + torch.diag_embed(params.noise_variances)
    found, likelihoods = nested_factors(covariances, q, problem.family.min_variance)

    def of_ranks(order: Tensor, ranks: tuple[int, ...]) -> Any:
        widest = max(ranks)
        parts = [
            (torch.nn.functional.pad(found[rank - 1][0][k], (0, widest - rank)), found[rank - 1][1][k])
            for k, rank in zip(order.tolist(), ranks, strict=True)
        ]
        loadings, noise = (torch.stack(values) for values in zip(*parts, strict=True))
        return replace(params.take(order), loadings=loadings, noise_variances=noise)

    return likelihoods, of_ranks


def _truncated(params: Any, ranks: tuple[int, ...]) -> Any:
    """Return parameters of PPCA with the strongest axes alone; what the others carried is noise."""
    axes, sizes, _ = torch.linalg.svd(params.loadings, full_matrices=False)
    d, q = params.loadings.shape[1], sizes.shape[1]
    has_axis = low_rank.axis_mask(ranks, len(sizes), sizes.device)
    assert has_axis is not None
    kept = torch.nn.functional.pad(has_axis, (0, q - max(ranks)))
    values, free = sizes.square(), d - has_axis.sum(1)
    # Each axis that is left out brings its own variance and the noise along it.
    noise = params.noise_variances + (values * ~kept).sum(1) / free
    signal = (values + params.noise_variances[:, None] - noise[:, None]).clamp_min(0) * kept
    loadings = axes * signal.sqrt()[:, None]
    return replace(params, loadings=loadings[:, :, : max(ranks)], noise_variances=noise)
