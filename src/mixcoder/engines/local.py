"""Jobs in this process, one after the other or in Python threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar, final

from mixcoder.engines.base import A, Engine, J, fold
from mixcoder.ops.threads import Jobs, map_in_order, single_threaded_kernels

R = TypeVar("R")


@final
class LocalEngine(Engine):
    """Threads of this process with one kernel thread each.

    Parameters
    ----------
    n_threads : int, optional
        As many as torch may use by default; 1 is serial.

    Examples
    --------
    >>> LocalEngine(n_threads=2).fold(lambda job: job**2, [1, 2, 3])
    14
    """

    remote: ClassVar[bool] = False

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = n_threads

    def fold(self, work: Callable[[J], A], jobs: Sequence[J], parts: Sequence[Sequence[Any]] = ()) -> A:
        """Return the sum of ``work(job)``."""
        del parts
        return fold(self.each(work, jobs))

    def each(self, work: Callable[[J], R], jobs: Jobs[J], *, alone: bool = False) -> Iterator[R]:
        """Yield ``work(job)`` in order; ``alone`` where only one job may run at a time (rows on a GPU)."""
        with single_threaded_kernels() as allowed:
            yield from map_in_order(work, jobs, 1 if alone else self.n_threads or allowed)
