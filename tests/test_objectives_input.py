"""What the objectives refuse, and in which words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixcoder._typing import HardCode
from mixcoder.objectives import eol, eop, free_energy, free_energy_gap, leop, leop_gap, loe, loe_gap

F64 = torch.float64
H = torch.tensor([[0.1, 0.3], [0.2, 0.7]], dtype=F64).log()
U = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=F64)
X = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=F64)
MEANS = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)
TEMPERED = (free_energy, free_energy_gap)
VARIANCE = (lambda variance: loe(X, MEANS, U, variance), lambda variance: loe_gap(MEANS, U, variance))


@pytest.mark.parametrize("of", TEMPERED)
@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, -math.inf, torch.tensor(-1.0)])
def test_an_inverse_temperature_is_positive(of, beta):
    with pytest.raises(ValueError, match=r"beta must be a positive number or inf"):
        of(H, U, beta)


@pytest.mark.parametrize("of", TEMPERED)
@pytest.mark.parametrize("beta", [None, True, "1", torch.ones(2), np.ones(2)])
def test_an_inverse_temperature_is_one_number(of, beta):
    with pytest.raises(TypeError, match=r"beta must be a number"):
        of(H, U, beta)


@pytest.mark.parametrize("of", TEMPERED)
def test_infinity_and_every_kind_of_number_are_temperatures(of):
    assert bool(of(H, U, math.inf).isfinite().all())
    for two in (2, np.float32(2), torch.tensor(2.0)):
        torch.testing.assert_close(of(H, U, two), of(H, U, 2.0), rtol=0, atol=0)


@pytest.mark.parametrize("of", VARIANCE)
@pytest.mark.parametrize(
    ("variance", "told"),
    [
        (-1.0, "variance must be a positive, finite number, got -1.0"),
        (0.0, "positive, finite"),
        (math.nan, "positive, finite"),
        (math.inf, "positive, finite"),
        (torch.tensor(-1.0), "positive, finite number, got -1"),
        (torch.tensor([1.0, -2.0]), "positive and finite, got -2"),
        (torch.tensor([0.0, 1.0]), "positive and finite, got 0"),
        (torch.tensor([1.0, math.nan]), "positive and finite, got nan"),
        (-torch.eye(2, dtype=F64), "positive definite, but its least eigenvalue is -1"),
        (torch.ones(2, 2, dtype=F64) - 0.5 * torch.eye(2, dtype=F64), "least eigenvalue is -0.5"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=F64), "symmetric matrix.* differ by 0.5"),
        (torch.full((2, 2), math.nan, dtype=F64), "NaN or infinity"),
        (torch.ones(3), r"have shape \(2,\) or \(2, 2\), got \(3,\)"),
    ],
)
def test_a_variance_is_positive(of, variance, told):
    with pytest.raises(ValueError, match=told):
        of(variance)


@pytest.mark.parametrize("of", VARIANCE)
@pytest.mark.parametrize("variance", [None, True, "1", np.ones(2), [1.0, 2.0]])
def test_a_variance_is_a_number_or_a_tensor(of, variance):
    with pytest.raises(TypeError, match=r"variance must be a (number|torch.Tensor), got"):
        of(variance)


@pytest.mark.parametrize("of", VARIANCE)
def test_one_variance_in_any_form_is_the_same(of):
    for same in (
        np.float64(2),
        torch.tensor(2.0),
        torch.full((2,), 2.0, dtype=F64),
        2 * torch.eye(2, dtype=F64),
    ):
        torch.testing.assert_close(of(same), of(2.0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("of", [eop, leop, eol, leop_gap, free_energy, free_energy_gap])
def test_arrays_are_told_to_become_tensors(of):
    name = "log_joint" if of in TEMPERED else "log_likelihood"
    with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor, got ndarray; use torch.as_tensor"):
        of(H.numpy(), U)
    with pytest.raises(TypeError, match=r"code must be a torch.Tensor, got ndarray"):
        of(H, U.numpy())
    with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor, got list"):
        of([[0.0]], HardCode(torch.tensor([0]), 1))


def test_rows_and_prototypes_are_tensors():
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got ndarray"):
        loe(X.numpy(), MEANS, U, 1.0)
    for of in (lambda means: loe(X, means, U, 1.0), lambda means: loe_gap(means, U, 1.0)):
        with pytest.raises(TypeError, match=r"means must be a torch.Tensor, got ndarray"):
            of(MEANS.numpy())
