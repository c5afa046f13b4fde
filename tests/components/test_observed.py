"""Rows with missing entries: every family against its own whole rows, integrals, sums over all values, and draws."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from mixcoder._typing import HardCode
from mixcoder.components import (
    PPCA,
    Bernoulli,
    Categorical,
    FactorAnalyzer,
    GaussianDiagonal,
    GaussianFull,
    GaussianLowRankTied,
    GaussianSpherical,
    GaussianTied,
    GaussianTiedDiagonal,
    GaussianTiedSpherical,
    Poisson,
    StudentT,
)
from mixcoder.components.observed import observed_parts
from mixcoder.ops import patterns
from mixcoder.ops.patterns import Patterns, parts, pattern_numbers

GAUSSIAN = (
    GaussianFull,
    GaussianTied,
    GaussianDiagonal,
    GaussianSpherical,
    GaussianTiedDiagonal,
    GaussianTiedSpherical,
    PPCA,
    FactorAnalyzer,
    GaussianLowRankTied,
)
DISCRETE = (Bernoulli, Poisson, Categorical)


def examples_of(kinds):
    return [
        pytest.param(family, params, id=f"{type(family).__name__}-{place}")
        for kind in kinds
        for place, (family, params) in enumerate(kind.examples())
    ]


EXAMPLES = examples_of(GAUSSIAN + DISCRETE)
GAUSSIAN_EXAMPLES = examples_of(GAUSSIAN)


def rows_of(family, params, n=40, seed=0):
    """Return whole rows, and the same with entries missing: every pattern of the first few columns."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(params.n_components, (n,), generator=generator)
    whole = family.sample(params, index, generator)
    gone = torch.rand(whole.shape, generator=generator) < 0.4
    gone[0], gone[1] = False, True
    return whole, whole.masked_fill(gone, torch.nan)


def soft_code(n, k, seed=1):
    return torch.softmax(2 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).double(), 1)


def counts_of(code):
    return code.sum(0)[:, None, None]


def numbers(statistics):
    found = [getattr(statistics, name) for name in statistics.__dataclass_fields__]
    return [value for value in found if value is not None]


def covariances_of(family, params):
    """Return dense covariances, shape (k, d, d)."""
    if isinstance(family, PPCA | FactorAnalyzer):
        noise = params.noise_variances
        noise = noise[:, None].expand_as(params.means) if noise.ndim == 1 else noise
        return params.loadings @ params.loadings.mT + torch.diag_embed(noise)
    spreads = family.spreads(params)
    dense = spreads if spreads.ndim == 3 else torch.diag_embed(spreads)
    return dense.expand(params.n_components, -1, -1)


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_whole_rows_are_seen_as_they_are(family, params):
    whole, _ = rows_of(family, params)
    seen, code = family.observe(params, whole), soft_code(len(whole), params.n_components)
    weights = torch.rand(len(whole), generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(
        seen.log_likelihood, family.log_likelihood(params, whole), rtol=1e-10, atol=1e-10
    )
    expected = family.statistics(params, whole, code, weights)
    actual = seen.statistics(code, weights)
    assert type(actual) is type(expected)
    for one, other in zip(numbers(actual), numbers(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(seen.expected(code), whole, rtol=0, atol=0)
    index = torch.zeros(len(whole), dtype=torch.int64)
    torch.testing.assert_close(seen.sample(index, torch.Generator().manual_seed(0)), whole, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "params"), GAUSSIAN_EXAMPLES)
def test_gaussian_rows_are_marginalised_and_conditioned_one_by_one(family, params):
    _, rows = rows_of(family, params)
    means, covariances = params.means.numpy(), covariances_of(family, params).numpy()
    seen = family.observe(params, rows)
    for n, x in enumerate(rows.numpy()):
        a, b = np.flatnonzero(~np.isnan(x)), np.flatnonzero(np.isnan(x))
        for k, (mean, cov) in enumerate(zip(means, covariances, strict=True)):
            caa, cba = cov[np.ix_(a, a)], cov[np.ix_(b, a)]
            density = multivariate_normal(mean[a], caa).logpdf(x[a]) if len(a) else 0.0
            assert float(seen.log_likelihood[n, k]) == pytest.approx(density, rel=1e-10, abs=1e-10)
            told = mean[b] + cba @ np.linalg.solve(caa, x[a] - mean[a]) if len(a) else mean[b]
            code = HardCode(torch.full((len(rows),), k), len(means))
            np.testing.assert_allclose(seen.expected(code)[n].numpy()[b], told, rtol=1e-9, atol=1e-10)
            np.testing.assert_array_equal(seen.expected(code)[n].numpy()[a], x[a])


@pytest.mark.parametrize(("family", "params"), GAUSSIAN_EXAMPLES)
def test_gaussian_sums_are_expectations_over_the_conditional(family, params):
    """Brute force: E[x] and E[xx'] of every row and component, then one exact M-step from whole-row sums."""
    _, rows = rows_of(family, params)
    n, d = rows.shape
    k = params.n_components
    code, means, covariances = soft_code(n, k), params.means, covariances_of(family, params)
    first, second = torch.zeros(k, d).double(), torch.zeros(k, d, d).double()
    for i, x in enumerate(rows):
        a, b = (~x.isnan()).nonzero()[:, 0], x.isnan().nonzero()[:, 0]
        for j in range(k):
            gain = covariances[j][b][:, a] @ torch.linalg.pinv(covariances[j][a][:, a])
            full = x.clone()
            full[b] = means[j][b] + gain @ (x[a] - means[j][a])
            spread = torch.zeros(d, d).double()
            spread[b[:, None], b] = covariances[j][b][:, b] - gain @ covariances[j][a][:, b]
            first[j] += code[i, j] * full
            second[j] += code[i, j] * (full[:, None] * full + spread)
    statistics = family.observe(params, rows).statistics(code)
    torch.testing.assert_close(statistics.counts, code.sum(0))
    width = d if isinstance(family, FactorAnalyzer | GaussianLowRankTied) else None
    torch.testing.assert_close(statistics.sums[:, : width or d], first, rtol=1e-9, atol=1e-9)
    if isinstance(family, FactorAnalyzer):
        torch.testing.assert_close(statistics.squares, second.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-9)
        return
    if isinstance(family, GaussianLowRankTied):
        # Sums over t = L'z, of which family.projections(params) = L^-T A gives the means.
        axes, at = family.planes(params).axes, params.means[:, :, None]
        away = second - first[:, :, None] @ at.mT - at @ first[:, None, :] + counts_of(code) * at @ at.mT
        products = axes @ away @ axes.mT + counts_of(code) * torch.eye(axes.shape[1]).double()
        cross = axes @ (second - at @ first[:, None, :])
        torch.testing.assert_close(statistics.latent_products, products, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(statistics.cross_products, cross, rtol=1e-9, atol=1e-9)
        packed = second.sum(0)[torch.triu_indices(d, d).unbind()]
        torch.testing.assert_close(statistics.pooled[0], packed, rtol=1e-9, atol=1e-9)
        return
    if isinstance(family, PPCA | GaussianFull):
        packed = torch.stack([m[torch.triu_indices(d, d).unbind()] for m in second])
        torch.testing.assert_close(statistics.sums[:, d:], packed, rtol=1e-9, atol=1e-9)
        return
    diagonal = second.diagonal(dim1=1, dim2=2)
    expected = {
        GaussianTied: lambda: (statistics.pooled[0], second.sum(0)[torch.triu_indices(d, d).unbind()]),
        GaussianDiagonal: lambda: (statistics.sums[:, d:], diagonal),
        GaussianSpherical: lambda: (statistics.sums[:, d], diagonal.sum(1)),
        GaussianTiedDiagonal: lambda: (statistics.pooled[0], diagonal.sum(0)),
        GaussianTiedSpherical: lambda: (statistics.pooled[0, 0], diagonal.sum()),
    }[type(family)]()
    torch.testing.assert_close(*expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "params"), examples_of(DISCRETE))
def test_discrete_rows_are_summed_over_every_value(family, params):
    _, rows = rows_of(family, params, n=12)
    seen = family.observe(params, rows)
    for row in rows:
        gone = row.isnan().nonzero()[:, 0].tolist()[:3]
        x = torch.where(row.isnan(), 0.0, row)  # what is not summed over below is seen
        x[gone] = torch.nan
        if isinstance(family, Poisson):
            values = [range(120)] * len(gone)
            if len(gone) > 1:
                continue
        elif isinstance(family, Categorical):
            sizes = (
                family.n_categories
                if isinstance(family.n_categories, tuple)
                else [family.n_categories] * len(x)
            )
            values = [range(sizes[d]) for d in gone]
        else:
            values = [range(2)] * len(gone)
        filled = []
        for some in product(*values):
            whole = x.clone()
            whole[gone] = torch.tensor([float(v) for v in some], dtype=x.dtype)
            filled.append(whole)
        filled = torch.stack(filled)
        total = torch.logsumexp(family.log_likelihood(params, filled), 0)
        torch.testing.assert_close(
            family.observe(params, x[None]).log_likelihood[0], total, rtol=1e-9, atol=1e-9
        )
    assert bool((seen.log_likelihood[1] == 0).all())  # the row of which nothing is seen


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_a_maximised_bound_never_falls(family, params):
    _, rows = rows_of(family, params, n=200)
    k = params.n_components
    log_weights, reached = torch.full((k,), -math.log(k)).double(), -math.inf
    seen_variances = torch.as_tensor(np.nanvar(rows.numpy(), axis=0))
    floors = () if isinstance(family, Bernoulli | Poisson | Categorical) else (seen_variances,)
    centres = floors if isinstance(family, PPCA | FactorAnalyzer | GaussianLowRankTied) else ()
    for _ in range(25):
        view = family.observe(params, rows)
        log_joint = view.log_likelihood + log_weights
        code = torch.softmax(log_joint, 1)
        statistics = view.statistics(code)
        log_prior = family.log_prior(params, statistics, *centres)
        bound = float(torch.logsumexp(log_joint, 1).sum())
        bound += 0.0 if log_prior is None else float(log_prior.sum())
        assert bound >= reached - 1e-9 * (1 + abs(reached))
        reached = bound
        params = family.maximize(statistics, *floors)
        log_weights = (code.sum(0) / len(rows)).log()


@pytest.mark.parametrize(("family", "params"), GAUSSIAN_EXAMPLES)
def test_draws_have_the_conditional_moments(family, params):
    whole, _ = rows_of(family, params)
    x = whole[:1].clone()
    x[0, 1:] = torch.nan
    many = x.expand(40_000, -1)
    seen = family.observe(params, many)
    index = torch.full((len(many),), params.n_components - 1)
    drawn = seen.sample(index, torch.Generator().manual_seed(3))
    assert bool((drawn[:, 0] == x[0, 0]).all())
    cov = covariances_of(family, params)[-1]
    gain = cov[1:, 0] / cov[0, 0]
    mean = params.means[-1][1:] + gain * (x[0, 0] - params.means[-1][0])
    rest = cov[1:, 1:] - gain[:, None] * cov[0, 1:]
    if cov.shape[0] == 1:
        return
    stds = rest.diagonal().sqrt()
    assert float(((drawn[:, 1:].mean(0) - mean) / stds).abs().max()) < 0.03
    found = torch.cov(drawn[:, 1:].T).reshape(len(gain), len(gain))
    assert float(((found - rest) / (stds[:, None] * stds)).abs().max()) < 0.03


def test_many_features_keep_sums_of_latent_axes():
    family = PPCA(2)
    object.__setattr__(family, "max_packed", 3)  # as if four features were many
    params = PPCA.examples()[0][1]
    whole, rows = rows_of(family, params, n=300)
    code = soft_code(len(rows), params.n_components)
    packed = PPCA(2).observe(params, rows).statistics(code)
    latent = family.observe(params, rows).statistics(code)
    torch.testing.assert_close(latent.sums, packed.sums[:, :4])
    torch.testing.assert_close(
        latent.squares, sum(packed.sums[:, 4 + at] for at in (0, 4, 7, 9)), rtol=1e-9, atol=1e-9
    )
    seen, expected = family.observe(params, whole).statistics(code), family.statistics(params, whole, code)
    # The axes differ by a rotation: what a step makes of them does not.
    one, other = family.maximize(seen), family.maximize(expected)
    torch.testing.assert_close(one.noise_variances, other.noise_variances, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        one.loadings @ one.loadings.mT, other.loadings @ other.loadings.mT, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("kinds", [3, 200])
def test_repeated_and_single_patterns_give_the_same(share, kinds, monkeypatch):
    """One product a pattern or one a row, factors of what is seen or of what is missing: the same numbers."""
    generator = torch.Generator().manual_seed(0)
    n, d = 200, 7
    factor = torch.randn(2, d, d, generator=generator).double()
    params = GaussianFull.examples()[0][1].build(
        torch.randn(2, d, generator=generator).double(), factor @ factor.mT + 0.1 * torch.eye(d).double()
    )
    x = torch.randn(n, d, generator=generator).double()
    masks = torch.rand(kinds, d, generator=generator) < share
    x[masks[torch.randint(kinds, (n,), generator=generator)]] = torch.nan
    answers = []
    for call in (0, 10**12):
        monkeypatch.setattr(patterns, "_CALL", call)
        seen = GaussianFull().observe(params, x)
        assert (seen.patterns.rows is not None) == (call == 0)
        code = torch.softmax(seen.log_likelihood, 1)
        answers.append((seen.log_likelihood, seen.filled, seen.statistics(code).sums))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_patterns_are_told_apart_beyond_the_bits_of_one_integer():
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(30, 150, generator=generator) < 0.5
    kinds[1] = kinds[0]
    kinds[1, 149] = ~kinds[0, 149]
    place = torch.randint(30, (400,), generator=generator)
    found, count = pattern_numbers(kinds[place])
    _, expected = torch.unique(kinds[place], dim=0, return_inverse=True)
    assert count == len(torch.unique(expected))
    assert bool(((found[:, None] == found) == (expected[:, None] == expected)).all())
    missing = (~kinds[place]).sum(1)
    assert bool((missing[torch.argsort(found, stable=True)].diff() >= 0).all())


def test_parts_hold_every_row_once_and_a_bounded_number_of_numbers():
    seen = torch.rand(500, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    limit = patterns._PART_NUMBERS
    for pattern, row in ((0, 10), (limit // 20, 10), (2 * limit, limit)):
        groups = parts(seen, pattern, row)
        assert sorted(torch.cat(groups).tolist()) == list(range(500))
        for group in groups:
            taken = row * len(group) + pattern * pattern_numbers(seen[group])[1]
            assert taken <= 2 * max(limit, pattern + row)
    assert parts(seen[:0], 1, 1) == []
    assert Patterns.of(seen[:1]).n_patterns == 1


def test_parts_add_up():
    family, params = GaussianFull.examples()[0]
    _, rows = rows_of(family, params, n=50)
    code = soft_code(50, params.n_components)
    total = family.observe(params, rows).statistics(code).sums
    pieces = [view.statistics(code[index]).sums for index, view in observed_parts(family, params, rows)]
    torch.testing.assert_close(sum(pieces), total)


def test_tiny_variances_are_not_lost_in_squares():
    family = GaussianDiagonal()
    params = family.examples()[0][1].__class__(
        torch.tensor([[1e3, -1e3]]).double(), torch.tensor([[1e-12, 1e-10]]).double()
    )
    x = torch.tensor([[1e3 + 1e-6, torch.nan]]).double()
    expected = -0.5 * (1e-12 * ((x[0, 0] - 1e3) / 1e-12) ** 2 / 1.0) - 0.5 * math.log(2 * math.pi * 1e-12)
    assert float(family.observe(params, x).log_likelihood) == pytest.approx(float(expected), rel=1e-9)


def test_a_family_without_a_rule_says_so():
    family, params = StudentT.examples()[0]
    assert not family.marginalizes
    with pytest.raises(TypeError, match="StudentT has no rule for missing entries"):
        family.observe(params, torch.full((1, 2), torch.nan).double())
