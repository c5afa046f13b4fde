"""Choosing a model: criteria are those of the estimators, failures are told and never chosen, the truth is found."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

import mixcoder
from mixcoder import GaussianMixture, KMeans, Mixture, PPCAMixture, select, stability
from mixcoder.components import PPCA
from mixcoder.errors import DataError, FitError
from mixcoder.estimators.selection import _halved, _split, _tried
from mixcoder.fitting.em import Problem
from mixcoder.selection import Candidate, Selection, adjusted_rand, jaccard

IRIS = load_iris().data

# mclust 5.4's BIC (sign changed) of iris for one to nine components, by the covariance that both libraries have:
# EII, VII, EEI, VVI, EEE, VVV.
MCLUST = {
    "tied_spherical": [1804.0854, 1123.4117, 878.7650, 893.6140, 782.6441, 715.7136],
    "spherical": [1804.0854, 1012.2352, 853.8144, 812.6048, 742.6083, 705.7811],
    "tied_diag": [1522.1202, 1042.9679, 813.0504, 827.4036, 741.9185, 693.7908],
    "diag": [1522.1202, 857.5515, 744.6382, 751.0198, 711.4502, 707.2901],
    "tied": [829.9782, 688.0972, 632.9647, 646.0258, 604.8131, 609.8543],
    "full": [829.9782, 574.0178, 580.8396, 630.6000, 676.6061, 754.7938],
}


def three_clouds(n=80, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(n, 2)) + m for m in ([0, 0], [7, 0], [0, 7])])


# Criteria


def test_criteria_are_those_of_the_estimators():
    chosen = select(
        GaussianMixture(random_state=0), IRIS, {"n_components": [2, 3], "covariance_type": ["full", "diag"]}
    )
    assert len(chosen.candidates) == 4
    for candidate in chosen.candidates:
        model = candidate.model
        assert candidate.bic == pytest.approx(model.bic(IRIS), rel=1e-12)
        assert candidate.icl == pytest.approx(model.icl(IRIS), rel=1e-10)
        assert candidate.aic == pytest.approx(model.aic(IRIS), rel=1e-12)
        assert candidate.log_likelihood == pytest.approx(model.score(IRIS) * len(IRIS), rel=1e-12)
    assert chosen.best.bic == min(c.bic for c in chosen.candidates)
    assert chosen.best_model is chosen.best.model
    records = chosen.as_records()
    assert records[0]["covariance_type"] == "full"
    assert records[0]["bic"] == chosen.candidates[0].bic


@pytest.mark.parametrize("covariance", MCLUST)
def test_iris_is_explained_as_well_as_by_mclust_in_every_model_they_share(covariance):
    model = GaussianMixture(covariance_type=covariance, random_state=0, n_init=3, tol=1e-6, max_iter=1000)
    chosen = select(model, IRIS, {"n_components": range(1, 7)})
    for candidate, published in zip(chosen.candidates, MCLUST[covariance], strict=True):
        if candidate.failure is None:
            assert candidate.bic < published + 0.05  # equal, up to their stopping rule, or better
    if covariance == "full":
        assert chosen.best.n_components == 2
        assert [c.failure for c in chosen.candidates[:3]] == [None] * 3


def test_a_weight_of_two_is_a_row_twice_in_every_criterion():
    x = three_clouds(30)
    counts = np.ones(len(x))
    counts[:20] = 2
    start = GaussianMixture(random_state=0, tol=1e-8, max_iter=500)
    grid = {"n_components": [1, 3]}
    repeated = select(start, np.repeat(x, counts.astype(int), axis=0), grid)
    weighted = select(start, x, grid, sample_weight=counts)
    for one, other in zip(repeated.candidates, weighted.candidates, strict=True):
        mean = one.log_likelihood / counts.sum()
        assert other.log_likelihood / len(x) == pytest.approx(mean, abs=1e-5)
        assert (one.icl - one.bic) / counts.sum() == pytest.approx((other.icl - other.bic) / len(x), abs=1e-5)


def test_held_out_likelihood_is_a_cross_validation():
    x = three_clouds(40)
    chosen = select(GaussianMixture(random_state=3), x, {"n_components": [1, 3]}, criterion="held_out", cv=4)
    assert chosen.best.n_components == 3
    from sklearn.model_selection import KFold

    seed = np.random.RandomState(3).randint(np.iinfo(np.int32).max)
    scores = [
        GaussianMixture(3, random_state=seed).fit(x[train]).score_samples(x[test]).sum()
        for train, test in KFold(4, shuffle=True, random_state=seed).split(x)
    ]
    assert chosen.best.held_out == pytest.approx(sum(scores) / len(x), rel=1e-12)


@pytest.mark.parametrize("criterion", ["bic", "icl", "aic", "held_out"])
def test_every_criterion_finds_three_clouds_among_one_to_four(criterion):
    chosen = select(
        GaussianMixture(random_state=0), three_clouds(), {"n_components": range(1, 5)}, criterion=criterion
    )
    assert chosen.best.n_components in ((3,) if criterion in ("bic", "icl") else (3, 4))


def test_the_rank_of_planes_is_found():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8)) * 3 + 0.3 * rng.normal(size=(300, 8))
    chosen = select(PPCAMixture(random_state=0), rows, {"n_components": [1], "n_latent": [1, 2, 3, 4]})
    assert chosen.best.settings["n_latent"] == 2
    families = select(Mixture(random_state=0), rows, {"family": [PPCA(1), PPCA(2)], "n_components": [1]})
    assert families.best.settings["family"] == PPCA(2)


@pytest.mark.slow  # processes start slowly
def test_the_result_does_not_depend_on_the_number_of_workers():
    x = three_clouds(20)
    one = select(GaussianMixture(random_state=0), x, {"n_components": [2, 3]})
    two = select(GaussianMixture(random_state=0), x, {"n_components": [3, 2]}, n_jobs=2)
    assert [c.bic for c in one.candidates] == [c.bic for c in two.candidates][::-1]
    model = one.best_model
    found = [stability(model, x, n_bootstraps=3, random_state=5, n_jobs=n) for n in (None, 2)]
    assert torch.equal(found[0].rand, found[1].rand)


def test_the_estimator_given_is_left_as_it_is():
    model = GaussianMixture(2, random_state=0).fit(IRIS)
    before = dict(vars(model))
    select(model, IRIS, {"n_components": [1, 2]})
    assert vars(model) == before


# Failures


def test_failures_are_told_and_never_chosen():
    x = three_clouds(4)
    chosen = select(GaussianMixture(random_state=0), x, {"n_components": [1, 2, 50]})
    failed = chosen.candidates[-1]
    assert "n_samples >= n_components" in failed.failure
    assert failed.model is None
    assert chosen.ranked[-1] is failed
    assert "not chosen" in str(chosen)
    assert chosen.best.failure is None


def test_a_component_that_collapsed_is_no_discovery():
    x = three_clouds(20)
    x[:4] = x[0]  # four equal rows: a spike on them has any likelihood one likes
    spike = np.r_[np.zeros(4, dtype=int), np.ones(len(x) - 4, dtype=int)]
    model = GaussianMixture(2, random_state=0, init_params=spike)
    chosen = select(model, x, {"covariance_type": ["full", "tied"]})
    collapsed, sound = chosen.candidates
    assert collapsed.failure == "components [0] collapsed onto the variance floor"
    assert collapsed.bic < sound.bic
    assert chosen.best is sound


def test_nothing_to_choose_is_an_error_that_says_why():
    with pytest.raises(FitError, match=r"None of 2 models.*n_samples >= n_components"):
        select(GaussianMixture(random_state=0), IRIS[:5], {"n_components": [20, 30]})
    with pytest.raises(TypeError, match="KMeans has none"):
        select(KMeans(2), IRIS)
    with pytest.raises(ValueError, match="criterion must be one of"):
        select(GaussianMixture(), IRIS, criterion="dic")
    with pytest.raises(ValueError, match="None of 0"):
        _ = Selection(()).best
    with pytest.raises(ValueError, match="criterion must be one of"):
        Selection((), "mdl")


def test_a_selection_ranks_by_its_criterion():
    a = Candidate({"n_components": 1}, 1, bic=3.0, icl=1.0, held_out=-2.0)
    b = Candidate({"n_components": 2}, 2, bic=2.0, icl=4.0, held_out=-1.0)
    bad = Candidate({"n_components": 3}, 3, bic=-9.0, icl=-9.0, held_out=9.0, failure="collapsed")
    for criterion, best in (("bic", b), ("icl", a), ("held_out", b)):
        selection = Selection((a, bad, b), criterion)
        assert selection.best is best
        assert selection.ranked[-1] is bad


def test_more_components_never_explain_the_rows_worse():
    chosen = select(
        GaussianMixture(covariance_type="diag", random_state=4), IRIS, {"n_components": range(1, 10)}
    )
    heights = [c.log_likelihood for c in chosen.candidates if c.failure is None]
    assert all(b > a - 1e-3 * abs(a) for a, b in zip(heights, heights[1:], strict=False))


def test_a_component_of_rows_with_missing_entries_can_be_split():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(60, 3)) + centre for centre in (0, 6, 12)])
    rows[rng.random(rows.shape) < 0.1] = np.nan
    model = GaussianMixture(random_state=0)
    two, three = (_tried(model, {"n_components": k}, rows, None, 0, 0) for k in (2, 3))
    stuck = replace(three, bic=math.inf)  # a fit that ended below the smaller one
    found = _split(stuck, two, model, rows, None, 0, 0)
    assert found is not stuck
    assert found.bic == pytest.approx(three.bic, rel=1e-4)


def test_halving_a_component_keeps_the_code_a_code():
    x, code = (
        torch.from_numpy(IRIS),
        torch.from_numpy(GaussianMixture(3, random_state=0).fit(IRIS).predict_proba(IRIS)),
    )
    halved = _halved(x, code, 1)
    torch.testing.assert_close(halved.sum(1), torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(halved[:, 1] + halved[:, 3], code[:, 1])
    torch.testing.assert_close(halved[:, [0, 2]], code[:, [0, 2]])
    assert 0.2 < float(halved[:, 1].sum() / code[:, 1].sum()) < 0.8


# The number of components found by the fit itself


@pytest.mark.parametrize(
    "model",
    [
        GaussianMixture("auto", random_state=0),
        Mixture("gaussian_spherical", "auto", random_state=0),
        PPCAMixture("auto", 1, random_state=0),
    ],
    ids=lambda m: type(m).__name__,
)
def test_auto_finds_three_clouds_and_answers_as_any_fitted_mixture(model, tmp_path):
    x = three_clouds()
    model.fit(x)
    assert model.n_components == "auto"
    assert model.n_components_ == 3
    assert len(np.unique(model.predict(x))) == 3
    assert model.predict_proba(x).shape == (len(x), 3)
    assert model.selection_.best.n_components == 3
    assert model.bic(x) == pytest.approx(model.selection_.best.bic)
    model.save(tmp_path / "m.mixcoder")
    again = mixcoder.load(tmp_path / "m.mixcoder")
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert clone(again).n_components == "auto"
    assert clone(model).fit(x).n_components_ == 3


def test_auto_stops_three_numbers_after_the_best():
    model = GaussianMixture("auto", random_state=0).fit(three_clouds())
    assert [c.n_components for c in model.selection_.candidates] == [1, 2, 3, 4, 5, 6]
    assert (
        GaussianMixture("auto", random_state=0)
        .fit(np.random.default_rng(0).normal(size=(50, 2)))
        .n_components_
        == 1
    )


def test_auto_searches_anew_at_each_fit_and_with_weights():
    model = GaussianMixture("auto", random_state=0, warm_start=True).fit(three_clouds())
    x = three_clouds()
    weights = np.r_[np.ones(160), np.zeros(80)]
    assert model.fit(x, sample_weight=weights).n_components_ == 2
    assert model.fit(torch.from_numpy(x)).n_components_ == 3
    assert isinstance(model.means_, torch.Tensor)


def test_what_auto_cannot_do_is_said():
    x = three_clouds(5)
    with pytest.raises(ValueError, match="partial_fit"):
        GaussianMixture("auto").partial_fit(x)
    with pytest.raises(ValueError, match="means_init is a start"):
        GaussianMixture("auto", means_init=x[:2]).fit(x)
    with pytest.raises(ValueError, match="init is a start"):
        Mixture(n_components="auto", init=np.zeros(len(x), dtype=int)).fit(x)
    with pytest.raises(ValueError, match="n_components"):
        GaussianMixture("best").fit(x)
    with pytest.raises(DataError, match="NaN"):
        Mixture("student_t", "auto").fit([[1.0], [math.nan], [2.0]])
    model = GaussianMixture("auto", random_state=0)
    with pytest.raises(ValueError, match="2D"):
        model.fit(np.zeros(5))
    assert not hasattr(model, "model_")


def test_missing_entries_do_not_hide_how_many_components_there_are():
    x = three_clouds()
    x[::7, 0] = math.nan
    model = GaussianMixture("auto", random_state=0).fit(x)
    assert model.n_components_ == 3
    assert np.isfinite(model.score_samples(x)).all()


def test_a_failed_search_leaves_the_estimator_as_it_was():
    model = GaussianMixture("auto", random_state=0).fit(three_clouds())
    before = dict(vars(model))
    with pytest.raises(DataError):
        model.fit(np.full((4, 2), math.inf))
    assert vars(model) == before


def test_auto_in_a_grid_search_finds_its_own_number_each_time():
    chosen = select(
        GaussianMixture("auto", random_state=0),
        three_clouds(40),
        {"covariance_type": ["full", "tied_spherical"]},
    )
    assert [c.n_components for c in chosen.candidates] == [3, 3]
    assert chosen.best.settings["covariance_type"] == "tied_spherical"


# Agreement and stability


def test_agreement_is_that_of_scikit_learn_and_of_brute_force():
    rng = np.random.default_rng(0)
    for k in (1, 2, 4):
        a, b = rng.integers(k, size=60), rng.integers(3, size=60)
        ours = adjusted_rand(torch.from_numpy(a), torch.from_numpy(b))
        assert ours == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
        groups = [[set(np.flatnonzero(labels == i)) for i in range(4)] for labels in (a, b)]
        expected = [max(len(p & q) / len(p | q) for q in groups[1]) for p in groups[0][:k]]
        np.testing.assert_allclose(jaccard(torch.from_numpy(a), torch.from_numpy(b)), expected)
    assert adjusted_rand(torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)) == 1.0
    assert math.isnan(jaccard(torch.tensor([0, 2]), torch.tensor([0, 1]))[1])
    with pytest.raises(ValueError, match="one shape"):
        adjusted_rand(torch.tensor([0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="from 0"):
        adjusted_rand(torch.tensor([-1]), torch.tensor([0]))


@pytest.mark.parametrize(
    "model", [GaussianMixture(3, random_state=0), KMeans(3, random_state=0)], ids=["gm", "km"]
)
def test_clouds_are_stable_and_cuts_through_one_cloud_are_not(model):
    x = three_clouds(40)
    found = stability(model.fit(x), x, n_bootstraps=10, random_state=0)
    assert found.verdicts == ["stable"] * 3
    assert found.jaccard.shape == (10, 3)
    assert "Jaccard" in str(found)
    one = np.random.default_rng(1).normal(size=(200, 2))
    cut = KMeans(5, random_state=0).fit(one)
    assert "stable" not in stability(cut, one, n_bootstraps=10, random_state=0).verdicts


def test_stability_is_reproducible_and_refuses_what_it_cannot_do():
    x = three_clouds(15)
    model = GaussianMixture("auto", random_state=0).fit(x)
    before = dict(vars(model))
    one = stability(model, x, n_bootstraps=3, random_state=5)
    assert vars(model) == before
    assert torch.equal(one.rand, stability(model, x, n_bootstraps=3, random_state=5).rand)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        stability(model, x, n_bootstraps=0)
    with pytest.raises(TypeError, match="got int"):
        stability(3, x)


def interrupt_at(monkeypatch, call):
    """Press Ctrl-C in the third iteration of one of the fits."""
    calls = 0
    real = Problem.totals
    fits = []

    def totals(self, *args):
        nonlocal calls
        if not fits or fits[-1] is not self:
            fits.append(self)
            calls = 0
        calls += 1
        if len(fits) == call and calls == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Problem, "totals", totals)
    return fits


def test_an_interrupt_ends_select_and_leaves_what_was_complete(monkeypatch):
    grid = {"n_components": [1, 2, 3, 4, 5]}
    model = GaussianMixture(random_state=0, tol=0, max_iter=30, on_interrupt="keep", init_params="random")
    fits = interrupt_at(monkeypatch, 4)
    with pytest.warns(ConvergenceWarning, match="search was interrupted after 3 of 5 fits"):
        chosen = select(model, three_clouds(), grid)
    assert len(fits) == 4
    assert chosen.interrupted
    assert "interrupted" in str(chosen)
    assert [c.interrupted for c in chosen.candidates] == [False, False, False, True]
    assert chosen.best.n_components <= 3
    assert not chosen.best.interrupted
    assert math.isinf(chosen.candidates[-1].loss("bic"))


@pytest.mark.parametrize(("how", "call"), [("raise", 3), ("keep", 1)])
def test_an_interrupt_goes_up_where_it_is_told_to_and_where_nothing_is_complete(monkeypatch, how, call):
    model = GaussianMixture(
        "auto", random_state=0, tol=0, max_iter=30, on_interrupt=how, init_params="random"
    )
    fits = interrupt_at(monkeypatch, call)
    with pytest.raises(KeyboardInterrupt):
        model.fit(three_clouds())
    assert len(fits) == call
    assert not hasattr(model, "model_")
    fits.clear()
    with pytest.raises(KeyboardInterrupt):
        select(model.set_params(n_components=1), three_clouds(), {"n_components": [1, 2, 3, 4]})
    assert len(fits) == call


def test_an_interrupt_ends_the_search_for_a_number_of_components(monkeypatch):
    model = GaussianMixture(
        "auto", random_state=0, tol=0, max_iter=30, on_interrupt="keep", init_params="random"
    )
    fits = interrupt_at(monkeypatch, 4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(three_clouds())
    assert any("search was interrupted after" in str(w.message) for w in told)
    assert len(fits) == 4
    assert "interrupted" in model.stop_reason_
    assert not model.converged_
    assert model.selection_.interrupted
    assert not model.selection_.best.interrupted
