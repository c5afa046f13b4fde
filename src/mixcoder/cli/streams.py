"""Rows that are read block by block, engines that add them up, and codes that are written as they come."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from glob import has_magic
from pathlib import Path
from typing import Any

import click
import numpy as np

from mixcoder.cli.stored import is_stored, open_stored

__all__ = ["TableWriter", "are_streamed", "engine_of", "open_rows", "shown"]


def are_streamed(data: Sequence[str]) -> bool:
    """Whether the arguments are read block by block: several files, or one made for it; others are read whole."""
    if len(data) > 1 or is_stored(data[0]):
        return True
    return Path(data[0]).is_dir() or (has_magic(data[0]) and not Path(data[0]).exists())


def shown(data: Sequence[str]) -> str:
    """What messages call the rows of several files."""
    first = click.format_filename(data[0])
    return first if len(data) == 1 else f"{first} and {len(data) - 1} more"


def open_rows(
    data: Sequence[str],
    columns: Sequence[str] | None,
    *,
    names: Sequence[str] | None = None,
    weights: str | None = None,
    header: bool | None = None,
    key: str | None = None,
) -> Any:
    """The rows of several files, without reading them; of all columns, or of ``names`` where the files have names.

    Raises
    ------
    click.UsageError
        For weights, which are not streamed.
    DataError
        For files that are not there, damaged, or of other columns than the first, and options that mean nothing to
        them.
    """
    if weights is not None:
        raise click.UsageError("--weights is for one table that is read whole: here all rows count 1.")
    options = {"columns": columns, "header": header, "dataset": key}
    rows = open_stored(data, **options)
    if columns is None and names is not None and rows.names is not None and tuple(names) != rows.names:
        return open_stored(data, **{**options, "columns": names})
    return rows


@contextmanager
def engine_of(kind: str, workers: int | None, scheduler: str | None) -> Iterator[None]:
    """Run fits within the block on the engine that the options mean."""
    from mixcoder import engine

    if workers is not None and kind != "processes":
        raise click.UsageError(f"--workers is for --engine processes, not {kind}.")
    if (scheduler is None) != (kind != "dask"):
        raise click.UsageError("--engine dask and --scheduler ADDRESS go together.")
    with ExitStack() as stack:
        if kind == "processes":
            stack.enter_context(engine(lambda: _pool(workers or os.cpu_count() or 1)))
        elif kind == "dask":
            stack.enter_context(engine("dask", client=stack.enter_context(_client(str(scheduler)))))
        else:
            stack.enter_context(engine(kind))
        yield


def _pool(n_workers: int) -> Any:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # A fork would take along the locks of threads that it does not take along.
    return ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"))


def _client(address: str) -> Any:
    from mixcoder.errors import EngineError

    try:
        from distributed import Client
    except ImportError:
        raise click.UsageError("--engine dask needs Dask: pip install 'mixcoder[dask]'.") from None
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise EngineError(f"There is no Dask scheduler at {address}: {error}.") from error


class TableWriter:
    """Writes a table of known size block by block: NPY, Parquet, CSV or TSV.

    Parameters
    ----------
    path : Path
    kind : str
        Extension.
    n_rows : int
    names : sequence of str
    vector : bool
        Whether an NPY file holds one axis only.
    """

    def __init__(self, path: Path, kind: str, n_rows: int, names: Sequence[str], *, vector: bool) -> None:
        self._kind, self._n_rows, self._names, self._vector = kind, n_rows, list(names), vector
        self._path, self._stack = path, ExitStack()
        self._stream: Any = None
        self._begun = False

    def __enter__(self) -> TableWriter:
        if self._kind in (".npy", ".parquet"):
            self._stream = self._stack.enter_context(self._path.open("wb"))
        elif self._kind in (".csv", ".tsv", ".csv.gz", ".tsv.gz"):
            from mixcoder.cli import tables

            self._stream = self._stack.enter_context(
                tables.text_out(self._path, gzipped=self._kind.endswith(".gz"))
            )
        else:
            raise click.UsageError(
                f"{self._kind} cannot be written as rows come: choose .npy, .parquet or .csv."
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, values: np.ndarray) -> None:
        """Write some rows, shape (n, d) or (n,)."""
        table = values.reshape(len(values), -1)
        if self._kind == ".npy":
            if not self._begun:
                shape = (self._n_rows,) if self._vector else (self._n_rows, table.shape[1])
                header = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(self._stream, header)
            self._stream.write(np.ascontiguousarray(values).tobytes())
        elif self._kind == ".parquet":
            self._write_group(table)
        else:
            self._write_lines(table)
        self._begun = True

    def _write_group(self, table: np.ndarray) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = [pa.array(np.ascontiguousarray(table[:, j])) for j in range(table.shape[1])]
        group = pa.table(arrays, names=self._names)
        if not self._begun:
            writer = pq.ParquetWriter(self._stream, group.schema, write_page_checksum=True)
            self._group_writer: Any = self._stack.enter_context(writer)
        self._group_writer.write_table(group)

    def _write_lines(self, table: np.ndarray) -> None:
        import csv

        delimiter = "\t" if self._kind.startswith(".tsv") else ","
        writer = csv.writer(self._stream, delimiter=delimiter, lineterminator="\n")
        if not self._begun:
            writer.writerow(self._names)
        writer.writerows(table.tolist())
