"""Rows in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

from torch import Tensor

from mixcoder.sources.blocked import BlockedSource, Reader


@final
@dataclass(init=False, eq=False, repr=False)
class TensorSource(BlockedSource):
    """The rows of a tensor, read in place.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        Never copied, never changed.
    weights : Tensor, shape (n,), optional
        Non-negative row weights.
    """

    x: Tensor
    weights: Tensor | None

    def __init__(self, x: Tensor, weights: Tensor | None = None) -> None:
        self.x, self.weights = x, weights
        self.n_rows, self.n_features = x.shape
        self.dtype, self.device = x.dtype, x.device

    def reader(self) -> AbstractContextManager[Reader]:
        """Return views of the rows."""
        return nullcontext(lambda start, stop, /: self.x[start:stop])

    def piece(self, start: int, stop: int) -> tuple[TensorSource, int]:
        """Return a view of some rows."""
        return TensorSource(self.x[start:stop]), 0

    def take(self, index: Tensor) -> Tensor:
        """Return some rows."""
        return self.x[index.to(self.device)]
