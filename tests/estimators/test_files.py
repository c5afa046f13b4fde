"""Rows in files give the model that the same rows in memory give."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import mixcoder
from mixcoder.errors import DataError, DataTypeError


@pytest.fixture(params=[np.float64, np.float32], ids=["float64", "float32"])
def table(request, tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 3)) * 5
    x = (centres[rng.integers(4, size=30_000)] + rng.normal(size=(30_000, 3))).astype(request.param)
    for i, piece in enumerate(np.split(x, [1000, 17_000])):
        np.save(tmp_path / f"{i}.npy", piece)
    return x, mixcoder.open_blocks(tmp_path)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_the_same_bits_as_in_memory(table, covariance_type):
    x, rows = table
    make = lambda: mixcoder.GaussianMixture(4, covariance_type=covariance_type, random_state=1, max_iter=20)  # noqa: E731
    here, there = make().fit(x), make().fit(rows)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert here.lower_bounds_ == there.lower_bounds_
    assert np.array_equal(here.predict(x), there.predict(rows))
    assert np.array_equal(here.score_samples(x), there.score_samples(rows))
    assert here.score(x) == there.score(rows)
    assert here.bic(x) == there.bic(rows)
    assert here.icl(x) == there.icl(rows)
    assert here.rate(x) == there.rate(rows)
    assert here.distortion(x) == there.distortion(rows)


def test_weights_come_along(table):
    x, rows = table
    weights = np.random.default_rng(2).uniform(0.1, 2.0, size=len(x))
    here = mixcoder.GaussianMixture(4, random_state=1).fit(x, sample_weight=weights)
    there = mixcoder.GaussianMixture(4, random_state=1).fit(rows, sample_weight=weights)
    assert np.array_equal(here.means_, there.means_)
    assert rows.weights is None


def test_k_means_finds_the_same_clusters(table):
    x, rows = table
    here, there = (mixcoder.KMeans(4, random_state=0).fit(data) for data in (x, rows))
    assert np.allclose(here.cluster_centers_, there.cluster_centers_, rtol=1e-5, atol=1e-6)
    assert there.inertia_ == pytest.approx(here.inertia_, rel=1e-6)
    assert (there.predict(rows) == there.labels_).all()
    assert there.score(rows) == pytest.approx(-there.inertia_, rel=1e-6)


def test_a_model_of_files_is_asked_and_saved_like_any_other(table, tmp_path):
    x, rows = table
    model = mixcoder.GaussianMixture(4, random_state=0).fit(rows)
    model.save(tmp_path / "m.mixcoder")
    assert np.array_equal(mixcoder.load(tmp_path / "m.mixcoder").predict(x), model.predict(rows))
    assert model.encode(x[:5]).shape == (5, 4)
    with pytest.raises(DataTypeError, match="one block at a time"):
        model.encode(rows)


def test_other_columns_than_in_the_fit_are_refused(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x = np.random.default_rng(0).normal(size=(200, 2))
    parquet.write_table(pa.table({"u": x[:, 0], "v": x[:, 1]}), tmp_path / "x.parquet")
    model = mixcoder.GaussianMixture(2, random_state=0).fit(mixcoder.open_blocks(tmp_path / "x.parquet"))
    assert model.feature_names_in_.tolist() == ["u", "v"]
    with pytest.raises(DataError, match="fitted with"):
        model.predict(mixcoder.open_blocks(tmp_path / "x.parquet", columns=["v", "u"]))
    with pytest.raises(DataError, match="1 features"):
        model.predict(mixcoder.open_blocks(tmp_path / "x.parquet", columns=["u"]))


def test_rows_outside_a_family_are_found_in_their_file(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, size=(300, 3)).astype(float)
    np.save(tmp_path / "a.npy", x)
    x[7, 2] = 5.0
    np.save(tmp_path / "b.npy", x)
    with pytest.raises(DataError, match=r"a\.npy.*column 2"):
        mixcoder.Mixture("bernoulli", 2).fit(mixcoder.open_blocks(tmp_path))


_PROGRAM = """
import sys
import mixcoder
rows = mixcoder.open_blocks(sys.argv[1])
fit = lambda: mixcoder.GaussianMixture(8, covariance_type="diag", random_state=0, max_iter=2, tol=0).fit(rows)
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
import warnings; warnings.simplefilter("ignore")
small = mixcoder.open_blocks(sys.argv[2])
mixcoder.GaussianMixture(8, covariance_type="diag", random_state=0, max_iter=2).fit(small)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
model = fit()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    rng = np.random.default_rng(0)
    with (tmp_path / "big.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (4_000_000, 16)}
        )
        for _ in range(40):
            stream.write(rng.normal(size=(100_000, 16)).astype("<f4").tobytes())
    np.save(tmp_path / "small.npy", rng.normal(size=(20_000, 16)).astype("f4"))
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "big.npy"), str(tmp_path / "small.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) < 100  # MB, of a file of 256


def test_torch_is_not_asked_for_more_threads_than_before(table):
    before = torch.get_num_threads()
    mixcoder.GaussianMixture(2, random_state=0).fit(table[1])
    assert torch.get_num_threads() == before
