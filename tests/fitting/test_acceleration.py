"""SQUAREM: the algebra of a leap, and that leaps never lower the bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mixcoder._typing import HardCode
from mixcoder.components import Bernoulli, GaussianFull, Product, StudentT
from mixcoder.encoders import Posterior
from mixcoder.fitting.acceleration import Leap
from mixcoder.fitting.alternate import alternate, gain_below
from mixcoder.fitting.fit import start_from_code
from mixcoder.statistics import Moments

F64 = torch.float64


def moments(counts, sums) -> Moments:
    return Moments(torch.tensor(counts, dtype=F64), torch.tensor(sums, dtype=F64))


def three_steps(rate: float, start=(2.0, 8.0)) -> list[Moments]:
    """A linear sequence that goes to (5, 5) at a rate."""
    goal = torch.tensor([5.0, 5.0], dtype=F64)
    first = torch.tensor(start, dtype=F64)
    return [Moments(goal + rate**i * (first - goal), (rate**i * (first - goal))[:, None]) for i in range(3)]


def extrapolated(s0: Moments, s1: Moments, s2: Moments, a: float) -> Moments:
    r = s1 + s0.scaled(-1.0)
    v = s2 + s1.scaled(-1.0) + r.scaled(-1.0)
    return s0 + r.scaled(2 * a) + v.scaled(a * a)


def test_a_leap_of_length_one_is_the_second_step():
    s0, s1, s2 = (
        moments([3, 2], [[1.0], [4]]),
        moments([2.5, 2.5], [[0.5], [4.5]]),
        moments([2.2, 2.8], [[0], [5]]),
    )
    same = extrapolated(s0, s1, s2, 1.0)
    torch.testing.assert_close(same.counts, s2.counts)
    torch.testing.assert_close(same.sums, s2.sums)


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.74])
def test_a_linear_sequence_is_solved_in_one_leap(rate):
    """r = (rate - 1) e and v = (rate - 1)^2 e, so a = 1 / (1 - rate) lands on the limit."""
    leap, a = Leap(longest=100.0)(*three_steps(rate))
    assert a == pytest.approx(1 / (1 - rate))
    assert leap is not None
    torch.testing.assert_close(leap.counts, torch.tensor([5.0, 5.0], dtype=F64))
    torch.testing.assert_close(leap.sums, torch.zeros(2, 1, dtype=F64), rtol=0, atol=1e-12)


def test_a_leap_is_the_formula_and_no_longer_than_allowed():
    steps = three_steps(0.95)
    leap, a = Leap(longest=4.0)(*steps)
    assert a == 4.0
    expected = extrapolated(*steps, 4.0)
    torch.testing.assert_close(leap.counts, expected.counts)
    torch.testing.assert_close(leap.sums, expected.sums)


def test_counts_stay_positive():
    """A component that shrinks by a constant amount would be extrapolated below nothing."""
    steps = [moments([10.0 - i, 1.0 - 0.3 * i + 0.001 * i * i], [[0.0], [0.0]]) for i in range(3)]
    leap, a = Leap(longest=100.0)(*steps)
    assert leap is None or bool((leap.counts > 0).all())
    assert 1.0 <= a < 100.0


def test_a_sequence_that_stands_still_gives_nothing_to_extrapolate():
    s = moments([3, 2], [[1.0], [4.0]])
    assert Leap()(s, s, s) == (None, 1.0)


def test_sums_inside_sums_take_part():
    family, params = Product.examples()[0]
    generator = torch.Generator().manual_seed(0)
    x = family.sample(params, torch.arange(60) % 3, generator)
    one, two = (torch.rand(60, 3, generator=generator, dtype=F64).softmax(1) for _ in range(2))
    steps = [family.statistics(params, x, two + 0.8**i * (one - two)) for i in range(3)]
    leap, a = Leap(longest=1.5)(*steps)
    assert leap is not None
    expected = extrapolated(*steps, a)
    for mine, theirs in zip(leap.parts, expected.parts, strict=True):
        torch.testing.assert_close(mine.sums, theirs.sums)
    torch.testing.assert_close(leap.pooled, steps[0].pooled)


def test_the_next_leap_is_bolder_after_success_at_the_limit_and_shyer_after_failure():
    assert Leap(4.0).after(4.0, accepted=True).longest == 16.0
    assert Leap(4.0).after(3.0, accepted=True).longest == 4.0
    assert Leap(16.0).after(10.0, accepted=False).longest == 5.0
    assert Leap(4.0).after(1.0, accepted=False).longest == 2.0


@pytest.mark.parametrize("family", [GaussianFull(), StudentT(3.0)], ids=lambda f: type(f).__name__)
def test_accelerated_fits_rise_in_every_pass_and_end_where_plain_ones_do(family, problem_of):
    """Two clouds that overlap: plain EM needs hundreds of passes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 2, generator=generator, dtype=F64)
    x[200:] += torch.tensor([2.2, 0.0], dtype=F64)
    problem = problem_of(family, x)
    start = start_from_code(problem, HardCode((torch.arange(400) >= 200).long(), 2), 2)
    plain, quick = (
        alternate(problem, *start, Posterior(), max_iter=3000, stop=gain_below(1e-9), accelerate=accelerate)
        for accelerate in (False, True)
    )
    assert plain.converged
    assert quick.converged
    for result in (plain, quick):
        rises = [after - before for before, after in itertools.pairwise(result.history.bound)]
        assert min(rises) >= -1e-11
    assert quick.n_iter < 0.5 * plain.n_iter
    assert quick.bound >= plain.bound - 1e-6


def test_leaps_leave_bits_of_counts_in_their_domain(problem_of):
    family, params = Bernoulli.examples()[0]
    x = family.sample(params, torch.arange(300) % 3, torch.Generator().manual_seed(2))
    problem = problem_of(family, x)
    code = torch.rand(300, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    start = start_from_code(problem, code / code.sum(1, keepdim=True), 3)
    result = alternate(problem, *start, Posterior(), max_iter=200, stop=gain_below(1e-10), accelerate=True)
    probabilities = result.model.params.probabilities
    assert bool(((probabilities >= 1e-6) & (probabilities <= 1 - 1e-6)).all())
    assert math.isfinite(result.bound)


def test_sums_that_are_rounding_have_no_say_in_a_leap():
    # The sums of centred rows of one component: nothing, give or take the last bits.
    generator = torch.Generator().manual_seed(0)
    steps = three_steps(0.6)
    noisy = [
        Moments(
            step.counts, torch.cat([step.sums, 1e-15 * torch.randn(2, 3, generator=generator, dtype=F64)], 1)
        )
        for step in steps
    ]
    assert Leap(longest=100.0)(*noisy)[1] == pytest.approx(Leap(longest=100.0)(*steps)[1], rel=1e-9)
