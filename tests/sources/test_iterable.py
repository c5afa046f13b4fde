"""Blocks that come by: the same ones in every pass, or an error."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import mixcoder
from mixcoder.errors import DataChangedError, DataError, DataTypeError, EngineError
from mixcoder.sources import IterableSource, open_blocks


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(500, 3))


def test_an_iterator_is_refused_with_what_to_do(x):
    for once in (iter([x]), (x for _ in range(3)), map(np.asarray, [x])):
        with pytest.raises(DataTypeError, match=r"partial_fit\(block\)"):
            open_blocks(once)


def test_what_gives_no_blocks_of_rows_is_refused(x):
    for given, match in [
        (x, "fitted as it is"),
        (torch.from_numpy(x), "fitted as it is"),
        (3, "Expected paths of files"),
        (lambda: iter([]), "no rows in the 0 blocks"),
        ([x[:0]], "no rows"),
        ([x, x[0]], r"Block 1 of the list has shape \(3,\)"),
        ([x.astype(str)], "expected real numbers"),
        ([x + 1j], "expected real numbers"),
        ([np.ma.masked_array(x)], "masked"),
        (DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(x))), "of 2 arrays"),
    ]:
        with pytest.raises(DataError, match=match):
            open_blocks(given)


def test_blocks_that_differ_from_pass_to_pass_are_an_error(x):
    shuffled = DataLoader(
        TensorDataset(torch.from_numpy(x)), batch_size=50, shuffle=True, generator=torch.Generator()
    )
    again = iter([x, x])
    fewer, more = [3], [1]

    def shrinking():
        fewer[0] -= 1
        return [x] * fewer[0]

    def growing():
        more[0] += 1
        return [x] * more[0]

    for given, match in [
        (shuffled, "no shuffling"),
        (lambda: again, "gave 0 blocks, at first it gave 2"),
        (shrinking, "gave 1 blocks, at first it gave 2"),
        (growing, "Block 2 of the function is not the one"),
    ]:
        model = mixcoder.GaussianMixture(2)
        with pytest.raises(DataChangedError, match=match):
            model.fit(open_blocks(given))
        assert not hasattr(model, "model_")


def test_each_pass_takes_the_blocks_once_in_the_thread_that_asked(x):
    taken, where = [], set()

    def give():
        for i in range(5):
            taken.append(i)
            where.add(threading.get_ident())
            yield x[100 * i : 100 * i + 100]

    source = open_blocks(give)
    torch.set_num_threads(2)
    total = source.map_reduce(lambda block: block.x.sum(0), 13)
    assert torch.allclose(total, torch.from_numpy(x).sum(0))
    source.take(torch.tensor([499, 3, 3]))
    assert taken == [0, 1, 2, 3, 4] * 3
    assert where == {threading.get_ident()}


def test_few_blocks_are_in_memory_at_a_time(x):
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __array_finalize__(self, obj):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    source = open_blocks(lambda: (x.copy().view(Counted) for _ in range(100)))
    most = 0
    source.map_reduce(lambda block: block.x.sum(0), 64)
    assert most < 20


def test_workers_elsewhere_are_told_that_rows_stay_here(x):
    from concurrent.futures import ThreadPoolExecutor

    with (
        ThreadPoolExecutor(1) as pool,
        mixcoder.engine(pool),
        pytest.raises(EngineError, match="in this process"),
    ):
        mixcoder.GaussianMixture(2).fit(open_blocks([x]))


def test_an_error_of_the_blocks_goes_up_as_it_is(x):
    calls = [0]

    def give():
        calls[0] += 1
        yield x
        if calls[0] > 1:
            raise ConnectionError("the shop is closed")

    model = mixcoder.GaussianMixture(2)
    with pytest.raises(ConnectionError, match="closed"):
        model.fit(open_blocks(give))
    assert not hasattr(model, "model_")


@pytest.mark.filterwarnings("ignore:The fit did not converge")
def test_codes_are_written_and_a_fit_goes_on_from_its_checkpoint(x, tmp_path):
    source = IterableSource([x[:123], x[123:]])
    make = lambda: mixcoder.GaussianMixture(2, random_state=0, tol=0, max_iter=8)  # noqa: E731
    state = {"checkpoint": tmp_path / "state", "checkpoint_every": 0}
    whole = make().fit(source, **state)
    again = make().fit(source, **state, resume=True)
    assert np.array_equal(whole.means_, again.means_)
    manifest = whole.encode_to(source, tmp_path / "codes")
    assert manifest["rows"] == 500
    codes = mixcoder.open_blocks(tmp_path / "codes")
    assert np.array_equal(codes.take(torch.arange(500)).numpy(), whole.encode(x))
