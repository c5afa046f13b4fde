"""Every format gives the rows that were written, a fit its bits, and an error its place."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from source_formats import FILES, FORMATS, NARROW, NEEDS, opened, write

import mixcoder
from mixcoder.errors import DataChangedError, DataError, DataTypeError
from mixcoder.sources import open_blocks


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4))[rng.integers(3, size=1001)] * 4 + rng.normal(size=(1001, 4))


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_hold_every_row_once_across_files_and_groups(tmp_path, x, kind):
    source = opened(tmp_path, x, kind)
    assert (source.n_rows, source.n_features, source.dtype) == (1001, 4, torch.float64)
    for block_rows in (1, 7, 170, 5000):
        blocks = list(source.blocks(block_rows))
        assert torch.equal(torch.cat([block.x for block in blocks]), torch.from_numpy(x))
        assert [block.start for block in blocks] == list(range(0, 1001, block_rows))
        assert all(block.x.data_ptr() % 64 == 0 for block in blocks)
    index = torch.tensor([1000, 0, 333, 334, 334, -1])
    assert torch.equal(source.take(index), torch.from_numpy(x)[index])


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (np.float32, torch.float32),
        (np.float16, torch.float64),
        (np.int32, torch.float64),
        (np.bool_, torch.float64),
    ],
)
def test_numbers_of_every_kind_are_widened_but_float32(tmp_path, x, kind, stored, read):
    x = x[:200].astype(stored)
    source = opened(tmp_path, x, kind)
    assert source.dtype == read
    assert torch.equal(next(source.blocks(500)).x, torch.from_numpy(x).to(read))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_fit_has_the_bits_of_the_same_rows_in_memory(tmp_path, kind):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 3))[rng.integers(4, size=12_000)] * 3 + rng.normal(size=(12_000, 3))
    make = lambda: mixcoder.GaussianMixture(4, random_state=0, max_iter=5, tol=0)  # noqa: E731
    rows = opened(tmp_path, x, kind)
    weights = rng.uniform(0.5, 2.0, size=len(x))
    torch.set_num_threads(2)
    with pytest.warns(match="did not converge"):
        here, there = make().fit(x, sample_weight=weights), make().fit(rows, sample_weight=weights)
    assert here.lower_bounds_ == there.lower_bounds_
    assert np.array_equal(here.means_, there.means_)
    assert np.array_equal(here.covariances_, there.covariances_)
    assert np.array_equal(here.score_samples(x), there.score_samples(rows))
    assert np.array_equal(here.predict(x), there.predict(rows))
    assert here.distortion(x) == there.distortion(rows)


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "npy"])
def test_k_means_has_the_bits_of_npy_files(tmp_path, x, kind):
    (tmp_path / "npy").mkdir()
    make = lambda: mixcoder.KMeans(3, random_state=0)  # noqa: E731
    here, there = make().fit(opened(tmp_path / "npy", x, "npy")), make().fit(opened(tmp_path, x, kind))
    assert np.array_equal(here.cluster_centers_, there.cluster_centers_)
    assert np.array_equal(here.labels_, there.labels_)
    assert here.inertia_ == there.inertia_


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(tmp_path, x, kind, value):
    x[700, 1] = value
    places = {
        "npy": r"row 367 of .*2\.npy",
        "csv": r"row 367 of .*2\.csv \(line 369\)",
        "tsv": r"row 367 of .*2\.tsv \(line 369\)",
        "parquet": r"row 367 of .*2\.parquet \(row group 2\)",
        "feather": r"row 367 of .*2\.feather \(record batch 2\)",
        "arrow": r"row 367 of .*2\.arrow \(record batch 2\)",
        "h5": r"row 367 of .*2\.h5::/rows",
        "h5 packed": r"row 367 of .*1\.h5::/rows",
        "zarr": r"row 367 of .*2\.zarr::/ \(chunk 4\)",
        "zarr shards": r"row 367 of .*2\.zarr::/ \(chunk 2\)",
        "list": r"row 700 \(row 367 of block 2\)",
        "function": r"row 700 \(row 367 of block 2\)",
        "loader": r"row 700 \(row 34 of block 2\)",
    }
    model = mixcoder.KMeans(2)
    with pytest.raises(DataError, match=rf"1 of 4004 values.*{places[kind]}, column 1"):
        model.fit(opened(tmp_path, x, kind))
    assert not hasattr(model, "cluster_centers_")


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_written_anew_is_an_error(tmp_path, x, kind):
    path = write(tmp_path / "x", x, kind)
    source = open_blocks(path)
    next(source.blocks(10))
    if path.is_dir():
        import zarr

        zarr.open_array(str(path), mode="r+")[500] = 7.0
    else:
        write(tmp_path / "x", x + 1, kind)
    with pytest.raises(DataChangedError, match="has changed since"):
        list(source.blocks(10))
    model = mixcoder.GaussianMixture(2)
    with pytest.raises(DataChangedError, match="has changed since"):
        model.fit(source)
    assert not hasattr(model, "model_")


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_such_file_is_refused(tmp_path, x, kind):
    path = write(tmp_path / "x", x, kind)
    junk = tmp_path / f"junk{path.suffix}"
    junk.write_bytes(b"\x89 none of it \xff" * 9)
    with pytest.raises(DataError, match="junk"):
        open_blocks(junk)
    junk.write_bytes(b"")
    with pytest.raises(DataError, match="junk"):
        open_blocks(junk)
    with pytest.raises(FileNotFoundError):
        open_blocks(tmp_path / f"absent{path.suffix}")


@pytest.mark.parametrize("kind", [name for name in FILES if not name.startswith(("csv", "tsv", "zarr"))])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused_before_anything_is_fitted(tmp_path, x, kind, share):
    path = write(tmp_path / "x", x, kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"x\.") as caught:
        open_blocks(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_of_another_width_are_refused(tmp_path, x, kind):
    if kind in FILES:
        paths = [write(tmp_path / "0", x, kind), write(tmp_path / "1", x[:, :2], kind)]
        with pytest.raises(DataError, match=r"1\..* has 2 columns"):
            open_blocks(paths)
    else:
        with pytest.raises(DataError, match="Block 1 has 2 columns, but block 0 has 4"):
            open_blocks([x, x[:, :2]])


@pytest.mark.parametrize("kind", NEEDS)
def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, x, kind, monkeypatch):
    path = write(tmp_path / "x", x, kind)
    monkeypatch.setitem(sys.modules, NEEDS[kind], None)
    extra = {"pyarrow": "io", "h5py": "hdf5", "zarr": "zarr"}[NEEDS[kind]]
    with pytest.raises(
        ImportError, match=rf"^\w+ (files|arrays) need {NEEDS[kind]}: pip install 'mixcoder\[{extra}\]'\.$"
    ):
        open_blocks(path)


@pytest.mark.parametrize("kind", ["csv", "parquet", "feather"])
def test_columns_are_read_in_the_order_asked_for(tmp_path, x, kind):
    path = write(tmp_path / "x", x, kind)
    source = open_blocks(path, columns=["c", "a"])
    assert source.names == ("c", "a")
    assert torch.equal(source.take(torch.arange(1001)), torch.from_numpy(x[:, [2, 0]]))
    with pytest.raises(DataError, match="no column 'z'"):
        open_blocks(path, columns=["z"])


def test_an_option_that_means_nothing_to_a_file_is_refused(tmp_path, x):
    for kind, option, match in [
        ("npy", {"columns": ["a"]}, "no named columns"),
        ("h5", {"columns": ["a"]}, "no named columns"),
        ("parquet", {"header": True}, "no CSV"),
        ("csv", {"dataset": "/x"}, "no HDF5"),
    ]:
        with pytest.raises(DataError, match=match):
            open_blocks(write(tmp_path / "x", x, kind), **option)
    with pytest.raises(DataError, match="of files"):
        open_blocks([x], columns=["a"])
    with pytest.raises(DataTypeError, match="neither of"):
        open_blocks(tmp_path / "x.txt")


def test_a_folder_holds_files_of_several_formats_in_order_of_name(tmp_path, x):
    for i, kind in enumerate(("npy", "h5", "zarr")):
        write(tmp_path / str(i), x[300 * i : 300 * i + 300], kind)
    (tmp_path / "notes.txt").write_text("none of it")
    source = open_blocks(tmp_path)
    assert torch.equal(source.take(torch.arange(900)), torch.from_numpy(x[:900]))


@pytest.mark.parametrize("kind", ["parquet", "csv", "zarr", "feather"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_group_is_decoded_once_a_thread_and_pass_however_many_runs_share_it(
    tmp_path, x, kind, n_threads, monkeypatch
):
    source, decoded = open_blocks(write(tmp_path / "x", x, kind)), []
    (part,) = source.parts
    probe = part.reader()
    probe.close()
    reader = type(probe)
    real = reader.read_group

    def read_group(self, group):
        decoded.append((threading.get_ident(), group))
        return real(self, group)

    monkeypatch.setattr(reader, "read_group", read_group)
    torch.set_num_threads(n_threads)
    total = source.map_reduce(lambda block: block.x.sum(0), 16)
    assert torch.allclose(total, torch.from_numpy(x).sum(0))
    n_groups = len(part.starts) - 1
    assert {group for _, group in decoded} == set(range(n_groups))
    assert len(set(decoded)) == len(
        decoded
    )  # a pool that an earlier pass left may have more threads than asked
