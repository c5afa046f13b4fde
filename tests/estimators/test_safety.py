"""A call does what it says or nothing at all; what was fitted survives copies, files, processes and other threads."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mixcoder import (
    BayesianGaussianMixture,
    GaussianMixture,
    KMeans,
    Mixture,
    SubspaceMixture,
    load,
    modelfile,
)
from mixcoder.components import PPCA, GaussianLowRankTied, Poisson
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.errors import CorruptModelError, DataError, ModelFileError, UnknownModelError
from mixcoder.estimators import base as estimator_base
from mixcoder.estimators.mixture import families
from mixcoder.fitting import fit as fitting
from mixcoder.fitting.em import Problem
from mixcoder.sources import TensorSource

X = load_iris().data[::3]
OTHER = 3.0 * X[::-1] + np.arange(4)
MAKERS = {
    "KMeans": lambda **p: KMeans(3, random_state=0, **p),
    "GaussianMixture": lambda **p: GaussianMixture(2, random_state=0, **p),
    "tied": lambda **p: GaussianMixture(2, covariance_type="tied", random_state=0, **p),
    "Bayes": lambda **p: BayesianGaussianMixture(2, random_state=0, **p),
    "Mixture": lambda **p: Mixture("gaussian_diagonal", 2, temperature=0.5, random_state=0, **p),
}


def digest(value):
    """Return a hash of a value, tensors and nested objects by content."""
    told = hashlib.sha256()

    def take(part):
        if isinstance(part, torch.Tensor):
            part = part.numpy(force=True)
        if isinstance(part, np.ndarray):
            told.update(repr((part.dtype, part.shape)).encode() + part.tobytes())
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                told.update(str(key).encode())
                take(part[key])
        elif isinstance(part, list | tuple):
            told.update(f"{type(part)}{len(part)}".encode())
            for entry in part:
                take(entry)
        elif is_dataclass(part):
            told.update(type(part).__name__.encode())
            take({entry.name: getattr(part, entry.name) for entry in fields(part)})
        else:
            told.update(repr(part).encode())

    take(value)
    return told.hexdigest()


def state(model):
    return digest(vars(model))


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def answers(model, rows=X):
    names = ("predict", "transform", "reconstruct", "predict_proba", "score_samples")
    return {name: getattr(model, name)(rows) for name in names if hasattr(model, name)}


def assert_same_bits(one, other, rows=X):
    for name, answer in answers(one, rows).items():
        assert np.array_equal(np.asarray(answer), np.asarray(answers(other, rows)[name])), name


class Bomb:
    """Raises in the k-th call of a function."""

    def __init__(self, function, place, error):
        self.function, self.place, self.error, self.n_calls = function, place, error, 0

    def __call__(self, *args, **kwargs):
        self.n_calls += 1
        if self.n_calls == self.place:
            raise self.error
        return self.function(*args, **kwargs)

    def __get__(self, instance, owner=None):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


def raised_by(function, *args):
    """Return the error of a call, ``None`` where there is none."""
    try:
        function(*args)
    except (KeyboardInterrupt, MemoryError, RuntimeError) as error:
        return error
    return None


FUSES = {
    "a pass over the rows": (Problem, "totals"),
    "a maximisation": (Problem, "maximize"),
    "a sum over blocks": (TensorSource, "map_reduce"),
    "a sweep over blocks": (TensorSource, "map_rows"),
    "looking rows up": (TensorSource, "take"),
    "the search for a start": (fitting, "search"),
    "the end of the fit": (estimator_base, "stored"),
    "a warning": (estimator_base.AutoencoderEstimator, "_remarks"),
}


# Nothing or all


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError("no more"), RuntimeError("bug")], ids=repr
)
@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("name", MAKERS)
def test_an_error_at_any_call_leaves_the_estimator_as_it_was(name, fuse, error, monkeypatch):
    owner, attribute = FUSES[fuse]
    function = getattr(owner, attribute)
    fitted, unfitted = MAKERS[name]().fit(X), MAKERS[name]()
    calls = [(fitted, "fit"), (unfitted, "fit")]
    if hasattr(unfitted, "partial_fit"):
        calls += [(unfitted, "partial_fit"), (MAKERS[name]().partial_fit(X), "partial_fit")]
    for model, method in calls:
        before, ids = state(model), {key: id(value) for key, value in vars(model).items()}
        for place in range(1, 100):
            bomb = Bomb(function, place, error)
            with monkeypatch.context() as patch, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                patch.setattr(owner, attribute, bomb)
                other = pd.DataFrame(OTHER, columns=list("abcd"))
                if raised_by(getattr(copy.copy(model), method), other) is None:
                    break  # that was the last call
                bomb.n_calls = 0
                with pytest.raises(type(error)):
                    getattr(model, method)(other)
            assert state(model) == before
            assert {key: id(value) for key, value in vars(model).items()} == ids
        assert place < 99
    again = MAKERS[name]().fit(X)
    assert_same_bits(again, unfitted.fit(X))


@pytest.fixture
def interruptible():
    """A shell starts jobs in the background with interrupts ignored: then there would be none to survive."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("name", MAKERS)
def test_an_interrupt_at_any_time_leaves_the_estimator_as_it_was(name):
    model = MAKERS[name]().fit(X)
    before, rng = state(model), np.random.default_rng(0)
    rows = rng.standard_normal((40_000, 4))  # so many that no fit ends while an interrupt is on its way
    main = threading.main_thread().ident
    n_threads, n_interrupted = torch.get_num_threads(), 0
    model.set_params(max_iter=5000, tol=0.0)
    before = state(model)
    for delay in rng.uniform(0.0, 0.03, 12):
        timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
        finished = False
        try:
            timer.start()
            quietly(model.fit, rows)
            finished = True
            timer.join()
            time.sleep(0.01)  # the interrupt comes here at the latest
        except KeyboardInterrupt:
            timer.join()
        if finished:
            model = MAKERS[name]().fit(X).set_params(max_iter=5000, tol=0.0)
            before = state(model)
            continue
        n_interrupted += 1
        assert state(model) == before
        assert torch.get_num_threads() == n_threads
    assert n_interrupted


@pytest.mark.parametrize("name", MAKERS)
def test_an_interrupted_fit_keeps_the_best_so_far_where_it_is_told_to(name, monkeypatch):
    totals = Problem.totals
    whole = MAKERS[name](tol=0.0, max_iter=8, n_init=2, on_interrupt="keep")
    counter = Bomb(totals, 0, KeyboardInterrupt())
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Problem, "totals", counter)
        whole.fit(X)
    for place in range(2, counter.n_calls + 1):
        model = MAKERS[name](tol=0.0, max_iter=8, n_init=2, on_interrupt="keep")
        with monkeypatch.context() as patch:
            patch.setattr(Problem, "totals", Bomb(totals, place, KeyboardInterrupt()))
            with pytest.warns(
                ConvergenceWarning, match="did not converge: the fit was interrupted; the best"
            ):
                model.fit(X)
        assert model.converged_ is False
        assert "interrupted" in model.stop_reason_
        assert all(np.isfinite(np.asarray(answer)).all() for answer in answers(model).values())
    first = MAKERS[name](on_interrupt="keep")
    with monkeypatch.context() as patch:
        patch.setattr(Problem, "totals", Bomb(totals, 1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):  # there is nothing yet to keep
            first.fit(X)
    assert not hasattr(first, "model_")


@pytest.mark.parametrize("name", MAKERS)
def test_a_failed_refit_changes_no_score(name):
    model = MAKERS[name]().fit(pd.DataFrame(X, columns=list("abcd")))
    rows = pd.DataFrame(X, columns=list("abcd"))
    before, score = state(model), model.score(rows)
    hopeless = [
        (np.where(np.arange(4) == 2, np.inf, OTHER), DataError),
        (OTHER[:0], ValueError),
        (OTHER * 1e250, ValueError),
        (None, TypeError),
    ]
    for method in (name for name in ("fit", "partial_fit") if hasattr(model, name)):
        for other, category in hopeless:
            with pytest.raises(category):
                quietly(getattr(model, method), other)
            with pytest.raises(ValueError, match="sample_weight"):
                getattr(model, method)(rows, sample_weight=np.full(len(X), np.nan))
            assert state(model) == before
            assert model.score(rows) == score
    assert list(model.feature_names_in_) == list("abcd")


@pytest.mark.parametrize("name", MAKERS)
def test_a_warning_that_is_an_error_fails_the_fit_as_a_whole(name):
    model = MAKERS[name]().fit(X)
    rows = np.random.default_rng(0).random((200, 4))
    start = {"init": rows[:3]} if name == "KMeans" else {"acceleration": "none"}
    model.set_params(max_iter=1, **start)
    before = state(model)
    with pytest.raises(ConvergenceWarning):
        model.fit(rows)
    assert state(model) == before


@pytest.mark.parametrize(
    ("value", "told"), [(float("nan"), "finite numbers"), (-1e9, "fell by more than rounding")]
)
def test_a_bound_that_breaks_stops_the_fit_at_the_last_good_parameters(value, told, monkeypatch):
    totals = Problem.totals

    def broken(self, params, log_weights, encoder):
        found = totals(self, params, log_weights, encoder)
        broken.n_calls += 1
        bound = torch.tensor(value, dtype=torch.float64)
        return type(found)(found.statistics, bound, found.weight) if broken.n_calls == 4 else found

    broken.n_calls = 0
    common = {"tol": 0.0, "acceleration": "none", "random_state": 0}
    X = np.random.default_rng(0).random((200, 4))
    expected = quietly(GaussianMixture(2, max_iter=2, **common).fit, X)
    monkeypatch.setattr(Problem, "totals", broken)
    with pytest.warns(ConvergenceWarning, match=told):
        model = GaussianMixture(2, max_iter=20, **common).fit(X)
    assert model.n_iter_ == 4
    assert np.isfinite(model.lower_bound_)
    np.testing.assert_array_equal(model.means_, expected.means_)


@pytest.mark.parametrize("name", MAKERS)
def test_a_question_changes_nothing(name):
    model = MAKERS[name]().fit(X)
    before, ids = state(model), {key: id(value) for key, value in vars(model).items()}
    answers(model), answers(model, torch.tensor(X)), model.rate(X), model.distortion(X), model.score(X)
    for attribute in ("means_", "covariances_", "precisions_", "cluster_centers_", "weights_"):
        if hasattr(model, attribute):
            getattr(model, attribute).fill(np.nan)  # a copy, not the model
    assert state(model) == before
    assert {key: id(value) for key, value in vars(model).items()} == ids


def test_what_cannot_fit_into_memory_is_refused_before_it_is_asked_for():
    rows = np.zeros((3, 300_000), dtype=np.float32)
    with pytest.raises(
        MemoryError, match=r"2 components of GaussianFull on 300000 features needs about \d+.* GiB"
    ):
        GaussianMixture(2).fit(rows)


def test_an_allocation_that_fails_is_a_memory_error(monkeypatch):
    model = MAKERS["GaussianMixture"]().fit(X)
    before = state(model)
    error = RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
    )
    monkeypatch.setattr(Problem, "totals", Bomb(Problem.totals, 2, error))
    with pytest.raises(MemoryError, match=r"GaussianMixture is left as it was.*fewer components"):
        model.fit(OTHER)
    assert state(model) == before


# Copies


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "joblib"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_answers_alike_and_goes_on_alike(name, how, tmp_path):
    def copied(model):
        if how == "pickle":
            return pickle.loads(pickle.dumps(model))
        if how == "deepcopy":
            return copy.deepcopy(model)
        joblib.dump(model, tmp_path / "model.joblib")
        return joblib.load(tmp_path / "model.joblib")

    models = [MAKERS[name]().fit(X)]
    if takes_batches := hasattr(models[0], "partial_fit"):
        models.append(MAKERS[name]().partial_fit(X).partial_fit(X[::2]))
    for model in models:
        other = copied(model)
        assert state(other) == state(model)
        assert_same_bits(other, model)
        if takes_batches:
            assert_same_bits(other.partial_fit(X[:20]), model.partial_fit(X[:20]))


@pytest.mark.parametrize("name", MAKERS)
def test_a_pickle_holds_no_training_rows(name):
    rows = np.random.default_rng(0).random((20_000, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [MAKERS[name](max_iter=2).fit(rows)]
        if hasattr(models[0], "partial_fit"):
            models.append(MAKERS[name]().partial_fit(rows))
        for model in models:
            if name == "KMeans":
                model.labels_ = model.labels_[:1]  # scikit-learn's attribute: one number a row
            assert len(pickle.dumps(model)) < 20_000


@pytest.mark.parametrize("name", MAKERS)
def test_a_clone_is_unfitted_and_fits_alike(name):
    model = MAKERS[name]().fit(X)
    other = clone(model)
    assert not hasattr(other, "model_")
    assert digest(other.get_params()) == digest(model.get_params())
    assert_same_bits(other.fit(X), model)


# Files

ENCODERS = [Posterior(), Argmax(), Tempered(0.5), Tempered(0.2, target_beta=1.0)]


@pytest.mark.parametrize("encoder", ENCODERS, ids=repr)
@pytest.mark.parametrize("family", families())
def test_every_mixture_comes_back_from_its_file_bit_for_bit(family, encoder, tmp_path):
    for example, params in families()[family].examples():
        k = params.n_components
        generator = torch.Generator().manual_seed(0)
        rows = example.sample(params, torch.arange(60) % k, generator).numpy()
        model = quietly(Mixture(example, k, encoder=encoder, random_state=0, max_iter=6).fit, rows)
        digest_of_file = model.save(tmp_path / "model.mixcoder")
        loaded = load(tmp_path / "model.mixcoder", expected_sha256=digest_of_file)
        assert loaded.family == example
        assert loaded.encoder == encoder
        assert state(loaded) == state(model)
        assert_same_bits(loaded, model, rows)
        assert np.array_equal(loaded.sample(5)[0], model.sample(5)[0])
        assert loaded.bic(rows) == model.bic(rows)
        assert_same_bits(quietly(loaded.partial_fit, rows[:9]), quietly(model.partial_fit, rows[:9]), rows)


FITTED = {
    **{
        f"GaussianMixture {c}": lambda c=c: GaussianMixture(2, covariance_type=c, random_state=0).fit(X)
        for c in ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")
    },
    "hard": lambda: GaussianMixture(2, temperature=0.0, random_state=0).fit(X),
    **{
        f"Bayes {c}": lambda c=c: BayesianGaussianMixture(2, covariance_type=c, random_state=0).fit(X)
        for c in ("full", "tied", "diag", "spherical")
    },
    "Bayes given": lambda: BayesianGaussianMixture(
        2,
        mean_prior=[1.0, 2.0, 3.0, 4.0],
        covariance_prior=np.eye(4),
        weight_concentration_prior_type="dirichlet_distribution",
        posterior_temperature=0.5,
    ).fit(X),
    "float32": lambda: GaussianMixture(2, random_state=0).fit(X.astype(np.float32)),
    "named columns": lambda: GaussianMixture(2, random_state=0).fit(pd.DataFrame(X, columns=list("abcé"))),
    "given start": lambda: GaussianMixture(2, means_init=X[[0, 40]], weights_init=[0.5, 0.5]).fit(X),
    "given parameters": lambda: GaussianMixture.from_parameters([1.0], [[1.0, 2.0, 3.0, 4.0]], [np.eye(4)]),
    "partial_fit": lambda: GaussianMixture(2, random_state=0).partial_fit(X).partial_fit(X[::2]),
    "function": lambda: GaussianMixture(2, init_params=lambda x, k, r: np.arange(len(x)) % k).fit(X),
    "random state": lambda: GaussianMixture(2, random_state=np.random.RandomState(0)).fit(X),
    "family and encoder": lambda: Mixture(Poisson(1e-3), 2, encoder=Tempered(0.5), random_state=0).fit(
        X.round()
    ),
    "KMeans": lambda: KMeans(3, random_state=0).fit(X),
    "KMeans, centres": lambda: KMeans(2, init=X[:2], tol=0.0).fit(X, sample_weight=np.arange(len(X))),
    "KMeans, function": lambda: KMeans(2, init=lambda x, k, r: x[:k], n_init=1).fit(X),
    "KMeans, partial_fit": lambda: KMeans(2, random_state=0).partial_fit(
        X, sample_weight=np.full(len(X), 7.0)
    ),
    "tensors": lambda: KMeans(2, random_state=0).fit(torch.tensor(X)),
    # Its sums are of another class than those of the first M-step.
    "one noise, missing entries": lambda: Mixture(GaussianLowRankTied(1), 2, random_state=0).fit(
        np.where(np.arange(4) == np.arange(len(X))[:, None] % 9, np.nan, X)
    ),
}


def test_planes_of_many_features_and_a_rank_each_come_back_from_their_file(tmp_path):
    wide = np.tile(X, 41)  # more features than scatters are kept for
    model = quietly(Mixture(PPCA((1, 2)), 2, random_state=0).fit, wide)
    model.save(tmp_path / "model.mixcoder")
    loaded = load(tmp_path / "model.mixcoder")
    assert state(loaded) == state(model)
    assert_same_bits(quietly(loaded.partial_fit, wide[:9]), quietly(model.partial_fit, wide[:9]), wide)


@pytest.mark.parametrize("name", FITTED)
def test_every_estimator_comes_back_from_its_file_bit_for_bit(name, tmp_path):
    model = quietly(FITTED[name])
    path = tmp_path / "model.mixcoder"
    model.save(path)
    loaded = load(path)
    assert type(loaded) is type(model)
    names = getattr(model, "feature_names_in_", None)
    rows = X if names is None else pd.DataFrame(X, columns=names)
    rows = rows.round() if "family" in name else rows
    assert_same_bits(loaded, model, rows)
    for attribute in (
        "converged_",
        "stop_reason_",
        "n_iter_",
        "history_",
        "lower_bound_",
        "inertia_",
        "weights_",
    ):
        if hasattr(model, attribute):
            assert digest(getattr(loaded, attribute)) == digest(getattr(model, attribute)), attribute
    if names is not None:
        assert list(loaded.feature_names_in_) == list(names)
    more = [
        name for name in ("means_", "covariances_", "precisions_", "cluster_centers_") if hasattr(model, name)
    ]
    for attribute in more:
        np.testing.assert_array_equal(getattr(loaded, attribute), getattr(model, attribute))
        assert getattr(loaded, attribute).dtype == np.asarray(getattr(model, attribute)).dtype
    if hasattr(model, "partial_fit"):
        assert_same_bits(quietly(loaded.partial_fit, rows[:20]), quietly(model.partial_fit, rows[:20]), rows)
    clone(load(path)).fit(rows)
    with pytest.raises(FileExistsError):
        model.save(path, overwrite=False)


def test_an_estimator_of_ones_own_is_pickled_not_saved(tmp_path):
    class Mine(GaussianMixture):
        pass

    with pytest.raises(UnknownModelError, match="Mine is not one of"):
        Mine().fit(X).save(tmp_path / "mine.mixcoder")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.mixcoder"
    GaussianMixture(2, covariance_type="diag", random_state=0).fit(X).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(data), 30):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"model\.mixcoder"):
            load(path)
    for place in rng.integers(0, 8 * len(data), 150):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"model\.mixcoder"):
            load(path)
    for rubbish in (b"", b"\0" * 100, pickle.dumps(X), b"PK\x03\x04", json.dumps({"a": 1}).encode()):
        path.write_bytes(rubbish)
        with pytest.raises(ModelFileError):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.mixcoder")


def changed(metadata, *path_and_value):
    *path, last, value = path_and_value
    altered = json.loads(json.dumps(metadata))
    place = altered
    for key in path:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return altered


WRONG_CONTENT = {
    "a class from elsewhere": (("family", "class", "os.system"), UnknownModelError),
    "an encoder from elsewhere": (("encoder", "class", "eval"), UnknownModelError),
    "unknown hyper-parameters": (("family", "fields", {"x": 1}), CorruptModelError),
    "no family": (("family", None), CorruptModelError),
    "a strange dtype": (("dtype", "__class__"), CorruptModelError),
    "another number of features": (("n_features_in", 7), CorruptModelError),
    "a parameter out of range": (("constructor", "tol", {"value": -1}), CorruptModelError),
    "a parameter that is none": (("constructor", "evil", {"value": 1}), CorruptModelError),
    "a state that lacks something": (("state", "converged_", None), CorruptModelError),
}
WRONG_ARRAYS = {
    "NaN": {"params.means": lambda means: means * np.nan},
    "a column less": {"params.means": lambda means: means[:, :2]},
    "weights that do not sum to one": {"log_weights": lambda log_weights: log_weights + 1},
    "a component less": {"sums.counts": lambda counts: counts[:1]},
    "nothing": {"params.means": lambda means: None},
}


@pytest.mark.parametrize("wrong", [*WRONG_CONTENT, *WRONG_ARRAYS, "another kind", "no kind"])
def test_a_whole_file_with_wrong_content_is_refused(wrong, tmp_path):
    path = tmp_path / "model.mixcoder"
    GaussianMixture(2, covariance_type="diag", random_state=0).fit(X).save(path)
    file = modelfile.read(path)
    kind, arrays, metadata, category = file.kind, dict(file.arrays), file.metadata, CorruptModelError
    if wrong in WRONG_CONTENT:
        changes, category = WRONG_CONTENT[wrong]
        metadata = changed(metadata, *changes)
    elif wrong in WRONG_ARRAYS:
        arrays |= {name: change(arrays[name]) for name, change in WRONG_ARRAYS[wrong].items()}
        arrays = {name: array for name, array in arrays.items() if array is not None}
    else:
        kind, category = (
            ("KMeans", CorruptModelError) if wrong == "another kind" else ("os.system", UnknownModelError)
        )
    modelfile.write(path, kind, arrays, metadata)
    with pytest.raises(category, match=r"model\.mixcoder"):
        load(path)


AUDIT = """
import sys
from mixcoder import load
warm = load(sys.argv[1])
events = []
def hook(event, args):
    if event in ("import", "exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.fork",
                 "subprocess.Popen", "pickle.find_class", "marshal.loads", "socket.connect", "ctypes.dlopen"):
        events.append((event, str(args)[:100]))
sys.addaudithook(hook)
for path in sys.argv[1:]:
    load(path)
print(events)
"""


def test_loading_imports_and_executes_nothing(tmp_path):
    paths = []
    for i, name in enumerate(("GaussianMixture full", "KMeans", "family and encoder", "function")):
        paths.append(str(tmp_path / f"{i}.mixcoder"))
        quietly(FITTED[name]).save(paths[-1])
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, *paths],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "[]"


# scikit-learn's callbacks


class Recorder:
    """Counts what it is told, and stops a fit after some iterations."""

    def __init__(self, stop_after=None, fail_at=None):
        self.stop_after, self.fail_at = stop_after, fail_at
        self.told, self.bounds = [], []

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.told.append(f"end {context.task_name}")
        if context.task_name == "iteration":
            n_iterations = self.told.count("end iteration")
            self.bounds.append(fitted_estimator.score(X))
            assert fitted_estimator.predict(X).shape == (len(X),)
            if n_iterations == self.fail_at:
                raise RuntimeError("a callback failed")
            return n_iterations == self.stop_after
        return False


@pytest.mark.parametrize("name", MAKERS)
def test_callbacks_see_every_iteration(name):
    recorder = Recorder()
    model = MAKERS[name](n_init=2).set_callbacks(recorder)
    model.fit(X)
    told = recorder.told
    assert told[:3] == ["setup", "begin fit", "begin start"]
    assert told[-3:] == ["end start", "end fit", "teardown"]
    assert told.count("begin start") == told.count("end start") == 2
    assert told.count("begin iteration") == told.count("end iteration") >= model.n_iter_
    assert_same_bits(model, MAKERS[name](n_init=2).fit(X))
    assert not [key for key in vars(model) if key.startswith("_callback") or "teardown" in key]


@pytest.mark.parametrize("name", MAKERS)
def test_a_callback_can_stop_the_fit(name):
    rows = np.random.default_rng(0).random((300, 4))
    start = {"init": rows[:3]} if name == "KMeans" else {}
    model = MAKERS[name](tol=0.0, max_iter=50, **start).set_callbacks(Recorder(stop_after=2))
    with pytest.warns(ConvergenceWarning, match="a callback asked to stop"):
        model.fit(rows)
    assert (model.n_iter_, model.converged_) == (2, False)
    assert model.stop_reason_ == "a callback asked to stop"


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_fit_leaves_can_be_written_to_and_differentiated(name):
    def leaves(value):
        if isinstance(value, torch.Tensor):
            return [value]
        parts = value if isinstance(value, tuple) else [getattr(value, f.name) for f in fields(value)]
        return [leaf for p in parts if p is not None for leaf in leaves(p)]

    estimator = MAKERS[name]().fit(X)
    model = estimator.model_
    found = [*leaves(model.params), model.log_weights, model.frame.shift, model.frame.scale, model.magnitude]
    sums = getattr(estimator, "_sums", None)
    found += [] if sums is None else leaves(sums)
    assert found
    assert not any(leaf.is_inference() for leaf in found)


def test_a_callback_that_fails_fails_the_fit_as_a_whole():
    recorder = Recorder(fail_at=1)
    model = MAKERS["GaussianMixture"]().fit(X)
    before, names = state(model), set(vars(model))
    model.set_callbacks(recorder)
    with pytest.raises(RuntimeError, match="a callback failed"):
        model.fit(OTHER)
    assert recorder.told[-1] == "teardown"
    assert set(vars(model)) == names | {"_skl_callbacks"}
    assert state(model.set_callbacks()) == before


def test_scoring_monitor_sees_the_likelihood_rise():
    monitor = ScoringMonitor(scoring={"score": lambda estimator, X, y: estimator.score(X)})
    model = GaussianMixture(2, random_state=0, tol=1e-6, acceleration="none").set_callbacks(monitor)
    model.fit(X, np.zeros(len(X)))  # it scores where there is a y
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    scores = [row["score"] for row in rows]
    assert len(scores) == model.n_iter_
    assert np.all(np.diff(scores) >= -1e-12)
    assert scores[-1] == pytest.approx(model.score(X))


@pytest.mark.parametrize("name", ["KMeans", "GaussianMixture"])
def test_a_progress_bar_shows_starts_and_iterations(name, capsys):
    MAKERS[name](n_init=2).set_callbacks(ProgressBar()).fit(X)
    shown = capsys.readouterr().out
    assert f"{type(MAKERS[name]()).__name__} - fit" in shown
    assert f"{type(MAKERS[name]()).__name__} - start #1" in shown


def test_callbacks_work_inside_meta_estimators(capsys):
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0))
    pipeline.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X)
    assert "GaussianMixture" in capsys.readouterr().out
    recorder = Recorder()
    model = GaussianMixture(random_state=0).set_callbacks(recorder)
    GridSearchCV(model, {"n_components": [1, 2]}, cv=2).fit(X)
    assert recorder.told.count("setup") == recorder.told.count("teardown") >= 1


# Tables out, meta-estimators


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("name", MAKERS)
def test_codes_come_as_data_frames_where_that_is_asked_for(name, library):
    frame_of = {"pandas": pd.DataFrame, "polars": __import__("polars").DataFrame}[library]
    model = MAKERS[name]().set_output(transform=library)
    code = model.fit(X).transform(X)
    prefix = type(model).__name__.lower()
    assert isinstance(code, frame_of)
    assert list(code.columns) == [f"{prefix}{i}" for i in range(model._n_features_out)]
    assert list(code.columns) == list(model.get_feature_names_out())
    np.testing.assert_array_equal(code.to_numpy(), MAKERS[name]().fit(X).transform(X))
    assert isinstance(model.fit_transform(X), frame_of)
    assert model.inverse_transform(code).shape == X.shape


def test_estimators_are_parts_of_pipelines_and_searches():
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0))
    assert pipeline.fit(X).predict(X).shape == (len(X),)
    assert np.isfinite(pipeline.score_samples(X)).all()
    rows = pipeline.inverse_transform(pipeline.transform(X))
    assert rows.shape == X.shape
    grid = {"gaussianmixture__n_components": [1, 2], "gaussianmixture__reg_covar": [None, 1e-3]}
    search = GridSearchCV(pipeline, grid).fit(X)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    assert len(cross_val_score(KMeans(2, random_state=0), X, cv=3)) == 3
    columns = ColumnTransformer(
        [
            ("clusters", KMeans(2, random_state=0), [0, 1]),
            ("codes", GaussianMixture(3, random_state=0), [2, 3]),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert columns.fit_transform(X).shape == (len(X), 5)


# Tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAKERS)
def test_tensors_in_tensors_out(name, dtype):
    rows = torch.tensor(X, dtype=dtype)
    model = MAKERS[name]().fit(rows)
    for attribute in (
        "weights_",
        "means_",
        "covariances_",
        "precisions_",
        "precisions_cholesky_",
        "cluster_centers_",
    ):
        if hasattr(model, attribute):
            assert isinstance(getattr(model, attribute), torch.Tensor)
            assert getattr(model, attribute).dtype == dtype
    for question in ("transform", "reconstruct", "predict_proba", "score_samples"):
        if hasattr(model, question):
            answer = getattr(model, question)(rows)
            assert answer.dtype == dtype
            assert answer.device == rows.device
    assert not model.predict(rows).is_floating_point()
    assert model.decode(torch.tensor([0, 1])).dtype == dtype
    assert isinstance(model.decode([0, 1]), np.ndarray)
    assert isinstance(model.predict(X), np.ndarray)
    weights = torch.linspace(0.5, 1.5, len(rows))
    weighed = MAKERS[name]().fit(rows, sample_weight=weights).score(rows, sample_weight=weights)
    rows, weights = rows.numpy(), weights.numpy()
    expected = MAKERS[name]().fit(rows, sample_weight=weights).score(rows, sample_weight=weights)
    assert weighed == pytest.approx(expected, rel=1e-5)
    if hasattr(model, "sample"):
        drawn, index = model.sample(7)
        assert isinstance(drawn, torch.Tensor)
        assert drawn.dtype == dtype
        assert index.shape == (7,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MAKERS)
def test_rows_on_a_gpu_give_answers_on_it(name):
    rows = torch.tensor(X, device="cuda")
    model, expected = MAKERS[name]().fit(rows), MAKERS[name]().fit(X)
    for question, answer in answers(expected).items():
        ours = getattr(model, question)(rows)
        assert ours.device == rows.device
        np.testing.assert_allclose(ours.cpu(), answer, rtol=1e-6, atol=1e-8)
    model.partial_fit(rows)
    np.testing.assert_allclose(np.asarray(model.predict(X)), model.predict(rows).cpu())


def test_the_default_dtype_of_torch_is_nobodys_business():
    expected = {name: make().fit(X) for name, make in MAKERS.items()}
    torch.set_default_dtype(torch.float16)
    try:
        for name, make in MAKERS.items():
            assert_same_bits(make().fit(X), expected[name])
            if hasattr(make(), "partial_fit"):
                assert_same_bits(make().partial_fit(X), make().partial_fit(X))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_and_global_random_states_are_left_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    rows = torch.tensor(X, requires_grad=True)
    model = MAKERS[name]().fit(rows)
    assert not model.transform(rows).requires_grad
    assert rows.grad is None
    with torch.inference_mode():
        MAKERS[name]().fit(rows)
    model.predict(rows)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


# Threads and processes


def test_fits_in_several_threads_at_once_give_what_each_gives_alone():
    rows = np.random.default_rng(0).random((4000, 4))
    jobs = [(name, seed) for seed in range(3) for name in MAKERS]

    def run(job):
        name, seed = job
        return MAKERS[name](max_iter=20, tol=1.0).set_params(random_state=seed).fit(rows)

    alone = [run(job) for job in jobs]
    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, jobs))
    for one, other in zip(alone, together, strict=True):
        assert_same_bits(one, other, rows[:50])
    assert torch.get_num_threads() == n_threads
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda _: alone[0].transform(rows), range(8)))
    assert all(np.array_equal(answer, asked[0]) for answer in asked)
    assert torch.get_num_threads() == n_threads


def test_the_number_of_threads_changes_no_bit_and_is_given_back():
    rows = np.random.default_rng(0).random((20_000, 4))
    before, found = torch.get_num_threads(), {}
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found[n_threads] = {
                # The bound of "Bayes", and so its tol, counts all rows.
                name: make(max_iter=4, tol=float(len(rows)) if name == "Bayes" else 1.0).fit(rows)
                for name, make in MAKERS.items()
            }
            assert torch.get_num_threads() == n_threads
            with pytest.raises(DataError):
                KMeans(2).fit(np.full((9, 2), np.nan))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    for name in MAKERS:
        assert_same_bits(found[1][name], found[2][name], rows[:50])
        assert_same_bits(found[1][name], found[3][name], rows[:50])


def _fit_and_answer(name):
    return MAKERS[name]().fit(X).transform(X)


def test_fits_in_forked_processes():
    expected = {name: _fit_and_answer(name) for name in MAKERS}  # the parent has threads of its own by now
    rows = np.random.default_rng(0).random((50_000, 4))
    KMeans(2, random_state=0).fit(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork with threads
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = dict(zip(MAKERS, pool.map(_fit_and_answer, MAKERS), strict=True))
    for name in MAKERS:
        assert np.array_equal(found[name], expected[name])


def test_fits_in_loky_processes():
    model = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 2]}, cv=2, n_jobs=2).fit(X)
    alone = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 2]}, cv=2).fit(X)
    np.testing.assert_allclose(
        model.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-12
    )
    fitted = joblib.Parallel(n_jobs=2)(
        joblib.delayed(KMeans(2, random_state=seed).fit)(X) for seed in range(2)
    )
    for seed, one in enumerate(fitted):
        assert_same_bits(one, KMeans(2, random_state=seed).fit(X))


# What is said while fitting


@pytest.mark.parametrize("name", MAKERS)
def test_verbose_tells_the_course_of_the_fit_and_silence_is_the_default(name, capsys):
    MAKERS[name]().fit(X)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    parameters = {} if name == "KMeans" else {"verbose_interval": 2}
    model = MAKERS[name](verbose=1, **parameters).fit(X)
    told = capsys.readouterr().out
    assert type(model).__name__ in told
    assert model.stop_reason_ in told
    if name == "KMeans":
        assert f"inertia {model.inertia_:.6g} after {model.n_iter_} iterations" in told
    else:
        nats = "nats" if name == "Bayes" else "nats per row"
        assert f"iteration {model.n_iter_}: bound {model.lower_bound_:.6f} {nats}\n" in told
        assert "iteration 1:" not in told or model.n_iter_ == 1


def test_a_verbose_fit_tells_its_bound_while_it_runs(capsys):
    told = []

    class Listener:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context):
            if context.task_name == "iteration":
                told.append(capsys.readouterr().out)

    settings = {"tol": 0.0, "max_iter": 6, "acceleration": "none", "random_state": 0}
    model = GaussianMixture(2, verbose=1, verbose_interval=2, **settings).set_callbacks(Listener())
    with pytest.warns(UserWarning, match="did not converge"):
        model.fit(
            np.random.default_rng(0).uniform(size=(200, 2))
        )  # no clusters: no fit settles in six iterations
    lines = [
        re.findall(r"start 1, iteration (\d+): bound (\S+) nats per row, \S+ rows a second", part)
        for part in told
    ]
    seen = {int(i): float(bound) for part in lines for i, bound in part}
    assert list(seen) == [2, 4, 6]
    assert all(seen[i] == pytest.approx(model.history_["bound"][i - 1], abs=1e-6) for i in seen)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 4e5])
def test_verbose_k_means_and_subspaces_tell_their_squared_distance(scale, capsys):
    x = scale * np.random.default_rng(0).uniform(size=(3000, 3)) + 7 * scale
    settings = {"init": x[:40], "n_init": 1, "tol": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = KMeans(40, max_iter=9, **settings).fit(x)
        KMeans(40, max_iter=12, verbose=1, **settings).fit(x)
        planes = SubspaceMixture(4, 1, max_iter=10, tol=0.0, verbose=1, random_state=0)
        told = capsys.readouterr().out
        planes.fit(x)
    found = re.findall(r"start 1, iteration 10: mean squared distance (\S+), \S+ rows a second", told)
    # The rows' distances in the tenth step are those from the centres that the ninth left.
    assert [float(level) for level in found] == pytest.approx([before.inertia_ / 3000], rel=1e-5)
    found = re.findall(r"iteration 10: mean squared distance (\S+), ", capsys.readouterr().out)
    assert [float(level) for level in found] == pytest.approx([planes.history_["distortion"][9]], rel=1e-5)


def test_the_history_tells_what_happened():
    model = GaussianMixture(2, random_state=0).fit(X)
    assert model.history_["bound"] == model.lower_bounds_
    assert len(model.history_["seconds"]) == len(model.history_["beta"]) == len(model.lower_bounds_)
    assert set(model.history_["beta"]) == {float("inf")} or all(beta > 0 for beta in model.history_["beta"])
    assert np.all(np.diff(model.history_["seconds"]) >= 0)
    assert io.StringIO(str(model.stop_reason_)).read().startswith("the bound changed by")
