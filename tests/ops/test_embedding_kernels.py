"""Kernels that are not concave: derivatives, monotone climbs, optimality against a search, and what infinity offers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixcoder.ops.embedding import (
    DistanceKernel,
    EmbeddingKernel,
    SphereKernel,
    encode_embedded,
    encode_exact,
)

F64 = torch.float64
DISTANCE = {
    "plain": DistanceKernel(),
    "narrow": DistanceKernel(beta=3.0),
    "prior": DistanceKernel(prior=0.1),
    "constant": DistanceKernel(absorber=0.5),
    "growing": DistanceKernel(absorber=0.5, alpha=0.7, beta=2.0),
}
SPHERE = {
    "bare": SphereKernel(),
    "wide": SphereKernel(beta=0.3),
    "absorber": SphereKernel(absorber=0.8, alpha=-0.5, beta=1.5),
}
KERNELS = DISTANCE | {f"sphere {name}": kernel for name, kernel in SPHERE.items()}
each = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
distance = pytest.mark.parametrize("kernel", DISTANCE.values(), ids=DISTANCE)
sphere = pytest.mark.parametrize("kernel", SPHERE.values(), ids=SPHERE)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def simplex(n: int, k: int, seed: int) -> Tensor:
    return (2 * normal(n, k, seed=seed)).softmax(1)


def places(kernel, n: int, e: int, seed: int) -> Tensor:
    v = normal(n, e, seed=seed)
    return v / v.norm(dim=1, keepdim=True) if isinstance(kernel, SphereKernel) else v


def along(kernel, v: Tensor, slope: Tensor) -> Tensor:
    """The part of a gradient in space that counts: all of it, or that along the sphere."""
    return slope - (slope * v).sum(1, keepdim=True) * v if isinstance(kernel, SphereKernel) else slope


def differences(function, at: Tensor, step: float = 1e-6) -> Tensor:
    slopes = torch.zeros_like(at)
    for i in range(at.numel()):
        moved = torch.zeros_like(at)
        moved.view(-1)[i] = step
        slopes.view(-1)[i] = (function(at + moved) - function(at - moved)) / (2 * step)
    return slopes


@each
def test_the_code_is_the_quotient_of_its_definition(kernel):
    v, w = places(kernel, 30, 2, 1), normal(5, 2, seed=2)
    power = 1 if isinstance(kernel, DistanceKernel) else 2
    near = torch.exp(-kernel.beta * (v[:, None] - w).norm(dim=2) ** power)
    far = kernel.absorber * torch.exp(kernel.alpha * v.square().sum(1))
    total = far + near.sum(1)
    log_q, log_q_0 = kernel.log_code(v, w)
    torch.testing.assert_close(log_q.exp(), near / total[:, None], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(log_q_0.exp(), far / total, rtol=1e-12, atol=1e-15)


@each
def test_gradients_are_those_of_autograd_and_of_differences(kernel):
    v, w, h = places(kernel, 6, 2, 3), normal(4, 2, seed=4), 3 * normal(6, 4, seed=5)
    a, r = simplex(6, 4, 6), kernel.responsibilities(v, w, h)
    for targets, function in (
        (a, lambda v, w: kernel.surrogate(v, w, a).sum()),
        (r, lambda v, w: kernel.objective(v, w, h).sum()),
    ):
        formulas = kernel.gradient(v, w, targets), kernel.anchor_gradient(v, w, targets)
        leaves = v.clone().requires_grad_(), w.clone().requires_grad_()
        by_v, by_w = torch.autograd.grad(function(*leaves), leaves)
        torch.testing.assert_close(formulas[0], along(kernel, v, by_v), rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(formulas[1], by_w, rtol=1e-10, atol=1e-11)
        slopes = (
            differences(lambda at, f=function: f(at, w), v),
            differences(lambda at, f=function: f(v, at), w),
        )
        torch.testing.assert_close(formulas[0], along(kernel, v, slopes[0]), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(formulas[1], slopes[1], rtol=1e-6, atol=1e-7)


@each
def test_climbs_never_fall_and_end_where_the_gradient_does(kernel):
    n = 30
    w, h, v = 1.5 * normal(5, 2, seed=7), 3 * normal(n, 5, seed=8), places(kernel, n, 2, 9)
    a = h.softmax(1)
    for encode, given, value in (
        (encode_embedded, a, kernel.surrogate(v, w, a)),
        (encode_exact, h, kernel.objective(v, w, h)),
    ):
        last = value
        for budget in (1, 2, 3, 5, 100):
            found = encode(given, w, kernel, start=v, max_iter=budget)
            assert bool((found.value >= last - 1e-12 * (1 + last.abs())).all())
            last = found.value
        assert float(found.gradient_norm[found.exists].max()) <= 1e-9
        assert bool(found.codes.isfinite().all())


@distance
def test_by_distance_no_point_near_a_code_beats_it_and_few_points_anywhere(kernel):
    w, a = 1.5 * normal(4, 2, seed=10), simplex(100, 4, 20)
    found = encode_embedded(a, w, kernel)
    for seed, size in ((21, 1e-3), (22, 0.03)):
        near = found.codes + size * normal(100, 2, seed=seed)
        assert bool((kernel.surrogate(near, w, a) <= found.value + 1e-11)[found.exists].all())
    axis = torch.linspace(-5, 5, 101, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    best = (a @ kernel.log_code(grid, w)[0].T - kernel.prior * grid.square().sum(1)).amax(1)
    assert float((found.value >= best - 1e-9)[found.exists].double().mean()) > 0.9
    if kernel.confines:
        assert bool(found.exists.all())


@sphere
@pytest.mark.parametrize("seed", range(4))
def test_no_point_of_the_circle_beats_a_code_that_would_go_on_outwards(kernel, seed):
    w, a = 1.5 * normal(4, 2, seed=30 + seed), simplex(40, 4, 40 + seed)
    angle = torch.linspace(0, 2 * math.pi, 4001, dtype=F64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    best = (a @ kernel.log_code(circle, w)[0].T).amax(1)
    found = encode_embedded(a, w, kernel)
    torch.testing.assert_close(found.codes.norm(dim=1), torch.ones(40, dtype=F64))
    q = kernel.log_code(found.codes, w)[0].exp()
    share = 1 - q.sum(1)  # the absorber's, which in the ball would pull inwards
    outward = 2 * kernel.beta * ((a - q) @ w * found.codes).sum(1) - 2 * (kernel.alpha + kernel.beta) * share
    assert bool((outward > 0).any())
    assert bool((found.value >= best - 1e-9)[outward > 0].all())
    hard = encode_embedded(torch.eye(4, dtype=F64), w, kernel)
    assert bool(hard.exists.all())


@pytest.mark.parametrize("given", [[[1.0, 0.0]], [[0.3, 0.7]], [[0.0, 1.0]]])
def test_on_the_sphere_of_one_axis_the_better_of_two_points_is_found(given):
    a, w = torch.tensor(given, dtype=F64), torch.tensor([[2.0], [-0.5]], dtype=F64)
    ends = torch.tensor([[1.0], [-1.0]], dtype=F64)
    best = (a @ SphereKernel().log_code(ends, w)[0].T).amax(1)
    torch.testing.assert_close(encode_embedded(a, w, SphereKernel()).value, best)
    exact = encode_exact(a.log(), w, SphereKernel())
    torch.testing.assert_close(
        exact.value, torch.logsumexp(SphereKernel().log_code(ends, w)[0] + a.log(), 1).amax(0, keepdim=True)
    )


def test_a_sphere_far_from_small_anchors_orders_them_as_their_directions_do():
    w = 0.01 * torch.nn.functional.normalize(normal(6, 3, seed=50), dim=1)
    found = encode_embedded(torch.eye(6, dtype=F64), w, SphereKernel(beta=1e4))
    assert SphereKernel(beta=1e4).log_code(found.codes, w)[0].argmax(1).tolist() == list(range(6))


# Kinks and rays


def test_by_distance_a_hard_target_sits_on_its_anchor_and_nowhere_better():
    w = normal(7, 3, seed=51)
    found = encode_embedded(torch.eye(7, dtype=F64), w, DistanceKernel())
    torch.testing.assert_close(found.codes, w, rtol=0, atol=0)
    assert found.gradient_norm.tolist() == [0.0] * 7
    assert bool(found.exists.all())
    anywhere = DistanceKernel().log_code(5 * normal(4000, 3, seed=52), w)[0]
    assert bool((anywhere <= found.value).all())


def test_the_slope_away_from_an_anchor_is_the_steepest_of_all_directions():
    kernel = DistanceKernel(prior=0.05)
    w, a = normal(4, 2, seed=53), simplex(40, 4, 54)
    v = w[torch.arange(40) % 4]
    slope = kernel.gradient(v, w, a)
    angle = torch.linspace(0, 2 * math.pi, 721, dtype=F64)
    step, here = 1e-7, kernel.surrogate(v, w, a)
    steepest = torch.stack(
        [
            (kernel.surrogate(v + step * u, w, a) - here) / step
            for u in torch.stack([angle.cos(), angle.sin()], 1)
        ]
    ).amax(0)
    assert bool((slope.norm(dim=1) == 0).any())
    assert bool((slope.norm(dim=1) > 0).any())
    torch.testing.assert_close(slope.norm(dim=1), steepest.clamp_min(0), rtol=1e-3, atol=1e-5)


def test_log_odds_by_distance_are_bounded_and_equal_all_along_a_ray():
    w = torch.tensor([[0.0, 0.0], [-1.0, 0.0]], dtype=F64)
    kernel = DistanceKernel(beta=2.0)
    log_q, _ = kernel.log_code(10 * normal(2000, 2, seed=55), w)
    assert bool(((log_q[:, 0] - log_q[:, 1]).abs() <= 2 + 1e-12).all())
    ray = torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0]], dtype=F64)
    value = kernel.surrogate(ray, w, torch.tensor([[1.0, 0.0]], dtype=F64).expand(3, 2))
    torch.testing.assert_close(value, value[:1].expand(3), rtol=1e-12, atol=1e-12)


def test_by_distance_rows_that_do_better_at_infinity_are_reported():
    kernel, k = DistanceKernel(), 5
    w, a = normal(k, 2, seed=56), simplex(60, k, 57)
    found = encode_embedded(a, w, kernel)
    angle = torch.linspace(0, 2 * math.pi, 20001, dtype=F64)
    horizon = 1e6 * torch.stack([angle.cos(), angle.sin()], 1)
    beyond = (a @ kernel.log_code(horizon, w)[0].T).amax(1)
    assert bool((~found.exists).any())
    assert bool(found.exists.any())
    assert bool((beyond >= found.value - 1e-6)[~found.exists].all())
    assert bool((beyond <= found.value + 1e-6)[found.exists].all())
    assert bool(encode_embedded(a, w, DistanceKernel(prior=1e-3)).exists.all())


# Limits of use


@each
def test_anchors_that_coincide_and_rows_that_nothing_explains_stay_finite(kernel):
    w = torch.zeros(3, 2, dtype=F64)
    for found in (
        encode_embedded(torch.eye(3, dtype=F64), w, kernel),
        encode_exact(torch.full((2, 3), -math.inf, dtype=F64), w + 1, kernel),
        encode_embedded(torch.zeros(0, 3, dtype=F64), w, kernel),
    ):
        assert bool(found.codes.isfinite().all())
        assert not bool(found.value.isnan().any())


@each
def test_turning_the_anchors_turns_the_codes(kernel):
    w, a = normal(6, 3, seed=58), simplex(40, 6, 59)
    turn, _ = torch.linalg.qr(normal(3, 3, seed=60))
    here, there = encode_embedded(a, w, kernel), encode_embedded(a, w @ turn, kernel)
    both = here.exists & there.exists
    torch.testing.assert_close(there.value[both], here.value[both], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (SphereKernel, {"prior": 0.1}, "prior = 0 on the unit sphere"),
        (DistanceKernel, {"alpha": -0.1}, "alpha >= 0 with distances"),
        (DistanceKernel, {"absorber": -1.0}, "absorber >= 0"),
        (SphereKernel, {"beta": 0.0}, "beta > 0"),
        (DistanceKernel, {"prior": math.nan}, "finite"),
    ],
)
def test_a_kernel_that_is_none_is_refused(make, given, message):
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_near_its_maximum_the_unsquared_kernel_bounds_shares_that_the_squared_one_does_not():
    w = torch.tensor([[0.0], [-1.0]], dtype=F64)
    hot = torch.tensor([[1.0, 0.0]], dtype=F64)
    assert encode_embedded(hot, w, DistanceKernel()).value.exp().item() == pytest.approx(
        1 / (1 + math.exp(-1))
    )
    assert not bool(encode_embedded(hot, w, EmbeddingKernel()).exists)


@pytest.mark.parametrize("kernel", [EmbeddingKernel(prior=0.1), DistanceKernel(prior=0.1), SphereKernel()])
def test_anchors_are_placed_up_to_the_largest_distance_and_refused_beyond(kernel):
    unit = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=F64)
    unit = unit / unit.norm(dim=1).amax()
    targets = torch.full((4, 3), 1 / 3, dtype=F64)
    most = 1e4 if isinstance(kernel, EmbeddingKernel) else 1e8
    found = encode_embedded(targets, 0.99 * most * unit, kernel)
    assert bool(found.codes.isfinite().all())
    assert bool(found.value.isfinite().all())
    for size in (1.01 * most, 1e160, 1e300):
        for encode in (encode_embedded, encode_exact):
            with pytest.raises(ValueError, match="nats of each other"):
                encode(targets, size * unit, kernel)
    with pytest.raises(ValueError, match="nats of each other"):
        encode_embedded(targets.float(), 1e30 * unit.float(), kernel)
