"""A pass that remembers gives what a pass that looks at every row gives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.encoders import Argmax
from mixcoder.fitting import lloyd as lloyd_module
from mixcoder.fitting.em import Problem
from mixcoder.fitting.kmeans import kmeans_problem, lloyd, searched_centres
from mixcoder.fitting.lloyd import LloydProblem
from mixcoder.fitting.scan import scan_range
from mixcoder.sources import TensorSource


def problem_of(n, d, dtype, weighted, k):
    generator = torch.Generator().manual_seed(n + d)
    centres = 2.0 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    x = centres[torch.randint(k, (n,), generator=generator)] + torch.randn(n, d, generator=generator)
    weights = None
    if weighted:
        weights = torch.rand(n, generator=generator, dtype=torch.float64)
        weights[::7] = 0.0
    source = TensorSource((5.0 + 3.0 * x).to(dtype), weights)
    return kmeans_problem(source, scan_range(source))[0], generator


def plain(problem: LloydProblem) -> Problem:
    """Return the problem without a memory."""
    return Problem.of(problem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(3000, 3, 7), (2500, 70, 33), (40, 2, 1)])
def test_any_walk_of_the_centres_gives_the_sums_of_a_full_pass(n, d, k, weighted, dtype):
    problem, generator = problem_of(n, d, dtype, weighted, k)
    assert isinstance(problem, LloydProblem)
    centres = problem.frame.apply(problem.source.take(torch.arange(k)).double())
    log_weights = torch.full((k,), -math.log(k), dtype=torch.float64)
    variance = torch.ones(1, dtype=torch.float64)
    for step in (0.0, 0.3, 0.1, 0.01, 1e-4, 0.0, 2.0, 1e-3):
        moving = torch.rand(k, 1, generator=generator, dtype=torch.float64) < 0.5
        centres = centres + step * moving * torch.randn(k, d, generator=generator, dtype=torch.float64)
        params = GaussianTiedSphericalParams(centres, variance)
        ours = problem.totals(params, log_weights, Argmax())
        full = plain(problem).totals(params, log_weights, Argmax())
        rounding = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-2}
        torch.testing.assert_close(ours.statistics.counts, full.statistics.counts, **rounding)
        torch.testing.assert_close(ours.statistics.sums, full.statistics.sums, **rounding)
        torch.testing.assert_close(ours.bound, full.bound, **rounding)
        torch.testing.assert_close(ours.weight, full.weight)


def test_settled_centres_look_at_no_row_again(monkeypatch):
    problem, _ = problem_of(4000, 5, torch.float64, False, 6)
    looked = []
    original = lloyd_module._Visit._look

    def look(self, active, *rest):
        looked.append(len(active))
        return original(self, active, *rest)

    monkeypatch.setattr(lloyd_module._Visit, "_look", look)
    result = lloyd(
        problem, searched_centres(problem, 6, torch.Generator().manual_seed(0)), max_iter=100, tol=0.0
    )
    assert result.converged
    assert sum(looked) >= 4000
    looked.clear()
    problem.totals(result.model.params, result.model.log_weights, Argmax())
    assert sum(looked) == 0


def test_an_interrupted_pass_leaves_no_notes_behind(monkeypatch):
    problem, _ = problem_of(3000, 4, torch.float64, False, 5)
    centres = problem.frame.apply(problem.source.take(torch.arange(5)).double())
    params = GaussianTiedSphericalParams(centres, torch.ones(1, dtype=torch.float64))
    log_weights = torch.full((5,), -math.log(5), dtype=torch.float64)
    problem.totals(params, log_weights, Argmax())
    moved = replace(params, means=centres + 0.5)
    original = lloyd_module._Visit._note
    with monkeypatch.context() as patch:

        def note(self, *rest):
            original(self, *rest)  # the bounds are new, the labels old
            raise KeyboardInterrupt

        patch.setattr(lloyd_module._Visit, "_note", note)
        with pytest.raises(KeyboardInterrupt):
            problem.totals(moved, log_weights, Argmax())
    ours = problem.totals(moved, log_weights, Argmax())
    full = plain(problem).totals(moved, log_weights, Argmax())
    torch.testing.assert_close(ours.statistics.sums, full.statistics.sums, rtol=1e-9, atol=1e-9)


def test_a_large_source_settles_on_a_part_and_ends_no_worse():
    problem, _ = problem_of(24_000, 4, torch.float32, False, 12)
    source = problem.source
    centres = searched_centres(problem, 12, torch.Generator().manual_seed(1))
    settled = lloyd(problem, centres, max_iter=300, tol=1e-4)
    assert settled.n_iter <= 30
    assert (
        settled.bound
        >= lloyd(
            problem, problem.frame.apply(source.take(torch.arange(12)).double()), max_iter=300, tol=1e-4
        ).bound
        - 1e-2
    )
