"""Rows in memory: blocks are views, sums are trees. The laws of a source are in test_conformance.py."""

from __future__ import annotations

import pytest
import torch

from mixcoder.sources import Block, TensorSource, fold
from mixcoder.sources import blocked as blocked_module


class Tree(str):
    """Adds up to the shape of its tree."""

    __slots__ = ()

    def __add__(self, other):
        return Tree(f"({self}{other})")


def test_fold_adds_neighbours_over_a_tree_that_only_their_number_shapes():
    assert fold(map(Tree, "a")) == "a"
    assert fold(map(Tree, "abcd")) == "((ab)(cd))"
    assert fold(map(Tree, "abcdefg")) == "(((ab)(cd))((ef)g))"
    with pytest.raises(ValueError, match="no blocks"):
        fold([])


def test_fold_holds_few_sums_and_errs_little():
    """Rounding of a tree grows with the logarithm of the number of parts, of a running sum with the number."""
    ones = [torch.tensor(0.1) for _ in range(1 << 14)]
    assert float(fold(ones)) == pytest.approx(0.1 * (1 << 14), rel=3e-7)


def test_blocks_are_views_of_the_rows():
    x, weights = torch.randn(100, 3), torch.rand(100)
    source = TensorSource(x, weights)
    pointers = source.map_reduce(lambda block: [(block.x.data_ptr(), block.weights.data_ptr())], 10)
    assert pointers == [(x[i:].data_ptr(), weights[i:].data_ptr()) for i in range(0, 100, 10)]
    assert source.x is x


def test_a_strided_table_is_read_as_it_lies():
    wide = torch.arange(60.0, dtype=torch.float64).view(10, 6)
    source = TensorSource(wide[::2, 1::2])
    assert (source.n_rows, source.n_features) == (5, 3)
    assert source.map_reduce(lambda block: block.x.sum(0), 2).tolist() == wide[::2, 1::2].sum(0).tolist()


def test_a_block_knows_where_it_stops():
    assert Block(torch.zeros(7, 2), None, 20).stop == 27


def test_work_comes_in_few_runs_whatever_the_number_of_blocks():
    n_runs = blocked_module._MAX_RUNS
    for n_rows, block_rows in ((10, 1), (1000, 1), (1000, 7), (64, 1), (65, 1)):
        runs = TensorSource(torch.zeros(n_rows, 1))._runs(block_rows)
        assert len(runs) <= n_runs
        assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
        assert runs[-1][1] == n_rows
        assert all((stop - start) % block_rows == 0 for start, stop in runs[:-1])


def test_weights_count_in_double_precision():
    weights = torch.full((1 << 20,), 0.1)
    source = TensorSource(torch.zeros(1 << 20, 1), weights)
    assert source.total_weight == pytest.approx(float(weights[0].double()) * (1 << 20), rel=1e-12)
    assert TensorSource(torch.zeros(5, 1)).total_weight == 5.0
