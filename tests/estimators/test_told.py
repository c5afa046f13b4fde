"""What a fit says while it runs and when it has ended: every so many iterations, and at the line of the user."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import mixcoder
from mixcoder.errors import DegenerateComponentWarning


def overlapping(n=400):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 1.0])


@pytest.mark.parametrize("interval", [1, 7, 10])
def test_iterations_that_a_leap_jumps_over_are_told_with_the_next(capsys, interval):
    model = mixcoder.GaussianMixture(
        3, random_state=0, tol=0, max_iter=80, verbose=1, verbose_interval=interval
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(overlapping())
    told = [int(n) for n in re.findall(r", iteration (\d+):", capsys.readouterr().out)]
    assert model.n_iter_ == 80
    if interval > 1:
        assert [n // interval for n in told] == list(range(1, told[-1] // interval + 1))
        assert told[-1] >= 80 - 2 * interval
        assert all(n % interval <= 1 for n in told)
    else:
        assert len(told) == len(set(told))


@pytest.mark.parametrize(
    "model",
    [
        mixcoder.GaussianMixture(3, random_state=0, tol=0, max_iter=2),
        mixcoder.BayesianGaussianMixture(3, random_state=0, tol=0, max_iter=2),
        mixcoder.Mixture("gaussian_full", 3, random_state=0, tol=0, max_iter=2),
        mixcoder.PPCAMixture(3, 1, random_state=0, tol=0, max_iter=2),
        mixcoder.ParametricEmbedding(tol=0, max_iter=1),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("call", ["fit", "fit_transform"])
def test_warnings_point_at_the_line_of_the_user(model, call):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        getattr(model, call)(overlapping())
    assert told
    assert {w.filename for w in told} == {__file__}


def test_a_degenerate_component_is_told_there_too():
    x = np.concatenate([overlapping(30), np.full((40, 2), 9.0)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        mixcoder.GaussianMixture(3, random_state=0).fit(x)
        mixcoder.KMeans(4, random_state=0).fit(np.repeat([[0.0], [1.0]], 5, axis=0))
    kinds = {w.category for w in told}
    assert DegenerateComponentWarning in kinds
    assert len(kinds) > 1
    assert {w.filename for w in told} == {__file__}
