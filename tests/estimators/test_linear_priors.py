"""What keeps mixtures of linear models from overfitting: shared noise, a prior on the noise, ranks that fit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch

import mixcoder
from mixcoder.checks import check_family
from mixcoder.components import PPCA, FactorAnalyzer
from mixcoder.encoders import Posterior
from mixcoder.errors import DataError
from mixcoder.fitting.ranks import chosen_ranks, nested_factors, principal_log_likelihoods

MIXTURES = [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planes(ranks, n=1500, d=8, noise=0.1, seed=0, spread=3.0):
    """Return rows of planes of some ranks, and which plane each is on."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(ranks)
    x = noise * rng.normal(size=(n, d))
    for k, q in enumerate(ranks):
        own = labels == k
        loadings = np.linalg.qr(rng.normal(size=(d, q)))[0] * np.linspace(2, 1, q)
        x[own] += spread * rng.normal(size=d) / np.sqrt(d) + rng.normal(size=(own.sum(), q)) @ loadings.T
    return x, labels


def fitted(cls, x, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(*arguments, random_state=0, **options).fit(x)


def dense_scores(model, x):
    """Return the log-densities of the rows from d x d covariances."""
    total = np.zeros(len(x))
    for weight, mean, w, noise in zip(
        model.weights_, model.means_, model.loadings_, model.noise_variances_, strict=True
    ):
        covariance = w @ w.T + np.diag(np.broadcast_to(noise, x.shape[1]))
        total += weight * scipy.stats.multivariate_normal(mean, covariance).pdf(x)
    return np.log(total)


# Low rank plus shared noise


@pytest.mark.parametrize("cls", MIXTURES)
@pytest.mark.parametrize("d", [8, 170])
def test_the_density_with_shared_noise_is_the_dense_one_and_the_bound_never_falls(cls, d):
    x, _ = planes([2, 2, 2], n=450, d=d)
    # In 170 dimensions densities over- and underflow: in units in which they do not.
    x = x if d == 8 else 4 * x
    model = fitted(cls, x, 3, 2, noise="shared", acceleration="none", max_iter=40, tol=0.0)
    assert np.ptp(model.noise_variances_, axis=0).max() == 0
    np.testing.assert_allclose(model.score_samples(x), dense_scores(model, x), rtol=1e-10, atol=1e-10)
    assert (np.diff(model.lower_bounds_) >= -1e-9).all()


@pytest.mark.parametrize("cls", MIXTURES)
def test_shared_noise_is_where_the_likelihood_is_stationary_in_every_parameter(cls):
    x, _ = planes([2, 2], n=300, d=5, noise=0.5)
    model = fitted(cls, x, 2, 1, noise="shared", tol=1e-13, max_iter=5000)
    rows = torch.from_numpy(x)
    shared = torch.as_tensor(model.noise_variances_[0], dtype=torch.float64)
    leaves = {
        "log_weights": torch.from_numpy(np.log(model.weights_)),
        "means": torch.tensor(model.means_),
        "loadings": torch.tensor(model.loadings_),
        "log_noise": shared.log(),
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    noise = leaves["log_noise"].exp().expand(5)
    terms = []
    for k in range(2):
        w = leaves["loadings"][k]
        normal = torch.distributions.MultivariateNormal(leaves["means"][k], w @ w.T + torch.diag(noise))
        terms.append(leaves["log_weights"].log_softmax(0)[k] + normal.log_prob(rows))
    torch.logsumexp(torch.stack(terms), 0).mean().backward()
    for name, leaf in leaves.items():
        assert float(leaf.grad.abs().max()) < 1e-5, name


@pytest.mark.parametrize("cls", MIXTURES)
def test_one_component_shares_with_nobody(cls):
    x, _ = planes([2], n=300, d=6)
    own, shared = (fitted(cls, x, 1, 2, noise=noise, tol=1e-9) for noise in ("component", "shared"))
    np.testing.assert_allclose(shared.score_samples(x), own.score_samples(x), atol=1e-9)


# A prior on the noise


@pytest.mark.parametrize("cls", MIXTURES)
@pytest.mark.parametrize("d", [8, 170])
@pytest.mark.parametrize("noise", ["component", "shared"])
def test_the_penalised_bound_never_falls_and_is_the_likelihood_with_the_prior(cls, d, noise):
    x, _ = planes([2, 2, 2], n=240, d=d)
    model = fitted(cls, x, 3, 2, noise=noise, shrinkage=0.05, acceleration="none", max_iter=30, tol=0.0)
    assert (np.diff(model.lower_bounds_) >= -1e-9 * (1 + abs(model.lower_bounds_[-1]))).all()
    again = fitted(cls, x, 3, 2, noise=noise, shrinkage=0.05, acceleration="none", max_iter=29, tol=0.0)
    # The last bound belongs to the parameters before the last M-step. In working units, as the bound counts it.
    params, frame = again.model_.params, again.model_.frame
    psi = params.noise_variances.numpy().reshape(3, -1) * np.ones(d)
    v = x.var(0) * frame.scale.numpy() ** 2 if cls is mixcoder.FactorAnalyzerMixture else np.mean(
        x.var(0) * frame.scale.numpy() ** 2
    )  # fmt: skip
    prior = -0.5 * 0.05 / 3 * (np.log(psi) + v / psi).sum()
    assert model.lower_bound_ == pytest.approx(again.score(x) + prior, abs=1e-8 * d)


@pytest.mark.parametrize("cls", MIXTURES)
def test_a_row_by_itself_does_not_win_against_the_prior(cls):
    x, labels = planes([2, 2], n=200, d=12)
    x[0] = 25.0  # far from all
    lonely = np.where(np.arange(200) == 0, 2, labels)
    free = fitted(cls, x, 3, 2, init=lonely, min_variance=1e-12, max_iter=100)
    kept = fitted(cls, x, 3, 2, init=lonely, min_variance=1e-12, max_iter=100, shrinkage=0.02)
    alone = free.score_samples(x[:1])[0] - np.median(free.score_samples(x))
    # Without a prior its density is that of the floor, 1e-12 of the variance in twelve directions.
    assert alone > 50
    assert kept.score_samples(x[:1])[0] - np.median(kept.score_samples(x)) < 5
    assert kept.noise_variances_.min() > 1e-4 * x.var(0).mean()


def test_held_out_rows_are_likelier_under_the_prior():
    x, _ = planes([3] * 8, n=2000, d=20, noise=0.3, seed=1)
    train, test = x[:160], x[160:]
    free, kept = (
        fitted(mixcoder.PPCAMixture, train, 8, 3, shrinkage=shrinkage).score(test) for shrinkage in (0.0, 0.1)
    )
    assert kept > free + 0.5


@pytest.mark.parametrize("cls", MIXTURES)
def test_more_axes_than_rows_of_a_component(cls):
    x, _ = planes([4, 4], n=20, d=30)
    for options in ({}, {"shrinkage": 0.1}, {"noise": "shared"}):
        model = fitted(cls, x, 4, 12, **options)
        assert np.isfinite(model.score_samples(x)).all()
        assert np.isfinite(model.reconstruct(x)).all()
        assert model.noise_variances_.min() > 0


# Ranks


def ranks_by_plane(model, x, labels):
    """Return the rank of the component that most rows of each plane belong to."""
    found = model.predict(x)
    return [int(model.n_latent_[np.bincount(found[labels == k]).argmax()]) for k in np.unique(labels)]


@pytest.mark.parametrize("cls", [*MIXTURES, mixcoder.SubspaceMixture])
@pytest.mark.parametrize("seed", [0, 1])
def test_ranks_are_read_off_the_spectra(cls, seed):
    x, labels = planes([1, 2, 4], n=1500, d=8, seed=seed)
    if cls is mixcoder.FactorAnalyzerMixture:
        x = x * np.linspace(1, 30, 8)
    model = fitted(cls, x, 3, "auto")
    assert ranks_by_plane(model, x, labels) == [1, 2, 4]
    assert model.transform(x).shape == (1500, 5)


def test_ranks_of_many_features_are_read_off_the_latent_axes():
    x, labels = planes([2, 5], n=600, d=180, noise=0.02)
    model = fitted(mixcoder.PPCAMixture, x, 2, "auto", max_iter=300)
    assert ranks_by_plane(model, x, labels) == [2, 5]


@pytest.mark.parametrize("cls", [*MIXTURES, mixcoder.SubspaceMixture])
@pytest.mark.parametrize("given", [[1, 2, 4], np.array([4, 1, 2])])
def test_given_ranks_go_to_the_components_that_need_them(cls, given):
    x, labels = planes([1, 2, 4], n=900, d=8)
    model = fitted(cls, x, 3, given)
    np.testing.assert_array_equal(model.n_latent_, given)
    assert ranks_by_plane(model, x, labels) == [1, 2, 4]
    axes = model.bases_ if cls is mixcoder.SubspaceMixture else model.loadings_
    for k, rank in enumerate(given):
        assert np.linalg.matrix_rank(axes[k]) == rank
        assert not axes[k][:, rank:].any()
    _, z = model.encode_latent(x)
    assert all(not z[model.predict(x) == k][:, rank:].any() for k, rank in enumerate(given))


def test_the_criterion_is_that_of_principal_component_analysis():
    x, _ = planes([3], n=300, d=6, noise=0.4)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    family = PPCA(5)
    rows, code = torch.from_numpy(x), torch.ones(300, 1, dtype=torch.float64)
    params = family.maximize(family.statistics(None, rows, code))
    criteria = []
    for q in range(1, 6):
        one = fitted(mixcoder.PPCAMixture, x, 1, q, tol=1e-12)
        criteria.append(one.bic(x))
        by_hand = 300 * (np.log(values[:q]).sum() + (6 - q) * np.log(values[q:].mean()))
        assert -2 * 300 * one.score(x) == pytest.approx(by_hand + 300 * 6 * (1 + np.log(2 * np.pi)), rel=1e-9)
    counts = torch.tensor([300.0], dtype=torch.float64)
    likelihoods = 300 * principal_log_likelihoods(params)
    assert chosen_ranks(likelihoods, counts, 6) == (1 + int(np.argmin(criteria)),)
    # Criteria and likelihoods differ by constants only.
    own = np.array([-2 * float(v) for v in likelihoods[0]])
    free = np.array([6 * q - q * (q - 1) / 2 for q in range(1, 6)]) * np.log(300)
    np.testing.assert_allclose(np.diff(own + free), np.diff(criteria), rtol=1e-6)


def test_factors_of_a_covariance_are_those_of_the_rows():
    x, _ = planes([2], n=300, d=6, noise=0.4)
    x = x * np.linspace(0.5, 2, 6)
    found, scores = nested_factors(torch.from_numpy(np.cov(x.T, bias=True))[None], 3, 1e-6)
    for q in (1, 2, 3):
        one = fitted(mixcoder.FactorAnalyzerMixture, x, 1, q, tol=1e-12, max_iter=20_000)
        constant = 0.5 * 6 * np.log(2 * np.pi) + np.log(x.std(0)).sum()
        assert float(scores[0, q - 1]) - constant == pytest.approx(one.score(x), abs=1e-3)
        assert float(scores[0, q - 1]) - constant <= one.score(x) + 1e-6
        if q == 2:
            np.testing.assert_allclose(found[1][1][0], one.noise_variances_[0], rtol=0.05)


def test_chosen_ranks_survive_a_file_a_batch_and_a_warm_start(tmp_path):
    x, _ = planes([1, 3], n=400, d=6)
    model = fitted(mixcoder.PPCAMixture, x, 2, "auto", warm_start=True)
    model.save(tmp_path / "m.mixcoder")
    same = mixcoder.load(tmp_path / "m.mixcoder")
    np.testing.assert_array_equal(same.n_latent_, model.n_latent_)
    np.testing.assert_array_equal(same.score_samples(x), model.score_samples(x))
    ranks = model.n_latent_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.partial_fit(x)
        np.testing.assert_array_equal(model.n_latent_, ranks)
        model.fit(x)
        np.testing.assert_array_equal(model.n_latent_, ranks)
        fresh = mixcoder.PPCAMixture(2, "auto", random_state=0).partial_fit(x)
    assert np.isfinite(fresh.score(x))


# Starts


@pytest.mark.parametrize("cls", [mixcoder.SubspaceMixture, mixcoder.PPCAMixture])
def test_one_default_fit_reaches_the_floor(cls):
    reached = 0
    for seed in range(12):
        x, labels = planes([2, 2, 2, 2], n=600, d=6, noise=0.05, seed=seed % 4, spread=1.0)
        left = sum(
            (np.linalg.svd(x[labels == k] - x[labels == k].mean(0), compute_uv=False)[2:] ** 2).sum()
            for k in range(4)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = cls(4, 2, random_state=seed).fit(x)
        reached += model.distortion(x) < 1.1 * left / 600
    assert reached == 12


# Bad input


@pytest.mark.parametrize("cls", [*MIXTURES, mixcoder.SubspaceMixture])
def test_impossible_ranks_are_named(cls):
    x, _ = planes([2, 2], n=60, d=5)
    for q in (5, 9, [1, 5]):
        with pytest.raises(DataError, match="needs more features than latent axes"):
            cls(2, q).fit(x)
    for q in (1, [1, 1], "auto"):
        with pytest.raises(DataError, match="one feature has no room for a latent axis"):
            cls(2, q).fit(x[:, :1])
    with pytest.raises(ValueError, match="one rank for each of n_components=2"):
        cls(2, [1, 2, 3]).fit(x)
    for q in ([1.5, 1], [0, 1], ["a", "b"]):
        with pytest.raises(ValueError, match="whole numbers of at least 1"):
            cls(2, q).fit(x)
    for q in (0, 1.5, "some"):
        with pytest.raises(ValueError, match="n_latent"):
            cls(2, q).fit(x)


@pytest.mark.parametrize("cls", [*MIXTURES, mixcoder.SubspaceMixture])
@pytest.mark.parametrize("what", ["rank-deficient", "constant columns", "constant", "repeated rows"])
@pytest.mark.parametrize("d", [6, 170])
def test_degenerate_rows_give_finite_models(cls, what, d):
    x, _ = planes([2, 2], n=40, d=d)
    if what == "rank-deficient":
        x = x[:, :2] @ np.random.default_rng(0).normal(size=(2, d))
    elif what == "constant columns":
        x[:, 3:] = 7.0
    elif what == "constant":
        x[:] = 3.0
    else:
        x = np.repeat(x[:3], 10, 0)
    model = fitted(cls, x, 2, 3, max_iter=20)
    assert np.isfinite(model.reconstruct(x)).all()
    assert np.isfinite(model.transform(x)).all()
    assert np.isfinite(model.distortion(x))
    if what != "repeated rows":
        assert model.distortion(x) < 1e-6 * max(1.0, x.var(0).sum()) or what == "constant columns"


@pytest.mark.parametrize("family", [PPCA, FactorAnalyzer])
def test_impossible_settings_of_a_family_are_named(family):
    for options in ({"noise": "common"}, {"shrinkage": -1.0}, {"shrinkage": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(options))):
            family(1, **options)
    for wrong in ((), (1, 0), (1, 1.5), (True,)):
        with pytest.raises(ValueError, match="whole number of at least 1"):
            family(wrong)
    with pytest.raises(ValueError, match="2 ranks, one a component, for 3 components"):
        mixcoder.Mixture(family((1, 2)), 3).fit(np.random.default_rng(0).normal(size=(30, 4)))


@dataclass(frozen=True)
class Forgetful(PPCA):
    """A prior that ``maximize`` knows and the bound does not."""

    def log_prior(self, params, statistics):
        return None


def test_a_prior_that_the_bound_forgets_breaks_the_laws():
    family = Forgetful(n_latent=2, shrinkage=0.3)
    with pytest.raises(AssertionError, match="maximize is stationary"):
        check_family(family, PPCA.examples()[0][1], encoders=[Posterior()])


@pytest.mark.parametrize("cls", [mixcoder.PPCAMixture, mixcoder.FactorAnalyzerMixture])
@pytest.mark.parametrize("d", [8, 170])
def test_components_that_share_rows_raise_their_own_bound(cls, d, tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, d)) + 4 * rng.normal(size=(6, d))[rng.integers(6, size=300)]
    model = cls(
        6, 2, temperature=20.0, n_active=2, tol=1e-6, max_iter=30, acceleration="none", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    bound = np.array(model.history_["bound"])
    assert (np.diff(bound) >= -1e-9 * np.abs(bound[1:])).all()
    code = model.encode(x)
    assert ((code > 0).sum(1) == 2).all()
    np.testing.assert_allclose(code.sum(1), 1)
    # The code is softargmax(log p(x, k) / 20) of the two best, whatever the family.
    log_joint = model.model_.log_joint(torch.from_numpy(x)).numpy()
    best = np.sort(np.argsort(log_joint)[:, -2:])
    shares = np.exp((np.take_along_axis(log_joint, best, 1) - log_joint.max(1, keepdims=True)) / 20)
    expected = shares / shares.sum(1, keepdims=True)
    np.testing.assert_allclose(np.take_along_axis(code, best, 1), expected, rtol=1e-6)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(mixcoder.load(tmp_path / "m").encode(x), code)


def test_planes_of_few_rows_that_share_them_leave_less_of_new_rows():
    """Six true planes, thirty fitted of ten rows each: with rows in common new rows are nearer to the planes."""
    rng = np.random.default_rng(0)
    d, q = 20, 3
    axes = [np.linalg.qr(rng.normal(size=(d, q)))[0] for _ in range(6)]

    def draw(n):
        labels = rng.integers(6, size=n)
        z = 2 * rng.normal(size=(n, q))
        return np.stack([axes[k] @ v for k, v in zip(labels, z, strict=True)]) + 0.3 * rng.normal(size=(n, d))

    x, new = draw(300), draw(1000)
    left = []
    for settings in ({"temperature": 0.0}, {"temperature": 1000.0, "n_active": 4}):
        model = mixcoder.PPCAMixture(
            30, q, min_variance=1.0, max_iter=20, tol=0.0, random_state=0, **settings
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            left.append(model.fit(x).distortion(new, rule="nearest"))
    assert left[1] < 0.95 * left[0]


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"temperature": mixcoder.encoders.Annealed()}, {"init": "annealed"}]
)
def test_sharing_needs_a_temperature(settings):
    model = mixcoder.PPCAMixture(3, 1, n_active=2, **settings)
    with pytest.raises(ValueError, match="n_active=2 components share a row by the temperature"):
        model.fit(np.random.default_rng(0).normal(size=(50, 3)))
