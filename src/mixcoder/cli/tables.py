"""Tables in and out of files: CSV, TSV (also gzipped), NPY, NPZ and Parquet, chosen by the file's extension.

HDF5, Zarr and Arrow are only read, by :mod:`mixcoder.cli.stored`.

    open_table(path) -> TableFile      knows its columns without reading the rows
    TableFile.read(columns) -> Table   rows (n d) as floats, a missing cell as NaN
    TableFile.survey() -> Survey       the same, but notes cells that are not numbers instead of refusing them
    write_table(path, values)          floats are written so that they read back exactly

Whatever is wrong with a file is a :class:`DataError` that says where and what to do. Nothing is ever unpickled, and
no array is allocated before the size that the file claims has been compared with the size that it has.

Rows are counted from 0, as NumPy does, and lines from 1, as editors do.
"""

import csv
import gzip
import io
import math
import os
import sys
import warnings
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO, final

import numpy as np

from mixcoder._cells import fast_rows, header_of, is_blank, number_in, semicolons
from mixcoder.errors import DataError, PrecisionWarning

__all__ = [
    "EXTENSIONS",
    "CsvFile",
    "NpyFile",
    "NpzFile",
    "ParquetFile",
    "Survey",
    "Table",
    "TableFile",
    "TextCells",
    "bytes_text",
    "choose",
    "default_names",
    "extension",
    "open_table",
    "physical_memory",
    "require_finite",
    "require_memory",
    "text_out",
    "write_table",
]

EXTENSIONS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".npy", ".npz", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows (n d) as float64 (float32 stays float32), with the columns' names; ``named`` if the file gave them."""

    values: np.ndarray
    columns: tuple[str, ...]
    named: bool
    path: str


@dataclass(frozen=True)
class TextCells:
    """Cells of one column that are not numbers: how many, and the first (``row`` from 0; ``line`` from 1, of a CSV)."""

    count: int
    row: int
    line: int | None
    example: str


@dataclass(frozen=True)
class Survey:
    """A table read without complaint: text cells are NaN in ``table`` and listed by column in ``text``."""

    table: Table
    dtypes: tuple[str, ...]
    text: dict[str, TextCells] = field(default_factory=dict)


class TableFile(Protocol):
    """A file of rows whose columns are known. ``read`` takes all columns, or those named, in the order named."""

    path: str
    columns: tuple[str, ...]
    named: bool

    def read(self, columns: Sequence[str] | None = None) -> Table: ...
    def survey(self, columns: Sequence[str] | None = None) -> Survey: ...


def extension(path: str) -> str | None:
    """The extension of ``path`` among :data:`EXTENSIONS`, ``".csv"`` for ``-``, or None.

    Examples
    --------
    >>> extension("Rows.CSV.gz"), extension("-"), extension("model.mixcoder")
    ('.csv.gz', '.csv', None)
    """
    if path == "-":
        return ".csv"
    name = os.path.basename(path).lower()
    return next((known for known in sorted(EXTENSIONS, key=len, reverse=True) if name.endswith(known)), None)


def open_table(
    path: str, *, key: str | None = None, header: bool | None = None, vector: bool = False
) -> TableFile:
    """The table in a file.

    Parameters
    ----------
    path : str
        The file; ``-`` is CSV on stdin.
    key : str, optional
        Which array of an NPZ, HDF5 or Zarr file.
    header : bool, optional
        Whether the first line of a CSV names the columns; by default seen from its cells.
    vector : bool
        Accept a one-dimensional array, as one column.

    Raises
    ------
    DataError
        If the file is missing, empty, damaged, of an unknown kind, or not a table.
    """
    from mixcoder.cli import stored

    kind = extension(path)
    if stored.is_stored(path):
        if header is not None:
            raise DataError(f"{_show(path)} is not CSV: leave --header and --no-header out.")
        return stored.StoredFile(path, key)
    if kind is None:
        raise DataError(
            f"{_show(path)}: the extension must be one of {', '.join((*EXTENSIONS, *stored.SUFFIXES))}."
        )
    if key is not None and kind != ".npz":
        raise DataError(
            f"{_show(path)} is not an NPZ file, so it has no array named {key!r}: leave --key out."
        )
    if header is not None and not kind.startswith((".csv", ".tsv")):
        raise DataError(f"{_show(path)} is not CSV: leave --header and --no-header out.")
    if path != "-":
        _require_file(path)
    match kind:
        case ".npy":
            return NpyFile(path, vector=vector)
        case ".npz":
            return NpzFile(path, key, vector=vector)
        case ".parquet":
            return ParquetFile(path)
        case _:
            return CsvFile(path, header)


def require_finite(table: Table, *, allow_missing: bool = False) -> None:
    """Raise the `DataError` that a table with NaN or infinite cells deserves: how many, and where the first one is."""
    bad = np.isinf(table.values) if allow_missing else ~np.isfinite(table.values)
    count = int(bad.sum())
    if not count:
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    value = table.values[row, column]
    what = "a missing value (NaN)" if np.isnan(value) else f"{value}"
    more = f"; {count} such cells in {int(bad.any(axis=0).sum())} columns" if count > 1 else ""
    raise DataError(
        f"{table.path} row {row} (from 0), column {table.columns[column]!r} is {what}{more}: "
        "drop those rows, fill the cells, or choose other columns with --columns."
    )


# ---------------------------------------------------------------------------------------------------------------- CSV


@final
class CsvFile:
    """CSV in UTF-8, cells separated by commas (tabs in a .tsv); a blank line is no row, an empty cell is NaN.

    Rows are parsed by `numpy.loadtxt`. Only if it objects does the slower reader below look for the reason: it
    either finds the cell to name, or finds that the cell was merely empty, and reads on.
    """

    def __init__(self, path: str, header: bool | None = None) -> None:
        self.path = _show(path)
        self._source: str | bytes = _stdin() if path == "-" else path
        if path != "-" and not os.path.isfile(path):  # a pipe can be read once only
            self._source = Path(path).read_bytes()
        self._delimiter = "\t" if (extension(path) or "").startswith(".tsv") else ","
        with self._reader() as reader:
            first = next((row for row in reader if not is_blank(row)), None)
            self._skip = reader.line_num
        if first is None:
            raise DataError(f"{self.path} is empty.")
        first = [cell.strip() for cell in first]
        self.named = self._is_header(first) if header is None else header
        if not self.named:
            self._skip = 0
        self.columns = tuple(first) if self.named else default_names(len(first))
        _require_distinct(self.path, self.columns)

    def read(self, columns: Sequence[str] | None = None) -> Table:
        chosen = choose(self.path, self.columns, columns, named=self.named)
        values = self._fast(chosen)
        if values is None:
            values, _ = self._slow(chosen, strict=True)
        return self._table(values, chosen)

    def survey(self, columns: Sequence[str] | None = None) -> Survey:
        chosen = choose(self.path, self.columns, columns, named=self.named)
        values, text = self._fast(chosen), {}
        if values is None:
            values, text = self._slow(chosen, strict=False)
        table = self._table(values, chosen)
        return Survey(table, tuple("text" if name in text else "float64" for name in table.columns), text)

    def _table(self, values: np.ndarray, chosen: list[int]) -> Table:
        if not len(values):
            raise DataError(f"{self.path} has a header but no rows.")
        return Table(values, tuple(self.columns[j] for j in chosen), self.named, self.path)

    def _is_header(self, first: list[str]) -> bool:
        named, doubt = header_of(first)
        if doubt is not None:
            verb = "numbers" if doubt.startswith("counts") else "names"
            raise DataError(
                f"{self.path} line 1 {doubt}: say --header if it {verb} the columns, --no-header if it is a row."
                + semicolons(first)
            )
        return named

    def _fast(self, chosen: list[int]) -> np.ndarray | None:
        """The rows by the parser that is in a hurry, or None if it objects to anything."""
        with self._text() as text:
            for _ in range(self._skip):
                text.readline()
            return fast_rows(text, len(self.columns), chosen, self._delimiter)

    def _slow(self, chosen: list[int], *, strict: bool) -> tuple[np.ndarray, dict[str, TextCells]]:
        """The rows by the standard library's reader, cell by cell; text cells are refused, or counted."""
        width, cells, text = len(self.columns), array("d"), dict[str, TextCells]()
        n = 0
        with self._reader() as reader:
            for row in reader:
                line = reader.line_num
                if line <= self._skip or is_blank(row):
                    continue
                if len(row) != width:
                    raise DataError(
                        f"{self.path} line {line} has {len(row)} cells, but line {max(self._skip, 1)} has {width}: "
                        "give every line the same number of commas." + semicolons(row)
                    )
                for j in chosen:
                    value = number_in(row[j])
                    if value is None:
                        name, cell = self.columns[j], row[j].strip()
                        if strict or (width == 1 and semicolons(row)):
                            raise DataError(self._text_cell(name, cell, line))
                        seen = text.get(name) or TextCells(0, n, line, cell)
                        text[name] = TextCells(seen.count + 1, seen.row, seen.line, seen.example)
                        value = math.nan
                    cells.append(value)
                n += 1
        return np.frombuffer(cells, dtype=np.float64).reshape(n, len(chosen)).copy(), text

    def _text_cell(self, name: str, cell: str, line: int) -> str:
        short = cell if len(cell) <= 40 else cell[:37] + "..."
        if len(self.columns) == 1 and (hint := semicolons([cell])):
            return f"{self.path} line {line} reads {short!r}, one cell that is not a number.{hint}"
        return (
            f"{self.path} line {line}, column {name!r}: {short!r} is not a number; "
            "mend the cell, or choose the columns to use with --columns."
        )

    @contextmanager
    def _text(self) -> Iterator[TextIO]:
        """The file as text, the ways of being unreadable turned into a `DataError`."""
        try:
            with self._bytes() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
                yield text
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(
                f"{self.path} is not UTF-8 text (byte 0x{byte:02x}): save it as CSV in UTF-8."
            ) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self.path} is not a whole gzip file ({error}): copy or compress it again."
            ) from error

    def _bytes(self) -> Any:
        if isinstance(self._source, bytes):
            return io.BytesIO(self._source)
        return (
            gzip.open(self._source, "rb")
            if self._source.lower().endswith(".gz")
            else open(self._source, "rb")
        )

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        with self._text() as text:
            reader = csv.reader(text, delimiter=self._delimiter, strict=True)
            try:
                yield reader
            except csv.Error as error:
                raise DataError(f"{self.path} line {reader.line_num} is not CSV: {error}.") from error


# ---------------------------------------------------------------------------------------------------------- NPY, NPZ


@final
class NpyFile:
    """One array in NumPy's own format; its columns have no names, so they are x0, x1, ..."""

    named = False

    def __init__(self, path: str, *, vector: bool = False) -> None:
        self.path = _show(path)
        self._path = path
        with open(path, "rb") as stream:
            self._header = _NpyHeader.read(
                stream, os.fstat(stream.fileno()).st_size, self.path, vector=vector
            )
        self.columns = default_names(self._header.width)

    def read(self, columns: Sequence[str] | None = None) -> Table:
        chosen = choose(self.path, self.columns, columns, named=False)
        with open(self._path, "rb") as stream:
            stream.seek(self._header.offset)
            values = self._header.values(stream, self.path)
        return _array_table(values, self.columns, chosen, self.path)

    def survey(self, columns: Sequence[str] | None = None) -> Survey:
        table = self.read(columns)
        return Survey(table, (self._header.dtype.name,) * len(table.columns))


@final
class NpzFile:
    """One array of a zip of arrays: the only one, or the one named by ``key``."""

    named = False

    def __init__(self, path: str, key: str | None = None, *, vector: bool = False) -> None:
        self.path = _show(path)
        self._path = path
        with self._zip() as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            self._member = self._pick(names, key) + ".npy"
            self.path = f"{self.path}[{self._member.removesuffix('.npy')}]"
            with archive.open(self._member) as stream:
                size = archive.getinfo(self._member).file_size
                self._header = _NpyHeader.read(stream, size, self.path, vector=vector)
        self.columns = default_names(self._header.width)

    def read(self, columns: Sequence[str] | None = None) -> Table:
        chosen = choose(self.path, self.columns, columns, named=False)
        with self._zip() as archive, archive.open(self._member) as stream:
            stream.read(self._header.offset)
            values = self._header.values(stream, self.path)
            stream.read(1)  # the checksum is compared at the end of the member
        return _array_table(values, self.columns, chosen, self.path)

    def survey(self, columns: Sequence[str] | None = None) -> Survey:
        table = self.read(columns)
        return Survey(table, (self._header.dtype.name,) * len(table.columns))

    def _pick(self, names: list[str], key: str | None) -> str:
        if not names:
            raise DataError(f"{self.path} holds no arrays.")
        if key is None and len(names) > 1:
            raise DataError(
                f"{self.path} holds {len(names)} arrays: choose one with --key, of {_some(names)}."
            )
        if key is not None and key not in names:
            raise DataError(f"{self.path} holds no array {key!r}: --key is one of {_some(names)}.")
        return key or names[0]

    @contextmanager
    def _zip(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a damaged archive fails in many ways: bad sizes, seeks, names, methods
            raise DataError(
                f"{self.path} is not a whole NPZ file ({error}): copy or save it again."
            ) from error


@dataclass(frozen=True)
class _NpyHeader:
    """What an NPY header says, once it is known to be true of the file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def width(self) -> int:
        return self.shape[1] if len(self.shape) == 2 else 1

    @staticmethod
    def read(stream: Any, size: int, path: str, *, vector: bool) -> "_NpyHeader":
        if not size:
            raise DataError(f"{path} is empty.")
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            else:  # (3, 0) exists for field names outside latin-1 only, and fields are refused below
                raise DataError(
                    f"{path} is NPY version {version[0]}.{version[1]}, used for arrays with named fields only."
                )
        except DataError:
            raise
        except Exception as error:  # a Python literal: damaged, it fails in any way that literals can
            raise DataError(f"{path} is not an NPY file, or its header is damaged.") from error
        offset = stream.tell()
        _require_numeric(path, dtype)
        claimed, held = math.prod(shape) * dtype.itemsize, size - offset
        if claimed != held or min(shape, default=0) < 0:
            raise DataError(
                f"{path} says that it holds {bytes_text(claimed)} ({' x '.join(map(str, shape))} {dtype.name}), "
                f"but holds {bytes_text(held)}: copy or save it again."
            )
        if len(shape) == 1 and not vector:
            raise DataError(
                f"{path} has one dimension ({shape[0]}): save x.reshape(-1, 1) for one column, "
                "x.reshape(1, -1) for one row."
            )
        if len(shape) not in (1, 2):
            raise DataError(f"{path} has {len(shape)} dimensions {shape}: a table has two, rows and columns.")
        return _NpyHeader(shape, fortran, dtype, offset)

    def values(self, stream: Any, path: str) -> np.ndarray:
        """The array (n d), read into memory of exactly its size."""
        require_memory(path, math.prod(self.shape) * max(self.dtype.itemsize, 8))
        flat = np.empty(math.prod(self.shape), dtype=self.dtype)
        room = flat.view(np.uint8).data if flat.size else memoryview(b"")
        done = 0
        while done < len(room):
            got = stream.readinto(room[done:])
            if not got:
                raise DataError(f"{path} ends after {bytes_text(done)} of {bytes_text(len(room))}.")
            done += got
        rows = flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)
        return rows.reshape(-1, 1) if rows.ndim == 1 else rows


def _array_table(values: np.ndarray, columns: tuple[str, ...], chosen: list[int], path: str) -> Table:
    if not values.size:
        raise DataError(
            f"{path} has {values.shape[0]} rows and {values.shape[1]} columns: there is nothing in it."
        )
    if chosen != list(range(values.shape[1])):
        values = values[:, chosen]
    return Table(_as_float(values), tuple(columns[j] for j in chosen), False, path)


def _as_float(values: np.ndarray) -> np.ndarray:
    """float32 as it is, all else as float64; native byte order, C order."""
    kind = np.float32 if values.dtype.newbyteorder("=") == np.float32 else np.float64
    floats = np.ascontiguousarray(values, dtype=kind)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        _warn_if_rounded(floats)
    return floats


def _require_numeric(path: str, dtype: np.dtype[Any]) -> None:
    reasons = {
        "O": "Python objects, which would have to be unpickled, and never are: save it with astype(float)",
        "c": "complex numbers: save the real and imaginary parts as columns",
        "M": "dates: save them as numbers, for example seconds since a given day",
        "m": "time differences: save them as numbers of seconds",
        "V": "named fields: save a plain two-dimensional array, or Parquet",
    }
    if dtype.hasobject or dtype.kind not in "biuf":
        kind = "O" if dtype.hasobject else dtype.kind
        raise DataError(f"{path} holds {reasons.get(kind, 'text: save numbers')} (dtype {dtype}).")


def _warn_if_rounded(floats: np.ndarray) -> None:
    biggest = float(np.abs(floats).max())
    if biggest >= 2.0**53:  # 2^53 + 1 is rounded to 2^53
        warnings.warn(
            f"whole numbers up to {biggest:.3g} may have been rounded: float64 is exact up to 2^53 = 9e15 only.",
            PrecisionWarning,
            stacklevel=2,
        )


# ------------------------------------------------------------------------------------------------------------ Parquet


@final
class ParquetFile:
    """The numeric columns of a Parquet file, read one row group at a time; a null is NaN.

    Columns that pandas stored as its index are not data and are left out. Page checksums are verified where the
    file has them (this package writes them).
    """

    named = True

    def __init__(self, path: str) -> None:
        self.path = _show(path)
        self._path = path
        with self._parquet() as file:
            schema = file.schema_arrow
            index = {
                name
                for name in (schema.pandas_metadata or {}).get("index_columns", [])
                if isinstance(name, str)
            }
            names = [name for name in schema.names if name not in index]
            self._types = {name: schema.field(name).type for name in names if schema.names.count(name) == 1}
            self._rows = file.metadata.num_rows
        self.columns = tuple(names)
        if not names or not self._rows:
            raise DataError(
                f"{self.path} has {self._rows} rows and {len(names)} columns: there is nothing in it."
            )
        _require_distinct(self.path, self.columns)

    def read(self, columns: Sequence[str] | None = None) -> Table:
        chosen = [self.columns[j] for j in choose(self.path, self.columns, columns, named=True)]
        for name in chosen:
            if not self._is_numeric(name):
                raise DataError(
                    f"{self.path} column {name!r} is {self._types[name]}, not a number: "
                    "choose the columns to use with --columns."
                )
        return Table(self._values(chosen), tuple(chosen), True, self.path)

    def survey(self, columns: Sequence[str] | None = None) -> Survey:
        chosen = tuple(self.columns[j] for j in choose(self.path, self.columns, columns, named=True))
        numeric = [name for name in chosen if self._is_numeric(name)]
        values = np.full((self._rows, len(chosen)), np.nan)
        if numeric:
            values[:, [chosen.index(name) for name in numeric]] = self._values(numeric)
        dtypes = tuple(str(self._types[name]) for name in chosen)
        text = {
            name: TextCells(self._rows, 0, None, f"of type {kind}")
            for name, kind in zip(chosen, dtypes, strict=True)
            if name not in numeric
        }
        return Survey(Table(values, chosen, True, self.path), dtypes, text)

    def _is_numeric(self, name: str) -> bool:
        from pyarrow import types

        kind = self._types[name]
        return bool(
            types.is_integer(kind)
            or types.is_floating(kind)
            or types.is_decimal(kind)
            or types.is_boolean(kind)
        )

    def _values(self, chosen: list[str]) -> np.ndarray:
        """The chosen columns (n d); a group of rows is in memory beside the result, no more."""
        import pyarrow as pa
        import pyarrow.compute as pc

        single = all(pa.types.is_float32(self._types[name]) for name in chosen)
        require_memory(self.path, self._rows * len(chosen) * 8)
        values = np.empty((self._rows, len(chosen)), dtype=np.float32 if single else np.float64)
        done = 0
        with self._parquet() as file:
            for group in range(file.num_row_groups):
                block = file.read_row_group(group, columns=chosen)
                for j, name in enumerate(chosen):
                    column = block.column(name)
                    if pa.types.is_boolean(column.type):
                        column = pc.cast(column, pa.uint8())
                    column = pc.cast(column, pa.float32() if single else pa.float64(), safe=False)
                    values[done : done + block.num_rows, j] = column.to_numpy()
                    if pa.types.is_int64(self._types[name]) or pa.types.is_uint64(self._types[name]):
                        _warn_if_rounded(values[done : done + block.num_rows, j])
                done += block.num_rows
        if done != self._rows:
            raise DataError(
                f"{self.path} says that it has {self._rows} rows, but has {done}: write it again."
            )
        return values

    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise DataError(f"{self.path}: Parquet needs pyarrow: pip install 'mixcoder[io]'.") from error
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                yield file
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(
                f"{self.path} is not a whole Parquet file ({reason}): copy or write it again."
            ) from error


# ------------------------------------------------------------------------------------------------------------ writing


def write_table(
    path: str | Path,
    values: np.ndarray,
    columns: Sequence[str] | None = None,
    *,
    kind: str | None = None,
    key: str = "rows",
) -> None:
    """Write values (n d) or (n,) so that every number reads back exactly.

    Parameters
    ----------
    path : str or Path
        Written over if it exists; ``-`` is CSV on stdout.
    values : ndarray, shape (n, d) or (n,)
        Floats or integers. NPY and NPZ keep the shape and the type.
    columns : sequence of str, optional
        Names for CSV and Parquet, x0, x1, ... by default.
    kind : str, optional
        One of :data:`EXTENSIONS`, where the path does not end in it.
    key : str
        The array's name in an NPZ file.

    Raises
    ------
    DataError
        If the extension is unknown, or pyarrow is missing for Parquet.
    """
    kind = kind or extension(str(path))
    table = values.reshape(len(values), -1)
    names = default_names(table.shape[1]) if columns is None else tuple(columns)
    if len(names) != table.shape[1]:
        raise DataError(f"{len(names)} column names for {table.shape[1]} columns.")
    if str(path) == "-":
        _write_csv(sys.stdout, table, names, ",")
        return
    match kind:
        case ".npy":
            with open(path, "wb") as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
        case ".npz":
            with open(path, "wb") as stream:
                np.savez(stream, allow_pickle=False, **{key: np.ascontiguousarray(values)})
        case ".parquet":
            _write_parquet(path, table, names)
        case ".csv" | ".tsv" | ".csv.gz" | ".tsv.gz":
            with text_out(path, gzipped=kind.endswith(".gz")) as text:
                _write_csv(text, table, names, "\t" if kind.startswith(".tsv") else ",")
        case _:
            raise DataError(f"{_show(str(path))}: the extension must be one of {', '.join(EXTENSIONS)}.")


def _write_csv(stream: TextIO, table: np.ndarray, names: Sequence[str], delimiter: str) -> None:
    # `tolist` gives Python floats, whose repr is the shortest text that reads back to the same bits.
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    step = max(1, 65536 // max(1, table.shape[1]))
    for start in range(0, len(table), step):
        writer.writerows(table[start : start + step].tolist())


@contextmanager
def text_out(path: str | Path, *, gzipped: bool) -> Iterator[TextIO]:
    """A text file to write to, gzipped or not."""
    with open(path, "wb") as raw:
        # No name and no time in the gzip header: the same rows give the same file.
        stream: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if gzipped else raw
        with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
            yield text


def _write_parquet(path: str | Path, table: np.ndarray, names: Sequence[str]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{_show(str(path))}: Parquet needs pyarrow: pip install 'mixcoder[io]'.") from error
    arrays = [pa.array(np.ascontiguousarray(table[:, j])) for j in range(table.shape[1])]
    with open(path, "wb") as stream:
        pq.write_table(pa.table(arrays, names=list(names)), stream, write_page_checksum=True)


# ------------------------------------------------------------------------------------------------------------ helpers


def choose(path: str, have: Sequence[str], wanted: Sequence[str] | None, *, named: bool) -> list[int]:
    """Positions of the wanted columns, in the order wanted; all of them by default."""
    if wanted is None:
        if named and "" in have:
            raise DataError(
                f"{path}: column {list(have).index('') + 1} has no name (an index that was saved along?): "
                "name it, or choose the columns to use with --columns."
            )
        return list(range(len(have)))
    missing = [name for name in wanted if name not in have]
    if missing:
        hint = "" if named else " (it names none, so they are counted)"
        raise DataError(f"{path} has no column {missing[0]!r}: its columns are {_some(list(have))}{hint}.")
    twice = [name for name in wanted if list(wanted).count(name) > 1]
    if twice:
        raise DataError(f"column {twice[0]!r} is asked for twice.")
    return [list(have).index(name) for name in wanted]


def _require_distinct(path: str, columns: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for position, name in enumerate(columns, start=1):
        if name and name in first:
            raise DataError(
                f"{path}: columns {first[name]} and {position} are both named {name!r}: rename one."
            )
        first[name] = position


def _require_file(path: str) -> None:
    name = _show(path)
    if not os.path.exists(path):
        raise DataError(f"{name}: no such file.")
    if os.path.isdir(path):
        raise DataError(f"{name} is a directory, not a file.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{name} may not be read by this user.")
    if os.path.isfile(path) and not os.path.getsize(path):
        raise DataError(f"{name} is empty.")


def require_memory(path: str, size: int) -> None:
    """Raise a `DataError` where a table of so many bytes cannot fit into this machine."""
    total = physical_memory()
    if total is not None and size > total:
        raise DataError(
            f"{path} needs {bytes_text(size)}, but this machine has {bytes_text(total)}: use fewer rows."
        )


def physical_memory() -> int | None:
    """Bytes of memory in this machine, or None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _stdin() -> bytes:
    stream: BinaryIO = sys.stdin.buffer
    content = stream.read()
    if not content.strip():
        raise DataError("standard input is empty, or closed.")
    return content


def default_names(width: int) -> tuple[str, ...]:
    """Names for columns that have none."""
    return tuple(f"x{j}" for j in range(width))


def _show(path: str) -> str:
    """A path as it can be printed, also if its bytes are not valid in the locale's encoding."""
    return "standard input" if path == "-" else os.fsencode(path).decode("utf-8", "replace")


def _some(names: list[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def bytes_text(size: int) -> str:
    """A number of bytes for people.

    Examples
    --------
    >>> bytes_text(320), bytes_text(58 * 2**40)
    ('320 bytes', '58 TiB')
    """
    if size < 1024:
        return f"{size} bytes"
    power = min(int(math.log2(size) // 10), 6)
    return f"{size / 1024**power:.3g} {('', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"
