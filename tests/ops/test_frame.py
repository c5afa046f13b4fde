"""A change of units loses nothing: round trips, powers of two, rows of another precision than the fit's."""

from __future__ import annotations

import math

import pytest
import torch

from mixcoder.ops.frame import Frame

F64 = torch.float64


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F64)


def around(x: torch.Tensor, common_scale: bool = False) -> Frame:
    return Frame.around(x.mean(0), x.std(0, correction=0), common_scale=common_scale)


@pytest.mark.parametrize("common_scale", [False, True])
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e5, 1e200])
def test_rows_come_back_and_have_a_spread_near_one_on_the_way(scale, common_scale):
    x = scale * (normal(200, 3) * torch.tensor([1.0, 3.0, 0.2], dtype=F64) + 5)
    frame = Frame.around(x.mean(0), (x / scale).std(0, correction=0) * scale, common_scale=common_scale)
    z = frame.apply(x)
    torch.testing.assert_close(frame.undo(z) / scale, x / scale, rtol=1e-14, atol=1e-14)
    spread = z.std(0) if not common_scale else z.square().mean().sqrt()
    assert bool(((spread > 0.3) & (spread < 2.1)).all())


def test_scales_are_powers_of_two():
    for common_scale in (False, True):
        scale = around(normal(100, 4) * torch.tensor([1e-8, 0.3, 1.0, 1e9], dtype=F64), common_scale).scale
        assert bool((torch.frexp(scale).mantissa == 0.5).all())
        assert len(scale.unique()) == (1 if common_scale else 4)


@pytest.mark.parametrize("p", [-300, -100, 100, 300])
def test_a_power_of_two_in_the_units_changes_no_bit_of_the_working_rows(p):
    x = normal(100, 3) + 2
    y = torch.ldexp(x, torch.tensor(p))
    mean, std = (torch.ldexp(value, torch.tensor(p)) for value in (x.mean(0), x.std(0, correction=0)))
    one, two = around(x), Frame.around(mean, std, common_scale=False)
    assert bool((one.apply(x) == two.apply(y)).all())
    assert two.log_scale == pytest.approx(one.log_scale - 3 * p * math.log(2))
    assert bool((torch.ldexp(one.undo(one.apply(x)), torch.tensor(p)) == two.undo(two.apply(y))).all())


def test_the_density_gains_the_log_of_the_scale():
    x = 7 * normal(50, 2) + 100
    frame = around(x)
    here = torch.distributions.Normal(x.mean(0), x.std(0)).log_prob(x).sum(1)
    z_mean, z_std = frame.apply(x.mean(0)[None])[0], x.std(0) * frame.scale
    there = torch.distributions.Normal(z_mean, z_std).log_prob(frame.apply(x)).sum(1)
    torch.testing.assert_close(there + frame.log_scale, here, rtol=1e-12, atol=1e-12)


def test_one_sweep_has_the_bits_of_two():
    x = normal(1000, 3) * torch.tensor([1.0, 1e-3, 1e6], dtype=F64) + torch.tensor(
        [0.0, 50.0, 1e6], dtype=F64
    )
    for dtype in (torch.float64, torch.float32):
        rows = x.to(dtype)
        frame = around(x).rounded(dtype)
        expected = (rows - frame.shift.to(dtype)) * frame.scale.to(dtype)
        assert bool((frame.apply(rows) == expected).all())
        out = torch.empty(3, 1000, dtype=dtype).T
        assert frame.apply(rows, out=out) is out
        assert bool((out == expected).all())


def test_float32_rows_are_widened_before_the_difference_is_taken():
    x = (normal(500, 2) * 3).float()
    frame = Frame(torch.tensor([1e-3, 2.0], dtype=F64), torch.tensor([0.25, 0.5], dtype=F64)).rounded(
        torch.float32
    )
    exact = (x.double() - frame.shift) * frame.scale
    assert bool((frame.apply(x, out=torch.empty(500, 2, dtype=F64)) == exact).all())
    assert bool((frame.apply(x, dtype=F64) == exact).all())


@pytest.mark.parametrize("offset", [0.0, 50.0, 1e4])
def test_float32_rows_in_a_frame_that_float64_rows_made(offset):
    """The shift is no number of float32; what rounding it would lose is hundredths of a standard deviation."""
    x = 1e-3 * normal(500, 2) + offset + 1.3e-6
    frame, rows = around(x), x.float()
    exact = (rows.double() - frame.shift) * frame.scale
    torch.testing.assert_close(frame.apply(rows).double(), exact, rtol=1e-6, atol=1e-6)


def test_whole_numbers_are_rows_too():
    frame = Frame(torch.tensor([1.5], dtype=F64), torch.tensor([2.0], dtype=F64))
    assert frame.apply(torch.tensor([[1], [2]]), dtype=F64).tolist() == [[-1.0], [1.0]]


def test_constant_and_missing_columns_have_a_frame():
    std = torch.tensor([0.0, 4.0], dtype=F64)
    frame = Frame.around(torch.tensor([1e300, 0.0], dtype=F64), std, common_scale=False)
    assert bool(frame.scale.isfinite().all())
    assert frame.apply(torch.tensor([[1e300, 4.0]], dtype=F64))[0, 0] == 0.0
    nothing = Frame.around(torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64), common_scale=True)
    assert bool(((nothing.scale > 0.4) & (nothing.scale < 2.1)).all())


def test_the_identity_knows_itself_and_columns_can_be_selected():
    assert Frame.identity(3).is_identity
    frame = around(normal(50, 3) + 4)
    assert not frame.is_identity
    x = normal(10, 3)
    for columns in (slice(1, 3), torch.tensor([2, 0])):
        assert bool((frame.select(columns).apply(x[:, columns]) == frame.apply(x)[:, columns]).all())
    assert frame.rounded(torch.float32).shift.dtype == F64
