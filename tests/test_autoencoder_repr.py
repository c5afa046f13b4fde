"""A model says in one line what it is."""

from __future__ import annotations

from sklearn.datasets import load_iris

import mixcoder
from mixcoder.encoders import Argmax


def test_a_model_is_one_line_in_a_terminal_and_in_a_traceback():
    model = mixcoder.GaussianMixture(3, random_state=0).fit(load_iris().data).model_
    assert (
        repr(model) == "MixtureAutoencoder of 3 GaussianFull components on 4 features, encoded by Posterior"
    )
    assert isinstance(mixcoder.KMeans(2, random_state=0).fit(load_iris().data).model_.encoder, Argmax)


def test_a_notebook_shows_what_a_fit_found():
    html = mixcoder.GaussianMixture("auto", random_state=0).fit(load_iris().data)._repr_html_()
    assert "converged_" in html
    assert "Fitted" in html
