"""Files that are damaged, or never were whole: refused before a fit where that can be known, never read as zeros."""

from __future__ import annotations

import datetime as dt
import os
import struct

import numpy as np
import pytest
import torch
from source_formats import write

import mixcoder
from mixcoder.errors import DataChangedError, DataError, DataTypeError
from mixcoder.sources import open_blocks


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(400, 4))


def read_all(path):
    return torch.cat([block.x for block in open_blocks(path).blocks(100)]).numpy()


# NPY


def test_a_header_that_claims_58_tib_is_refused_before_memory_is_asked_for(tmp_path, x):
    with (tmp_path / "x.npy").open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2_000_000_000_000, 4)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(x.tobytes())
    with pytest.raises(DataError, match="cut off"):
        open_blocks(tmp_path / "x.npy")


def test_objects_are_never_unpickled(tmp_path):
    struck = tmp_path / "struck"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(struck),)

    np.save(tmp_path / "x.npy", np.array([[Evil()]], dtype=object), allow_pickle=True)
    with pytest.raises(DataTypeError, match="expected real numbers"):
        open_blocks(tmp_path / "x.npy")
    assert not struck.exists()


def test_every_single_bit_of_an_npy_header_may_flip(tmp_path, x):
    """A file is refused, or it is a table of as many bytes: nothing else is raised."""
    path = tmp_path / "x.npy"
    np.save(path, x)
    whole = path.read_bytes()
    refused = []
    for place in range(128):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                values = read_all(path)
            except DataError as error:
                refused.append(str(error))
            else:
                assert values.size <= len(whole)
    assert len(refused) > 300
    assert all("x.npy" in message for message in refused)


# Parquet


def test_a_flipped_bit_in_a_page_with_a_checksum_is_found(tmp_path, x):
    path = write(tmp_path / "x", x, "parquet")
    whole = path.read_bytes()
    place = whole.index(x[200:210, 1].tobytes())
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"Row group 1 of .*x\.parquet cannot be read"):
        read_all(path)
    model = mixcoder.GaussianMixture(2)
    with pytest.raises(DataError, match="Row group 1"):
        model.fit(open_blocks(path))
    assert not hasattr(model, "model_")


def test_codes_written_as_parquet_carry_checksums(tmp_path, x):
    from mixcoder.cli.streams import TableWriter

    parquet = pytest.importorskip("pyarrow.parquet")
    with TableWriter(tmp_path / "x.parquet", ".parquet", 400, ["a", "b", "c", "d"], vector=False) as writer:
        writer.write(x)
    whole = (tmp_path / "x.parquet").read_bytes()
    place = whole.index(x[:10, 0].tobytes()) if x[:10, 0].tobytes() in whole else len(whole) // 3
    (tmp_path / "x.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(DataError, match="Row group 0"):
        read_all(tmp_path / "x.parquet")
    assert parquet.ParquetFile(tmp_path / "x.parquet").metadata.num_rows == 400


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_nulls_are_missing_entries_in_columns_of_every_type(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "f": pa.array([1.0, None, 3.0]),
            "g": pa.array([1.0, None, 3.0], pa.float32()),
            "i": pa.array([1, None, 3]),
            "b": pa.array([True, None, False]),
        }
    )
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        pa.parquet.write_table(table, path)
    else:
        pytest.importorskip("pyarrow.feather").write_feather(table, path)
    values = read_all(path)
    assert np.isnan(values[1]).all()
    assert values[[0, 2]].tolist() == [[1, 1, 1, 1], [3, 3, 3, 0]]
    with pytest.raises(DataError, match=r"NaN: 4 of 12 values.*row 1 of .*column 0 \('f'\)"):
        mixcoder.KMeans(2).fit(open_blocks(path))


def test_decimals_dates_and_text_are_no_numbers(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for column in (["u"], [dt.date(2026, 1, 1)], [[1.0, 2.0]]):
        parquet.write_table(pa.table({"a": column, "b": [1.0]}), tmp_path / "x.parquet")
        with pytest.raises(DataTypeError, match=r"Column 'a' of .*x\.parquet"):
            open_blocks(tmp_path / "x.parquet")
        assert read_column(tmp_path / "x.parquet", "b") == [[1.0]]


def read_column(path, name):
    return next(open_blocks(path, columns=[name]).blocks(1)).x.tolist()


# Zarr


@pytest.mark.parametrize("kind", ["zarr", "zarr shards"])
def test_a_chunk_that_is_missing_is_not_read_as_zeros(tmp_path, x, kind):
    path = write(tmp_path / "x", x, kind)
    (path / "c/1/1").unlink()
    with pytest.raises(DataError, match=r"x\.zarr lacks c/1/1"):
        open_blocks(path)


def test_a_chunk_that_goes_missing_in_a_fit_is_an_error(tmp_path, x):
    path = write(tmp_path / "x", x, "zarr")
    rows = open_blocks(path)
    (path / "c/1/1").unlink()
    with pytest.raises(DataChangedError, match="Chunk 1"):
        mixcoder.GaussianMixture(2).fit(rows)


@pytest.mark.parametrize("at", [0, 8, 40, -1])
def test_a_flipped_bit_in_a_chunk_with_a_checksum_is_found(tmp_path, x, at):
    zarr = pytest.importorskip("zarr")
    codec = zarr.codecs.Crc32cCodec()
    array = zarr.create_array(
        str(tmp_path / "x.zarr"), shape=x.shape, chunks=(85, 2), dtype="f8", compressors=codec
    )
    array[:] = x
    chunk = tmp_path / "x.zarr/c/2/0"
    damaged = bytearray(chunk.read_bytes())
    damaged[at] ^= 16
    chunk.write_bytes(damaged)
    with pytest.raises(DataError, match=r"Rows 170 to 255 of .*x\.zarr.*damaged"):
        read_all(tmp_path / "x.zarr")


@pytest.mark.parametrize("kind", ["zarr", "zarr shards"])
@pytest.mark.parametrize("left", [0, 5, 40, -1])
def test_a_chunk_that_is_cut_off_is_an_error(tmp_path, x, kind, left):
    path = write(tmp_path / "x", x, kind)
    chunk = path / "c/0/1"
    os.truncate(chunk, left if left >= 0 else chunk.stat().st_size - 1)
    with pytest.raises(DataError, match=r"cannot be read|cut off|lacks chunks"):
        read_all(path)


def test_a_shard_that_lacks_chunks_is_not_read_as_zeros(tmp_path, x):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        str(tmp_path / "x.zarr"), shape=x.shape, chunks=(85, 2), shards=(170, 4), dtype="f8"
    )
    array[:340] = x[:340]
    array[340:400, :2] = x[340:, :2]
    with pytest.raises(DataError, match="c/2/0 lacks chunks"):
        open_blocks(tmp_path / "x.zarr")
    array[340:] = x[340:]
    assert np.array_equal(read_all(tmp_path / "x.zarr"), x)


def test_an_array_of_a_group_is_named(tmp_path, x):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("u/x", data=x)
    group.create_array("line", data=x[:, 0])
    assert np.array_equal(read_all(tmp_path / "g.zarr"), x)
    group.create_array("y", data=x + 1)
    with pytest.raises(DataError, match=r"two-dimensional arrays are: .*/u/x"):
        open_blocks(tmp_path / "g.zarr")
    assert np.array_equal(read_all(f"{tmp_path}/g.zarr::/u/x"), x)
    with pytest.raises(DataError, match="no Zarr array at '/z'"):
        open_blocks(tmp_path / "g.zarr", dataset="/z")
    with pytest.raises(DataError, match=r"g\.zarr::/line has shape \(400,\)"):
        open_blocks(tmp_path / "g.zarr", dataset="line")


# HDF5


@pytest.fixture
def file(tmp_path):
    with pytest.importorskip("h5py").File(tmp_path / "x.h5", "w") as file:
        yield file


def test_a_table_of_several_is_named(tmp_path, x, file):
    file["u/x"], file["y"], file["line"], file["text"] = x, x + 1, x[:, 0], "words"
    file.close()
    with pytest.raises(DataError, match=r"the tables /u/x, /y: name one"):
        open_blocks(tmp_path / "x.h5")
    assert np.array_equal(read_all(f"{tmp_path}/x.h5::/u/x"), x)
    assert np.array_equal(next(open_blocks(tmp_path / "x.h5", dataset="y").blocks(400)).x.numpy(), x + 1)
    for name, match in [
        ("line", r"x\.h5::/line has shape \(400,\)"),
        ("text", "no table of numbers"),
        ("u", "no dataset 'u'"),
    ]:
        with pytest.raises(DataError, match=match):
            open_blocks(tmp_path / "x.h5", dataset=name)


def test_what_was_never_written_is_not_read_as_zeros(tmp_path, x, file):
    import h5py

    file.create_dataset("empty", shape=(400, 4), dtype="f8")
    file.create_dataset("partial", shape=(400, 4), dtype="f8", chunks=(100, 4))[:300] = x[:300]
    layout = h5py.VirtualLayout(shape=(400, 4), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(400, 4))
    file.create_virtual_dataset("view", layout)
    file.close()
    for name, match in [
        ("empty", "never written"),
        ("partial", "never written"),
        ("view", "view of other files"),
    ]:
        with pytest.raises(DataError, match=match):
            open_blocks(tmp_path / "x.h5", dataset=name)


@pytest.mark.parametrize("how", [{"compression": "gzip"}, {"fletcher32": True}])
def test_a_damaged_chunk_is_an_error_with_its_place(tmp_path, x, file, how):
    place = file.create_dataset("rows", data=x, chunks=(100, 4), **how).id.get_chunk_info(2)
    file.close()
    damaged = bytearray((tmp_path / "x.h5").read_bytes())
    damaged[place.byte_offset + place.size // 2] ^= 8
    (tmp_path / "x.h5").write_bytes(damaged)
    with pytest.raises(DataError, match=r"Rows 200 to 300 of .*x\.h5::/rows cannot be read"):
        read_all(tmp_path / "x.h5")


def test_big_chunks_are_decoded_once_a_pass(tmp_path, x, file):
    """The chunks of a row are held between blocks, however large: rows are not decoded again for each block."""
    wide = np.random.default_rng(0).normal(size=(2000, 200))
    file.create_dataset("rows", data=wide, chunks=(1000, 100), compression="gzip")
    file.close()
    (part,) = open_blocks(tmp_path / "x.h5").parts
    assert part.band_bytes == 1000 * 200 * 8
    reader = part.reader()
    assert reader.file.id.get_access_plist().get_cache()[2] >= part.band_bytes
    reader.close()


# Arrow


def test_a_damaged_batch_is_an_error(tmp_path, x):
    path = write(tmp_path / "x", x, "feather")
    whole = path.read_bytes()
    refused = []
    for place in range(0, len(whole) - 8, len(whole) // 60):
        path.write_bytes(whole[:place] + struct.pack("<q", -(1 << 40)) + whole[place + 8 :])
        try:
            values = read_all(path)
        except DataError as error:
            refused.append(str(error))
        else:
            assert values.shape == x.shape
    assert refused
    assert all("x.feather" in message for message in refused)


# What is written


def test_a_full_disk_leaves_neither_half_a_model_nor_half_the_codes(tmp_path, x, monkeypatch):
    model = mixcoder.GaussianMixture(2, random_state=0).fit(x)
    model.save(tmp_path / "m.mixcoder")
    before = (tmp_path / "m.mixcoder").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "m.mixcoder")
    with pytest.raises(OSError, match="No space left"):
        model.encode_to(open_blocks([x]), tmp_path / "codes")
    assert [path.name for path in tmp_path.iterdir()] == ["m.mixcoder"]
    assert (tmp_path / "m.mixcoder").read_bytes() == before
