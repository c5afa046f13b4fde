"""Rows at the ends of what floats hold: densities and codes are right there, or the rows are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import adjusted_rand_score

from mixcoder import FactorAnalyzerMixture, GaussianMixture, KMeans, Mixture, PPCAMixture
from mixcoder.errors import DataError

X = load_iris().data
DISTANCES = [1e100, 1e139, 1e141, 1e152, 1e153, 1e154, 1e200, 1e308]
DENSITIES = {
    **{kind: GaussianMixture(3, covariance_type=kind, random_state=0) for kind in ("full", "tied", "diag")},
    "spherical": GaussianMixture(3, covariance_type="spherical", random_state=0),
    "ppca": PPCAMixture(3, 1, random_state=0),
    "factor analyzer": FactorAnalyzerMixture(3, 1, random_state=0),
    "student_t": Mixture("student_t", 3, random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_falls_with_the_distance_to_minus_infinity_and_codes_stay_codes(name):
    model = DENSITIES[name].fit(X)
    rows = np.outer(DISTANCES, np.ones(4))
    score, code = model.score_samples(rows), model.predict_proba(rows)
    assert not np.isnan(score).any()
    finite = np.isfinite(score)
    assert (np.diff(score[finite]) < 0).all()
    assert (np.diff(finite.astype(int)) <= 0).all()
    np.testing.assert_allclose(code.sum(1), 1.0, rtol=1e-12)
    assert not np.isnan(model.icl(rows))
    # Heavy tails never overflow; the squares of all others do.
    assert finite.all() if name == "student_t" else not finite[-2:].any()


def test_the_density_is_right_where_it_is_a_number():
    model = GaussianMixture(3, random_state=0).fit(X)
    means, factors = model.means_.astype(np.longdouble), model.precisions_cholesky_.astype(np.longdouble)
    for distance in (1e10, 1e139, 1e141, 1e150, 1e153):
        row = np.full(4, distance)
        gaps = np.einsum("kd,kde->ke", row.astype(np.longdouble) - means, factors)
        joint = -0.5 * (gaps**2).sum(1) + np.log(factors.diagonal(axis1=1, axis2=2)).sum(1)
        expected = logsumexp((joint - 2 * np.log(2 * np.pi) + np.log(model.weights_)).astype(float))
        assert model.score_samples(row[None])[0] == pytest.approx(expected, rel=1e-7)


def test_a_density_beyond_float32_is_minus_infinity_there_and_a_number_in_float64():
    model = GaussianMixture(3, random_state=0).fit(X)
    rows = np.outer([1e10, 1e18, 2e19, 1e30], np.ones(4)).astype(np.float32)
    single, double = model.score_samples(rows), model.score_samples(rows.astype(np.float64))
    assert single.dtype == np.float32
    assert np.isfinite(double).all()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(single, double.astype(np.float32), rtol=1e-5)


def test_the_density_of_heavy_tails_is_right_beyond_all_squares():
    model = Mixture("student_t", 1, random_state=0).fit(X)
    rows = np.outer([1e100, 1e120, 1e200, 1e250], np.ones(4))
    score = model.score_samples(rows)
    # As a power of the distance: as many nats a decade everywhere.
    decades = np.diff(score) / np.diff([100, 120, 200, 250])
    np.testing.assert_allclose(decades, decades[0], rtol=1e-9)


SMALL = {
    "gaussian": GaussianMixture(3, random_state=0),
    "tied": GaussianMixture(3, covariance_type="tied", random_state=0),
    "kmeans": KMeans(3, random_state=0),
}


@pytest.mark.parametrize(
    ("dtype", "powers"), [("f4", (-30, -36, -37, -38, -40, -43)), ("f8", (-200, -306, -308))]
)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore::mixcoder.errors.PrecisionWarning")
def test_rows_near_the_smallest_numbers_are_clustered_right_or_refused(name, dtype, powers):
    expected = clone(SMALL[name]).fit(X.astype(dtype)).predict(X.astype(dtype))
    refused, told = [], []
    for power in powers:
        rows, model = (X * 10.0**power).astype(dtype), clone(SMALL[name])
        try:
            found = model.fit(rows).predict(rows)
        except DataError as error:
            refused.append(power)
            told.append(str(error))
        else:
            assert adjusted_rand_score(expected, found) > 0.99
    assert refused == ([p for p in powers if p in refused and p < -36] if dtype == "f4" else [])
    assert all("has a spread near" in text and "float64 or rescale" in text for text in told)
    wide = X * 10.0 ** powers[-1]
    if dtype == "f4":  # the remedy helps
        assert refused
        assert adjusted_rand_score(expected, clone(SMALL[name]).fit(wide).predict(wide)) > 0.99
