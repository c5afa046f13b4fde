"""Rows with missing cells are drawn where their drawn cells are; options that cannot be are refused in words."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.datasets import load_iris

import mixcoder
from mixcoder import plot

X = load_iris().data
HOLED = X.copy()
HOLED[0, 0] = HOLED[7, 2] = np.nan
HOLED[3] = np.nan
MODEL = mixcoder.GaussianMixture(3, random_state=0).fit(np.delete(HOLED, 3, axis=0))


def test_rows_are_drawn_on_the_columns_that_they_have():
    display = plot.EllipseDisplay.from_estimator(MODEL, HOLED, features=[2, 3])
    kept = np.delete(np.arange(150), [3, 7])  # row 0 misses a column that is not drawn
    np.testing.assert_array_equal(display.rows, X[kept][:, [2, 3]])
    np.testing.assert_array_equal(display.labels, MODEL.predict(HOLED)[kept])
    doubt = plot.UncertaintyDisplay.from_estimator(MODEL, HOLED, features=[2, 3])
    np.testing.assert_array_equal(doubt.rows, display.rows)
    line = plot.DensityDisplay.from_estimator(MODEL, HOLED, feature=0)
    np.testing.assert_array_equal(line.rows, np.delete(X[:, 0], [0, 3]))


@pytest.mark.parametrize("kind", [plot.EllipseDisplay, plot.UncertaintyDisplay])
def test_on_the_principal_plane_missing_cells_are_as_expected(kind):
    display = kind.from_estimator(MODEL, HOLED)
    filled = np.delete(MODEL.impute(HOLED), 3, axis=0)
    np.testing.assert_allclose(display.rows, kind.from_estimator(MODEL, filled).rows, rtol=1e-12, atol=1e-12)
    assert len(display.rows) == 149


def test_a_corner_draws_each_row_wherever_it_has_a_place():
    display = plot.CornerDisplay.from_estimator(MODEL, HOLED)
    present = ~np.isnan(HOLED)
    assert [len(d.rows) for d in display.densities] == present.sum(0).tolist()
    for (i, j), pair in display.pairs.items():
        assert len(pair.rows) == (present[:, i] & present[:, j]).sum()
    display.figure_.canvas.draw()


@pytest.mark.parametrize("kind", [plot.EllipseDisplay, plot.UncertaintyDisplay, plot.DensityDisplay])
def test_rows_without_any_cell_leave_the_model_alone(kind):
    display = kind.from_estimator(MODEL, np.full((2, 4), np.nan))
    display.figure_.canvas.draw()
    assert len(display.rows) == 0


@pytest.mark.parametrize("kind", [plot.EllipseDisplay, plot.DensityDisplay, plot.CornerDisplay])
@pytest.mark.parametrize("grid_size", [0, 1, -3, 2.5, True])
def test_a_grid_has_two_points_at_least(kind, grid_size):
    with pytest.raises(ValueError, match=rf"grid_size of {kind.__name__} .* 2 at least, got"):
        kind.from_estimator(MODEL, X, grid_size=grid_size)


@pytest.mark.parametrize(
    "kind", [plot.EllipseDisplay, plot.UncertaintyDisplay, plot.DensityDisplay, plot.HistoryDisplay]
)
def test_one_axes_is_asked_for(kind):
    _, several = plt.subplots(2, 2)
    with pytest.raises(TypeError, match=r"the one matplotlib Axes .* shape \(2, 2\): give one of them"):
        kind.from_estimator(MODEL, X, ax=several)
