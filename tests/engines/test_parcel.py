"""What travels to a worker arrives to the last bit of what is computed with it; sums of sums are the sum."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import pytest
import torch

from mixcoder.engines import fold
from mixcoder.engines.parcel import FlatTensor, pack, unpack
from mixcoder.ops.workspace import Workspace


def sent(value):
    return unpack(pickle.loads(pickle.dumps(pack(value), protocol=5)))


def layouts():
    x = torch.arange(60, dtype=torch.float64)
    yield "rows", x.view(10, 6)
    yield "columns", x.view(6, 10).T
    yield "a view from the middle", x.view(10, 6)[3:7]
    yield "three axes, turned", x.view(3, 4, 5).permute(2, 0, 1)
    yield "a number", torch.tensor(3.5)
    yield "nothing", torch.zeros(0, 4)
    yield "whole numbers", torch.arange(5)
    yield "truths", torch.tensor([True, False])
    yield "single", x.float()[1:]


@pytest.mark.parametrize(("name", "tensor"), list(layouts()))
def test_a_dense_tensor_keeps_its_numbers_its_layout_and_its_place_in_a_line_of_memory(name, tensor):
    arrived = sent(tensor)
    assert torch.equal(arrived, tensor)
    assert arrived.dtype == tensor.dtype
    assert arrived.stride() == tensor.stride()
    assert arrived.data_ptr() % 64 == tensor.data_ptr() % 64
    assert arrived.numel() == 0 or arrived.data_ptr() != tensor.data_ptr()


def test_gaps_of_a_view_do_not_travel():
    wide = torch.arange(1000.0).view(10, 100)
    packed = pack(wide[::2, ::5])
    assert packed.numbers.size == 100
    assert torch.equal(unpack(packed), wide[::2, ::5])
    assert torch.equal(sent(torch.ones(1, 3).expand(5, 3)), torch.ones(5, 3))


@dataclass(frozen=True)
class Inner:
    values: tuple[torch.Tensor, ...]
    name: str


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rows: list[torch.Tensor]
    named: dict[str, torch.Tensor]
    workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self):
        assert all(torch.is_tensor(row) for row in self.rows)


def test_tensors_are_found_wherever_they_are_and_the_original_stays_as_it_was():
    outer = Outer(Inner((torch.ones(2), torch.zeros(3)), "a"), [torch.ones(1)], {"b": torch.ones(4)})
    packed = pack(outer)
    assert isinstance(packed.inner.values[1], FlatTensor)
    assert torch.is_tensor(outer.inner.values[1])
    arrived = sent(outer)
    assert torch.equal(arrived.inner.values[0], torch.ones(2))
    assert torch.equal(arrived.named["b"], torch.ones(4))
    assert arrived.inner.name == "a"


class Tree(str):
    """Adds up to the shape of its tree."""

    __slots__ = ()

    def __add__(self, other):
        return Tree(f"({self}{other})")


@pytest.mark.parametrize("fan_in", [2, 8])
def test_workers_that_add_neighbours_first_add_over_the_same_tree(fan_in):
    for n in range(1, 200):
        sums = [Tree(f"{i} ") for i in range(n)]
        whole = fold(sums)
        while len(sums) > 1:
            sums = [fold(sums[at : at + fan_in]) for at in range(0, len(sums), fan_in)]
        assert sums[0] == whole, n
