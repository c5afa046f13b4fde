"""Rows of one CSV file: parsed once to check every cell and note where rows begin, then read where they are wanted."""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from mixcoder._cells import fast_rows, header_of, is_blank, number_in, semicolons
from mixcoder.errors import DataChangedError, DataError, DataTypeError
from mixcoder.sources.grouped import GroupReader, chosen_names, reason_of
from mixcoder.sources.npy import Stamp, open_unchanged, stamp_of

# A chunk is what is parsed at a time: small, so that a run of few rows does not parse many others; of a long file
# larger, so that the index stays small enough to send along.
_CHUNK_BYTES = 1 << 16
_MAX_CHUNKS = 1 << 12

# Text without the end of a row for so long is no CSV, or one whose quotes do not close.
_MAX_ROW_BYTES = 1 << 26

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Columns:
    """How the lines of a file become rows.

    Parameters
    ----------
    path : Path
    delimiter : str
    width : int
        Number of cells of a line.
    chosen : tuple of int
        Places of the columns that are read, in that order.
    names : tuple of str, optional
        Of the columns that are read, where the file names them.
    """

    path: Path
    delimiter: str
    width: int
    chosen: tuple[int, ...]
    names: tuple[str, ...] | None

    def parse(self, data: bytes, line: int) -> np.ndarray:
        """Return the rows of some whole lines, the first of which has a number; a missing cell is NaN."""
        text = decoded(self.path, data, line)
        values = fast_rows(io.StringIO(text, newline=""), self.width, self.chosen, self.delimiter)
        return self._cell_by_cell(text, line) if values is None else values

    def _cell_by_cell(self, text: str, line: int) -> np.ndarray:
        rows = [self._numbers(row, at) for row, at in rows_of(self.path, text, self.delimiter, line)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.chosen))

    def _numbers(self, row: Sequence[str], line: int) -> list[float]:
        if len(row) != self.width:
            raise DataError(
                f"Line {line} of {self.path} has {len(row)} cells, expected {self.width}: give every line the same "
                f"number of cells, separated by {self.delimiter!r}." + semicolons(row)
            )
        numbers: list[float] = []
        for i, j in enumerate(self.chosen):
            value = number_in(row[j])
            if value is None:
                name, cell = j if self.names is None else repr(self.names[i]), row[j].strip()
                short = cell if len(cell) <= 40 else cell[:37] + "..."
                raise DataTypeError(
                    f"Line {line}, column {name} of {self.path}: {short!r} is not a number. Mend the cell, or name the "
                    "columns to read: columns=[...]." + (semicolons(row) if self.width == 1 else "")
                )
            numbers.append(value)
        return numbers


@final
@dataclass(frozen=True)
class CsvPart:
    """Some columns of one CSV file (or TSV) in UTF-8.

    Parameters
    ----------
    columns : Columns
    starts : tuple of int
        First row of each chunk of lines, and the number of rows.
    offsets : tuple of int
        First byte of each chunk, and the number of bytes.
    lines : tuple of int
        Number of the first line of each chunk, counted from one as editors do.
    stamp : tuple of int
    """

    columns: Columns
    starts: tuple[int, ...]
    offsets: tuple[int, ...]
    lines: tuple[int, ...]
    stamp: Stamp

    stored = np.dtype(np.float64)

    @property
    def path(self) -> Path:
        """The file."""
        return self.columns.path

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the columns, where the file gives them."""
        return self.columns.names

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.columns.chosen)

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None, header: bool | None) -> CsvPart:
        """Return the file after one pass that parses every cell.

        Raises
        ------
        DataError
            For the first line that is no row of numbers.
        """
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        with path.open("rb") as stream:
            stamp = stamp_of(stream.fileno())
            offset = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
            aim = max(_CHUNK_BYTES, stamp[0] // _MAX_CHUNKS)
            stream.seek(offset)
            how, skipped, n_lines = _opening(path, _whole_rows(stream, path, aim), delimiter, columns, header)
            starts, offsets, lines = [0], [offset + skipped], [1 + n_lines]
            stream.seek(offsets[0])
            while chunk := _whole_rows(stream, path, aim):
                starts.append(starts[-1] + len(how.parse(chunk, lines[-1])))
                offsets.append(offsets[-1] + len(chunk))
                lines.append(lines[-1] + chunk.count(b"\n"))
        return cls(how, tuple(starts), tuple(offsets), tuple(lines), stamp)

    def reader(self) -> CsvReader:
        """Return what reads rows of the file."""
        return CsvReader(self)

    def place(self, row: int) -> str:
        """Return where a row of the file is."""
        chunk, how = bisect_right(self.starts, row) - 1, self.columns
        with closing(self.reader()) as reader:
            text = decoded(self.path, reader.text_of(chunk), self.lines[chunk])
        lines = [line for _, line in rows_of(self.path, text, how.delimiter, self.lines[chunk])]
        return f"row {row} of {self.path} (line {lines[row - self.starts[chunk]]})"


@final
class CsvReader(GroupReader):
    """An open CSV file."""

    def __init__(self, part: CsvPart) -> None:
        super().__init__(part.starts)
        self.part, self.stream = part, open_unchanged(part.path, part.stamp)

    def read_group(self, group: int) -> np.ndarray:
        """Return the rows of a chunk of lines."""
        values = self.part.columns.parse(self.text_of(group), self.part.lines[group])
        if len(values) != self.starts[group + 1] - self.starts[group]:
            raise DataChangedError(f"{self.part.path} changed while it was read: a chunk has other rows.")
        return values

    def text_of(self, chunk: int) -> bytes:
        """Return the lines of a chunk."""
        part = self.part
        self.stream.seek(part.offsets[chunk])
        data: bytes = self.stream.read(part.offsets[chunk + 1] - part.offsets[chunk])
        if len(data) != part.offsets[chunk + 1] - part.offsets[chunk]:
            raise DataChangedError(
                f"{part.path} ended after line {part.lines[chunk]}: it became shorter while it was read."
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


def decoded(path: Path, data: bytes, line: int) -> str:
    """Return text in UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data[: error.start].count(b"\n")
        raise DataError(
            f"Line {line} of {path} is not UTF-8 text (byte 0x{data[error.start]:02x}): save it as CSV in UTF-8."
        ) from error


def rows_of(path: Path, text: str, delimiter: str, line: int) -> Generator[tuple[list[str], int]]:
    """Yield the cells of each row, and the line on which it ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if not is_blank(row):
                yield row, line - 1 + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"Line {line - 1 + reader.line_num} of {path} is not CSV: {reason_of(error)}."
        ) from error


def _opening(
    path: Path, data: bytes, delimiter: str, wanted: Sequence[str] | None, header: bool | None
) -> tuple[Columns, int, int]:
    """Return what the first lines tell of the columns, and the bytes and lines before the first row."""
    first, line = next(rows_of(path, decoded(path, data, 1), delimiter, 1), (None, 0))
    if first is None:
        raise DataError(f"There are no rows in {path}.")
    first = [cell.strip() for cell in first]
    if header is None:
        header, doubt = header_of(first)
        if doubt is not None:
            raise DataError(
                f"Line {line} of {path} {doubt}: say header=True if it is of the columns, header=False if it is a row."
                + semicolons(first)
            )
    if not header:
        if wanted is not None:
            raise DataError(
                f"{path} has no named columns: leave columns out, or give it a first line of names."
            )
        return Columns(path, delimiter, len(first), tuple(range(len(first))), None), 0, 0
    names = chosen_names(path, first, wanted)
    end = 0
    for _ in range(line):  # a header may hold line ends, in quotes
        end = data.find(b"\n", end) + 1 or len(data)
    chosen = tuple(first.index(name) for name in names)
    return Columns(path, delimiter, len(first), chosen, names), end, line


def _whole_rows(stream: Any, path: Path, aim: int) -> bytes:
    """Return the next rows, about so many bytes of them, and leave the stream after the last."""
    start, data = stream.tell(), b""
    while True:
        more = stream.read(aim)
        data += more
        end = len(data) if len(more) < aim else _last_end(data)
        if end or not more:
            stream.seek(start + end)
            return data[:end]
        if len(data) > _MAX_ROW_BYTES:
            raise DataError(
                f"{path} has no end of a row within {len(data)} bytes after byte {start}: a quote that does not close?"
            )


def _last_end(data: bytes) -> int:
    """Return the place after the last line end that is not inside quotes; 0 where there is none."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    codes = np.frombuffer(data, np.uint8)
    inside = np.logical_xor.accumulate(codes == ord('"'))
    ends = np.flatnonzero((codes == ord("\n")) & ~inside)
    return int(ends[-1]) + 1 if len(ends) else 0
