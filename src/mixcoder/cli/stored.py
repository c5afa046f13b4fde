"""Tables that the library reads block by block (HDF5, Zarr, Arrow), for the commands that want one whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import click
import numpy as np

from mixcoder.cli.tables import Survey, Table, choose, default_names, require_memory
from mixcoder.errors import DataError

__all__ = ["StoredFile", "is_stored", "open_stored"]

# Known here too, since whoever asks has not yet imported the library; a test holds the two together.
SUFFIXES = (".h5", ".hdf5", ".zarr", ".arrow", ".feather")


# What the library calls its arguments, and what they are here.
_OPTIONS = {
    "columns=[...]": "--columns A,B",
    "leave columns out": "leave --columns out",
    "leave header out": "leave --header and --no-header out",
    "leave dataset out": "leave --key out",
}


def is_stored(path: str) -> bool:
    """Whether the name is that of a file, or of a table in one (``x.h5::/group/name``), that is read by blocks only.

    Examples
    --------
    >>> is_stored("x.zarr"), is_stored("x.h5::/rows"), is_stored("x.npy")
    (True, True, False)
    """
    outer = path.partition("::")[0] if "::" in path else path
    return Path(outer).suffix.lower() in SUFFIXES


def open_stored(paths: Sequence[str], **options: Any) -> Any:
    """The rows of files, without reading them.

    Raises
    ------
    DataError
        For files that are not there, damaged, or of other columns than the first, and where a library is missing.
    """
    from mixcoder import open_blocks

    try:
        return open_blocks(list(paths), **options)
    except FileNotFoundError as error:
        raise DataError(f"{click.format_filename(str(error.filename))}: no such file.") from error
    except DataError as error:
        # The library says how to call it; here it is an option that does so.
        told = str(error)
        for said, option in _OPTIONS.items():
            told = told.replace(said, option)
        raise DataError(told) from error
    except ImportError as error:
        raise DataError(f"{click.format_filename(paths[0])}: {error}") from error


@final
class StoredFile:
    """One such table; its columns have names in an Arrow file, else they are x0, x1, ..."""

    def __init__(self, path: str, key: str | None = None) -> None:
        self.path = click.format_filename(path)
        self._rows = open_stored([path], dataset=key)
        self.named = self._rows.names is not None
        self.columns: tuple[str, ...] = self._rows.names or default_names(self._rows.n_features)

    def read(self, columns: Sequence[str] | None = None) -> Table:
        """All rows, of all columns or of those named."""
        chosen = choose(self.path, self.columns, columns, named=self.named)
        rows = self._rows
        require_memory(self.path, rows.n_rows * len(chosen) * 8)
        values = np.empty((rows.n_rows, len(chosen)), np.float32 if "32" in str(rows.dtype) else np.float64)
        for block in rows.blocks(1 << 14):
            values[block.start : block.stop] = block.x.numpy()[:, chosen]
        return Table(values, tuple(self.columns[j] for j in chosen), self.named, self.path)

    def survey(self, columns: Sequence[str] | None = None) -> Survey:
        """The same: these files hold numbers only."""
        table = self.read(columns)
        return Survey(table, (table.values.dtype.name,) * len(table.columns))
