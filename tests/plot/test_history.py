"""A bound can be read off its ticks, and an annealed fit shows the way through its temperatures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris

import mixcoder
from mixcoder import encoders, plot

X = load_iris().data
ANNEALED = {
    "mixture": mixcoder.GaussianMixture(3, temperature=encoders.Annealed(), random_state=0).fit(X),
    "k-means": mixcoder.KMeans(3, init="annealed", random_state=0).fit(X),
}


@pytest.mark.parametrize("bound", [[-1.20121, -1.20120, -1.201199], [-1e6, -1e6 + 1e-3], [-3.0, -3.0]])
def test_every_tick_is_a_bound_by_itself(bound):
    display = plot.HistoryDisplay(bound=bound).plot()
    display.figure_.canvas.draw()
    axis = display.ax_.yaxis
    assert axis.get_offset_text().get_text() == ""
    for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
        told = float(label.get_text().replace("\N{MINUS SIGN}", "-"))
        assert abs(told - place) <= 1e-3 * np.ptp(axis.get_view_interval())


@pytest.mark.parametrize("name", ANNEALED)
def test_the_way_through_the_temperatures_is_drawn(name):
    model = ANNEALED[name]
    trace = model.history_["annealing"]
    display = plot.HistoryDisplay.from_estimator(model)
    assert display.ax_.get_xscale() == "log"
    np.testing.assert_array_equal(display.line_.get_xydata(), np.c_[trace["beta"], trace["free_energy"]])
    alive, shared = display.components_ax_.get_lines()
    np.testing.assert_array_equal(alive.get_ydata(), trace["n_components"])
    np.testing.assert_allclose(np.log(shared.get_ydata()), trace["entropy"], atol=1e-12)
    assert len(display.ax_.get_legend().get_texts()) == 3


def test_the_iterations_at_the_last_temperature_are_there_too():
    model = ANNEALED["mixture"]
    display = plot.HistoryDisplay.from_estimator(model, annealing=False)
    np.testing.assert_array_equal(display.line_.get_ydata(), model.history_["bound"])
    assert display.components_ax_ is None
