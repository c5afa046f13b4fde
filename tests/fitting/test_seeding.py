"""Where a fit begins: distances that belong to the data, centres that are rows."""

from __future__ import annotations

import math

import pytest
import torch

from mixcoder.fitting.seeding import (
    assign_batch,
    draw_distinct,
    plus_plus_batch,
    tied_order,
    tied_ranks,
    whitening,
)
from mixcoder.fitting.start import best_first, hard_start

F64 = torch.float64


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(n: int = 100, d: int = 3) -> torch.Tensor:
    mixing = torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 3, 1]], dtype=F64)[:d, :d]
    return torch.randn(n, d, generator=random(), dtype=F64) @ mixing.T + 4


MAPS = {
    "rotation": torch.linalg.qr(torch.randn(3, 3, generator=random(1), dtype=F64))[0] * 7.0,
    "units": torch.diag(torch.tensor([1e-4, 30.0, 1e5], dtype=F64)),
    "affine": torch.randn(3, 3, generator=random(2), dtype=F64)
    @ torch.diag(torch.tensor([0.1, 1, 9.0], dtype=F64)),
}


@pytest.mark.parametrize("geometry", MAPS)
def test_each_geometry_forgets_the_maps_it_is_named_after(geometry):
    x, weights = table(), 0.1 + torch.rand(100, generator=random(3), dtype=F64)
    here = whitening(x, weights, geometry)
    there = whitening(x @ MAPS[geometry].T + 100, weights, geometry)
    torch.testing.assert_close(torch.cdist(there, there), torch.cdist(here, here), rtol=1e-6, atol=1e-6)
    size = (weights @ here.square()).sum() / weights.sum() / here.shape[1]
    assert float(size) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("geometry", MAPS)
def test_columns_that_say_nothing_are_left_out(geometry):
    x = table()
    weights = torch.ones(100, dtype=F64)
    view = whitening(torch.cat([x, torch.full((100, 1), 9.0, dtype=F64)], 1), weights, geometry)
    assert bool(view.isfinite().all())
    if geometry != "rotation":
        torch.testing.assert_close(
            torch.cdist(view, view), torch.cdist(*[whitening(x, weights, geometry)] * 2)
        )
    nothing = whitening(torch.ones(10, 2, dtype=F64), torch.ones(10, dtype=F64), geometry)
    assert bool(nothing.isfinite().all())


def test_copies_of_a_column_count_once_when_whitened():
    x, weights = table(), torch.ones(100, dtype=F64)
    view = whitening(torch.cat([x, x[:, :1] * 5 - 2], 1), weights, "affine")
    assert view.shape[1] == 3
    own = whitening(x, weights, "affine")
    torch.testing.assert_close(torch.cdist(view, view), torch.cdist(own, own), rtol=1e-5, atol=1e-5)


def test_the_nearest_centre_is_the_nearest():
    view, centres = table(), torch.randn(4, 6, 3, generator=random(4), dtype=F64) * 3 + 4
    expected = torch.cdist(view, centres).argmin(2)
    assert bool((assign_batch(view, centres) == expected).all())


def test_centres_are_rows_that_differ_as_long_as_rows_do():
    view = table()
    weights = torch.ones(100, dtype=F64)
    centres = plus_plus_batch(view, weights, 10, 7, random())
    assert centres.shape == (7, 10, 3)
    for start in centres:
        assert float(torch.cdist(start, view).amin(1).max()) < 1e-6
        assert len(start.unique(dim=0)) == 10
    few = view[:4].repeat(10, 1)
    again = plus_plus_batch(few, torch.ones(40, dtype=F64), 6, 3, random())
    assert all(len(start.unique(dim=0)) == 4 for start in again)


def test_rows_of_weight_zero_are_never_centres():
    view = table()
    weights = torch.zeros(100, dtype=F64)
    weights[40:50] = 1.0
    for start in plus_plus_batch(view, weights, 8, 20, random()):
        assert bool(
            ((torch.cdist(start, view).argmin(1) >= 40) & (torch.cdist(start, view).argmin(1) < 50)).all()
        )


def test_greedy_seeding_finds_a_cluster_each_almost_always():
    centres = torch.tensor([[0.0, 0], [50, 0], [0, 50], [50, 50], [100, 0]], dtype=F64)
    view = torch.cat([centre + torch.randn(40, 2, generator=random(5), dtype=F64) for centre in centres])
    starts = plus_plus_batch(view, torch.ones(200, dtype=F64), 5, 200, random())
    found = [len(torch.cdist(start, centres).argmin(1).unique()) for start in starts]
    assert sum(count == 5 for count in found) > 190


def test_ranks_tie_what_only_rounding_tells_apart():
    values = torch.tensor([3.0, 1.0, 3.0 + 1e-12, -2.0, 1.0], dtype=F64)
    assert tied_ranks(values).tolist() == [2, 1, 2, 0, 1]
    assert tied_ranks(torch.tensor([math.inf, 0.0, -math.inf], dtype=F64)).tolist() == [2, 1, 0]


def test_rows_are_drawn_in_proportion_to_their_weights_and_not_twice():
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0], dtype=F64)
    generator = random()
    firsts = torch.zeros(4)
    for _ in range(4000):
        drawn = draw_distinct(weights, 3, generator).tolist()
        assert sorted(drawn) == [0, 1, 3]
        firsts[drawn[0]] += 1
    assert (firsts / 4000).tolist() == pytest.approx([1 / 8, 2 / 8, 0, 5 / 8], abs=0.03)
    assert sorted(draw_distinct(torch.ones(3, dtype=F64), 5, generator).tolist())[::2] == [0, 1, 2]


@pytest.mark.parametrize("tied", [False, True])
def test_tied_order_is_the_stable_order_of_the_tied_ranks(tied):
    values = torch.randn(500, generator=torch.Generator().manual_seed(3), dtype=F64)
    if tied:
        values = (values * 4).round() / 4 * (1 + 1e-13 * torch.arange(500, dtype=F64))
    assert torch.equal(tied_order(values), torch.argsort(tied_ranks(values), stable=True))


def test_tied_order_takes_infinities_and_nothing():
    values = torch.tensor([math.inf, 0.0, -math.inf, math.nan], dtype=F64)
    assert torch.equal(tied_order(values), torch.argsort(tied_ranks(values), stable=True))
    assert tied_order(values[:1]).tolist() == [0]


def test_views_side_by_side_are_assigned_as_each_alone():
    views = torch.stack([table(), whitening(table(), torch.ones(100, dtype=F64), "affine")])
    weights = 0.1 + torch.rand(100, generator=random(3), dtype=F64)
    centres = plus_plus_batch(views, weights, 4, 3, random(5))
    for view, sets in zip(views, centres, strict=True):
        distances = torch.cdist(sets.flatten(0, 1), view).amin(1)
        torch.testing.assert_close(distances, torch.zeros(12, dtype=F64), rtol=0, atol=1e-6)  # all are rows
        assert torch.equal(assign_batch(view, sets), torch.cdist(view, sets).argmin(-1))
    for n_steps in (0, 3):
        together = hard_start(views, weights, centres, n_steps)
        alone = [hard_start(view, weights, sets, n_steps) for view, sets in zip(views, centres, strict=True)]
        assert torch.equal(together, torch.stack(alone))


def test_best_first_takes_what_only_rounding_tells_apart_in_order():
    assert best_first([-3.0, -1.0, -2.0, -1.0 + 1e-15, float("nan")]) == [1, 3, 2, 0, 4]
