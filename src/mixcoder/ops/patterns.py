"""Which rows miss the same entries: one factorisation serves them all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Bits of a mask that one integer holds: every sum of them is exact.
_BITS = 62

# Numbers that a part of a block may put between its two steps, in float64 sixteen megabytes.
_PART_NUMBERS = 1 << 21

# What a small call costs, in the numbers that a product a row could have read meanwhile (measured).
_CALL = 20_000

# What a row of its own costs in a batch, in the same unit.
_ROW = 500


def pattern_numbers(seen: Tensor) -> tuple[Tensor, int]:
    """Return a number for each row, shape (n,), equal where rows see the same columns, and how many there are.

    Numbers rise with how many entries are missing.

    Parameters
    ----------
    seen : Tensor, shape (n, d), bool

    Examples
    --------
    >>> pattern_numbers(torch.tensor([[False, True], [True, True], [False, True]]))
    (tensor([1, 0, 1]), 2)
    """
    place = (~seen).sum(1)
    for bits in seen.split(_BITS, dim=1):
        powers = 2 ** torch.arange(bits.shape[1], device=seen.device)
        _, code = torch.unique((bits * powers).sum(1), return_inverse=True)
        _, place = torch.unique(place * (len(seen) + 1) + code, return_inverse=True)
    return place, int(place.max()) + 1 if len(place) else 0


def parts(seen: Tensor, numbers_a_pattern: int, numbers_a_row: int) -> list[Tensor]:
    """Return the rows in groups that take a bounded number of numbers each, those of one pattern together.

    Parameters
    ----------
    seen : Tensor, shape (n, d), bool
    numbers_a_pattern, numbers_a_row : int
        What is kept of each while a group is worked on.

    Returns
    -------
    list of Tensor, int64
        Row numbers; every row is in one group. A group has one row at least, however much it takes.
    """
    if not len(seen):
        return []
    place, _ = pattern_numbers(seen)
    order = torch.argsort(place, stable=True)
    fresh = torch.nn.functional.pad(place[order].diff() != 0, (1, 0), value=True)
    taken = (numbers_a_row + fresh * numbers_a_pattern).cumsum(0)
    group = (taken - 1) // max(_PART_NUMBERS, numbers_a_pattern + numbers_a_row)
    _, sizes = torch.unique_consecutive(group, return_counts=True)
    return list(order.split(sizes.tolist()))


@dataclass(frozen=True)
class Patterns:
    """The sets of columns that some rows see, each as the smaller of what is seen and what is missing.

    Parameters
    ----------
    place : Tensor, shape (n,)
        Pattern of each row.
    rows : tuple of Tensor, optional
        Rows of each pattern, where patterns repeat enough for a product a pattern.
    of_missing : bool
        Whether the columns are those that are missing; else those that are seen.
    columns : Tensor, shape (p, s)
        Column numbers of each pattern, then some others up to the length of the longest.
    valid : Tensor, shape (p, s), bool
        Which are columns of the pattern.
    n_features : int
        d.
    """

    place: Tensor
    rows: tuple[Tensor, ...] | None
    of_missing: bool
    columns: Tensor
    valid: Tensor
    n_features: int

    @classmethod
    def of(cls, seen: Tensor) -> Patterns:
        """Return the patterns of rows, shape (n, d) bool."""
        place, count = pattern_numbers(seen)
        order = torch.argsort(place, stable=True)
        sizes = torch.bincount(place, minlength=count)
        first = order[sizes.cumsum(0) - sizes]
        patterns = seen[first]  # (p, d)
        most_seen, most_missing = patterns.sum(1).amax(), (~patterns).sum(1).amax()
        of_missing = bool(most_missing <= most_seen)
        chosen = ~patterns if of_missing else patterns
        longest = int(most_missing if of_missing else most_seen)
        columns = torch.argsort(chosen.to(torch.uint8), dim=1, descending=True, stable=True)[:, :longest]
        valid = torch.arange(longest, device=seen.device) < chosen.sum(1, keepdim=True)
        # A product a pattern, or one a row: the first reads less, the second is one call for all.
        repeated = len(seen) * (_ROW + longest * seen.shape[1]) > _CALL * count
        rows = tuple(order.split(sizes.tolist())) if repeated else None
        return cls(place, rows, of_missing, columns, valid, seen.shape[1])

    @property
    def n_patterns(self) -> int:
        """Number of different patterns, P."""
        return len(self.columns)

    def blocks_of(self, matrix: Tensor) -> Tensor:
        """Return the square block of each pattern's columns, shape (p, s, s); ones on what pads its diagonal."""
        block = matrix[self.columns[:, :, None], self.columns[:, None, :]]
        block = block * (self.valid[:, :, None] & self.valid[:, None, :])
        block.diagonal(dim1=1, dim2=2).add_(~self.valid)
        return block

    def rows_of(self, matrix: Tensor) -> Tensor:
        """Return the rows of a matrix that are each pattern's columns, shape (p, s, d); zeros pad them."""
        return matrix[self.columns] * self.valid[:, :, None]

    def entries_of(self, x: Tensor) -> Tensor:
        """Return the entries of each row in the columns of its pattern, shape (n, s); zeros pad them."""
        return x.gather(1, self.columns[self.place]) * self.valid[self.place]

    def spread(self, blocks: Tensor) -> Tensor:
        """Return square blocks with their columns at home among all d, shape (p, s, d); padding rows are zero."""
        out = blocks.new_zeros(*blocks.shape[:2], self.n_features)
        index = self.columns[:, None, :].expand_as(blocks)
        return out.scatter_(2, index, blocks * self.valid[:, :, None])

    def each(self, values: Tensor) -> Tensor:
        """Return what belongs to the pattern of each row, shape (n, ...)."""
        n = len(self.place)
        if n == len(values) and bool((self.place == torch.arange(n, device=self.place.device)).all()):
            return values
        return values[self.place]
