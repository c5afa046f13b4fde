"""k-means as hard EM of round components: its starts, its stopping rule, its labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.components import GaussianTiedSpherical
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.encoders import Annealed, Argmax
from mixcoder.engines import current_engine
from mixcoder.errors import DataError
from mixcoder.fitting.alternate import FitResult, Step, StopRule, alternate
from mixcoder.fitting.annealing import AnnealingTrace, InterruptedAnnealing, anneal
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start, prepare
from mixcoder.fitting.lloyd import LloydProblem
from mixcoder.fitting.scan import Range, Scan
from mixcoder.fitting.seeding import draw_distinct, plus_plus_batch, tied_ranks
from mixcoder.fitting.start import Sample, draw_sample, hard_start
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sources import Source, TensorSource

# Starts that are run on the sample, and Lloyd steps that each gets there; fewer where the best one goes on on a
# larger part of the rows.
_SAMPLE_STARTS = 4
_SAMPLE_STEPS = 8
_SHORT_STEPS = 2

# Rows of a large source on which the best start settles: a share of all, as many as so many bytes hold, not worth it
# below so many; steps, and the move in units of the variance that ends them.
_SETTLING_SHARE = 4
_SETTLING_BYTES = 32 << 20
_SETTLING_ROWS = 5000
_SETTLING_ROWS_PER_CENTRE = 50
_SETTLING_STEPS = 100
_SETTLING_TOLERANCE = 1e-3


def kmeans_problem(source: Source, limits: Range, *, remembers: bool = True) -> tuple[Problem, Scan]:
    """Return the problem whose bound is the negative sum of squares: round, of one size, equal weights.

    Parameters
    ----------
    remembers : bool
        Whether a pass over rows in memory may use what the last one knew of each; a fit that is to be resumed may not.
    """
    problem, seen = prepare(source, GaussianTiedSpherical(), limits, fixed_weights=True)
    return _of_one_size(problem, remembers=remembers), seen


def _of_one_size(problem: Problem, *, remembers: bool = True) -> Problem:
    # The size is one working unit whatever the units of the rows: it scales the bound, nothing else.
    family = GaussianTiedSpherical(variance=1.0)
    if not remembers or not isinstance(problem.source, TensorSource) or current_engine().remote:
        # Rows in files are not remembered one by one: there may be more of them than memory holds. And workers
        # remember nothing.
        return Problem.of(problem, family=family, fixed_weights=True)
    return LloydProblem.of(problem, family=family, fixed_weights=True)


def distortion_of(problem: Problem, n_clusters: int) -> Callable[[float], float]:
    r"""Return the function from a mean bound to the mean squared distance, in squared units of the rows.

    .. math:: F = -\frac{s^2}{2N} \sum_n |x_n - a_{k_n}|^2 - \log K - \tfrac d2 \log 2\pi + d \log s

    with s the scale of the working coordinates.
    """
    d, scale = problem.source.n_features, float(problem.frame.scale[0])
    offset = problem.frame.log_scale - math.log(n_clusters) - 0.5 * d * LOG_2PI
    # The square of scale alone may be beyond all floats.
    return lambda bound: max(0.0, offset - bound) / scale / (0.5 * scale)


def start_at_centres(problem: Problem, centres: Tensor) -> Start:
    """Return the start at given centres, shape (k, d), in working coordinates."""
    k = centres.shape[0]
    params = GaussianTiedSphericalParams(centres, centres.new_ones(1))
    return params, centres.new_full((k,), -math.log(k))


def searched_centres(problem: Problem, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Return the best of several greedy k-means++ starts, each with a few Lloyd steps on a sample."""
    sample = draw_sample(problem, n_clusters, "rotation", generator)
    work = len(sample.rows) * n_clusters * sample.rows.shape[1]
    n_starts = max(1, min(_SAMPLE_STARTS, int(1e9 / max(1, work))))
    centres = plus_plus_batch(sample.view, sample.weights, n_clusters, n_starts, generator)
    settles = _settling_rows(problem.source, n_clusters) > 0
    labels = hard_start(sample.view, sample.weights, centres, _SHORT_STEPS if settles else _SAMPLE_STEPS)
    candidates = [_means(sample, row, n_clusters) for row in labels]
    spreads = torch.stack(
        [
            ((sample.rows - centre[row]).square().sum(1) * sample.weights).sum()
            for centre, row in zip(candidates, labels, strict=True)
        ]
    )
    return _settled(problem, candidates[int(tied_ranks(spreads).argmin())], generator)


def _settled(problem: Problem, centres: Tensor, generator: torch.Generator) -> Tensor:
    """Return the centres after Lloyd's iteration on some of the rows of a large source.

    What is far from settled settles there at a fraction of the price, and the passes over all rows begin with
    centres that hardly move, of which most rows need not be told.
    """
    source = problem.source
    size = _settling_rows(source, centres.shape[0])
    if size == 0:
        return centres
    index = torch.randint(source.n_rows, (size,), generator=generator)
    part = TensorSource(source.take(index), source.take_weights(index))
    if part.total_weight == 0:
        return centres
    some = replace(problem, source=part, total_weight=part.total_weight, pooled=None).with_pooled()
    tol = _SETTLING_TOLERANCE * float(problem.variances.mean())
    result = lloyd(some, centres, max_iter=_SETTLING_STEPS, tol=tol)
    return result.model.frame.apply(result.model.prototypes())


def _settling_rows(source: Source, n_clusters: int) -> int:
    """Return how many rows centres settle on; 0 where all rows are too few for a part of them to help."""
    row_bytes = source.n_features * torch.finfo(source.dtype).bits // 8
    size = min(source.n_rows // _SETTLING_SHARE, _SETTLING_BYTES // row_bytes)
    return size if size >= max(_SETTLING_ROWS, _SETTLING_ROWS_PER_CENTRE * n_clusters) else 0


def annealed_centres(
    problem: Problem, n_clusters: int, schedule: Annealed, generator: torch.Generator
) -> tuple[Tensor, AnnealingTrace]:
    r"""Return the centres at the end of deterministic annealing on a sample, and the trace of the way there.

    Inverse temperatures, of the schedule and of the trace, are in one over squared units of the rows, and the free
    energy is that of squared distances, in squared units of the rows:

    .. math:: u_{nk} \propto \pi_k\, e^{-\beta |x_n - a_k|^2}, \qquad
              F_\beta = \frac1{\beta N} \sum_n w_n \log \sum_k \pi_k\, e^{-\beta |x_n - a_k|^2}

    which tends to minus the mean squared distance from the nearest centre.

    References
    ----------
    Rose (1998), equations 6, 8 and 21, with one sign for all that rises.
    """
    scale = float(problem.frame.scale[0])

    # log p = -|z - a|^2 / 2 + c, and z = scale x. The square of scale alone may be beyond all floats.
    def in_squared_units(value: float) -> float:
        return value / scale / (0.5 * scale)

    constant = problem.frame.log_scale - 0.5 * problem.source.n_features * LOG_2PI

    def told(trace: AnnealingTrace) -> AnnealingTrace:
        return replace(
            trace,
            beta=[beta * scale * (0.5 * scale) for beta in trace.beta],
            free_energy=[in_squared_units(energy - constant) for energy in trace.free_energy],
        )

    try:
        mix, trace = anneal(problem, n_clusters, _in_working_units(schedule, scale), generator)
    except InterruptedAnnealing as stopped:
        stopped.trace = told(stopped.trace)
        raise
    trace, params = told(trace), mix.params
    assert isinstance(params, GaussianTiedSphericalParams)
    return _settled(problem, params.means, generator), trace


def _in_working_units(schedule: Annealed, scale: float) -> Annealed:
    """Return a schedule for half the squared distances of rows that are ``scale`` times those it is for.

    Raises
    ------
    DataError
        If a beta is no positive number there: it has nothing to do with the spread of the rows.
    """
    given = schedule.betas or (schedule.start, schedule.stop)
    for beta in given:
        if (
            beta is not None
            and not math.isinf(beta)
            and not 0 < beta * (1.0 / scale) * (2.0 / scale) < math.inf
        ):
            raise DataError(
                f"beta={beta:g} of the schedule is in one over squared units of the rows, whose spread is near "
                f"{1.0 / scale:.1e}: a temperature so far from theirs splits nothing. Rescale the rows, or leave "
                "start and betas out."
            )
    return schedule.scaled(1.0 / scale).scaled(2.0 / scale)


def random_centres(problem: Problem, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Return different rows drawn in proportion to their weights, in working coordinates."""
    sample = draw_sample(problem, n_clusters, "rotation", generator)
    return sample.rows[draw_distinct(sample.weights, n_clusters, generator)]


def shift_below(problem: Problem, tol: float) -> StopRule:
    """Return scikit-learn's rule: stop once the centres' summed squared move is at most ``tol``.

    Parameters
    ----------
    tol : float
        In squared working units.
    """
    unit = float(problem.variances.mean()) or 1.0

    def rule(step: Step) -> str | None:
        old, new = step.params, step.following
        assert isinstance(old, GaussianTiedSphericalParams)
        assert isinstance(new, GaussianTiedSphericalParams)
        shift = float((new.means - old.means).square().sum())
        if shift == 0.0:
            return "no row changed its cluster"
        if shift > tol:
            return None
        return f"the centres' squared move was {shift / unit:.2g} of the mean variance, at most tol={tol / unit:g}"

    return rule


def lloyd(problem: Problem, centres: Tensor, *, max_iter: int, tol: float) -> FitResult:
    """Return the result of Lloyd's iteration from given centres, both in working coordinates."""
    return alternate(
        problem,
        *start_at_centres(problem, centres),
        Argmax(),
        max_iter=max_iter,
        stop=shift_below(problem, tol),
    )


def kmeans_labels(problem: Problem, n_clusters: int, generator: torch.Generator) -> HardCode:
    """Return the clusters of all rows by k-means, as a start for another family."""
    own = _of_one_size(Problem.of(problem, family=GaussianTiedSpherical(), pooled=None).with_pooled())
    result = lloyd(own, searched_centres(own, n_clusters, generator), max_iter=100, tol=1e-4)
    return HardCode(result.model.assign(problem.source), n_clusters)


def _means(sample: Sample, labels: Tensor, k: int) -> Tensor:
    """Return the weighted means of the clusters of a sample, shape (k, d)."""
    weighted = sample.rows * sample.weights[:, None]
    sums = sample.rows.new_zeros(k, sample.rows.shape[1]).index_add_(0, labels, weighted)
    counts = sample.rows.new_zeros(k).index_add_(0, labels, sample.weights)
    overall = weighted.sum(0) / sample.weights.sum()
    means = sums / counts.clamp_min(1e-300)[:, None]
    return torch.where((counts > 0)[:, None], means, overall)
