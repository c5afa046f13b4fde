"""The map of rows and components: scikit-learn's contract, a trace that never falls, and places that mean something."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from mixcoder import GaussianMixture
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
