"""The multiplicative (Lagrange) iteration on the simplex: closed form, monotone, linear at the ratio of likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcoder._typing import HardCode
from mixcoder.encoders import Argmax, Posterior, contraction_rate, multiplicative_ascent
from mixcoder.objectives import leop

F64 = torch.float64


def draws(n: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = 3 * torch.randn(n, k, generator=generator, dtype=F64)
    u = -torch.rand(n, k, generator=generator, dtype=F64).log()
    return h, u / u.sum(1, keepdim=True)


def by_hand(h: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    p = h.exp()
    return u * p / (u * p).sum(1, keepdim=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 30), st.integers(0, 10_000))
def test_every_step_is_the_closed_form(k, n_steps, seed):
    """u(t) = u(0) p^t / sum u(0) p^t, and the same step by step in plain numbers."""
    h, u = draws(8, k, seed)
    ascent = multiplicative_ascent(h, u, tol=0.0, max_steps=n_steps)
    stepped = u
    for _ in range(ascent.n_steps):
        stepped = by_hand(h, stepped)
    torch.testing.assert_close(ascent.code, stepped, rtol=1e-9, atol=1e-12)
    closed = (u.log() + ascent.n_steps * h).softmax(1)
    torch.testing.assert_close(ascent.code, closed, rtol=1e-9, atol=1e-12)
    assert ascent.leop.shape == (ascent.n_steps + 1, 8)
    assert bool((ascent.leop.diff(dim=0) >= -1e-12).all())
    torch.testing.assert_close(ascent.leop[0], leop(h, u), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ascent.leop[-1], leop(h, ascent.code), rtol=1e-9, atol=1e-9)


def test_one_step_from_the_weights_is_bayes_posterior():
    h, u = draws(50, 4, 1)
    weights = u[0]
    code = multiplicative_ascent(h, weights, max_steps=1).code
    torch.testing.assert_close(code, Posterior().encode(h + weights.log()), rtol=1e-12, atol=1e-14)


def test_it_ends_at_the_likeliest_component():
    h, u = draws(100, 5, 2)
    ascent = multiplicative_ascent(h, u, tol=1e-10, max_steps=100_000)
    assert ascent.converged
    torch.testing.assert_close(ascent.code, Argmax().encode(h).dense(F64), rtol=0, atol=1e-9)
    torch.testing.assert_close(ascent.leop[-1], h.amax(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_distance_from_the_vertex_shrinks_by_the_ratio_of_the_two_largest(seed):
    h, u = draws(20, 4, seed)
    h = 0.3 * h  # slow enough to be watched
    best = h.argmax(1, keepdim=True)

    def distance(n_steps: int) -> torch.Tensor:
        code = multiplicative_ascent(h, u, tol=0.0, max_steps=n_steps).code
        rest = code.scatter(1, best, 0.0)
        return rest.sum(1)

    measured = distance(121) / distance(120)
    top = h.exp().topk(2, dim=1).values
    torch.testing.assert_close(contraction_rate(h), top[:, 1] / top[:, 0], rtol=1e-12, atol=0)
    near = contraction_rate(h) < 0.97
    torch.testing.assert_close(measured[near], contraction_rate(h)[near], rtol=2e-2, atol=0)
    torch.testing.assert_close(multiplicative_ascent(h, u, max_steps=1).rate, contraction_rate(h))


def test_the_rate_predicts_the_number_of_steps():
    """After t steps the rest is (u_2 / u_1) (p_2 / p_1)^t for two components, exactly."""
    h = torch.tensor([[0.0, -0.1]], dtype=F64)
    ascent = multiplicative_ascent(h, tol=1e-9)
    predicted = math.log(1e-9) / math.log(float(contraction_rate(h)))
    assert abs(ascent.n_steps - predicted) <= 1
    assert not multiplicative_ascent(h, tol=1e-9, max_steps=10).converged


def test_ties_zeros_and_far_rows():
    h = torch.tensor([[0.0, 0.0, -5.0], [-1e5, -1e5 - 1, -1e5 - 2], [0.0, -math.inf, -1.0]], dtype=F64)
    start = torch.tensor([[0.2, 0.6, 0.2], [0.0, 0.5, 0.5], [0.4, 0.3, 0.3]], dtype=F64)
    ascent = multiplicative_ascent(h, start)
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(ascent.code, expected, rtol=0, atol=1e-8)
    one = multiplicative_ascent(h[:1], HardCode(torch.tensor([2]), 3))
    assert one.code.tolist() == [[0.0, 0.0, 1.0]]
    assert contraction_rate(torch.zeros(2, 3, dtype=F64)).tolist() == [0.0, 0.0]
    single = multiplicative_ascent(h[:1].float())
    assert single.code.dtype == torch.float32


@pytest.mark.parametrize(
    ("h", "start", "told"),
    [
        (torch.zeros(3), None, "shape"),
        (torch.zeros(2, 3), torch.ones(2), "start must have shape"),
        (torch.zeros(2, 3), torch.tensor([1.0, -1.0, 1.0]), "non-negative"),
        (torch.zeros(2, 3), torch.zeros(3), "positive share"),
        (torch.tensor([[0.0, -math.inf]]), torch.tensor([0.0, 1.0]), "no component in the start"),
    ],
)
def test_what_makes_no_sense_is_refused(h, start, told):
    with pytest.raises(ValueError, match=told):
        multiplicative_ascent(h, start)
