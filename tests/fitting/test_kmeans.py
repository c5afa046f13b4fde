"""k-means is hard EM of equal balls: the same steps as scikit-learn's from the same centres."""

from __future__ import annotations

import warnings

import pytest
import sklearn.cluster
import sklearn.exceptions
import torch

from mixcoder.fitting.kmeans import kmeans_labels, kmeans_problem, lloyd, random_centres, searched_centres
from mixcoder.fitting.scan import scan_range
from mixcoder.sources import TensorSource

F64 = torch.float64


def problem_of(x, weights=None):
    source = TensorSource(x, weights)
    return kmeans_problem(source, scan_range(source))[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 3), (500, 5, 8), (200, 1, 4)])
def test_lloyd_makes_scikit_learns_steps(n, d, k, weighted):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=generator, dtype=F64) * 2 + 10
    weights = torch.rand(n, generator=generator, dtype=F64) + 0.1 if weighted else None
    first = x[:k]
    for max_iter in (1, 3, 300):
        theirs = sklearn.cluster.KMeans(k, init=first.numpy(), n_init=1, max_iter=max_iter, tol=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            theirs.fit(x.numpy(), sample_weight=None if weights is None else weights.numpy())
        problem = problem_of(x, weights)
        result = lloyd(problem, problem.frame.apply(first), max_iter=max_iter, tol=0.0)
        found, expected = result.model.prototypes(), torch.tensor(theirs.cluster_centers_)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert result.model.assign(x).tolist() == theirs.labels_.tolist()
    assert abs(result.n_iter - theirs.n_iter_) <= 1
    assert result.converged
    assert result.reason == "no row changed its cluster"


def test_searched_centres_find_clusters_that_lie_apart(clouds):
    problem = problem_of(clouds())
    for seed in range(10):
        centres = searched_centres(problem, 3, torch.Generator().manual_seed(seed))
        labels = lloyd(problem, centres, max_iter=100, tol=0.0).model.assign(clouds())
        groups = [int(part.mode().values) for part in labels.split(200)]
        assert sorted(groups) == [0, 1, 2]
    code = kmeans_labels(problem, 3, torch.Generator().manual_seed(0))
    assert sorted(int(part.mode().values) for part in code.index.split(200)) == [0, 1, 2]


def test_random_centres_are_rows_and_differ(clouds):
    x = clouds()
    problem = problem_of(x)
    centres = problem.frame.undo(random_centres(problem, 20, torch.Generator().manual_seed(0)))
    gaps = torch.cdist(centres, x, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(gaps.amin(1).max()) < 1e-12
    assert len(centres.unique(dim=0)) == 20
    weights = torch.zeros(600, dtype=F64)
    weights[100:120] = 1.0
    few = problem_of(x, weights)
    chosen = few.frame.undo(random_centres(few, 20, torch.Generator().manual_seed(0)))
    assert sorted(torch.cdist(chosen, x).argmin(1).tolist()) == list(range(100, 120))


def test_more_clusters_than_rows_to_tell_apart_end_and_keep_the_sum_of_squares_at_nothing():
    x = torch.tensor([[0.0, 0.0], [5.0, 1.0]], dtype=F64).repeat(30, 1)
    problem = problem_of(x)
    for start in (searched_centres, random_centres):
        centres = start(problem, 5, torch.Generator().manual_seed(0))
        result = lloyd(problem, centres, max_iter=50, tol=0.0)
        assert result.converged
        assert bool((result.model.reconstruct(x) == x).all())
