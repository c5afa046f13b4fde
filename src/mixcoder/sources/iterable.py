"""The rows of anything that gives blocks of them, as often as it is asked: a list, a DataLoader, a function."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NoReturn, Self, final

import numpy as np
import torch
from torch import Tensor

from mixcoder.engines import LocalEngine, current_engine, fold
from mixcoder.engines.base import A
from mixcoder.errors import DataChangedError, DataError, DataTypeError, EngineError
from mixcoder.sources.base import Block
from mixcoder.sources.blocked import BlockedSource, Reader
from mixcoder.sources.grouped import require_real
from mixcoder.sources.npy import aligned_empty


@final
class IterableSource(BlockedSource):
    """Rows that come in blocks, in an order that is the same in every pass.

    One thread takes the blocks as they come, cuts them where blocks of rows in memory are cut, and hands them to the
    others: the model is to the last bit that of the same rows in memory. Memory is that of a few blocks. All blocks are
    read once to count and check them; a later pass that gives other ones is an error.

    Parameters
    ----------
    given : iterable or callable
        Gives two-dimensional arrays or tensors of one width, also inside of a list of one (as a DataLoader of a
        TensorDataset does), whenever it is iterated over; a callable returns what is iterated over.
    weights : Tensor, shape (n,), optional
        Non-negative row weights, in memory.

    Raises
    ------
    DataError
        For blocks that are no table of numbers, and for an iterator, which gives its blocks once only.

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder.sources import IterableSource
    >>> source = IterableSource([np.zeros((2, 3)), np.ones((4, 3))])
    >>> source.n_rows, source.n_features
    (6, 3)
    """

    names = None

    def __init__(
        self, given: Iterable[Any] | Callable[[], Iterable[Any]], weights: Tensor | None = None
    ) -> None:
        if isinstance(given, (np.ndarray, Tensor)):
            raise DataTypeError(
                "An array is fitted as it is, without open_blocks; a list of arrays is read by blocks."
            )
        if hasattr(given, "__dataframe__") or hasattr(given, "__array__"):
            raise DataTypeError(
                f"A {type(given).__name__} is a table by itself, and is fitted as it is, without open_blocks; a list "
                "of such tables is read by blocks."
            )
        if isinstance(given, Iterator):
            raise DataTypeError(
                f"A {type(given).__name__} gives its blocks once, but a fit reads them many times. Give what makes it "
                "(a list, a DataLoader, a function: open_blocks(lambda: ...)), or learn from one pass with "
                "partial_fit(block)."
            )
        if not callable(given) and not hasattr(given, "__iter__"):
            raise DataTypeError(f"Expected paths of files, or an iterable of blocks of rows, got {given!r}.")
        self.given, self.weights = given, weights
        sizes, seals, narrow, width = list[int](), list[int](), True, None
        for place, values in enumerate(_arrays(given)):
            width = values.shape[1] if width is None else width
            if values.shape[1] != width:
                raise DataError(f"Block {place} has {values.shape[1]} columns, but block 0 has {width}.")
            sizes.append(len(values))
            seals.append(_seal(values))
            narrow &= values.dtype == np.float32
        self.starts = (0, *np.cumsum(sizes, dtype=np.int64).tolist())
        self.n_rows, self.n_features = self.starts[-1], width or 0
        if self.n_rows == 0 or self.n_features == 0:
            raise DataError(f"There are no rows in the {len(sizes)} blocks of {_name(given)}.")
        self._seals = seals
        self.dtype, self.device = torch.float32 if narrow else torch.float64, torch.device("cpu")

    @classmethod
    def holding(cls, x: Tensor, weights: Tensor | None = None) -> IterableSource:
        """Return a source of given rows, in uneven blocks."""
        return cls(list(x.split(max(1, x.shape[0] // 3))), weights)

    def weighted(self, weights: Tensor | None) -> Self:
        """Return the same rows with other weights."""
        other = copy(self)
        other.weights = weights
        return other

    def map_reduce(self, function: Callable[[Block], A], block_rows: int) -> A:
        """Return the sum of ``function(block)`` over the tree of rows in memory."""
        run_rows = self._runs(block_rows)[0][1]
        engine = current_engine()
        if not isinstance(engine, LocalEngine):
            self.piece(0, self.n_rows)
        parts = self._each(engine, function, block_rows)
        return fold(_sums_of(parts, -(-run_rows // block_rows)))

    def map_rows(self, function: Callable[[Block], None], block_rows: int) -> None:
        """Call ``function`` on every block, for what it writes."""
        engine = current_engine()
        local = engine if isinstance(engine, LocalEngine) else LocalEngine()
        for _ in self._each(local, function, block_rows):
            pass

    def reader(self) -> AbstractContextManager[Reader]:
        """Return what reads rows in order; to go back is to begin anew."""
        return self._reading()

    def piece(self, start: int, stop: int) -> NoReturn:
        """Raise an EngineError: nothing can be read where it does not come by."""
        del start, stop
        raise EngineError(
            "Blocks of an iterable are read in this process: use engine('threads'), or give files that all workers "
            "can read."
        )

    def take(self, index: Tensor) -> Tensor:
        """Return some rows, shape (m, d), from one pass."""
        rows = torch.where(index < 0, index + self.n_rows, index).numpy(force=True)
        values = torch.empty(len(rows), self.n_features, dtype=self.dtype)
        with self.reader() as read:
            for i in np.argsort(rows, kind="stable").tolist():
                values[i] = read(int(rows[i]), int(rows[i]) + 1)[0]
        return values

    def place(self, row: int) -> str:
        """Return the block of a row, and its number there."""
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"row {row} (row {row - self.starts[place]} of block {place})"

    def blocks_given(self) -> Iterator[np.ndarray]:
        """Yield the blocks as they come, after a comparison with those of the first pass."""
        count = 0
        for count, values in enumerate(_arrays(self.given), 1):
            if count > len(self._seals) or _seal(values) != self._seals[count - 1]:
                raise DataChangedError(
                    f"Block {count - 1} of {_name(self.given)} is not the one of the first pass. Rows must come in the "
                    "same order every time: no shuffling, no augmentation."
                )
            yield values
        if count < len(self._seals):
            raise DataChangedError(
                f"{_name(self.given)} gave {count} blocks, at first it gave {len(self._seals)}: it must give the same "
                "ones every time. A function must make a new iterator at each call."
            )

    def _each(self, engine: LocalEngine, function: Callable[[Block], Any], block_rows: int) -> Iterator[Any]:
        jobs = _Blocks(self, block_rows)
        return engine.each(function, jobs)

    @contextmanager
    def _reading(self) -> Generator[Reader]:
        yield _Cursor(self).read


class _Cursor:
    """Reads rows in order."""

    def __init__(self, source: IterableSource) -> None:
        self.source = source
        self.wanted = np.dtype(np.float32 if source.dtype == torch.float32 else np.float64)
        self._begin()

    def read(self, start: int, stop: int, /) -> Tensor:
        """Return rows ``start`` to ``stop``, in memory of their own."""
        if start < self.first:
            self._begin()
        values = aligned_empty((stop - start, self.source.n_features), self.wanted)
        at = start
        while at < stop:
            some = self.held[at - self.first : stop - self.first]
            values[at - start : at - start + len(some)] = some
            at += len(some)
            if at < stop:
                self._advance()
        if stop == self.source.n_rows:
            for _ in self.given:  # also what comes after the last row is compared
                pass
        return torch.from_numpy(values)

    def _begin(self) -> None:
        self.given = self.source.blocks_given()
        self.first, self.held = 0, np.empty((0, self.source.n_features), self.wanted)

    def _advance(self) -> None:
        self.first += len(self.held)
        self.held = next(self.given)


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a source, one after the other, and their number."""

    source: IterableSource
    block_rows: int

    def __len__(self) -> int:
        return 1 + (self.source.n_rows - 1) // self.block_rows

    def __iter__(self) -> Iterator[Block]:
        return self.source.blocks(self.block_rows)


def _sums_of(parts: Iterable[A], size: int) -> Iterator[A]:
    """Yield the sums of runs of parts, each added one after the other, as a run adds up its blocks."""
    total: A | None = None
    for place, part in enumerate(parts):
        if total is not None and place % size == 0:
            yield total
            total = None
        total = part if total is None else total + part
    if total is not None:
        yield total


def _arrays(given: Any) -> Iterator[np.ndarray]:
    """Yield blocks as arrays, shape (n, d)."""
    again: Iterable[Any] = given() if callable(given) else given  # type: ignore[assignment]
    for place, came in enumerate(again):
        what, block = f"Block {place} of {_name(given)}", came
        if isinstance(came, (list, tuple)) and len(came) and getattr(came[0], "ndim", 0) == 2:
            if len(came) != 1:
                raise DataTypeError(f"{what} is of {len(came)} arrays: expected rows alone (see collate_fn).")
            block = came[0]
        if isinstance(block, np.ma.MaskedArray):
            raise DataTypeError(f"{what} is masked: fill what is missing with NaN, x.filled(numpy.nan).")
        values = block.numpy(force=True) if isinstance(block, Tensor) else np.asarray(block)
        require_real(what, values.dtype)
        if values.ndim != 2:
            raise DataError(f"{what} has shape {values.shape}; expected (n_rows, n_features).")
        yield values


def _seal(values: np.ndarray) -> int:
    """Return a checksum of shape, first and last row of a block: another order of the rows changes it."""
    ends = np.ascontiguousarray(values[[0, -1]] if len(values) else values)
    return zlib.crc32(ends.tobytes(), zlib.crc32(repr((values.shape, values.dtype.str)).encode()))


def _name(given: Any) -> str:
    return "the function" if callable(given) else f"the {type(given).__name__}"
