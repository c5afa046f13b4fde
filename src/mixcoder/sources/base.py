"""A source holds rows and adds up a function of them, block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Additive(Protocol):
    """Anything with ``+``."""

    def __add__(self, other: Self, /) -> Self:
        """Return the sum."""
        ...


A = TypeVar("A", bound=Additive)


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
    """

    x: Tensor
    weights: Tensor | None
    start: int

    @property
    def stop(self) -> int:
        """Index after the last row."""
        return self.start + self.x.shape[0]


class Source(ABC):
    """Where rows live."""

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


def fold(parts: Iterable[A]) -> A:
    """Return the sum of the parts over a fixed binary tree, holding at most log2(parts) sums.

    Examples
    --------
    >>> fold([1, 2, 3, 4, 5])
    15
    """
    # A binary counter of partial sums: two sums of 2^i parts become one of 2^(i+1).
    stack: list[tuple[int, A]] = []
    for part in parts:
        size, total = 1, part
        while stack and stack[-1][0] == size:
            total = stack.pop()[1] + total
            size *= 2
        stack.append((size, total))
    if not stack:
        raise ValueError("Nothing to add: the source has no blocks.")
    total = stack.pop()[1]
    while stack:
        total = stack.pop()[1] + total
    return total
