"""The laws of missing entries, for families that integrate them out."""

from __future__ import annotations

import math
from typing import Any

import torch

from mixcoder.checks.case import Case, random, require, require_close, simplex
from mixcoder.components import PPCA, FactorAnalyzer, Gaussian, GaussianLowRankTied

# Families whose prior is centred on the variances of the data: those of what is seen, where entries are missing.
_KNOW_THEIR_PRIOR = (PPCA, FactorAnalyzer, GaussianLowRankTied)


def whole_rows_are_observed_as_they_are(case: Case) -> None:
    """Where nothing is missing, ``observe`` gives the densities and the M-step that the whole rows give."""
    if not case.family.marginalizes:
        return
    x, _ = case.rows(41, seed=71)
    code = simplex(41, case.n_components, seed=72)
    seen = case.family.observe(case.params, x)
    exact = case.family.log_likelihood(case.params, x)
    require_close(
        seen.log_likelihood, exact, 1e-9, "log-densities of whole rows", size=float(exact.abs().max())
    )
    require(bool((seen.expected(code) == x).all()), "expected changes entries that are seen")
    one = case.family.maximize(seen.statistics(code.clone()))
    two = case.family.maximize(case.family.statistics(case.params, x, code.clone()))
    densities = case.family.log_likelihood(one, x), case.family.log_likelihood(two, x)
    require_close(*densities, 1e-6, "densities after an M-step", size=float(densities[1].abs().max()))


def what_is_not_seen_tells_nothing(case: Case) -> None:
    """A row without any entry has probability one; what is seen stays, what is not becomes a number of the domain."""
    if not case.family.marginalizes:
        return
    x, index = case.rows(41, seed=73)
    gone = torch.rand(x.shape, generator=random(74)) < 0.4
    gone[0], gone[1] = True, False
    rows = x.masked_fill(gone, torch.nan)
    seen = case.family.observe(case.params, rows)
    nothing = seen.log_likelihood[0]
    require_close(
        nothing, torch.zeros_like(nothing), 1e-12, "log-density of a row without any entry", size=1.0
    )
    code = simplex(41, case.n_components, seed=75)
    for what, filled in (("expected", seen.expected(code)), ("sample", seen.sample(index, random(76)))):
        require(bool(filled.isfinite().all()), f"{what} leaves entries out")
        require(bool((filled[~gone] == x[~gone]).all()), f"{what} changes entries that are seen")
    drawn = seen.sample(index, random(77))
    problem = case.family.check_rows(drawn)
    require(problem is None, f"sample leaves the domain: {problem}")


def a_step_on_incomplete_rows_never_lowers_their_likelihood(case: Case) -> None:
    """Expected sums and ``maximize`` make a step of EM on what is seen, the log-prior of the parameters included."""
    family: Any = case.family
    if not family.marginalizes:
        return
    x, _ = case.rows(200, seed=78)
    rows = x.masked_fill(torch.rand(x.shape, generator=random(79)) < 0.4, torch.nan)
    params: Any = case.params
    k = case.n_components
    log_weights = torch.full((k,), -math.log(k), dtype=torch.float64)
    seen = ~rows.isnan()
    mean = rows.nan_to_num(nan=0.0).sum(0) / seen.sum(0).clamp_min(1)
    spread = torch.where(seen, rows - mean, 0.0).square().sum(0) / seen.sum(0).clamp_min(1)
    floors = (spread,) if isinstance(case.family, Gaussian | FactorAnalyzer) else ()
    priors: tuple[Any, ...] = (spread,) if isinstance(case.family, _KNOW_THEIR_PRIOR) else ()
    before = -math.inf
    for step in range(6):
        view = family.observe(params, rows)
        log_joint = view.log_likelihood + log_weights
        code = torch.softmax(log_joint, 1)
        statistics = view.statistics(code)
        bound = float(torch.logsumexp(log_joint, 1).sum())
        log_prior = family.log_prior(params, statistics, *priors)
        bound += 0.0 if log_prior is None else float(log_prior.sum())
        # The first parameters are given: they may lie below a floor.
        require(
            step < 2 or bound >= before - 1e-9 * (1 + abs(before)),
            f"step {step}: from {before} down to {bound}",
        )
        before = bound
        log_weights = code.mean(0).log()
        params = family.maximize(statistics, *floors)
