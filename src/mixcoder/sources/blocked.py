"""Sums over runs of blocks, whatever the rows are read from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol, runtime_checkable

from torch import Tensor

from mixcoder.engines import Engine, LocalEngine, current_engine, fold
from mixcoder.engines.base import A
from mixcoder.errors import EngineError
from mixcoder.sources.base import Block, Source

# A run is the unit of work of a thread: enough runs to share out, few enough that their sums are cheap; of a very
# long source more of them, so that a thousand workers have something to do.
_MAX_RUNS = 64
_MAX_RUN_BLOCKS = 256


class Reader(Protocol):
    """Reads consecutive rows."""

    def __call__(self, start: int, stop: int, /) -> Tensor:
        """Return rows ``start`` to ``stop``, shape (n, d)."""
        ...


class Readable(Protocol):
    """What a run reads its rows from."""

    def reader(self) -> AbstractContextManager[Reader]:
        """Return what reads the rows of one run, one block after the other."""
        ...


@runtime_checkable
class RowFunction(Protocol):
    """A function of blocks that holds something of every row: a run is sent what belongs to its rows.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class OfLabel:  # adds up the rows with a label; a run is sent the labels of its own rows
    ...     labels: RowValues
    ...
    ...     def __call__(self, block, /):
    ...         return block.x[self.labels(block) == 1].sum(0)
    ...
    ...     def of_rows(self, start, stop):
    ...         return OfLabel(self.labels.of_rows(start, stop))
    >>> import torch
    >>> from mixcoder.sources import RowValues, TensorSource
    >>> source = TensorSource(torch.tensor([[1.0], [2.0], [4.0]]))
    >>> source.map_reduce(OfLabel(RowValues(torch.tensor([1, 0, 1]))), block_rows=1)
    tensor([5.])
    """

    def __call__(self, block: Block, /) -> Any:
        """Return what a block adds."""
        ...

    def of_rows(self, start: int, stop: int) -> Callable[[Block], Any]:
        """Return the function for blocks within rows ``start`` to ``stop``."""
        ...


@dataclass(frozen=True)
class RowValues:
    """What is known of each row, told block by block; what a :class:`RowFunction` holds.

    Parameters
    ----------
    values : Tensor, shape (n, ...)
        Of every row, or of those from ``first`` on.
    first : int
        Place of the row that the first of them belongs to.

    Examples
    --------
    >>> import torch
    >>> from mixcoder.sources import TensorSource
    >>> _, second = TensorSource(torch.zeros(4, 1)).blocks(2)
    >>> RowValues(torch.tensor([5, 6, 7, 8])).of_rows(1, 4)(second)
    tensor([7, 8])
    """

    values: Tensor
    first: int = 0

    def __call__(self, block: Block, /) -> Tensor:
        """Return the values of a block's rows."""
        return self.values[block.start - self.first : block.stop - self.first]

    def of_rows(self, start: int, stop: int) -> RowValues:
        """Return the values of rows ``start`` to ``stop`` alone."""
        return RowValues(self.values[start - self.first : stop - self.first], start)


@dataclass(frozen=True)
class Piece:
    """The rows of one run, as they are sent to whoever adds over them.

    Parameters
    ----------
    rows : Readable
        Holds these rows, and as little else as possible.
    skip : int
        Place of the first row in ``rows``.
    start, stop : int
        Places of the rows in the whole source.
    weights : Tensor, shape (stop - start,), optional
    function : callable, optional
        The function of the run, where it is not that of all runs.
    """

    rows: Readable
    skip: int
    start: int
    stop: int
    weights: Tensor | None
    function: Callable[[Block], Any] | None = None

    def __str__(self) -> str:
        return f"rows {self.start} to {self.stop}"


@dataclass(frozen=True)
class Run(Generic[A]):
    """Adds up a function of the blocks of a run, one after the other."""

    function: Callable[[Block], A] | None
    block_rows: int

    def __call__(self, piece: Piece, *values: Any) -> A:
        """Return the sum over a piece; ``values`` are delayed rows of it, computed."""
        function = piece.function or self.function
        assert function is not None
        rows = piece.rows.with_values(values) if values else piece.rows  # type: ignore[attr-defined]
        with rows.reader() as read:
            return self.over(function, read, piece)

    def over(self, function: Callable[[Block], A], read: Reader, piece: Piece) -> A:
        """Return the sum over a piece whose rows are open."""
        total: A | None = None
        for at in range(0, piece.stop - piece.start, self.block_rows):
            end = min(at + self.block_rows, piece.stop - piece.start)
            weights = None if piece.weights is None else piece.weights[at:end]
            part = function(Block(read(piece.skip + at, piece.skip + end), weights, piece.start + at))
            total = part if total is None else total + part
        assert total is not None
        return total


class BlockedSource(Source):
    """A source that reads any consecutive rows, and adds up over runs of blocks.

    The runs, and with them every bit of a sum, depend on the number of rows and the size of a block only: rows in
    files give the same model as the same rows in memory, and every engine the same as one thread.

    Examples
    --------
    >>> import torch
    >>> from mixcoder.sources import TensorSource
    >>> source = TensorSource(torch.arange(6.0).reshape(3, 2))
    >>> isinstance(source, BlockedSource), [block.start for block in source.blocks(2)]
    (True, [0, 2])
    """

    weights: Tensor | None

    @abstractmethod
    def reader(self) -> AbstractContextManager[Reader]:
        """Return what reads the rows of one run, one block after the other."""

    def opened(self) -> AbstractContextManager[Readable]:
        """Return what reads the runs of one pass in this process; its readers may share what costs to have."""
        return nullcontext(self)

    @abstractmethod
    def piece(self, start: int, stop: int) -> tuple[Readable, int]:
        """Return what holds rows ``start`` to ``stop`` and can be sent, and the place of the first in it."""

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return float(self.n_rows) if self.weights is None else float(self.weights.double().sum())

    def map_reduce(self, function: Callable[[Block], A], block_rows: int) -> A:
        """Return the sum of ``function(block)`` over a fixed tree, on the engine of the context."""
        engine, run = self._engine(), Run(function, block_rows)
        if isinstance(engine, LocalEngine):
            with self.opened() as rows:

                def here(bounds: tuple[int, int]) -> A:
                    return run(Piece(rows, bounds[0], *bounds, self._weights(*bounds)))

                return fold(engine.each(here, self._runs(block_rows), alone=self.device.type != "cpu"))
        if self.device.type != "cpu":
            raise EngineError(
                f"Rows on {self.device} stay in this process: use engine('threads'), or give files that workers read."
            )
        return self._sum_elsewhere(engine, run)

    def map_rows(self, function: Callable[[Block], None], block_rows: int) -> None:
        """Call ``function`` on every block, in this process: what it writes is here."""

        def run(bounds: tuple[int, int]) -> None:
            start, stop = bounds
            with rows.reader() as read:
                for at in range(start, stop, block_rows):
                    function(self._block(read, at, min(at + block_rows, stop)))

        engine = current_engine()
        local = engine if isinstance(engine, LocalEngine) else LocalEngine()
        with self.opened() as rows:
            for _ in local.each(run, self._runs(block_rows), alone=self.device.type != "cpu"):
                pass

    def blocks(self, block_rows: int) -> Iterator[Block]:
        """Yield the blocks in order, one at a time."""
        with self.reader() as read:
            for at in range(0, self.n_rows, block_rows):
                yield self._block(read, at, min(at + block_rows, self.n_rows))

    def take_weights(self, index: Tensor) -> Tensor | None:
        """Return the weights of some rows."""
        return None if self.weights is None else self.weights[index.to(self.device)]

    def _engine(self) -> Engine:
        return current_engine()

    def _delayed(self, rows: Readable) -> Sequence[Any]:
        """Return the delayed values that a piece needs where it is computed."""
        del rows
        return ()

    def _sum_elsewhere(self, engine: Engine, run: Run[A]) -> A:
        function, pieces = run.function, list[Piece]()
        for start, stop in self._runs(run.block_rows):
            own = function.of_rows(start, stop) if isinstance(function, RowFunction) else None
            pieces.append(Piece(*self.piece(start, stop), start, stop, self._weights(start, stop), own))
        shared = Run[A](None if isinstance(function, RowFunction) else function, run.block_rows)
        return engine.fold(shared, pieces, [self._delayed(piece.rows) for piece in pieces])

    def _weights(self, start: int, stop: int) -> Tensor | None:
        return None if self.weights is None else self.weights[start:stop]

    def _block(self, read: Reader, start: int, stop: int) -> Block:
        return Block(read(start, stop), self._weights(start, stop), start)

    def _runs(self, block_rows: int) -> list[tuple[int, int]]:
        n_blocks = -(-self.n_rows // block_rows)
        run_rows = block_rows * min(_MAX_RUN_BLOCKS, -(-n_blocks // _MAX_RUNS))
        return [(at, min(at + run_rows, self.n_rows)) for at in range(0, self.n_rows, run_rows)]
