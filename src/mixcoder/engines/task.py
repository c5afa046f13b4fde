"""What a worker runs: unpack, compute with one kernel thread, pack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mixcoder.engines.base import fold
from mixcoder.engines.parcel import pack, unpack
from mixcoder.errors import EngineError
from mixcoder.modelfile import library_version
from mixcoder.ops.threads import single_threaded_kernels

# A file system that stumbles is asked again; one that has no such file is believed.
_ATTEMPTS = 3
_PAUSE = 0.2


def run(version: str, work: Any, jobs: Sequence[Any], *parts: Any) -> Any:
    """Return the packed sum of ``work(job)``, of packed work and neighbouring jobs, over the fixed tree.

    Raises
    ------
    EngineError
        If the worker has another version of this library than the sender: their bits may differ.
    """
    own = library_version()
    if version != own:
        raise EngineError(
            f"A worker has mixcoder {own}, the fit has {version}: install one version on all of them."
        )
    with single_threaded_kernels():
        whole = unpack(work)
        return pack(fold(_tried(whole, unpack(job), parts) for job in jobs))


def _tried(work: Any, job: Any, parts: tuple[Any, ...]) -> Any:
    """Return ``work(job)``, tried again where the file system stumbles."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return work(job, *parts)
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except OSError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(_PAUSE * attempt)
    raise AssertionError("unreachable")


def add(*parts: Any) -> Any:
    """Return the packed sum of packed sums, over the fixed tree."""
    with single_threaded_kernels():
        return pack(fold(unpack(part) for part in parts))


def same(value: Any) -> Any:
    """Return the value: a task by which the scheduler holds what every other task needs."""
    return value
