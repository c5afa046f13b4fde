"""A cluster of real processes, whose scheduler, last worker or memory goes away in the middle of a fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from engine_faults import faulty

import mixcoder
from mixcoder.errors import EngineError, EngineLostError

distributed = pytest.importorskip("distributed", reason="Dask is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The fit did not converge"),
    pytest.mark.skipif(os.name != "posix", reason="kills by signal"),
]


@pytest.fixture(scope="module")
def small(table):
    return table[:9000]


def make():
    return mixcoder.GaussianMixture(4, random_state=0, tol=0, max_iter=6)


@contextmanager
def processes(folder):
    """Give a client of a scheduler and one worker without a nanny, each in a process of its own."""
    file = folder / "scheduler.json"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with ExitStack() as stack:

        def start(kind, *words, **told):
            command = [
                sys.executable,
                "-m",
                "distributed.cli.dask_" + kind,
                "--scheduler-file",
                str(file),
                *words,
            ]
            environment = {**os.environ, "PYTHONPATH": path, **told}
            process = stack.enter_context(
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            stack.callback(process.kill)
            return process

        scheduler = start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        start("worker", "--no-nanny", "--no-dashboard", MIXCODER_TEST_SCHEDULER=str(scheduler.pid))
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.05)
        client = stack.enter_context(distributed.Client(scheduler_file=str(file), heartbeat_interval=500))
        client.wait_for_workers(1, timeout=60)
        yield client


def test_a_scheduler_that_is_killed_in_a_fit_ends_it_and_the_fit_goes_on_elsewhere(tmp_path, small):
    (tmp_path / "rows").mkdir()
    rows, state, begun = (
        faulty(tmp_path / "rows", small, "scheduler", 20),
        tmp_path / "state",
        time.monotonic(),
    )
    model = make()
    with (
        processes(tmp_path) as client,
        mixcoder.engine("dask", client=client),
        pytest.raises(EngineLostError, match=r"resume=True|has not answered"),
    ):
        model.fit(rows, checkpoint=state, checkpoint_every=0)
    assert (tmp_path / "rows" / "struck").exists()
    assert time.monotonic() - begun < 90
    assert not hasattr(model, "model_")
    assert state.exists()
    again, whole = make().fit(rows, checkpoint=state, resume=True), make().fit(small)
    assert again.lower_bounds_ == whole.lower_bounds_
    assert np.array_equal(again.means_, whole.means_)


def test_the_last_worker_that_dies_in_a_fit_is_not_waited_for(tmp_path, small):
    (tmp_path / "rows").mkdir()
    rows, begun = faulty(tmp_path / "rows", small, "kill", 20), time.monotonic()
    model = make()
    with (
        processes(tmp_path) as client,
        mixcoder.engine("dask", client=client, no_workers_timeout=2),
        pytest.raises(EngineError, match="without workers for 2 s"),
    ):
        model.fit(rows)
    assert time.monotonic() - begun < 90
    assert not hasattr(model, "model_")


def test_a_worker_that_runs_out_of_memory_once_changes_no_bit_and_one_that_always_does_ends_the_fit(
    tmp_path, small
):
    import dask

    for name in ("once", "always"):
        (tmp_path / name).mkdir()
    limits = {
        "distributed.worker.memory.terminate": 0.9,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.scheduler.allowed-failures": 1,
    }
    with (
        dask.config.set(limits),
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
            memory_limit="900MiB",
        ) as made,
        distributed.Client(made) as client,
        mixcoder.engine("dask", client=client),
    ):
        model = make().fit(faulty(tmp_path / "once", small, "eat", 20))
        assert (tmp_path / "once" / "struck").exists()
        with pytest.raises(EngineError, match="ran out of memory"):
            make().fit(faulty(tmp_path / "always", small, "eat", 5, once=False))
    whole = make().fit(small)
    assert model.lower_bounds_ == whole.lower_bounds_
    assert np.array_equal(model.means_, whole.means_)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("no more")])
@pytest.mark.parametrize("kind", ["threads", "serial"])
def test_what_reading_raises_in_this_process_goes_up_and_changes_nothing(
    tmp_path, small, error, kind, monkeypatch
):
    from mixcoder.sources.npy import NpyReader

    np.save(tmp_path / "x.npy", small)
    rows, model = mixcoder.open_blocks(tmp_path / "x.npy"), make().fit(small)
    before, reads, real = model.means_.copy(), [0], NpyReader.rows

    def read(self, start, stop):
        reads[0] += 1
        if reads[0] > 40:
            raise error
        return real(self, start, stop)

    monkeypatch.setattr(NpyReader, "rows", read)
    with mixcoder.engine(kind), pytest.raises(type(error)):
        model.fit(rows)
    assert np.array_equal(model.means_, before)
