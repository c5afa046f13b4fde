"""Every format that rows are read from: how a test writes it. conftest.py puts the folder on the path."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mixcoder.sources import open_blocks

NAMES = ("a", "b", "c", "d")

# What reads a format, and may be absent.
NEEDS = {
    "parquet": "pyarrow",
    "feather": "pyarrow",
    "arrow": "pyarrow",
    "h5": "h5py",
    "h5 packed": "h5py",
    "zarr": "zarr",
    "zarr shards": "zarr",
}

FILES = ("npy", "csv", "tsv", *NEEDS)
FORMATS = (*FILES, "list", "function", "loader")

# CSV holds no float32.
NARROW = tuple(name for name in FORMATS if name not in ("csv", "tsv"))


def write(path: Path, x: np.ndarray, kind: str) -> Path:
    """Write rows to one file; its groups of rows are small and end within blocks."""
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    path = path.with_suffix("." + kind.split(maxsplit=1)[0])
    unit = 85 if len(x) < 2000 else 850
    match kind:
        case "npy":
            np.save(path, x)
        case "csv" | "tsv":
            with path.open("w", newline="") as stream:
                writer = csv.writer(stream, delimiter="," if kind == "csv" else "\t")
                writer.writerow(NAMES[: x.shape[1]])
                writer.writerows(x.tolist())
        case "parquet":
            from pyarrow import parquet

            parquet.write_table(as_arrow(x), path, row_group_size=2 * unit, write_page_checksum=True)
        case "feather":
            from pyarrow import feather

            feather.write_feather(as_arrow(x), path, chunksize=2 * unit)
        case "arrow":
            import pyarrow as pa

            with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, as_arrow(x).schema) as writer:
                writer.write_table(as_arrow(x), max_chunksize=2 * unit)
        case "h5" | "h5 packed":
            import h5py

            chunked = (
                {"chunks": (min(2 * unit, len(x)), 2), "compression": "gzip"} if "packed" in kind else {}
            )
            with h5py.File(path, "w") as file:
                file.create_dataset("rows", data=x, **chunked)
        case "zarr" | "zarr shards":
            import zarr

            shards = (2 * unit, 2) if "shards" in kind else None
            array = zarr.create_array(
                str(path), shape=x.shape, chunks=(unit, 2), shards=shards, dtype=x.dtype
            )
            array[:] = x
    return path


def as_arrow(x: np.ndarray):
    """Return a table of named columns."""
    import pyarrow as pa

    return pa.table({name: x[:, i] for i, name in enumerate(NAMES[: x.shape[1]])})


def opened(folder: Path, x: np.ndarray, kind: str):
    """Return a source of rows in three files or blocks, one of them without rows."""
    pieces = [x[: len(x) // 3], x[:0], x[len(x) // 3 :]]
    if kind in FILES:
        if kind == "h5 packed":  # a table without rows has no chunks
            pieces.pop(1)
        return open_blocks([write(folder / str(i), piece, kind) for i, piece in enumerate(pieces)])
    if kind == "list":
        return open_blocks(pieces)
    if kind == "function":
        return open_blocks(lambda: (piece for piece in pieces))
    from torch import from_numpy
    from torch.utils.data import DataLoader, TensorDataset

    return open_blocks(DataLoader(TensorDataset(from_numpy(x)), batch_size=333))
