"""scikit-learn's metadata routing: row weights reach every method that takes them, as those of scikit-learn do."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from sklearn import cluster, config_context, mixture
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_validate

import mixcoder
from mixcoder import EmbeddedMixture, GaussianMixture, KMeans, Mixture, SubspaceMixture

X = np.random.default_rng(1).permutation(load_iris().data)
CENTRES = np.quantile(X, [0.1, 0.5, 0.9], axis=0)
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2.0, len(X))

ESTIMATORS = [
    entry
    for entry in (getattr(mixcoder, name) for name in mixcoder.__all__)
    if isinstance(entry, type) and issubclass(entry, BaseEstimator)
]
METHODS = ("fit", "partial_fit", "score", "predict", "transform")


def test_every_estimator_is_looked_at():
    assert {KMeans, EmbeddedMixture, GaussianMixture, SubspaceMixture} <= set(ESTIMATORS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_method_asks_for_sample_weight_if_it_takes_it_and_for_nothing_else(estimator, method):
    taken = set(inspect.signature(getattr(estimator, method, lambda: None)).parameters) & {"sample_weight"}
    setter = getattr(estimator, f"set_{method}_request", None)
    assert (setter is not None) == bool(taken)
    with config_context(enable_metadata_routing=True):
        one = estimator("bernoulli") if estimator is Mixture else estimator()
        assert set(getattr(one.get_metadata_routing(), method).requests) == taken
        if setter is not None:
            getattr(one, f"set_{method}_request")(sample_weight=True)
            assert getattr(one.get_metadata_routing(), method).requests == {"sample_weight": True}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (KMeans(3, init=CENTRES, tol=0.0), cluster.KMeans(3, init=CENTRES, n_init=1, tol=0.0)),
        (KMeans(2, random_state=0), None),
        (EmbeddedMixture(n_components=2, max_iter=2, random_state=0), None),
        (GaussianMixture(2, random_state=0), None),
        (SubspaceMixture(2, 1, random_state=0), None),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_are_routed_through_cross_validation_and_grid_search(ours, theirs):
    weighs_scores = hasattr(ours, "set_score_request")

    def asking(estimator):
        estimator = estimator.set_fit_request(sample_weight=True)
        return estimator.set_score_request(sample_weight=True) if weighs_scores else estimator

    with config_context(enable_metadata_routing=True):
        found = cross_validate(asking(ours), X, params={"sample_weight": WEIGHTS}, cv=3)["test_score"]
        by_hand = []
        for k in range(3):
            rows = np.arange(len(X)) // 50 == k
            model = ours.__class__(**ours.get_params()).fit(X[~rows], sample_weight=WEIGHTS[~rows])
            by_hand.append(
                model.score(X[rows], sample_weight=WEIGHTS[rows]) if weighs_scores else model.score(X[rows])
            )
        np.testing.assert_allclose(found, by_hand, rtol=1e-12)
        search = GridSearchCV(asking(ours), {"max_iter": [2, 3]}, cv=2).fit(X, sample_weight=WEIGHTS)
        assert np.isfinite(search.best_score_)
        if theirs is not None:
            expected = cross_validate(asking(theirs), X, params={"sample_weight": WEIGHTS}, cv=3)
            np.testing.assert_allclose(found, expected["test_score"], rtol=1e-10)


def test_a_weight_that_is_not_asked_for_is_refused_as_by_scikit_learn():
    for estimator in (KMeans(2), cluster.KMeans(2)):
        with (
            config_context(enable_metadata_routing=True),
            pytest.raises(ValueError, match=r"sample_weight.*not explicitly set"),
        ):
            cross_validate(estimator, X, params={"sample_weight": WEIGHTS})
    assert not hasattr(mixture.GaussianMixture, "set_fit_request")
