"""Softargmax, its normaliser and entropy, against torch's own and at the edges."""

from __future__ import annotations

import math

import pytest
import torch

from mixcoder.ops.simplex import entropy, log_simplex, softargmax_

F64 = torch.float64
DTYPES = (torch.float32, torch.float64)


def normal(*shape: int, dtype=F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.2, 1.0, 7.0])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_softargmax_is_softmax_at_any_level(dtype, beta, offset):
    h = (3 * normal(50, 6) + offset).to(dtype)
    # A shift rounds nothing here, a product with beta would: it comes last.
    level = h.double().amax(1, keepdim=True)
    exact = beta * (h.double() - level)
    code, bound = softargmax_(h.clone(), beta)
    assert code.dtype == bound.dtype == dtype
    torch.testing.assert_close(code.double(), exact.softmax(1), rtol=0, atol=10 * torch.finfo(dtype).eps)
    eps = torch.finfo(dtype).eps
    expected = torch.logsumexp(exact, 1) / beta + level[:, 0]
    torch.testing.assert_close(bound.double(), expected, rtol=4 * eps, atol=40 * eps)


def test_softargmax_is_written_into_its_argument():
    h = normal(5, 3)
    assert softargmax_(h)[0].data_ptr() == h.data_ptr()


@pytest.mark.parametrize("k", [1, 3])
def test_leading_axes_and_strides_change_nothing(k):
    h = 3 * normal(40, 2 * k)
    groups = h.clone().unflatten(1, (2, k)).transpose(0, 1)  # (g, n, k)
    code, bound = softargmax_(groups)
    for group in range(2):
        alone, own = softargmax_(h[:, group * k : (group + 1) * k].clone())
        torch.testing.assert_close(code[group], alone, rtol=1e-14, atol=0)
        torch.testing.assert_close(bound[group], own, rtol=1e-14, atol=1e-14)
    columns = torch.empty(2 * k, 40, dtype=F64).T.copy_(h)  # column by column in memory
    torch.testing.assert_close(softargmax_(columns)[0], h.softmax(1), rtol=1e-13, atol=1e-16)


def test_responsibilities_too_small_to_multiply_are_exactly_zero():
    h = torch.tensor([[0.0, -59.0, -61.0, -500.0]])
    code, _ = softargmax_(h)
    assert code[0, 1] > torch.finfo(torch.float32).tiny
    assert code[0, 2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("k", [1, 4])
def test_a_row_that_nothing_explains_is_shared_out_and_says_so(k):
    h = normal(3, k)
    h[1] = -math.inf
    code, bound = softargmax_(h.clone())
    assert code[1].tolist() == [1 / k] * k
    assert bound[1] == -math.inf
    torch.testing.assert_close(code[::2], h[::2].softmax(1))


def test_an_impossible_component_gets_nothing():
    code, bound = softargmax_(torch.tensor([[0.0, -math.inf]], dtype=F64))
    assert code.tolist() == [[1.0, 0.0]]
    assert bound.tolist() == [0.0]


def test_nan_is_not_hidden():
    code, bound = softargmax_(torch.tensor([[0.0, math.nan]], dtype=F64))
    assert bool(code.isnan().any())
    assert bool(bound.isnan().all())


def test_entropy_of_vertices_and_of_the_centre():
    assert entropy(torch.eye(3, dtype=F64)).tolist() == [0.0, 0.0, 0.0]
    assert entropy(torch.full((1, 8), 1 / 8, dtype=F64)).item() == pytest.approx(math.log(8))


def test_log_simplex_sums_to_one_and_keeps_zeros():
    log_weights = log_simplex(torch.tensor([2.0, 0.0, 6.0], dtype=F64))
    assert log_weights.exp().tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert log_weights[1] == -math.inf
    for scale in (1e-300, 1e300):
        assert float(torch.logsumexp(log_simplex(scale * torch.rand(50, dtype=F64)), 0)) == pytest.approx(
            0, abs=1e-14
        )


@pytest.mark.parametrize("beta", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("n_components", [15, 16, 40])
def test_the_fused_sweep_says_what_the_plain_one_says(n_components, beta):
    generator = torch.Generator().manual_seed(0)
    log_joint = 30 * torch.randn(200, n_components, generator=generator)
    log_joint[0, 3:] = -math.inf
    log_joint[1] = 5e4
    exact = beta * log_joint.double()
    code, energy = softargmax_(log_joint.clone(), beta)
    by_columns = softargmax_(log_joint.T.clone().T, beta)  # columns in one piece: never fused
    torch.testing.assert_close(code.double(), torch.softmax(exact, 1), atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(energy.double(), torch.logsumexp(exact, 1) / beta, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(code, by_columns[0], atol=2e-6, rtol=1e-4)
    assert not bool(((code > 0) & (code < 1e-30)).any())


def test_a_row_that_no_component_explains_stays_finite_among_many_components():
    log_joint = torch.zeros(3, 20)
    log_joint[1] = -math.inf
    code, energy = softargmax_(log_joint)
    torch.testing.assert_close(code, torch.full((3, 20), 0.05))
    assert energy[1] < -1e30
    assert not bool(energy.isnan().any())
