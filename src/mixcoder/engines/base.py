"""An engine adds up what jobs give, over a tree that belongs to the jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar


class Additive(Protocol):
    """Anything with ``+``."""

    def __add__(self, other: Self, /) -> Self:
        """Return the sum."""
        ...


A = TypeVar("A", bound=Additive)
J = TypeVar("J")


class Engine(ABC):
    """Who computes the jobs of a sum. The tree of additions never depends on it, so neither do the bits."""

    remote: ClassVar[bool]
    """Whether jobs leave this process: they are then values that can be sent, and nothing they write comes back."""

    @abstractmethod
    def fold(self, work: Callable[[J], A], jobs: Sequence[J], parts: Sequence[Sequence[Any]] = ()) -> A:
        """Return the sum of ``work(job)`` over the tree of :func:`fold`.

        Parameters
        ----------
        work : callable
            For a remote engine a value: a dataclass of tensors and plain fields.
        jobs : sequence
            At least one.
        parts : sequence of sequences, optional
            Delayed values for each job, which only a Dask engine can have computed where the job runs; the work
            is then called as ``work(job, *values)``.

        Raises
        ------
        EngineError
            If the workers, not the work, fail. What the work raises goes up as it is.
        """

    def close(self) -> None:  # noqa: B027  (most engines own nothing)
        """Give back what the engine has made for itself."""


def fold(parts: Iterable[A]) -> A:
    """Return the sum of the parts over a fixed binary tree, holding at most log2(parts) sums.

    Sums of 2^i neighbours, each over the same tree, may stand for them: the bits stay the same. That is what lets
    workers add what they have before the rest is known.

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
