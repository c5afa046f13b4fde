"""Files that are read a group of rows at a time, and what their columns must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixcoder.errors import DataError, DataTypeError


class GroupReader(ABC):
    """An open file of groups of rows; holds the group that was read last.

    Parameters
    ----------
    starts : sequence of int
        First row of each group, and the number of rows.
    """

    def __init__(self, starts: Sequence[int]) -> None:
        self.starts = starts
        self.held, self.values = -1, np.empty((0, 0))

    @abstractmethod
    def read_group(self, group: int) -> np.ndarray:
        """Return the rows of a group, shape (n, d)."""

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``."""
        pieces: list[np.ndarray] = []
        group = bisect_right(self.starts, start) - 1
        while start < stop:
            first, end = self.starts[group], min(stop, self.starts[group + 1])
            if end > start:
                if group != self.held:
                    self.held, self.values = group, self.read_group(group)
                pieces.append(self.values[start - first : end - first])
                start = end
            group += 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def chosen_names(path: Path, have: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the columns to read: those wanted, else all."""
    if wanted is None:
        if "" in have:
            raise DataError(
                f"Column {list(have).index('')} of {path} has no name (an index that was saved along?): name the "
                "columns to read, in order: columns=[...]."
            )
        wanted = have
    for name in wanted:
        if name not in have:
            raise DataError(f"{path} has no column {name!r}; its columns are {list(have)}.")
        if list(have).count(name) > 1:
            raise DataError(f"{path} has several columns {name!r}: rename them.")
    return tuple(wanted)


def reason_of(error: BaseException) -> str:
    """Return what an error of another library says, to be followed by a full stop of ours."""
    return str(error).rstrip().rstrip(".")


def require_real(what: str, stored: np.dtype) -> None:
    """Raise a DataTypeError unless a dtype is one of real numbers."""
    if stored.kind not in "fiub" or stored.itemsize > 8:
        raise DataTypeError(f"{what} holds {stored}; expected real numbers. Convert it with astype(float).")


def require_table(what: str, shape: Sequence[int]) -> None:
    """Raise a DataError unless a shape is that of rows."""
    if len(shape) != 2 or 0 in shape[1:]:
        raise DataError(f"{what} has shape {tuple(shape)}; expected (n_rows, n_features).")
