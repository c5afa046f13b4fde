"""The first look at the rows: exact at any offset and any scale."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mixcoder.fitting.scan import scan, scan_range
from mixcoder.ops.frame import Frame
from mixcoder.sources import TensorSource

F64 = torch.float64


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def exact(x: torch.Tensor, weights: torch.Tensor | None = None) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each column in rational arithmetic."""
    means, stds = [], []
    w = [Fraction(1)] * len(x) if weights is None else [Fraction(value) for value in weights.tolist()]
    for column in x.T.tolist():
        values = [Fraction(value) for value in column]
        mean = sum(a * b for a, b in zip(w, values, strict=True)) / sum(w)
        variance = sum(a * (b - mean) ** 2 for a, b in zip(w, values, strict=True)) / sum(w)
        means.append(float(mean))
        # The square root of a fraction that may be no float: of its scaled double.
        shift = 2 * ((variance.numerator.bit_length() - variance.denominator.bit_length()) // 2)
        scaled = variance / Fraction(2) ** shift
        stds.append(math.ldexp(math.sqrt(float(scaled)), shift // 2))
    return means, stds


def seen(x: torch.Tensor, weights: torch.Tensor | None = None):
    source = TensorSource(x, weights)
    return scan(source, scan_range(source))


@pytest.mark.parametrize("offset", [0.0, 1e8, -1e8, 1e12])
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e10, 1e150, 1e200])
def test_mean_and_spread_are_exact_at_any_offset_and_scale(offset, scale):
    x = scale * (normal(300, 2) + offset)
    means, stds = exact(x)
    found = seen(x)
    assert found.mean.tolist() == pytest.approx(means, rel=1e-14)
    assert found.std.tolist() == pytest.approx(stds, rel=1e-11)
    assert found.lowest.tolist() == x.amin(0).tolist()
    assert found.highest.tolist() == x.amax(0).tolist()


def test_columns_of_very_different_units_do_not_disturb_each_other():
    scales = torch.tensor([1e-200, 1.0, 1e200, 1e-8], dtype=F64)
    x = normal(200, 4) * scales + torch.tensor([0.0, 1e8, 1e205, 1.0], dtype=F64)
    means, stds = exact(x)
    found = seen(x)
    assert found.mean.tolist() == pytest.approx(means, rel=1e-13, abs=0)
    assert found.std.tolist() == pytest.approx(stds, rel=1e-9, abs=0)
    assert not bool(found.constant.any())


def test_row_weights_count_like_repetitions_at_any_offset():
    x = normal(100, 2) + 1e8
    times = torch.arange(100) % 4
    found, repeated = seen(x, times.double()), seen(x.repeat_interleave(times, 0))
    assert found.weight == repeated.weight == float(times.sum())
    torch.testing.assert_close(found.mean, repeated.mean, rtol=1e-15, atol=0)
    torch.testing.assert_close(found.std, repeated.std, rtol=1e-10, atol=0)
    means, stds = exact(x, times.double())
    assert found.mean.tolist() == pytest.approx(means, rel=1e-15)
    assert found.std.tolist() == pytest.approx(stds, rel=1e-10)


def test_a_constant_column_has_its_value_for_mean_and_no_spread():
    for value in (0.0, 0.1, 1e300, -1e-300, 1e8 + 0.1):
        found = seen(torch.full((1000, 1), value, dtype=F64))
        assert found.mean.item() == value
        assert found.std.item() == 0.0
        assert found.constant.tolist() == [True]


def test_many_blocks_are_one(monkeypatch):
    from mixcoder.fitting import scan as module

    x = normal(1000, 3) * 5 + 1e6
    whole = seen(x)
    monkeypatch.setattr(module, "_scan_rows", lambda source: 7)
    parts = seen(x)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-15, atol=0)
    torch.testing.assert_close(parts.std, whole.std, rtol=1e-12, atol=0)


def test_float32_rows_are_added_in_double_precision():
    x = (normal(100_000, 1) + 1000).float()
    means, stds = np.mean(x.numpy(), dtype=np.longdouble), np.std(x.numpy().astype(np.longdouble))
    found = seen(x)
    assert found.mean.item() == pytest.approx(float(means), rel=1e-14)
    assert found.std.item() == pytest.approx(float(stds), rel=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_range_knows_what_is_not_finite(bad):
    x = normal(50, 2)
    assert scan_range(TensorSource(x)).finite
    x[17, 1] = bad
    assert not scan_range(TensorSource(x)).finite


def test_working_coordinates_follow():
    x = normal(500, 2) * torch.tensor([3.0, 1e-5], dtype=F64) + 1e4
    found = seen(x)
    frame = Frame.around(found.mean, found.std, common_scale=False)
    z = frame.apply(x)
    torch.testing.assert_close(found.variances_in(frame), z.var(0, correction=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.magnitude_in(frame), z.square().mean(0).sqrt(), rtol=1e-9, atol=0)
