"""Rows of which some entries are seen: estimates against the exact posterior, whatever the blocks."""

from __future__ import annotations

import pytest
import torch

from mixcoder.sensing import GaussianPrior, RowMasks, filling, posterior
from mixcoder.sensing.filling import expected_entries, likely_components

D, K = 5, 3


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(K, D, D, generator=g, dtype=torch.float64)
    prior = GaussianPrior(
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log(),
        torch.zeros(D, dtype=torch.float64),
        torch.randn(K, D, generator=g, dtype=torch.float64),
        w @ w.mT + 0.1 * torch.eye(D, dtype=torch.float64),
    )
    rows = 2 * torch.randn(30, D, generator=g, dtype=torch.float64)
    seen = torch.rand(30, D, generator=g) < 0.5
    seen[0], seen[1] = False, True
    return prior, rows, seen


def filled(case, candidates):
    prior, rows, seen = case
    return expected_entries(prior.log_weights, prior.means, prior.spreads, rows, seen, candidates, 0.2)


@pytest.mark.parametrize("entries", [filling._ENTRIES, 1, 300])
def test_with_all_components_it_is_the_exact_posterior(case, entries, monkeypatch):
    monkeypatch.setattr(filling, "_ENTRIES", entries)
    prior, rows, seen = case
    hidden = torch.where(seen, rows, torch.nan)
    mean, variance = filled((prior, torch.where(seen, rows, 9.0), seen), torch.arange(K).expand(len(rows), K))
    exact = posterior(prior, hidden.nan_to_num(0.0), RowMasks(seen), 0.2)
    torch.testing.assert_close(mean, exact.mean)
    torch.testing.assert_close(variance, exact.variance)
    # A row of which nothing is seen has the prior's own mean.
    torch.testing.assert_close(mean[0], prior.log_weights.exp() @ prior.means)


def test_the_likely_components_are_the_most_probable_ones(case):
    prior, rows, _ = case
    weights = posterior(prior, rows, torch.eye(D, dtype=torch.float64), 0.3).weights
    found = likely_components(prior.log_weights, prior.means, prior.spreads, rows, 0.3, 2)
    torch.testing.assert_close(found, weights.topk(2, 1).indices)
    assert likely_components(prior.log_weights, prior.means, prior.spreads, rows, 0.3, 9).shape == (30, K)


def test_one_candidate_is_its_conditional_mean(case):
    prior, rows, seen = case
    mean, _ = filled(case, torch.full((len(rows), 1), 1))
    for row, observed, estimate in zip(rows, seen, mean, strict=True):
        cross = prior.spreads[1][:, observed]
        inner = cross[observed] + 0.2 * torch.eye(int(observed.sum()), dtype=torch.float64)
        expected = prior.means[1] + cross @ torch.linalg.solve(inner, (row - prior.means[1])[observed])
        torch.testing.assert_close(estimate, expected)
