"""Rows of one Arrow IPC file (Feather, version 2), a record batch at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from mixcoder.errors import DataError, DataTypeError
from mixcoder.sources.grouped import GroupReader, chosen_names, reason_of
from mixcoder.sources.npy import Stamp, open_unchanged, stamp_of


def pyarrow_for(what: str) -> Any:
    """Return pyarrow, or say how to get it."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError(f"{what} files need pyarrow: pip install 'mixcoder[io]'.") from error
    return pa


def number_columns(
    path: Path, schema: Any, columns: Sequence[str] | None
) -> tuple[tuple[str, ...], np.dtype]:
    """Return the columns of a schema to read, which hold numbers, and the dtype that holds all of them."""
    from pyarrow import types

    names = chosen_names(path, schema.names, columns)
    kinds = [schema.field(name).type for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataTypeError(
                f"Column {name!r} of {path} holds {kind}, no numbers. Name the columns to read: columns=[...]."
            )
    return names, np.dtype(np.float32 if all(types.is_float32(kind) for kind in kinds) else np.float64)


def numbers_of(table: Any, names: Sequence[str], stored: np.dtype) -> np.ndarray:
    """Return columns of an Arrow table, shape (n, d); a null is NaN."""
    values = np.empty((table.num_rows, len(names)), stored)
    for i, name in enumerate(names):
        values[:, i] = table.column(name).to_numpy()
    return values


@dataclass(frozen=True)
class ColumnsPart:
    """Some columns of one file that pyarrow reads, a group of rows at a time.

    Parameters
    ----------
    path : Path
    names : tuple of str
        Columns, in the order in which they are read.
    stored : numpy.dtype
        float32 where every column is, else float64.
    starts : tuple of int
        First row of each group, and the number of rows.
    stamp : tuple of int
    """

    path: Path
    names: tuple[str, ...]
    stored: np.dtype
    starts: tuple[int, ...]
    stamp: Stamp

    group: ClassVar[str]
    """What the format calls a group."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.names)

    def place(self, row: int) -> str:
        """Return where a row of the file is."""
        return f"row {row} of {self.path} ({self.group} {bisect_right(self.starts, row) - 1})"


@final
@dataclass(frozen=True)
class ArrowPart(ColumnsPart):
    """Some columns of one Arrow IPC file."""

    group: ClassVar[str] = "record batch"

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None) -> ArrowPart:
        """Return the file after one pass that counts its rows: where a batch ends is written nowhere else."""
        pa = pyarrow_for("Arrow")
        with path.open("rb") as stream:
            stamp = stamp_of(stream.fileno())
            try:
                file = pa.ipc.open_file(stream)
                names, stored = number_columns(path, file.schema, columns)
                sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path} is no Arrow IPC file (Feather, version 2), or damaged: {reason_of(error)}."
                ) from error
        return cls(path, names, stored, tuple(int(n) for n in np.cumsum([0, *sizes])), stamp)

    def reader(self) -> ArrowReader:
        """Return what reads rows of the file."""
        return ArrowReader(self)


@final
class ArrowReader(GroupReader):
    """An open Arrow IPC file."""

    def __init__(self, part: ArrowPart) -> None:
        super().__init__(part.starts)
        self.part, self.stream = part, open_unchanged(part.path, part.stamp)
        self.file = pyarrow_for("Arrow").ipc.open_file(self.stream)

    def read_group(self, group: int) -> np.ndarray:
        """Return the rows of a record batch."""
        pa, part = pyarrow_for("Arrow"), self.part
        try:
            batch = self.file.get_batch(group)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"Record batch {group} of {part.path} cannot be read: {reason_of(error)}."
            ) from error
        return numbers_of(pa.Table.from_batches([batch]), part.names, part.stored)

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
