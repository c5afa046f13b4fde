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
    """

    counts: Tensor
    sums: Tensor
    pooled: Tensor | None = None
