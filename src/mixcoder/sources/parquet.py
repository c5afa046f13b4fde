"""Rows of one Parquet file, a row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from mixcoder.errors import DataError, DataTypeError
from mixcoder.sources.npy import Stamp, open_unchanged, stamp_of


def pyarrow_parquet() -> Any:
    """Return pyarrow.parquet, or say how to get it."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'mixcoder[io]'.") from error
    return parquet


@final
@dataclass(frozen=True)
class ParquetPart:
    """Some columns of one Parquet file.

    Parameters
    ----------
    path : Path
    names : tuple of str
        Columns, in the order in which they are read.
    stored : numpy.dtype
        float32 where every column is, else float64.
    starts : tuple of int
        First row of each row group, and the number of rows.
    stamp : tuple of int
    """

    path: Path
    names: tuple[str, ...]
    stored: np.dtype
    starts: tuple[int, ...]
    stamp: Stamp

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.names)

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None) -> ParquetPart:
        """Return the file after a look at its footer; no row is read."""
        parquet = pyarrow_parquet()
        import pyarrow as pa

        with path.open("rb") as stream:
            stamp = stamp_of(stream.fileno())
            try:
                file = parquet.ParquetFile(stream)
                schema, metadata = file.schema_arrow, file.metadata
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} is no Parquet file, or damaged: {error}.") from error
            names = tuple(schema.names if columns is None else columns)
            missing = [name for name in names if name not in schema.names]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}; its columns are {list(schema.names)}.")
            kinds = [schema.field(name).type for name in names]
            for name, kind in zip(names, kinds, strict=True):
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                    raise DataTypeError(
                        f"Column {name!r} of {path} holds {kind}, no numbers. Name the columns to read: columns=[...]."
                    )
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        stored = np.dtype(np.float32 if all(kind == pa.float32() for kind in kinds) else np.float64)
        return cls(path, names, stored, tuple(int(n) for n in np.cumsum([0, *sizes])), stamp)

    def reader(self) -> ParquetReader:
        """Return what reads rows of the file."""
        return ParquetReader(self)

    def place(self, row: int) -> str:
        """Return where a row of the file is."""
        return f"row {row} of {self.path} (row group {bisect_right(self.starts, row) - 1})"


@final
class ParquetReader:
    """An open Parquet file; holds the row group that was read last."""

    def __init__(self, part: ParquetPart) -> None:
        self.part = part
        self.stream = open_unchanged(part.path, part.stamp)
        self.file = pyarrow_parquet().ParquetFile(self.stream)
        self.held, self.values = -1, np.empty((0, 0))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``."""
        starts, pieces = self.part.starts, []
        group = bisect_right(starts, start) - 1
        while start < stop:
            end = min(stop, starts[group + 1])
            if end > start:
                pieces.append(self._group(group)[start - starts[group] : end - starts[group]])
                start = end
            group += 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def close(self) -> None:
        """Close the file."""
        self.stream.close()

    def _group(self, group: int) -> np.ndarray:
        if group != self.held:
            part = self.part
            import pyarrow as pa

            try:
                table = self.file.read_row_group(group, columns=list(part.names), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"Row group {group} of {part.path} cannot be read: {error}.") from error
            values = np.empty((table.num_rows, part.n_features), part.stored)
            for i, name in enumerate(part.names):
                values[:, i] = table.column(name).to_numpy()  # a null is NaN
            self.held, self.values = group, values
        return self.values
