"""A source holds rows and adds up a function of them, block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder.engines.base import A


@dataclass(frozen=True)
class Block:
    """Consecutive rows.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    weights : Tensor, shape (n,), optional
        Row weights; ``None`` for one each.
    start : int
        Index of the first row in the source.

    Examples
    --------
    >>> Block(torch.zeros(3, 2), weights=None, start=10).stop
    13
    """

    x: Tensor
    weights: Tensor | None
    start: int

    @property
    def stop(self) -> int:
        """Index after the last row."""
        return self.start + self.x.shape[0]


class Source(ABC):
    """Where rows live.

    Examples
    --------
    >>> from mixcoder.sources import TensorSource
    >>> source = TensorSource(torch.arange(6.0).reshape(3, 2))
    >>> source.map_reduce(lambda block: block.x.sum(0), block_rows=2)
    tensor([6., 9.])
    """

    n_rows: int
    n_features: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def map_reduce(self, function: Callable[[Block], A], block_rows: int) -> A:
        """Return the sum of ``function(block)`` over all blocks.

        The order of additions depends on the rows and ``block_rows`` only, never on who computes what:
        any number of workers gives the same bits.
        """

    @abstractmethod
    def map_rows(self, function: Callable[[Block], None], block_rows: int) -> None:
        """Call ``function`` on every block, for what it writes."""

    @abstractmethod
    def blocks(self, block_rows: int) -> Iterator[Block]:
        """Yield the blocks in order, one at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and features."""
        return self.n_rows, self.n_features

    def __repr__(self) -> str:
        kept = self._kept_in()
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({self.n_rows} rows x {self.n_features} features, {dtype}"
            f"{', ' if kept else ''}{kept})"
        )

    def _kept_in(self) -> str:
        """Return where the rows are, in few words; nothing where there is nothing to say."""
        return ""

    def place(self, row: int) -> str:
        """Return how a message says where a row is."""
        return f"row {row}"

    @abstractmethod
    def take(self, index: Tensor) -> Tensor:
        """Return some rows, shape (m, d)."""

    @abstractmethod
    def take_weights(self, index: Tensor) -> Tensor | None:
        """Return the weights of some rows, shape (m,); ``None`` for one each."""

    @property
    @abstractmethod
    def total_weight(self) -> float:
        """Sum of the row weights; the number of rows where there are none."""
