"""The laws of the autoencoder: what codes are, what they cost, what comes back, and what fitting raises."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from mixcoder import GaussianMixture, KMeans, Mixture
from mixcoder.components import GaussianDiagonal, GaussianFull, GaussianTiedSpherical
from mixcoder.encoders import Argmax, Posterior, Tempered

X = load_iris().data
BLOBS = make_blobs(300, 2, centers=4, cluster_std=1.5, random_state=3)[0]
COVARIANCES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
MODELS = {
    "KMeans": lambda: KMeans(4, random_state=0),
    "soft": lambda: GaussianMixture(3, random_state=0),
    "hard": lambda: GaussianMixture(3, covariance_type="diag", temperature=0.0, random_state=0),
    "tempered": lambda: GaussianMixture(3, covariance_type="tied", temperature=2.0, random_state=0),
    "student": lambda: Mixture("student_t", 3, random_state=0),
}
HARD = ("KMeans", "hard")


@pytest.fixture(scope="module")
def fitted():
    return {name: make().fit(X) for name, make in MODELS.items()}


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


# Codes and what comes back


@pytest.mark.parametrize("name", MODELS)
def test_a_code_is_a_component_or_a_point_of_the_simplex(name, fitted):
    code = fitted[name].encode(X)
    if name in HARD:
        assert code.dtype == np.int64
        assert code.shape == (len(X),)
        assert (code == fitted[name].predict(X)).all()
    else:
        assert code.shape == (len(X), 3)
        assert (code >= 0).all()
        np.testing.assert_allclose(code.sum(1), 1.0, rtol=1e-12)
        assert (code.argmax(1) == fitted[name].predict(X)).all()


@pytest.mark.parametrize("name", MODELS)
def test_decoding_is_linear_on_the_simplex(name, fitted):
    model = fitted[name]
    k = model._n_features_out
    prototypes = model.decode(np.arange(k))
    np.testing.assert_allclose(model.decode(np.eye(k)), prototypes, rtol=1e-12)
    means = getattr(model, "cluster_centers_", getattr(model, "means_", prototypes))
    np.testing.assert_allclose(prototypes, means, rtol=1e-12)
    codes = np.random.default_rng(0).dirichlet(np.ones(k), size=20)
    rows = model.decode(codes)
    np.testing.assert_allclose(rows, codes @ prototypes, rtol=1e-10)
    assert (rows >= prototypes.min(0) - 1e-9).all()
    assert (rows <= prototypes.max(0) + 1e-9).all()
    assert model.decode(np.empty((0, k))).shape == (0, 4)


@pytest.mark.parametrize("name", MODELS)
def test_reconstruction_is_decoding_of_encoding(name, fitted):
    model = fitted[name]
    np.testing.assert_allclose(model.reconstruct(X), model.decode(model.encode(X)), rtol=1e-12)
    gaps = X - model.reconstruct(X)
    assert model.distortion(X) == pytest.approx((gaps**2).sum() / len(X), rel=1e-12)
    code = model.predict(X) if name == "KMeans" else model.transform(X)
    np.testing.assert_allclose(model.inverse_transform(code), model.reconstruct(X), rtol=1e-10)


def test_k_means_comes_back_from_its_distances(fitted):
    model = fitted["KMeans"]
    distances = model.transform(X)
    np.testing.assert_array_equal(model.inverse_transform(distances), model.cluster_centers_[model.labels_])
    brute = np.linalg.norm(X[:, None] - model.cluster_centers_, axis=2)
    np.testing.assert_allclose(distances, brute, rtol=1e-10)


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.0, 2.0, len(X))], ids=["plain", "weighted"])
def test_the_distortion_of_k_means_is_its_inertia(sample_weight):
    model = KMeans(4, random_state=0).fit(X, sample_weight=sample_weight)
    if sample_weight is None:
        assert model.distortion(X) * len(X) == pytest.approx(model.inertia_, rel=1e-12)
    squares = ((X - model.cluster_centers_[model.labels_]) ** 2).sum(1)
    weights = np.ones(len(X)) if sample_weight is None else sample_weight
    assert model.inertia_ == pytest.approx(squares @ weights, rel=1e-12)
    assert -model.score(X, sample_weight=sample_weight) == pytest.approx(model.inertia_, rel=1e-12)
    shares = np.bincount(model.labels_, weights, minlength=4) / weights.sum()
    np.testing.assert_allclose(model.weights_, shares, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_rate_is_the_length_of_the_codes(name, fitted):
    model = fitted[name]
    k, code, weights = model._n_features_out, model.encode(X), np.asarray(model.weights_)
    assert model.rate(X, flat=True) == math.log2(k)
    if name in HARD:
        bits = -np.log2(weights[code])
    else:
        bits = np.where(
            code > 0, code * (np.log2(np.where(code > 0, code, 1.0)) - np.log2(weights)), 0.0
        ).sum(1)
    assert model.rate(X) == pytest.approx(bits.mean(), rel=1e-9)
    assert model.rate(X) >= 0.0


@pytest.mark.parametrize("name", HARD)
def test_an_entropy_coder_never_pays_more_than_a_flat_code(name):
    rng = np.random.default_rng(0)
    for k in (2, 5, 9):
        rows = np.vstack([rng.normal(6 * i, 1.0, (rng.integers(10, 80), 2)) for i in range(k)])
        model = MODELS[name]().set_params(**{"n_clusters" if name == "KMeans" else "n_components": k})
        model = quietly(model.fit, rows)
        shares = np.bincount(model.predict(rows), minlength=k) / len(rows)
        entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
        assert model.rate(rows) >= entropy - 1e-9
        assert model.rate(rows) <= math.log2(k) + 1e-9
        if name == "KMeans":
            assert model.rate(rows) == pytest.approx(entropy, rel=1e-9)


@pytest.mark.parametrize("n_components", [1, 2, 4])
def test_more_components_distort_less(n_components):
    few = KMeans(n_components, random_state=0).fit(BLOBS)
    more = KMeans(2 * n_components, random_state=0, n_init=5).fit(BLOBS)
    assert more.distortion(BLOBS) < few.distortion(BLOBS)
    assert more.rate(BLOBS) > few.rate(BLOBS)


# Densities


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_samples_have_the_moments_of_the_mixture(covariance_type):
    model = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    rows, index = model.sample(40_000)
    assert rows.shape == (40_000, 4)
    shares = np.bincount(index, minlength=2) / len(index)
    np.testing.assert_allclose(shares, model.weights_, atol=4 * 0.5 / 200)
    d = X.shape[1]
    dense = {
        "full": lambda c, k: c[k],
        "tied": lambda c, k: c,
        "diag": lambda c, k: np.diag(c[k]),
        "spherical": lambda c, k: c[k] * np.eye(d),
        "tied_diag": lambda c, k: np.diag(c),
        "tied_spherical": lambda c, k: c * np.eye(d),
    }[covariance_type]
    for k in range(2):
        drawn, covariance = rows[index == k], dense(model.covariances_, k)
        errors = 5 * np.sqrt(np.diag(covariance) / len(drawn))
        assert (np.abs(drawn.mean(0) - model.means_[k]) < errors).all()
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        assert (np.abs(np.cov(drawn.T) - covariance) < 6 * scale / np.sqrt(len(drawn))).all()
    again, _ = model.sample(40_000)
    np.testing.assert_array_equal(rows, again)  # an int as random_state: the same draws
    for wrong in (0, -1, 1.5, True, "a"):
        with pytest.raises(ValueError, match="n_samples must be an int of at least 1"):
            model.sample(wrong)


def test_criteria_are_what_their_definitions_say(fitted):
    model = fitted["soft"]
    n, k, d = len(X), 3, X.shape[1]
    n_parameters = (k - 1) + k * d + k * d * (d + 1) // 2
    log_prob, posterior = model.score_samples(X), model.predict_proba(X)
    bic = -2 * log_prob.sum() + n_parameters * np.log(n)
    assert model.bic(X) == pytest.approx(bic)
    assert model.aic(X) == pytest.approx(-2 * log_prob.sum() + 2 * n_parameters)
    assert model.icl(X) == pytest.approx(bic - 2 * np.log(posterior.max(1)).sum())
    assert model.icl(X) >= model.bic(X)
    assert model.score(X) == pytest.approx(log_prob.mean())
    whole = GaussianMixture(random_state=0).fit(X)
    assert whole.icl(X) == pytest.approx(whole.bic(X))


@pytest.mark.parametrize("name", ["soft", "hard", "tempered", "student"])
def test_probabilities_and_densities_belong_together(name, fitted):
    model = fitted[name]
    rows = torch.tensor(X)
    log_joint = model.model_.log_likelihood(rows).numpy() + np.log(model.weights_)
    np.testing.assert_allclose(model.predict_proba(X), softmax(log_joint, axis=1), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.score_samples(X), logsumexp(log_joint, axis=1), rtol=1e-9)
    assert (model.predict(X) == log_joint.argmax(1)).all()
    if name == "tempered":
        np.testing.assert_allclose(model.encode(X), softmax(log_joint / 2.0, axis=1), rtol=1e-6, atol=1e-9)
    if name == "hard":
        np.testing.assert_array_equal(model.transform(X), np.eye(3)[log_joint.argmax(1)])


# Weights


@pytest.mark.parametrize("name", MODELS)
def test_a_weight_is_a_number_of_repetitions(name):
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, len(X))
    repeated, order = X.repeat(weights, axis=0), rng.permutation(len(X))
    model = MODELS[name]().fit(X[order], sample_weight=weights[order])
    expected = MODELS[name]().fit(rng.permutation(repeated))
    assert (model.predict(X) == expected.predict(X)).all()
    np.testing.assert_allclose(model.weights_, expected.weights_, rtol=1e-6)
    np.testing.assert_allclose(model.reconstruct(X), expected.reconstruct(X), rtol=1e-6)
    mean = name != "KMeans"
    assert model.score(X, sample_weight=weights) == pytest.approx(model.score(repeated), rel=1e-9), (
        "a mean" if mean else "a sum"
    )


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_a_start_belongs_to_the_data_not_to_their_order_or_units(covariance_type, scale):
    table = np.round(X * 2) / 2  # many rows alike, many distances alike
    first = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(table)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(X))
        other = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(scale * table[order])
        np.testing.assert_allclose(other.weights_, first.weights_, rtol=1e-5)
        np.testing.assert_allclose(other.means_, scale * first.means_, rtol=1e-5)


# Streams


@pytest.mark.parametrize("sample_weight", [False, True])
def test_partial_fit_of_k_means_keeps_exact_sums(sample_weight):
    rng = np.random.default_rng(0)
    batches = [rng.permutation(BLOBS)[: rng.integers(30, 90)] for _ in range(6)]
    model = KMeans(4, random_state=0)
    counts, sums = np.zeros(4), np.zeros((4, 2))
    for batch in batches:
        weights = rng.uniform(0.0, 100.0, len(batch)) if sample_weight else np.ones(len(batch))
        before = model.cluster_centers_ if hasattr(model, "cluster_centers_") else None
        model.partial_fit(batch, sample_weight=weights if sample_weight else None)
        if before is None:
            # The first batch's start is the model's own; from there on everything can be counted.
            counts = np.asarray(model._cluster_counts) * (model._weight_unit if sample_weight else 1.0)
            sums = counts[:, None] * model.cluster_centers_
            assert counts.sum() == pytest.approx(weights.sum())
            continue
        nearest = ((batch[:, None] - before) ** 2).sum(2).argmin(1)
        counts += np.bincount(nearest, weights, minlength=4)
        for k in range(4):
            sums[k] += weights[nearest == k] @ batch[nearest == k]
        np.testing.assert_allclose(model.cluster_centers_, sums / counts[:, None], rtol=1e-10)
        np.testing.assert_allclose(model.weights_, counts / counts.sum(), rtol=1e-10)
        assert len(model.labels_) == len(batch)


def test_partial_fit_goes_on_from_fitted_centres_and_counts():
    fitted = KMeans(4, random_state=0).fit(BLOBS)
    centres, counts = fitted.cluster_centers_, np.bincount(fitted.labels_, minlength=4)
    fitted.partial_fit(centres[[2]] + 0.1)
    expected = centres.copy()
    expected[2] += 0.1 / (counts[2] + 1)
    np.testing.assert_allclose(fitted.cluster_centers_, expected, rtol=1e-10)


def test_a_centre_that_no_batch_has_reached_stays_where_it_is():
    model = KMeans(3, init=[[0.0, 0.0], [5.0, 5.0], [1e3, 1e3]])
    for _ in range(2):
        model.partial_fit(BLOBS)
        np.testing.assert_allclose(model.cluster_centers_[2], [1e3, 1e3])
    assert model.n_effective_components_ == 2


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_partial_fit_approaches_the_fit_on_all_rows(covariance_type):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [6.0, 1.0], [-2.0, 7.0]])
    rows = centres[rng.integers(0, 3, 6000)] + rng.standard_normal((6000, 2)) * [1.0, 0.7]
    whole = GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1e-6).fit(rows)
    stream = GaussianMixture(3, covariance_type=covariance_type, random_state=0)
    for batch in np.split(rows, 30):
        stream.partial_fit(batch)
    assert (stream.n_iter_, stream.converged_) == (30, False)
    assert stream.score(rows) > whole.score(rows) - 0.01
    order = np.linalg.norm(stream.means_[:, None] - whole.means_, axis=2).argmin(0)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(stream.means_[order], whole.means_, atol=0.15)
    np.testing.assert_allclose(stream.weights_[order], whole.weights_, atol=0.05)


def test_the_first_batch_is_one_step_of_em():
    start = {"weights_init": [0.5, 0.5], "means_init": X[[0, 100]], "precisions_init": [np.eye(4)] * 2}
    stream = GaussianMixture(2, **start).partial_fit(X)
    once = quietly(GaussianMixture(2, max_iter=1, **start).fit, X)
    np.testing.assert_allclose(stream.means_, once.means_, rtol=1e-12)
    np.testing.assert_allclose(stream.covariances_, once.covariances_, rtol=1e-9, atol=1e-12)
    assert stream.lower_bound_ == pytest.approx(once.lower_bound_)


def test_a_fitted_mixture_learns_from_a_batch_without_forgetting_all():
    model = GaussianMixture(2, random_state=0, tol=1e-8, max_iter=500).fit(X)
    means, n_iter = model.means_, model.n_iter_
    model.partial_fit(X)  # the rows it knows: nothing to learn
    np.testing.assert_allclose(model.means_, means, rtol=1e-4)
    assert model.n_iter_ == n_iter + 1
    model.partial_fit(X[:1] + 100.0)  # one strange row
    moved = np.linalg.norm(model.means_ - means, axis=1)
    assert 0 < moved.max() < 100.0
    assert np.isfinite(model.score(X))


# The default start


def test_two_parallel_cigars_are_told_apart():
    """scikit-learn's k-means start fails here, with an adjusted Rand index of 0.00."""
    scores = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 1000)
        rows = np.column_stack([rng.normal(0.0, 30.0, 1000), rng.normal(6.0 * labels, 1.0)])
        model = GaussianMixture(2, random_state=seed).fit(rows)
        scores.append(adjusted_rand_score(labels, model.predict(rows)))
    assert min(scores) > 0.95


# Temperature


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_temperature_zero_is_hard_em(covariance_type):
    common = {"random_state": 0, "max_iter": 200}
    model = GaussianMixture(3, covariance_type=covariance_type, temperature=0.0, **common).fit(X)
    assert isinstance(model.model_.encoder, Argmax)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-9)
    # A fixed point: parameters are the moments of their own rows, and rows have their best component.
    labels = model.predict(X)
    np.testing.assert_allclose(model.means_, [X[labels == k].mean(0) for k in range(3)], rtol=1e-6)
    np.testing.assert_allclose(model.weights_, np.bincount(labels) / len(X), rtol=1e-6)
    if covariance_type == "full":
        covariances = [np.cov(X[labels == k].T, bias=True) for k in range(3)]
        np.testing.assert_allclose(model.covariances_, covariances, rtol=1e-4, atol=1e-6)
    log_joint = model.model_.log_joint(torch.tensor(X)).numpy()
    assert model.lower_bound_ == pytest.approx(log_joint.max(1).mean(), rel=1e-6)


def test_hard_em_of_small_equal_balls_is_k_means():
    init = BLOBS[[0, 50, 100, 150]]
    labels = np.linalg.norm(BLOBS[:, None] - init, axis=2).argmin(1)
    expected = KMeans(4, init=init, tol=0.0).fit(BLOBS)
    # The smaller the balls, the less the weights of the components matter.
    family = GaussianTiedSpherical(variance=1e-3)
    model = Mixture(family, 4, encoder=Argmax(), init=labels, max_iter=300).fit(BLOBS)
    assert (model.predict(BLOBS) == expected.labels_).all()
    np.testing.assert_allclose(model.decode(np.arange(4)), expected.cluster_centers_, rtol=1e-9)
    assert model.distortion(BLOBS) * len(BLOBS) == pytest.approx(expected.inertia_, rel=1e-9)


def test_cold_codes_approach_those_of_k_means():
    expected = KMeans(4, init=BLOBS[[0, 50, 100, 150]], tol=0.0).fit(BLOBS)
    gaps = []
    for temperature in (4.0, 1.0, 0.1, 0.01):
        model = Mixture(
            GaussianTiedSpherical(variance=1.0),
            4,
            temperature=temperature,
            init=expected.labels_,
            max_iter=1000,
            tol=1e-9,
        ).fit(BLOBS)
        gaps.append(np.abs(model.decode(np.arange(4)) - expected.cluster_centers_).max())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1 * gaps[0]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("family", [GaussianFull(), GaussianDiagonal(), GaussianTiedSpherical()], ids=repr)
def test_the_bound_of_any_temperature_never_falls(family, temperature):
    for acceleration in ("none", "squarem"):
        model = quietly(
            Mixture(
                family,
                3,
                temperature=temperature,
                random_state=0,
                max_iter=60,
                tol=0.0,
                acceleration=acceleration,
            ).fit,
            X,
        )
        bounds = np.array(model.lower_bounds_)
        assert np.all(np.diff(bounds) >= -1e-9 * np.abs(bounds[1:]))
        assert "fell" not in model.stop_reason_


def test_the_bound_is_the_free_energy_of_its_own_codes():
    for temperature in (0.5, 1.0, 3.0):
        model = GaussianMixture(
            3, temperature=temperature, random_state=0, tol=1e-12, max_iter=3000, acceleration="none"
        ).fit(X)
        code, log_joint = model.encode(X), model.model_.log_joint(torch.tensor(X)).numpy()
        entropy = -np.where(code > 0, code * np.log(np.where(code > 0, code, 1.0)), 0.0).sum(1)
        free_energy = (code * log_joint).sum(1) + temperature * entropy
        assert model.lower_bound_ == pytest.approx(free_energy.mean(), rel=1e-8)


def test_hotter_codes_have_more_entropy():
    entropies = []
    for temperature in (0.2, 1.0, 4.0):
        code = (
            GaussianMixture(3, temperature=temperature, random_state=0, means_init=X[[0, 60, 120]])
            .fit(X)
            .encode(X)
        )
        entropies.append(-np.where(code > 0, code * np.log(np.where(code > 0, code, 1.0)), 0.0).sum())
    assert entropies == sorted(entropies)


@pytest.mark.parametrize(("beta", "target"), [(0.2, 1.0), (4.0, 1.0), (0.5, 8.0)])
def test_a_schedule_ends_at_its_target(beta, target):
    schedule = Tempered(beta, target_beta=target)
    model = Mixture("gaussian_diagonal", 3, encoder=schedule, random_state=0, max_iter=300).fit(X)
    betas = model.history_["beta"]
    assert betas[0] == beta
    assert betas[-1] == target
    assert betas == sorted(betas, reverse=beta > target)
    assert model.converged_
    settled = np.array(model.lower_bounds_)[np.array(betas) == target]
    assert np.all(np.diff(settled) >= -1e-9 * np.abs(settled[1:]))
    assert model.model_.encoder == Tempered(target, target_beta=target)
    if target == 1.0:
        np.testing.assert_allclose(model.encode(X), model.predict_proba(X), rtol=1e-9, atol=1e-12)
        plain = Mixture(
            "gaussian_diagonal", 3, encoder=Posterior(), init=model.encode(X), max_iter=500, tol=1e-9
        ).fit(X)
        assert plain.score(X) >= model.score(X) - 1e-9


def test_annealing_stops_no_fit_before_its_end():
    slow = Mixture(
        "gaussian_full", 2, encoder=Tempered(0.01, target_beta=1.0, rate=1.05), random_state=0, max_iter=20
    )
    with pytest.warns(ConvergenceWarning, match="max_iter=20 iterations were used up"):
        slow.fit(X)
    assert slow.n_iter_ == 20
    assert slow.history_["beta"][-1] < 1.0


# Parameters that are given


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_a_mixture_can_be_made_of_parameters(covariance_type):
    fitted = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    made = GaussianMixture.from_parameters(
        fitted.weights_, fitted.means_, fitted.covariances_, covariance_type=covariance_type
    )
    np.testing.assert_allclose(made.score_samples(X), fitted.score_samples(X), rtol=1e-8)
    np.testing.assert_allclose(made.covariances_, fitted.covariances_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(made.precisions_, fitted.precisions_, rtol=1e-6, atol=1e-9)
    assert made.bic(X) == pytest.approx(fitted.bic(X), rel=1e-9)
    assert made.sample(3)[0].shape == (3, 4)
    for wrong, message in (
        (
            (fitted.weights_[:2], fitted.means_, fitted.covariances_),
            r"'weights' should have the shape of \(3,\)",
        ),
        ((fitted.weights_, fitted.means_[0], fitted.covariances_), "means must have shape"),
        ((fitted.weights_, fitted.means_, np.ones((7, 7))), "'covariances' should have the shape of"),
        ((fitted.weights_, fitted.means_, -np.asarray(fitted.covariances_)), "'covariances'.*positive"),
        ((fitted.weights_, fitted.means_ * np.nan, fitted.covariances_), "means contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianMixture.from_parameters(*wrong, covariance_type=covariance_type)


@pytest.mark.parametrize("given", ["labels", "responsibilities", "callable"])
def test_a_start_can_be_given_as_a_code(given):
    labels = (X[:, 2] > 2.5).astype(int)
    init = {
        "labels": labels,
        "responsibilities": 0.8 * np.eye(2)[labels] + 0.1,
        "callable": lambda rows, k, random_state: (np.asarray(rows)[:, 2] > 2.5).astype(int),
    }[given]
    mixture = Mixture("gaussian_full", 2, init=init).fit(X)
    gaussian = GaussianMixture(2, init_params=init).fit(X)
    for model in (mixture, gaussian):
        assert (model.predict(X) == labels).all()
    np.testing.assert_allclose(mixture.score_samples(X), gaussian.score_samples(X), rtol=1e-12)


@pytest.mark.parametrize("how", ["kmeans", "k-means++", "random", "random_from_data"])
def test_every_start_leads_to_a_finite_fit_that_repeats(how):
    fits = [GaussianMixture(3, init_params=how, random_state=seed, max_iter=300).fit(X) for seed in (0, 0, 1)]
    assert all(np.isfinite(model.lower_bound_) for model in fits)
    np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
    best = GaussianMixture(3, init_params=how, random_state=0, max_iter=300, n_init=4).fit(X)
    assert best.lower_bound_ >= fits[0].lower_bound_


def test_parts_of_a_start_can_be_given():
    for part in (
        {"weights_init": [0.2, 0.8]},
        {"means_init": X[[0, 100]]},
        {"precisions_init": np.stack([np.eye(4)] * 2)},
        {"means_init": X[[0, 100]], "precisions_init": np.stack([np.eye(4)] * 2)},
    ):
        model = GaussianMixture(2, random_state=0, max_iter=200, **part).fit(X)
        assert adjusted_rand_score(X[:, 2] > 2.5, model.predict(X)) == 1.0


@pytest.mark.parametrize("seed", [0, np.int64(7), 2**32 - 1])
def test_a_seed_is_the_random_state_that_it_seeds(seed):
    by_seed = GaussianMixture(3, random_state=seed).fit(X)
    by_state = GaussianMixture(3, random_state=np.random.RandomState(seed)).fit(X)
    np.testing.assert_array_equal(by_seed.means_, by_state.means_)
