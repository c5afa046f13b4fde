"""A stream that loses a component to the variance floor says so, as ``fit`` does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris

from mixcoder import GaussianMixture
from mixcoder.errors import DegenerateComponentWarning

X = load_iris().data


def smallest_eigenvalues(model):
    """Of each covariance, in units of the variances of all rows."""
    units = np.sqrt(X.var(0))
    return np.linalg.eigvalsh(model.covariances_ / np.outer(units, units))[..., 0]


def streamed(model, passes):
    """The components that a warning named, the call, and those on the floor after each call."""
    order, told, stands = np.random.default_rng(2).permutation(150), [], []
    for _ in range(passes):
        for i in range(0, 150, 30):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.partial_fit(X[order[i : i + 30]])
            assert all(one.category is DegenerateComponentWarning for one in caught)
            assert len(caught) <= 1
            assert all(one.filename == __file__ for one in caught)
            told.append(str(caught[0].message) if caught else None)
            stands.append(np.flatnonzero(smallest_eigenvalues(model) < 3e-6).tolist())
    return told, stands


def test_every_change_of_the_components_on_the_floor_is_told_once():
    told, stands = streamed(GaussianMixture(3, random_state=0), 20)
    assert stands[-1]
    for message, before, after in zip(told, [[], *stands], stands, strict=False):
        if after and after != before:
            assert message is not None
            assert message.startswith(f"Components {after} collapsed onto the variance floor")
        else:
            assert message is None


def test_a_stream_that_keeps_its_components_is_silent():
    told, stands = streamed(GaussianMixture(3, covariance_type="tied", random_state=0), 3)
    assert not any(stands)
    assert not any(told)


def test_fit_and_stream_speak_of_the_same_components():
    rows = np.concatenate([X, np.repeat(X[:1] + 20.0, 30, axis=0)])
    with pytest.warns(DegenerateComponentWarning, match=r"Components \[\d\] collapsed") as fitted:
        model = GaussianMixture(4, random_state=0).fit(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(rows)  # said before
    with pytest.warns(DegenerateComponentWarning) as streamed_:
        GaussianMixture(4, random_state=0).partial_fit(rows)
    assert [str(w.message) for w in fitted] == [str(w.message) for w in streamed_]
