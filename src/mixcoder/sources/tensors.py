"""Rows in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from torch import Tensor

from mixcoder.ops.threads import map_in_order, single_threaded_kernels
from mixcoder.sources.base import A, Block, Source, fold

# A run is the unit of work of a thread: enough runs to share out, few enough that their sums are cheap.
_MAX_RUNS = 64


@final
class TensorSource(Source):
    """The rows of a tensor, read in place.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        Never copied, never changed.
    weights : Tensor, shape (n,), optional
        Non-negative row weights.
    """

    def __init__(self, x: Tensor, weights: Tensor | None = None) -> None:
        self.x, self.weights = x, weights
        self.n_rows, self.n_features = x.shape
        self.dtype, self.device = x.dtype, x.device

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return float(self.n_rows) if self.weights is None else float(self.weights.double().sum())

    def map_reduce(self, function: Callable[[Block], A], block_rows: int) -> A:
        """Return the sum of ``function(block)`` over a fixed tree."""
        runs = self._runs(block_rows)

        def run(bounds: tuple[int, int]) -> A:
            start, stop = bounds
            total = function(self._block(start, min(start + block_rows, stop)))
            for at in range(start + block_rows, stop, block_rows):
                total = total + function(self._block(at, min(at + block_rows, stop)))
            return total

        with single_threaded_kernels() as n_threads:
            return fold(map_in_order(run, runs, self._workers(n_threads)))

    def map_rows(self, function: Callable[[Block], None], block_rows: int) -> None:
        """Call ``function`` on every block."""
        starts = range(0, self.n_rows, block_rows)
        with single_threaded_kernels() as n_threads:
            for _ in map_in_order(
                lambda at: function(self._block(at, min(at + block_rows, self.n_rows))),
                starts,
                self._workers(n_threads),
            ):
                pass

    def take(self, index: Tensor) -> Tensor:
        """Return some rows."""
        return self.x[index.to(self.device)]

    def take_weights(self, index: Tensor) -> Tensor | None:
        """Return the weights of some rows."""
        return None if self.weights is None else self.weights[index.to(self.device)]

    def _workers(self, n_threads: int) -> int:
        return n_threads if self.device.type == "cpu" else 1

    def _block(self, start: int, stop: int) -> Block:
        weights = None if self.weights is None else self.weights[start:stop]
        return Block(self.x[start:stop], weights, start)

    def _runs(self, block_rows: int) -> list[tuple[int, int]]:
        n_blocks = -(-self.n_rows // block_rows)
        run_rows = block_rows * -(-n_blocks // _MAX_RUNS)
        return [(at, min(at + run_rows, self.n_rows)) for at in range(0, self.n_rows, run_rows)]
