"""Sums of features under a code, of every kind of code."""

from __future__ import annotations

import pytest
import torch

from mixcoder._typing import HardCode
from mixcoder.ops.moments import class_sums

F64 = torch.float64


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator, dtype=F64)
    soft = torch.rand(40, 3, generator=generator, dtype=F64)
    weights = torch.rand(40, generator=generator, dtype=F64)
    return features, soft / soft.sum(1, keepdim=True), HardCode(torch.arange(40) % 3, 3), weights


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_what_the_formula_says(table, weighted):
    features, soft, hard, weights = table
    w = weights if weighted else torch.ones(40, dtype=F64)
    for code, dense in ((soft.clone(), soft), (hard, hard.dense(F64))):
        expected = torch.einsum("n,nk,nf->kf", w, dense, features)
        given = code.clone() if isinstance(code, torch.Tensor) else code
        found = class_sums(given, features, weights if weighted else None)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_sums_go_where_they_are_asked_to_whatever_lies_there(table):
    features, soft, hard, _ = table
    for code in (soft, hard):
        out = torch.full((3, 5), float("nan"), dtype=F64)
        found = class_sums(code, features, out=out)
        assert found.data_ptr() == out.data_ptr()
        torch.testing.assert_close(out, class_sums(code, features))


def test_rows_of_a_hard_code_are_left_as_they_are(table):
    features, _, hard, weights = table
    before = features.clone()
    class_sums(hard, features, weights)
    assert bool((features == before).all())


def test_a_component_without_rows_has_sums_of_zero(table):
    features = table[0]
    found = class_sums(HardCode(torch.zeros(40, dtype=torch.int64), 3), features)
    assert bool((found[1:] == 0).all())
