"""Covariances: packing, whitening, floors that are maximisers, means of nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixcoder.ops.gaussian import (
    EMPTY,
    floor_covariances,
    log_det_whitener,
    pack,
    quadratic_form,
    safe_means,
    scaled_square_norms,
    stands_on_floor,
    total_variances,
    unpack,
    variance_floor,
    whitened_square_norms,
    whitening_factors,
    write_products,
)

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def covariances(k: int, d: int) -> Tensor:
    factors = normal(k, d, d)
    return factors @ factors.mT / d + 0.05 * torch.eye(d, dtype=F64)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_packing_is_undone_and_turns_quadratic_forms_into_products(d):
    matrices, x = covariances(3, d), normal(20, d)
    assert bool((unpack(pack(matrices), d) == matrices).all())
    products = torch.empty(20, d * (d + 1) // 2, dtype=F64)
    write_products(x, products)
    assert bool((products == pack(x[:, :, None] * x[:, None, :])).all())
    expected = -0.5 * torch.einsum("nd,kde,ne->nk", x, matrices, x)
    torch.testing.assert_close(products @ quadratic_form(matrices).T, expected, rtol=1e-12, atol=1e-12)


def test_whitening_factors_give_determinant_and_distances():
    matrices, means, x = covariances(4, 3), normal(4, 3), normal(50, 3)
    whiteners, exist = whitening_factors(matrices)
    assert exist is None
    identity = torch.eye(3, dtype=F64).expand(4, 3, 3)
    torch.testing.assert_close(whiteners @ matrices @ whiteners.mT, identity, rtol=1e-10, atol=1e-10)
    assert bool((whiteners.triu(1) == 0).all())
    torch.testing.assert_close(log_det_whitener(whiteners), -0.5 * torch.logdet(matrices))
    gaps = x[:, None] - means
    expected = torch.einsum("nkd,kde,nke->nk", gaps, torch.linalg.inv(matrices), gaps)
    torch.testing.assert_close(whitened_square_norms(x, means, whiteners), expected, rtol=1e-9, atol=1e-9)
    precisions = normal(4, 3).exp()
    expected = (gaps.square() * precisions).sum(2)
    torch.testing.assert_close(scaled_square_norms(x, means, precisions), expected)
    expected = (gaps.square().sum(2)) * precisions[:, 0]
    torch.testing.assert_close(scaled_square_norms(x, means, precisions[:, :1]), expected)
    singular = matrices.index_fill(0, torch.tensor([2]), 0.0)
    assert whitening_factors(singular)[1].tolist() == [True, True, False, True]


def test_distances_subtract_before_they_square():
    x = (normal(50, 2) * 1e-3 + 4096.0).float()
    mean = x.double().mean(0, keepdim=True).float()
    exact = ((x.double() - mean.double()) / 1e-3).square().sum(1, keepdim=True)
    found = scaled_square_norms(x, mean, torch.full((1, 2), 1e6))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_floor_is_the_constrained_maximiser(d):
    """No covariance above the floor explains a singular scatter better than the floored one."""
    floor = 0.3 + normal(d, seed=1).abs()
    direction = 0.3 * normal(d, 1).clamp(-1, 1)
    scatters = torch.stack(
        [direction @ direction.T, torch.zeros(d, d, dtype=F64), 5 * torch.eye(d, dtype=F64)]
    )
    raised, whiteners = floor_covariances(scatters, floor)
    torch.testing.assert_close(whiteners, whitening_factors(raised)[0])
    root = floor.sqrt()
    lowest = torch.linalg.eigvalsh(raised / (root[:, None] * root))[:, 0]
    assert bool((lowest >= 1 - 1e-9).all())
    assert bool((raised[2] == scatters[2]).all())
    assert stands_on_floor(raised, floor).tolist() == [True, True, bool(5 / floor.max() <= 1.01)]

    def objective(covariance: Tensor, scatter: Tensor) -> Tensor:
        return -torch.logdet(covariance) - torch.linalg.solve(covariance, scatter).diagonal(
            dim1=-2, dim2=-1
        ).sum(-1)

    for seed in range(40):
        surplus = normal(d, d, seed=100 + seed) * (0.02 if seed % 2 else 1.0)
        other = torch.diag(floor) + surplus @ surplus.T
        for covariance, scatter in zip(raised, scatters, strict=True):
            mixed = 0.9 * covariance + 0.1 * other  # as admissible as both
            for candidate in (other, mixed):
                assert objective(candidate, scatter) <= objective(covariance, scatter) + 1e-9


def test_covariances_above_the_floor_keep_every_bit():
    matrices = covariances(3, 3)
    raised, _ = floor_covariances(matrices, torch.full((3,), 1e-9, dtype=F64))
    assert bool((raised == matrices).all())


def test_the_floor_moves_with_the_units_and_never_vanishes():
    variances = torch.tensor([4.0, 1e-6, 1e8], dtype=F64)
    torch.testing.assert_close(variance_floor(variances, 1e-3), 1e-3 * variances)
    with_constant = torch.tensor([4.0, 0.0, 2.0], dtype=F64)
    assert variance_floor(with_constant, 0.1).tolist() == pytest.approx([0.4, 0.3, 0.2])
    assert variance_floor(torch.zeros(2, dtype=F64), 0.1).tolist() == pytest.approx([0.1, 0.1])


def test_the_mean_of_no_rows_is_the_mean_of_all():
    counts = torch.tensor([2.0, 0.0, 3.0], dtype=F64)
    sums = torch.tensor([[2.0, 4.0], [0.0, 0.0], [3.0, 1.0]], dtype=F64)
    assert safe_means(counts, sums).tolist() == [[1.0, 2.0], [1.0, 1.0], [1.0, 1 / 3]]
    tiny = torch.tensor([1e-9, EMPTY / 10], dtype=F64)
    found = safe_means(tiny, tiny[:, None] * torch.tensor([[5.0], [7.0]], dtype=F64))
    assert found[0, 0].item() == pytest.approx(5.0)
    assert math.isfinite(found[1, 0].item())


def test_total_variances_are_those_of_the_rows():
    x, code = normal(100, 3), torch.rand(100, 4, dtype=F64).softmax(1)
    counts, sums = code.sum(0), code.T @ x
    found = total_variances(counts, sums, x.square().sum(0))
    torch.testing.assert_close(found, x.var(0, correction=0))
