"""Rows in files: what is in them, and errors that say where. The laws of a source are in test_conformance.py."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import mixcoder
from mixcoder.errors import DataChangedError, DataError, DataTypeError
from mixcoder.sources import FileSource, open_blocks

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(101, 3))


def write_parquet(path, x, names=("a", "b", "c"), group=17):
    table = pa.table({name: x[:, i] for i, name in enumerate(names)})
    parquet.write_table(table, path, row_group_size=group)
    return path


def split(tmp_path, x, kind):
    """Write a table as three files, one of them without rows."""
    for i, piece in enumerate((x[:40], x[40:40], x[40:])):
        if kind == "npy":
            np.save(tmp_path / f"{i}.npy", piece)
        else:
            write_parquet(tmp_path / f"{i}.parquet", piece)
    return open_blocks(tmp_path / f"*.{kind}")


@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_blocks_hold_every_row_once_across_files_and_row_groups(tmp_path, x, kind, block_rows):
    source = split(tmp_path, x, kind)
    assert (source.n_rows, source.n_features, source.dtype) == (101, 3, torch.float64)
    blocks = list(source.blocks(block_rows))
    assert torch.equal(torch.cat([block.x for block in blocks]), torch.from_numpy(x))
    assert [block.start for block in blocks] == list(range(0, 101, block_rows))
    index = torch.tensor([100, 0, 39, 40, 40, -1])
    assert torch.equal(source.take(index), torch.from_numpy(x)[index])


@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (np.float32, torch.float32),
        (np.float64, torch.float64),
        (np.int32, torch.float64),
        (np.bool_, torch.float64),
    ],
)
def test_numbers_of_every_kind_are_widened_but_float32(tmp_path, kind, stored, read):
    x = (10 * np.random.default_rng(1).normal(size=(20, 2))).astype(stored)
    if kind == "npy":
        np.save(tmp_path / "x.npy", x)
    else:
        write_parquet(tmp_path / "x.parquet", x, ("a", "b"))
    source = open_blocks(tmp_path)
    assert source.dtype == read
    assert torch.equal(next(source.blocks(100)).x, torch.from_numpy(x).to(read))


def test_big_endian_numbers_are_read(tmp_path, x):
    np.save(tmp_path / "x.npy", x.astype(">f8"))
    assert torch.equal(open_blocks(tmp_path / "x.npy").take(torch.arange(101)), torch.from_numpy(x))


def test_columns_are_read_in_the_order_asked_for(tmp_path, x):
    path = write_parquet(tmp_path / "x.parquet", x)
    source = open_blocks(path, columns=["c", "a"])
    assert source.names == ("c", "a")
    assert torch.equal(source.take(torch.arange(101)), torch.from_numpy(x[:, [2, 0]]))
    with pytest.raises(DataError, match="no column 'z'"):
        open_blocks(path, columns=["z"])


def test_a_file_that_is_no_table_of_numbers_is_refused_before_anything_is_read(tmp_path, x):
    (tmp_path / "text.npy").write_bytes(b"rows")
    np.save(tmp_path / "objects.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "columns.npy", np.asfortranarray(x))
    np.save(tmp_path / "line.npy", x[:, 0])
    parquet.write_table(pa.table({"a": ["u", "v"]}), tmp_path / "words.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"PAR1 nothing PAR1")
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    for name, error, match in [
        ("text.npy", DataError, "no NPY file"),
        ("objects.npy", DataTypeError, "expected real numbers"),
        ("columns.npy", DataError, "column by column"),
        ("line.npy", DataError, r"shape \(101,\)"),
        ("words.parquet", DataTypeError, "Column 'a'"),
        ("junk.parquet", DataError, "damaged"),
        ("x.xlsx", DataTypeError, "convert it"),
    ]:
        with pytest.raises(error, match=match) as caught:
            open_blocks(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(DataError, match="No file matches"):
        open_blocks(tmp_path / "day-*.npy")
    with pytest.raises(DataError, match="paths is empty"):
        open_blocks([])
    with pytest.raises(FileNotFoundError):
        open_blocks(tmp_path / "absent.npy")


def test_a_claim_of_more_rows_than_the_file_has_is_refused(tmp_path, x):
    path = tmp_path / "x.npy"
    np.save(path, x)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(DataError, match="cut off"):
        open_blocks(path)


def test_files_of_other_columns_are_refused(tmp_path, x):
    np.save(tmp_path / "0.npy", x)
    np.save(tmp_path / "1.npy", x[:, :2])
    with pytest.raises(DataError, match=r"1\.npy has 2 columns"):
        open_blocks(tmp_path)
    write_parquet(tmp_path / "0.parquet", x)
    write_parquet(tmp_path / "1.parquet", x, ("a", "c", "b"))
    with pytest.raises(DataError, match="name the columns"):
        open_blocks(tmp_path / "*.parquet")
    np.save(tmp_path / "none.npy", x[:0])
    with pytest.raises(DataError, match="no rows"):
        open_blocks(tmp_path / "none.npy")


def test_a_file_that_changes_while_it_is_used_is_an_error_not_a_crash(tmp_path, x):
    path = tmp_path / "x.npy"
    np.save(path, x)
    source = open_blocks(path)
    blocks = source.blocks(10)
    next(blocks)
    os.truncate(path, 300)
    with pytest.raises(DataChangedError, match="became shorter"):
        list(blocks)
    with pytest.raises(DataChangedError, match="has changed since"):
        mixcoder.GaussianMixture(2).fit(source)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_value_that_is_not_finite_is_found_in_its_file(tmp_path, x, kind):
    x[70, 1] = np.inf
    model = mixcoder.GaussianMixture(2)
    with pytest.raises(DataError, match=rf"1 of 303 values.*row 30 of .*2\.{kind}.*column 1"):
        model.fit(split(tmp_path, x, kind))
    assert not hasattr(model, "model_")


def test_a_source_made_of_a_tensor_cleans_up(x):
    source = FileSource.holding(torch.from_numpy(x))
    folder = source.parts[0].path.parent
    assert folder.exists()
    del source
    assert not folder.exists()
