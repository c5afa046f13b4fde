"""Rows of one NPY file, by explicit reads: a file that shrinks is an error here, never a dead process."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from mixcoder.errors import DataChangedError, DataError
from mixcoder.sources.grouped import reason_of, require_real, require_table

Stamp = tuple[int, int]
"""Size in bytes and time of the last change, by which a file that has changed is known."""


def stamp_of(descriptor: int) -> Stamp:
    """Return the stamp of an open file."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def open_unchanged(path: Path, stamp: Stamp, *, buffering: int = -1) -> Any:
    """Return a file opened for reading; raises a DataChangedError where it is not the one of the stamp."""
    stream = path.open("rb", buffering=buffering)
    try:
        require_unchanged(path, stamp, stamp_of(stream.fileno()))
    except DataChangedError:
        stream.close()
        raise
    return stream


def require_unchanged(path: Path, stamp: Stamp, now: Stamp) -> None:
    """Raise a DataChangedError where a file is not the one of the stamp."""
    if now != stamp:
        size = "its content" if now[0] == stamp[0] else f"it had {stamp[0]} bytes, it has {now[0]}"
        raise DataChangedError(
            f"{path} has changed since it was opened: {size}. Leave files alone while a fit reads them, and open "
            "them anew."
        )


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return memory that begins at a line of 64 bytes: where rows begin may decide the last bit of their sums."""
    size = math.prod(shape) * dtype.itemsize
    home = np.empty(size + 64, np.uint8)
    skip = -home.ctypes.data % 64
    return home[skip : skip + size].view(dtype).reshape(shape)


@final
@dataclass(frozen=True)
class NpyPart:
    """One NPY file.

    Parameters
    ----------
    path : Path
    n_rows, n_features : int
    stored : numpy.dtype
        Of the numbers in the file.
    offset : int
        Byte of the first number.
    stamp : tuple of int
    """

    path: Path
    n_rows: int
    n_features: int
    stored: np.dtype
    offset: int
    stamp: Stamp

    names = None

    @classmethod
    def open(cls, path: Path) -> NpyPart:
        """Return the file after a look at its header and its size; nothing else is read."""
        with path.open("rb") as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, by_columns, stored = read(stream)
            except (
                Exception
            ) as error:  # the header is a Python literal: damaged, it fails in any way that literals can
                raise DataError(
                    f"{path} is no NPY file, or its header is damaged: {reason_of(error)}."
                ) from error
            offset, stamp = stream.tell(), stamp_of(stream.fileno())
        require_real(str(path), stored)
        require_table(str(path), shape)
        if by_columns and min(shape) > 1:
            raise DataError(
                f"{path} is stored column by column, so that its rows cannot be read one after another. "
                "Save it again with numpy.save(path, numpy.ascontiguousarray(x))."
            )
        needed = offset + shape[0] * shape[1] * stored.itemsize
        if stamp[0] < needed:
            raise DataError(
                f"{path} is cut off: {shape[0]} rows of {shape[1]} numbers need {needed} bytes, it has {stamp[0]}."
            )
        return cls(path, shape[0], shape[1], stored, offset, stamp)

    def reader(self) -> NpyReader:
        """Return what reads rows of the file."""
        return NpyReader(self)

    def place(self, row: int) -> str:
        """Return where a row of the file is."""
        return f"row {row} of {self.path}"


@final
class NpyReader:
    """An open NPY file."""

    def __init__(self, part: NpyPart) -> None:
        self.part = part
        self.stream = open_unchanged(part.path, part.stamp, buffering=0)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``."""
        part = self.part
        values = aligned_empty((stop - start, part.n_features), part.stored)
        view = values.reshape(-1).view(np.uint8)
        self.stream.seek(part.offset + start * part.n_features * part.stored.itemsize)
        filled = 0
        while filled < len(view):
            got: int | None = self.stream.readinto(view[filled:])
            if not got:
                raise DataChangedError(
                    f"{part.path} ended at {part.place(start)}: it became shorter while it was read."
                )
            filled += got
        return values

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
