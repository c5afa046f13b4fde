"""Low rank plus diagonal: densities against dense oracles, closed forms against scikit-learn, codes (k, z)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.decomposition import PCA
from torch import Tensor

import mixcoder
from mixcoder._typing import HardCode
from mixcoder.components import PPCA, FactorAnalyzer
from mixcoder.components.ppca import PPCAParams
from mixcoder.errors import DataError
from mixcoder.ops import low_rank

F64 = torch.float64
FAMILIES = [PPCA, FactorAnalyzer]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # A few hundred rows are no work for two threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=F64)


def dense_covariances(params) -> Tensor:
    noise = params.noise_variances
    if noise.ndim == 1:
        noise = noise[:, None].expand(-1, params.means.shape[1])
    return params.loadings @ params.loadings.mT + torch.diag_embed(noise)


def planes(n_rows: int, d: int, q: int, k: int, seed: int) -> np.ndarray:
    """Rows of k planes with round noise."""
    loadings = normal(k, d, q, seed=seed) * torch.linspace(2, 1, q, dtype=F64)
    params = PPCAParams(6 * normal(k, d, seed=seed + 1), loadings, torch.full((k,), 0.05, dtype=F64))
    return PPCA(q).sample(params, torch.arange(n_rows) % k, random(seed + 2)).numpy()


# Densities


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("d", "q", "noise"), [(2, 1, 1.0), (6, 2, 0.3), (12, 5, 1e-4), (40, 3, 10.0)])
def test_the_density_equals_the_dense_normal(family, d, q, noise):
    variances = noise * (1 + torch.rand(3, d, generator=random(1), dtype=F64))
    if family is PPCA:
        variances = variances[:, 0]
    params = type(family.examples()[0][1])(normal(3, d, seed=2), normal(3, d, q, seed=3), variances)
    x = family(q).sample(params, torch.arange(60) % 3, random(4))
    found = family(q).log_likelihood(params, x)
    for k, covariance in enumerate(dense_covariances(params)):
        own = scipy.stats.multivariate_normal(params.means[k].numpy(), covariance.numpy()).logpdf(x.numpy())
        np.testing.assert_allclose(found[:, k], own, rtol=1e-10, atol=1e-10)


def test_tiny_noise_leaves_the_density_exact_in_single_precision():
    loadings = normal(1, 20, 3, seed=5)
    noise = torch.full((1, 1), 1e-6, dtype=F64)
    means = torch.zeros(1, 20, dtype=F64)
    x = low_rank.draw(means, loadings, noise, torch.zeros(200, dtype=torch.int64), random(6)).float()
    exact = low_rank.log_density(x.double(), means, loadings, noise)
    # The rows are a thousand times larger than the noise: (1e-4)^2 of a square norm near 20 is left.
    torch.testing.assert_close(
        low_rank.log_density(x, means, loadings, noise).double(), exact, rtol=2e-3, atol=0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_latent_mean_is_the_conditional_mean_of_the_joint_normal(family):
    for one, params in family.examples():
        x = normal(30, params.means.shape[1], seed=7)
        found = one.latent_means(params, x)
        for k, covariance in enumerate(dense_covariances(params)):
            gain = torch.linalg.solve(covariance, params.loadings[k])  # (d, q)
            torch.testing.assert_close(found[:, k], (x - params.means[k]) @ gain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_code_of_component_and_latent_comes_back_where_noise_is_small(family):
    one, params = family.examples()[0]
    quiet = type(params)(params.means, params.loadings, params.noise_variances * 1e-10)
    k, q = params.n_components, one.n_latent
    index, z = torch.arange(40) % k, normal(40, q, seed=8)
    rows = one.decode_latent(quiet, index, z)
    back = one.latent_means(quiet, rows)[torch.arange(40), index]
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    assert bool((one.log_likelihood(quiet, rows).argmax(1) == index).all())
    nothing = one.decode_latent(params, index, torch.zeros_like(z))
    torch.testing.assert_close(nothing, one.decode(params, HardCode(index, k)))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_have_the_covariance(family):
    for one, params in family.examples():
        x = one.sample(params, torch.zeros(100_000, dtype=torch.int64), random(9))
        torch.testing.assert_close(x.T.cov(), dense_covariances(params)[0], rtol=0, atol=0.05)


# The M-step of PPCA


@pytest.mark.parametrize("q", [1, 3, 5])
def test_one_component_is_probabilistic_pca(q):
    X = planes(400, 6, 3, 1, seed=10) + np.arange(6)
    model = mixcoder.Mixture(PPCA(q), n_components=1).fit(X)
    oracle = PCA(q).fit(X)
    # scikit-learn divides the scatter by n - 1 and the maximum of the likelihood by n.
    shrink = (len(X) - 1) / len(X)
    unit = float(model.model_.frame.scale[0]) ** 2
    np.testing.assert_allclose(
        float(model.model_.params.noise_variances[0]) / unit, oracle.noise_variance_ * shrink, rtol=1e-9
    )
    ours = model.model_.params.loadings[0].numpy() / unit**0.5
    theirs = oracle.components_.T * np.sqrt((oracle.explained_variance_ - oracle.noise_variance_) * shrink)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-7, atol=1e-9)
    # The maximum is higher than the likelihood of covariances that are a little too large.
    assert oracle.score(X) <= model.score(X) <= oracle.score(X) + 1e-4
    scaled = scipy.stats.multivariate_normal(oracle.mean_, oracle.get_covariance() * shrink).logpdf(X)
    np.testing.assert_allclose(model.score_samples(X), scaled, rtol=1e-9, atol=1e-9)


def test_the_floor_is_the_constrained_maximiser_not_a_clamped_spectrum():
    # Discarded variances 0 and 2 average to 1, which the floor of one half leaves alone.
    spectrum = torch.tensor([5.0, 2.0, 0.0], dtype=F64)
    loadings, noise = low_rank.principal_axes(torch.diag(spectrum)[None], 1, torch.tensor([0.5], dtype=F64))
    assert float(noise) == 1.0
    torch.testing.assert_close(loadings[0, :, 0], torch.tensor([2.0, 0.0, 0.0], dtype=F64))
    loadings, noise = low_rank.principal_axes(torch.diag(spectrum)[None], 1, torch.tensor([6.0], dtype=F64))
    assert float(noise) == 6.0
    assert not bool(loadings.any())


def test_many_features_go_the_same_way_as_few():
    # Beyond the packed width scatters are summed one component at a time: the same fit, checked by its density.
    d, k = 170, 2
    X = planes(900, d, 2, k, seed=11)
    model = mixcoder.Mixture(PPCA(2), k, random_state=0).fit(X)
    index = model.predict(X)
    params, frame = model.model_.params, model.model_.frame
    weights = model.model_.log_weights.exp().numpy()
    unit = float(frame.scale[0])
    total = np.zeros(len(X))
    for j, covariance in enumerate(dense_covariances(params).numpy()):
        mean = frame.undo(params.means[j : j + 1])[0].numpy()
        total += weights[j] * scipy.stats.multivariate_normal(mean, covariance / unit**2).pdf(X)
    np.testing.assert_allclose(model.score_samples(X), np.log(total), rtol=1e-9, atol=1e-8)
    truth = np.arange(len(X)) % k
    assert max((index == truth).mean(), (index != truth).mean()) == 1.0


# Through the estimator


@pytest.mark.parametrize("family", FAMILIES)
def test_planes_are_recovered_and_the_bound_never_falls(family):
    X = planes(1500, 6, 2, 3, seed=12)
    model = mixcoder.Mixture(family(2), n_components=3, random_state=0).fit(X)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-9)
    index, truth = model.predict(X), np.arange(len(X)) % 3
    table = np.zeros((3, 3))
    np.add.at(table, (index, truth), 1)
    assert table.max(1).sum() >= 0.99 * len(X)
    np.testing.assert_allclose(model.model_.log_weights.exp(), 1 / 3, atol=0.02)
    noise = model.model_.params.noise_variances.numpy() / float(model.model_.frame.scale[0]) ** 2
    if family is PPCA:
        np.testing.assert_allclose(noise, 0.05, rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimator_does_all_of_it(family, tmp_path):
    X = planes(300, 5, 1, 2, seed=13)
    weights = 1.0 + np.arange(len(X)) % 3
    model = mixcoder.Mixture(family(n_latent=1), n_components=2, random_state=0).fit(X, sample_weight=weights)
    code = model.encode(X)
    assert model.decode(code).shape == X.shape
    assert model.score_samples(X).shape == (len(X),)
    assert model.sample(7)[0].shape == (7, 5)
    model.save(tmp_path / "planes.mixcoder")
    again = mixcoder.load(tmp_path / "planes.mixcoder")
    assert again.family == family(n_latent=1)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    repeated = mixcoder.Mixture(family(1), 2, random_state=0, tol=1e-10, max_iter=500)
    repeated.fit(np.repeat(X, weights.astype(int), axis=0))
    model.set_params(tol=1e-10, max_iter=500).fit(X, sample_weight=weights)
    np.testing.assert_allclose(model.score(X), repeated.score(X), rtol=1e-5)
    model.partial_fit(X)
    assert np.isfinite(model.score(X))


# Bad input


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rank_is_checked_against_the_columns(family):
    X = planes(50, 3, 1, 1, seed=14)
    for q in (3, 7):
        with pytest.raises(
            DataError, match=rf"n_latent={q}\) needs more features .* have 3: take n_latent <= 2"
        ):
            mixcoder.Mixture(family(q), 1).fit(X)
    with pytest.raises(DataError, match=r"one feature has no room for a latent axis"):
        mixcoder.Mixture(family(1), 1).fit(X[:, :1])
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="n_latent must be a whole number of at least 1"):
            family(wrong)
    with pytest.raises(ValueError, match="min_variance must be positive"):
        family(1, min_variance=0.0)
    x = torch.from_numpy(X)
    statistics = family(1).statistics(None, x, HardCode(torch.zeros(50, dtype=torch.int64), 1))
    with pytest.raises(ValueError, match="needs more features than latent axes"):
        family(4).maximize(statistics)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("what", ["rank-deficient", "constant column", "constant", "few rows"])
def test_degenerate_rows_give_finite_models_above_the_floor(family, what):
    X = planes(60, 5, 2, 2, seed=15)
    if what == "rank-deficient":
        X[:, 3:] = X[:, :2] - X[:, 1:3]
    elif what == "constant column":
        X[:, 2] = 7.0
    elif what == "constant":
        X[:] = 3.0
    else:
        X = X[:4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mixcoder.Mixture(family(2), 2, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert float(model.model_.params.noise_variances.min()) > 0
    assert np.isfinite(model.sample(5)[0]).all()
