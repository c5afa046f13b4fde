"""Shrunk covariances and designed measurements."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixcoder import KMeans
from mixcoder.errors import DataError
from mixcoder.sensing import (
    GaussianPrior,
    Matrix,
    designed_operator,
    gaussian_error,
    gaussian_information,
    posterior,
    shrunk_prior,
    total_covariance,
)
from mixcoder.sensing.design import water_filling

D = 6


def rows_and_model(n: int = 60):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, D)) + 8 * (np.arange(n) % 3)[:, None]
    return rows, KMeans(3, random_state=0).fit(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shrunk_covariances_are_those_of_the_formula(dtype, monkeypatch):
    rows, model = rows_and_model()
    whole = shrunk_prior(model.model_, torch.as_tensor(rows).to(dtype), strength=7.0, min_variance=1e-3)
    labels = model.labels_
    scatters = [np.cov(rows[labels == k].T, bias=True) * (labels == k).sum() for k in range(3)]
    pooled = sum(scatters) / len(rows)
    floor = 1e-3 * rows.var(0).mean() * np.eye(D)
    for k in range(3):
        n = (labels == k).sum()
        expected = (scatters[k] + 7 * pooled) / (n + 7) + floor
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        np.testing.assert_allclose(whole.spreads[k].numpy(), expected, atol=tolerance)
        np.testing.assert_allclose(whole.shift + whole.means[k], rows[labels == k].mean(0), rtol=1e-5)
    monkeypatch.setattr("mixcoder.sensing.shrinkage._BLOCK", 7 * D)
    parts = shrunk_prior(model.model_, torch.as_tensor(rows).to(dtype), strength=7.0, min_variance=1e-3)
    torch.testing.assert_close(parts.spreads, whole.spreads, rtol=1e-6, atol=1e-6)


def test_shrinkage_goes_from_each_of_its_own_to_one_for_all():
    rows, model = rows_and_model()
    x = torch.as_tensor(rows)
    tied = shrunk_prior(model.model_, x, strength=1e12).spreads
    torch.testing.assert_close(tied, tied[:1].expand_as(tied), rtol=1e-8, atol=1e-8)
    own = shrunk_prior(model.model_, x, strength=0.0, min_variance=1e-12).spreads
    expected = [np.cov(rows[model.labels_ == k].T, bias=True) for k in range(3)]
    np.testing.assert_allclose(own.numpy(), expected, atol=1e-9)


def test_a_component_without_rows_has_no_weight():
    rows, model = rows_and_model()
    prior = shrunk_prior(model.model_, torch.as_tensor(rows[model.labels_ > 0]))
    assert prior.used == [1, 2]
    assert bool(posterior(prior, torch.zeros(1, 2), torch.ones(2, D), 1.0).mean.isfinite().all())


def test_bad_shrinkage_is_named():
    rows, model = rows_and_model()
    x = torch.as_tensor(rows)
    with pytest.raises(ValueError, match="strength"):
        shrunk_prior(model.model_, x, strength=-1.0)
    with pytest.raises(ValueError, match="min_variance"):
        shrunk_prior(model.model_, x, min_variance=0.0)
    with pytest.raises(DataError, match="5 features, but this model has 6"):
        shrunk_prior(model.model_, x[:, 1:])


def gaussian(seed: int = 0) -> GaussianPrior:
    rng = np.random.default_rng(seed)
    factor = torch.as_tensor(rng.standard_normal((D, D)) * np.array([3, 2, 1, 0.5, 0.2, 0.1]))
    zeros = torch.zeros(1, D, dtype=torch.float64)
    return GaussianPrior(zeros[0, :1], zeros[0], zeros, (factor @ factor.T)[None])


def test_no_orthonormal_rows_beat_the_principal_ones():
    prior, generator = gaussian(), torch.Generator().manual_seed(0)
    covariance = total_covariance(prior)
    best = designed_operator(prior, 3)
    torch.testing.assert_close(best.values @ best.values.T, torch.eye(3, dtype=torch.float64))
    information, error = gaussian_information(covariance, best, 0.3), gaussian_error(covariance, best, 0.3)
    values = torch.linalg.eigvalsh(covariance).flip(0)
    torch.testing.assert_close(information, 0.5 * (1 + values[:3] / 0.3).log().sum())
    torch.testing.assert_close(error, values.sum() - (values[:3] ** 2 / (values[:3] + 0.3)).sum())
    for _ in range(100):
        other = torch.linalg.qr(torch.randn(D, 3, generator=generator, dtype=torch.float64))[0].T
        assert gaussian_information(covariance, other, 0.3) <= information + 1e-12
        assert gaussian_error(covariance, other, 0.3) >= error - 1e-12


@pytest.mark.parametrize("power", [0.05, 1.0, 40.0])
def test_no_operator_of_the_same_power_beats_water_filling(power):
    prior, generator = gaussian(), torch.Generator().manual_seed(0)
    covariance = total_covariance(prior)
    best = designed_operator(prior, 4, 0.3, power)
    assert float(best.values.square().sum()) == pytest.approx(power)
    information, error = gaussian_information(covariance, best, 0.3), gaussian_error(covariance, best, 0.3)
    for scale in (0.1, 1.0):
        for _ in range(100):
            step = torch.randn(4, D, generator=generator, dtype=torch.float64)
            start = torch.nn.functional.pad(best.values, (0, 0, 0, 4 - len(best.values)))
            other = start / start.norm() + scale * step
            other = Matrix(other * power**0.5 / other.norm())
            assert gaussian_information(covariance, other, 0.3) <= information + 1e-12
            assert gaussian_error(covariance, other, 0.3) >= error - 1e-12


def test_water_filling_pours_all_and_leaves_the_high_ground_dry():
    variances = torch.tensor([4.0, 1.0, 1e-3, 0.0], dtype=torch.float64)
    shares = water_filling(variances, 1.0, 1.25)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.25, 0.0, 0.0], dtype=torch.float64))


def test_the_error_of_a_design_is_the_posterior_variance():
    prior = gaussian()
    operator = designed_operator(prior, 3, 0.2, 5.0)
    seen = posterior(prior, torch.zeros(1, len(operator.values)).double(), operator, 0.2)
    torch.testing.assert_close(seen.variance.sum(), gaussian_error(total_covariance(prior), operator, 0.2))


def test_the_total_covariance_is_that_of_draws():
    rng = np.random.default_rng(0)
    prior = GaussianPrior(
        torch.log(torch.tensor([0.7, 0.3], dtype=torch.float64)),
        torch.zeros(3, dtype=torch.float64),
        torch.as_tensor(rng.standard_normal((2, 3))),
        torch.as_tensor(rng.uniform(0.2, 1.0, (2, 3))),
        torch.as_tensor(rng.standard_normal((2, 3, 1))),
    )
    index = (torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < 0.3).long()
    draws = prior.means[index] + prior.deviations(index, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.cov(draws.T), total_covariance(prior), rtol=0.03, atol=0.03)


def test_bad_designs_are_named():
    prior = gaussian()
    with pytest.raises(ValueError, match=r"in 1\.\.6"):
        designed_operator(prior, 7)
    with pytest.raises(ValueError, match="both it and noise_variance"):
        designed_operator(prior, 2, power=1.0)
