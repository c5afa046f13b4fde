"""The embedded code: derivatives, concavity, stationarity, ceilings, invariance, and where no code exists."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixcoder.ops.embedding import (
    DistanceKernel,
    EmbeddingKernel,
    SphereKernel,
    code_exists,
    encode_embedded,
    encode_exact,
    hull_vertices,
)

F64 = torch.float64
PLAIN = EmbeddingKernel()
KERNELS = {
    "plain": PLAIN,
    "narrow": EmbeddingKernel(beta=2.5),
    "constant": EmbeddingKernel(absorber=0.7),
    "third": EmbeddingKernel(absorber=1.0, alpha=1.0, beta=1.0),
    "falling": EmbeddingKernel(absorber=0.3, alpha=-0.4, beta=0.8),
    "prior": EmbeddingKernel(prior=0.2),
    "both": EmbeddingKernel(absorber=2.0, alpha=0.5, beta=1.5, prior=0.1),
}
CONFINING = {name: kernel for name, kernel in KERNELS.items() if kernel.confines}
each = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
confining = pytest.mark.parametrize("kernel", CONFINING.values(), ids=CONFINING)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def simplex(n: int, k: int, seed: int) -> Tensor:
    return (2 * normal(n, k, seed=seed)).softmax(1)


# The code


@each
def test_the_code_is_the_quotient_of_its_definition(kernel):
    v, w = normal(30, 2, seed=1), normal(5, 2, seed=2)
    near = torch.exp(-kernel.beta * torch.cdist(v, w).square())
    far = kernel.absorber * torch.exp(kernel.alpha * v.square().sum(1))
    total = far + near.sum(1)
    log_q, log_q_0 = kernel.log_code(v, w)
    torch.testing.assert_close(log_q.exp(), near / total[:, None], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(log_q_0.exp(), far / total, rtol=1e-12, atol=1e-15)


@each
def test_shares_of_components_and_absorber_sum_to_one_anywhere(kernel):
    v, w = 1e4 * normal(30, 3, seed=3), normal(5, 3, seed=4)
    log_q, log_q_0 = kernel.log_code(v, w)
    assert not bool(log_q.isnan().any())
    torch.testing.assert_close(log_q.exp().sum(1) + log_q_0.exp(), torch.ones(30, dtype=F64))


def test_a_prior_outside_keeps_the_sum_of_the_code_at_one():
    v, w = normal(30, 2, seed=5), normal(4, 2, seed=6)
    log_q, log_q_0 = EmbeddingKernel(prior=3.0).log_code(v, w)
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(30, dtype=F64), rtol=1e-14, atol=0)
    assert bool((log_q_0 == -math.inf).all())


def test_anchors_far_from_the_origin_keep_their_digits():
    v, w, far = normal(30, 2, seed=7), normal(4, 2, seed=8), torch.tensor([2.0**30, -(2.0**29)], dtype=F64)
    # The shift itself rounds to 2^-23.
    v, w = (v * 2**20).round() / 2**20, (w * 2**20).round() / 2**20
    torch.testing.assert_close(
        PLAIN.log_code(v + far, w + far)[0], PLAIN.log_code(v, w)[0], rtol=0, atol=1e-5
    )


# Derivatives


def differences(function, at: Tensor, step: float = 1e-5) -> Tensor:
    slopes = torch.zeros_like(at)
    for place in range(at.numel()):
        moved = torch.zeros_like(at).view(-1)
        moved[place] = step
        moved = moved.view_as(at)
        slopes.view(-1)[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return slopes


@each
def test_gradients_of_the_exact_objective_are_those_of_autograd_and_of_differences(kernel):
    v, w, h = normal(6, 2, seed=9), normal(4, 2, seed=10), 3 * normal(6, 4, seed=11)
    r = kernel.responsibilities(v, w, h)
    by_formula = kernel.gradient(v, w, r), kernel.anchor_gradient(v, w, r)
    v.requires_grad_()
    w.requires_grad_()
    by_autograd = torch.autograd.grad(kernel.objective(v, w, h).sum(), (v, w))
    v, w = v.detach(), w.detach()
    by_differences = (
        differences(lambda at: kernel.objective(at, w, h).sum(), v),
        differences(lambda at: kernel.objective(v, at, h).sum(), w),
    )
    for formula, autograd, difference in zip(by_formula, by_autograd, by_differences, strict=True):
        torch.testing.assert_close(formula, autograd, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(formula, difference, rtol=1e-7, atol=1e-8)


@each
def test_gradients_of_the_surrogate_are_those_of_autograd(kernel):
    v, w, a = (
        normal(6, 3, seed=12).requires_grad_(),
        normal(5, 3, seed=13).requires_grad_(),
        simplex(6, 5, 14),
    )
    by_autograd = torch.autograd.grad(kernel.surrogate(v, w, a).sum(), (v, w))
    torch.testing.assert_close(kernel.gradient(v, w, a), by_autograd[0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(kernel.anchor_gradient(v, w, a), by_autograd[1], rtol=1e-11, atol=1e-12)


@each
def test_the_curvature_is_minus_the_hessian_of_the_surrogate(kernel):
    v, w, a = normal(5, 2, seed=15), normal(4, 2, seed=16), simplex(5, 4, 17)
    curvature = kernel.expand(v, w, a @ w).curvature
    for n in range(5):
        hessian = torch.autograd.functional.hessian(
            lambda at, n=n: kernel.surrogate(at[None], w, a[n : n + 1]).sum(), v[n]
        )
        torch.testing.assert_close(curvature[n], -hessian, rtol=1e-10, atol=1e-11)


# The surrogate


@each
def test_the_surrogate_is_concave_along_every_chord(kernel):
    n = 4000
    w, a = 2 * normal(5, 2, seed=18), simplex(n, 5, 19)
    one, two = 3 * normal(n, 2, seed=20), 3 * normal(n, 2, seed=21)
    share = torch.rand(n, 1, generator=torch.Generator().manual_seed(22), dtype=F64)
    between = kernel.surrogate(share * one + (1 - share) * two, w, a)
    ends = share[:, 0] * kernel.surrogate(one, w, a) + (1 - share[:, 0]) * kernel.surrogate(two, w, a)
    assert bool((between >= ends - 1e-10 * (1 + ends.abs())).all())


@each
def test_the_surrogate_touches_the_exact_objective_from_below(kernel):
    v, w, h = normal(200, 2, seed=23), normal(4, 2, seed=24), 2 * normal(200, 4, seed=25)
    exact = kernel.objective(v, w, h)
    r = kernel.responsibilities(v, w, h)
    torch.testing.assert_close(kernel.surrogate(v, w, r) + (r * (h - r.log())).sum(1), exact)
    for seed in (26, 27, 28):
        a = simplex(200, 4, seed)
        assert bool((kernel.surrogate(v, w, a) + (a * (h - a.log())).sum(1) <= exact + 1e-12).all())


# Codes for fixed targets


@confining
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("hard", [False, True])
def test_newton_reaches_the_maximum_from_anywhere_in_few_steps(kernel, spread, hard):
    w, a = spread * normal(6, 2, seed=29), simplex(100, 6, 30)
    if hard:
        a = torch.eye(6, dtype=F64)[a.argmax(1)]
    found = encode_embedded(a, w, kernel)
    assert float(found.gradient_norm.max()) <= max(1e-10, 1e-12 * spread)
    assert bool(found.exists.all())
    assert float(found.n_steps.double().median()) <= (8 if spread < 10 else 12)
    # How far a short gradient pins the code down is for the curvature to say.
    least = torch.linalg.eigvalsh(kernel.expand(found.codes, w, a @ w).curvature)[:, 0]
    pinned = least > 1e-4
    assert bool(pinned.all()) or kernel.alpha < 0
    for seed in (31, 32):
        other = encode_embedded(a, w, kernel, start=5 * spread * normal(100, 2, seed=seed))
        torch.testing.assert_close(other.value, found.value, rtol=1e-12, atol=1e-8)  # gradient times distance
        torch.testing.assert_close(other.codes[pinned], found.codes[pinned], rtol=1e-6, atol=1e-5)


@confining
def test_at_the_maximum_the_code_is_the_fixed_point_of_the_note(kernel):
    """v = beta sum (A - q) w / ((alpha + beta) q_0 + rho), and q_0 = sum (A - q)."""
    w, a = normal(5, 2, seed=33), simplex(50, 5, 34)
    v = encode_embedded(a, w, kernel).codes
    log_q, log_q_0 = kernel.log_code(v, w)
    q, q_0 = log_q.exp(), log_q_0.exp()
    bend = (kernel.alpha + kernel.beta) * q_0 + kernel.prior
    torch.testing.assert_close(kernel.beta * (a - q) @ w / bend[:, None], v, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close((a - q).sum(1), q_0, rtol=1e-8, atol=1e-14)


def test_for_a_constant_absorber_the_formula_of_the_note_is_right_and_for_the_growing_one_twice_too_large():
    w, a = normal(5, 2, seed=35), simplex(50, 5, 36)
    for alpha, factor in ((0.0, 1.0), (1.0, 2.0)):
        kernel = EmbeddingKernel(absorber=1.0, alpha=alpha)
        v = encode_embedded(a, w, kernel).codes
        pull = a - kernel.log_code(v, w)[0].exp()
        torch.testing.assert_close(pull @ w / pull.sum(1, keepdim=True), factor * v, rtol=1e-7, atol=1e-8)


def test_a_plain_code_in_enough_axes_copies_its_targets():
    w, a = 2 * normal(5, 4, seed=37), simplex(50, 5, 38)
    found = encode_embedded(a, w, PLAIN)
    assert bool(found.exists.all())
    torch.testing.assert_close(PLAIN.log_code(found.codes, w)[0].exp(), a, rtol=1e-7, atol=1e-9)
    few = encode_embedded(a, w[:, :2], PLAIN)  # with two axes it copies their moments only
    q = PLAIN.log_code(few.codes, w[:, :2])[0].exp()
    torch.testing.assert_close(q @ w[:, :2], a @ w[:, :2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "v", "q"), [(0, -1, 0.135290, 0.431415), (1, -1, 0.563233, 0.361396)]
)
def test_the_worked_examples(first, second, v, q):
    w = torch.tensor([[first], [second]], dtype=F64)
    hot = torch.tensor([[1.0, 0.0]], dtype=F64)
    kernel = KERNELS["third"]
    for found in (encode_embedded(hot, w, kernel), encode_exact(hot.log(), w, kernel)):
        assert found.codes.item() == pytest.approx(v, abs=1e-6)
        assert kernel.log_code(found.codes, w)[0][0, 0].exp().item() == pytest.approx(q, abs=1e-6)
    if first == 0:
        at = found.codes.item()
        assert 2 * at * math.exp(2 * at**2 + 2 * at + 1) == pytest.approx(1, abs=1e-9)
    grid = torch.linspace(-3, 3, 6001, dtype=F64)[:, None]
    share = kernel.log_code(grid, w)[0][:, 0]
    assert grid[share.argmax(), 0].item() == pytest.approx(v, abs=1e-3)


@pytest.mark.parametrize("mass", [0.01, 1.0, 5.0])
def test_the_absorber_puts_a_ceiling_on_every_share(mass):
    w = 1.5 * normal(6, 2, seed=39)
    hot = torch.eye(6, dtype=F64)
    for alpha, ceiling in (
        (0.0, torch.full((6,), 1 / (1 + mass), dtype=F64)),
        (1.0, 1 / (1 + mass * torch.exp(w.square().sum(1) / 2))),
    ):
        kernel = EmbeddingKernel(absorber=mass, alpha=alpha)
        v = encode_embedded(hot, w, kernel).codes
        assert bool((kernel.log_code(v, w)[0].diagonal().exp() <= ceiling + 1e-14).all())
        everywhere = 2 * normal(5000, 2, seed=40)
        assert bool((kernel.log_code(everywhere, w)[0].exp() <= ceiling + 1e-14).all())
        # A component alone reaches it: nothing else takes a share.
        for k in range(6):
            alone = encode_embedded(torch.ones(1, 1, dtype=F64), w[k : k + 1], kernel).codes
            q = kernel.log_code(alone, w[k : k + 1])[0].exp().item()
            assert q == pytest.approx(ceiling[k].item(), rel=1e-9)


@each
def test_turning_the_anchors_turns_the_codes(kernel):
    w, a = normal(6, 3, seed=41), simplex(40, 6, 42)
    turn, _ = torch.linalg.qr(normal(3, 3, seed=43))
    here, there = encode_embedded(a, w, kernel), encode_embedded(a, w @ turn, kernel)
    torch.testing.assert_close(there.codes, here.codes @ turn, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(there.value, here.value, rtol=1e-10, atol=1e-11)


def test_a_plain_code_moves_with_its_anchors_and_an_absorbed_one_does_not():
    w, a, shift = normal(6, 2, seed=44), simplex(40, 6, 45), torch.tensor([1.0, -2.0], dtype=F64)
    plain = encode_embedded(a, w, PLAIN).codes
    torch.testing.assert_close(
        encode_embedded(a, w + shift, PLAIN).codes, plain + shift, rtol=1e-7, atol=1e-8
    )
    kernel = KERNELS["third"]
    moved = encode_embedded(a, w + shift, kernel).codes - encode_embedded(a, w, kernel).codes
    assert float((moved - shift).abs().min()) > 0.1


def test_blocks_of_rows_change_nothing(monkeypatch):
    from mixcoder.ops.embedding import encode

    w, a, kernel = normal(5, 2, seed=46), simplex(101, 5, 47), KERNELS["both"]
    whole, exact = encode_embedded(a, w, kernel), encode_exact(a.log(), w, kernel)
    monkeypatch.setattr(encode, "_BLOCK_NUMBERS", 130)
    torch.testing.assert_close(encode_embedded(a, w, kernel).codes, whole.codes, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(encode_exact(a.log(), w, kernel).codes, exact.codes, rtol=1e-8, atol=1e-9)


def test_no_rows_have_no_codes():
    none, w = torch.zeros(0, 3, dtype=F64), normal(3, 2, seed=48)
    for kernel in KERNELS.values():
        for found in (encode_embedded(none, w, kernel), encode_exact(none, w, kernel)):
            assert found.codes.shape == (0, 2)
            assert found.exists.shape == found.value.shape == found.n_steps.shape == (0,)


# The exact objective


@confining
def test_the_exact_objective_never_falls_and_ends_where_its_gradient_does(kernel):
    n = 60
    for seed in range(4):
        w, h = 1.5 * normal(5, 2, seed=100 + seed), 3 * normal(n, 5, seed=200 + seed)
        v = normal(n, 2, seed=300 + seed)
        start, last = v, kernel.objective(v, w, h)
        for _ in range(40):
            v = encode_embedded(kernel.responsibilities(v, w, h), w, kernel, start=v).codes
            value = kernel.objective(v, w, h)
            assert bool((value >= last - 1e-12 * (1 + last.abs())).all())
            last = value
        found = encode_exact(h, w, kernel, start=start)
        assert float(found.gradient_norm.max()) <= 1e-9
        torch.testing.assert_close(found.value, kernel.objective(found.codes, w, h))
        assert bool((found.value >= kernel.objective(start, w, h)).all())
        for budget in (1, 2, 5):
            early = encode_exact(h, w, kernel, start=start, max_iter=budget).value
            assert bool((early <= found.value + 1e-12 * (1 + early.abs())).all())


def test_a_row_that_nothing_explains_gets_a_finite_code():
    h = torch.full((2, 3), -math.inf, dtype=F64)
    found = encode_exact(h, normal(3, 2, seed=49), KERNELS["third"])
    assert bool(found.codes.isfinite().all())


# Where no code exists


def test_a_hard_target_at_a_vertex_of_the_hull_has_no_plain_code():
    w = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [1.0, 1.0], [2.0, 0.0]], dtype=F64)
    assert hull_vertices(w).tolist() == [True, True, True, False, False]
    found = encode_embedded(torch.eye(5, dtype=F64), w, PLAIN)
    assert found.exists.tolist() == [False, False, False, True, False]  # the last sits on an edge
    torch.testing.assert_close(found.codes[~found.exists], w[~found.exists])
    assert float(found.gradient_norm[3]) <= 1e-10
    assert bool(encode_embedded(torch.eye(5, dtype=F64), w, KERNELS["third"]).exists.all())


def test_without_a_code_the_objective_still_rises_at_infinity():
    w = torch.tensor([[0.0], [-1.0]], dtype=F64)
    hot, away = torch.tensor([[1.0, 0.0]], dtype=F64), torch.linspace(0, 6, 60, dtype=F64)[:, None]
    value = PLAIN.surrogate(away, w, hot.expand(60, 2))
    assert bool((value.diff() > 0).all())
    assert not bool(code_exists(hot, w))
    log_q, _ = EmbeddingKernel().log_code(
        torch.tensor([[0.3]], dtype=F64), torch.tensor([[1.0], [-1.0]], dtype=F64)
    )
    assert (log_q[0, 0] - log_q[0, 1]).item() == pytest.approx(4 * 0.3)  # the log-odds are the line 4 v


def test_existence_agrees_with_random_interior_and_boundary_moments():
    w = normal(7, 2, seed=50)
    assert bool(code_exists(simplex(50, 7, 51), w).all())
    corner = hull_vertices(w).nonzero()[:, 0]
    pairs = torch.zeros(len(corner) ** 2, 7, dtype=F64)
    for at, (one, two) in enumerate((i, j) for i in corner for j in corner):
        pairs[at, one] += 0.5
        pairs[at, two] += 0.5
    # A chord of the polygon is an edge iff all other anchors lie on one side of it.
    for row in pairs:
        ends = row.nonzero()[:, 0]
        if len(ends) == 2:
            a, b = w[ends]
            side = (w - a) @ torch.stack([-(b - a)[1], (b - a)[0]])
            edge = bool((side >= -1e-12).all()) or bool((side <= 1e-12).all())
            assert bool(code_exists(row[None], w)) is not edge


def test_the_exact_plain_code_is_reported_missing_where_its_best_component_sits_at_a_vertex():
    w = torch.tensor([[-1.0], [0.0], [0.5], [1.0]], dtype=F64)
    h = torch.tensor([[0.0, -5.0, -9.0, -9.0], [-9.0, 0.0, -9.0, -9.0], [-9.0, 0.0, -9.0, -0.1]], dtype=F64)
    found = encode_exact(h, w, EmbeddingKernel(beta=0.1))
    # The last: one inside is best by a hair, and the right end alone, at infinity, beats any mixture of it.
    assert found.exists.tolist() == [False, True, False]
    assert bool(found.codes.isfinite().all())


# What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"absorber": -1.0}, "absorber >= 0, but it is -1"),
        ({"beta": 0.0}, "beta > 0, but it is 0"),
        ({"alpha": -1.0}, "alpha \\+ beta > 0, but it is -1 \\+ 1.*choose alpha > -1"),
        ({"prior": -0.5}, "prior >= 0, but it is -0.5"),
        ({"absorber": math.inf}, "finite"),
        ({"beta": math.nan}, "finite"),
    ],
)
def test_a_kernel_that_is_none_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingKernel(**given)


def test_anchors_that_leave_the_code_undetermined_are_refused_without_an_absorber():
    a = simplex(3, 3, 52)
    for w in (normal(3, 3, seed=53), normal(1, 2, seed=54).expand(3, 2), torch.ones(3, 1, dtype=F64)):
        with pytest.raises(ValueError, match="span all"):
            encode_embedded(a, w, PLAIN)
        assert bool(encode_embedded(a, w, KERNELS["third"]).codes.isfinite().all())
        assert bool(encode_exact(a.log(), w, KERNELS["prior"]).codes.isfinite().all())


def test_targets_off_the_simplex_are_refused():
    w = normal(3, 2, seed=55)
    for row in ([0.5, 0.6, 0.0], [1.5, -0.5, 0.0], [math.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match="row 0"):
            encode_embedded(torch.tensor([row], dtype=F64), w, PLAIN)


def test_single_precision_ends_at_its_own_rounding():
    w, a = normal(5, 2, seed=56), simplex(40, 5, 57)
    found = encode_embedded(a.float(), w.float(), KERNELS["third"])
    assert found.codes.dtype == torch.float32
    torch.testing.assert_close(
        found.codes.double(), encode_embedded(a, w, KERNELS["third"]).codes, rtol=1e-4, atol=1e-4
    )


# Anchors


@confining
@pytest.mark.parametrize("weighted", [False, True])
def test_the_curvature_in_the_anchors_is_that_of_codes_that_follow_them(kernel, weighted):
    n, k, e = 25, 4, 2
    w, a = normal(k, e, seed=58), simplex(n, k, 59)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(60), dtype=F64) if weighted else None

    def slope(at: Tensor) -> Tensor:
        codes = encode_embedded(a, at, kernel, tol=1e-13).codes
        return kernel.anchor_gradient(codes, at, a, weights).flatten()

    step = 1e-5
    by_differences = torch.stack(
        [
            (slope(w - move) - slope(w + move)) / (2 * step)
            for move in step * torch.eye(k * e, dtype=F64).view(-1, k, e)
        ]
    )
    codes = encode_embedded(a, w, kernel, tol=1e-13).codes
    formula = kernel.anchor_curvature(codes, w, a, weights)
    torch.testing.assert_close(formula, by_differences, rtol=1e-6, atol=1e-6)
    if not weighted:
        ones = torch.ones(n, dtype=F64)
        torch.testing.assert_close(kernel.anchor_curvature(codes, w, a, ones), formula)
        torch.testing.assert_close(
            kernel.anchor_gradient(codes, w, a, ones), kernel.anchor_gradient(codes, w, a)
        )


@pytest.mark.parametrize("kernel", [*KERNELS.values(), DistanceKernel(prior=0.1), SphereKernel()])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_log_likelihood_that_is_no_number_is_refused_and_an_impossible_component_is_not(kernel, value):
    h, w = normal(6, 3, seed=80), normal(3, 2, seed=81)
    h[0, 1] = h[5] = -math.inf
    assert bool(encode_exact(h, w, kernel).codes.isfinite().all())
    h[4, 2] = value
    with pytest.raises(ValueError, match=f"below infinity, but row 4 contains {value}"):
        encode_exact(h, w, kernel)
