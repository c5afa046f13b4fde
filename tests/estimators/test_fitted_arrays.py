"""What a fit has found is read, not written: arrays are copies, and an assignment to one is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from mixcoder import (
    BayesianGaussianMixture,
    EmbeddedMixture,
    FactorAnalyzerMixture,
    GaussianMixture,
    KMeans,
    PPCAMixture,
    SubspaceMixture,
)

X = load_iris().data
ESTIMATORS = [
    BayesianGaussianMixture(2, random_state=0),
    EmbeddedMixture(n_components=2, max_iter=2, random_state=0),
    FactorAnalyzerMixture(2, 1, random_state=0),
    GaussianMixture(2, random_state=0),
    KMeans(2, random_state=0),
    PPCAMixture(2, 1, random_state=0),
    SubspaceMixture(2, 1, random_state=0),
]
NAMES = (
    "means_",
    "weights_",
    "covariances_",
    "precisions_",
    "cluster_centers_",
    "loadings_",
    "bases_",
    "anchors_",
)


def found_in(model):
    return [name for name in NAMES if isinstance(getattr(type(model), name, None), property)]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_nothing_is_written_into_what_a_fit_has_found(estimator):
    model = estimator.fit(X)
    for one in (model, pickle.loads(pickle.dumps(model))):
        assert found_in(one)
        for name in found_in(one):
            value = getattr(one, name)
            value[...] = 0  # the caller's own
            value = getattr(one, name)
            assert value.any()
            with pytest.raises(AttributeError, match=f"{name} of .* cannot be set: "):
                setattr(one, name, value)
            np.testing.assert_array_equal(value, getattr(model, name))


def test_the_refusal_names_what_makes_a_model():
    model, km = GaussianMixture(2, random_state=0).fit(X), KMeans(2, random_state=0).fit(X)
    with pytest.raises(AttributeError, match=r"GaussianMixture\.from_parameters"):
        model.means_ = model.means_ + 1
    with pytest.raises(AttributeError, match=r"KMeans\.from_codebook"):
        km.cluster_centers_ = km.cluster_centers_ + 1
    model.remark = "what is nobody's property can be set"


def test_rows_drawn_and_tensors_are_the_callers_own():
    model = GaussianMixture(2, random_state=0).fit(X)
    rows, index = model.sample(5)
    rows[...], index[...] = 0, 0
    means = GaussianMixture(2, random_state=0).fit(torch.tensor(X)).means_
    assert isinstance(means, torch.Tensor)
