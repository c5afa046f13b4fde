"""Mixtures of planes, whatever comes in: finite answers and the input as it was, or an error that names the cause."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import mixcoder
from mixcoder.components import GaussianLowRankTied
from mixcoder.errors import DataError, DataTypeError

MAKERS = {
    "subspaces": lambda k=2, q=2: mixcoder.SubspaceMixture(k, q, random_state=0),
    "ppca": lambda k=2, q=2: mixcoder.PPCAMixture(k, q, random_state=0),
    "ppca, hard": lambda k=2, q=2: mixcoder.PPCAMixture(k, q, temperature=0.0, random_state=0),
    "ppca, shared rows": lambda k=2, q=2: mixcoder.PPCAMixture(
        k, q, temperature=10.0, n_active=2, random_state=0
    ),
    "factors": lambda k=2, q=2: mixcoder.FactorAnalyzerMixture(k, q, random_state=0),
    "factors, one noise": lambda k=2, q=2: mixcoder.FactorAnalyzerMixture(
        k, q, noise="shared", random_state=0
    ),
    "low rank, tied": lambda k=2, q=2: mixcoder.Mixture(GaussianLowRankTied(q), k, random_state=0),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(n=60, d=6):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    axes, means = rng.normal(size=(2, d, 2)), 3 * rng.normal(size=(2, d))
    z = rng.normal(size=(n, 2))
    return means[labels] + np.einsum("nde,ne->nd", axes[labels], z) + 0.1 * rng.normal(size=(n, d))


X = rows()
WITH_NAN, WITH_INF, CONSTANT = X.copy(), X.copy(), X.copy()
WITH_NAN[3, 1], WITH_INF[3, 1], CONSTANT[:, 2:] = np.nan, np.inf, 5.0

REFUSED = {
    "as many axes as columns": (X, {"q": 6}, DataError, "needs more features than latent axes, .* take n_latent <= 5"),
    "more axes than columns": (X, {"q": 9}, DataError, "needs more features than latent axes"),
    "one column": (X[:, :1], {"q": 1}, DataError, "one feature has no room for a latent axis"),
    "no column": (X[:, :0], {"q": 1}, ValueError, "minimum of 1"),
    "no row": (X[:0], {}, ValueError, "minimum of 2"),
    "fewer rows than components": (X[:3], {"k": 5}, DataError, "n_samples >= n_components"),
    "infinity": (WITH_INF, {}, DataError, "row 3, column 1"),
    "squares that overflow": (X * 1e200, {}, DataError, "overflows float64: rescale"),
    "squares that overflow float32": ((X * 1e30).astype(np.float32), {}, DataError, "overflows float32: rescale"),
    "text": (np.full((9, 3), "many", dtype=object), {}, DataError, "row 0, column 0"),
    "complex numbers": (X + 0j, {}, DataTypeError, "Complex data"),
    "one row's worth": (X[0], {}, DataError, "2D array"),
}  # fmt: skip
FITTED = {
    "fewer rows a component than axes": (rows(12), {"k": 3, "q": 5}),
    "a row a component": (X[:4], {"k": 4}),
    "two rows": (X[:2], {"k": 1}),
    "two columns": (X[:, :2], {"q": 1}),
    "short of rank": (X[:, :1] @ np.ones((1, 6)), {}),
    "constant columns": (CONSTANT, {}),
    "one point": (np.full((30, 6), 3.0), {}),
    "repeated rows": (np.repeat(X[:3], 20, 0), {"k": 5}),
    "repeated columns": (np.repeat(X[:, :3], 2, 1), {}),
    "whole numbers": (np.round(10 * X).astype(int), {}),
    "bytes": (np.clip(10 * X + 100, 0, 255).astype(np.uint8), {}),
    "truth values": (X > 0, {}),
    "float32 far out": ((X + 1e4 * X.std(0)).astype(np.float32), {}),
    "units of their own": (X * np.logspace(-8, 8, 6), {}),
    "next to nothing": (X * 1e-200, {}),
    "far off row": (np.vstack([X, np.full((1, 6), 1e8)]), {}),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_fitted_is_named(name, what):
    x, settings, error, match = REFUSED[what]
    model = MAKERS[name](**settings)
    with pytest.raises(error, match=match):
        model.fit(x)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("what", FITTED)
def test_what_is_degenerate_has_a_finite_answer(name, what):
    x, settings = FITTED[what]
    before = x.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        model = MAKERS[name](**settings).fit(x)
        answers = [model.predict(x), model.transform(x), model.reconstruct(x)]
        answers += [model.distortion(x), model.rate(x), model.score(x)]
        answers += [model.sample(4)[0], model.score_samples(x)] if hasattr(model, "sample") else []
    assert all(np.isfinite(answer).all() for answer in answers)
    np.testing.assert_array_equal(x, before)
    assert model.reconstruct(x).dtype == (np.float32 if x.dtype == np.float32 else np.float64)


@pytest.mark.parametrize("name", MAKERS)
def test_missing_entries_are_integrated_out_or_refused(name):
    model = MAKERS[name]()
    if name == "subspaces":
        with pytest.raises(DataError, match=r"contains NaN: .* row 3, column 1"):
            model.fit(WITH_NAN)
    else:
        assert np.isfinite(model.fit(WITH_NAN).impute(WITH_NAN)).all()


@pytest.mark.parametrize("d", [6, 200])
@pytest.mark.parametrize("unit", [1e-100, 1e-9, 1e9, 1e100])
def test_k_subspaces_find_the_same_in_every_unit(d, unit):
    """Distances are weighed against equal weights: in units of their own, or they would drown in these."""
    x = rows(200, d)
    here, there = (mixcoder.SubspaceMixture(2, 2, random_state=0).fit(data) for data in (x, unit * x))
    np.testing.assert_array_equal(here.predict(x), there.predict(unit * x))
    assert there.distortion(unit * x) / unit / unit == pytest.approx(here.distortion(x), rel=1e-9)
    assert there.n_iter_ == here.n_iter_
