"""Priors adapted to noisy rows: each step against loops, the law that it obeys, and its limits."""

from __future__ import annotations

import math

import pytest
import torch

from mixcoder.errors import DataError
from mixcoder.sensing import GaussianPrior, adaptation, adapted_prior, posterior
from mixcoder.sensing.adaptation import expected_rows

D, K, S2 = 3, 2, 0.3


def prior_of(seed: int = 0, loadings: bool = False) -> GaussianPrior:
    g = torch.Generator().manual_seed(seed)
    w = 0.8 * torch.randn(K, D, 2, generator=g, dtype=torch.float64)
    round_ = torch.full((K, 1), 0.2, dtype=torch.float64)
    return GaussianPrior(
        torch.tensor([0.3, 0.7], dtype=torch.float64).log(),
        torch.full((D,), 2.0, dtype=torch.float64),
        torch.randn(K, D, generator=g, dtype=torch.float64),
        round_ if loadings else w @ w.mT + 0.2 * torch.eye(D, dtype=torch.float64),
        w if loadings else None,
    )


def rows_of(n: int = 40, seed: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    return 2.5 + scale * torch.randn(n, D, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("loadings", [False, True])
def test_a_step_is_its_equations_row_by_row(loadings):
    prior, y, kappa = prior_of(loadings=loadings), rows_of(), 7.0
    seen = posterior(prior, y, torch.eye(D, dtype=torch.float64), S2)
    r, m, covariances = seen.weights, seen.component_means, prior.covariances()
    found = adapted_prior(prior, y, S2, strength=kappa, n_steps=1)
    for k in range(K):
        total = r[:, k].sum()
        first = prior.shift + prior.means[k]
        mean = (sum(r[n, k] * m[n, k] for n in range(len(y))) + kappa * first) / (total + kappa)
        noisy = covariances[k] + S2 * torch.eye(D)
        left = covariances[k] - covariances[k] @ torch.linalg.solve(noisy, covariances[k])
        scatter = kappa * (covariances[k] + torch.outer(mean - first, mean - first))
        for n in range(len(y)):
            scatter = scatter + r[n, k] * (torch.outer(m[n, k] - mean, m[n, k] - mean) + left)
        weight = (total + kappa * prior.log_weights[k].exp()) / (len(y) + kappa)
        torch.testing.assert_close(found.shift + found.means[k], mean)
        torch.testing.assert_close(found.spread(k), scatter / (total + kappa))
        torch.testing.assert_close(found.log_weights[k].exp(), weight)


def test_no_step_lowers_evidence_and_density_together():
    prior, y, kappa = prior_of(), rows_of(), 5.0

    def objective(at: GaussianPrior) -> float:
        evidence = posterior(at, y, torch.eye(D, dtype=torch.float64), S2).log_evidence.sum()
        density = kappa * (prior.log_weights.exp() @ at.log_weights)
        for k in range(K):
            apart = prior.means[k] - at.means[k]
            scatter = prior.spread(k) + torch.outer(apart, apart)
            density -= (
                0.5 * kappa * (torch.logdet(at.spread(k)) + torch.linalg.solve(at.spread(k), scatter).trace())
            )
        return float(evidence + density)

    steps = [objective(adapted_prior(prior, y, S2, strength=kappa, n_steps=n)) for n in range(25)]
    assert all(after >= before - 1e-9 for before, after in zip(steps, steps[1:], strict=False))
    assert steps[-1] > steps[0] + 1


def test_a_strong_prior_stays_and_its_own_rows_do_not_move_it():
    prior = prior_of()
    still = adapted_prior(prior, rows_of(), S2, strength=1e12, n_steps=5)
    torch.testing.assert_close(still.means, prior.means)
    torch.testing.assert_close(still.spreads, prior.spreads)
    g = torch.Generator().manual_seed(0)
    index = torch.multinomial(prior.log_weights.exp(), 50_000, replacement=True, generator=g)
    x = prior.shift + prior.means[index] + prior.deviations(index, g)
    y = x + math.sqrt(S2) * torch.randn(x.shape, generator=g, dtype=torch.float64)
    own = adapted_prior(prior, y, S2, strength=1.0, n_steps=3)
    torch.testing.assert_close(own.means, prior.means, atol=0.05, rtol=0)
    torch.testing.assert_close(own.spreads, prior.spreads, atol=0.06, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expected_rows_are_those_of_the_exact_posterior(dtype, monkeypatch):
    prior, y = prior_of(), rows_of().to(dtype)
    seen = posterior(prior, y, torch.eye(D, dtype=dtype), S2)
    means, variances = expected_rows(prior, y, S2, negligible=1e-3)
    assert means.dtype == variances.dtype == dtype
    # What is left out has a posterior below 1/1000 of the largest.
    torch.testing.assert_close(means, seen.mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(variances, seen.variance.mean(1), atol=5e-3, rtol=0)
    means, variances = expected_rows(prior, y, S2)
    torch.testing.assert_close(means, seen.mean)
    torch.testing.assert_close(variances, seen.variance.mean(1))
    monkeypatch.setattr(adaptation, "_BLOCK", 7)
    torch.testing.assert_close(expected_rows(prior, y, S2)[0], means)


def test_many_components_none_of_them_probable_by_itself_all_count():
    k, kappa, s2 = 1100, 1.0, 0.5
    g = torch.Generator().manual_seed(0)
    means = 0.005 * torch.randn(k, 1, generator=g, dtype=torch.float64)
    weights = torch.full((k,), 1 / k, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    prior = GaussianPrior(weights.log(), 0 * one[0], means, one)
    y = 3 + torch.randn(400, 1, generator=g, dtype=torch.float64)
    r = torch.softmax(-0.5 * (y - means.T).square() / (1 + s2), 1)
    assert float(r.max()) < 1e-3
    expected = means.T + (y - means.T) / (1 + s2)  # (n, k)
    counts = r.sum(0)
    moved = ((r * expected).sum(0) + kappa * means[:, 0]) / (counts + kappa)
    found = adapted_prior(prior, y, s2, strength=kappa, n_steps=1)
    torch.testing.assert_close(found.shift + found.means[:, 0], moved, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.log_weights.exp(), (counts + kappa / k) / (len(y) + kappa), rtol=1e-12, atol=0
    )
    rows, _ = expected_rows(prior, y, s2, negligible=1e-3)
    torch.testing.assert_close(rows[:, 0], (r * expected).sum(1), rtol=1e-6, atol=0)


def test_what_cannot_be_is_named():
    prior, y = prior_of(), rows_of()
    with pytest.raises(DataError, match="Rows of 3 features"):
        adapted_prior(prior, y[:, :2], S2)
    with pytest.raises(DataError, match="NaN"):
        adapted_prior(prior, y * torch.nan, S2)
    with pytest.raises(ValueError, match="must be positive"):
        adapted_prior(prior, y, 0.0)
    with pytest.raises(ValueError, match="strength"):
        adapted_prior(prior, y, S2, strength=0.0)
    with pytest.raises(ValueError, match="negligible"):
        adapted_prior(prior, y, S2, negligible=1.0)
    with pytest.raises(ValueError, match="n_steps"):
        adapted_prior(prior, y, S2, n_steps=-1)
