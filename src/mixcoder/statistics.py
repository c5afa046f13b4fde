"""Additive sums over rows. ``+`` is the only thing that threads, a stream or a cluster need of a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Base of every bundle of sums: frozen, added field by field, in float64.

    A field is a tensor, another ``Statistics``, or ``None`` (absent in both summands).

    Examples
    --------
    >>> half = Moments(torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [4.0]]))
    >>> (half + half).counts
    tensor([2., 4.])
    """

    def __add__(self, other: Self) -> Self:
        return self._combine(other, torch.add)

    def scaled(self, factor: float) -> Self:
        """Return every sum times ``factor``."""
        return self._map(lambda value: value * factor)

    def double(self) -> Self:
        """Return the sums in float64, the precision in which blocks are added."""
        return self._map(lambda value: value.to(torch.float64))

    def contiguous(self) -> Self:
        """Return the sums stored row by row: the order of memory decides the last bit of a product."""
        return self._map(Tensor.contiguous)

    def clone(self) -> Self:
        """Return the sums in memory of their own."""
        return self._map(Tensor.clone)

    def to(self, device: torch.device) -> Self:
        """Return the sums on another device."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Statistics):
                changes[field.name] = value._map(function)
            elif isinstance(value, tuple):
                changes[field.name] = tuple(part._map(function) for part in value)
            elif value is not None:
                changes[field.name] = function(value)
        return replace(self, **changes)

    def _combine(self, other: Self, function: Callable[[Tensor, Tensor], Tensor]) -> Self:
        changes: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Statistics):
                changes[field.name] = mine._combine(theirs, function)
            elif isinstance(mine, tuple):
                changes[field.name] = tuple(
                    one._combine(two, function) for one, two in zip(mine, theirs, strict=True)
                )
            elif mine is not None:
                changes[field.name] = function(mine, theirs)
        return replace(self, **changes)


@dataclass(frozen=True)
class Gathered(Statistics):
    """What blocks say of each of their rows: ``+`` puts the rows of one behind those of the other.

    A pass that leaves this process brings back what it returns, and nothing that it writes.

    Parameters
    ----------
    parts : tuple of Tensor, shapes (n, ...)
        One of each block, in the order of the rows.

    Examples
    --------
    >>> (Gathered((torch.tensor([1, 2]),)) + Gathered((torch.tensor([3]),))).rows
    tensor([1, 2, 3])
    """

    parts: tuple[Tensor, ...]

    @property
    def rows(self) -> Tensor:
        """What is said of all rows, shape (n, ...)."""
        return torch.cat(self.parts)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, parts=tuple(function(part) for part in self.parts))

    def _combine(self, other: Any, function: Callable[[Tensor, Tensor], Tensor]) -> Self:
        del function
        return replace(self, parts=self.parts + other.parts)


@dataclass(frozen=True)
class Moments(Statistics):
    """The sums of an exponential family.

    Parameters
    ----------
    counts : Tensor, shape (k,)
        Sum of responsibilities, the effective number of rows of each component.
    sums : Tensor, shape (k, f)
        Sum of responsibility times T(x).
    pooled : Tensor, shape (g, p), optional
        Sum over rows of the terms that no code weighs (what tied components share), once a group of
        components; ``None`` where there are none.

    Examples
    --------
    >>> from mixcoder.components import Poisson
    >>> code = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    >>> Poisson().statistics(None, torch.tensor([[2.0], [4.0]]), code).sums
    tensor([[4.],
            [2.]], dtype=torch.float64)
    """

    counts: Tensor
    sums: Tensor
    pooled: Tensor | None = None
