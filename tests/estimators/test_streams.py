"""Batches and codes of rows in files: EM that is exact however it is cut, codes that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import resource
import signal

import numpy as np
import pytest

import mixcoder
from mixcoder.errors import DataError


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 2))[rng.integers(3, size=6000)] * 4 + rng.normal(size=(6000, 2))


@pytest.fixture
def files(x, tmp_path):
    (tmp_path / "rows").mkdir()
    for i, piece in enumerate(np.split(x, [100, 4000])):
        np.save(tmp_path / "rows" / f"{i}.npy", piece)
    return mixcoder.open_blocks(tmp_path / "rows")


@pytest.mark.parametrize("n_batches", [1, 2, 5])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_batches_that_wait_for_each_other_are_one_iteration_of_em(x, n_batches, covariance_type):
    make = lambda n: mixcoder.GaussianMixture(  # noqa: E731
        3, covariance_type=covariance_type, random_state=0, acceleration="none", tol=0, max_iter=n
    )
    with pytest.warns(match="did not converge"):
        model, longer = make(2).fit(x), make(4).fit(x)
    for _ in range(2):
        *first, last = np.array_split(x, n_batches)
        before = model.means_.copy()
        for batch in first:
            model.partial_fit(batch, maximize=False)
            assert np.array_equal(model.means_, before)
        if n_batches == 1:
            model.partial_fit(last[:3000], maximize=False)
            last = last[3000:]
        model.partial_fit(last)
    assert np.allclose(model.means_, longer.means_, rtol=1e-10)
    assert np.allclose(model.covariances_, longer.covariances_, rtol=1e-10)
    assert np.allclose(model.lower_bounds_, longer.lower_bounds_, rtol=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_batches_that_wait_may_miss_entries(x, covariance_type):
    gone = np.random.default_rng(1).uniform(size=2000) < 0.3
    x[:2000, 0][gone], x[1000:3000, 1][~gone] = np.nan, np.nan
    x[np.isnan(x).all(1), 0] = 0.0
    make = lambda n: mixcoder.GaussianMixture(  # noqa: E731
        3, covariance_type=covariance_type, random_state=0, acceleration="none", tol=0, max_iter=n
    )
    with pytest.warns(match="did not converge"):
        model, longer = make(2).fit(x), make(3).fit(x)
    for batch in (x[:1000], x[1000:2500]):
        model.partial_fit(batch, maximize=False)
    with pytest.raises(DataError, match="holds any value"):
        model.partial_fit(np.full((5, 2), np.nan), maximize=False)
    model.partial_fit(x[2500:])
    assert np.allclose(model.means_, longer.means_, rtol=1e-10)
    assert np.allclose(model.covariances_, longer.covariances_, rtol=1e-10)
    assert np.allclose(model.lower_bounds_, longer.lower_bounds_, rtol=1e-10)


def test_weights_count_across_batches_that_wait(x):
    """Batches of light and of heavy rows add up in one unit: their cut does not show."""
    weights = np.concatenate([np.full(3000, 0.1), np.full(3000, 40.0)])
    weights *= np.random.default_rng(1).uniform(0.5, 2, len(x))
    here, there = (mixcoder.GaussianMixture(3, random_state=0).partial_fit(x[:2000]) for _ in range(2))
    for model, cuts in ((here, [1500]), (there, [3000, 3001])):
        *first, last = zip(np.split(x, cuts), np.split(weights, cuts), strict=True)
        for rows, own in first:
            model.partial_fit(rows, sample_weight=own, maximize=False)
        model.partial_fit(last[0], sample_weight=last[1])
    assert np.allclose(here.means_, there.means_, rtol=1e-9)
    assert np.allclose(here.weights_, there.weights_, rtol=1e-9)


def test_a_model_with_batches_that_wait_is_not_saved(x, tmp_path):
    model = mixcoder.GaussianMixture(3, random_state=0).partial_fit(x, maximize=False)
    assert np.isfinite(model.lower_bound_)
    assert model.n_iter_ == 0
    with pytest.raises(ValueError, match="wait for an M-step"):
        model.save(tmp_path / "m")
    model.partial_fit(x).save(tmp_path / "m")


def test_batches_in_files_are_batches(x, files):
    here, there = (mixcoder.GaussianMixture(3, random_state=0) for _ in range(2))
    for _ in range(2):
        here.partial_fit(x)
        there.partial_fit(files)
    assert np.array_equal(here.means_, there.means_)


@pytest.mark.parametrize("hard", [False, True])
def test_codes_of_files_are_parts_in_their_order(x, files, tmp_path, hard):
    model = mixcoder.GaussianMixture(3, random_state=0).fit(x)
    manifest = model.encode_to(files, tmp_path / "codes", hard=hard)
    assert manifest == json.loads((tmp_path / "codes" / "manifest.json").read_text())
    assert [part["rows"] for part in manifest["parts"]] == [100, 3900, 2000]
    assert [part["source"] for part in manifest["parts"]] == [str(part.path) for part in files.parts]
    for part in manifest["parts"]:
        content = (tmp_path / "codes" / part["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == part["sha256"]
    codes = next(mixcoder.open_blocks(tmp_path / "codes").blocks(len(x))).x.numpy()
    if hard:
        assert np.array_equal(codes[:, 0], model.predict(x))
    else:
        assert np.allclose(codes, model.encode(x), rtol=1e-12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes", "rows"]


def test_codes_of_rows_in_memory_and_of_hard_encoders(x, tmp_path):
    model = mixcoder.KMeans(3, random_state=0).fit(x.astype(np.float32))
    manifest = model.encode_to(x.astype(np.float32), tmp_path / "codes")
    assert (manifest["hard"], manifest["dtype"], manifest["columns"]) == (True, "int64", 1)
    assert np.array_equal(np.load(tmp_path / "codes" / "part-00000.npy")[:, 0], model.labels_)


def test_codes_that_cannot_be_written_leave_nothing(x, files, tmp_path):
    model = mixcoder.GaussianMixture(3, random_state=0).fit(x)
    model.encode_to(files, tmp_path / "codes")
    before = (tmp_path / "codes" / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.encode_to(files, tmp_path / "codes")
    with pytest.raises(FileExistsError, match="holds no codes"):
        model.encode_to(files, tmp_path / "rows", overwrite=True)
    with pytest.raises(FileNotFoundError, match="make it first"):
        model.encode_to(files, tmp_path / "absent" / "codes")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # a disk that is full, as far as a process can tell
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            model.encode_to(files, tmp_path / "codes", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "codes" / "manifest.json").read_bytes() == before
    np.save(tmp_path / "rows" / "1.npy", np.full((3900, 2), np.inf))
    with pytest.raises(DataError, match="not finite"):
        model.encode_to(mixcoder.open_blocks(tmp_path / "rows"), tmp_path / "codes", overwrite=True)
    assert (tmp_path / "codes" / "manifest.json").read_bytes() == before
    model.encode_to(x, tmp_path / "codes", overwrite=True)
    assert (tmp_path / "codes" / "manifest.json").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes", "rows"]
