"""Annealed fits through the estimators: schedules as temperatures, starts by name, what is left in the model."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans as Peer
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import InvalidParameterError

import mixcoder
from mixcoder import BayesianGaussianMixture, GaussianMixture, KMeans, Mixture, PPCAMixture
from mixcoder.encoders import Annealed, Argmax, Posterior, Tempered
from mixcoder.errors import DataError, PrecisionWarning
from mixcoder.fitting.bath import Bath

IRIS = load_iris().data
WINE = load_wine().data
TRACE = ["beta", "n_components", "entropy", "free_energy", "n_steps"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: KMeans(3, init="annealed"),
        lambda: KMeans(3, init=Annealed(ratio=1.3)),
        lambda: GaussianMixture(3, init_params="annealed"),
        lambda: GaussianMixture(3, covariance_type="diag", temperature=Annealed()),
        lambda: Mixture("gaussian_tied_spherical", 3, encoder=Annealed(betas=(0.1, 0.3, 1.0))),
        lambda: Mixture("gaussian_spherical", 3, init="annealed", temperature=0.5),
        lambda: PPCAMixture(3, 1, temperature=Annealed(stop=math.inf)),
    ],
)
def test_history_tells_of_every_temperature(make, tmp_path):
    model = make().fit(IRIS)
    trace = model.history_["annealing"]
    assert list(trace) == TRACE
    assert len({len(column) for column in trace.values()}) == 1
    assert trace["n_components"][0] == 1
    assert trace["n_components"][-1] == 3
    assert all(a < b for a, b in zip(trace["beta"], trace["beta"][1:], strict=False))
    assert model.n_effective_components_ == 3
    assert clone(model).get_params() == model.get_params()
    again = make().fit(IRIS)
    assert again.history_["annealing"] == trace
    model.save(tmp_path / "model")
    same = mixcoder.load(tmp_path / "model")
    assert same.history_ == model.history_
    assert same.get_params() == model.get_params()
    assert (same.predict(IRIS) == model.predict(IRIS)).all()


def test_an_annealed_k_means_ends_at_a_fixed_point_of_lloyd():
    model = KMeans(5, init="annealed", tol=0.0).fit(IRIS)
    peer = Peer(5, init=model.cluster_centers_, n_init=1, tol=0.0).fit(IRIS)
    assert peer.n_iter_ <= 2
    np.testing.assert_allclose(peer.cluster_centers_, model.cluster_centers_, rtol=1e-10)
    assert model.inertia_ == pytest.approx(peer.inertia_)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_an_annealed_mixture_ends_at_a_fixed_point_of_em(covariance_type):
    annealed = GaussianMixture(
        3, covariance_type=covariance_type, temperature=Annealed(), tol=1e-10, max_iter=3000
    ).fit(IRIS)
    plain = GaussianMixture(
        3,
        covariance_type=covariance_type,
        weights_init=annealed.weights_,
        means_init=annealed.means_,
        precisions_init=annealed.precisions_,
        tol=1e-8,
    ).fit(IRIS)
    assert plain.n_iter_ <= 3
    np.testing.assert_allclose(plain.means_, annealed.means_, rtol=1e-3, atol=1e-3)
    assert plain.score(IRIS) == pytest.approx(annealed.score(IRIS), abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (Annealed(), Posterior()),
        (Annealed(stop=math.inf), Argmax()),
        (Annealed(betas=(0.2, 0.5)), Tempered(0.5)),
    ],
)
def test_new_rows_are_coded_at_the_temperature_of_the_end(schedule, end):
    """encode follows the end of the schedule; predict knows no temperature; predict_proba is always Bayes'."""
    model = GaussianMixture(3, temperature=schedule, random_state=0).fit(IRIS)
    assert model.model_.encoder == end
    joint = model.model_.log_joint(torch.from_numpy(IRIS))
    code = end.encode(joint.clone())
    expected = code.index if isinstance(end, Argmax) else code
    np.testing.assert_allclose(model.encode(IRIS), expected.numpy(), rtol=1e-9, atol=1e-12)
    assert (model.predict(IRIS) == joint.argmax(1).numpy()).all()
    np.testing.assert_allclose(model.predict_proba(IRIS), joint.softmax(1).numpy(), rtol=1e-9, atol=1e-12)


def test_too_hot_an_end_leaves_one_component():
    """At every beta of the schedule one component is best; the fit that follows has those asked for, all alike."""
    model = Mixture("gaussian_full", 3, temperature=Annealed(betas=(0.01, 0.05)), tol=1e-8).fit(IRIS)
    assert model.history_["annealing"]["n_components"] == [1, 1]
    assert model.history_["annealing"]["entropy"] == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("cls", [KMeans, GaussianMixture])
def test_units_and_order_of_the_rows_change_no_cluster(cls):
    def fitted(x):
        how = (
            {"init": "annealed"} if cls is KMeans else {"init_params": "annealed", "covariance_type": "tied"}
        )
        return cls(3, random_state=0, **how).fit(x)

    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    order = np.random.default_rng(1).permutation(len(IRIS))
    labels = fitted(IRIS).predict(IRIS)
    for x in (7.0 * IRIS + 100.0, IRIS @ turn if cls is KMeans else IRIS * [2.0, 1.0, 0.5, 30.0]):
        other = fitted(x[order]).predict(x)
        pairs = {(int(a), int(b)) for a, b in zip(labels, other, strict=True)}
        assert len(pairs) == 3


def test_single_precision_stays_single_and_agrees():
    x = IRIS.astype(np.float32)
    for make in (lambda: KMeans(3, init="annealed"), lambda: GaussianMixture(3, init_params="annealed")):
        single, double = make().fit(x), make().fit(x.astype(np.float64))
        assert single.reconstruct(x).dtype == np.float32
        assert single.history_["annealing"]["n_components"] == double.history_["annealing"]["n_components"]
        np.testing.assert_allclose(single.reconstruct(x), double.reconstruct(x), rtol=1e-2, atol=2e-2)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize(("rows", "k"), [(IRIS, 8), (WINE, 6)])
@pytest.mark.parametrize("how", [{"temperature": Annealed()}, {"init_params": "annealed"}])
def test_single_precision_anneals_to_the_double_answer(covariance_type, rows, k, how):
    x = rows.astype(np.float32)
    make = partial(GaussianMixture, k, covariance_type=covariance_type, **how)
    single, double = make().fit(x), make().fit(x.astype(np.float64))
    assert single.means_.dtype == np.float32
    assert single.history_["annealing"]["n_components"] == double.history_["annealing"]["n_components"]
    np.testing.assert_allclose(single.means_, double.means_, rtol=1e-4, atol=1e-4)
    assert single.score(x) == pytest.approx(double.score(x.astype(np.float64)), rel=1e-4)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("how", [{"encoder": Annealed()}, {"init": "annealed"}])
def test_single_precision_anneals_families_that_are_tried_as_well(how):
    x = IRIS.astype(np.float32)
    single, double = (Mixture("student_t", 8, **how).fit(rows) for rows in (x, x.astype(np.float64)))
    assert single.score(x) == pytest.approx(double.score(x.astype(np.float64)), rel=1e-3)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.PrecisionWarning")
@pytest.mark.parametrize("factor", [1e-155, 1e-160, 1e-100, 1e150])
def test_k_means_anneals_in_any_units(factor, tmp_path):
    """In units whose squares no float holds the clusters are those of every other unit, as from other starts."""
    plain, far = (KMeans(3, init="annealed").fit(rows) for rows in (IRIS, IRIS * factor))
    np.testing.assert_allclose(far.cluster_centers_ / factor, plain.cluster_centers_, rtol=1e-9)
    assert (far.labels_ == plain.labels_).all()
    trace = far.history_["annealing"]
    assert trace["n_components"] == plain.history_["annealing"]["n_components"]
    assert not np.isnan([trace["beta"], trace["free_energy"]]).any()
    far.save(tmp_path / "model")
    assert mixcoder.load(tmp_path / "model").history_ == far.history_


def test_an_annealed_k_means_warns_of_tiny_rows():
    with pytest.warns(PrecisionWarning, match="underflows"):
        KMeans(3, init="annealed").fit(IRIS * 1e-155)


@pytest.mark.filterwarnings("ignore::mixcoder.errors.PrecisionWarning")
@pytest.mark.parametrize("schedule", [Annealed(start=1.0), Annealed(betas=(1.0, 2.0, math.inf))])
def test_a_schedule_in_units_far_from_the_rows_is_refused(schedule):
    with pytest.raises(DataError, match="leave start and betas out"):
        KMeans(3, init=schedule).fit(IRIS * 1e-165)


def test_variational_bayes_takes_no_schedule():
    with pytest.raises(InvalidParameterError, match=r"'temperature' parameter .* must be a float"):
        BayesianGaussianMixture(3, temperature=Annealed()).fit(IRIS)
    with pytest.raises(InvalidParameterError, match="init_params"):
        BayesianGaussianMixture(3, init_params="annealed").fit(IRIS)


def test_rows_may_live_in_files(tmp_path):
    np.save(tmp_path / "rows.npy", IRIS)
    source = mixcoder.open_blocks(tmp_path / "rows.npy")
    here, there = (KMeans(3, init="annealed").fit(rows) for rows in (IRIS, source))
    np.testing.assert_allclose(there.cluster_centers_, here.cluster_centers_, rtol=1e-9)


def test_the_first_batch_of_a_stream_may_be_annealed():
    model = GaussianMixture(3, temperature=Annealed(), random_state=0)
    model.partial_fit(IRIS).partial_fit(IRIS)
    assert model.model_.encoder == Posterior()
    assert model.n_iter_ == 2
    assert KMeans(3, init="annealed").partial_fit(IRIS).cluster_centers_.shape == (3, 4)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Annealed(start=2.0, stop=1.0), "beyond stop"),
        (lambda: Annealed(start=0.0), "start must be a positive"),
        (lambda: Annealed(stop=-1.0), "stop must be a positive"),
        (lambda: Annealed(stop=math.nan), "stop must be a positive"),
        (lambda: Annealed(ratio=1.0), "above 1"),
        (lambda: Annealed(tol=0.0), "tol must be"),
        (lambda: Annealed(betas=(0.5, 0.2)), "increasing"),
        (lambda: Annealed(betas=()), "increasing"),
        (lambda: Annealed(betas=(math.inf,)), "increasing"),
        (lambda: Annealed(betas=(0.1, 1.0), stop=1.0), "not both"),
        (
            lambda: GaussianMixture(2, temperature=Annealed(), init_params="kmeans").fit(IRIS),
            "begins with one component",
        ),
        (
            lambda: GaussianMixture(2, init_params="annealed", means_init=IRIS[:2]).fit(IRIS),
            "leave out means_init",
        ),
        (
            lambda: Mixture(n_components=2, temperature=Annealed(), init=np.arange(150) % 2).fit(IRIS),
            "leave out the start",
        ),
        (
            lambda: Mixture(n_components=2, temperature=0.5, encoder=Annealed()).fit(IRIS),
            "not both",
        ),
        (lambda: GaussianMixture(2, temperature="annealed").fit(IRIS), "temperature"),
    ],
)
def test_what_makes_no_sense_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


# Interrupts


def interrupted_at(place):
    """A step of the annealing, and what it is where somebody presses Ctrl-C during the one at some place."""
    step, n_calls = Bath.step, itertools.count(1)

    def interrupted(self, mix, beta):
        if next(n_calls) == place:
            raise KeyboardInterrupt
        return step(self, mix, beta)

    return interrupted


ANNEALED = {
    "KMeans": lambda **how: KMeans(3, init="annealed", random_state=0, **how),
    "GaussianMixture": lambda **how: GaussianMixture(3, init_params="annealed", random_state=0, **how),
    "Mixture": lambda **how: Mixture("gaussian_diagonal", 3, temperature=Annealed(), random_state=0, **how),
}


@pytest.mark.parametrize("place", [1, 4, 12, 25])
@pytest.mark.parametrize("name", ANNEALED)
def test_an_interrupted_annealing_keeps_what_it_has_where_it_is_told_to(name, place, monkeypatch):
    model = ANNEALED[name](on_interrupt="keep")
    with monkeypatch.context() as patch:
        patch.setattr(Bath, "step", interrupted_at(place))
        with pytest.warns(ConvergenceWarning, match="did not converge: the fit was interrupted; the best"):
            model.fit(IRIS)
    trace = model.history_["annealing"]
    whole = ANNEALED[name]().fit(IRIS).history_["annealing"]
    assert not model.converged_
    assert "interrupted" in model.stop_reason_
    assert trace["beta"] == whole["beta"][: len(trace["beta"])]
    assert np.isfinite(model.score_samples(IRIS) if hasattr(model, "score_samples") else model.inertia_).all()
    assert np.isfinite(model.reconstruct(IRIS)).all()


@pytest.mark.parametrize("name", ANNEALED)
def test_an_interrupted_annealing_raises_and_changes_nothing_where_it_is_not(name, monkeypatch):
    model = ANNEALED[name]()
    with monkeypatch.context() as patch:
        patch.setattr(Bath, "step", interrupted_at(7))
        with pytest.raises(KeyboardInterrupt):
            model.fit(IRIS)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("name", ANNEALED)
def test_of_several_annealed_fits_an_interrupt_keeps_the_best_ended_one(name, monkeypatch):
    step, steps = Bath.step, []
    with monkeypatch.context() as patch:
        patch.setattr(Bath, "step", lambda *args: steps.append(0) or step(*args))
        whole = ANNEALED[name]().fit(IRIS)
    model = ANNEALED[name](on_interrupt="keep", n_init=3)
    with monkeypatch.context() as patch:
        patch.setattr(Bath, "step", interrupted_at(len(steps) + 5))
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            model.fit(IRIS)
    assert not model.converged_
    np.testing.assert_allclose(model.reconstruct(IRIS), whole.reconstruct(IRIS))
