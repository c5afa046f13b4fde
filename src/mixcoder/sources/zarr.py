"""Rows of one Zarr array in a local folder, a row of chunks at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np

from mixcoder.errors import DataChangedError, DataError
from mixcoder.sources.grouped import GroupReader, reason_of, require_real, require_table

# The index of a shard: offset and length of every chunk, all ones for one that is absent, then a checksum.
_ENTRY, _ABSENT, _CHECKSUM_BYTES = np.dtype("<u8"), np.uint64(2**64 - 1), 4


def zarr() -> Any:
    """Return zarr, or say how to get it."""
    try:
        import zarr
    except ImportError as error:
        raise ImportError("Zarr arrays need zarr: pip install 'mixcoder[zarr]'.") from error
    return zarr


@final
@dataclass(frozen=True)
class ZarrPart:
    """One array of a Zarr folder.

    Parameters
    ----------
    path : Path
        The folder.
    dataset : str
        Path of the array within it.
    n_features : int
    stored : numpy.dtype
        Of the numbers in the files.
    starts : tuple of int
        First row of each band (the chunks, or shards, that hold the same rows), and the number of rows.
    stamps : tuple of bytes
        What tells whether the files of a band have changed.
    """

    path: Path
    dataset: str
    n_features: int
    stored: np.dtype
    starts: tuple[int, ...]
    stamps: tuple[bytes, ...]

    names = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    @classmethod
    def open(cls, path: Path, dataset: str | None) -> ZarrPart:
        """Return an array after a look at its description and at the names of its files; no row is read.

        Raises
        ------
        DataError
            Where a chunk is missing: Zarr would read it as zeros, without a word.
        """
        os.stat(path)
        array = _array(path, dataset)
        name = array.path
        what = f"{path}::/{name}" if name else str(path)
        require_real(what, np.dtype(array.dtype))
        require_table(what, array.shape)
        height = (array.shards or array.chunks)[0]
        starts = (*range(0, array.shape[0], height), array.shape[0])
        stamps: list[bytes] = []
        for band in range(len(starts) - 1):
            stamp = _stamp(path, array, band)
            if stamp is None:
                absent = next(file for file in _files(path, array, band) if not file.exists())
                raise DataError(
                    f"{what} lacks {absent.relative_to(path)}: it was never written in full, or is damaged. A writer "
                    "may leave out chunks of zeros: write it again with config={'write_empty_chunks': True}."
                )
            stamps.append(stamp)
            for column, file in enumerate(_files(path, array, band)):
                _require_whole(file, array, (band, column))
        return cls(path, name, array.shape[1], np.dtype(array.dtype), starts, tuple(stamps))

    def reader(self) -> ZarrReader:
        """Return what reads rows of the array."""
        return ZarrReader(self)

    def place(self, row: int) -> str:
        """Return where a row of the array is."""
        height = max(1, self.starts[1])
        return f"row {row} of {self.path}::/{self.dataset} (chunk {row // height})"


@final
class ZarrReader(GroupReader):
    """An open array."""

    def __init__(self, part: ZarrPart) -> None:
        super().__init__(part.starts)
        self.part, self.array = part, _array(part.path, part.dataset)
        if self.array.shape != (part.n_rows, part.n_features):
            raise DataChangedError(
                f"{part.path}::/{part.dataset} has changed since it was opened: its shape is {self.array.shape}."
            )

    def read_group(self, group: int) -> np.ndarray:
        """Return the rows of a band."""
        part, start, stop = self.part, self.starts[group], self.starts[group + 1]
        self._require_unchanged(group)
        try:
            values = np.asarray(self.array[start:stop])
        except (RuntimeError, ValueError, OSError, TypeError, EOFError) as error:  # each codec has its own
            self._require_unchanged(group)
            raise DataError(
                f"Rows {start} to {stop} of {part.path}::/{part.dataset} (chunk {group}) cannot be read: "
                f"{reason_of(error)}. The file is damaged: write it again."
            ) from error
        self._require_unchanged(group)
        return values

    def close(self) -> None:
        """Close the array: nothing is held open."""

    def _require_unchanged(self, group: int) -> None:
        part = self.part
        if _stamp(part.path, self.array, group) != part.stamps[group]:
            raise DataChangedError(
                f"Chunk {group} of {part.path}::/{part.dataset} has changed since it was opened. Leave files alone "
                "while a fit reads them, and open them anew."
            )


def _array(path: Path, dataset: str | None) -> Any:
    library = zarr()
    try:
        node = library.open(str(path), mode="r", path=(dataset or "").strip("/"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = f" at {dataset!r}" if dataset else ""
        raise DataError(f"{path} holds no Zarr array{where}: {reason_of(error)}.") from error
    if isinstance(node, library.Array):
        return node
    tables = [item for _, item in node.members(max_depth=None) if isinstance(item, library.Array)]
    tables = [array for array in tables if array.ndim == 2]
    if len(tables) != 1:
        names = ", ".join(f"/{array.path}" for array in tables[:5]) or "none"
        raise DataError(
            f"{path} is a Zarr group; its two-dimensional arrays are: {names}. Name one, as in "
            f"open_blocks('{path}::/name') or open_blocks(path, dataset='/name')."
        )
    return tables[0]


def _files(path: Path, array: Any, band: int) -> Iterator[Path]:
    """Yield the files of a band."""
    width = (array.shards or array.chunks)[1]
    for column in range(-(-array.shape[1] // width)):
        yield path / array.path / array.metadata.encode_chunk_key((band, column))


def _require_whole(file: Path, array: Any, place: tuple[int, int]) -> None:
    """Raise a DataError for a file without content, or a shard that lacks chunks: Zarr would read both as zeros."""
    size = file.stat().st_size
    grid = (1, 1) if array.shards is None else _over(array.shards, array.chunks)
    needed = 1 if array.shards is None else prod(grid) * _ENTRY.itemsize * 2 + _CHECKSUM_BYTES
    if size < needed:
        raise DataError(f"{file} is cut off: it has {size} bytes. Write the array again.")
    if array.shards is None:
        return
    with file.open("rb") as stream:
        if "end" in str(array.metadata.codecs[0].index_location):
            stream.seek(size - needed)
        index = np.frombuffer(stream.read(needed - _CHECKSUM_BYTES), _ENTRY).reshape(*grid, 2)
    # Beyond the end of the array there is nothing to write.
    left = [n - at * shard for n, at, shard in zip(array.shape, place, array.shards, strict=True)]
    rows, columns = _over(left, array.chunks)
    if bool((index[:rows, :columns] == _ABSENT).all(2).any()):
        raise DataError(
            f"{file} lacks chunks: it was never written in full. A writer may leave out chunks of zeros: write it "
            "again with config={'write_empty_chunks': True}."
        )


def _over(whole: Sequence[int], parts: Sequence[int]) -> tuple[int, int]:
    """Return how many parts cover each axis."""
    return -(-whole[0] // parts[0]), -(-whole[1] // parts[1])


def _stamp(path: Path, array: Any, band: int) -> bytes | None:
    """Return a digest of the sizes and times of change of the files of a band; ``None`` where one is missing."""
    digest = hashlib.blake2b(digest_size=8)
    for file in _files(path, array, band):
        try:
            status = os.stat(file)
        except FileNotFoundError:
            return None
        digest.update(b"%d %d " % (status.st_size, status.st_mtime_ns))
    return digest.digest()
