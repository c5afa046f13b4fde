"""Averages of models: Bayes' rule, stacking at its optimum, Jensen's inequality."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import logsumexp, softmax
from sklearn import mixture
from sklearn.base import clone
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import NotFittedError

import mixcoder
from mixcoder import BayesianGaussianMixture, EmbeddedMixture, GaussianMixture, KMeans, Mixture, ModelAverage
from mixcoder.errors import CorruptModelError, DataError, DataTypeError, UnknownModelError
from mixcoder.estimators.model_average import stacking_weights

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = load_iris().data[np.random.default_rng(0).permutation(150)]
TRAIN, HELD_OUT = IRIS[:90], IRIS[90:]


@pytest.fixture(scope="module")
def models():
    return [
        *(GaussianMixture(k, covariance_type="diag", random_state=0).fit(TRAIN) for k in (1, 2, 4)),
        GaussianMixture(2, random_state=0).fit(TRAIN),
        BayesianGaussianMixture(3, random_state=0).fit(TRAIN),
        mixture.GaussianMixture(3, random_state=0).fit(TRAIN),
    ]


def densities(models, X):
    return np.stack([getattr(m, "log_predictive", m.score_samples)(X) for m in models], 1)


def test_likelihood_weights_are_bayes_rule(models):
    prior = np.array([1.0, 2.0, 0.0, 1.0, 3.0, 1.0])
    average = ModelAverage.from_rows(models, HELD_OUT, "likelihood", prior=prior)
    with np.errstate(divide="ignore"):
        expected = softmax(np.log(prior) + densities(models, HELD_OUT).sum(0))
    np.testing.assert_allclose(average.weights, expected, rtol=1e-9, atol=1e-300)
    assert average.weights[2] == 0.0
    doubled = ModelAverage.from_rows(
        models, HELD_OUT, "likelihood", prior=prior, sample_weight=np.full(len(HELD_OUT), 2.0)
    )
    np.testing.assert_allclose(
        doubled.weights, softmax(np.log(prior + 1e-300) + 2 * densities(models, HELD_OUT).sum(0))
    )


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_criteria_stand_in_for_the_evidence(models, criterion):
    known = [m for m in models if hasattr(m, criterion)]
    average = ModelAverage.from_rows(known, TRAIN, criterion)
    expected = softmax([-0.5 * getattr(m, criterion)(TRAIN) for m in known])
    np.testing.assert_allclose(average.weights, expected, rtol=1e-10)
    with pytest.raises(ValueError, match=f"BayesianGaussianMixture has no {criterion}"):
        ModelAverage.from_rows(models, TRAIN, criterion)


@pytest.mark.parametrize("criterion", ["stacking", "likelihood"])
def test_jensen_the_average_is_at_least_as_good_as_its_members_on_average(models, criterion):
    average = ModelAverage.from_rows(models, HELD_OUT, criterion)
    each = densities(models, HELD_OUT)
    np.testing.assert_allclose(average.weights.sum(), 1.0, rtol=1e-12)
    with np.errstate(divide="ignore"):
        expected = logsumexp(each + np.log(average.weights), axis=1)
    np.testing.assert_allclose(average.log_prob(HELD_OUT), expected, rtol=1e-9)
    assert (average.score_samples(HELD_OUT) >= each @ average.weights - 1e-12).all()
    assert average.score(HELD_OUT) == pytest.approx(expected.mean())


def test_stacking_is_stationary_and_beats_every_member(models):
    average = ModelAverage.from_rows(models, HELD_OUT)
    each = densities(models, HELD_OUT)
    gains = np.exp(each - average.log_prob(HELD_OUT)[:, None]).mean(0)
    assert (gains <= 1 + 1e-8).all()
    assert np.abs((gains - 1) * average.weights).max() < 1e-6
    assert 0 <= average.gap <= 1e-9
    assert average.score(HELD_OUT) >= each.mean(0).max() - 1e-9
    rng = np.random.default_rng(0)
    for other in rng.dirichlet(np.full(len(models), 0.3), 200):
        assert (
            logsumexp(each + np.log(other + 1e-300), axis=1).mean()
            <= average.score(HELD_OUT) + average.gap + 1e-12
        )


def test_stacking_is_exact_where_the_answer_is_known():
    # Rows that one model alone explains: its weight is their share.
    sure = torch.tensor([[0.0, -np.inf]] * 3 + [[-np.inf, 0.0]], dtype=torch.float64)
    weights, gap = stacking_weights(sure, torch.ones(4, dtype=torch.float64))
    assert weights.tolist() == pytest.approx([0.75, 0.25], rel=1e-12)
    assert gap <= 1e-10
    weights, _ = stacking_weights(sure, torch.tensor([1.0, 1.0, 1.0, 9.0], dtype=torch.float64))
    assert weights.tolist() == pytest.approx([0.25, 0.75], rel=1e-12)
    # Two models, random densities: a search along the line
    logs = np.random.default_rng(1).normal(size=(30, 2))
    best = optimize.minimize_scalar(
        lambda w: -logsumexp(logs + np.log([w, 1 - w]), axis=1).mean(),
        bounds=(1e-9, 1 - 1e-9),
        method="bounded",
        options={"xatol": 1e-12},
    )
    weights, _ = stacking_weights(torch.tensor(logs), torch.ones(30, dtype=torch.float64))
    assert float(weights[0]) == pytest.approx(best.x, abs=1e-5)
    # The better of two models of which one is better everywhere
    weights, _ = stacking_weights(
        torch.tensor(logs[:, :1] + [0.0, -1.0]), torch.ones(30, dtype=torch.float64)
    )
    assert float(weights[0]) == pytest.approx(1.0, abs=1e-8)


def test_stacking_of_copies_ends_at_once(models):
    average = ModelAverage.from_rows([models[0]] * 3, HELD_OUT)
    np.testing.assert_allclose(average.weights, 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(average.log_prob(HELD_OUT), models[0].score_samples(HELD_OUT), rtol=1e-12)


def test_the_evidence_finds_the_number_of_components():
    X = make_blobs(400, 2, centers=[[0, 0], [9, 0], [0, 9]], random_state=0)[0]
    models = [
        BayesianGaussianMixture(
            k,
            weight_concentration_prior_type="dirichlet_distribution",
            weight_concentration_prior=1.0,
            random_state=0,
            max_iter=1000,
        ).fit(X)
        for k in (1, 2, 3, 4)
    ]
    average = ModelAverage.from_evidence(models)
    assert np.argmax(average.weights) == 2
    evidence = [m.lower_bound_ for m in models]
    modes = np.log([1, 2, 6, 24])
    np.testing.assert_allclose(average.weights, softmax(np.array(evidence) + modes), rtol=1e-8, atol=1e-200)
    with pytest.raises(ValueError, match="GaussianMixture has no evidence"):
        ModelAverage.from_evidence([GaussianMixture(2, random_state=0).fit(X)])
    with pytest.raises(ValueError, match="has no evidence"):
        ModelAverage.from_evidence([mixture.BayesianGaussianMixture(n_components=2, random_state=0).fit(X)])


@pytest.mark.parametrize("name", ["temperature", "posterior_temperature"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_bound_at_another_temperature_is_no_evidence(name, value):
    model = BayesianGaussianMixture(2, random_state=0, **{name: value}).fit(TRAIN)
    model.set_params(**{name: 1.0})  # what counts is how it was fitted
    good = BayesianGaussianMixture(2, random_state=0).fit(TRAIN)
    with pytest.raises(ValueError, match=rf"{name}={value:g}.*fit it with {name}=1, or use from_rows"):
        ModelAverage.from_evidence([good, model])


@pytest.mark.parametrize("kind", ["dirichlet_process", "dirichlet_distribution"])
def test_evidence_is_of_the_same_number_of_rows(kind):
    def fitted(k, rows, weights=None, **more):
        model = BayesianGaussianMixture(k, weight_concentration_prior_type=kind, random_state=0, **more)
        return model.fit(rows, sample_weight=weights)

    first = fitted(1, TRAIN)
    for other in (fitted(2, TRAIN[1:]), fitted(2, TRAIN, np.full(len(TRAIN), 2.0))):
        with pytest.raises(ValueError, match="different numbers of rows"):
            ModelAverage.from_evidence([first, other])
    same = [
        fitted(3, TRAIN, mean_precision_prior=100.0),
        fitted(2, TRAIN.astype(np.float32)),
        fitted(2, TRAIN[:45].repeat(2, 0)),  # how many is all that a fit remembers of its rows
        fitted(2, TRAIN[:45], np.full(45, 2.0)),
    ]
    assert ModelAverage.from_evidence([first, *same]).weights.sum() == pytest.approx(1.0)


def test_the_average_is_a_density_that_can_be_drawn_from():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 1))
    models = [
        GaussianMixture(1).fit(X - 5.0),
        BayesianGaussianMixture(2, random_state=0).fit(X),
        mixture.GaussianMixture(2, random_state=0).fit(np.vstack([X + 4.0, X + 9.0])),
    ]
    average = ModelAverage(models, np.log([0.2, 0.5, 0.3]))
    np.testing.assert_allclose(average.weights, [0.2, 0.5, 0.3], rtol=1e-12)
    grid = np.sinh(np.linspace(-12, 12, 20_001))
    density = np.exp(average.log_prob(grid[:, None]))
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-4)
    rows, index = average.sample(20_000, random_state=0)
    np.testing.assert_allclose(np.bincount(index) / 20_000, average.weights, atol=0.015)
    assert rows.shape == (20_000, 1)
    again = average.sample(20_000, random_state=0)
    np.testing.assert_array_equal(again[0], rows)
    assert not np.array_equal(average.sample(20_000, random_state=1)[0], rows)
    assert rows[index == 0].mean() == pytest.approx(-5.0 + X.mean(), abs=0.1)
    third = mixture.GaussianMixture(2, random_state=0).fit(np.vstack([X + 4.0, X + 9.0]))
    assert stats.ks_2samp(rows[index == 2][:, 0], third.sample(5000)[0][:, 0]).pvalue > 1e-4


def test_a_row_is_explained_by_the_model_that_expected_it(models):
    average = ModelAverage.from_rows(models, HELD_OUT, "stacking")
    shares = average.model_proba(HELD_OUT)
    np.testing.assert_allclose(shares.sum(1), 1.0, rtol=1e-12)
    expected = np.exp(densities(models, HELD_OUT)) * average.weights
    np.testing.assert_allclose(shares, expected / expected.sum(1, keepdims=True), rtol=1e-8, atol=1e-300)


def test_components_of_models_that_only_number_them_otherwise_are_the_same():
    model = GaussianMixture(3, random_state=0).fit(IRIS)
    order = [2, 0, 1]
    other = GaussianMixture.from_parameters(
        model.weights_[order], model.means_[order], model.covariances_[order]
    )
    average = ModelAverage([model, other], [0.0, 1.0])
    np.testing.assert_allclose(average.predict_proba(IRIS), model.predict_proba(IRIS), rtol=1e-7, atol=1e-10)
    with pytest.raises(ValueError, match=r"models of as many, got \[3, 2\]"):
        ModelAverage([model, GaussianMixture(2, random_state=0).fit(IRIS)], [0.0, 0.0]).predict_proba(IRIS)


def test_tensors_answer_with_tensors(models):
    own = models[:5]
    average = ModelAverage.from_rows(own, torch.tensor(HELD_OUT))
    assert isinstance(average.log_prob(torch.tensor(HELD_OUT)), torch.Tensor)
    np.testing.assert_allclose(average.weights, ModelAverage.from_rows(own, HELD_OUT).weights, atol=1e-12)
    assert repr(average).startswith("ModelAverage(GaussianMixture: ")


@pytest.mark.parametrize(
    ("call", "category", "message"),
    [
        (lambda m: ModelAverage([], []), ValueError, "at least one"),
        (lambda m: ModelAverage([GaussianMixture()], [0.0]), NotFittedError, "not fitted"),
        (lambda m: ModelAverage([KMeans(2).fit(IRIS)], [0.0]), TypeError, "KMeans is no density"),
        (lambda m: ModelAverage(m, [0.0]), ValueError, r"log_evidence must have shape \(6,\)"),
        (lambda m: ModelAverage(m, [np.nan] * 6), ValueError, "log_evidence contains NaN"),
        (lambda m: ModelAverage(m, [np.inf] + [0.0] * 5), ValueError, "below inf"),
        (lambda m: ModelAverage(m, [-np.inf] * 6), ValueError, "finite for a model"),
        (
            lambda m: ModelAverage(m, [0.0] * 6, prior=[-1.0] + [1.0] * 5),
            ValueError,
            "prior must be non-negative",
        ),
        (lambda m: ModelAverage.from_rows(m, HELD_OUT, "loo"), ValueError, "criterion='loo' is not one of"),
        (lambda m: ModelAverage.from_rows(m, HELD_OUT, prior=[1.0] * 6), ValueError, "takes no prior"),
        (
            lambda m: ModelAverage.from_rows(m, HELD_OUT, sample_weight=[0.0] * 60),
            DataError,
            "positive sum",
        ),
        (
            lambda m: ModelAverage.from_rows(m[:1], HELD_OUT, "bic", sample_weight=[1.0] * 60),
            ValueError,
            "takes no sample_weight",
        ),
        (
            lambda m: ModelAverage([m[0], GaussianMixture(1).fit(IRIS[:, :2])], [0.0, 0.0]),
            ValueError,
            r"different numbers of features: \[2, 4\]",
        ),
        (
            lambda m: stacking_weights(torch.tensor([[0.0, 0.0], [-torch.inf] * 2]), torch.ones(2)),
            DataError,
            "Row 1 is impossible",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(models, call, category, message):
    with pytest.raises(category, match=message):
        call(models)


def require_same(average, other, X):
    """Two averages agree in every answer, to the last bit."""
    np.testing.assert_array_equal(other.weights, average.weights)
    assert other.gap == average.gap
    np.testing.assert_array_equal(other.log_prob(X), average.log_prob(X))
    np.testing.assert_array_equal(other.model_proba(X), average.model_proba(X))
    for one, two in zip(average.sample(20, random_state=3), other.sample(20, random_state=3), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_copy_a_clone_and_a_pickle_give_the_same_answers(models):
    average = ModelAverage.from_rows(models, HELD_OUT)
    for other in (
        clone(average),
        pickle.loads(pickle.dumps(average)),
        clone({"average": average})["average"],
    ):
        assert other is not average
        require_same(average, other, HELD_OUT)


def test_one_file_holds_an_average_with_all_of_its_models(models, tmp_path):
    own = [
        *models[:5],
        Mixture("student_t", 2, random_state=0).fit(TRAIN),
        EmbeddedMixture(n_components=2, n_axes=1, random_state=0).fit(TRAIN),
    ]
    for average in (ModelAverage.from_rows(own, HELD_OUT), ModelAverage(own[:3], [0.0, -np.inf, 1.0])):
        digest = average.save(tmp_path / "average.mixcoder")
        same = mixcoder.load(tmp_path / "average.mixcoder", expected_sha256=digest)
        assert [type(m) for m in same.models] == [type(m) for m in average.models]
        require_same(average, same, HELD_OUT)
        assert same.save(tmp_path / "again.mixcoder") == digest
    with pytest.raises(FileExistsError):
        average.save(tmp_path / "average.mixcoder", overwrite=False)


def test_a_file_takes_only_models_of_this_library_and_weights_that_sum_to_one(models, tmp_path):
    path = tmp_path / "average.mixcoder"
    with pytest.raises(
        UnknownModelError, match=r"GaussianMixture is not one of .* of mixcoder; .* pickle it"
    ):
        ModelAverage.from_rows(models, HELD_OUT).save(path)
    assert not path.exists()
    ModelAverage(models[:2], [0.0, 0.0]).save(path)
    file = mixcoder.modelfile.read(path)
    for wrong in (np.log([0.5, 0.6]), np.log([1.0]), np.array([np.nan, 0.0])):
        mixcoder.modelfile.write(path, file.kind, {**file.arrays, "log_weights": wrong}, file.metadata)
        with pytest.raises(CorruptModelError, match="ModelAverage"):
            mixcoder.load(path)


@pytest.mark.parametrize("evidence", [["a", "b"], None, [1j, 0.0]])
def test_what_is_no_evidence_is_refused_by_name(models, evidence):
    with pytest.raises(DataTypeError, match="log_evidence must be numbers"):
        ModelAverage(models[:2], evidence)
    with pytest.raises(TypeError, match="sequence of fitted models, got GaussianMixture"):
        ModelAverage(models[0], [0.0])
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least one sample"):
            ModelAverage(models[:2], [0.0, -np.inf]).sample(n)
