"""A fit that is killed and resumed ends with the bits of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import mixcoder
from mixcoder import modelfile
from mixcoder.encoders import Tempered
from mixcoder.errors import CorruptModelError, DataChangedError, EmptyRowWarning, FitError


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 3))[rng.integers(5, size=4000)] * 1.2 + rng.normal(size=(4000, 3))


class Stop(Exception):
    """Ends a fit from outside."""


def fit(model, x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", EmptyRowWarning)
        return model.fit(x, **options)


def interrupted_after(monkeypatch, n_passes, error=Stop, *, searched=True):
    """Make the pass after some passes over the rows fail.

    Passes that search for ranks, which every try makes again, are no part of what goes on: ``searched`` is then false.
    """
    from mixcoder.estimators._checkpoint import Checkpoint
    from mixcoder.fitting.em import Problem

    left, real, begun, ask = [n_passes], Problem.totals, [searched], Checkpoint.state

    def state(self, *args):
        begun[0] = True
        return ask(self, *args)

    def counted(self, *args):
        if self.source.n_rows > 1000 and begun[0]:
            left[0] -= 1
            if left[0] < 0:
                raise error
        return real(self, *args)

    monkeypatch.setattr(Problem, "totals", counted)
    monkeypatch.setattr(Checkpoint, "state", state)


def require_same(one, two):
    assert np.array_equal(one.model_.prototypes(), two.model_.prototypes())
    assert torch.equal(one.model_.log_weights, two.model_.log_weights)
    for mine, theirs in zip(vars(one.model_.params).values(), vars(two.model_.params).values(), strict=True):
        if torch.is_tensor(mine):
            assert torch.equal(mine, theirs)
    assert one.history_["bound"] == two.history_["bound"]
    assert one.history_["events"] == two.history_["events"]
    assert (one.n_iter_, one.converged_, one.stop_reason_) == (two.n_iter_, two.converged_, two.stop_reason_)


MODELS = {
    "accelerated": mixcoder.GaussianMixture(5, random_state=0, tol=1e-7),
    "several starts": mixcoder.GaussianMixture(
        5, random_state=0, tol=1e-4, n_init=4, init_params="k-means++"
    ),
    "random, no seed": mixcoder.GaussianMixture(5, n_init=3, init_params="random_from_data", max_iter=9),
    "annealed": mixcoder.Mixture(
        "gaussian_diagonal", 5, encoder=Tempered(0.3, target_beta=1.0), random_state=1, max_iter=30
    ),
    "student": mixcoder.Mixture("student_t", 4, random_state=0, max_iter=25, tol=0),
    "planes": mixcoder.PPCAMixture(3, 1, random_state=0, max_iter=20, tol=0),
    "ranks": mixcoder.PPCAMixture(3, [1, 2, 1], random_state=0, max_iter=9, tol=0, shrinkage=0.1),
    "subspaces": mixcoder.SubspaceMixture(4, 1, n_init=3, random_state=0, tol=0),
    "subspaces, ranks": mixcoder.SubspaceMixture(4, "auto", random_state=0, tol=0),
    "posterior": mixcoder.BayesianGaussianMixture(6, random_state=0, max_iter=20, tol=0, n_init=2),
    "sticks": mixcoder.BayesianGaussianMixture(
        6, covariance_type="tied", init_params="random_from_data", n_init=3, random_state=0, max_iter=9
    ),
    "missing": mixcoder.GaussianMixture(4, random_state=0, max_iter=12, tol=0),
    "missing, tied": mixcoder.GaussianMixture(
        4, covariance_type="tied", init_params="random", n_init=2, random_state=0, max_iter=8
    ),
    "k-means": mixcoder.KMeans(7, random_state=0, n_init=3, init="random", tol=1e-9),
}


PRIORS = (mixcoder.GaussianMixture, mixcoder.BayesianGaussianMixture)


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_fit_ends_with_the_same_bits(name, x, tmp_path, monkeypatch):
    """Interrupted again and again, at every pass that a generator of random moments chooses."""
    path, model = tmp_path / "run.checkpoint", MODELS[name]
    if name.startswith("missing"):
        x = np.where(np.random.default_rng(1).uniform(size=x.shape) < 0.2, np.nan, x)
    if model.random_state is None:
        # The seed of the first try is that of all: what it would have given without interruption is not known.
        np.random.seed(3)  # noqa: NPY002
    whole = fit(clone(model), x, checkpoint=tmp_path / "whole")
    if model.random_state is None:
        np.random.seed(3)  # noqa: NPY002
    chance, tries = random.Random(name), 0
    resumed = clone(model)
    while not hasattr(resumed, "model_"):
        with monkeypatch.context() as patch:
            interrupted_after(patch, chance.randrange(3, 9), searched="ranks" not in name)
            try:
                fit(resumed, x, checkpoint=path, checkpoint_every=0, resume=tries > 0)
            except Stop:
                tries += 1
        assert tries < 60
    assert tries > 0
    require_same(whole, resumed)
    if name != "k-means" and model.random_state is not None:  # of k-means to rounding: it remembers no row
        require_same(fit(clone(model), x), resumed)


def test_a_checkpoint_is_also_written_when_a_fit_is_interrupted(x, tmp_path, monkeypatch):
    path, model = tmp_path / "c", mixcoder.GaussianMixture(4, random_state=0, tol=0, max_iter=12)
    for keep in ("raise", "keep"):
        with monkeypatch.context() as patch:
            interrupted_after(patch, 6, KeyboardInterrupt)
            if keep == "raise":
                with pytest.raises(KeyboardInterrupt):
                    fit(clone(model), x, checkpoint=path)
            else:
                fit(clone(model).set_params(on_interrupt="keep"), x, checkpoint=path)
        assert modelfile.read(path).kind == "checkpoint"
        require_same(fit(clone(model), x), fit(clone(model), x, checkpoint=path, resume=True))
        path.unlink()


def test_the_last_two_are_kept_and_the_newest_whole_one_is_taken(x, tmp_path, monkeypatch):
    path = tmp_path / "c"
    model = mixcoder.GaussianMixture(4, random_state=0, tol=0, max_iter=12)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 8)
        with pytest.raises(Stop):
            fit(clone(model), x, checkpoint=path, checkpoint_every=0)
    previous = tmp_path / "c.previous"
    newer, older = (modelfile.read(p).metadata["iteration"] for p in (path, previous))
    assert newer > older
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.previous"]
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match="goes on from"):
        resumed = fit(clone(model), x, checkpoint=path, resume=True)
    require_same(fit(clone(model), x), resumed)
    path.write_bytes(damaged)
    previous.unlink()
    with pytest.raises(CorruptModelError):
        fit(clone(model), x, checkpoint=path, resume=True)
    assert path.read_bytes() == bytes(damaged)


def test_against_a_prior_the_scale_of_the_weights_matters(x, tmp_path):
    path, weights = tmp_path / "c", np.full(len(x), 2.0)
    free, bound = (kind(4, random_state=0, tol=0, max_iter=4) for kind in PRIORS)
    for model in (free, bound):
        fit(clone(model), x, checkpoint=path, checkpoint_every=0, sample_weight=weights)
        again = fit(clone(model), x, checkpoint=path, resume=True, sample_weight=weights)
        require_same(fit(clone(model), x, sample_weight=weights), again)
        if model is bound:
            with pytest.raises(DataChangedError, match="other rows"):
                fit(clone(model), x, checkpoint=path, resume=True, sample_weight=2 * weights)
        else:
            require_same(again, fit(clone(model), x, checkpoint=path, resume=True, sample_weight=2 * weights))


def test_other_rows_or_parameters_are_refused_and_nothing_is_written(x, tmp_path):
    path = tmp_path / "c"
    model = mixcoder.GaussianMixture(4, random_state=0, tol=0, max_iter=5)
    fit(clone(model), x, checkpoint=path, checkpoint_every=0)
    before = path.read_bytes()
    other = x.copy()
    other[17, 1] += 1e-9
    for rows, options in (
        (other, {}),
        (x[:-1], {}),
        (x.astype(np.float32), {}),
        (x, {"sample_weight": x[:, 0] ** 2}),
    ):
        with pytest.raises(DataChangedError, match="other rows"):
            fit(clone(model), rows, checkpoint=path, resume=True, **options)
    for changes in ({"n_components": 3}, {"tol": 1e-3}, {"random_state": 1}, {"covariance_type": "diag"}):
        with pytest.raises(FitError, match=next(iter(changes))):
            fit(clone(model).set_params(**changes), x, checkpoint=path, resume=True)
    with pytest.raises(FitError, match="GaussianMixture"):
        fit(mixcoder.Mixture(n_components=4), x, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    saved = tmp_path / "model"
    fit(clone(model), x).save(saved)
    with pytest.raises(CorruptModelError, match="no checkpoint"):
        fit(clone(model), x, checkpoint=saved, resume=True)


def test_arguments_that_make_no_sense(x, tmp_path):
    model = mixcoder.KMeans(2, random_state=0)
    for options, kind in (
        ({"resume": True}, ValueError),
        ({"checkpoint": tmp_path / "c", "checkpoint_every": -1}, ValueError),
        ({"checkpoint": tmp_path / "c", "checkpoint_every": True}, ValueError),
        ({"checkpoint": tmp_path / "absent" / "c"}, FileNotFoundError),
        ({"checkpoint": tmp_path}, IsADirectoryError),
    ):
        with pytest.raises(kind):
            model.fit(x, **options)
        assert not hasattr(model, "model_")
    auto = mixcoder.GaussianMixture("auto", random_state=0)
    with pytest.raises(ValueError, match="one fit"):
        auto.fit(x, checkpoint=tmp_path / "c")
    assert "_checkpoint" not in vars(auto)
    model.fit(x, checkpoint=tmp_path / "never", resume=True)  # nothing to go on from: a fit like any other
    assert "_checkpoint" not in vars(model)


_PROGRAM = """
import sys, time, warnings
import numpy as np, mixcoder
from mixcoder.fitting.em import Problem
warnings.simplefilter("ignore")
real = Problem._pass
def slow(self, *args):
    if self.source.n_rows > 1000:
        time.sleep(0.01)  # something to be killed in
    return real(self, *args)
Problem._pass = slow
model = mixcoder.GaussianMixture(5, random_state=0, tol=0, max_iter=60)
print("ready", flush=True)
model.fit(np.load(sys.argv[1]), checkpoint=sys.argv[2], checkpoint_every=float(sys.argv[4]), resume=True)
model.save(sys.argv[3])
"""


def _run(tmp_path, every):
    arguments = [tmp_path / "x.npy", tmp_path / "c", tmp_path / "m", every]
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize("run", range(3))  # twenty of them: benchmarks/scale.py --only kills
def test_a_process_that_is_killed_at_random_moments(x, tmp_path, run):
    np.save(tmp_path / "x.npy", x)
    chance, n_killed = random.Random(5 + run), 0
    while not (tmp_path / "m").exists():
        with _run(tmp_path, 0) as process:
            process.stdout.readline()
            if n_killed < 2:
                time.sleep(chance.uniform(0.2, 0.5))
                process.kill()
                n_killed += process.wait() == -signal.SIGKILL
            else:
                assert process.wait(60) == 0
    whole = fit(mixcoder.GaussianMixture(5, random_state=0, tol=0, max_iter=60), x)
    require_same(whole, mixcoder.load(tmp_path / "m"))
    assert n_killed == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="ends by signal")
def test_sigterm_writes_a_checkpoint_and_ends_the_process(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    with _run(tmp_path, 1000) as process:
        process.stdout.readline()
        time.sleep(0.4)
        process.terminate()
        assert process.wait(30) == 143
    assert modelfile.read(tmp_path / "c").metadata["iteration"] >= 1
    assert not (tmp_path / "m").exists()
