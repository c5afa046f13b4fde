"""Low rank plus diagonal: densities against dense oracles, closed forms against scikit-learn, codes (k, z)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch import Tensor

import mixcoder
from mixcoder._typing import HardCode
from mixcoder.components import PPCA, FactorAnalyzer
from mixcoder.components.factor_analyzer import FactorAnalyzerParams
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


@pytest.mark.parametrize("family", FAMILIES)
def test_latent_codes_reconstruct_rows_up_to_the_noise(family):
    X = planes(900, 8, 2, 3, seed=23) * 50 + 1000
    model = mixcoder.Mixture(family(2), 3, random_state=0).fit(X)
    inner = model.model_
    index, x = torch.from_numpy(model.predict(X)).long(), inner.frame.apply(torch.from_numpy(X))
    z = inner.family.latent_means(inner.params, x)[torch.arange(len(x)), index]
    rows = inner.frame.undo(inner.family.decode_latent(inner.params, index, z)).numpy()
    # Six of eight directions are noise of variance 0.05; z is shrunk a little towards zero.
    assert np.square(X - rows).mean() == pytest.approx(50**2 * 0.05 * 6 / 8, rel=0.1)
    assert np.square(X - rows).mean() < 0.1 * np.square(X - model.decode(model.encode(X))).mean()


# Bad input


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rank_is_checked_against_the_columns(family):
    X = planes(50, 3, 1, 1, seed=14)
    for q in (3, 7):
        with pytest.raises(
            DataError, match=rf"n_latent={q}\) needs more features .* have 3 feature\(s\): take n_latent <= 2"
        ):
            mixcoder.Mixture(family(q), 1).fit(X)
    with pytest.raises(DataError, match=r"one feature has no room for a latent axis"):
        mixcoder.Mixture(family(1), 1).fit(X[:, :1])
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="n_latent must be a whole number of at least 1"):
            family(wrong)
    assert family(np.int64(2)) == family(2)
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


# The EM step of the factor analyser


def factors(n_rows: int, seed: int) -> tuple[np.ndarray, FactorAnalyzerParams]:
    """Rows of two factors in eight columns of unequal noise."""
    noise = 0.1 + torch.rand(1, 8, generator=random(seed), dtype=F64)
    params = FactorAnalyzerParams(torch.zeros(1, 8, dtype=F64), normal(1, 8, 2, seed=seed + 1), noise)
    index = torch.zeros(n_rows, dtype=torch.int64)
    return FactorAnalyzer(2).sample(params, index, random(seed + 2)).numpy(), params


def test_one_component_is_factor_analysis():
    X, truth = factors(2000, seed=16)
    model = mixcoder.Mixture(FactorAnalyzer(2), 1, tol=1e-13, max_iter=5000).fit(X)
    oracle = FactorAnalysis(2, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(X)
    np.testing.assert_allclose(model.score(X), oracle.score(X), rtol=1e-8)
    params, scale = model.model_.params, model.model_.frame.scale
    noise = (params.noise_variances[0] / scale.square()).numpy()
    np.testing.assert_allclose(noise, oracle.noise_variance_, rtol=1e-3)
    covariance = (dense_covariances(params)[0] / (scale[:, None] * scale)).numpy()
    np.testing.assert_allclose(covariance, oracle.get_covariance(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(noise, truth.noise_variances[0], rtol=0.25)


def test_the_expanded_step_is_no_worse_than_the_plain_one():
    # Ghahramani & Hinton's step keeps z at N(0, I); fitting its moments as well raises the bound by at least as much.
    # That the likelihood follows in every step is no theorem, but so it is on these rows.
    X, _ = factors(500, seed=17)
    x, family = torch.from_numpy(X), FactorAnalyzer(2)
    code = HardCode(torch.zeros(len(x), dtype=torch.int64), 1)
    params = family.maximize(family.statistics(None, x, code))
    values = []
    for _ in range(30):
        values.append(float(family.log_likelihood(params, x).mean()))
        projections, latent = low_rank.posterior(params.loadings, params.noise_variances)
        z = low_rank.latent_means(x, params.means, projections)[:, 0]
        centred = x - x.mean(0)
        second = z.T @ z / len(x) + torch.cholesky_inverse(latent)[0]
        loadings = torch.linalg.solve(second, z.T @ centred / len(x)).T
        noise = centred.square().mean(0) - (loadings * (centred.T @ z / len(x))).sum(1)
        plain = FactorAnalyzerParams(params.means, loadings[None], noise[None])
        params = family.maximize(family.statistics(params, x, code))
        after = float(family.log_likelihood(params, x).mean())
        assert after >= float(family.log_likelihood(plain, x).mean()) - 1e-12
    assert np.all(np.diff(values) >= -1e-12)


def test_the_variances_of_the_columns_are_those_of_the_rows():
    X, _ = factors(400, seed=18)
    model = mixcoder.Mixture(FactorAnalyzer(2), 1).fit(X)
    variances = dense_covariances(model.model_.params)[0].diagonal() / model.model_.frame.scale.square()
    np.testing.assert_allclose(variances, X.var(0), rtol=1e-9)


def test_units_of_columns_change_a_mixture_of_factor_analysers_in_nothing():
    X = planes(600, 6, 2, 2, seed=19)
    units = np.array([1e-6, 1.0, 3e4, 7.0, 1e-2, 1e8])
    shift = np.array([1e3, -5.0, 1e7, 0.0, 2.0, -1e9])
    one = mixcoder.Mixture(FactorAnalyzer(2), 2, random_state=0, tol=1e-10, max_iter=500).fit(X)
    two = mixcoder.Mixture(FactorAnalyzer(2), 2, random_state=0, tol=1e-10, max_iter=500).fit(
        X * units + shift
    )
    moved = two.score_samples(X * units + shift) + np.log(units).sum()
    np.testing.assert_allclose(moved, one.score_samples(X), rtol=0, atol=1e-4)


def test_a_heywood_case_stops_at_the_named_floor():
    # The first column is the factor itself, without noise.
    X, _ = factors(300, seed=20)
    z = normal(300, 1, seed=21).numpy()
    X = np.hstack([z, 0.8 * z + 0.5 * X[:, :1], z - 0.3 * X[:, 1:2], -z + 0.4 * X[:, 2:3]])
    model = mixcoder.Mixture(FactorAnalyzer(1, min_variance=1e-2), 1, tol=1e-12, max_iter=2000)
    with pytest.warns(mixcoder.errors.DegenerateComponentWarning, match="variance floor"):
        model.fit(X)
    noise = (model.model_.params.noise_variances[0] / model.model_.frame.scale.square()).numpy()
    np.testing.assert_allclose(noise[0], 1e-2 * X[:, 0].var(), rtol=1e-6)
    assert np.all(noise[1:] > 2e-2 * X[:, 1:].var(0))
    assert np.all(np.diff(model.lower_bounds_) >= -1e-9)


def test_a_component_without_rows_keeps_loadings_that_can_grow():
    x = torch.from_numpy(planes(100, 5, 2, 1, seed=22))
    family = FactorAnalyzer(2)
    params = family.maximize(family.statistics(None, x, HardCode(torch.zeros(100, dtype=torch.int64), 2)))
    torch.testing.assert_close(dense_covariances(params)[1].diagonal(), x.var(0, correction=0))
    assert bool((params.loadings[1].square().sum(0) > 0).all())
    everything = HardCode(torch.ones(100, dtype=torch.int64), 2)
    for _ in range(300):
        params = family.maximize(family.statistics(params, x, everything))
    start = family.maximize(family.statistics(None, x, everything))
    reached = float(family.log_likelihood(params, x)[:, 1].mean())
    assert reached >= float(family.log_likelihood(start, x)[:, 1].mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_many_features_in_single_precision_are_those_in_double(family):
    X = planes(600, 170, 2, 2, seed=24)
    single = mixcoder.Mixture(family(2), 2, random_state=0).fit(X.astype(np.float32))
    double = mixcoder.Mixture(family(2), 2, random_state=0).fit(X)
    np.testing.assert_allclose(
        single.score_samples(X.astype(np.float32)), double.score_samples(X), rtol=0, atol=1e-3
    )
