"""Blocks in threads: in order, a few at a time, errors go up, and the caller's threads come back."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest
import torch

from mixcoder.ops.threads import map_in_order, single_threaded_kernels
from mixcoder.ops.workspace import Workspace


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_results_come_in_order_whoever_is_first(n_threads):
    def slow_first(job):
        time.sleep(0.02 if job == 0 else 0.0)
        return job * job

    assert list(map_in_order(slow_first, range(20), n_threads)) == [job * job for job in range(20)]
    assert list(map_in_order(slow_first, [], n_threads)) == []


def test_jobs_of_jobs_do_not_wait_for_each_other():
    """As many jobs as threads, each with jobs of its own: nobody would be left to do them."""
    met = threading.Barrier(2)

    def outer(job):
        met.wait(10)  # both threads are taken
        return sum(map_in_order(lambda inner: 10 * job + inner, range(5), 2))

    results: list[list[int]] = []
    asking = threading.Thread(
        target=lambda: results.append(list(map_in_order(outer, range(2), 2))), daemon=True
    )
    asking.start()
    asking.join(20)
    assert results == [[10, 60]]


def test_only_a_few_results_wait():
    started, release = [], threading.Event()

    def job(index):
        started.append(index)
        return index

    results = map_in_order(job, range(100), 2)
    next(results)
    release.wait(0.05)
    assert len(started) <= 6
    results.close()
    assert len(started) <= 6


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_goes_up_and_stops_the_rest(n_threads):
    started = []

    def job(index):
        started.append(index)
        if index == 3:
            raise KeyError("block 3")
        return index

    with pytest.raises(KeyError, match="block 3"):
        list(map_in_order(job, range(1000), n_threads))
    assert len(started) < 20
    assert list(map_in_order(abs, [-1, -2], n_threads)) == [1, 2]


def test_kernels_run_on_one_thread_and_the_others_come_back():
    with single_threaded_kernels() as allowed:
        assert (allowed, torch.get_num_threads()) == (2, 1)
        with single_threaded_kernels() as inner:
            assert (inner, torch.get_num_threads()) == (2, 1)
        assert torch.get_num_threads() == 1
        seen = list(map_in_order(lambda _: torch.get_num_threads(), range(6), 2))
        assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="inside"), single_threaded_kernels():
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 2


def test_workspaces_reuse_memory_and_never_share_it():
    workspace = Workspace()
    cpu = torch.device("cpu")
    first = workspace.take("a", 10, 4, torch.float64, cpu)
    assert workspace.take("a", 5, 8, torch.float64, cpu).data_ptr() == first.data_ptr()
    assert workspace.take("b", 10, 4, torch.float64, cpu).data_ptr() != first.data_ptr()
    assert workspace.take("a", 10, 4, torch.float32, cpu).data_ptr() != first.data_ptr()
    assert workspace.child("part").take("a", 10, 4, torch.float64, cpu).data_ptr() != first.data_ptr()
    columns = workspace.take("a", 10, 4, torch.float64, cpu, column_major=True)
    assert columns.shape == (10, 4)
    assert columns.stride() == (1, 10)
    assert workspace.take("a", 100, 4, torch.float64, cpu).shape == (100, 4)
    elsewhere = []
    thread = threading.Thread(
        target=lambda: elsewhere.append(workspace.take("a", 10, 4, torch.float64, cpu).data_ptr())
    )
    thread.start()
    thread.join()
    assert elsewhere[0] != workspace.take("a", 10, 4, torch.float64, cpu).data_ptr()


def _in_child(queue):
    queue.put(list(map_in_order(abs, [-1, -2, -3], 2)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
# Python warns of any fork beside threads.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own():
    assert list(map_in_order(abs, [-1, -2], 2)) == [1, 2]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == [1, 2, 3]
    child.join()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_jobs_run_in_the_inference_mode_of_whoever_waits_for_them(n_threads):
    def mode(job):
        del job
        return torch.is_inference_mode_enabled()

    assert not any(map_in_order(mode, range(9), n_threads))
    with torch.inference_mode():
        total = torch.zeros(9)
        assert all(map_in_order(mode, range(9), n_threads))
        list(map_in_order(lambda job: total[job].add_(job), range(9), n_threads))
    assert total.tolist() == list(range(9))


def test_a_buffer_first_asked_for_in_inference_mode_can_be_written_to_later():
    workspace, shape = Workspace(), ("rows", 2, 3, torch.float64, torch.device("cpu"))
    with torch.inference_mode():
        workspace.take(*shape)
    assert workspace.take(*shape).fill_(1.0).sum() == 6.0
