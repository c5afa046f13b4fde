"""Rows in files, more of them than memory holds."""

from __future__ import annotations

import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from glob import glob, has_magic
from itertools import accumulate
from os import PathLike, fspath
from pathlib import Path
from typing import Protocol, Self, final

import numpy as np
import torch
from torch import Tensor

from mixcoder.errors import DataError, DataTypeError
from mixcoder.sources.blocked import BlockedSource, Reader
from mixcoder.sources.npy import NpyPart, aligned_empty
from mixcoder.sources.parquet import ParquetPart

PathLikes = str | PathLike[str] | Sequence[str | PathLike[str]]


class PartReader(Protocol):
    """An open part."""

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return consecutive rows."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Part(Protocol):
    """One file of rows, known without reading them: cheap to keep and to send."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def n_features(self) -> int:
        """Number of columns."""
        ...

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the columns, where the file gives them."""
        ...

    @property
    def stored(self) -> np.dtype:
        """The dtype of the numbers in the file."""
        ...

    def reader(self) -> PartReader:
        """Return the open file; raises where it has changed."""
        ...

    def place(self, row: int) -> str:
        """Return where a row is, for a message."""
        ...


@final
class FileSource(BlockedSource):
    """The rows of files, one file after the other, read as often as they are needed and never kept.

    Every run of blocks opens its files anew; a file that has changed since it was first opened is an error. Memory
    is that of a block a thread (for Parquet: of a row group).

    Parameters
    ----------
    parts : sequence of Part
        At least one; of one width, with the same names.
    weights : Tensor, shape (n,), optional
        Non-negative row weights, in memory.
    """

    def __init__(self, parts: Sequence[Part], weights: Tensor | None = None) -> None:
        self.parts = tuple(part for part in parts if part.n_rows > 0)
        if not self.parts:
            raise DataError(
                f"There are no rows in {', '.join(str(part.path) for part in parts) or 'no files'}."
            )
        first = self.parts[0]
        for part in self.parts[1:]:
            if part.n_features != first.n_features:
                raise DataError(
                    f"{part.path} has {part.n_features} columns, but {first.path} has {first.n_features}: files that "
                    "are read together hold the same columns."
                )
            if part.names != first.names:
                raise DataError(
                    f"The columns of {part.path} are {part.names}, but those of {first.path} are {first.names}: name "
                    "the columns to read, in order: columns=[...]."
                )
        self.starts = (0, *accumulate(part.n_rows for part in self.parts))
        self.n_rows, self.n_features = self.starts[-1], first.n_features
        self.names = first.names
        narrow = all(part.stored == np.float32 for part in self.parts)
        self.dtype, self.device = torch.float32 if narrow else torch.float64, torch.device("cpu")
        self.weights = weights

    @classmethod
    def holding(cls, x: Tensor, weights: Tensor | None = None) -> FileSource:
        """Return a source of given rows, in files that live as long as it does."""
        folder = tempfile.TemporaryDirectory()
        paths: list[Path] = []
        for i, piece in enumerate(x.split(max(1, x.shape[0] // 3))):
            paths.append(Path(folder.name) / f"{i}.npy")
            np.save(paths[-1], piece.numpy(force=True))
        source = cls([NpyPart.open(path) for path in paths], weights)
        weakref.finalize(source, folder.cleanup)
        return source

    def piece(self, start: int, stop: int) -> tuple[FileSource, int]:
        """Return the files of some rows, and the place of the first row in them."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, stop - 1)
        # Each file says by itself how its numbers are read; all of them together say what they become.
        some = type(self)(self.parts[first:last])
        some.dtype = self.dtype
        return some, start - self.starts[first]

    def weighted(self, weights: Tensor | None) -> Self:
        """Return the same rows with other weights."""
        return type(self)(self.parts, weights)

    def reader(self) -> AbstractContextManager[Reader]:
        """Return what reads rows across files, one file open at a time."""
        return self._reading()

    @contextmanager
    def _reading(self) -> Generator[Reader]:
        opened: list[tuple[int, PartReader]] = []

        def reader_of(place: int) -> PartReader:
            if not opened or opened[0][0] != place:
                if opened:
                    opened.pop()[1].close()
                opened.append((place, self.parts[place].reader()))
            return opened[0][1]

        def read(start: int, stop: int, /) -> Tensor:
            pieces: list[np.ndarray] = []
            place = bisect_right(self.starts, start) - 1
            while start < stop:
                end, first = min(stop, self.starts[place + 1]), self.starts[place]
                pieces.append(reader_of(place).rows(start - first, end - first))
                start, place = end, place + 1
            return self._as_tensor(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

        try:
            yield read
        finally:
            if opened:
                opened.pop()[1].close()

    def take(self, index: Tensor) -> Tensor:
        """Return some rows, shape (m, d)."""
        rows = index.numpy(force=True)
        rows = np.where(rows < 0, rows + self.n_rows, rows)
        values = torch.empty(len(rows), self.n_features, dtype=self.dtype)
        with self.reader() as read:  # in order of place: every file, and every row group, is opened once
            for i in np.argsort(rows, kind="stable").tolist():
                values[i] = read(int(rows[i]), int(rows[i]) + 1)[0]
        return values

    def place(self, row: int) -> str:
        """Return the file of a row, and its number there."""
        place = bisect_right(self.starts, row) - 1
        return self.parts[place].place(row - self.starts[place])

    def _as_tensor(self, values: np.ndarray) -> Tensor:
        wanted = np.dtype(np.float32 if self.dtype == torch.float32 else np.float64)
        if values.dtype != wanted or not values.flags.c_contiguous or values.ctypes.data % 64:
            aligned = aligned_empty(values.shape, wanted)
            aligned[:] = values
            values = aligned
        return torch.from_numpy(values)


_OPENERS: dict[str, Callable[[Path, Sequence[str] | None], Part]] = {
    ".npy": lambda path, columns: NpyPart.open(path),
    ".parquet": ParquetPart.open,
}


def open_blocks(paths: PathLikes, *, columns: Sequence[str] | None = None) -> FileSource:
    """Return the rows of files as something to fit: they are read block by block, and never all in memory.

    Parameters
    ----------
    paths : path, or sequence of paths
        NPY files stored row by row, or Parquet files. A pattern (``"day-*.parquet"``) stands for the files that
        match it, a folder for those in it, in order of name. Rows keep the order of the files.
    columns : sequence of str, optional
        Columns of Parquet files, in the order wanted; all by default.

    Returns
    -------
    FileSource
        For ``fit``, ``predict``, ``score_samples`` and ``score`` of every estimator. What is wrong with a file (not
        there, cut off, no numbers, other columns than the first) is a :class:`~mixcoder.errors.DataError` here,
        before the first iteration.

    Examples
    --------
    >>> import numpy as np, tempfile, mixcoder
    >>> folder = tempfile.TemporaryDirectory()
    >>> for day in range(3):
    ...     np.save(f"{folder.name}/day-{day}.npy", np.random.default_rng(day).normal(size=(1000, 2)))
    >>> rows = open_blocks(f"{folder.name}/day-*.npy")
    >>> rows.n_rows, rows.n_features
    (3000, 2)
    >>> model = mixcoder.GaussianMixture(2, random_state=0).fit(rows)
    >>> model.predict(rows).shape
    (3000,)
    >>> folder.cleanup()
    """
    files: list[Path] = []
    given = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    for entry in given:
        name = fspath(entry)
        if Path(name).is_dir():
            found = sorted(path for path in Path(name).iterdir() if path.suffix.lower() in _OPENERS)
        elif has_magic(name) and not Path(name).exists():
            found = [Path(match) for match in sorted(glob(name, recursive=True))]
        else:
            found = [Path(name)]
        if not found:
            raise DataError(f"No file matches {name!r}; expected {' or '.join(_OPENERS)} files.")
        files.extend(found)
    if not files:
        raise DataError("There are no files to open: paths is empty.")
    parts: list[Part] = []
    for path in files:
        opener = _OPENERS.get(path.suffix.lower())
        if opener is None:
            raise DataTypeError(
                f"{path} is neither of {', '.join(_OPENERS)}: convert it to one of them, or read it into memory and "
                "pass the array."
            )
        if columns is not None and path.suffix.lower() == ".npy":
            raise DataError(f"{path} has no named columns: leave columns out, or use Parquet files.")
        parts.append(opener(path, columns))
    return FileSource(parts)
