"""k-means as hard EM of round components: its starts, its stopping rule, its labels."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.components import GaussianTiedSpherical
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.encoders import Argmax
from mixcoder.fitting.alternate import FitResult, Step, StopRule, alternate
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start, prepare
from mixcoder.fitting.scan import Range, Scan
from mixcoder.fitting.seeding import draw_distinct, plus_plus_batch, tied_ranks
from mixcoder.fitting.start import Sample, draw_sample, hard_start
from mixcoder.sources import Source

# Starts that are run on the sample, and Lloyd steps that each gets there.
_SAMPLE_STARTS = 4
_SAMPLE_STEPS = 8


def kmeans_problem(source: Source, limits: Range) -> tuple[Problem, Scan]:
    """Return the problem whose bound is the negative sum of squares: round, of one size, equal weights."""
    problem, seen = prepare(source, GaussianTiedSpherical(), limits, fixed_weights=True)
    # The size is one working unit whatever the units of the rows: it scales the bound, nothing else.
    return replace(problem, family=GaussianTiedSpherical(variance=1.0)), seen


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
    labels = hard_start(sample.view, sample.weights, centres, _SAMPLE_STEPS)
    candidates = [_means(sample, row, n_clusters) for row in labels]
    spreads = torch.stack(
        [
            ((sample.rows - centre[row]).square().sum(1) * sample.weights).sum()
            for centre, row in zip(candidates, labels, strict=True)
        ]
    )
    return candidates[int(tied_ranks(spreads).argmin())]


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
    del problem

    def rule(step: Step) -> str | None:
        old, new = step.params, step.following
        assert isinstance(old, GaussianTiedSphericalParams)
        assert isinstance(new, GaussianTiedSphericalParams)
        shift = float((new.means - old.means).square().sum())
        if shift == 0.0:
            return "no row changed its cluster"
        return f"the centres moved by less than tol ({shift:.2g})" if shift <= tol else None

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
    own = replace(
        problem, family=GaussianTiedSpherical(variance=1.0), pooled=None, fixed_weights=True
    ).with_pooled()
    result = lloyd(own, searched_centres(own, n_clusters, generator), max_iter=100, tol=1e-4)
    rows = problem.source.take(torch.arange(problem.source.n_rows))
    return HardCode(result.model.assign(rows), n_clusters)


def _means(sample: Sample, labels: Tensor, k: int) -> Tensor:
    """Return the weighted means of the clusters of a sample, shape (k, d)."""
    weighted = sample.rows * sample.weights[:, None]
    sums = sample.rows.new_zeros(k, sample.rows.shape[1]).index_add_(0, labels, weighted)
    counts = sample.rows.new_zeros(k).index_add_(0, labels, sample.weights)
    overall = weighted.sum(0) / sample.weights.sum()
    means = sums / counts.clamp_min(1e-300)[:, None]
    return torch.where((counts > 0)[:, None], means, overall)
