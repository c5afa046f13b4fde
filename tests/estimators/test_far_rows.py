"""One wrong row must not decide how all others are seen."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as Peer

from mixcoder import GaussianMixture, Mixture
from mixcoder.errors import DegenerateComponentWarning
from mixcoder.fitting.scan import middle_variances, quartiles

LABELS = np.repeat([0, 1], 300)


def with_far_row(distance):
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(600, 2)) + 6.0 * LABELS[:, None]
    return np.vstack([clouds, [[distance, distance]]])


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_a_far_row_has_a_component_to_itself(covariance, distance):
    rows = with_far_row(distance)
    ours = GaussianMixture(3, covariance_type=covariance, random_state=0).fit(rows)
    assert adjusted_rand_score(LABELS, ours.predict(rows[:-1])) == 1.0
    peer = Peer(3, covariance_type="full", random_state=0).fit(rows)
    assert ours.score(rows) > peer.score(rows) - 0.03  # a spike of its own width on one row of 601


@pytest.mark.parametrize("distance", [3e2, 1e4, 1e6])
def test_heavy_tails_bear_a_far_row(distance):
    rows = with_far_row(distance)
    model = Mixture("student_t", 2, random_state=0).fit(rows)
    assert adjusted_rand_score(LABELS, model.predict(rows[:-1])) == 1.0


def test_the_floor_does_not_grow_with_a_far_row():
    far, none = with_far_row(1e6), with_far_row(1e6)[:-1]
    with pytest.warns(DegenerateComponentWarning):
        seen = GaussianMixture(3, covariance_type="spherical", random_state=0).fit(far)
    without = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(none)
    widths = np.sort(seen.covariances_)[1:]
    np.testing.assert_allclose(widths, np.sort(without.covariances_), rtol=1e-3)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
def test_far_rows_scale_and_move_with_the_rows():
    rows = with_far_row(1e5)
    model = GaussianMixture(3, random_state=0).fit(rows)
    moved = GaussianMixture(3, random_state=0).fit(rows * [2.0**40, 2.0**-30] + [2.0**50, 2.0**-20])
    np.testing.assert_allclose(moved.weights_, model.weights_, rtol=1e-6)


def test_quartiles_are_those_of_the_weighted_rows():
    rng = np.random.default_rng(1)
    rows, times = rng.normal(size=(41, 3)), rng.integers(0, 4, 41)
    repeated = quartiles(torch.from_numpy(np.repeat(rows, times, axis=0)))
    weighted = quartiles(torch.from_numpy(rows), torch.from_numpy(times * 0.3))
    for a, b in zip(repeated, weighted, strict=True):
        assert torch.equal(a, b)
    low, high = quartiles(torch.from_numpy(rows))
    np.testing.assert_array_equal(low, np.quantile(rows, 0.25, axis=0, method="inverted_cdf"))
    np.testing.assert_array_equal(high, np.quantile(rows, 0.75, axis=0, method="inverted_cdf"))


def test_the_middle_of_a_normal_column_tells_its_variance():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(200_000, 2)) * [3.0, 0.1]
    rows[:1000] = 1e12
    rows[1000:2000, 0] = np.nan
    np.testing.assert_allclose(middle_variances(torch.from_numpy(rows)), [9.0, 0.01], rtol=0.03)
