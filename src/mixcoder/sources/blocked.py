"""Sums over runs of blocks, whatever the rows are read from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from mixcoder.ops.threads import map_in_order, single_threaded_kernels
from mixcoder.sources.base import A, Block, Source, fold

# A run is the unit of work of a thread: enough runs to share out, few enough that their sums are cheap.
_MAX_RUNS = 64


class Reader(Protocol):
    """Reads consecutive rows."""

    def __call__(self, start: int, stop: int, /) -> Tensor:
        """Return rows ``start`` to ``stop``, shape (n, d)."""
        ...


class BlockedSource(Source):
    """A source that reads any consecutive rows, and adds up over runs of blocks.

    The runs, and with them every bit of a sum, depend on the number of rows and the size of a block only: rows in
    files give the same model as the same rows in memory.
    """

    weights: Tensor | None

    @abstractmethod
    def reader(self) -> AbstractContextManager[Reader]:
        """Return what reads the rows of one run, one block after the other."""

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return float(self.n_rows) if self.weights is None else float(self.weights.double().sum())

    def map_reduce(self, function: Callable[[Block], A], block_rows: int) -> A:
        """Return the sum of ``function(block)`` over a fixed tree."""

        def run(bounds: tuple[int, int]) -> A:
            start, stop = bounds
            with self.reader() as read:
                total = function(self._block(read, start, min(start + block_rows, stop)))
                for at in range(start + block_rows, stop, block_rows):
                    total = total + function(self._block(read, at, min(at + block_rows, stop)))
            return total

        with single_threaded_kernels() as n_threads:
            return fold(map_in_order(run, self._runs(block_rows), self._workers(n_threads)))

    def map_rows(self, function: Callable[[Block], None], block_rows: int) -> None:
        """Call ``function`` on every block."""

        def run(bounds: tuple[int, int]) -> None:
            start, stop = bounds
            with self.reader() as read:
                for at in range(start, stop, block_rows):
                    function(self._block(read, at, min(at + block_rows, stop)))

        with single_threaded_kernels() as n_threads:
            for _ in map_in_order(run, self._runs(block_rows), self._workers(n_threads)):
                pass

    def blocks(self, block_rows: int) -> Iterator[Block]:
        """Yield the blocks in order, one at a time."""
        with self.reader() as read:
            for at in range(0, self.n_rows, block_rows):
                yield self._block(read, at, min(at + block_rows, self.n_rows))

    def take_weights(self, index: Tensor) -> Tensor | None:
        """Return the weights of some rows."""
        return None if self.weights is None else self.weights[index.to(self.device)]

    def _workers(self, n_threads: int) -> int:
        return n_threads if self.device.type == "cpu" else 1

    def _block(self, read: Reader, start: int, stop: int) -> Block:
        weights = None if self.weights is None else self.weights[start:stop]
        return Block(read(start, stop), weights, start)

    def _runs(self, block_rows: int) -> list[tuple[int, int]]:
        n_blocks = -(-self.n_rows // block_rows)
        run_rows = block_rows * -(-n_blocks // _MAX_RUNS)
        return [(at, min(at + run_rows, self.n_rows)) for at in range(0, self.n_rows, run_rows)]
