"""The map of rows and components: scikit-learn's contract, a trace that never falls, and places that mean something."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

import mixcoder
from mixcoder import GaussianMixture
from mixcoder.errors import DataError, UnknownModelError
from mixcoder.estimators import ParametricEmbedding

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([ParametricEmbedding(), ParametricEmbedding(1, absorber=0.5, alpha=1.0, max_iter=5)])
def test_scikit_learn_finds_nothing_to_object_to(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def log_probabilities():
    """Rows around six classes: log-probabilities that fall with the squared distance in five dimensions."""
    generator = np.random.default_rng(0)
    centres = 2 * generator.standard_normal((6, 5))
    rows = np.repeat(centres, 30, axis=0) + generator.standard_normal((180, 5))
    return -0.5 * ((rows[:, None] - centres) ** 2).sum(axis=2)


@pytest.mark.parametrize(
    "settings", [{}, {"absorber": 0.5}, {"absorber": 1.0, "alpha": 1.0, "prior": 0.0}, {"beta": 3.0}]
)
def test_the_trace_never_falls(log_probabilities, settings):
    fitted = ParametricEmbedding(max_iter=30, **settings).fit(log_probabilities)
    assert len(fitted.history_) > 2
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(fitted.history_))
    assert np.isfinite(fitted.embedding_).all()


def test_rows_lie_nearest_to_the_anchor_of_their_class(log_probabilities):
    fitted = ParametricEmbedding().fit(log_probabilities)
    distance = ((fitted.embedding_[:, None] - fitted.anchors_) ** 2).sum(axis=2)
    assert (distance.argmin(1) == log_probabilities.argmax(1)).mean() > 0.9


def test_a_constant_a_row_and_the_order_of_rows_change_nothing(log_probabilities):
    fitted = ParametricEmbedding().fit(log_probabilities)
    shifted = fitted.transform(log_probabilities[::-1] + np.arange(180)[:, None])
    np.testing.assert_allclose(shifted[::-1], fitted.embedding_, atol=1e-6)


def test_a_fitted_mixture_gives_the_probabilities():
    rows = load_iris().data
    mixture = GaussianMixture(3, random_state=0).fit(rows)
    fitted = ParametricEmbedding(model=FrozenEstimator(mixture)).fit(rows)
    assert fitted.anchors_.shape == (3, 2)
    np.testing.assert_allclose(fitted.transform(rows[:10]), fitted.embedding_[:10], atol=1e-6)


def test_without_absorber_and_prior_no_map_is_promised(log_probabilities):
    with pytest.raises(ValueError, match="keep a small prior"):
        ParametricEmbedding(prior=0.0).fit(log_probabilities)


def test_the_end_is_a_maximum_in_codes_and_anchors(log_probabilities):
    fitted = ParametricEmbedding(tol=1e-12).fit(log_probabilities)
    assert fitted.converged_
    assert fitted.gradient_norm_ < 1e-8
    # Recomputed from the definition, and no step in any direction goes up.
    a = np.exp(log_probabilities - log_probabilities.max(1, keepdims=True))
    a /= a.sum(1, keepdims=True)

    def total(v, w):
        logits = -((v[:, None] - w) ** 2).sum(2)
        log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return (a * log_q).sum() - 0.01 * (v**2).sum() - 0.01 * (w**2).sum()

    v, w = fitted.embedding_, fitted.anchors_
    best = total(v, w)
    assert best / len(v) == pytest.approx(fitted.history_[-1], abs=1e-10)
    generator = np.random.default_rng(1)
    for size in (1e-4, 1e-2):
        for _ in range(20):
            assert total(v + size * generator.standard_normal(v.shape), w) < best
            # Below the maximum over the codes, too, but for turns, along which nothing changes.
            assert total(v, w + size * generator.standard_normal(w.shape)) < best + 1e-12


def test_newton_needs_few_steps_a_row_and_many_rows_begin_with_some(log_probabilities):
    many = np.tile(log_probabilities, (60, 1)) + 0.1 * np.random.default_rng(2).standard_normal((10800, 6))
    fitted = ParametricEmbedding().fit(many)
    assert np.median(fitted.n_newton_steps_) <= 6
    # The first rows have done most of the work before all of them are asked.
    alone = ParametricEmbedding(max_iter=1).fit(many[:300])
    assert fitted.history_[-1] - fitted.history_[0] < 0.1 * (fitted.history_[-1] - alone.history_[0])
    assert all(after >= before for before, after in itertools.pairwise(fitted.history_))
    alone = ParametricEmbedding(tol=1e-12).fit(many)
    assert alone.gradient_norm_ < 1e-8


@pytest.mark.parametrize(
    "settings", [{"kernel": "distance"}, {"kernel": "sphere"}, {"kernel": "sphere", "absorber": 1.0}]
)
def test_other_kernels_never_fall_either(log_probabilities, settings):
    fitted = ParametricEmbedding(max_iter=20, **settings).fit(log_probabilities)
    assert len(fitted.history_) > 2
    assert all(after >= before for before, after in itertools.pairwise(fitted.history_))
    if settings["kernel"] == "sphere":
        np.testing.assert_allclose((fitted.embedding_**2).sum(1), 1)


def test_the_data_of_a_picture(log_probabilities):
    fitted = ParametricEmbedding(absorber=0.5).fit(log_probabilities)
    picture = fitted.embedding_map(log_probabilities)
    np.testing.assert_array_equal(picture.codes, fitted.embedding_)
    near = np.exp(-((fitted.embedding_[:, None] - fitted.anchors_) ** 2).sum(2))
    np.testing.assert_allclose(picture.absorber_share, 0.5 / (0.5 + near.sum(1)))
    np.testing.assert_array_equal(picture.labels, near.argmax(1))
    assert picture.exists.all()


@pytest.mark.parametrize("kind", ["none", "mixture", "frozen"])
def test_a_saved_map_places_rows_where_it_did(log_probabilities, tmp_path, kind):
    rows = log_probabilities if kind == "none" else load_iris().data
    model = None if kind == "none" else GaussianMixture(3, random_state=0).fit(rows)
    model = FrozenEstimator(model) if kind == "frozen" else model
    fitted = ParametricEmbedding(model=model, absorber=0.1).fit(rows)
    digest = fitted.save(tmp_path / "map.mixcoder")
    same = mixcoder.load(tmp_path / "map.mixcoder", expected_sha256=digest)
    np.testing.assert_array_equal(same.transform(rows), fitted.transform(rows))
    np.testing.assert_array_equal(same.embedding_, fitted.embedding_)
    np.testing.assert_array_equal(same.anchors_, fitted.anchors_)
    assert same.history_ == fitted.history_
    assert same.absorber == 0.1
    assert type(same.model) is type(model)


def test_a_map_of_a_model_that_no_file_can_hold_says_so(tmp_path):
    from sklearn.linear_model import LogisticRegression

    data = load_iris()
    fitted = ParametricEmbedding(model=LogisticRegression(max_iter=1000).fit(data.data, data.target)).fit(
        data.data
    )
    with pytest.raises(UnknownModelError, match="LogisticRegression is not one of"):
        fitted.save(tmp_path / "map.mixcoder")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"absorber": -1.0}, "absorber"),
        ({"alpha": -1.0}, "alpha \\+ beta > 0"),
        ({"kernel": "cubic"}, "kernel"),
    ],
)
def test_settings_that_make_no_sense_are_refused(log_probabilities, settings, message):
    with pytest.raises(ValueError, match=message):
        ParametricEmbedding(**settings).fit(log_probabilities)


def test_hard_probabilities_and_equal_columns_stay_finite():
    hard = np.where(np.eye(4)[np.arange(40) % 4] == 1, 0.0, -1e4)
    for X in (hard, np.zeros((40, 4))):
        fitted = ParametricEmbedding().fit(X)
        assert np.isfinite(fitted.embedding_).all()
        assert np.isfinite(fitted.anchors_).all()


# What a model may give


class Given:
    """A model whose ``predict_proba`` returns what it was told to."""

    def __init__(self, returned):
        self.returned = returned

    def predict_proba(self, X):
        return self.returned


IRIS = load_iris().data
THIRDS = np.full((150, 3), 1 / 3)


def with_row(*row):
    wrong = THIRDS.copy()
    wrong[7] = row
    return wrong


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (with_row(np.nan, 0.5, 0.5), "row 7 has entries from nan to nan"),
        (with_row(np.inf, 0.0, 0.0), "row 7 has entries from 0 to inf"),
        (with_row(0.0, 0.0, 0.0), "row 7 has .* a sum of 0"),
        (with_row(-0.5, 0.75, 0.75), "row 7 has entries from -0.5 to 0.75"),
        (with_row(0.5, 0.3, 0.1), "row 7 has .* a sum of 0.9"),
        (30 * THIRDS, "row 0 has entries from 10 to 10"),
        (np.log(THIRDS), "row 0 has entries from -1.099"),
        (THIRDS[:, 0], r"returned shape \(150,\)"),
        (THIRDS[:, :, None], r"returned shape \(150, 3, 1\)"),
        (THIRDS[:-1], r"returned shape \(149, 3\)"),
        (THIRDS[:, :0], r"returned shape \(150, 0\)"),
        (torch.ones(150), r"returned shape \(150,\)"),
        (None, "returned a NoneType of dtype object"),
        (THIRDS.astype(str), "returned a ndarray of dtype <U"),
        (THIRDS + 0j, "dtype complex128"),
        (torch.ones(150, 1) + 0j, "dtype torch.complex64"),
        ([[0.5, 0.5], [1.0]], "returned a list that is no array"),
    ],
)
@pytest.mark.parametrize(
    "wrapped", [Given, lambda returned: FrozenEstimator(Given(returned))], ids=["bare", "frozen"]
)
def test_what_is_no_table_of_probabilities_is_refused_with_the_name_of_the_model(returned, told, wrapped):
    with pytest.raises(DataError, match=rf"^Given\.predict_proba\(X\).*{told}") as caught:
        ParametricEmbedding(model=wrapped(returned)).fit(IRIS)
    assert "expected probabilities of shape (150, n_classes), whose rows sum to one" in str(caught.value)


@pytest.mark.parametrize(
    "returned",
    [
        THIRDS.astype(np.float16),
        THIRDS.astype(np.longdouble),
        np.eye(3, dtype=int)[np.arange(150) % 3],
        THIRDS.tolist(),
        torch.from_numpy(THIRDS),
        with_row(-1e-9, 0.5, 0.5 + 1e-9),
        THIRDS[:, :1] * 3,
    ],
)
def test_probabilities_of_any_kind_and_rounding_give_a_finite_map(returned):
    fitted = ParametricEmbedding(model=Given(returned)).fit(IRIS)
    assert np.isfinite(fitted.embedding_).all()
    assert np.isfinite(fitted.transform(IRIS)).all()


def test_a_model_fitted_again_with_other_classes_is_told_from_the_one_mapped():
    model = GaussianMixture(3, random_state=0).fit(IRIS)
    fitted = ParametricEmbedding(model=model).fit(IRIS)
    before = fitted.transform(IRIS)
    model.set_params(n_components=2).fit(IRIS)
    for ask in (fitted.transform, fitted.embedding_map):
        with pytest.raises(DataError, match=r"GaussianMixture\..* returned 2 classes, but .* fitted with 3"):
            ask(IRIS)
    model.set_params(n_components=3).fit(IRIS)
    np.testing.assert_allclose(fitted.transform(IRIS), before, atol=1e-6)


def test_a_clone_keeps_the_fit_of_a_frozen_model_alone():
    model = GaussianMixture(3, random_state=0).fit(IRIS)
    fitted = clone(ParametricEmbedding(model=FrozenEstimator(model))).fit(IRIS)
    np.testing.assert_array_equal(fitted.embedding_, ParametricEmbedding(model=model).fit(IRIS).embedding_)
    with pytest.raises(NotFittedError):
        clone(ParametricEmbedding(model=model)).fit(IRIS)


def test_probabilities_in_place_of_their_logarithms_are_told(log_probabilities):
    codes = np.exp(log_probabilities - np.logaddexp.reduce(log_probabilities, axis=1, keepdims=True))
    with pytest.warns(UserWarning, match=r"as probabilities do.* give np\.log\(X\)"):
        ParametricEmbedding().fit(codes)


def test_the_logarithm_of_zero_is_refused_with_what_to_do():
    sure = np.eye(3)[np.arange(30) % 3]
    with np.errstate(divide="ignore"), pytest.raises(DataError, match=r"np\.log\(np\.maximum\(p, 1e-300\)\)"):
        ParametricEmbedding().fit(np.log(sure))
    map_ = ParametricEmbedding().fit(np.log(np.maximum(sure, 1e-300)))
    assert np.isfinite(map_.embedding_).all()


def test_a_kernel_too_narrow_for_any_digit_is_refused_at_once(log_probabilities):
    with pytest.raises(ValueError, match="make beta smaller"):
        ParametricEmbedding(beta=1e300).fit(log_probabilities)
