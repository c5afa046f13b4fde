"""Mixtures of linear models as estimators: codes (component, z) and what comes back from them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis

import mixcoder
from mixcoder.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return load_digits().data


def wide(n=600, d=200, q=3, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(2, d))
    loadings = rng.normal(size=(2, d, q))
    labels = rng.integers(2, size=n)
    z = rng.normal(size=(n, q))
    return means[labels] + np.einsum("ndq,nq->nd", loadings[labels], z) + 0.1 * rng.normal(size=(n, d))


def fitted(cls, x, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(*arguments, random_state=0, **options).fit(x)


@pytest.mark.parametrize("q", [2, 10])
def test_one_component_is_principal_component_analysis(digits, q):
    x = digits[:, digits.std(0) > 0]
    model = fitted(mixcoder.PPCAMixture, x, 1, q, tol=1e-9, max_iter=500)
    pca = PCA(q).fit(x)
    n = len(x)
    assert model.noise_variances_[0] == pytest.approx(pca.noise_variance_ * (n - 1) / n, rel=1e-6)
    expected = pca.inverse_transform(pca.transform(x))
    assert np.allclose(model.reconstruct(x), expected, atol=1e-6)
    assert model.distortion(x) == pytest.approx(((x - expected) ** 2).sum(1).mean(), rel=1e-9)


def test_one_component_is_factor_analysis():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 12)) + rng.normal(size=(400, 12)) * rng.uniform(
        0.3, 1.0, 12
    )
    model = fitted(mixcoder.FactorAnalyzerMixture, x, 1, 2, tol=1e-10, max_iter=3000)
    peer = FactorAnalysis(2, tol=1e-7, max_iter=20_000, svd_method="lapack").fit(x)
    assert model.score(x) == pytest.approx(peer.score(x), abs=1e-4)
    assert np.allclose(model.noise_variances_[0], peer.noise_variance_, rtol=3e-2)
    _, z = model.encode_latent(x)
    theirs = peer.transform(x)
    # Factors are known up to a rotation: distances between rows are not.
    assert np.allclose(
        np.linalg.norm(z[:50, None] - z[None, :50], axis=2),
        np.linalg.norm(theirs[:50, None] - theirs[None, :50], axis=2),
        atol=1e-2,
    )


@pytest.mark.parametrize("cls", [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture])
@pytest.mark.parametrize("d", [12, 200])
def test_codes_go_both_ways(cls, d):
    x = wide(d=d)
    model = fitted(cls, x, 2, 3, max_iter=50)
    component, z = model.encode_latent(x)
    assert np.array_equal(component, model.predict(x))
    rows = model.decode_latent(component, z)
    assert rows.shape == x.shape
    near = model.reconstruct(x)
    assert np.allclose(near, model.reconstruct(near), atol=1e-8)  # a projection
    assert ((x - near) ** 2).sum() <= ((x - rows) ** 2).sum() * (
        1 + 1e-6
    ) or cls is mixcoder.FactorAnalyzerMixture
    assert model.distortion(x) == pytest.approx(((x - near) ** 2).sum(1).mean(), rel=1e-9)
    again = model.decode_latent(component, torch.as_tensor(z))
    assert isinstance(again, torch.Tensor)


@pytest.mark.parametrize("cls", [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture])
@pytest.mark.parametrize("d", [12, 200])
def test_a_saved_model_answers_with_the_same_bits_and_goes_on(cls, d, tmp_path):
    x = wide(d=d)
    model = fitted(cls, x, 2, 3, max_iter=20)
    model.save(tmp_path / "m.mixcoder")
    same = mixcoder.load(tmp_path / "m.mixcoder")
    for ask in ("score_samples", "predict", "reconstruct"):
        assert np.array_equal(getattr(model, ask)(x), getattr(same, ask)(x)), ask
    assert same.get_params() == model.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(model.partial_fit(x).means_, same.partial_fit(x).means_)


def test_rows_in_files_give_the_same_codes(tmp_path):
    x = wide(n=9000, d=20)
    np.save(tmp_path / "x.npy", x)
    rows = mixcoder.open_blocks(tmp_path / "x.npy")
    here, there = (fitted(mixcoder.PPCAMixture, data, 2, 3, max_iter=10) for data in (x, rows))
    assert np.array_equal(here.loadings_, there.loadings_)
    assert np.array_equal(here.encode_latent(x)[1], there.encode_latent(rows)[1])
    assert here.distortion(x) == there.distortion(rows)


def test_the_nearest_plane_leaves_least(digits):
    model = fitted(mixcoder.PPCAMixture, digits, 8, 3)
    rows = {rule: model.reconstruct(digits, rule=rule) for rule in ("posterior", "nearest")}
    errors = {rule: ((digits - found) ** 2).sum(1) for rule, found in rows.items()}
    assert (errors["nearest"] <= errors["posterior"] + 1e-9).all()
    by_hand = []
    for mean, loadings in zip(model.means_, model.loadings_, strict=True):
        axes = np.linalg.qr(loadings)[0]
        centred = digits - mean
        by_hand.append(((centred - centred @ axes @ axes.T) ** 2).sum(1))
    assert np.allclose(errors["nearest"], np.min(by_hand, axis=0), atol=1e-6)
    for rule, found in errors.items():
        assert model.distortion(digits, rule=rule) == pytest.approx(found.mean(), rel=1e-9)
    with pytest.raises(ValueError, match="rule must be"):
        model.reconstruct(digits, rule="best")


def test_more_planes_leave_less(digits):
    errors = [
        fitted(mixcoder.PPCAMixture, digits, k, 4, min_variance=0.1).distortion(digits) for k in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("cls", [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture])
def test_bad_input_is_named(cls, digits):
    with pytest.raises(DataError, match="needs more features than latent axes"):
        cls(2, 64).fit(digits)
    with pytest.raises(ValueError, match="n_latent"):
        cls(2, 0).fit(digits)
    with pytest.raises(ValueError, match="min_variance"):
        cls(2, 1, min_variance=0.0).fit(digits)
    model = fitted(cls, digits[:200], 2, 2, max_iter=3)
    with pytest.raises(DataError, match=r"expected \(1, 2\)"):
        model.decode_latent([0], [[1.0]])
    with pytest.raises(DataError, match=r"0\.\.1"):
        model.decode_latent([2], [[1.0, 0.0]])
    with pytest.raises(DataError, match="component numbers"):
        model.decode_latent([[0.5, 0.5]], [[1.0, 0.0]])


def test_rows_that_span_fewer_dimensions_than_there_are_axes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 1)) @ rng.normal(size=(1, 6))
    x[:, 5] = 2.0
    model = fitted(mixcoder.PPCAMixture, x, 2, 3, max_iter=30)
    for value in (
        model.means_,
        model.loadings_,
        model.noise_variances_,
        model.score_samples(x),
        model.reconstruct(x),
    ):
        assert np.isfinite(value).all()


def test_a_floor_that_was_asked_for_is_no_collapse():
    """Warnings are errors here: of a noise floor that all components are meant to stand on nothing is told."""
    rows = load_digits().data
    rows = rows[:, rows.std(0) > 0]
    model = mixcoder.PPCAMixture(10, 8, min_variance=0.3, random_state=0, max_iter=300, tol=1e-2).fit(rows)
    floor = 0.3 * rows.var(0).mean()
    np.testing.assert_allclose(np.min(model.noise_variances_), floor, rtol=1e-6)


@pytest.mark.parametrize(
    "cls", [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture, mixcoder.SubspaceMixture]
)
@pytest.mark.parametrize("rule", ["posterior", "nearest"])
def test_the_code_of_a_reconstruction_decodes_to_it(cls, rule):
    x = wide(d=12)
    model = fitted(cls, x, 2, [3, 1], max_iter=30)
    component, z = model.encode_latent(x, rule=rule)
    ask = {} if cls is mixcoder.SubspaceMixture else {"rule": rule}
    np.testing.assert_allclose(model.decode_latent(component, z), model.reconstruct(x, **ask), atol=1e-9)
    errors = [
        ((x - model.decode_latent(np.full(len(x), k), model.encode_latent(x, rule="nearest")[1])) ** 2).sum(1)
        for k in range(2)
    ]
    if rule == "nearest":
        chosen = ((x - model.decode_latent(component, z)) ** 2).sum(1)
        assert (chosen <= np.min(errors, axis=0) + 1e-9).all()


def test_a_rule_that_nobody_knows_is_refused():
    model = fitted(mixcoder.PPCAMixture, wide(d=12), 2, 3, max_iter=5)
    with pytest.raises(ValueError, match="rule must be"):
        model.encode_latent(wide(d=12), rule="best")


@pytest.mark.parametrize("cls", [mixcoder.PPCAMixture, mixcoder.SubspaceMixture])
def test_as_many_axes_are_found_as_there_are(cls):
    """More than are looked for first."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 40)) @ rng.normal(size=(40, 60)) + 0.1 * rng.normal(size=(900, 60))
    assert cls(1, "auto", random_state=0).fit(x).n_latent_.tolist() == [40]


@pytest.mark.parametrize("cls", [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture])
def test_regression_of_one_column_on_all_others(cls):
    """Fewer columns than a plane has axes are left: the same densities, of full covariances."""
    x = wide(d=8)
    model = fitted(cls, x, 2, 3, max_iter=30)
    rest = np.arange(7)
    for row in x[:5]:
        given = model.condition(rest, row[:7])
        expected = (given.weights_ @ given.means_).item()
        assert expected == pytest.approx(model.impute(np.append(row[:7], np.nan)[None])[0, 7], rel=1e-9)
        # p(x_b | x_a) p(x_a) = p(x)
        joint = given.score_samples(row[None, 7:]) + model.marginal(rest).score_samples(row[None, :7])
        assert joint == pytest.approx(model.score_samples(row[None]), rel=1e-9)
    few = model.marginal([5, 2])
    assert isinstance(few, mixcoder.GaussianMixture)
    assert few.score_samples(x[:3][:, [5, 2]]).shape == (3,)
