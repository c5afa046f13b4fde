"""Jobs on a Dask cluster. A pass is one graph: parameters, a job a run of blocks, a tree that adds them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, ClassVar, final
from uuid import uuid4

from mixcoder.engines import task
from mixcoder.engines.base import A, Engine, J
from mixcoder.engines.parcel import pack, unpack
from mixcoder.errors import EngineError, EngineLostError, EngineStalledError
from mixcoder.modelfile import library_version

# A power of two: workers then add over the tree that a single process adds over.
_FAN_IN = 8

# A task costs the scheduler some milliseconds. Where jobs are short a task takes so many neighbouring ones (a power of
# two) that it lasts for so many seconds, judged by the last pass, while each thread of a worker still gets a few tasks.
_TASK_SECONDS = 0.5
_TASKS_A_THREAD = 4
_MOST_JOBS = 16

# Seconds between looks at the progress, and that a question to the scheduler may take.
_POLL = 1.0
_ASK = 10.0


@final
class DaskEngine(Engine):
    """Sums on the workers of a client.

    Everything that a pass needs is part of its graph, which the scheduler keeps: nothing is scattered, so whatever a
    dying worker takes along is computed again. Rows are read and summed in the same place and never kept.

    Parameters
    ----------
    client : distributed.Client
        Neither it nor its cluster is changed.
    stall_timeout, no_workers_timeout : float
        Seconds.
    """

    remote: ClassVar[bool] = True

    def __init__(self, client: Any, stall_timeout: float, no_workers_timeout: float) -> None:
        self.client = client
        self._stall_timeout, self._no_workers_timeout = stall_timeout, no_workers_timeout
        self._job_seconds = math.inf  # of a thread, in the last pass

    @classmethod
    def of(
        cls, client: Any = None, stall_timeout: float = 600.0, no_workers_timeout: float = 300.0
    ) -> DaskEngine:
        """Return the engine of a client, by default of the one last made."""
        try:
            import distributed
        except ImportError as error:
            raise ImportError("engine('dask') needs Dask: pip install 'mixcoder[dask]'.") from error
        if client is None:
            try:
                client = distributed.default_client()
            except ValueError as error:
                raise EngineError(
                    "There is no Dask client: make one, client = distributed.Client(...), and pass it, "
                    "engine('dask', client=client)."
                ) from error
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise TypeError(f"client must be a synchronous distributed.Client, got {client!r}.")
        return cls(client, stall_timeout, no_workers_timeout)

    def fold(self, work: Callable[[J], A], jobs: Sequence[J], parts: Sequence[Sequence[Any]] = ()) -> A:
        """Return the sum of ``work(job)``; a pass that stands still is tried once more."""
        try:
            return self._pass(work, jobs, parts)
        except EngineStalledError:
            return self._pass(work, jobs, parts)  # a pass has no effects: doing it twice is safe

    def _pass(self, work: Any, jobs: Sequence[Any], parts: Sequence[Sequence[Any]]) -> Any:
        self._require_running()
        n_threads = max(1, sum(self._workers().values()))
        size = 1 if parts else self._jobs_a_task(len(jobs), n_threads)
        leaves, total = _graph(pack(work), [jobs[at : at + size] for at in range(0, len(jobs), size)], parts)
        began = time.monotonic()
        with warnings.catch_warnings():
            # Dask would rather have large values scattered; a scattered value dies with its worker.
            warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
            *futures, last = self.client.compute([*leaves, total], retries=0)
        try:
            self._wait(futures, last)
            found = unpack(last.result(timeout=self._stall_timeout))
            self._job_seconds = (time.monotonic() - began) * min(n_threads, len(leaves)) / len(jobs)
            return found
        except (CancelledError, OSError) as error:
            if isinstance(error, OSError) and last.status == "error":
                raise  # the work's own: a file that cannot be read
            raise EngineLostError(
                f"The Dask scheduler was lost ({error}). Start a cluster and fit again; a fit with checkpoint=... "
                "goes on where it was, with resume=True."
            ) from error
        finally:
            for future in (*futures, last):
                future.release()

    def _jobs_a_task(self, n_jobs: int, n_threads: int) -> int:
        """Return how many neighbouring jobs a task takes, a power of two; the bits do not depend on it."""
        # Tasks stay far shorter than what is taken for a stall.
        seconds = min(_TASK_SECONDS, self._stall_timeout / 20)
        most = min(_MOST_JOBS, n_jobs / (_TASKS_A_THREAD * n_threads), seconds / self._job_seconds)
        return 1 << max(0, int(most).bit_length() - 1)

    def _wait(self, leaves: list[Any], last: Any) -> None:
        """Return when the sum is there; raise when it never will be."""
        import distributed

        since = time.monotonic()
        n_left, empty_since = len(leaves) + 1, None
        while True:
            with suppress(TimeoutError):
                distributed.wait([last], timeout=min(_POLL, self._stall_timeout))
            if last.status != "pending":
                break
            self._require_running()
            now, left = time.monotonic(), [leaf for leaf in leaves if leaf.status == "pending"]
            for leaf in leaves:
                if leaf.status == "finished":
                    leaf.release()  # its sum is kept as long as the tree needs it
            leaves = left
            if len(left) < n_left:
                n_left, since = len(left), now
            if now - since < min(5.0, self._stall_timeout / 2):
                continue
            workers = self._workers()
            empty_since = None if workers else (empty_since or since)
            if empty_since is not None and now - empty_since > self._no_workers_timeout:
                raise EngineError(
                    f"The Dask cluster has been without workers for {self._no_workers_timeout:g} s: start some, or "
                    "raise no_workers_timeout."
                )
            if now - since > self._stall_timeout and empty_since is None:
                raise EngineStalledError(
                    f"Nothing has ended on the Dask cluster for {self._stall_timeout:g} s, twice; {len(left)} of its "
                    f"sums are missing. Its workers: {workers}. Look at them, or raise stall_timeout."
                )
        if last.status == "error":
            raise self._translated(last.exception(timeout=self._stall_timeout))
        if last.status != "finished":
            raise CancelledError(last.status)

    def _require_running(self) -> None:
        if self.client.status != "running":
            raise EngineLostError(
                f"The Dask client is {self.client.status}: connect it to a scheduler and fit again; a fit with "
                "checkpoint=... goes on where it was, with resume=True."
            )

    def _workers(self) -> dict[str, int]:
        """Return the threads of each worker; raises where the scheduler does not answer."""
        try:
            return dict(self.client.sync(self.client.scheduler.ncores, callback_timeout=_ASK))
        except TimeoutError as error:
            raise EngineLostError(f"The Dask scheduler has not answered for {_ASK:g} s.") from error

    def _translated(self, error: BaseException) -> BaseException:
        """Return what a user can act on; what the work itself raised goes up as it is."""
        import distributed

        if not isinstance(error, distributed.KilledWorker):
            return error
        told = EngineError(
            f"Workers of the Dask cluster died on one and the same job, {error.task!r}, last on "
            f"{error.last_worker.address}. Most often they ran out of memory: give them more, or read smaller files "
            "or chunks; their logs tell."
        )
        told.__cause__ = error
        return told


def _graph(
    work: Any, tasks: Sequence[Sequence[Any]], parts: Sequence[Sequence[Any]]
) -> tuple[list[Any], Any]:
    """Return the delayed sum of the jobs of every task, and the delayed sum of them all."""
    from dask.delayed import delayed

    name = f"mixcoder-{uuid4().hex}"  # no two passes share a key
    same = delayed(task.same, pure=False, traverse=False)
    run = delayed(task.run, pure=False, traverse=False)
    add = delayed(task.add, pure=False, traverse=False)
    shared = same(work, dask_key_name=f"{name}-parameters")
    own = parts or [()] * len(tasks)
    version = library_version()
    leaves = [
        run(version, shared, [pack(job) for job in jobs], *values, dask_key_name=f"{name}-run-{place}")
        for place, (jobs, values) in enumerate(zip(tasks, own, strict=True))
    ]
    level, sums = 0, list(leaves)
    while len(sums) > 1 or level == 0:
        sums = [
            add(*sums[at : at + _FAN_IN], dask_key_name=f"{name}-sum-{level}-{at}")
            for at in range(0, len(sums), _FAN_IN)
        ]
        level += 1
    return leaves, sums[0]
