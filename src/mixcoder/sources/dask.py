"""The rows of a Dask array or DataFrame, computed where they are needed and never kept."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from math import isnan
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from mixcoder.engines import Engine, current_engine, is_chosen
from mixcoder.engines.dask import DaskEngine
from mixcoder.errors import DataChangedError, DataError, DataTypeError
from mixcoder.sources.base import Block
from mixcoder.sources.blocked import BlockedSource, Reader
from mixcoder.sources.npy import aligned_empty


def is_dask(x: Any) -> bool:
    """Return whether something is a Dask array or DataFrame, without importing Dask."""
    return type(x).__module__.partition(".")[0] in ("dask", "dask_expr") and hasattr(x, "__dask_graph__")


@final
class DaskSource(BlockedSource):
    """The rows of a Dask collection, in the order of its chunks.

    Sums are taken over the same runs and blocks as in memory, whatever the chunks: a run is sent the chunks that it
    shares rows with, which are computed on the worker that adds it up and dropped after. The model is to the last bit
    that of the same rows in memory. Where the sizes of the chunks are not known, one more pass counts them.

    Without an ``engine(...)`` the sums run on the distributed client that is active, else in threads of this process.

    Parameters
    ----------
    x : dask.array.Array or dask.dataframe.DataFrame
        Two-dimensional, of real numbers.
    weights : Tensor, shape (n,), optional
        Non-negative row weights, in memory.
    """

    def __init__(self, x: Any, weights: Tensor | None = None) -> None:
        self.names: tuple[str, ...] | None = None
        if hasattr(x, "to_dask_array"):
            if getattr(x, "ndim", 2) == 1:
                raise DataError("Expected a DataFrame, got a Series: use x.to_frame().")
            self.names = tuple(str(name) for name in x.columns)
            kinds = [np.dtype(object) if not isinstance(k, np.dtype) else k for k in x.dtypes]
            self.chunks = list(x.to_delayed())
        else:
            if x.ndim != 2:
                raise DataError(
                    f"Expected a 2D array, got a {x.ndim}D one; reshape it to (n_rows, n_features)."
                )
            kinds = [x.dtype]
            x = x if len(x.chunks[1]) == 1 else x.rechunk({1: -1})
            self.chunks = list(x.to_delayed()[:, 0])
        for place, kind in enumerate(kinds):
            if kind.kind not in "fiub" or kind.itemsize > 8:
                name = "" if self.names is None else f" in column {self.names[place]!r}"
                raise DataTypeError(f"A Dask collection of {kind}{name}; expected real numbers.")
        self.n_features = int(x.shape[1])
        narrow = all(kind == np.float32 for kind in kinds)
        self.dtype, self.device = torch.float32 if narrow else torch.float64, torch.device("cpu")
        self.weights = weights
        sizes = [] if self.names is not None else [-1 if isnan(n) else int(n) for n in x.chunks[0]]
        if self.names is not None or -1 in sizes:
            sizes = self._counted()
        self.starts = (0, *accumulate(sizes))
        self.n_rows = self.starts[-1]
        if self.n_rows == 0 or self.n_features == 0:
            raise DataError(f"The Dask collection has {self.n_rows} rows and {self.n_features} columns.")

    @staticmethod
    def available() -> bool:
        """Return whether Dask is installed."""
        return find_spec("dask") is not None

    @classmethod
    def holding(cls, x: Tensor, weights: Tensor | None = None) -> DaskSource:
        """Return a source of given rows, in chunks of uneven sizes."""
        import dask.array as da

        chunks: Any = max(1, x.shape[0] // 3), -1
        return cls(da.from_array(x.numpy(force=True), chunks=chunks), weights)

    def weighted(self, weights: Tensor | None) -> Self:
        """Return the same rows with other weights."""
        other = copy(self)
        other.weights = weights
        return other

    def reader(self) -> AbstractContextManager[Reader]:
        """Return what computes chunks one after the other and holds the last one."""
        return self._rows(0, len(self.chunks)).reader()

    def piece(self, start: int, stop: int) -> tuple[ChunkRows, int]:
        """Return the chunks of some rows, and the place of the first row in them."""
        first, last = bisect_right(self.starts, start) - 1, bisect_right(self.starts, stop - 1)
        return self._rows(first, last), start - self.starts[first]

    def take(self, index: Tensor) -> Tensor:
        """Return some rows, shape (m, d), from one pass over all."""
        rows = torch.where(index < 0, index + self.n_rows, index).to(torch.int64)
        order = torch.argsort(rows, stable=True)
        found = self.map_reduce(_Taken(rows[order]), 1 << 14)
        values = torch.empty(len(rows), self.n_features, dtype=self.dtype)
        values[order] = torch.cat(found)
        return values

    def place(self, row: int) -> str:
        """Return the chunk of a row, and its number there."""
        place = bisect_right(self.starts, row) - 1
        return f"row {row} (row {row - self.starts[place]} of chunk {place})"

    def _rows(self, first: int, last: int) -> ChunkRows:
        starts = tuple(start - self.starts[first] for start in self.starts[first : last + 1])
        return ChunkRows(tuple(self.chunks[first:last]), starts, self.n_features, self.dtype)

    def _engine(self) -> Engine:
        if is_chosen():
            return current_engine()
        client = _active_client()
        return current_engine() if client is None else DaskEngine.of(client)

    def _delayed(self, rows: Any) -> Sequence[Any]:
        # On a cluster the chunks are part of the graph of the pass; elsewhere whoever reads computes them.
        return rows.chunks if isinstance(self._engine(), DaskEngine) else ()

    def _counted(self) -> list[int]:
        """Return the number of rows of each chunk."""
        from dask.delayed import delayed

        count = delayed(len, pure=False)
        return [int(n) for n in _computed([count(chunk) for chunk in self.chunks])]


@final
@dataclass(frozen=True)
class ChunkRows:
    """Consecutive chunks.

    Parameters
    ----------
    chunks : tuple
        Delayed, or computed.
    starts : tuple of int
        First row of each, and the number of rows.
    n_features : int
    dtype : torch.dtype
    """

    chunks: tuple[Any, ...]
    starts: tuple[int, ...]
    n_features: int
    dtype: torch.dtype

    def with_values(self, values: Sequence[Any]) -> ChunkRows:
        """Return the same rows from computed chunks."""
        return ChunkRows(tuple(values), self.starts, self.n_features, self.dtype)

    def reader(self) -> AbstractContextManager[Reader]:
        """Return what reads rows across chunks."""
        return self._reading()

    @contextmanager
    def _reading(self) -> Generator[Reader]:
        held: dict[int, np.ndarray] = {}

        def chunk(place: int) -> np.ndarray:
            if place not in held:
                held.clear()
                held[place] = self._values(place)
            return held[place]

        def read(start: int, stop: int, /) -> Tensor:
            wanted = np.dtype(np.float32 if self.dtype == torch.float32 else np.float64)
            out = aligned_empty((stop - start, self.n_features), wanted)
            at, place = start, bisect_right(self.starts, start) - 1
            while at < stop:
                end = min(stop, self.starts[place + 1])
                if end > at:
                    first = self.starts[place]
                    out[at - start : end - start] = chunk(place)[at - first : end - first]
                at, place = max(at, end), place + 1
            return torch.from_numpy(out)

        yield read

    def _values(self, place: int) -> np.ndarray:
        chunk = self.chunks[place]
        if hasattr(chunk, "__dask_graph__"):
            chunk = _computed([chunk])[0]
        values = np.asarray(chunk)
        expected = self.starts[place + 1] - self.starts[place], self.n_features
        if values.shape != expected:
            raise DataChangedError(
                f"A chunk of the Dask collection has shape {values.shape}, expected {expected}: its rows must be the "
                "same every time they are computed."
            )
        return values


@dataclass(frozen=True)
class _Taken:
    """The wanted rows of a block, in a list: lists add up in order."""

    rows: Tensor

    def __call__(self, block: Block) -> list[Tensor]:
        first, last = torch.searchsorted(self.rows, torch.tensor([block.start, block.stop])).tolist()
        return [block.x[self.rows[first:last] - block.start]]

    def of_rows(self, start: int, stop: int) -> _Taken:
        first, last = torch.searchsorted(self.rows, torch.tensor([start, stop])).tolist()
        return _Taken(self.rows[first:last])


def _active_client() -> Any:
    """Return the distributed client that Dask computes on, or ``None``."""
    try:
        from distributed import default_client
    except ImportError:
        return None
    try:
        client = default_client()
    except ValueError:
        return None
    return client if client.status == "running" and not client.asynchronous else None


def _computed(delayed: list[Any]) -> Sequence[Any]:
    """Return computed values: on the active client, else in this thread."""
    from dask.base import compute

    if _active_client() is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
            return compute(*delayed)
    return compute(*delayed, scheduler="synchronous")
