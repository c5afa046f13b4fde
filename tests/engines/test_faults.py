"""What goes wrong with workers: the same answer or a named error, never a wait without an end."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from engine_faults import faulty

import mixcoder
from mixcoder.engines import current_engine
from mixcoder.engines.executor import ExecutorEngine
from mixcoder.errors import DataError, EngineError, EngineLostError, EngineStalledError

distributed = pytest.importorskip("distributed", reason="Dask is not installed")


def make():
    return mixcoder.GaussianMixture(4, random_state=0, tol=0, max_iter=6)


@pytest.fixture(scope="module")
def small(table):
    return table[:9000]


@pytest.fixture(scope="module")
def expected(small):
    with pytest.warns(match="did not converge"):
        return make().fit(small)


def require_expected(model, expected, folder):
    assert (folder / "struck").exists(), "nothing happened"
    assert model.lower_bounds_ == expected.lower_bounds_
    assert np.array_equal(model.means_, expected.means_)
    assert np.array_equal(model.covariances_, expected.covariances_)


@contextmanager
def own_cluster(n_workers=2, **options):
    """Make a cluster of one's own, whose workers may be harmed."""
    with (
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
            **options,
        ) as made,
        distributed.Client(made, heartbeat_interval=500) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The fit did not converge")
def test_a_worker_that_is_killed_changes_no_bit_and_a_block_that_kills_all_ends_the_fit(
    tmp_path, small, expected
):
    (tmp_path / "poison").mkdir()
    rows, poison = (
        faulty(tmp_path, small, "kill", 20),
        faulty(tmp_path / "poison", small, "kill", 5, once=False),
    )
    with own_cluster() as client, mixcoder.engine("dask", client=client):
        require_expected(make().fit(rows), expected, tmp_path)
        with pytest.raises(EngineError, match="died on one and the same job"):
            make().fit(poison)


@pytest.mark.filterwarnings("ignore:The fit did not converge")
def test_a_pool_that_is_made_anew_changes_no_bit(tmp_path, small, expected, pool_of):
    rows = faulty(tmp_path, small, "kill", 20)
    with mixcoder.engine(pool_of):
        model = make().fit(rows)
    require_expected(model, expected, tmp_path)


def test_a_pool_that_cannot_be_made_anew_is_an_error_that_says_how(tmp_path, small, pool_of):
    rows, model = faulty(tmp_path, small, "kill", 5), make()
    with pool_of() as pool, mixcoder.engine(pool), pytest.raises(EngineError, match="function that makes"):
        model.fit(rows)
    assert not hasattr(model, "model_")


def test_a_block_that_kills_every_worker_ends_the_fit(tmp_path, small, pool_of):
    rows = faulty(tmp_path, small, "kill", 5, once=False)
    with mixcoder.engine(lambda: pool_of(1)), pytest.raises(EngineError, match=r"4 times in a row.*rows \d+"):
        make().fit(rows)


@pytest.mark.filterwarnings("ignore:The fit did not converge")
def test_a_file_system_that_stumbles_is_asked_again(tmp_path, small, expected, processes):
    rows = faulty(tmp_path, small, "stumble", 20)
    with mixcoder.engine(processes):
        require_expected(make().fit(rows), expected, tmp_path)


def test_what_the_work_raises_goes_up_as_it_is(tmp_path, small, processes, cluster):
    for name, kind in (("unreadable", OSError), ("memory", MemoryError), ("other", ValueError)):
        for engine in (mixcoder.engine(processes), mixcoder.engine("dask", client=cluster)):
            folder = tmp_path / f"{name} {id(engine)}"
            folder.mkdir()
            fault = "stumble" if name == "unreadable" else name
            rows = faulty(folder, small, fault, 4, once=False)
            with engine, pytest.raises(kind):
                make().fit(rows)


def test_a_file_that_changes_is_data_that_changed_on_every_engine(tmp_path, small, processes, cluster):
    np.save(tmp_path / "x.npy", small)
    rows = mixcoder.open_blocks(tmp_path)
    np.save(tmp_path / "x.npy", small[:-1])
    for engine in (mixcoder.engine(processes), mixcoder.engine("dask", client=cluster)):
        with engine, pytest.raises(DataError, match="has changed since it was opened"):
            make().fit(rows)


@pytest.mark.filterwarnings("ignore:The fit did not converge")
def test_a_pool_that_hangs_is_made_anew_once(tmp_path, small, expected, pool_of):
    rows = faulty(tmp_path, small, "freeze", 20)
    with mixcoder.engine(pool_of, stall_timeout=3):
        require_expected(make().fit(rows), expected, tmp_path)


def test_threads_that_hang_are_not_waited_for():
    release = threading.Event()

    def stuck(job):
        release.wait(60)
        return job

    pool, begun = ThreadPoolExecutor(1), time.monotonic()
    with pytest.raises(EngineStalledError, match=r"0\.5 s"):
        ExecutorEngine(pool, 0.5).fold(stuck, [1, 2, 3])
    assert time.monotonic() - begun < 10
    release.set()
    pool.shutdown()


@pytest.mark.slow
def test_a_frozen_cluster_is_given_up(tmp_path, small):
    rows, begun = faulty(tmp_path, small, "freeze", 10), time.monotonic()
    with own_cluster(n_workers=1) as client:
        (worker,) = client.run(os.getpid).values()
        try:
            frozen = mixcoder.engine("dask", client=client, stall_timeout=2)
            with frozen, pytest.raises(EngineStalledError, match="Nothing has ended"):
                make().fit(rows)
            assert time.monotonic() - begun < 40
        finally:
            os.kill(worker, signal.SIGCONT)  # frozen, it would not hear that it is to end


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The fit did not converge")
def test_a_frozen_worker_is_replaced_by_its_nanny(tmp_path, small, expected):
    import dask

    rows = faulty(tmp_path, small, "freeze", 20)
    impatient = dask.config.set({"distributed.scheduler.worker-ttl": "4s"})
    with impatient, own_cluster() as client, mixcoder.engine("dask", client=client):
        require_expected(make().fit(rows), expected, tmp_path)


@pytest.mark.slow
def test_a_cluster_without_workers_is_not_waited_for(small):
    with own_cluster(n_workers=0) as client:
        impatient = mixcoder.engine("dask", client=client, no_workers_timeout=1)
        with impatient, pytest.raises(EngineError, match="without workers for 1 s"):
            make().fit(small)


def test_a_scheduler_that_is_gone_is_said_to_be(small):
    with own_cluster(n_workers=1) as client:
        client.close()
        with mixcoder.engine("dask", client=client), pytest.raises(EngineLostError, match="closed"):
            make().fit(small)


def test_nobodys_client_is_changed(small, cluster):
    import dask

    before, told = dict(dask.config.config), cluster.scheduler_info()["workers"].keys()
    with pytest.warns(match="did not converge"), mixcoder.engine("dask", client=cluster):
        make().fit(small)
    assert dict(dask.config.config) == before
    assert cluster.scheduler_info()["workers"].keys() == told
    deadline = time.monotonic() + 10
    while cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        assert time.monotonic() < deadline, "tasks of the fit are left on the scheduler"
        time.sleep(0.05)


def test_an_engine_ends_with_its_block_also_after_an_error(small):
    before = current_engine()
    with mixcoder.engine("serial"):
        assert current_engine() is not before
    with pytest.raises(KeyError), mixcoder.engine("serial"):
        raise KeyError
    assert current_engine() is before


def test_engines_that_there_are_not():
    for kind, options, match in [
        ("spark", {}, "none of 'threads'"),
        (3, {}, "none of 'threads'"),
        ("threads", {"client": 1}, "client belongs to"),
        ("serial", {"stall_timeout": 0}, "positive number of seconds"),
        ("serial", {"no_workers_timeout": -1.0}, "positive number of seconds"),
    ]:
        with pytest.raises(ValueError, match=match), mixcoder.engine(kind, **options):
            pass
    with pytest.raises(TypeError, match=r"distributed\.Client"), mixcoder.engine("dask", client="tcp://x"):
        pass


def test_an_executor_that_was_shut_down_is_named(table):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    model = mixcoder.GaussianMixture(2, random_state=0)
    with mixcoder.engine(pool), pytest.raises(EngineError, match="shut down"):
        model.fit(table[:100])
    assert not hasattr(model, "model_")
