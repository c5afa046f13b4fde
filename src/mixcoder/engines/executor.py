"""Jobs on any ``concurrent.futures.Executor``: processes, MPI ranks, whatever submits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Any, ClassVar, final

from mixcoder.engines import task
from mixcoder.engines.base import A, Engine, J, fold
from mixcoder.engines.parcel import pack, unpack
from mixcoder.errors import EngineError, EngineStalledError
from mixcoder.modelfile import library_version

# New pools for one sum, before whatever kills their workers is taken to be a block of it.
_NEW_POOLS = 3


@final
class ExecutorEngine(Engine):
    """Sums on an executor.

    Parameters
    ----------
    executor : Executor or callable
        A callable returns a new executor. With one, a pool whose worker died is replaced, and the jobs that went
        down with it are done again; without, it is an error.
    stall_timeout : float
        Seconds in which some job must end.
    """

    remote: ClassVar[bool] = True

    def __init__(self, executor: Executor | Callable[[], Executor], stall_timeout: float) -> None:
        self._factory = None if isinstance(executor, Executor) else executor
        self._pool: Executor | None = executor if isinstance(executor, Executor) else None
        self._stall_timeout = stall_timeout

    def fold(self, work: Callable[[J], A], jobs: Sequence[J], parts: Sequence[Sequence[Any]] = ()) -> A:
        """Return the sum of ``work(job)``; a few sums wait here at any time, never all of them."""
        if any(parts):
            raise EngineError("Delayed values need a Dask engine: engine('dask').")
        return fold(self._in_order(pack(work), jobs))

    def close(self) -> None:
        """Shut down a pool that this engine has made."""
        if self._factory is not None and self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _in_order(self, work: Any, jobs: Sequence[Any]) -> Iterator[Any]:
        window = 2 * (getattr(self._executor(), "_max_workers", None) or os.cpu_count() or 1)
        pending: dict[Future[Any], int] = {}
        results: dict[int, Any] = {}
        lost: list[int] = []
        begun = ended = pools = 0
        try:
            while ended < len(jobs):
                wanted = list(lost)
                while begun < len(jobs) and begun - ended < window:
                    wanted.append(begun)
                    begun += 1
                lost = []
                for place in wanted:
                    future = self._submit(work, jobs[place])
                    if future is None:
                        lost.append(place)
                    else:
                        pending[future] = place
                done, _ = wait(pending, self._stall_timeout, FIRST_COMPLETED)
                stalled = bool(pending) and not done
                for future in done:
                    place = pending.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenExecutor):
                        lost.append(place)
                    elif error is not None:
                        raise error
                    else:
                        results[place], pools = unpack(future.result()), 0
                if lost or stalled:
                    lost.extend(pending.values())
                    pending.clear()
                    pools += 1
                    self._renew(pools, jobs[min(lost)], stalled=stalled)
                while ended in results:
                    yield results.pop(ended)
                    ended += 1
        finally:
            for future in pending:  # what runs is not waited for: nothing that it writes comes back
                future.cancel()

    def _executor(self) -> Executor:
        if self._pool is None:
            assert self._factory is not None
            self._pool = self._factory()
        return self._pool

    def _submit(self, work: Any, job: Any) -> Future[Any] | None:
        try:
            return self._executor().submit(task.run, library_version(), work, (pack(job),))
        except BrokenExecutor:
            return None
        except RuntimeError as error:
            raise EngineError(
                f"The executor takes no jobs ({error}): it was shut down, or is shutting down. Fit within its "
                "with block, or pass a function that makes one: engine(lambda: ProcessPoolExecutor(4))."
            ) from error

    def _renew(self, n_times: int, job: Any, *, stalled: bool) -> None:
        """Replace a pool that has died or stands still, or say why that is not possible."""
        told = (
            f"no job of the executor ended for {self._stall_timeout:g} s"
            if stalled
            else "a worker of the executor died (killed, out of memory?)"
        )
        kind = EngineStalledError if stalled else EngineError
        if self._factory is None:
            raise kind(
                f"The fit ended because {told}. Pass a function that makes the executor, engine(lambda: "
                "ProcessPoolExecutor(4)), and it will be replaced."
            )
        if n_times > (1 if stalled else _NEW_POOLS):
            raise kind(f"The fit ended because {told}, {n_times} times in a row, last at or after {job}.")
        _put_down(self._executor())
        self._pool = None


def _put_down(pool: Executor) -> None:
    """End a pool that may hang, processes included; where they cannot be reached they are left alone."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
