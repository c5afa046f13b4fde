"""The alternation: what stops it, what it repairs and reports, and that it never leaves the finite numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mixcoder._typing import HardCode
from mixcoder.components import (
    Bernoulli,
    Categorical,
    GaussianDiagonal,
    GaussianFull,
    GaussianSpherical,
    GaussianTied,
    GaussianTiedDiagonal,
    GaussianTiedSpherical,
    Poisson,
    StudentT,
)
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.errors import FitError
from mixcoder.fitting.alternate import alternate, gain_below
from mixcoder.fitting.fit import Budget, fit, found_start, start_from_code

F64 = torch.float64
GAUSSIANS = [
    GaussianFull(),
    GaussianDiagonal(),
    GaussianSpherical(),
    GaussianTied(),
    GaussianTiedDiagonal(),
    GaussianTiedSpherical(),
    StudentT(),
]
names = [type(family).__name__ for family in GAUSSIANS]


def never(step):
    del step


def third(x, k=3):
    return HardCode(torch.arange(len(x)) * k // len(x), k)


def every_tensor(result):
    model = result.model
    return [getattr(model.params, name) for name in vars(model.params)] + [model.log_weights.exp()]


@pytest.mark.parametrize("encoder", [Posterior(), Argmax(), Tempered(0.5)], ids=repr)
@pytest.mark.parametrize("family", GAUSSIANS, ids=names)
def test_the_bounds_by_which_rows_are_found_are_those_of_the_density(family, encoder, problem_of, clouds):
    problem = problem_of(family, clouds())
    params, log_weights = start_from_code(problem, third(clouds()), 3)
    found = problem.source.map_reduce(
        lambda block: problem.row_bounds(params, log_weights, encoder)(block).clone(), 1000
    )
    rows = problem.rows(torch.arange(600))
    log_joint = problem.family.log_likelihood(params, rows) + log_weights
    torch.testing.assert_close(found, encoder.encode_with_bound_(log_joint)[1], rtol=1e-9, atol=1e-9)


# Stopping


def test_a_fit_stops_when_it_gains_less_than_asked(problem_of, clouds):
    problem = problem_of(GaussianFull(), clouds())
    start = start_from_code(problem, third(clouds()), 3)
    results = [
        alternate(problem, *start, Posterior(), max_iter=500, stop=gain_below(t)) for t in (1e-2, 1e-5, 1e-10)
    ]
    assert all(result.converged for result in results)
    assert [result.n_iter for result in results] == sorted(result.n_iter for result in results)
    for result, tol in zip(results, (1e-2, 1e-5, 1e-10), strict=True):
        last, before = result.history.bound[-1], result.history.bound[-2]
        assert abs(last - before) < tol
        assert result.bound == last
        assert f"{tol:g}" in result.reason
        assert result.n_iter == len(result.history.bound) == len(result.history.seconds)


def test_a_fit_stops_when_its_passes_are_used_up(problem_of, clouds):
    problem = problem_of(GaussianFull(), clouds())
    start = start_from_code(problem, third(clouds()), 3)
    for accelerate in (False, True):
        for max_iter in (0, 1, 2, 3, 4, 7):
            result = alternate(
                problem, *start, Posterior(), max_iter=max_iter, stop=never, accelerate=accelerate
            )
            assert (result.n_iter, result.converged) == (max_iter, False)
            assert f"max_iter={max_iter}" in result.reason
    assert alternate(problem, *start, Posterior(), max_iter=0, stop=never).model.params is start[0]


def test_a_callback_may_stop_and_an_interrupt_may_keep(problem_of, clouds):
    problem = problem_of(GaussianFull(), clouds())
    start = start_from_code(problem, third(clouds()), 3)
    result = alternate(
        problem, *start, Posterior(), max_iter=50, stop=never, on_step=lambda step: step.iteration == 3
    )
    assert (result.n_iter, result.converged, result.reason) == (3, False, "a callback asked to stop")

    def interrupt(step):
        if step.iteration == 4:
            raise KeyboardInterrupt
        return False

    kept = alternate(
        problem, *start, Posterior(), max_iter=50, stop=never, on_step=interrupt, keep_on_interrupt=True
    )
    assert "interrupted" in kept.reason
    assert kept.bound == kept.history.bound[-1]
    with pytest.raises(KeyboardInterrupt):
        alternate(problem, *start, Posterior(), max_iter=50, stop=never, on_step=interrupt)


def test_a_schedule_runs_to_its_end_before_the_fit_may_stop(problem_of, clouds):
    """The bounds of two temperatures are two objectives: comparing them once ended every annealed fit early."""
    problem = problem_of(GaussianDiagonal(), clouds())
    start = start_from_code(problem, third(clouds()), 3)
    for beta in (0.2, 5.0):
        result = alternate(
            problem,
            *start,
            Tempered(beta, target_beta=1.0),
            max_iter=300,
            stop=gain_below(1e-9),
            accelerate=True,
        )
        assert result.converged
        assert result.history.beta[-1] == 1.0
        assert result.history.beta[0] == beta
        assert not result.history.events
        assert result.history.beta.count(1.0) > 3
        at_one = [
            bound for bound, at in zip(result.history.bound, result.history.beta, strict=True) if at == 1.0
        ]
        assert all(after >= before - 1e-12 for before, after in itertools.pairwise(at_one))
        posterior = alternate(
            problem, result.model.params, result.model.log_weights, Posterior(), max_iter=1, stop=never
        )
        assert posterior.bound == pytest.approx(result.bound, abs=1e-7)


def test_a_bound_that_falls_ends_the_fit_with_the_best_so_far(problem_of, clouds):
    """``added_variance`` is part of no bound."""
    problem = problem_of(GaussianFull(added_variance=4.0), clouds())
    start = start_from_code(problem_of(GaussianFull(), clouds()), third(clouds()), 3)
    guarded = alternate(problem, *start, Posterior(), max_iter=50, stop=never, monotone=True)
    assert "fell" in guarded.reason
    assert any("fell" in event for event in guarded.history.events)
    assert not guarded.converged
    free = alternate(problem, *start, Posterior(), max_iter=50, stop=never, monotone=False)
    assert free.n_iter == 50
    assert not free.history.events


def test_a_start_that_explains_nothing_is_refused(problem_of, clouds):
    problem = problem_of(GaussianFull(), clouds())
    params, log_weights = start_from_code(problem, third(clouds()), 3)
    lost = type(params).build(params.means + 1e200, params.covariances)
    with pytest.raises(FitError, match="no component explains some row"):
        alternate(problem, lost, log_weights, Posterior(), max_iter=5, stop=never)


def test_the_bound_is_the_mean_log_density_of_the_rows_before_the_last_step(problem_of, clouds):
    x, weights = clouds(), torch.rand(600, dtype=F64) + 0.1
    for given in (None, weights):
        problem = problem_of(GaussianFull(), x, given)
        steps = []
        result = alternate(
            problem,
            *start_from_code(problem, third(x), 3),
            Posterior(),
            max_iter=6,
            stop=never,
            on_step=lambda step, steps=steps: bool(steps.append(step)),
        )
        model = problem.model(steps[-1].params, steps[-2].log_weights, Posterior())
        w = torch.ones(600, dtype=F64) if given is None else given
        assert result.bound == pytest.approx(float(w @ model.log_prob(x) / w.sum()), rel=1e-12)


# Components that lose their rows


@pytest.mark.parametrize("encoder", [Posterior(), Argmax(), Tempered(2.0)], ids=repr)
def test_a_component_without_rows_is_refilled_and_reported(problem_of, clouds, encoder):
    x = clouds()
    problem = problem_of(GaussianDiagonal(), x)
    params, log_weights = start_from_code(problem, third(x), 3)
    means = params.means.clone()
    means[1] = 1e4  # nobody's component
    result = alternate(
        problem,
        type(params)(means, params.variances),
        log_weights,
        encoder,
        max_iter=200,
        stop=gain_below(1e-8),
    )
    assert result.refilled == (1,)
    assert result.dropped == ()
    assert any("[1] had lost their rows" in event for event in result.history.events)
    assert result.converged
    assert all(bool(tensor.isfinite().all()) for tensor in every_tensor(result))
    assert float(result.model.log_weights.exp().min()) > 0.2
    good = alternate(
        problem, *start_from_code(problem, third(x), 3), encoder, max_iter=200, stop=gain_below(1e-8)
    )
    assert result.bound == pytest.approx(good.bound, abs=1e-6)


@pytest.mark.parametrize("encoder", [Posterior(), Argmax()], ids=repr)
@pytest.mark.parametrize(
    "family", [*GAUSSIANS, Poisson(), Bernoulli(), Categorical(4)], ids=lambda f: type(f).__name__
)
def test_fewer_distinct_rows_than_components_leave_weights_of_zero(problem_of, family, encoder):
    """Three rows, forty times each, and six components: what is left over gets weight zero, nothing else."""
    distinct = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=F64)
    if isinstance(family, (*map(type, GAUSSIANS),)):
        distinct = distinct * torch.tensor([3.0, 50.0], dtype=F64) - 7
    x = distinct.repeat(40, 1)
    problem = problem_of(family, x)
    start = found_start(problem, 6, encoder, torch.Generator().manual_seed(0))
    result = alternate(problem, *start, encoder, max_iter=300, stop=gain_below(1e-9))
    assert all(bool(tensor.isfinite().all()) for tensor in every_tensor(result))
    weights = result.model.log_weights.exp()
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert bool((weights[list(result.dropped)] == 0).all())
    assert bool(result.model.log_prob(x).isfinite().all())
    used = (weights > 0).nonzero()[:, 0].tolist()
    assert sorted([*result.dropped, *used]) == list(range(6))
    if isinstance(encoder, Argmax):
        # A hard code can use no more components than there are rows to tell apart.
        assert len(used) <= 3
        assert len(result.dropped) >= 3
        code = result.model.encode(x)
        assert len(code.index.unique()) == len(used)
    assert all("weight zero" in event or "took over" in event for event in result.history.events)


def test_one_row_and_equal_rows_can_be_fitted(problem_of):
    for x in (torch.tensor([[3.0, -2.0]], dtype=F64), torch.full((50, 2), 1e6, dtype=F64)):
        for family in GAUSSIANS:
            for encoder in (Posterior(), Argmax()):
                problem = problem_of(family, x)
                start = found_start(problem, 2, encoder, torch.Generator().manual_seed(0))
                result = alternate(problem, *start, encoder, max_iter=20, stop=gain_below(1e-9))
                assert all(bool(tensor.isfinite().all()) for tensor in every_tensor(result))
                assert math.isfinite(result.bound)
                prototypes = result.model.prototypes()
                torch.testing.assert_close(prototypes, x[:1].expand(2, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", GAUSSIANS, ids=names)
def test_a_constant_column_and_a_copied_one_leave_everything_finite(problem_of, clouds, family):
    x = clouds()
    x = torch.cat([x, torch.full((600, 1), 42.0, dtype=F64), 2 * x[:, :1] + 3], 1)
    for encoder in (Posterior(), Argmax()):
        problem = problem_of(family, x)
        start = found_start(problem, 3, encoder, torch.Generator().manual_seed(0))
        result = alternate(problem, *start, encoder, max_iter=100, stop=gain_below(1e-8))
        assert all(bool(tensor.isfinite().all()) for tensor in every_tensor(result))
        torch.testing.assert_close(result.model.prototypes()[:, 2], torch.full((3,), 42.0, dtype=F64))


def test_the_best_of_several_starts_is_kept(problem_of, clouds):
    x = clouds()
    problem = problem_of(GaussianFull(), x)
    codes = [HardCode(torch.arange(600) % 3, 3), third(x), HardCode((torch.arange(600) // 7) % 3, 3)]
    budget = Budget(max_iter=3, stop=never)
    singles = [
        fit(problem, Posterior(), lambda _, code=code: start_from_code(problem, code, 3), 1, budget)
        for code in codes
    ]
    best = fit(problem, Posterior(), lambda i: start_from_code(problem, codes[i], 3), 3, budget)
    assert best.bound == max(result.bound for result in singles)


def test_weights_stay_where_they_are_asked_to(problem_of, clouds):
    problem = problem_of(GaussianTiedSpherical(variance=1.0), clouds(), fixed_weights=True)
    result = alternate(
        problem, *start_from_code(problem, third(clouds()), 3), Argmax(), max_iter=20, stop=never
    )
    assert bool((result.model.log_weights == -math.log(3)).all())
