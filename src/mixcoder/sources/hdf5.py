"""Rows of one dataset of an HDF5 file."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np

from mixcoder.errors import DataError
from mixcoder.sources.grouped import reason_of, require_real, require_table
from mixcoder.sources.npy import Stamp, require_unchanged, stamp_of

# The HDF5 library is not made for several threads, and two handles of one file share a state: one call at a time.
_lock = threading.RLock()


def h5py() -> Any:
    """Return h5py, or say how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'mixcoder[hdf5]'.") from error
    return h5py


@final
@dataclass(frozen=True)
class Hdf5Part:
    """One dataset of an HDF5 file.

    Parameters
    ----------
    path : Path
    dataset : str
    n_rows, n_features : int
    stored : numpy.dtype
        Of the numbers in the file.
    band_bytes : int
        Size of the chunks that hold one row, decoded: what the library must keep, or else decode again and again.
    stamp : tuple of int
    """

    path: Path
    dataset: str
    n_rows: int
    n_features: int
    stored: np.dtype
    band_bytes: int
    stamp: Stamp

    names = None

    @classmethod
    def open(cls, path: Path, dataset: str | None) -> Hdf5Part:
        """Return a dataset after a look at its shape and at what of it is stored; no row is read."""
        with path.open("rb") as stream:
            stamp = stamp_of(stream.fileno())
        with _lock, _opened(path) as file:
            name = _only_table(path, file) if dataset is None else dataset
            found = file.get(name)
            if not isinstance(found, h5py().Dataset):
                raise DataError(f"{path} has no dataset {name!r}; it has {_some(_tables(file))}.")
            what = f"{path}::{found.name}"
            if found.shape is None or found.dtype.hasobject:
                raise DataError(f"{what} is no table of numbers, but holds {found.dtype}.")
            require_real(what, found.dtype)
            require_table(what, found.shape)
            _require_stored(what, found)
            band = 0
            if found.chunks is not None:
                across = -(-found.shape[1] // found.chunks[1])
                band = across * prod(found.chunks) * found.dtype.itemsize
            n_rows, n_features = found.shape
            return cls(path, str(found.name), n_rows, n_features, found.dtype, band, stamp)

    def reader(self) -> Hdf5Reader:
        """Return what reads rows of the dataset."""
        return Hdf5Reader(self)

    def place(self, row: int) -> str:
        """Return where a row of the dataset is."""
        return f"row {row} of {self.path}::{self.dataset}"


@final
class Hdf5Reader:
    """An open dataset."""

    def __init__(self, part: Hdf5Part) -> None:
        self.part = part
        self._require_unchanged()
        with _lock:
            self.file = _opened(part.path, max(1 << 20, part.band_bytes))
            self.dataset = self.file[part.dataset]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``."""
        try:
            with _lock:
                return self.dataset[start:stop]
        except (OSError, RuntimeError) as error:
            self._require_unchanged()
            raise DataError(
                f"Rows {start} to {stop} of {self.part.path}::{self.part.dataset} cannot be read: {reason_of(error)}. "
                "The file is damaged: write it again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        with _lock:
            self.file.close()

    def _require_unchanged(self) -> None:
        with self.part.path.open("rb") as stream:
            require_unchanged(self.part.path, self.part.stamp, stamp_of(stream.fileno()))


def _opened(path: Path, cache_bytes: int = 1 << 20) -> Any:
    try:
        return h5py().File(path, "r", rdcc_nbytes=cache_bytes, locking="best-effort")
    except OSError as error:
        raise DataError(f"{path} is no HDF5 file, cut off or damaged: {reason_of(error)}.") from error


def _tables(file: Any) -> list[str]:
    """Return the names of all two-dimensional datasets of numbers."""
    found: list[str] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py().Dataset) and len(item.shape or ()) == 2 and item.dtype.kind in "fiub":
            found.append(f"/{name}")

    file.visititems(look)
    return found


def _only_table(path: Path, file: Any) -> str:
    tables = _tables(file)
    if len(tables) != 1:
        raise DataError(
            f"{path} has {_some(tables)}: name one, as in open_blocks('{path}::/name') or open_blocks(path, "
            "dataset='/name')."
        )
    return tables[0]


def _some(names: list[str]) -> str:
    if not names:
        return "no tables of numbers"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return "the tables " + ", ".join(names[:5]) + more


def _require_stored(what: str, dataset: Any) -> None:
    """Raise a DataError where numbers are not in the file: HDF5 would read them as zeros, without a word."""
    if dataset.is_virtual or dataset.external:
        raise DataError(
            f"{what} is a view of other files, and reads as zeros where one is missing: open those files themselves."
        )
    if 0 in dataset.shape:
        return
    if dataset.chunks is None:
        missing = dataset.id.get_storage_size() == 0
    else:
        wanted = prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        missing = dataset.id.get_num_chunks() < wanted
    if missing:
        raise DataError(
            f"{what} was never written in full: what is missing would read as zeros. Write it again."
        )
