"""Which engine the sums of a fit run on: a context, never a parameter of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mixcoder.engines.base import Engine
from mixcoder.engines.dask import DaskEngine
from mixcoder.engines.executor import ExecutorEngine
from mixcoder.engines.local import LocalEngine

_THREADS = LocalEngine()
_chosen: ContextVar[Engine | None] = ContextVar("mixcoder_engine", default=None)


def current_engine() -> Engine:
    """Return the engine of the innermost ``with engine(...)``; threads where there is none."""
    return _chosen.get() or _THREADS


def is_chosen() -> bool:
    """Return whether an engine was asked for."""
    return _chosen.get() is not None


@contextmanager
def engine(
    kind: str | Executor | Callable[[], Executor] | Engine = "threads",
    *,
    client: Any = None,
    stall_timeout: float = 600.0,
    no_workers_timeout: float = 300.0,
) -> Generator[Engine]:
    """Run the fits of a ``with`` block somewhere else. The fitted model does not depend on where.

    A fit is a number of passes over the rows, and a pass a sum over runs of blocks, added over a tree that depends
    on the rows and the size of a block only. Mixtures are the same to the last bit on every engine, with any number
    of workers, also when some of them die; k-means is, to rounding (in memory it remembers its rows one by one, and
    on an executor or a cluster it does not). Rows in memory travel with every pass: give large ones as files that
    every worker can read (:func:`mixcoder.open_blocks`), or as a Dask collection. What is asked of a fitted model
    is answered in this process.

    Parameters
    ----------
    kind : {"threads", "serial", "dask"}, Executor, callable, or Engine
        Threads of this process by default. An executor of :mod:`concurrent.futures`, whose workers can import this
        library; or a callable that returns one, which is called again when a worker dies. "dask" is a cluster.
    client : distributed.Client, optional
        Of a Dask cluster, by default the one last made. Neither it nor its settings are changed.
    stall_timeout : float, default=600
        Seconds in which some job must end. On Dask, and on an executor that can be made anew, the pass is then tried
        once more; after that, and elsewhere at once, the fit ends with an
        :class:`~mixcoder.errors.EngineStalledError`.
    no_workers_timeout : float, default=300
        Seconds that a cluster may be without any worker.

    Raises
    ------
    EngineError
        In the fit, if the workers and not the rows are the trouble; the estimator is left as it was.

    Examples
    --------
    >>> import numpy as np, mixcoder
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> with mixcoder.engine("serial"):
    ...     model = mixcoder.GaussianMixture(2, random_state=0).fit(X)
    >>> bool((model.means_ == mixcoder.GaussianMixture(2, random_state=0).fit(X).means_).all())
    True
    """
    for name, value in (("stall_timeout", stall_timeout), ("no_workers_timeout", no_workers_timeout)):
        if not value > 0:
            raise ValueError(f"{name} must be a positive number of seconds, got {value!r}.")
    if client is not None and kind != "dask":
        raise ValueError(f"client belongs to engine('dask', client=...), not to engine({kind!r}).")
    made = kind if isinstance(kind, Engine) else _made(kind, client, stall_timeout, no_workers_timeout)
    token = _chosen.set(made)
    try:
        yield made
    finally:
        _chosen.reset(token)
        if made is not kind:
            made.close()


def _made(kind: Any, client: Any, stall_timeout: float, no_workers_timeout: float) -> Engine:
    if kind == "threads":
        return LocalEngine()
    if kind == "serial":
        return LocalEngine(1)
    if kind == "dask":
        return DaskEngine.of(client, stall_timeout, no_workers_timeout)
    if isinstance(kind, Executor) or callable(kind):
        executor: Any = kind
        return ExecutorEngine(executor, stall_timeout)
    raise ValueError(
        f"engine={kind!r} is none of 'threads', 'serial' and 'dask', no concurrent.futures.Executor, and no "
        "function that returns one."
    )
