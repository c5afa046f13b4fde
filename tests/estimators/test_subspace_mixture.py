"""K-subspaces: the squared error falls, planes are found, codes go both ways, files and weights mean what they say."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import mixcoder
from mixcoder.components import Subspace
from mixcoder.errors import DataError


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planes(n=600, k=3, d=6, q=2, noise=0.05, seed=0):
    """Return rows near k planes, and which plane each is on."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    bases = np.stack([np.linalg.qr(rng.normal(size=(d, q)))[0] for _ in range(k)])
    means = rng.normal(size=(k, d))
    x = means[labels] + np.einsum("ndq,nq->nd", bases[labels], rng.normal(size=(n, q)))
    return x + noise * rng.normal(size=x.shape), labels


def floor_of(x, labels, q):
    """Return the mean squared error of principal component analysis of each true group."""
    left = 0.0
    for k in np.unique(labels):
        rows = x[labels == k] - x[labels == k].mean(0)
        left += (np.linalg.svd(rows, compute_uv=False)[q:] ** 2).sum()
    return left / len(x)


def distances(model, x):
    """Return the squared distance of every row from every plane, by hand."""
    out = []
    for mean, basis in zip(model.means_, model.bases_, strict=True):
        centred = x - mean
        out.append(((centred - centred @ basis @ basis.T) ** 2).sum(1))
    return np.array(out).T


@pytest.mark.parametrize("q", [1, 5, 20])
def test_one_component_is_principal_component_analysis(q):
    x = load_digits().data
    x = x[:, x.std(0) > 0]
    model = mixcoder.SubspaceMixture(1, q, tol=0.0, random_state=0).fit(x)
    pca = PCA(q).fit(x)
    expected = pca.inverse_transform(pca.transform(x))
    np.testing.assert_allclose(model.reconstruct(x), expected, atol=1e-8)
    np.testing.assert_allclose(model.inertia_, ((x - expected) ** 2).sum(), rtol=1e-10)


@pytest.mark.parametrize("d", [6, 200])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_squared_error_falls_to_the_floor_and_is_what_it_says(d, dtype):
    x, labels = planes(d=d, noise=0.05 / np.sqrt(d))
    x = (40 * x + 7).astype(dtype)
    model = mixcoder.SubspaceMixture(3, 2, tol=0.0, max_iter=300, random_state=0).fit(x)
    found = np.array(model.history_["distortion"])
    assert (np.diff(found) <= 1e-5 * found[:-1] if dtype == np.float32 else np.diff(found) <= 1e-9).all()
    by_hand = distances(model, x.astype(np.float64))
    np.testing.assert_array_equal(model.predict(x), by_hand.argmin(1))
    rel = 1e-9 if dtype == np.float64 else 1e-4
    assert model.distortion(x) == pytest.approx(by_hand.min(1).mean(), rel=rel)
    assert model.inertia_ == pytest.approx(by_hand.min(1).sum(), rel=rel)
    assert model.score(x) == -model.distortion(x)
    # The last M-step comes after the last squared error that was counted.
    assert model.distortion(x) <= found[-1] * (1 + rel)
    assert model.distortion(x) <= 1.02 * floor_of(x.astype(np.float64), labels, 2)
    assert model.means_.dtype == model.bases_.dtype == dtype


@pytest.mark.parametrize("d", [5, 170])
def test_codes_go_both_ways_in_the_units_of_the_rows(d):
    x, _ = planes(n=240, d=d, seed=1)
    x = 1e3 * x
    model = mixcoder.SubspaceMixture(3, 2, random_state=0).fit(x)
    component, z = model.encode_latent(x)
    for k in range(3):
        own = component == k
        np.testing.assert_allclose(z[own], (x[own] - model.means_[k]) @ model.bases_[k], atol=1e-7)
        np.testing.assert_allclose(model.bases_[k].T @ model.bases_[k], np.eye(2), atol=1e-12)
    near = model.decode_latent(component, z)
    np.testing.assert_allclose(near, model.reconstruct(x), atol=1e-7)
    code = model.transform(x)
    assert code.shape == (240, 3)
    np.testing.assert_array_equal(code[:, 0], component)
    np.testing.assert_allclose(model.inverse_transform(code), near, atol=1e-9)
    assert len(model.get_feature_names_out()) == 3
    np.testing.assert_array_equal(model.encode(x), component)
    with pytest.raises(DataError, match=r"expected \(n_samples, 3\)"):
        model.inverse_transform(code[:, :2])


def test_weights_are_repetitions_and_their_scale_counts_in_the_inertia_alone():
    x, _ = planes(n=90, seed=2)
    weights = 1 + np.arange(90) % 3
    one = mixcoder.SubspaceMixture(3, 2, tol=0.0, random_state=0).fit(x, sample_weight=weights)
    two = mixcoder.SubspaceMixture(3, 2, tol=0.0, random_state=0).fit(np.repeat(x, weights, 0))
    scaled = mixcoder.SubspaceMixture(3, 2, tol=0.0, random_state=0).fit(x, sample_weight=0.25 * weights)
    np.testing.assert_allclose(one.reconstruct(x), two.reconstruct(x), atol=1e-9)
    np.testing.assert_allclose(one.weights_, two.weights_)
    assert one.inertia_ == pytest.approx(two.inertia_, rel=1e-9)
    assert scaled.inertia_ == pytest.approx(0.25 * one.inertia_, rel=1e-9)
    assert one.score(x, sample_weight=weights) == pytest.approx(-one.inertia_ / weights.sum(), rel=1e-9)


def test_order_units_and_rotations_of_the_rows_change_nothing():
    x, _ = planes(n=300, seed=3)
    rng = np.random.default_rng(0)
    turn, order = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.permutation(300)
    fit = lambda rows: mixcoder.SubspaceMixture(3, 2, tol=0.0, random_state=0).fit(rows)  # noqa: E731
    base = fit(x)
    for rows, unit in ((x[order], 1.0), (1e6 * x, 1e6), (x - 1e3, 1.0), (x @ turn, 1.0)):
        assert fit(rows).inertia_ == pytest.approx(unit**2 * base.inertia_, rel=1e-6)


def test_a_component_that_lost_its_rows_is_given_the_worst_ones():
    x, labels = planes(n=300, seed=4)
    x = np.vstack([x, x[labels == 0]])
    # The third begins as a copy of the first, which wins every tie.
    start = np.append(np.where(labels == 2, 1, labels), np.full((labels == 0).sum(), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mixcoder.SubspaceMixture(3, 2, init=start, max_iter=200).fit(x)
    assert any("took over the worst-explained" in event for event in model.history_["events"])
    assert model.weights_.min() > 0.1


def test_init_by_labels_and_by_function():
    x, labels = planes(n=150, seed=5)
    one = mixcoder.SubspaceMixture(3, 2, init=labels).fit(x)
    two = mixcoder.SubspaceMixture(3, 2, init=lambda rows, k, random_state: labels, n_init=2).fit(x)
    assert one.inertia_ == two.inertia_
    np.testing.assert_array_equal(one.predict(x), labels)


def test_more_fits_are_no_worse():
    x, _ = planes(n=400, k=6, d=4, q=1, seed=6)
    inertia = [mixcoder.SubspaceMixture(6, 1, n_init=n, random_state=3).fit(x).inertia_ for n in (1, 4)]
    assert inertia[1] <= inertia[0] * (1 + 1e-6)


def test_files_and_saved_models_give_the_same(tmp_path):
    x, _ = planes(n=9000, d=8, seed=7)
    np.save(tmp_path / "x.npy", x)
    rows = mixcoder.open_blocks(tmp_path / "x.npy")
    here, there = (mixcoder.SubspaceMixture(3, 2, random_state=0).fit(data) for data in (x, rows))
    assert here.inertia_ == there.inertia_
    assert here.distortion(rows) == here.distortion(x)
    here.save(tmp_path / "m.mixcoder")
    same = mixcoder.load(tmp_path / "m.mixcoder")
    for ask in ("predict", "reconstruct", "transform", "score", "rate"):
        assert np.array_equal(getattr(here, ask)(x), getattr(same, ask)(x)), ask
    assert same.get_params() == here.get_params()
    np.testing.assert_array_equal(same.weights_, here.weights_)


def test_a_flat_prior_is_no_density_and_says_so():
    family, params = Subspace.examples()[0]
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="no samples"):
        Subspace(family.n_latent).sample(params, torch.tensor([0]), generator)
    for wrong in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="variance must be"):
            Subspace(1, variance=wrong)
    with pytest.raises(ValueError, match="larger than variance"):
        Subspace(1, variance=2.0, latent_variance=1.0)


def test_orthogonal_iteration_never_raises_the_squared_error(monkeypatch):
    monkeypatch.setattr(Subspace, "max_packed", 0)
    x = torch.from_numpy(planes(n=200, d=12, q=3, k=1, noise=0.6, seed=8)[0])
    code = torch.ones(200, 1, dtype=torch.float64)
    family = Subspace(3)
    params = family.maximize(family.statistics(None, x, code))
    left = []
    for _ in range(300):
        left.append(float(-2 * family.log_likelihood(params, x).sum()))
        params = family.maximize(family.statistics(params, x, code))
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(left))
    best = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)[3:]
    assert left[-1] == pytest.approx(float((best**2).sum()), rel=1e-9)


def test_planes_without_noise_leave_nothing():
    x, _ = planes(n=120, noise=0.0, seed=9)
    model = mixcoder.SubspaceMixture(3, 2, random_state=0).fit(x)
    assert model.distortion(x) < 1e-20
    np.testing.assert_allclose(model.reconstruct(x), x, atol=1e-10)


@pytest.mark.parametrize("d", [6, 200])
def test_a_first_batch_is_one_iteration_of_a_fit(d):
    x, _ = planes(n=400, d=d, noise=0.1, seed=4)
    one = mixcoder.SubspaceMixture(3, 2, random_state=0).partial_fit(x)
    with pytest.warns(match="did not converge"):
        fit = mixcoder.SubspaceMixture(3, 2, random_state=0, tol=0.0, max_iter=1).fit(x)
    np.testing.assert_allclose(one.bases_, fit.bases_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.means_, fit.means_, rtol=1e-9, atol=1e-12)
    assert one.n_iter_ == fit.n_iter_ == 1
    assert not one.converged_


@pytest.mark.parametrize(("d", "n_latent"), [(6, 2), (6, [2, 2, 2]), (6, "auto"), (200, 2)])
def test_batches_reach_the_floor(d, n_latent):
    x, _ = planes(n=6000, d=d, noise=0.1, seed=5)
    model = mixcoder.SubspaceMixture(3, n_latent, random_state=0)
    for batch in np.split(x, 20):
        model.partial_fit(batch)
    whole = mixcoder.SubspaceMixture(3, 2, random_state=0).fit(x)
    assert model.n_latent_.tolist() == [2, 2, 2]
    assert model.distortion(x) < 1.02 * whole.distortion(x)
    assert len(model.history_["distortion"]) == model.n_iter_ == 20
    np.testing.assert_allclose(np.sort(model.weights_), np.sort(whole.weights_), atol=0.05)
    np.testing.assert_allclose(model.bases_.mT @ model.bases_, np.eye(2)[None].repeat(3, 0), atol=1e-10)


@pytest.mark.parametrize("d", [6, 200])
def test_a_converged_fit_stays_where_it_is_on_its_own_rows(d, tmp_path):
    x, _ = planes(n=400, d=d, noise=0.1, seed=6)
    model = mixcoder.SubspaceMixture(3, 2, tol=0.0, max_iter=1000, random_state=0).fit(x)
    before, means = model.distortion(x), model.means_
    model.save(tmp_path / "m.mixcoder")
    same = mixcoder.load(tmp_path / "m.mixcoder")
    for _ in range(3):
        model.partial_fit(x)
        same.partial_fit(x)
    assert model.distortion(x) == pytest.approx(before, rel=1e-9)
    np.testing.assert_allclose(model.means_, means, atol=1e-9)
    np.testing.assert_array_equal(model.bases_, same.bases_)


def test_a_plane_that_a_batch_does_not_show_stays():
    x, labels = planes(n=400, noise=0.1, seed=7)
    model = mixcoder.SubspaceMixture(3, 2, random_state=0).fit(x)
    labels = model.predict(x)
    before = model.bases_[2], model.means_[2]
    model.partial_fit(x[labels != 2])
    np.testing.assert_allclose(model.bases_[2] @ model.bases_[2].T, before[0] @ before[0].T, atol=1e-9)
    np.testing.assert_allclose(model.means_[2], before[1], atol=1e-9)
    assert 0 < model.weights_[2] < 1 / 3
    assert model.inertia_ == pytest.approx(len(x[labels != 2]) * model.distortion(x[labels != 2]))


def test_a_batch_that_fails_changes_nothing():
    x, _ = planes(n=200, seed=8)
    model = mixcoder.SubspaceMixture(3, 2, random_state=0).partial_fit(x)
    state = model.bases_
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(x[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.where(x > 1, np.nan, x))
    np.testing.assert_array_equal(model.bases_, state)
    with pytest.raises(ValueError, match="n_samples >= n_components"):
        mixcoder.SubspaceMixture(3, 2).partial_fit(x[:2])
    for name in ("sample", "score_samples", "predict_proba"):
        assert not hasattr(model, name)
