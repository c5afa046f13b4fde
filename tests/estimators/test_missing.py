"""Rows with missing entries in, through every estimator that can integrate them out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression

import mixcoder
from mixcoder import FactorAnalyzerMixture, GaussianMixture, KMeans, Mixture, PPCAMixture
from mixcoder.components import GaussianFull
from mixcoder.errors import DataError, EmptyRowWarning
from mixcoder.fitting.fit import prepare
from mixcoder.fitting.incomplete import IncompleteProblem
from mixcoder.fitting.scan import scan_range
from mixcoder.sources import FileSource, TensorSource

COVARIANCES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
MAKERS = {
    **{c: (lambda k=2, c=c, **s: GaussianMixture(k, covariance_type=c, **s)) for c in COVARIANCES},
    "ppca": lambda k=2, **s: PPCAMixture(k, 1, **s),
    "factor analyzer": lambda k=2, **s: FactorAnalyzerMixture(k, 1, **s),
    "ppca, one noise": lambda k=2, **s: PPCAMixture(k, (1, 2, 1)[:k], noise="shared", shrinkage=0.05, **s),
    "ppca, ranks to find": lambda k=2, **s: PPCAMixture(k, "auto", **s),
    "factor analyzer, one noise": lambda k=2, **s: FactorAnalyzerMixture(
        k, (2, 1, 1)[:k], noise="shared", shrinkage=0.05, **s
    ),
    "hard": lambda k=2, **s: GaussianMixture(k, temperature=0.0, **s),
    "bernoulli": lambda k=2, **s: Mixture("bernoulli", k, **s),
    "poisson": lambda k=2, **s: Mixture("poisson", k, **s),
    "categorical": lambda k=2, **s: Mixture("categorical", k, **s),
}
RESPONSES = ("score_samples", "predict", "predict_proba", "encode", "transform", "reconstruct", "impute")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def clouds(n=400, seed=0):
    """Return rows of two tilted clouds in four dimensions, with units and offsets of their own, and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=n)
    factors = np.array([[[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0.5, 0.8, 0], [0.3, 0, 0.3, 0.9]], np.eye(4)])
    means = np.array([[0.0, 0, 0, 0], [4, -4, 3, 4]])
    x = means[label] + np.einsum("nij,nj->ni", factors[label], rng.standard_normal((n, 4)))
    return x * [1, 10, 0.1, 2] + [100, 0, 5, -7], label


def with_holes(x, share=0.3, seed=1):
    """Return the rows with entries gone at random, at least one left in each."""
    rng = np.random.default_rng(seed)
    gone = rng.random(x.shape) < share
    gone[np.arange(len(x)), rng.integers(x.shape[1], size=len(x))] = False
    return np.where(gone, np.nan, x)


def rows_for(name, n=300, seed=0):
    x, label = clouds(n, seed)
    rng = np.random.default_rng(seed)
    if name == "bernoulli":
        x = (rng.random((n, 8)) < np.where(label[:, None], 0.8, 0.15)).astype(float)
    elif name == "poisson":
        x = rng.poisson(np.where(label[:, None], [[2.0, 9, 4, 1]], [[7.0, 3, 4, 6]])).astype(float)
    elif name == "categorical":
        x = (
            (rng.integers(3, size=(n, 6)) + label[:, None] * rng.integers(2, size=(n, 6)))
            .clip(0, 2)
            .astype(float)
        )
    return x


@pytest.mark.parametrize("name", MAKERS)
def test_the_bound_never_falls_and_is_the_likelihood_of_what_was_seen(name):
    x = with_holes(rows_for(name), 0.4)
    model = MAKERS[name](random_state=0, tol=1e-5, max_iter=2000).fit(x)
    assert model.converged_, model.stop_reason_
    bounds = np.array(model.history_["bound"])
    assert np.diff(bounds).min() >= -1e-10 * (1 + np.abs(bounds).max())
    assert not model.history_["events"]
    if name != "hard" and not model.get_params().get("shrinkage"):  # a prior is part of the bound
        # The bound belongs to the parameters before the last step, which moved it by less than tol.
        assert 0 <= model.score(x) - model.lower_bound_ < 1e-5


@pytest.mark.parametrize("name", MAKERS)
def test_answers_are_finite_and_complete_rows_keep_theirs(name):
    """A row's answers do not depend on whether other rows miss entries."""
    whole = rows_for(name, 60)
    holed = with_holes(whole)
    holed[::2] = whole[::2]
    model = MAKERS[name](random_state=0, max_iter=500).fit(holed)
    mixed = {method: np.asarray(getattr(model, method)(holed)) for method in RESPONSES}
    alone = {method: np.asarray(getattr(model, method)(whole[::2])) for method in RESPONSES}
    for method, answer in mixed.items():
        assert np.isfinite(answer).all(), method
        np.testing.assert_allclose(answer[::2], alone[method], rtol=1e-7, atol=1e-9, err_msg=method)
    for method in ("bic", "aic", "icl", "score", "rate", "distortion"):
        assert np.isfinite(getattr(model, method)(holed)), method
    np.testing.assert_array_equal(np.isnan(holed) | (mixed["impute"] == holed), True)
    np.testing.assert_allclose(mixed["predict_proba"].sum(1), 1)


@pytest.mark.parametrize("name", MAKERS)
def test_complete_rows_take_the_path_they_always_took(name, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("complete rows took the way of incomplete ones")

    monkeypatch.setattr(IncompleteProblem, "of", never)
    monkeypatch.setattr("mixcoder.autoencoder.observed_parts", never)
    monkeypatch.setattr("mixcoder.estimators._linear_codes.observed_parts", never)
    x = rows_for(name, 100)
    model = MAKERS[name](random_state=0, tol=0.1).fit(x)
    for method in (*RESPONSES, "sample_missing", "bic", "distortion"):
        assert np.isfinite(getattr(model, method)(x)).all()
    np.testing.assert_array_equal(model.impute(x), x)


@pytest.mark.parametrize("name", MAKERS)
def test_both_paths_agree_on_complete_rows(name):
    x = rows_for(name, 300)
    model = MAKERS[name](random_state=0, tol=0.1).fit(x).model_
    source = TensorSource(torch.from_numpy(x), torch.rand(300, generator=torch.Generator().manual_seed(0)))
    problem, _ = prepare(source, model.family, scan_range(source), frame=model.frame)
    incomplete = IncompleteProblem.of(problem, filler=torch.from_numpy(x.mean(0)))
    one, other = (p.totals(model.params, model.log_weights, model.encoder) for p in (problem, incomplete))
    assert float(other.bound) == pytest.approx(float(one.bound), rel=1e-9)
    assert float(other.weight) == pytest.approx(float(one.weight), rel=1e-12)
    steps = [
        p.maximize(totals.statistics, model.log_weights)
        for p, totals in ((problem, one), (incomplete, other))
    ]
    torch.testing.assert_close(steps[1][1], steps[0][1], rtol=1e-8, atol=1e-9)
    for field in dataclasses.fields(model.params):
        if field.name != "loadings":  # a rotation changes nothing
            values = (getattr(params, field.name) for params, _ in steps)
            torch.testing.assert_close(*values, rtol=1e-6, atol=1e-8)


def brute_force_step(x, weights, means, covariances):
    """Return one EM step for full covariances, row by row with dense algebra, and the likelihood before it."""
    n, d = x.shape
    k = len(weights)
    joint = np.log(weights) * np.ones((n, 1))
    filled, spread = np.zeros((n, k, d)), np.zeros((n, k, d, d))
    for i in range(n):
        a, b = np.flatnonzero(~np.isnan(x[i])), np.flatnonzero(np.isnan(x[i]))
        for j in range(k):
            joint[i, j] += multivariate_normal(means[j][a], covariances[j][np.ix_(a, a)]).logpdf(x[i, a])
            gain = covariances[j][np.ix_(b, a)] @ np.linalg.inv(covariances[j][np.ix_(a, a)])
            filled[i, j, a], filled[i, j, b] = x[i, a], means[j][b] + gain @ (x[i, a] - means[j][a])
            spread[i, j][np.ix_(b, b)] = covariances[j][np.ix_(b, b)] - gain @ covariances[j][np.ix_(a, b)]
    r = softmax(joint, 1)
    counts = r.sum(0)
    means = np.einsum("nk,nkd->kd", r, filled) / counts[:, None]
    away = filled - means
    covariances = np.einsum("nk,nkd,nke->kde", r, away, away) + np.einsum("nk,nkde->kde", r, spread)
    return logsumexp(joint, 1).mean(), counts / n, means, covariances / counts[:, None, None]


def test_steps_are_those_of_brute_force():
    x = with_holes(clouds(60)[0], 0.4)
    start = {
        "weights": np.array([0.4, 0.6]),
        "means": np.array([[100.0, 0, 5, -7], [103, -30, 5.2, 0]]),
        "covariances": np.stack([np.diag([4.0, 300, 0.04, 9])] * 2),
    }
    precisions = np.linalg.inv(start["covariances"])
    bounds, state = [], tuple(start.values())
    for _ in range(8):
        bound, *state = brute_force_step(x, *state)
        bounds.append(bound)
    model = GaussianMixture(
        2,
        weights_init=start["weights"],
        means_init=start["means"],
        precisions_init=precisions,
        max_iter=8,
        tol=0,
    )
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        model.fit(x)
    np.testing.assert_allclose(model.history_["bound"], bounds, rtol=1e-9)
    np.testing.assert_allclose(model.weights_, state[0], rtol=1e-8)
    np.testing.assert_allclose(model.means_, state[1], rtol=1e-8)
    np.testing.assert_allclose(model.covariances_, state[2], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_parameters_are_recovered_where_entries_are_missing_at_random(share):
    x, label = clouds(6000)
    model = GaussianMixture(2, random_state=0).fit(with_holes(x, share))
    order = np.argsort(model.means_[:, 0])
    for k in (0, 1):
        own = x[label == k]
        stds = own.std(0)
        found = model.covariances_[order[k]] / np.outer(stds, stds)
        assert np.abs((model.means_[order[k]] - own.mean(0)) / stds).max() < 0.1
        assert np.abs(found - np.cov(own.T) / np.outer(stds, stds)).max() < 0.12
    assert (order.argsort()[model.predict(x)] == label).mean() > 0.98


def test_one_gaussian_is_the_maximum_likelihood_of_a_monotone_pattern():
    """Where the second column is seen only together with the first, the maximum has a closed form (Anderson 1957)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 1)) * 2 + 1
    x = np.hstack([x, 3 - 0.7 * x + 0.5 * rng.standard_normal((200, 1))])
    x[80:, 1] = np.nan
    model = GaussianMixture(1, tol=1e-13, max_iter=2000).fit(x)
    both = x[:80]
    slope = np.cov(both.T, bias=True)[0, 1] / both[:, 0].var()
    left = both[:, 1].var() - slope**2 * both[:, 0].var()
    mean = both[:, 1].mean() + slope * (x[:, 0].mean() - both[:, 0].mean())
    np.testing.assert_allclose(model.means_[0], [x[:, 0].mean(), mean], rtol=1e-6)
    cross = slope * x[:, 0].var()
    expected = [[x[:, 0].var(), cross], [cross, left + slope**2 * x[:, 0].var()]]
    np.testing.assert_allclose(model.covariances_[0], expected, rtol=1e-5)


def test_rows_without_any_value_weigh_nothing_and_have_the_weights_as_posterior():
    x = with_holes(clouds(200)[0])
    more = np.vstack([x, np.full((50, 4), np.nan)])
    label = (np.nan_to_num(x[:, 0], nan=100) > 102).astype(int)
    fitted = GaussianMixture(2, init_params=label, tol=1e-8, max_iter=500).fit(x)
    with pytest.warns(EmptyRowWarning, match="50 of 250"):
        model = GaussianMixture(
            2, init_params=np.append(label, np.zeros(50, int)), tol=1e-8, max_iter=500
        ).fit(more)
    np.testing.assert_allclose(model.weights_, fitted.weights_, atol=1e-5)
    np.testing.assert_allclose(model.means_, fitted.means_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.predict_proba(more[-1:]), [model.weights_])
    assert model.score_samples(more[-1:]).tolist() == [0.0]
    np.testing.assert_allclose(model.impute(more[-1:])[0], model.weights_ @ model.means_)


def test_weights_of_rows_are_repetitions():
    x = with_holes(clouds(80)[0])
    weights = np.random.default_rng(0).integers(1, 4, size=80)
    label = np.random.default_rng(1).integers(2, size=80)
    settings = {"tol": 0.0, "max_iter": 5, "acceleration": "none"}
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        weighted = GaussianMixture(2, init_params=label, **settings).fit(x, sample_weight=weights)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        repeated = GaussianMixture(2, init_params=label.repeat(weights), **settings).fit(x.repeat(weights, 0))
    # The one component that completes the first rows is learned from them in either form.
    np.testing.assert_allclose(weighted.history_["bound"], repeated.history_["bound"], rtol=1e-6)


def test_units_and_offsets_of_columns_change_nothing():
    x = with_holes(clouds(200)[0])
    scale, shift = np.array([1e3, 1e-4, 7.0, 1.0]), np.array([0, 50, -1e3, 1e4])
    one = GaussianMixture(2, random_state=0).fit(x)
    other = GaussianMixture(2, random_state=0).fit(x * scale + shift)
    np.testing.assert_allclose(other.means_, one.means_ * scale + shift, rtol=1e-5)
    seen = ~np.isnan(x)
    np.testing.assert_allclose(
        other.score_samples(x * scale + shift), one.score_samples(x) - seen @ np.log(scale), atol=1e-3
    )


def test_float32_stays_and_agrees():
    x = with_holes(clouds(200)[0])
    narrow = GaussianMixture(2, random_state=0).fit(x.astype(np.float32))
    wide = GaussianMixture(2, random_state=0).fit(x)
    assert narrow.means_.dtype == narrow.score_samples(x.astype(np.float32)).dtype == np.float32
    assert narrow.impute(torch.as_tensor(x, dtype=torch.float32)).dtype == torch.float32
    np.testing.assert_allclose(narrow.means_, wide.means_, rtol=1e-3)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "ppca", "factor analyzer", "poisson"])
def test_batches_with_and_without_holes_make_one_stream(name):
    x = rows_for(name, 600)
    holed = with_holes(x)
    model = MAKERS[name](random_state=0)
    for start in range(0, 600, 100):
        model.partial_fit((holed if start % 200 == 0 else x)[start : start + 100])
    assert np.isfinite(model.score(x))
    assert model.score(x) > MAKERS[name](1, random_state=0).fit(x).score(x)
    with pytest.raises(DataError, match="No row of this batch"):
        model.partial_fit(np.full((3, x.shape[1]), np.nan))


def test_rows_in_files_may_miss_entries(tmp_path):
    x = with_holes(clouds(300)[0])
    source = FileSource.holding(torch.from_numpy(x))
    one = GaussianMixture(2, random_state=0).fit(x)
    other = GaussianMixture(2, random_state=0).fit(source)
    np.testing.assert_array_equal(other.means_, one.means_)
    np.testing.assert_array_equal(other.score_samples(source), one.score_samples(x))


def test_lost_components_are_given_incomplete_rows():
    x = with_holes(clouds(300)[0])
    far = np.array([[100.0, 0, 5, -7], [1e6, 1e7, 1e5, 1e6]])
    model = GaussianMixture(2, means_init=far, random_state=0)
    precisions = np.stack([np.diag([0.25, 0.003, 25, 0.1])] * 2)
    model.set_params(precisions_init=precisions, weights_init=[0.5, 0.5], max_iter=300)
    with pytest.warns(mixcoder.errors.DegenerateComponentWarning, match="lost their rows"):
        model.fit(x)
    assert model.history_["events"]
    assert np.isfinite(model.score(x))
    assert (model.weights_ > 0.05).all()


def test_a_saved_model_imputes_the_same(tmp_path):
    x = with_holes(clouds(100)[0])
    for name in ("full", "ppca", "factor analyzer"):
        model = MAKERS[name](random_state=0, max_iter=300).fit(x)
        model.save(tmp_path / "m.mixcoder")
        np.testing.assert_array_equal(mixcoder.load(tmp_path / "m.mixcoder").impute(x), model.impute(x))


def test_draws_belong_to_their_seed_and_spread_around_the_mean():
    x, _ = clouds(300)
    model = GaussianMixture(2, random_state=0).fit(x)
    row = np.where([[False, True, False, True]], np.nan, x[:1])
    many = np.repeat(row, 20_000, 0)
    drawn = model.sample_missing(many, random_state=3)
    np.testing.assert_array_equal(drawn, model.sample_missing(many, random_state=3))
    assert (drawn[:, [0, 2]] == x[0, [0, 2]]).all()
    given = model.condition([0, 2], x[0, [0, 2]])
    mean = given.weights_ @ given.means_
    np.testing.assert_allclose(drawn[:, [1, 3]].mean(0), mean, atol=0.05 * np.abs(mean).max())
    np.testing.assert_allclose(model.impute(row)[0, [1, 3]], mean, rtol=1e-8)
    away = given.means_ - mean
    cov = np.einsum("k,kij->ij", given.weights_, given.covariances_ + away[:, :, None] * away[:, None, :])
    np.testing.assert_allclose(np.cov(drawn[:, [1, 3]].T), cov, rtol=0.05, atol=0.05 * cov.max())


def test_categories_are_imputed_by_categories():
    x = rows_for("categorical")
    model = MAKERS["categorical"](random_state=0).fit(with_holes(x))
    for filled in (model.impute(with_holes(x)), model.sample_missing(with_holes(x), random_state=0)):
        assert set(np.unique(filled)) <= {0.0, 1.0, 2.0}


def test_conditioning_one_gaussian_is_linear_regression():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 3))
    y = x @ [1.0, -2.0, 0.5] + 3 + 0.3 * rng.standard_normal(300)
    model = GaussianMixture(1).fit(np.column_stack([x, y]))
    ask = np.column_stack([x[:20], np.full(20, np.nan)])
    expected = LinearRegression().fit(x, y)
    np.testing.assert_allclose(model.impute(ask)[:, 3], expected.predict(x[:20]), rtol=1e-8)
    for row, value in zip(x[:5], expected.predict(x[:5]), strict=True):
        given = model.condition([0, 1, 2], row)
        assert given.means_[0, 0] == pytest.approx(value, rel=1e-8)
        # The variance that is left is the mean square of the residuals.
        assert given.covariances_[0, 0, 0] == pytest.approx(np.mean((y - expected.predict(x)) ** 2), rel=1e-8)


def test_what_cannot_be_learned_is_named():
    x = with_holes(clouds(50)[0])
    x[:, 2] = np.nan
    model = GaussianMixture(2)
    with pytest.raises(DataError, match=r"No row has a value in column 2: nothing"):
        model.fit(x)
    assert not hasattr(model, "model_")
    with pytest.raises(DataError, match=r"No row has a value in column 1 \('b'\)"):
        model.fit(pd.DataFrame({"a": [1.0, 2, 3], "b": [np.nan] * 3}))
    x[:, 2] = 1.0
    x[7, 1] = np.inf
    with pytest.raises(DataError, match=r"infinity.*1 of 200 .*row 7, column 1.*A missing entry is NaN"):
        model.fit(x)
    counts = np.array([[1, np.nan], [2, 0.5], [np.nan, 3]])
    with pytest.raises(DataError, match=r"Row 1, column 1 holds 0\.5"):
        Mixture("poisson", 1).fit(counts)


def test_tags_tell_which_estimators_take_missing_entries():
    taken = [*(make() for make in MAKERS.values()), Mixture(GaussianFull())]
    assert all(model.__sklearn_tags__().input_tags.allow_nan for model in taken)
    refused = [KMeans(), Mixture("student_t"), Mixture("no such family")]
    assert not any(model.__sklearn_tags__().input_tags.allow_nan for model in refused)


# Tables


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("ask", ["impute", "sample_missing"])
def test_whole_rows_come_as_data_frames_where_that_is_asked_for(library, ask):
    """As from scikit-learn's imputers: by set_output, with the columns and the index that went in."""
    frames = __import__(library)
    x = with_holes(clouds(60)[0])
    names = list("dbca")
    table = frames.DataFrame(dict(zip(names, x.T, strict=True)))
    if library == "pandas":
        table.index = table.index[::-1]
    settings = {} if ask == "impute" else {"random_state": 3}
    model = GaussianMixture(2, random_state=0).fit(table)
    plain = getattr(model, ask)(table, **settings)
    assert isinstance(plain, np.ndarray)
    frame = getattr(model.set_output(transform=library), ask)(table, **settings)
    assert isinstance(frame, frames.DataFrame)
    assert list(frame.columns) == names
    np.testing.assert_array_equal(frame.to_numpy(), plain)
    if library == "pandas":
        assert frame.index.equals(table.index)
    np.testing.assert_array_equal(
        getattr(model.set_output(transform="default"), ask)(table, **settings), plain
    )


def test_columns_without_names_are_numbered_as_by_imputers_of_scikit_learn():
    x = with_holes(clouds(60)[0])
    frame = GaussianMixture(2, random_state=0).set_output(transform="pandas").fit(x).impute(x)
    from sklearn.impute import SimpleImputer

    assert list(frame.columns) == list(
        SimpleImputer().set_output(transform="pandas").fit_transform(x).columns
    )
