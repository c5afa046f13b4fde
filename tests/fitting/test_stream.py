"""Stepwise EM: one step a batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mixcoder._typing import HardCode
from mixcoder.components import PPCA, FactorAnalyzer, GaussianDiagonal, GaussianFull, GaussianTied, StudentT
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.errors import FitError
from mixcoder.fitting.fit import start_from_code
from mixcoder.fitting.stream import Stream
from mixcoder.sources import TensorSource

F64 = torch.float64


def begun(problem_of, family, x, exponent, encoder=None):
    problem = problem_of(family, x)
    code = HardCode(torch.arange(len(x)) * 3 // len(x), 3)
    return Stream(problem, *start_from_code(problem, code, 3), encoder or Posterior(), exponent)


def shuffled(x, seed=0):
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize(
    "family",
    [GaussianFull(), GaussianTied(), StudentT(), PPCA(1), FactorAnalyzer(1)],
    ids=lambda f: type(f).__name__,
)
@pytest.mark.parametrize("exponent", [None, 0.6])
def test_the_first_step_is_a_step_of_em(family, exponent, clouds, problem_of):
    x = clouds()
    stream = begun(problem_of, family, x, exponent)
    after = stream.step(TensorSource(x))
    totals = stream.problem.totals(stream.params, stream.log_weights, Posterior())
    params, log_weights = stream.problem.maximize(totals.statistics, stream.log_weights)
    torch.testing.assert_close(after.log_weights, log_weights, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.params.means, params.means, rtol=1e-10, atol=1e-12)
    assert after.bounds == pytest.approx((float(totals.bound / totals.weight),))
    assert (stream.n_steps, after.n_steps) == (0, 1)


def test_sums_fade_as_the_step_size_says(clouds, problem_of):
    x = clouds()
    stream = begun(problem_of, GaussianDiagonal(), x, 0.7)
    first, second = TensorSource(shuffled(x)[:150]), TensorSource(shuffled(x)[150:200])
    one = stream.step(first)
    two = one.step(second)
    fresh = replace(one, average=None).step(second).average
    eta = 3**-0.7
    expected = one.average.scaled(1 - eta) + fresh.scaled(eta)
    torch.testing.assert_close(two.average.counts, expected.counts)
    torch.testing.assert_close(two.average.sums, expected.sums)
    assert float(two.average.counts.sum()) == pytest.approx(1.0)


def test_without_fading_every_row_counts_alike(clouds, problem_of):
    x = shuffled(clouds())
    stream = begun(problem_of, GaussianDiagonal(), clouds(), None)
    for part in x.split([100, 350, 150]):
        stream = stream.step(TensorSource(part))
    assert float(stream.average.counts.sum()) == pytest.approx(600.0)
    torch.testing.assert_close(
        stream.average.sums.sum(0)[:2], stream.problem.frame.apply(x).sum(0), rtol=1e-10, atol=1e-8
    )


@pytest.mark.parametrize("exponent", [None, 0.6, 1.0])
@pytest.mark.parametrize("encoder", [Posterior(), Argmax(), Tempered(2.0)], ids=repr)
def test_a_stream_comes_near_the_truth(exponent, encoder, clouds, problem_of):
    x = shuffled(clouds(4000))
    stream = begun(problem_of, GaussianFull(), clouds(), exponent, encoder)
    for part in x.split(300):
        stream = stream.step(TensorSource(part))
    centres = torch.tensor([[0.0, 0.0], [6.0, 1.0], [-2.0, 5.0]], dtype=F64)
    torch.testing.assert_close(stream.model.prototypes(), centres, rtol=0, atol=0.15)
    assert float(stream.log_weights.exp().sum()) == pytest.approx(1.0)
    assert all(math.isfinite(bound) for bound in stream.bounds)


def test_steps_make_new_streams_and_repeat_exactly(clouds, problem_of):
    x = clouds()
    stream = begun(problem_of, GaussianFull(), x, 0.6)
    before = stream.params.means.clone()
    one, two = stream.step(TensorSource(x[:100])), stream.step(TensorSource(x[:100]))
    assert bool((stream.params.means == before).all())
    assert stream.average is None
    assert bool((one.params.means == two.params.means).all())
    assert bool((one.params.covariances == two.params.covariances).all())


def test_row_weights_are_repetitions_in_a_batch(clouds, problem_of):
    x, times = clouds()[::4], 1 + torch.arange(150) % 3
    stream = begun(problem_of, GaussianFull(), clouds(), 0.6)
    stream = stream.step(TensorSource(clouds()[1::4]))
    one = stream.step(TensorSource(x, times.double()))
    two = stream.step(TensorSource(x.repeat_interleave(times, 0)))
    torch.testing.assert_close(one.params.means, two.params.means, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one.params.covariances, two.params.covariances, rtol=1e-8, atol=1e-10)
    assert one.bounds[-1] == pytest.approx(two.bounds[-1])


def test_a_component_that_no_batch_has_shown_yet_stays_as_it_was(clouds, problem_of):
    x = clouds()
    for exponent in (None, 0.6):
        stream = begun(problem_of, GaussianDiagonal(), x, exponent, Argmax())
        for _ in range(3):
            stream = stream.step(TensorSource(x[:100]))  # the first cloud only
        assert bool(
            (stream.params.means[1:] == begun(problem_of, GaussianDiagonal(), x, None).params.means[1:]).all()
        )
        assert bool(stream.params.variances.isfinite().all())
        assert float(stream.log_weights.exp().sum()) == pytest.approx(1.0)
        for _ in range(3):
            stream = stream.step(TensorSource(x))
        assert bool((stream.log_weights.exp() > 0.1).all())


def test_a_batch_that_nothing_explains_is_refused_and_the_stream_stays(clouds, problem_of):
    stream = begun(problem_of, GaussianDiagonal(), clouds(), 0.6)
    with pytest.raises(FitError, match="no component explains"):
        stream.step(TensorSource(torch.full((5, 2), 1e200, dtype=F64)))
    assert stream.n_steps == 0


def test_a_schedule_moves_once_a_batch(clouds, problem_of):
    stream = begun(problem_of, GaussianDiagonal(), clouds(), 0.6, Tempered(0.5, target_beta=1.0, rate=1.5))
    for i in range(3):
        at = stream.encoder.at(i)
        totals = replace(stream.problem, source=TensorSource(clouds())).totals(
            stream.params, stream.log_weights, at
        )
        stream = stream.step(TensorSource(clouds()))
        assert stream.bounds[-1] == pytest.approx(float(totals.bound / totals.weight))
