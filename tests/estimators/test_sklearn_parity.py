"""From the same start, the same results as scikit-learn's: changing the import line is the migration."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn import cluster, mixture
from sklearn.datasets import load_iris, load_wine, make_blobs
from sklearn.utils.fixes import parse_version

from mixcoder import GaussianMixture, KMeans
from mixcoder.errors import DegenerateComponentWarning

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
TABLES = {
    "iris": load_iris().data,
    "wine": load_wine().data[:, [0, 6, 9, 12]],
    "blobs": make_blobs(200, 3, centers=4, cluster_std=2.0, random_state=1)[0],
    "far away": make_blobs(150, 2, centers=3, random_state=2)[0] * [1.0, 100.0] + [300.0, -20.0],
}
COVARIANCES = ("full", "tied", "diag", "spherical")
# scikit-learn keeps the bound of every iteration from 1.7 on; before, its last bound is what there is to compare with.
BOUNDS = ("lower_bound_",)
if parse_version(sklearn.__version__) >= parse_version("1.7"):
    BOUNDS = ("lower_bound_", "lower_bounds_")


def given_start(X, n_components, covariance_type, seed=0):
    """Return weights, means and precisions to begin with: random rows, the overall shape."""
    rng = np.random.default_rng(seed)
    covariance = np.cov(X.T)
    precision, d = np.linalg.inv(covariance), X.shape[1]
    precisions = {
        "full": np.stack([precision] * n_components),
        "tied": precision,
        "diag": np.tile(1 / np.diag(covariance), (n_components, 1)),
        "spherical": np.full(n_components, d / np.trace(covariance)),
    }
    return {
        "weights_init": rng.dirichlet(np.full(n_components, 5.0)),
        "means_init": X[rng.choice(len(X), n_components, replace=False)],
        "precisions_init": precisions[covariance_type],
    }


def both_mixtures(X, covariance_type, **parameters):
    parameters |= {"covariance_type": covariance_type} | given_start(X, 3, covariance_type)
    return GaussianMixture(3, **parameters).fit(X), mixture.GaussianMixture(3, **parameters).fit(X)


@pytest.mark.parametrize("max_iter", [2, 300])
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6])
@pytest.mark.parametrize("covariance_type", COVARIANCES)
@pytest.mark.parametrize("name", TABLES)
def test_gaussian_mixture_takes_the_same_steps(name, covariance_type, reg_covar, max_iter):
    X = TABLES[name]
    ours, theirs = both_mixtures(X, covariance_type, reg_covar=reg_covar, max_iter=max_iter, tol=1e-4)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_ == (max_iter > 2)
    for attribute in (
        *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
        *BOUNDS,
    ):
        np.testing.assert_allclose(
            getattr(ours, attribute), getattr(theirs, attribute), **CLOSE, err_msg=attribute
        )
    for method in ("predict_proba", "score_samples", "score", "bic", "aic", "predict"):
        np.testing.assert_allclose(
            getattr(ours, method)(X), getattr(theirs, method)(X), **CLOSE, err_msg=method
        )
    assert ours.n_features_in_ == theirs.n_features_in_


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_gaussian_mixture_without_tolerance_stops_nowhere_else(covariance_type):
    ours, theirs = both_mixtures(TABLES["iris"], covariance_type, reg_covar=1e-6, max_iter=40, tol=0.0)
    assert ours.n_iter_ == theirs.n_iter_
    for attribute in BOUNDS:
        np.testing.assert_allclose(getattr(ours, attribute), getattr(theirs, attribute), rtol=1e-9)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_gaussian_mixture_predicts_for_new_rows_as_scikit_learn(covariance_type):
    X = TABLES["wine"]
    ours, theirs = both_mixtures(X[::2], covariance_type, reg_covar=1e-6)
    far = np.vstack([X[1::2], 50 * X[:3]])
    np.testing.assert_allclose(ours.score_samples(far), theirs.score_samples(far), **CLOSE)
    np.testing.assert_allclose(ours.predict_proba(far), theirs.predict_proba(far), **CLOSE)
    assert (ours.fit_predict(X) == theirs.fit_predict(X)).all()


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_two_warm_steps_are_two_steps(covariance_type):
    X = TABLES["iris"]
    common = {"covariance_type": covariance_type, "tol": 0.0, **given_start(X, 3, covariance_type)}
    warm = GaussianMixture(3, max_iter=1, warm_start=True, **common)
    twice = warm.fit(X).fit(X)
    once = GaussianMixture(3, max_iter=2, **common).fit(X)
    for attribute in ("weights_", "means_", "covariances_", "lower_bound_"):
        np.testing.assert_allclose(
            getattr(twice, attribute), getattr(once, attribute), rtol=1e-12, err_msg=attribute
        )


def test_a_warm_start_converges_at_once_where_the_last_fit_converged():
    X = TABLES["blobs"]
    model = GaussianMixture(3, warm_start=True, random_state=0, tol=1e-6, max_iter=500).fit(X)
    first = model.n_iter_
    assert model.converged_
    assert model.fit(X).n_iter_ <= 2 < first


def brute_force_step(X, weights, means, covariances, tied_covariance):
    """Return one EM step of a mixture whose components share a covariance, by scipy and loops."""
    log_joint = np.stack(
        [
            np.log(w) + multivariate_normal(m, c).logpdf(X)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ],
        1,
    )
    log_prob = logsumexp(log_joint, axis=1)
    code = np.exp(log_joint - log_prob[:, None])
    counts = code.sum(0)
    means = code.T @ X / counts[:, None]
    within = sum(
        code[n, k] * np.outer(X[n] - means[k], X[n] - means[k])
        for n in range(len(X))
        for k in range(len(counts))
    )
    return counts / len(X), means, tied_covariance(within / len(X)), log_prob.mean()


@pytest.mark.parametrize(
    ("covariance_type", "tied"),
    [
        ("tied_diag", lambda within: np.diag(np.diag(within))),
        ("tied_spherical", lambda within: np.trace(within) / len(within) * np.eye(len(within))),
        ("tied", lambda within: within),
    ],
)
def test_tied_covariances_agree_with_brute_force(covariance_type, tied):
    X = TABLES["iris"][::3]
    k, d = 3, X.shape[1]
    weights, means = np.full(k, 1 / k), X[[0, 20, 40]]
    covariance = tied(np.cov(X.T))
    shaped = {"tied_diag": np.diag, "tied_spherical": lambda c: c[0, 0], "tied": lambda c: c}[covariance_type]
    model = GaussianMixture(
        k,
        covariance_type=covariance_type,
        weights_init=weights,
        means_init=means,
        precisions_init=shaped(np.linalg.inv(covariance)),
        reg_covar=0.0,
        tol=0.0,
        max_iter=4,
    ).fit(X)
    bounds = []
    for _ in range(4):
        weights, means, covariance, bound = brute_force_step(X, weights, means, [covariance] * k, tied)
        bounds.append(bound)
    np.testing.assert_allclose(model.lower_bounds_, bounds, rtol=1e-10)
    np.testing.assert_allclose(model.weights_, weights, rtol=1e-9)
    np.testing.assert_allclose(model.means_, means, rtol=1e-10)
    np.testing.assert_allclose(model.covariances_, shaped(covariance), rtol=1e-9)
    np.testing.assert_allclose(model.precisions_, shaped(np.linalg.inv(covariance)), rtol=1e-9)
    factors = model.precisions_cholesky_
    assert factors.shape == model.covariances_.shape
    squared = factors @ factors.T if factors.ndim == 2 else factors**2
    np.testing.assert_allclose(squared, model.precisions_, rtol=1e-10)
    n_shared = {"tied_diag": d, "tied_spherical": 1, "tied": d * (d + 1) // 2}[covariance_type]
    n_parameters = (k - 1) + k * d + n_shared
    penalty = model.bic(X) + 2 * model.score(X) * len(X)
    np.testing.assert_allclose(penalty, n_parameters * np.log(len(X)), rtol=1e-9)


@pytest.mark.parametrize(
    ("covariance_type", "n_components", "bic"),
    [
        *(("full", k, bic) for k, bic in enumerate((829.9782, 574.0178, 580.8389), 1)),
        *(("tied", k, bic) for k, bic in enumerate((829.9782, 688.0972, 632.9633), 1)),
        *(("diag", k, bic) for k, bic in enumerate((1522.1202, 857.5515, 743.9974), 1)),  # mclust: 744.6317
        ("spherical", 1, 1804.0854),
        ("tied_spherical", 1, 1804.0854),
        ("tied_diag", 1, 1522.1202),
    ],
)
def test_a_few_default_starts_find_the_iris_models_of_mclust(covariance_type, n_components, bic):
    """The table that mclust prints for iris (VVV, EEE, VVI, VII); where its own tolerance shows, scikit-learn's."""
    X = TABLES["iris"]
    model = GaussianMixture(
        n_components, covariance_type=covariance_type, tol=1e-9, max_iter=2000, n_init=5, random_state=0
    ).fit(X)
    assert model.converged_
    assert model.bic(X) == pytest.approx(bic, abs=6e-5)


def both_k_means(X, init, sample_weight=None, **parameters):
    parameters |= {"n_clusters": len(init), "init": init, "n_init": 1}
    return (
        KMeans(**parameters).fit(X, sample_weight=sample_weight),
        cluster.KMeans(**parameters).fit(X, sample_weight=sample_weight),
    )


def assert_same_clusters(ours, theirs, X):
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.labels_.dtype == theirs.labels_.dtype
    assert (ours.labels_ == theirs.labels_).all()
    assert (ours.predict(X) == theirs.predict(X)).all()
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, **CLOSE)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_, **CLOSE)
    np.testing.assert_allclose(ours.score(X), theirs.score(X), **CLOSE)
    # Theirs subtracts squares: a distance of nothing is a square root of rounding.
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize(
    "parameters", [{}, {"tol": 0.0}, {"max_iter": 2}, {"algorithm": "elkan", "tol": 1e-2}], ids=str
)
@pytest.mark.parametrize("name", TABLES)
def test_k_means_takes_the_same_steps(name, parameters):
    X = TABLES[name]
    init = X[np.random.default_rng(3).choice(len(X), 5, replace=False)]
    ours, theirs = both_k_means(X, init, **parameters)
    assert_same_clusters(ours, theirs, X)
    fitted = KMeans(5, init=init, **parameters)
    assert (fitted.fit_predict(X) == theirs.labels_).all()
    np.testing.assert_allclose(fitted.fit_transform(X), ours.transform(X), rtol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_k_means_weighs_rows_as_scikit_learn(name):
    X, rng = TABLES[name], np.random.default_rng(4)
    init = X[rng.choice(len(X), 4, replace=False)]
    weights = rng.exponential(size=len(X)) * (rng.random(len(X)) > 0.2)
    ours, theirs = both_k_means(X, init, weights)
    assert_same_clusters(ours, theirs, X)
    weighed = ours.score(X, sample_weight=weights), theirs.score(X, sample_weight=weights)
    np.testing.assert_allclose(*weighed, **CLOSE)


@pytest.mark.parametrize("max_iter", [1, 2, 300])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_empty_clusters_take_the_farthest_rows_as_in_scikit_learn(name, weighted, max_iter):
    X, rng = TABLES[name], np.random.default_rng(5)
    X = X + 1e-3 * X.std(0) * rng.standard_normal(X.shape)  # no two rows are equally far
    weights = rng.uniform(0.5, 2.0, len(X)) if weighted else None
    middle, far = X.mean(0), 1e3 * X.std(0)
    init = np.vstack([middle, middle + far, middle - far, X[0]])
    with pytest.warns(DegenerateComponentWarning, match=r"Components \[1, 2\] lost their rows"):
        ours, theirs = both_k_means(X, init, weights, max_iter=max_iter)
    assert_same_clusters(ours, theirs, X)
    assert ours.n_effective_components_ == 4


def test_a_fixed_point_of_k_means_stays_fixed():
    X = TABLES["blobs"]
    first = KMeans(4, random_state=0, tol=0.0).fit(X)
    again = KMeans(4, init=first.cluster_centers_).fit(X)
    assert again.n_iter_ == 1
    np.testing.assert_allclose(again.cluster_centers_, first.cluster_centers_, rtol=1e-14)


def test_k_means_finds_inertias_as_good_as_scikit_learns():
    X = TABLES["wine"]
    theirs = cluster.KMeans(6, n_init=20, random_state=0).fit(X)
    ours = KMeans(6, n_init=10, random_state=0).fit(X)
    assert ours.inertia_ <= 1.001 * theirs.inertia_


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_given_means_leave_the_rest_of_the_start_to_init_params(covariance):
    """As in scikit-learn: a start of given labels with other means is that of the labels with those means."""
    x = load_iris().data
    means, labels = x[[0, 60, 120]], np.arange(len(x)) % 3
    ours = GaussianMixture(
        3, covariance_type=covariance, means_init=means, init_params=labels, max_iter=1, reg_covar=1e-6, tol=0
    )
    ours.fit(x)
    spreads = [np.cov(x[labels == k].T, bias=True) + 1e-6 * np.eye(4) for k in range(3)]
    precisions = {
        "full": np.linalg.inv(spreads),
        "tied": np.linalg.inv(np.mean(spreads, 0)),
        "diag": [1 / np.diag(spread) for spread in spreads],
        "spherical": [1 / np.diag(spread).mean() for spread in spreads],
    }[covariance]
    peer = mixture.GaussianMixture(
        3,
        covariance_type=covariance,
        means_init=means,
        weights_init=np.full(3, 1 / 3),
        precisions_init=precisions,
        max_iter=1,
        tol=0,
    ).fit(x)
    np.testing.assert_allclose(ours.means_, peer.means_, rtol=1e-8)
    np.testing.assert_allclose(ours.covariances_, peer.covariances_, rtol=1e-8)
