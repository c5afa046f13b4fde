"""Steps of anchors: bounded, uphill, and the same whichever axes span a flat space."""

from __future__ import annotations

import pytest
import torch

from mixcoder.fitting.anchors import AnchorStep, AnchorSums, turns_of
from mixcoder.ops.embedding import EmbeddingKernel, encode_embedded

SLOPES = torch.tensor([0.2, -0.3, 0.1, 0.7, -0.4, 0.2], dtype=torch.float64)


def propose(curvature, slopes, radius, anchors=None):
    """At anchors that all coincide with the origin no turn moves anything."""
    anchors = torch.zeros(3, 2, dtype=torch.float64) if anchors is None else anchors
    stepper = AnchorStep(radius)
    step = stepper.propose(AnchorSums(slopes.view_as(anchors), curvature), anchors)
    return step.flatten(), stepper.promised


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("radius", [0.1, 1e6])
def test_a_turn_of_the_axes_of_a_flat_space_turns_the_step_with_it(seed, radius):
    """Nothing tells such axes apart but rounding, so that a bound of each alone would be one of rounding."""
    curvature = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    turn = torch.eye(6, dtype=torch.float64)
    turn[2:, 2:] = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    step, promised = propose(curvature, SLOPES, radius)
    turned, same = propose(turn @ curvature @ turn.T, turn @ SLOPES, radius)
    torch.testing.assert_close(turned, turn @ step)
    assert same == pytest.approx(promised)
    assert step[2:].norm() == pytest.approx(radius)
    torch.testing.assert_close(step[2:], radius * SLOPES[2:] / SLOPES[2:].norm())


def test_within_the_radius_a_step_is_newtons_along_every_axis_with_a_curvature():
    axes = torch.linalg.qr(torch.arange(36, dtype=torch.float64).view(6, 6).sin())[0]
    curvature = axes @ torch.diag(torch.tensor([9.0, 4.0, 2.0, 1.0, 0.5, 0.1]).double()) @ axes.T
    step, promised = propose(curvature, SLOPES, 1e6)
    torch.testing.assert_close(curvature @ step, SLOPES)
    assert promised == pytest.approx(float(SLOPES @ step) / 2)
    # A saddle is left, not approached, and a short radius bounds each axis.
    saddle, gain = propose(-curvature, SLOPES, 0.05)
    assert gain > 0
    assert float((axes.T @ saddle).abs().max()) == pytest.approx(0.05)


@pytest.mark.parametrize("size", [0.0, 1e-320, 1e-300])
def test_without_curvature_or_slope_a_step_is_finite(size):
    nothing = torch.zeros(6, 6, dtype=torch.float64)
    step, promised = propose(nothing, size * SLOPES, 1e9)
    assert torch.isfinite(step).all()
    assert promised >= 0


@pytest.mark.parametrize("e", [1, 2, 3, 4])
def test_turns_are_where_anchors_move_when_the_map_turns(e):
    generator = torch.Generator().manual_seed(e)
    anchors = torch.randn(5, e, generator=generator, dtype=torch.float64)
    turns = turns_of(anchors)
    assert len(turns) == e * (e - 1) // 2
    torch.testing.assert_close(turns @ turns.T, torch.eye(len(turns), dtype=torch.float64))
    skew = torch.randn(e, e, generator=generator, dtype=torch.float64)
    moved = (anchors @ (skew - skew.T)).flatten()
    torch.testing.assert_close(turns.T @ (turns @ moved), moved)
    # Anchors on one line are turned out of it alone, not around it.
    assert len(turns_of(anchors[:, :1] * torch.ones(1, e).double())) == e - 1


def test_no_step_turns_the_map():
    generator = torch.Generator().manual_seed(0)
    anchors, root = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 2), (6, 6)))
    step, promised = propose(root @ root.T, SLOPES, 1e6, anchors)
    torch.testing.assert_close(turns_of(anchors) @ step, torch.zeros(1, dtype=torch.float64))
    # Among the others it is the best one of the quadratic model.
    others = torch.linalg.svd(turns_of(anchors))[2][1:]
    torch.testing.assert_close(others @ (root @ root.T @ step), others @ SLOPES)
    assert promised == pytest.approx(float(SLOPES @ step) / 2)


@pytest.mark.parametrize("weighted_rows", [False, True])
def test_of_rows_that_come_several_times_each_some_tell_the_curvature_of_all(weighted_rows):
    """The gradient is that of all rows whatever the thinning; the curvature is exact for rows with their like."""
    stride = 3
    generator = torch.Generator().manual_seed(3)
    kernel = EmbeddingKernel(prior=0.01)
    anchors = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    targets = torch.rand(40, 5, generator=generator, dtype=torch.float64).log().softmax(1)
    targets = targets.repeat_interleave(stride, 0)
    weights = torch.rand(40, generator=generator, dtype=torch.float64).repeat_interleave(stride, 0)
    codes = encode_embedded(targets, anchors, kernel).codes
    given = (kernel, codes, anchors, targets, weights if weighted_rows else None)
    whole = AnchorSums.of(*given, slice(0, None, 1))
    some = AnchorSums.of(*given, slice(1, None, stride))
    assert torch.equal(whole.gradient, some.gradient)
    torch.testing.assert_close(whole.curvature, some.curvature, rtol=1e-10, atol=1e-10)
