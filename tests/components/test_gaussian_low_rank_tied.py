"""Low rank plus one full covariance: dense oracles, special cases, and what the family is closed under."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import mixcoder
from mixcoder._typing import HardCode
from mixcoder.components import GaussianLowRankTied, GaussianTied
from mixcoder.components.base import Kernel, PassSetting
from mixcoder.components.gaussian_low_rank_tied import GaussianLowRankTiedParams
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.components.latent_kernel import TiedLatentKernel
from mixcoder.errors import DataError
from mixcoder.ops import low_rank
from mixcoder.ops.workspace import Workspace
from mixcoder.sensing import GaussianRandom, RowMasks, Rows, posterior

F64 = torch.float64


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


def shared_covariance(d: int, spread: float, seed: int) -> Tensor:
    """A covariance whose eigenvalues reach from one down to one over ``spread``."""
    axes = torch.linalg.qr(normal(d, d, seed=seed))[0]
    return (axes * torch.logspace(0, -np.log10(spread), d, dtype=F64)) @ axes.T


def params_of(k: int, d: int, q: int, spread: float = 10.0, seed: int = 0) -> GaussianLowRankTiedParams:
    means, loadings = 3 * normal(k, d, seed=seed), normal(k, d, q, seed=seed + 1)
    return GaussianLowRankTiedParams.build(means, loadings, shared_covariance(d, spread, seed + 2))


def rows_of(params: GaussianLowRankTiedParams, n: int, seed: int = 9) -> tuple[Tensor, Tensor]:
    q = params.loadings.shape[2]
    index = torch.arange(n) % params.n_components
    return GaussianLowRankTied(q).sample(params, index, random(seed)), index


def dense(params: GaussianLowRankTiedParams) -> Tensor:
    return params.loadings @ params.loadings.mT + params.covariance


def simplex(n: int, k: int, seed: int) -> Tensor:
    return torch.softmax(2 * normal(n, k, seed=seed), 1)


# Densities and codes


@pytest.mark.parametrize(("d", "q", "spread"), [(2, 1, 1.0), (6, 2, 10.0), (12, 5, 1e3), (40, 3, 100.0)])
def test_the_density_equals_the_dense_normal(d, q, spread):
    params = params_of(3, d, q, spread)
    x, _ = rows_of(params, 60)
    found = GaussianLowRankTied(q).log_likelihood(params, x)
    for k, covariance in enumerate(dense(params)):
        own = multivariate_normal(params.means[k].numpy(), covariance.numpy()).logpdf(x.numpy())
        np.testing.assert_allclose(found[:, k], own, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_the_pass_and_the_natural_parameters_give_that_density(spread):
    params = params_of(3, 8, 2, spread)
    x, _ = rows_of(params, 50)
    family, zeros = GaussianLowRankTied(2), torch.zeros(3, dtype=F64)
    exact = family.log_likelihood(params, x)
    setting = PassSetting(F64, Workspace(), x.square().mean(0).sqrt(), 1e-6)
    kernel = family.kernel(params, zeros, setting)
    assert isinstance(kernel, TiedLatentKernel)
    found = kernel.log_joint(x) + kernel.row_offset(x)[:, None]
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    total = kernel.offset(family.pooled(x))
    torch.testing.assert_close(total[0], kernel.row_offset(x).sum())
    products = torch.cat([torch.ones(50, 1, dtype=F64), x, family.features(x)[:, 9:]], 1)
    common = products[:, 9:] @ family.common(params)[0]
    torch.testing.assert_close(
        products @ family.natural(params).T + common[:, None], exact, rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("spread", [1.0, 1e2, 1e4, 1e6])
def test_the_stated_error_of_single_precision_holds_and_is_not_far_too_large(spread):
    params = params_of(4, 30, 3, spread)
    x, _ = rows_of(params, 400)
    x = x.float().double()
    family, zeros = GaussianLowRankTied(3), torch.zeros(4, dtype=F64)
    magnitude = x.square().mean(0).sqrt()
    kernel = family._latent_kernel(
        params, zeros, PassSetting(torch.float32, Workspace(), magnitude, 1.0), torch.float32
    )
    index = torch.arange(400) % 4
    found = (kernel.log_joint(x.float()).double() + kernel.row_offset(x)[:, None])[torch.arange(400), index]
    exact = family.log_likelihood(params, x)[torch.arange(400), index]
    error, stated = (
        float((found - exact).square().mean().sqrt()),
        family.error(params, magnitude, torch.float32),
    )
    assert error <= stated <= 1000 * error
    narrow = family.kernel(params, zeros, PassSetting(torch.float32, Workspace(), magnitude, 1.1 * stated))
    wide = family.kernel(params, zeros, PassSetting(torch.float32, Workspace(), magnitude, 0.9 * stated))
    exact_kernel = family.kernel(params, zeros, PassSetting(torch.float32, Workspace(), magnitude, 0.0))
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert type(exact_kernel) is Kernel


def test_without_loadings_it_is_the_family_of_one_covariance():
    params = params_of(4, 5, 2)
    flat = replace(params, loadings=torch.zeros_like(params.loadings))
    x, _ = rows_of(params, 80)
    tied = GaussianTiedParams.build(params.means, params.covariance[0])
    torch.testing.assert_close(
        GaussianLowRankTied(2).log_likelihood(flat, x),
        GaussianTied().log_likelihood(tied, x),
        rtol=1e-12,
        atol=1e-12,
    )
    # A step of EM leaves W at zero, and is then the M-step of that family.
    code = simplex(80, 4, seed=3)
    ours = GaussianLowRankTied(2).maximize(GaussianLowRankTied(2).statistics(flat, x, code))
    theirs = GaussianTied().maximize(GaussianTied().statistics(None, x, code))
    assert not bool(ours.loadings.any())
    torch.testing.assert_close(ours.means, theirs.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.covariance, theirs.covariance, rtol=1e-10, atol=1e-12)


def test_the_latent_mean_is_the_conditional_mean_of_the_joint_normal():
    params = params_of(3, 6, 2, 50.0)
    x, _ = rows_of(params, 30)
    found = GaussianLowRankTied(2).latent_means(params, x)
    for k, covariance in enumerate(dense(params)):
        gain = torch.linalg.solve(covariance, params.loadings[k])
        torch.testing.assert_close(found[:, k], (x - params.means[k]) @ gain, rtol=1e-10, atol=1e-10)


# The M-step


def test_the_first_step_is_residual_component_analysis():
    params = params_of(3, 6, 2)
    x, index = rows_of(params, 600)
    family, code = GaussianLowRankTied(2), HardCode(index, 3)
    found = family.maximize(family.statistics(None, x, code))
    parts = [x[index == k] for k in range(3)]
    scatters = [part.T.cov(correction=0).numpy() for part in parts]
    within = sum(scatters) / 3
    for k, scatter in enumerate(scatters):
        values, vectors = scipy.linalg.eigh(scatter, within)  # generalised, rising
        axes = within @ vectors[:, -2:] * np.sqrt(values[-2:] - 1)
        own = found.loadings[k].numpy()
        np.testing.assert_allclose(own @ own.T, axes @ axes.T, rtol=1e-8, atol=1e-10)
    left = within - sum(w @ w.T for w in found.loadings.numpy()) / 3
    np.testing.assert_allclose(found.covariance[0], left, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shrinkage", [0.0, 0.05])
def test_em_never_lowers_the_likelihood_without_or_with_a_prior(shrinkage):
    params = params_of(3, 6, 2)
    x, _ = rows_of(params, 300)
    family = GaussianLowRankTied(2, shrinkage=shrinkage)
    log_weights = torch.full((3,), 1 / 3, dtype=F64).log()
    found = family.maximize(family.statistics(None, x, simplex(300, 3, seed=4)))
    bounds = []
    for _ in range(60):
        log_joint = family.log_likelihood(found, x) + log_weights
        code = log_joint.softmax(1)
        statistics = family.statistics(found, x, code)
        log_prior = family.log_prior(found, statistics)
        bounds.append(float(log_joint.logsumexp(1).sum() + (0.0 if log_prior is None else log_prior.sum())))
        log_weights, found = code.mean(0).log(), family.maximize(statistics)
    assert all(after >= before - 1e-9 for before, after in pairwise(bounds))
    assert bounds[-1] > bounds[0] + 10


def test_the_log_prior_is_that_of_its_equation():
    params = params_of(3, 5, 2)
    x, _ = rows_of(params, 90)
    family = GaussianLowRankTied(2, shrinkage=0.3)
    statistics = family.statistics(params, x, simplex(90, 3, seed=5))
    overall, inverse = x.T.cov(correction=0), torch.linalg.inv(params.covariance[0])
    expected = -0.5 * 0.3 * 90 * (torch.logdet(params.covariance[0]) + (inverse @ overall).trace())
    torch.testing.assert_close(family.log_prior(params, statistics).sum(), expected, rtol=1e-10, atol=0)
    # Alone, with nothing that the components say, it draws S_0 to the covariance of the data.
    strong = GaussianLowRankTied(2, shrinkage=1e9)
    torch.testing.assert_close(strong.maximize(statistics).covariance[0], overall, rtol=1e-6, atol=1e-6)


def test_a_step_commutes_with_linear_maps_of_the_rows():
    params = params_of(3, 5, 2)
    x, _ = rows_of(params, 400)
    turn, move = normal(5, 5, seed=6), normal(5, seed=7)
    family, code = GaussianLowRankTied(2, min_variance=1e-12, shrinkage=0.01), simplex(400, 3, seed=8)
    here, there = None, None
    for _ in range(20):
        here = family.maximize(family.statistics(here, x, code))
        there = family.maximize(family.statistics(there, x @ turn.T + move, code))
    torch.testing.assert_close(there.means, here.means @ turn.T + move, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dense(there), turn @ dense(here) @ turn.T, rtol=1e-7, atol=1e-8)
    shift = torch.linalg.slogdet(turn)[1]
    torch.testing.assert_close(
        family.log_likelihood(there, x @ turn.T + move) + shift,
        family.log_likelihood(here, x),
        rtol=1e-8,
        atol=1e-8,
    )


def test_a_fit_commutes_with_linear_maps_from_the_mapped_start():
    params = params_of(3, 5, 2)
    X = rows_of(params, 600)[0].numpy()
    turn = normal(5, 5, seed=6).numpy()
    resp = simplex(600, 3, seed=8).numpy()
    settings = {"tol": 1e-5, "max_iter": 1000, "acceleration": "none"}
    one = mixcoder.Mixture(GaussianLowRankTied(2), 3, init=resp, **settings).fit(X)
    two = mixcoder.Mixture(GaussianLowRankTied(2), 3, init=resp, **settings).fit(X @ turn.T)
    shift = np.linalg.slogdet(turn)[1]
    np.testing.assert_allclose(two.score_samples(X @ turn.T) + shift, one.score_samples(X), atol=1e-6)


def test_parameters_are_recovered():
    params = params_of(4, 6, 1, 3.0)
    loadings = 2 * params.loadings / torch.linalg.vector_norm(params.loadings, dim=1, keepdim=True)
    params = replace(params, loadings=loadings)
    X, index = rows_of(params, 24_000)
    model = mixcoder.Mixture(GaussianLowRankTied(1), 4, random_state=0, tol=1e-7, max_iter=400).fit(X.numpy())
    inner = model.model_
    order = [int((torch.from_numpy(model.predict(X.numpy()))[index == k]).mode().values) for k in range(4)]
    assert sorted(order) == [0, 1, 2, 3]
    scale = inner.frame.scale
    found = dense(inner.params)[order] / scale / scale[:, None]
    means = inner.frame.undo(inner.params.means[order])
    size = dense(params).diagonal(dim1=1, dim2=2).max()
    # Entries of a covariance of N rows err by about S (2 / N)^(1/2).
    assert float((found - dense(params)).abs().max() / size) < 5 * (2 / 6000) ** 0.5
    assert float((means - params.means).abs().max() / size.sqrt()) < 5 / 6000**0.5
    shared = inner.params.covariance[0] / scale / scale[:, None]
    torch.testing.assert_close(shared, params.covariance[0], rtol=0, atol=0.15)


def test_one_component_is_the_gaussian_of_the_rows():
    X = rows_of(params_of(1, 5, 2), 200)[0].numpy()
    model = mixcoder.Mixture(GaussianLowRankTied(2), 1).fit(X)
    oracle = multivariate_normal(X.mean(0), np.cov(X.T, bias=True)).logpdf(X)
    np.testing.assert_allclose(model.score_samples(X), oracle, rtol=1e-9, atol=1e-9)
    assert model.model_.family.n_parameters(model.model_.params) == 5 + 15


# What W and S_0 can trade


@pytest.mark.parametrize(
    ("ranks", "d"),
    [((2,), 5), ((1, 1), 3), ((2, 1), 5), ((2, 2), 3), ((3, 2), 4), ((1, 1, 1), 2), ((1, 1, 1), 3), ((2, 2, 2), 4),
     ((3, 3, 3), 5), ((3, 2, 3), 7), ((3, 3, 3, 3), 4), ((3,) * 6, 4), ((3,) * 11, 4), ((4, 4, 4), 9)],
)  # fmt: skip
def test_the_trades_are_the_null_space_of_all_covariances_at_once(ranks, d):
    """Of d(S_0 + W_k W_k') for all k, as a linear map of dS_0 and all dW_k."""
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    columns = []
    loadings = [normal(d, q, seed=20 + i).numpy() for i, q in enumerate(ranks)]
    for i, j in pairs:
        unit = np.zeros((d, d))
        unit[i, j] = unit[j, i] = 1
        columns.append(np.tile(unit.ravel(), len(ranks)))
    for k, w in enumerate(loadings):
        for place in range(w.size):
            unit = np.zeros(w.size)
            unit[place] = 1
            change = unit.reshape(w.shape) @ w.T
            out = np.zeros((len(ranks), d, d))
            out[k] = change + change.T
            columns.append(out.ravel())
    values = np.linalg.svd(np.array(columns), compute_uv=False)
    free = int((values > 1e-9 * values[0]).sum())
    stated = sum(d * q - q * (q - 1) // 2 for q in ranks) + len(pairs) - low_rank.n_traded(ranks, d)
    assert stated == free


# Many features


def test_the_strongest_directions_of_many_features_are_the_eigenvectors():
    d = 300
    axes = torch.linalg.qr(normal(d, d, seed=30))[0]
    values = torch.cat(
        [torch.tensor([50.0, 20.0, 9.0], dtype=F64), torch.linspace(1.2, 0.1, d - 3, dtype=F64)]
    )
    covariance = (axes * values) @ axes.T
    images, found = low_rank.strongest(covariance, 3)
    torch.testing.assert_close(found, values[:3], rtol=1e-4, atol=0)
    nystrom = (images / found) @ images.T
    exact = (axes[:, :3] * values[:3]) @ axes[:, :3].T
    torch.testing.assert_close(nystrom, exact, rtol=0, atol=0.05)
    assert float(torch.linalg.eigvalsh(covariance - nystrom).min()) > -1e-10


def test_many_features_are_fitted_as_few_are():
    params = params_of(2, 164, 2, 5.0)
    X = rows_of(replace(params, loadings=2 * params.loadings), 1600)[0].numpy()
    model = mixcoder.Mixture(GaussianLowRankTied(2, shrinkage=0.1), 2, random_state=0).fit(X)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-9)
    truth = np.arange(1600) % 2
    share = (model.predict(X) == truth).mean()
    assert max(share, 1 - share) == 1.0
    weights, inner = model.model_.log_weights.exp().numpy(), model.model_
    scale = inner.frame.scale.numpy()
    means = inner.frame.undo(inner.params.means).numpy()
    covariances = dense(inner.params).numpy() / scale / scale[:, None]
    logs = [multivariate_normal(m, c).logpdf(X) for m, c in zip(means, covariances, strict=True)]
    np.testing.assert_allclose(
        model.score_samples(X), np.logaddexp.reduce(np.log(weights)[:, None] + np.array(logs), 0), rtol=1e-9
    )


# Through the estimator


def test_the_estimator_does_all_of_it(tmp_path):
    X = rows_of(params_of(2, 5, 1), 300)[0].numpy()
    weights = 1.0 + np.arange(len(X)) % 3
    model = mixcoder.Mixture(GaussianLowRankTied(1), 2, random_state=0).fit(X, sample_weight=weights)
    assert model.decode(model.encode(X)).shape == X.shape
    assert model.sample(7)[0].shape == (7, 5)
    model.save(tmp_path / "tied.mixcoder")
    again = mixcoder.load(tmp_path / "tied.mixcoder")
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    model.set_params(tol=1e-10, max_iter=500).fit(X, sample_weight=weights)
    repeated = mixcoder.Mixture(GaussianLowRankTied(1), 2, random_state=0, tol=1e-10, max_iter=500)
    repeated.fit(np.repeat(X, weights.astype(int), axis=0))
    np.testing.assert_allclose(model.score(X), repeated.score(X), rtol=1e-4)
    model.partial_fit(X)
    assert np.isfinite(model.score(X))


def test_single_precision_far_from_the_origin_keeps_its_digits():
    X = rows_of(params_of(3, 6, 2, 3.0), 2000)[0].numpy()
    far = (X / X.std(0) + 1e4).astype(np.float32)
    fit = lambda rows: mixcoder.Mixture(GaussianLowRankTied(2), 3, random_state=0).fit(rows)  # noqa: E731
    narrow, wide = fit(far), fit(far.astype(np.float64))
    assert narrow.score_samples(far).dtype == np.float32
    np.testing.assert_allclose(narrow.score(far), wide.score(far.astype(np.float64)), rtol=1e-4)
    assert (narrow.predict(far) == wide.predict(far.astype(np.float64))).mean() > 0.999


def test_rows_with_missing_entries_are_fitted_and_the_bound_never_falls():
    X = rows_of(params_of(2, 5, 1), 400)[0].numpy()
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    for shrinkage in (0.0, 0.05):
        family = GaussianLowRankTied(1, shrinkage=shrinkage)
        model = mixcoder.Mixture(family, 2, random_state=0, acceleration="none").fit(X)
        assert np.all(np.diff(model.lower_bounds_) >= -1e-9)
        assert np.isfinite(model.impute(X)).all()


@pytest.mark.parametrize("what", ["rank-deficient", "constant column", "constant", "few rows"])
def test_degenerate_rows_give_finite_models_above_the_floor(what):
    X = rows_of(params_of(2, 5, 2), 60)[0].numpy()
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
        model = mixcoder.Mixture(GaussianLowRankTied(2), 2, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert float(torch.linalg.eigvalsh(model.model_.params.covariance[0]).min()) > 0
    assert np.isfinite(model.sample(5)[0]).all()


def test_wrong_settings_are_named():
    X = rows_of(params_of(1, 3, 1), 50)[0].numpy()
    with pytest.raises(
        DataError, match=r"GaussianLowRankTied\(n_latent=3\) needs more features .* n_latent <= 2"
    ):
        mixcoder.Mixture(GaussianLowRankTied(3), 1).fit(X)
    with pytest.raises(DataError, match="one feature has no room for a latent axis"):
        mixcoder.Mixture(GaussianLowRankTied(1), 1).fit(X[:, :1])
    with pytest.raises(ValueError, match="n_latent must be a whole number"):
        GaussianLowRankTied(0)
    with pytest.raises(ValueError, match="min_variance must be positive"):
        GaussianLowRankTied(1, min_variance=0.0)
    with pytest.raises(ValueError, match="shrinkage must be non-negative"):
        GaussianLowRankTied(1, shrinkage=-1.0)
    with pytest.raises(ValueError, match="2 ranks, one a component, for 3 components"):
        mixcoder.Mixture(GaussianLowRankTied((1, 2)), 3, random_state=0).fit(X)


# As a prior


@pytest.fixture(scope="module")
def fitted():
    X = rows_of(params_of(3, 6, 2), 500)[0].numpy() * [1, 1, 20, 0.1, 1, 1] + 50
    return mixcoder.Mixture(GaussianLowRankTied(2), 3, random_state=0).fit(X), X


def components_of(model) -> list[tuple[float, np.ndarray, np.ndarray]]:
    inner = model.model_
    scale = inner.frame.scale.numpy()
    covariances = dense(inner.params).numpy() / scale / scale[:, None]
    return list(
        zip(
            inner.log_weights.exp().numpy(),
            inner.frame.undo(inner.params.means).numpy(),
            covariances,
            strict=True,
        )
    )


@pytest.mark.parametrize(
    "operator", [GaussianRandom(4, 6, seed=1), GaussianRandom(9, 6, seed=2), Rows.of([4, 0, 2], 6)]
)
@pytest.mark.parametrize("level", [0.5, 1e-3])
def test_the_posterior_given_measurements_is_that_of_the_dense_oracle(fitted, operator, level):
    model, X = fitted
    h = operator.matrix().numpy()
    y = X[:6] @ h.T
    seen = posterior(model.model_, torch.from_numpy(y), operator, level)
    for n, row in enumerate(y):
        logs, means, lefts = [], [], []
        for weight, mean, covariance in components_of(model):
            whole = h @ covariance @ h.T + level * np.eye(len(h))
            gain = np.linalg.solve(whole, h @ covariance).T
            apart = row - h @ mean
            log_det = np.linalg.slogdet(2 * np.pi * whole)[1]
            logs.append(np.log(weight) - 0.5 * (apart @ np.linalg.solve(whole, apart) + log_det))
            means.append(mean + gain @ apart)
            lefts.append(np.diag(covariance - gain @ h @ covariance))
        evidence = np.logaddexp.reduce(logs)
        weights = np.exp(np.array(logs) - evidence)
        mean = weights @ np.array(means)
        variance = weights @ (np.array(lefts) + (np.array(means) - mean) ** 2)
        np.testing.assert_allclose(float(seen.log_evidence[n]), evidence, rtol=1e-9)
        np.testing.assert_allclose(seen.mean[n], mean, rtol=1e-9)
        np.testing.assert_allclose(seen.variance[n], variance, rtol=1e-7, atol=1e-9 * X.var(0).max())


def test_masks_a_row_impute_as_missing_entries_do(fitted):
    model, X = fitted
    observed = torch.rand(8, 6, generator=random(1)) < 0.6
    shown = torch.where(observed, torch.from_numpy(X[:8]), torch.nan)
    seen = posterior(model.model_, shown, RowMasks(observed), 0.0)
    np.testing.assert_allclose(seen.mean, model.impute(shown.numpy()), rtol=1e-8)


def test_marginal_and_conditional_are_of_the_family_and_multiply_to_the_joint(fitted):
    model, X = fitted
    known, rest = [4, 1], [0, 2, 3, 5]
    first = model.marginal(known)
    for row in X[:5]:
        given = model.condition(known, row[known])
        assert type(given.model_.family) is GaussianLowRankTied
        joint = first.score_samples(row[None, known])[0] + given.score_samples(row[None, rest])[0]
        np.testing.assert_allclose(joint, model.score_samples(row[None])[0], rtol=1e-9)
        for (_, mean, covariance), (_, m, c) in zip(components_of(given), components_of(model), strict=True):
            gain = np.linalg.solve(c[np.ix_(known, known)], c[np.ix_(known, rest)]).T
            np.testing.assert_allclose(mean, m[rest] + gain @ (row[known] - m[known]), rtol=1e-9)
            expected = c[np.ix_(rest, rest)] - gain @ c[np.ix_(known, rest)]
            np.testing.assert_allclose(covariance, expected, rtol=1e-8, atol=1e-9)
