"""Rows in files, more of them than memory holds."""

from __future__ import annotations

import tempfile
import threading
import weakref
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Protocol, Self, final

import numpy as np
import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.sources.blocked import BlockedSource, Readable, Reader
from mixcoder.sources.npy import NpyPart, aligned_empty


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

    Every pass opens its files anew; a file that has changed since it was first opened is an error. Memory
    is that of a block a thread (and of what a format decodes at once: a row group, a record batch, a row of chunks).

    Parameters
    ----------
    parts : sequence of Part
        At least one; of one width, with the same names.
    weights : Tensor, shape (n,), optional
        Non-negative row weights, in memory.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from mixcoder.sources import open_blocks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/rows.npy", np.ones((3, 2)))
    ...     source = open_blocks(f"{folder}/rows.npy")
    ...     isinstance(source, FileSource), source.n_rows, source.n_features
    (True, 3, 2)
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
            if (part.names is None) != (first.names is None):
                named, bare = (first, part) if part.names is None else (part, first)
                raise DataError(
                    f"{named.path} names its columns {named.names}, {bare.path} does not: files that are read together "
                    "name the same columns, or none. Save both in one format."
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
    def opened(self) -> Generator[Readable]:
        """Give one reader a thread for a whole pass: runs that share a row group do not decode it each by itself."""
        with ExitStack() as stack:
            yield _OnePass(self, stack)

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

    def _kept_in(self) -> str:
        more = len(self.parts) - 1
        return f"{self.parts[0].path}" + (f" and {more} more" if more else "")

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


class _OnePass:
    """The readers of one pass, one a thread, closed with the stack."""

    def __init__(self, source: FileSource, stack: ExitStack) -> None:
        self.source, self.stack, self.local = source, stack, threading.local()

    def reader(self) -> AbstractContextManager[Reader]:
        """Return the reader of this thread."""
        if not hasattr(self.local, "read"):
            self.local.read = self.stack.enter_context(self.source.reader())
        return nullcontext(self.local.read)
