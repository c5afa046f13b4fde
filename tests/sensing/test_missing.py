"""Missing entries: marginals, conditionals and imputed rows, against Gaussians conditioned one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

import mixcoder
from mixcoder import GaussianMixture, Mixture
from mixcoder.components import GaussianDiagonal
from mixcoder.errors import DataError
from mixcoder.sensing import Rows, condition, impute, marginal, observed_log_prob

from .conftest import D, make_case


def log_density(dense, x, columns):
    """Return log pi_k + log N(x_a; k) of one row, shape (k,)."""
    if not columns:
        return np.log([w for w, *_ in dense])
    parts = [
        np.log(w) + multivariate_normal(m[columns], c[np.ix_(columns, columns)]).logpdf(x[columns])
        for w, m, c in dense
    ]
    return np.array(parts)


def conditioned(dense, x, known, rest):
    """Return weights, means and covariances of the features ``rest`` given those ``known`` of one row."""
    means, covariances = [], []
    for _, m, c in dense:
        gain = c[np.ix_(rest, known)] @ np.linalg.pinv(c[np.ix_(known, known)])
        means.append(m[rest] + gain @ (x[known] - m[known]))
        covariances.append(c[np.ix_(rest, rest)] - gain @ c[np.ix_(known, rest)])
    return softmax(log_density(dense, x, known)), np.array(means), np.array(covariances)


def holed(case, n=64, seed=2):
    """Return rows of the mixture and the same rows with entries missing: every pattern at least once."""
    whole = case.estimator.set_params(random_state=seed).sample(n)[0]
    patterns = list(product([False, True], repeat=D))
    rows = whole.copy()
    rows[np.array([patterns[row % len(patterns)] for row in range(n)])] = np.nan
    return whole, rows


def dense_of(model):
    covariances = {
        "full": lambda c: c,
        "tied": lambda c: [c] * model.n_components,
        "diag": lambda c: [np.diag(v) for v in c],
        "spherical": lambda c: [v * np.eye(model.n_features_in_) for v in c],
        "tied_diag": lambda c: [np.diag(c)] * model.n_components,
        "tied_spherical": lambda c: [c * np.eye(model.n_features_in_)] * model.n_components,
    }[model.covariance_type](model.covariances_)
    return model.weights_, model.means_, np.array(covariances)


def test_impute_agrees_with_conditioning_row_by_row(case):
    _, rows = holed(case)
    filled = case.estimator.impute(rows)
    for x, y in zip(rows, filled, strict=True):
        known, rest = np.nonzero(~np.isnan(x))[0].tolist(), np.nonzero(np.isnan(x))[0].tolist()
        weights, means, _ = conditioned(case.dense, x, known, rest)
        np.testing.assert_array_equal(y[known], x[known])
        np.testing.assert_allclose(y[rest], weights @ means, rtol=1e-9)


def test_impute_is_the_posterior_mean_of_a_choice_of_rows(case):
    whole, rows = holed(case)
    known = [4, 0]
    rows = np.full_like(whole, np.nan)
    rows[:, known] = whole[:, known]
    mean = case.estimator.posterior(whole[:, known], Rows.of(known, D), 0.0).mean
    np.testing.assert_allclose(case.estimator.impute(rows), mean.numpy(), rtol=1e-9)


def test_a_row_without_entries_becomes_the_mean_of_the_prior(case):
    filled = case.estimator.impute(np.full((2, D), np.nan))
    np.testing.assert_allclose(filled, np.tile(case.weights @ case.means, (2, 1)), rtol=1e-12)


def test_imputed_rows_do_not_depend_on_their_order_and_keep_their_dtype(case):
    _, rows = holed(case)
    filled, order = case.estimator.impute(rows), np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(case.estimator.impute(rows[order]), filled[order], rtol=1e-12)
    narrow = case.estimator.impute(torch.as_tensor(rows, dtype=torch.float32))
    assert narrow.dtype == torch.float32
    whole = rows[~np.isnan(rows).any(1)]
    np.testing.assert_array_equal(case.estimator.impute(whole), whole)


def test_observed_density_is_the_marginal_density(case):
    _, rows = holed(case)
    x = torch.as_tensor(rows)
    value = observed_log_prob(case.model, x)
    for row, actual in zip(rows, value.tolist(), strict=True):
        known = np.nonzero(~np.isnan(row))[0].tolist()
        assert actual == pytest.approx(logsumexp(log_density(case.dense, row, known)), rel=1e-9, abs=1e-12)
    complete = torch.as_tensor(rows[~np.isnan(rows).any(1)])
    torch.testing.assert_close(
        observed_log_prob(case.model, complete), case.model.log_prob(complete), rtol=1e-9, atol=1e-9
    )


def test_marginal_keeps_weights_means_and_covariances_of_its_columns(case):
    columns = [3, 0]
    part = case.estimator.marginal(columns)
    weights, means, covariances = dense_of(part)
    np.testing.assert_allclose(weights, case.weights)
    np.testing.assert_allclose(means, case.means[:, columns], rtol=1e-12)
    np.testing.assert_allclose(
        covariances, case.covariances[:, columns][:, :, columns], rtol=1e-12, atol=1e-12
    )
    whole, _ = holed(case)
    expected = [logsumexp(log_density(case.dense, x, columns)) for x in whole]
    np.testing.assert_allclose(part.score_samples(whole[:, columns]), expected, rtol=1e-8)


def test_condition_agrees_with_each_gaussian_conditioned(case):
    whole, _ = holed(case)
    known, rest = [4, 1], [0, 2, 3]
    for x in whole[:5]:
        weights, means, covariances = conditioned(case.dense, x, known, rest)
        given = case.estimator.condition(known, x[known])
        actual = dense_of(given)
        np.testing.assert_allclose(actual[0], weights, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(actual[1], means, rtol=1e-9)
        np.testing.assert_allclose(actual[2], covariances, rtol=1e-9, atol=1e-9)


def test_joint_density_is_marginal_times_conditional(case):
    whole, _ = holed(case, n=8)
    known, rest = [2, 4], [0, 1, 3]
    first = case.estimator.marginal(known).score_samples(whole[:, known])
    for x, value, joint in zip(whole, first, case.estimator.score_samples(whole), strict=True):
        second = case.estimator.condition(known, x[known]).score_samples(x[None, rest])[0]
        assert value + second == pytest.approx(joint, rel=1e-9)


def test_nothing_known_is_the_model_itself(case):
    same = condition(case.model, [], torch.zeros(0))
    x = torch.as_tensor(holed(case)[0])
    torch.testing.assert_close(same.log_prob(x), case.model.log_prob(x))
    again = marginal(case.model, list(range(D)))
    torch.testing.assert_close(again.log_prob(x), case.model.log_prob(x))


def test_parts_are_saved_like_any_other(case, tmp_path):
    x = holed(case)[0]
    for part in (case.estimator.marginal([4, 2, 1]), case.estimator.condition([0, 3], x[0, [0, 3]])):
        part.save(tmp_path / "part.mixcoder")
        same = mixcoder.load(tmp_path / "part.mixcoder")
        rows = x[:, [4, 2, 1]]
        np.testing.assert_array_equal(same.score_samples(rows), part.score_samples(rows))
        assert same.sample(3)[0].shape == (3, 3)


def test_names_of_columns_go_along(tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).standard_normal((60, 3)), columns=["a", "b", "c"])
    model = GaussianMixture(2, random_state=0).fit(table)
    before = model.score(table)
    part = model.marginal(["c", "a"])
    assert part.feature_names_in_.tolist() == ["c", "a"]
    part.score(table[["c", "a"]])
    given = model.condition("b", [0.5])
    assert given.feature_names_in_.tolist() == ["a", "c"]
    given.save(tmp_path / "given.mixcoder")
    assert mixcoder.load(tmp_path / "given.mixcoder").feature_names_in_.tolist() == ["a", "c"]
    assert model.score(table) == before
    holes = table.mask(np.random.default_rng(1).random(table.shape) < 0.3)
    assert not np.isnan(model.impute(holes)).any()
    with pytest.raises(ValueError, match="no column 'd'"):
        model.marginal(["d"])


def test_what_is_added_to_a_column_goes_with_it(tmp_path):
    x = np.random.default_rng(0).standard_normal((50, 3)) * 8
    family = GaussianDiagonal(added_variance=(0.1, 0.2, 0.3))
    part = Mixture(family, 2, random_state=0).fit(x).marginal([2, 0])
    assert part.family.added_variance == (0.3, 0.1)
    part.save(tmp_path / "part.mixcoder")
    part.fit(x[:, :2])


def test_a_nearly_singular_covariance_leaves_a_positive_one():
    c = np.full((3, 3), 1.0) + 1e-9 * np.eye(3)
    model = GaussianMixture.from_parameters([1.0], [[0.0, 0.0, 0.0]], [c])
    given = model.condition([0], [1.0])
    assert (np.linalg.eigvalsh(given.covariances_[0]) > 0).all()
    np.testing.assert_allclose(given.means_, [[1.0, 1.0]], rtol=1e-6)


def test_better_than_the_mean_where_features_depend_on_one_another():
    case = make_case("full", seed=1)
    whole = case.estimator.sample(2000)[0]
    gone = np.random.default_rng(0).random(whole.shape) < 0.3
    filled = case.estimator.impute(np.where(gone, np.nan, whole))
    errors = [np.square((guess - whole) / whole.std(0))[gone].mean() for guess in (filled, whole.mean(0))]
    assert errors[0] < 0.85 * errors[1]


def test_bad_input_is_named():
    case = make_case("full")
    model, estimator = case.model, case.estimator
    with pytest.raises(DataError, match=r"infinity, first at row 1, column 0; a missing entry is NaN"):
        impute(model, torch.tensor([[0.0] * D, [torch.inf] * D]))
    with pytest.raises(DataError, match=r"expected \(n_rows, 5\)"):
        impute(model, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="expecting 5 features"):
        estimator.impute(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"0\.\.4, got 5"):
        estimator.marginal([0, 5])
    with pytest.raises(ValueError, match="distinct"):
        estimator.marginal([1, 1])
    with pytest.raises(ValueError, match="at least one column"):
        estimator.marginal([])
    with pytest.raises(ValueError, match="All 5 features are known"):
        estimator.condition(range(D), np.zeros(D))
    with pytest.raises(DataError, match=r"shape \(3,\), expected \(2,\)"):
        estimator.condition([0, 1], [0.0, 1.0, 2.0])
    with pytest.raises(DataError, match="first for column 3"):
        estimator.condition([0, 3], [0.0, np.nan])
    poisson = Mixture("poisson", 1, random_state=0).fit(np.arange(8.0).reshape(4, 2))
    for ask in (lambda: poisson.marginal([0]), lambda: poisson.condition([0], [1.0])):
        with pytest.raises(TypeError, match="this model has Poisson"):
            ask()
    heavy = Mixture("student_t", 1, random_state=0).fit(np.random.default_rng(0).standard_normal((9, 2)))
    for ask in (heavy.impute, heavy.sample_missing):
        with pytest.raises(TypeError, match="this model has StudentT"):
            ask([[1.0, np.nan]])


PLANES = {
    "ppca": lambda: mixcoder.PPCAMixture(2, 2, random_state=0),
    "ppca, a rank each, one noise": lambda: mixcoder.PPCAMixture(2, (1, 2), noise="shared", random_state=0),
    "factor analyzer": lambda: mixcoder.FactorAnalyzerMixture(2, 2, random_state=0),
}


@pytest.mark.parametrize("name", PLANES)
def test_planes_are_closed_under_marginals_and_conditionals(name, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 3)) @ rng.standard_normal((3, D)) + 0.3 * rng.standard_normal((90, D))
    planes = PLANES[name]().fit(x * [1, 10, 0.1, 2, 1] + [100, 0, 5, -7, 0])
    rows = planes.sample(6)[0]
    noise = planes.noise_variances_
    spreads = planes.loadings_ @ planes.loadings_.transpose(0, 2, 1)
    spreads = spreads + (noise if noise.ndim == 2 else noise[:, None])[:, :, None] * np.eye(D)
    dense = list(zip(planes.weights_, planes.means_, spreads, strict=True))
    known, rest = [4, 1], [0, 2, 3]
    part = planes.marginal(rest)
    expected = [logsumexp(log_density(dense, row, rest)) for row in rows]
    np.testing.assert_allclose(part.score_samples(rows[:, rest]), expected, rtol=1e-9)
    holes = rows.copy()
    holes[:, known] = np.nan
    np.testing.assert_allclose(planes.score_samples(holes), expected, rtol=1e-9)
    for row in rows:
        given = planes.condition(known, row[known])
        weights, means, covariances = conditioned(dense, row, known, rest)
        np.testing.assert_allclose(given.weights_, weights, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(given.means_, means, rtol=1e-8)
        parts = zip(weights, means, covariances, strict=True)
        value = logsumexp([np.log(w) + multivariate_normal(m, c).logpdf(row[rest]) for w, m, c in parts])
        assert given.score_samples(row[None, rest])[0] == pytest.approx(value, rel=1e-8)
        gram = given.loadings_.transpose(0, 2, 1) @ given.loadings_
        if "ppca" in name:  # its loadings are principal axes, falling
            lengths = np.diagonal(gram, axis1=1, axis2=2)
            np.testing.assert_allclose(gram, lengths[:, None] * np.eye(2), atol=1e-9 * lengths.max())
            assert (np.diff(lengths, axis=1) <= 1e-12).all()
    part.save(tmp_path / "part.mixcoder")
    np.testing.assert_array_equal(
        mixcoder.load(tmp_path / "part.mixcoder").score_samples(rows[:, rest]),
        part.score_samples(rows[:, rest]),
    )
    few = planes.marginal([0, 1])  # no more columns than axes: ellipses
    assert isinstance(few, mixcoder.GaussianMixture)
    expected = [logsumexp(log_density(dense, row, [0, 1])) for row in rows]
    np.testing.assert_allclose(few.score_samples(rows[:, [0, 1]]), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="more features than latent axes"):
        marginal(planes.model_, [0, 1])  # a model keeps its family
