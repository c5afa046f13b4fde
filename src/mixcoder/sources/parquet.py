"""Rows of one Parquet file, a row group at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from mixcoder.errors import DataError
from mixcoder.sources.arrow import ColumnsPart, number_columns, numbers_of, pyarrow_for
from mixcoder.sources.grouped import GroupReader, reason_of
from mixcoder.sources.npy import open_unchanged, stamp_of


@final
@dataclass(frozen=True)
class ParquetPart(ColumnsPart):
    """Some columns of one Parquet file."""

    group: ClassVar[str] = "row group"

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None) -> ParquetPart:
        """Return the file after a look at its footer; no row is read."""
        pa = pyarrow_for("Parquet")
        import pyarrow.parquet as parquet

        with path.open("rb") as stream:
            stamp = stamp_of(stream.fileno())
            try:
                file = parquet.ParquetFile(stream)
                schema, metadata = file.schema_arrow, file.metadata
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} is no Parquet file, or damaged: {reason_of(error)}.") from error
            names, stored = number_columns(path, schema, columns)
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return cls(path, names, stored, tuple(int(n) for n in np.cumsum([0, *sizes])), stamp)

    def reader(self) -> ParquetReader:
        """Return what reads rows of the file."""
        return ParquetReader(self)


@final
class ParquetReader(GroupReader):
    """An open Parquet file; pages that were written with a checksum are compared with it."""

    def __init__(self, part: ParquetPart) -> None:
        import pyarrow.parquet as parquet

        super().__init__(part.starts)
        self.part, self.stream = part, open_unchanged(part.path, part.stamp)
        self.file = parquet.ParquetFile(self.stream, page_checksum_verification=True)

    def read_group(self, group: int) -> np.ndarray:
        """Return the rows of a row group."""
        pa, part = pyarrow_for("Parquet"), self.part
        try:
            table = self.file.read_row_group(group, columns=list(part.names), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"Row group {group} of {part.path} cannot be read: {reason_of(error)}."
            ) from error
        return numbers_of(table, part.names, part.stored)

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
