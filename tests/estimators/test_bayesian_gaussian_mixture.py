"""Variational Bayes: scikit-learn's steps, the exact evidence where it is known, and what it tends to."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import betaln, digamma, gammaln, logsumexp, multigammaln
from sklearn import cluster, mixture
from sklearn.datasets import load_iris, make_blobs

import mixcoder
from mixcoder import BayesianGaussianMixture, GaussianMixture
from mixcoder.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ("full", "tied", "diag", "spherical")
TYPES = ("dirichlet_process", "dirichlet_distribution")
PRECISIONS = [*((kind, "wishart") for kind in KINDS), ("diag", "gamma"), ("spherical", "gamma")]
IRIS = load_iris().data
BLOBS = make_blobs(150, 2, centers=3, random_state=2)[0] * [1.0, 100.0] + [300.0, -20.0]
LABELS = np.arange(len(IRIS)) * 3 // len(IRIS)


def k_means_labels(X, k):
    return cluster.KMeans(k, n_init=1, random_state=np.random.RandomState(0)).fit(X).labels_


def log_normalizer(beta, nu, scatter, d):
    """Return log Z of a normal-Wishart density by scipy."""
    log_det = np.linalg.slogdet(scatter)[1]
    whole = 0.5 * d * np.log(2 * np.pi / beta) + 0.5 * nu * d * np.log(2)
    return whole + multigammaln(0.5 * nu, d) - 0.5 * nu * log_det


def missing_constant(theirs, X):
    """Return what scikit-learn's lower bound leaves out."""
    (n, d), k = X.shape, theirs.n_components
    prior = np.asarray(theirs.covariance_prior_)
    scatter = {0: lambda: prior * np.eye(d), 1: lambda: np.diag(prior), 2: lambda: prior}[prior.ndim]()
    start = log_normalizer(theirs.mean_precision_prior_, theirs.degrees_of_freedom_prior_, scatter, d)
    constants = 0.5 * d * np.log(2 * np.pi) + 0.25 * d * (d - 1) * np.log(np.pi)
    alpha = theirs.weight_concentration_prior_
    if theirs.weight_concentration_prior_type == "dirichlet_process":
        weights = k * betaln(1.0, alpha)
    else:
        weights = k * gammaln(alpha) - gammaln(k * alpha)
    return k * (constants - start) - weights - 0.5 * n * d * np.log(2 * np.pi)


# scikit-learn's steps


@pytest.mark.parametrize(("max_iter", "reg_covar"), [(1, 0.0), (3, 1e-6), (300, 1e-6)])
@pytest.mark.parametrize("weights", TYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("X", [IRIS, BLOBS], ids=["iris", "blobs"])
def test_the_same_steps_as_scikit_learn(X, kind, weights, max_iter, reg_covar):
    common = {
        "n_components": 4,
        "covariance_type": kind,
        "weight_concentration_prior_type": weights,
        "max_iter": max_iter,
        "reg_covar": reg_covar,
    }
    ours = BayesianGaussianMixture(**common, init_params=k_means_labels(X, 4)).fit(X)
    theirs = mixture.BayesianGaussianMixture(**common, random_state=0).fit(X)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    for name in (
        *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
        *("weight_concentration_", "mean_precision_", "degrees_of_freedom_"),
        *("weight_concentration_prior_", "mean_precision_prior_", "degrees_of_freedom_prior_"),
        *("mean_prior_", "covariance_prior_"),
    ):
        mine, other = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert mine.shape == other.shape, name
        np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-10, err_msg=name)
    for name in ("predict", "predict_proba", "score_samples", "score"):
        np.testing.assert_allclose(getattr(ours, name)(X), getattr(theirs, name)(X), rtol=1e-8, atol=1e-10)
    whole = np.ravel(theirs.lower_bounds_) + missing_constant(theirs, X)
    np.testing.assert_allclose(ours.lower_bounds_, whole, rtol=1e-9)
    assert ours.lower_bound_ == ours.lower_bounds_[-1] == ours.history_["bound"][-1]


@pytest.mark.parametrize("kind", KINDS)
def test_given_priors_are_scikit_learns(kind):
    scatter = {"full": np.eye(2) * [3.0, 50.0], "diag": np.array([3.0, 50.0]), "spherical": 7.0}
    scatter["tied"] = scatter["full"]
    common = {
        "n_components": 3,
        "covariance_type": kind,
        "weight_concentration_prior": 0.3,
        "mean_precision_prior": 2.5,
        "mean_prior": [310.0, 5.0],
        "degrees_of_freedom_prior": 4.5,
        "covariance_prior": scatter[kind],
        "max_iter": 20,
        "reg_covar": 0.0,
    }
    ours = BayesianGaussianMixture(**common, init_params=k_means_labels(BLOBS, 3)).fit(BLOBS)
    theirs = mixture.BayesianGaussianMixture(**common, random_state=0).fit(BLOBS)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-9)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-8)
    np.testing.assert_allclose(ours.weights_, theirs.weights_, rtol=1e-9)
    np.testing.assert_allclose(ours.covariance_prior_, scatter[kind], rtol=1e-14)
    np.testing.assert_allclose(ours.mean_prior_, [310.0, 5.0], rtol=1e-14)
    assert ours.lower_bound_ == pytest.approx(
        float(np.ravel(theirs.lower_bound_)[0]) + missing_constant(theirs, BLOBS), rel=1e-9
    )


def test_two_warm_steps_are_two_steps():
    for kind in KINDS:
        common = {"covariance_type": kind, "tol": 0.0, "init_params": LABELS}
        warm = BayesianGaussianMixture(3, max_iter=2, warm_start=True, **common)
        twice = warm.fit(IRIS).fit(IRIS)
        once = BayesianGaussianMixture(3, max_iter=4, **common).fit(IRIS)
        for name in ("weights_", "means_", "covariances_", "lower_bound_"):
            np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-10, err_msg=name)


# The evidence


def student_evidence(X, beta, nu, mean, scatter):
    """Return log p(X) of one normal-Wishart component: each row given those before it is Student's."""
    d, total = X.shape[1], 0.0
    for x in X:
        dof = nu - d + 1
        shape = scatter * (beta + 1) / (beta * dof)
        total += stats.multivariate_t(mean, shape, df=dof).logpdf(x)
        scatter = scatter + beta / (beta + 1) * np.outer(x - mean, x - mean)
        mean, beta, nu = (beta * mean + x) / (beta + 1), beta + 1, nu + 1
    return total


def one_component(X, kind, precisions, **parameters):
    """Return the bound of one component and the exact evidence."""
    d = X.shape[1]
    model = BayesianGaussianMixture(1, covariance_type=kind, precision_prior_type=precisions, **parameters)
    model.fit(X)
    beta, nu, mean = model.mean_precision_prior_, model.degrees_of_freedom_prior_, model.mean_prior_
    scatter = np.asarray(model.covariance_prior_)
    if kind in ("full", "tied"):
        return model.lower_bound_, student_evidence(X, beta, nu, mean, scatter)
    if kind == "diag":
        columns = [
            student_evidence(X[:, [i]], beta, nu, mean[[i]], scatter[[i], None].reshape(1, 1))
            for i in range(d)
        ]
        return model.lower_bound_, sum(columns)
    # lambda ~ Gamma(nu d / 2, d V / 2), integrated numerically, the mean in closed form
    n = len(X)
    gap = ((X - X.mean(0)) ** 2).sum() + beta * n / (beta + n) * ((X.mean(0) - mean) ** 2).sum()

    def log_joint(log_precision):
        precision = np.exp(log_precision)
        prior = stats.gamma(0.5 * nu * d, scale=2 / (d * scatter)).logpdf(precision) + log_precision
        likelihood = 0.5 * n * d * np.log(precision / (2 * np.pi)) - 0.5 * precision * gap
        return prior + likelihood + 0.5 * d * np.log(beta / (beta + n))

    grid = np.linspace(-10, 10, 4001)
    peak = grid[np.argmax(log_joint(grid))]
    top = log_joint(peak)
    area = integrate.quad(lambda u: np.exp(log_joint(u) - top), peak - 6, peak + 6, epsabs=1e-12, limit=200)
    return model.lower_bound_, top + np.log(area[0])


@pytest.mark.parametrize(("kind", "precisions"), PRECISIONS)
@pytest.mark.parametrize("weights", TYPES)
def test_one_component_reaches_the_exact_evidence(kind, precisions, weights):
    X = np.random.default_rng(3).normal(size=(9, 2)) * [1.0, 3.0] + [4.0, 0.0]
    parameters = {
        "weight_concentration_prior_type": weights,
        "mean_precision_prior": 0.7,
        "mean_prior": [3.0, 1.0],
        "degrees_of_freedom_prior": 3.5,
    }
    bound, exact = one_component(X, kind, precisions, **parameters)
    if weights == "dirichlet_process":  # every row took the first stick: E[v^9]
        exact += betaln(10.0, 1.0) - betaln(1.0, 1.0)
    if kind in ("full", "tied") or precisions == "gamma":
        assert bound == pytest.approx(exact, rel=1e-9)
    else:
        assert exact - 5.0 < bound < exact - 1e-3  # Hadamard's share


@pytest.mark.parametrize(
    ("kind", "precisions"), [("full", "wishart"), ("diag", "gamma"), ("diag", "wishart")]
)
def test_the_bound_is_below_the_evidence_of_all_assignments(kind, precisions):
    X = np.array([[0.0], [0.4], [2.9], [3.3], [0.1]])
    beta, nu, mean, scatter, alpha = 0.5, 1.5, np.array([1.0]), np.array([[0.3]]), 0.8
    terms = []
    for assignment in itertools.product(range(2), repeat=len(X)):
        rows = [X[np.equal(assignment, k)] for k in range(2)]
        counts = np.array([len(part) for part in rows])
        weights = (
            gammaln(alpha + counts).sum() - 2 * gammaln(alpha) + gammaln(2 * alpha) - gammaln(2 * alpha + 5)
        )
        terms.append(
            weights + sum(student_evidence(part, beta, nu, mean, scatter) for part in rows if len(part))
        )
    exact = logsumexp(terms)
    model = BayesianGaussianMixture(
        2,
        covariance_type=kind,
        precision_prior_type=precisions,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=alpha,
        mean_precision_prior=beta,
        mean_prior=mean,
        degrees_of_freedom_prior=nu,
        covariance_prior=scatter if kind == "full" else scatter[0],
        init_params=[0, 0, 1, 1, 0],
        tol=1e-10,
        max_iter=500,
    ).fit(X)
    assert exact - 4.0 < model.lower_bound_ < exact


def drawn_posterior(model, n_draws, rng):
    """Return draws of log-weights (s, k), means (s, k, d) and precisions (s, k, d, d) from q."""
    k, d = model.means_.shape
    if isinstance(model.weight_concentration_, tuple):
        a, b = model.weight_concentration_
        sticks = rng.beta(a, b, size=(n_draws, k))
        rest = np.cumsum(np.log1p(-sticks), axis=1)
        log_weights = np.log(sticks) + np.hstack([np.zeros((n_draws, 1)), rest[:, :-1]])
    else:
        log_weights, sticks = np.log(rng.dirichlet(model.weight_concentration_, n_draws)), None
    precisions = np.empty((n_draws, k, d, d))
    means = np.empty((n_draws, k, d))
    for j in range(k):
        nu = model.degrees_of_freedom_[j]
        scale = model.precisions_[j] / nu
        precisions[:, j] = stats.wishart(nu, scale).rvs(n_draws, random_state=rng).reshape(n_draws, d, d)
        covariances = np.linalg.inv(precisions[:, j]) / model.mean_precision_[j]
        factors = np.linalg.cholesky(covariances)
        means[:, j] = model.means_[j] + (factors @ rng.normal(size=(n_draws, d, 1)))[:, :, 0]
    return log_weights, sticks, means, precisions


@pytest.mark.parametrize("weights", TYPES)
def test_the_bound_is_the_expectation_that_defines_it(weights):
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(8, 2)), rng.normal([3.0, 1.0], size=(6, 2))])
    model = BayesianGaussianMixture(
        2,
        weight_concentration_prior_type=weights,
        weight_concentration_prior=1.3,
        init_params=np.repeat([0, 1], [8, 6]),
        tol=1e-12,
        max_iter=2000,
    ).fit(X)
    code, d = model.predict_proba(X), 2
    log_weights, sticks, means, precisions = drawn_posterior(model, 20_000, rng)
    log_det = np.linalg.slogdet(precisions)[1]
    # E_q[log p(X, Z | theta)] - E_q[log q(Z)]
    value = -np.sum(code * np.log(np.maximum(code, 1e-300)))
    gaps = X[:, None, None] - means
    squares = np.einsum("nskd,skde,nske->nsk", gaps, precisions, gaps)
    log_joint = log_weights + 0.5 * log_det - 0.5 * squares - 0.5 * d * np.log(2 * np.pi)
    draws = np.einsum("nk,nsk->s", code, log_joint)
    # log p(theta) - log q(theta)
    beta0, nu0 = model.mean_precision_prior_, model.degrees_of_freedom_prior_
    for j in range(2):
        nu, beta = model.degrees_of_freedom_[j], model.mean_precision_[j]
        for sign, dof, strength, mean, scatter in (
            (1, nu0, beta0, model.mean_prior_, model.covariance_prior_),
            (-1, nu, beta, model.means_[j], model.covariances_[j] * nu),
        ):
            gap = means[:, j] - mean
            traces = np.einsum("sde,ed->s", precisions[:, j], scatter)
            quadratic = strength * np.einsum("sd,sde,se->s", gap, precisions[:, j], gap)
            density = 0.5 * (dof - d) * log_det[:, j] - 0.5 * (traces + quadratic)
            draws += sign * (density - log_normalizer(strength, dof, scatter, d))
    if weights == "dirichlet_process":
        for prior, sign in (((1.0, 1.3), 1), (model.weight_concentration_, -1)):
            draws += sign * stats.beta(*prior).logpdf(sticks).sum(1)
    else:
        for alpha, sign in ((np.full(2, 1.3), 1), (model.weight_concentration_, -1)):
            draws += sign * (((alpha - 1) * log_weights).sum(1) + gammaln(alpha.sum()) - gammaln(alpha).sum())
    error = draws.std() / np.sqrt(len(draws))
    assert abs(value + draws.mean() - model.lower_bound_) < 4 * error
    assert error < 0.03


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("posterior_temperature", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("kind", "precisions"), PRECISIONS)
def test_the_bound_never_falls(kind, precisions, posterior_temperature, temperature):
    rng = np.random.default_rng(1)
    for weights in TYPES:
        model = BayesianGaussianMixture(
            4,
            covariance_type=kind,
            precision_prior_type=precisions,
            weight_concentration_prior_type=weights,
            posterior_temperature=posterior_temperature,
            temperature=temperature,
            init_params=rng.dirichlet(np.ones(4), len(IRIS)),
            tol=0.0,
            max_iter=25,
        ).fit(IRIS)
        bounds = np.array(model.lower_bounds_)
        assert np.diff(bounds).min(initial=0.0) >= -1e-10 * abs(bounds).max()
        assert bounds[-1] > bounds[0]


@pytest.mark.parametrize(("kind", "precisions"), PRECISIONS)
def test_single_precision_follows_double(kind, precisions):
    common = {"covariance_type": kind, "precision_prior_type": precisions, "init_params": LABELS}
    double = BayesianGaussianMixture(3, **common).fit(IRIS)
    single = BayesianGaussianMixture(3, **common).fit(IRIS.astype(np.float32))
    assert single.means_.dtype == single.score_samples(IRIS.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(single.means_, double.means_, rtol=2e-3)
    assert single.lower_bound_ == pytest.approx(double.lower_bound_, rel=1e-4)
    assert "fell" not in single.stop_reason_


def test_a_bound_of_many_rows_in_single_precision_rises_as_far_as_in_double():
    rng = np.random.default_rng(0)
    rows = (3 * rng.normal(size=(8, 8)))[rng.integers(8, size=6000)] + rng.normal(size=(6000, 8))
    poor = np.eye(8)[np.arange(6000) % 8]
    common = {"covariance_type": "tied", "init_params": poor, "max_iter": 200}
    single, double = (
        BayesianGaussianMixture(8, **common).fit(rows.astype(dtype)) for dtype in (np.float32, np.float64)
    )
    assert single.lower_bound_ == pytest.approx(double.lower_bound_, abs=0.1)
    assert single.n_iter_ == double.n_iter_


def test_k_means_starts_a_fit_of_files_as_of_rows_in_memory(tmp_path):
    np.save(tmp_path / "rows.npy", IRIS)
    far, near = (
        BayesianGaussianMixture(3, init_params="kmeans", random_state=0).fit(rows)
        for rows in (mixcoder.open_blocks(tmp_path / "rows.npy"), IRIS)
    )
    assert far.lower_bound_ == pytest.approx(near.lower_bound_, rel=1e-6)


# What it tends to


@pytest.mark.parametrize(("kind", "precisions"), PRECISIONS)
@pytest.mark.parametrize("posterior_temperature", [0.0, 1.0])
@pytest.mark.parametrize("weights", TYPES)
def test_rows_that_outnumber_the_prior_give_maximum_likelihood(
    kind, precisions, posterior_temperature, weights
):
    common = {"covariance_type": kind, "init_params": LABELS, "max_iter": 3000, "reg_covar": 0.0}
    likely = GaussianMixture(3, tol=1e-12, **common).fit(IRIS)
    model = BayesianGaussianMixture(
        3,
        precision_prior_type=precisions,
        posterior_temperature=posterior_temperature,
        weight_concentration_prior_type=weights,
        tol=1e-4,
        **common,
    ).fit(IRIS, sample_weight=np.full(len(IRIS), 1e9))
    np.testing.assert_allclose(model.means_, likely.means_, rtol=1e-5)
    np.testing.assert_allclose(model.covariances_, likely.covariances_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.weights_, likely.weights_, rtol=1e-4)
    assert model.lower_bound_ / 1e9 / len(IRIS) == pytest.approx(likely.lower_bound_, rel=1e-6)


@pytest.mark.parametrize("weights", TYPES)
def test_at_temperature_zero_the_fit_is_the_posterior_mode(weights):
    model = BayesianGaussianMixture(
        3,
        posterior_temperature=0.0,
        weight_concentration_prior_type=weights,
        weight_concentration_prior=0.7,
        init_params=LABELS,
        tol=1e-11,
        max_iter=5000,
    ).fit(IRIS)
    d, as_tensor = 4, lambda value: torch.tensor(np.asarray(value), dtype=torch.float64)
    means = as_tensor(model.means_).requires_grad_()
    factors = as_tensor(model.precisions_cholesky_).requires_grad_()
    if weights == "dirichlet_process":
        a, b = map(as_tensor, model.weight_concentration_)
        logits = (a / b).log().requires_grad_()
        log_sticks, log_rest = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
        log_weights = log_sticks + torch.cat([log_rest.new_zeros(1), log_rest.cumsum(0)[:-1]])
        # Beta(1, gamma) with respect to d(logit)
        log_prior = (log_sticks + 0.7 * log_rest - betaln(1.0, 0.7)).sum()
    else:
        logits = as_tensor(model.weights_).log().requires_grad_()
        log_weights = logits - logits.logsumexp(0)
        log_prior = 0.7 * log_weights.sum() - 3 * gammaln(0.7) + gammaln(2.1)
    gaps = as_tensor(IRIS)[:, None] - means
    log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
    squares = torch.einsum("nkd,kde->nke", gaps, factors).square().sum(2)
    log_prob = torch.logsumexp(log_weights + log_det - 0.5 * squares - 0.5 * d * np.log(2 * np.pi), 1)
    # The normal-Wishart density with respect to the measure that affine maps leave unchanged
    prior_gaps = means - as_tensor(model.mean_prior_)
    beta0, nu0 = model.mean_precision_prior_, model.degrees_of_freedom_prior_
    precisions = factors @ factors.mT
    traces = (precisions * as_tensor(model.covariance_prior_)).sum((1, 2))
    quadratic = beta0 * torch.einsum("kd,kde,ke->k", prior_gaps, precisions, prior_gaps)
    density = nu0 * log_det - 0.5 * (traces + quadratic)
    start = log_normalizer(beta0, nu0, model.covariance_prior_, d)
    objective = log_prob.sum() + log_prior + (density - start).sum()
    assert model.lower_bound_ == pytest.approx(objective.item(), rel=1e-10)
    gradients = torch.autograd.grad(objective, [means, factors, logits])
    for gradient, value in zip(gradients, (means, factors, logits), strict=True):
        along = torch.triu(gradient) if gradient.ndim == 3 else gradient
        assert float((along * value.detach().abs().clamp_min(1e-2)).abs().max()) < 1e-3


def test_the_posterior_temperature_joins_its_ends():
    fits = {
        t: BayesianGaussianMixture(3, posterior_temperature=t, init_params=LABELS, max_iter=10, tol=0.0).fit(
            IRIS
        )
        for t in (0.0, 1e-7, 1.0)
    }
    plain = BayesianGaussianMixture(3, init_params=LABELS, max_iter=10, tol=0.0).fit(IRIS)
    np.testing.assert_allclose(fits[1e-7].means_, fits[0.0].means_, rtol=1e-5)
    assert fits[1e-7].lower_bound_ == pytest.approx(fits[0.0].lower_bound_, rel=1e-6)
    np.testing.assert_allclose(fits[1e-7].log_predictive(IRIS), fits[0.0].log_predictive(IRIS), atol=1e-5)
    assert plain.lower_bounds_ == fits[1.0].lower_bounds_
    np.testing.assert_allclose(
        fits[0.0].log_predictive(IRIS), fits[0.0].mixture_.score_samples(IRIS), rtol=1e-9
    )


def test_components_that_nothing_needs_fade():
    X = np.random.default_rng(0).normal(size=(400, 2))
    X[:200] += 8.0
    # One fit in several rests where a component keeps a single row: 13 nats below, which the best of ten does not.
    model = BayesianGaussianMixture(
        8, weight_concentration_prior=1e-3, random_state=0, max_iter=2000, n_init=10
    ).fit(X)
    assert model.n_effective_components_ == 2
    assert np.sort(model.weights_)[-2:].sum() > 0.999
    assert model.converged_


# The predictive density


@pytest.mark.parametrize("posterior_temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_predictive_density_integrates_to_one(kind, posterior_temperature):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(5, 1)), rng.normal(size=(9, 1)) + 6.0])
    model = BayesianGaussianMixture(
        2, covariance_type=kind, posterior_temperature=posterior_temperature, random_state=0
    ).fit(X)
    grid = np.sinh(np.linspace(-16, 16, 40_001))  # tails of few degrees of freedom are long
    density = np.exp(model.log_predictive(grid[:, None]))
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-4)
    log_score = model.score_samples(grid[:, None])
    assert integrate.trapezoid(np.exp(log_score), grid) < 1.0 + 1e-9


@pytest.mark.parametrize("weights", TYPES)
def test_the_predictive_density_is_the_mean_over_the_posterior(weights):
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(10, 2)), rng.normal([4.0, 0.0], size=(8, 2))])
    model = BayesianGaussianMixture(
        2, weight_concentration_prior_type=weights, init_params=np.repeat([0, 1], [10, 8])
    ).fit(X)
    log_weights, _, means, precisions = drawn_posterior(model, 40_000, rng)
    at = np.array([[0.0, 0.0], [2.0, 1.0], [5.0, -2.0]])
    gaps = at[:, None, None] - means
    squares = np.einsum("nskd,skde,nske->nsk", gaps, precisions, gaps)
    log_joint = log_weights + 0.5 * np.linalg.slogdet(precisions)[1] - 0.5 * squares - np.log(2 * np.pi)
    each = np.exp(log_joint).sum(2) / np.exp(log_weights).sum(1).mean()  # what the sticks leave is shared out
    error = each.std(1) / np.sqrt(each.shape[1])
    assert (np.abs(each.mean(1) - np.exp(model.log_predictive(at))) < 5 * error).all()


def test_the_predictive_density_of_each_shape_is_students():
    for kind in KINDS:
        model = BayesianGaussianMixture(1, covariance_type=kind).fit(IRIS)
        beta, nu = model.mean_precision_[0], np.ravel(model.degrees_of_freedom_)[0]
        inflation, d, covariance = (beta + 1) / beta, 4, model.covariances_
        if kind == "diag":
            scale = np.sqrt(inflation * covariance[0])
            expected = stats.t(nu, model.means_[0], scale).logpdf(IRIS).sum(1)
        else:
            dof = nu * d if kind == "spherical" else nu - d + 1
            matrix = (
                covariance if kind == "tied" else covariance[0] * (np.eye(d) if kind == "spherical" else 1.0)
            )
            factor = 1.0 if kind == "spherical" else nu / dof
            expected = stats.multivariate_t(model.means_[0], inflation * factor * matrix, df=dof).logpdf(IRIS)
        np.testing.assert_allclose(model.log_predictive(IRIS), expected, rtol=1e-10)


# Rows and weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_counts_how_often_a_row_was_seen(kind):
    rng = np.random.default_rng(0)
    times = rng.integers(0, 4, len(IRIS))
    common = {"covariance_type": kind, "max_iter": 30}
    weighted = BayesianGaussianMixture(3, init_params=LABELS, **common).fit(IRIS, sample_weight=times)
    repeated = BayesianGaussianMixture(3, init_params=LABELS.repeat(times), **common).fit(
        IRIS.repeat(times, axis=0)
    )
    for name in ("means_", "covariances_", "weights_", "mean_precision_", "covariance_prior_"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-8, err_msg=name)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-10)
    twice = BayesianGaussianMixture(3, init_params=LABELS, **common).fit(IRIS, sample_weight=2.0 * times)
    assert twice.mean_precision_.sum() > 1.9 * weighted.mean_precision_.sum()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e17, 1e300])
def test_weights_that_count_no_possible_number_of_rows_are_refused(scale):
    with pytest.raises(DataError, match="sample_weight says how often each row was seen"):
        BayesianGaussianMixture(2).fit(IRIS, sample_weight=np.full(len(IRIS), scale))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_files_give_the_same_bits(kind, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 3))[rng.integers(4, size=20_000)] * 5 + rng.normal(size=(20_000, 3))
    for i, piece in enumerate(np.split(X, [1000, 7000])):
        np.save(tmp_path / f"{i}.npy", piece)
    rows = mixcoder.open_blocks(tmp_path)
    here, there = (
        BayesianGaussianMixture(4, covariance_type=kind, random_state=1, max_iter=10).fit(data)
        for data in (X, rows)
    )
    assert here.lower_bounds_ == there.lower_bounds_
    assert np.array_equal(here.covariances_, there.covariances_)
    assert np.array_equal(here.log_predictive(X), there.log_predictive(rows))
    assert np.array_equal(here.score_samples(X), there.score_samples(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_answer_with_tensors(kind):
    model = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(torch.tensor(IRIS))
    plain = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(IRIS)
    assert isinstance(model.log_predictive(torch.tensor(IRIS)), torch.Tensor)
    assert isinstance(model.weight_concentration_[0], torch.Tensor)
    np.testing.assert_array_equal(model.means_.numpy(), plain.means_)


# Files, questions, errors


@pytest.mark.parametrize("weights", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_back_from_a_file(kind, weights, tmp_path):
    model = BayesianGaussianMixture(
        3, covariance_type=kind, weight_concentration_prior_type=weights, random_state=0, warm_start=True
    ).fit(IRIS)
    path = tmp_path / "bayes.mixcoder"
    model.save(path)
    for other in (mixcoder.load(path), pickle.loads(pickle.dumps(model))):
        for name in (
            *("weights_", "weight_concentration_", "mean_precision_", "degrees_of_freedom_", "means_"),
            *("covariances_", "mean_prior_", "covariance_prior_", "lower_bound_", "n_effective_components_"),
            *("weight_concentration_prior_", "mean_precision_prior_", "degrees_of_freedom_prior_"),
        ):
            np.testing.assert_array_equal(getattr(other, name), getattr(model, name), err_msg=name)
        for name in ("log_predictive", "score_samples", "predict_proba", "reconstruct"):
            np.testing.assert_array_equal(getattr(other, name)(IRIS), getattr(model, name)(IRIS))
        assert other.fit(IRIS).n_iter_ <= 2  # it goes on from where it was


def test_generative_questions_are_put_to_the_posterior_means():
    model = BayesianGaussianMixture(3, random_state=0).fit(IRIS)
    plain = model.mixture_
    assert isinstance(plain, GaussianMixture)
    np.testing.assert_allclose(plain.weights_, model.weights_, rtol=1e-12)
    np.testing.assert_allclose(plain.covariances_, model.covariances_, rtol=1e-10)
    holes = IRIS[::10].copy()
    holes[:, 2] = np.nan
    np.testing.assert_allclose(model.impute(holes), plain.impute(holes), rtol=1e-9)
    np.testing.assert_allclose(model.marginal([0, 2]).means_, model.means_[:, [0, 2]], rtol=1e-12)
    assert model.condition([0], [5.0]).n_features_in_ == 3
    sight = model.posterior(IRIS[:5, :1], np.eye(4)[:1], 0.1)
    np.testing.assert_allclose(sight.mean, plain.posterior(IRIS[:5, :1], np.eye(4)[:1], 0.1).mean, rtol=1e-9)
    rows, index = model.sample(20_000)
    np.testing.assert_allclose(np.bincount(index) / 20_000, model.weights_, atol=0.02)
    np.testing.assert_allclose(rows.mean(0), model.weights_ @ model.means_, atol=0.05)
    entropy = -np.log2(model.weights_[model.predict(IRIS)]).mean()
    hard = BayesianGaussianMixture(3, temperature=0.0, random_state=0).fit(IRIS)
    assert hard.rate(IRIS) == pytest.approx(-np.log2(hard.weights_[hard.predict(IRIS)]).mean())
    assert entropy > 0


@pytest.mark.parametrize("name", ["bic", "aic", "icl", "partial_fit"])
def test_what_has_no_meaning_is_not_offered_and_says_why(name):
    model = BayesianGaussianMixture(2)
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=rf"has no {name}: "):
        getattr(model, name)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"degrees_of_freedom_prior": 3.0}, "degrees_of_freedom_prior' should be greater than 3"),
        ({"mean_prior": [1.0, 2.0]}, r"mean_prior' should have the shape of \(4,\), but got \(2,\)"),
        ({"mean_prior": [np.nan] * 4}, "mean_prior.*NaN"),
        ({"covariance_prior": np.eye(3)}, r"covariance_prior' should have the shape of \(4, 4\)"),
        ({"covariance_prior": -np.eye(4)}, "covariance_prior', should be symmetric, positive-definite"),
        ({"covariance_prior": [1.0] * 4, "covariance_type": "tied"}, "covariance_prior.*shape"),
        ({"covariance_prior": [1.0, 1.0, 0.0, 1.0], "covariance_type": "diag"}, "covariance_prior.*positive"),
        ({"covariance_prior": [1.0] * 4, "covariance_type": "spherical"}, "covariance_prior.*shape"),
        ({"precision_prior_type": "gamma"}, "is for covariance_type 'diag' or 'spherical', got 'full'"),
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior' parameter"),
        ({"mean_precision_prior": -1.0}, "mean_precision_prior' parameter"),
        ({"covariance_prior": 0.0, "covariance_type": "spherical"}, "covariance_prior' parameter"),
        ({"posterior_temperature": 1.5}, "posterior_temperature' parameter"),
        ({"weight_concentration_prior_type": "pitman_yor"}, "weight_concentration_prior_type' parameter"),
        ({"covariance_type": "tied_diag"}, "covariance_type' parameter"),
        ({"init_params": [0, 1]}, r"shape \(150,\)"),
    ],
)
def test_what_makes_no_prior_is_refused(parameters, message):
    model = BayesianGaussianMixture(2, **parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(IRIS)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("how", ["auto", "kmeans", "k-means++", "random", "random_from_data"])
def test_every_way_to_begin_ends_at_a_bound_as_good(how):
    X = make_blobs(300, 3, centers=3, random_state=0)[0]
    model = BayesianGaussianMixture(3, init_params=how, n_init=3, random_state=0, max_iter=500).fit(X)
    best = BayesianGaussianMixture(3, init_params="kmeans", random_state=0, max_iter=500).fit(X)
    if how == "random":  # responsibilities of no meaning: a start among many
        assert model.lower_bound_ <= best.lower_bound_ + 0.5
    else:
        assert model.lower_bound_ == pytest.approx(best.lower_bound_, abs=0.5)


# The prior itself


@pytest.mark.parametrize("temperature", [0.25, 1.0])
@pytest.mark.parametrize(("kind", "precisions"), PRECISIONS)
def test_tilts_are_derivatives_of_the_normaliser(kind, precisions, temperature):
    # d log Z / d nu is half the expected log-determinant: what tilts add to the plug-in one.
    from mixcoder.estimators._gaussian_parameters import FAMILIES
    from mixcoder.priors import conjugate_prior
    from mixcoder.statistics import Moments

    d = 3
    eye = torch.eye(d, dtype=torch.float64)
    prior = conjugate_prior(
        FAMILIES[kind](),
        mean=torch.zeros(d, dtype=torch.float64),
        mean_precision=1.5,
        degrees_of_freedom=4.0,
        scatter={"full": eye, "tied": eye, "diag": eye.diagonal()}.get(kind, eye[0, 0]),
        floor=torch.full((d,), 1e-13, dtype=torch.float64),
        exact=precisions == "gamma",
    )
    x = torch.randn(20, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = prior.gaussian.statistics(None, x, torch.ones(20, 1, dtype=torch.float64))
    assert isinstance(sums, Moments)
    gaussians, beta, nu = prior.posterior(sums)
    step = 1e-5

    def at(change):
        # The scatter V stays, so V / nu does not.
        moved = {
            name: value * nu[0] / (nu[0] + change)
            for name, value in vars(gaussians).items()
            if name in ("covariances", "covariance", "variances")
        }
        if kind in ("full", "tied"):
            one = next(iter(moved.values()))
            whiteners = torch.linalg.inv(torch.linalg.cholesky(one))
            parameters = type(gaussians)(gaussians.means, one, whiteners)
        else:
            parameters = type(gaussians)(gaussians.means, *moved.values())
        return prior.log_normalizer(parameters, beta, nu + change, temperature)[0]

    slope = (at(step) - at(-step)) / (2 * step)
    expected = prior.tilts(beta, nu, temperature) + 0.5 * d * temperature / beta
    plug_in = 0.5 * prior._log_det_precisions(gaussians)
    assert float(slope) == pytest.approx(float(expected + plug_in), abs=1e-7)


def test_expected_log_weights_are_those_of_scipy():
    from mixcoder.priors import Dirichlet, StickBreaking

    counts = torch.tensor([5.0, 0.5, 3.0], dtype=torch.float64)
    alpha = 0.4 + counts.numpy()
    rule = Dirichlet(0.4)
    np.testing.assert_allclose(
        rule.expected_log_weights(rule.posterior(counts), 1.0),
        digamma(alpha) - digamma(alpha.sum()),
        rtol=1e-12,
    )
    sticks = StickBreaking(0.4)
    a, b = sticks.posterior(counts).numpy().T
    assert b.tolist() == pytest.approx([3.9, 3.4, 0.4])
    assert float(sticks.log_normalizer(sticks.posterior(counts), 1.0)) == pytest.approx(betaln(a, b).sum())
    rest = digamma(b) - digamma(a + b)
    expected = digamma(a) - digamma(a + b) + np.concatenate([[0.0], np.cumsum(rest)[:-1]])
    np.testing.assert_allclose(
        sticks.expected_log_weights(sticks.posterior(counts), 1.0), expected, rtol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("distance", "precision"), [(1e9, None), (1e12, None), (1e200, None), (1e5, 1e6)])
def test_a_prior_mean_beyond_the_digits_of_the_rows_is_refused(kind, distance, precision):
    model = BayesianGaussianMixture(
        2, covariance_type=kind, mean_prior=np.full(4, distance), mean_precision_prior=precision
    )
    with pytest.raises(DataError, match=r"mean_prior is .* standard deviations from the mean of the rows"):
        model.fit(IRIS)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("kind", KINDS)
def test_a_far_prior_mean_costs_what_its_distance_says(kind):
    """With one component a tenfold distance divides each determinant's one direction, or all of them, by a hundred."""
    bounds = [
        BayesianGaussianMixture(1, covariance_type=kind, mean_prior=IRIS.mean(0) + far).fit(IRIS).lower_bound_
        for far in (1e3, 1e4, 1e5)
    ]
    n_directions = 1 if kind in ("full", "tied") else 4
    degrees = 4 + len(IRIS)
    cost = 0.5 * degrees * n_directions * np.log(100)
    np.testing.assert_allclose(-np.diff(bounds), cost, rtol=1e-4)


# Priors beyond what arithmetic holds


@pytest.mark.parametrize("weights", TYPES)
@pytest.mark.parametrize("kind", ["full", "spherical"])
@pytest.mark.parametrize(
    "name", ["weight_concentration_prior", "degrees_of_freedom_prior", "mean_precision_prior"]
)
def test_the_largest_prior_keeps_a_rising_bound_and_a_larger_one_is_refused_by_name(name, kind, weights):
    def model(value):
        settings = {"weight_concentration_prior_type": weights, "covariance_type": kind, name: value}
        return BayesianGaussianMixture(3, random_state=0, acceleration="none", **settings)

    most = 1e13 if name == "mean_precision_prior" else 1e8
    bounds = np.array(model(most).fit(IRIS).lower_bounds_)
    assert np.diff(bounds).min() > -1e-15 * np.abs(bounds).max() - 1e-5
    for value in (1.01 * most, 1e20, 1e300):
        with pytest.raises(ValueError, match=f"{name}=.* counts as that many rows.* at most"):
            model(value).fit(IRIS)


@pytest.mark.parametrize("weights", TYPES)
def test_the_bound_of_a_large_concentration_is_that_of_its_beta_functions(weights):
    """With one component the weights add their own evidence and nothing else: none, or a ratio of beta functions."""

    def bound(concentration):
        settings = {"weight_concentration_prior_type": weights, "weight_concentration_prior": concentration}
        model = BayesianGaussianMixture(1, random_state=0, **settings)
        return model.fit(IRIS).lower_bound_

    if weights == "dirichlet_distribution":
        assert bound(1e8) == pytest.approx(bound(1.0), abs=1e-5)
    else:
        # log B(1 + N, gamma) - log B(1, gamma) = log N! - sum_{i=1}^{N} log(gamma + i)
        exact = gammaln(151.0) - np.log(1e8 + np.arange(1, 151)).sum()
        start = gammaln(151.0) - np.log(1.0 + np.arange(1, 151)).sum()
        assert bound(1e8) - bound(1.0) == pytest.approx(exact - start, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_without_tolerance_a_fit_ends_where_the_bound_no_longer_changes_and_says_so(kind):
    model = BayesianGaussianMixture(
        3, covariance_type=kind, tol=0.0, max_iter=2000, random_state=0, acceleration="none"
    ).fit(IRIS)
    assert model.converged_
    assert model.stop_reason_ == "the bound no longer changes, to the last digit (tol=0)"
    assert model.lower_bounds_[-1] == model.lower_bounds_[-2]


def test_covariances_in_no_units_of_the_rows_are_refused_by_name():
    for settings in ({"covariance_prior": 1e300 * np.eye(4)}, {"reg_covar": 1e300}):
        with pytest.raises(DataError, match=f"{next(iter(settings))} is .* times the variance of the rows"):
            BayesianGaussianMixture(2, random_state=0, **settings).fit(IRIS)


def test_words_of_scikit_learn_come_as_a_data_error():
    model = BayesianGaussianMixture(2, random_state=0).fit(IRIS)
    for rows in (IRIS[:0], IRIS[:, :2], IRIS[0]):
        with pytest.raises(DataError):
            model.predict(rows)
