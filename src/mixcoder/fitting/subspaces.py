"""K-subspaces as hard EM of planes with a flat prior: its units, its stopping rule, its ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from mixcoder.components import PPCA, Subspace
from mixcoder.components.ppca import PPCAParams
from mixcoder.components.subspace import SubspaceParams
from mixcoder.encoders import Argmax
from mixcoder.fitting.alternate import Step, StopRule, gain_below
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Budget, Start, fit
from mixcoder.fitting.ranks import with_chosen_ranks, with_ranks
from mixcoder.ops import low_rank

# Smallest noise variance, as a share of that of the data, in whose units distances are counted.
_LEAST_UNIT = 1e-12

# When the fit that only chooses ranks ends.
_RANK_STEPS = 100
_RANK_GAIN = 1e-4


def in_own_units(problem: Problem) -> Problem:
    """Return the problem in units of the variance of its rows, so that a search finds the same in metres and miles."""
    return _in_units_of(problem, float(problem.variances.mean()))


def _in_units_of(problem: Problem, variance: float) -> Problem:
    """Return the problem in units of a variance in squared working units, of one where that is zero."""
    assert isinstance(problem.family, Subspace)
    return replace(problem, family=replace(problem.family, variance=variance or 1.0))


def scaled_to(problem: Problem, start: Start) -> Problem:
    """Return the problem in units of the squared error that a start leaves, a free direction: all sums scale alike.

    What a pass may err by is then small beside what it measures, however near the rows are to the planes.
    """
    d = problem.source.n_features
    problem = in_own_units(problem)
    totals = problem.totals(*start, Argmax())
    level = _squares_of(problem, start[0].n_components)(float(totals.bound / totals.weight))
    least = _LEAST_UNIT * float(problem.variances.mean())
    return _in_units_of(problem, max(level / (d - 1), least))


def distortion_of(problem: Problem, n_components: int) -> Callable[[float], float]:
    """Return the function from a mean bound to the mean squared distance, in squared units of the rows."""
    squares_of, scale = _squares_of(problem, n_components), float(problem.frame.scale[0])
    # Twice by the scale, whose square may be no number.
    return lambda bound: squares_of(bound) / scale / scale


def _squares_of(problem: Problem, n_components: int) -> Callable[[float], float]:
    """Return the function from a mean bound to the mean squared distance in working units."""
    family = problem.family
    assert isinstance(family, Subspace)
    offset = problem.frame.log_scale - math.log(n_components)
    return lambda bound: max(0.0, (offset - bound) * 2 * family.variance)


def fall_below(problem: Problem, tol: float, n_components: int) -> StopRule:
    """Return the rule that stops once an iteration lowers the squared error by no more than ``tol`` of it."""
    squares_of, level_of = _squares_of(problem, n_components), distortion_of(problem, n_components)

    def rule(step: Step) -> str | None:
        if not math.isfinite(step.gain):
            return None
        before = step.bound - step.gain
        if squares_of(before) - squares_of(step.bound) <= tol * squares_of(step.bound):
            fall = f"from {level_of(before):.6g} to {level_of(step.bound):.6g}"
            return f"the squared error fell {fall}, by less than tol={tol:g} of it"
        return None

    return rule


def ranked_planes(
    problem: Problem,
    start: Callable[[Problem], Start],
    ranks: tuple[int, ...] | None,
    n_components: int,
    n_init: int,
    n_rows: float,
) -> tuple[Problem, Start]:
    """Return the problem with a rank of its own for each component, and planes of these ranks to begin with.

    A flat prior on z cannot tell ranks, the larger is always nearer: a fit of :class:`PPCA` chooses. Ranks that are
    given are put in the order that suits its components.
    """
    budget = Budget(max_iter=_RANK_STEPS, stop=gain_below(_RANK_GAIN))

    def fitted(width: int) -> tuple[Problem, Start]:
        wide = replace(problem, family=PPCA(width), fixed_weights=False)
        result = fit(wide, Argmax(), lambda attempt: start(wide), n_init, budget)
        return wide, (result.model.params, result.model.log_weights)

    found, (params, log_weights) = with_chosen_ranks(
        fitted, ranks, n_rows, problem.source.n_features, n_components
    )
    assert isinstance(params, PPCAParams)
    assert isinstance(found.family, PPCA)
    bases = torch.linalg.svd(params.loadings, full_matrices=False)[0]
    has_axis = low_rank.axis_mask(found.family.n_latent, n_components, bases.device)
    planes = SubspaceParams(params.means, bases if has_axis is None else bases * has_axis[:, None, :])
    equal = torch.full_like(log_weights, -math.log(n_components))
    return with_ranks(problem, found.family.n_latent), (planes, equal)
