"""One cluster and one pool of processes for all tests that only use them."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

# Workers inherit the path, and with it the faults that strike in them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_pool(n_workers=2):
    """Return a pool of worker processes; not forked, as a fork takes the state of other threads along."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mixcoder.estimators"])
    return ProcessPoolExecutor(n_workers, mp_context=context)


@pytest.fixture(scope="session")
def processes():
    with new_pool() as pool:
        yield pool


@pytest.fixture(scope="session")
def cluster():
    """Two worker processes; tests that end a worker make their own."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def table():
    """Rows of four clouds, in an order that mixes them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 3)) * 3
    return centres[rng.integers(4, size=20_000)] + rng.normal(size=(20_000, 3))


@pytest.fixture
def pool_of():
    """Makes pools of processes."""
    return new_pool
