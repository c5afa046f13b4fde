"""Codes that are points: gradient, bound, fixed point, anchors."""

import itertools
import math

import torch

from mixcoder.cli.claims.base import (
    CONSTANT,
    F64,
    FAILS,
    HOLDS,
    PLAIN,
    THIRD,
    WHEN,
    Claim,
    Finding,
    balls,
    normal,
    simplex,
)
from mixcoder.ops.embedding import EmbeddingKernel, encode_embedded, encode_exact

__all__ = ["CLAIMS"]


def derivative_of_softargmax(generator: torch.Generator) -> Finding:
    t, h, slope = normal(generator, 6), normal(generator, 6), normal(generator, 6)
    z = torch.tensor(0.3, dtype=F64, requires_grad=True)
    (by_autograd,) = torch.autograd.grad((t * (h + slope * z).softmax(0)).sum(), z)
    q = (h + slope * 0.3).softmax(0)
    error = abs(float((q * (t - (t * q).sum()) * slope).sum() - by_autograd))
    return Finding(
        "continuous code",
        "d/dz sum t q = sum q (t - sum t q) dh/dz",
        HOLDS,
        "",
        error,
        "difference from automatic differentiation",
        error < 1e-12,
    )


def gradient_of_the_code(generator: torch.Generator) -> Finding:
    error = 0.0
    for kernel in (PLAIN, CONSTANT, THIRD):
        v, w, h = normal(generator, 50, 2), normal(generator, 5, 2), 2 * normal(generator, 50, 5)
        exact = kernel.gradient(v, w, kernel.responsibilities(v, w, h))
        for axis in torch.eye(2, dtype=F64):
            ahead, behind = (kernel.objective(v + step * axis, w, h) for step in (1e-5, -1e-5))
            error = max(error, float(((ahead - behind) / 2e-5 - exact @ axis).abs().max()))
    return Finding(
        "continuous code",
        "dL/dv attracts to the anchors of components better than the mean",
        HOLDS,
        "2 beta sum (r - q) w - 2 (alpha + beta) q_0 v; without an absorber the terms in v cancel",
        error,
        "largest difference from finite differences",
        error < 1e-7,
    )


def bound_is_valid(generator: torch.Generator) -> Finding:
    v, w, h = normal(generator, 5000, 2), normal(generator, 4, 2), 2 * normal(generator, 5000, 4)
    a = h.softmax(1)
    bound = torch.logsumexp(h, 1) + PLAIN.surrogate(v, w, a)  # the note's, with A_k = p_k / sum p_j
    slack = PLAIN.objective(v, w, h) - bound
    even = PLAIN.objective(v[:1], w[:1].expand(4, 2), h[:1]) - (
        torch.logsumexp(h[:1], 1) + PLAIN.surrogate(v[:1], w[:1].expand(4, 2), a[:1])
    )
    return Finding(
        "EOL bound",
        "With A = p / sum p it bounds L from below",
        HOLDS,
        "but it is tight only where q is even; with A = r(v) it is tight at v",
        float(slack.min()),
        "least slack in 5000 random draws, in nats",
        float(slack.min()) >= 0 and abs(float(even)) < 1e-12,
    )


def bound_is_concave(generator: torch.Generator) -> Finding:
    broken = 0
    for kernel in (PLAIN, CONSTANT, THIRD, EmbeddingKernel(absorber=0.3, alpha=-0.4, beta=0.8)):
        n = 10_000
        w, a = 2 * normal(generator, 5, 2), simplex(generator, n, 5)
        one, two = 3 * normal(generator, n, 2), 3 * normal(generator, n, 2)
        share = torch.rand(n, 1, generator=generator, dtype=F64)
        between = kernel.surrogate(share * one + (1 - share) * two, w, a)
        ends = share[:, 0] * kernel.surrogate(one, w, a) + (1 - share[:, 0]) * kernel.surrogate(two, w, a)
        broken += int((between < ends - 1e-10 * (1 + ends.abs())).sum())
    return Finding(
        "EOL bound",
        "The logsumexp makes its maximum hard to find",
        FAILS,
        "the bound is concave in v, so every local maximum is global and Newton's method finds it",
        float(broken),
        "chords above the function, of 40 000",
        broken == 0,
    )


def bound_copies_its_targets(generator: torch.Generator) -> Finding:
    w, a = 2 * normal(generator, 4, 3), simplex(generator, 300, 4)
    found = encode_embedded(a, w, PLAIN)
    error = float((PLAIN.log_code(found.codes, w)[0].exp() - a).abs().max())
    return Finding(
        "EOL bound",
        "Maximising it encodes x as L would",
        FAILS,
        "it copies the posterior (q = A, exactly if e = k - 1), where L wants the best component alone",
        error,
        "largest difference of q from A",
        error < 1e-7 and bool(found.exists.all()),
    )


def denominator(generator: torch.Generator) -> Finding:
    v, w, a = normal(generator, 5000, 2), normal(generator, 5, 2), simplex(generator, 5000, 5)
    size = float((a - PLAIN.log_code(v, w)[0].exp()).sum(1).abs().max())
    return Finding(
        "fixed point",
        "v = sum (A - B) w / sum (A - B)",
        FAILS,
        "A and B both sum to one: it is 0 / 0",
        size,
        "largest denominator in 5000 random draws",
        size < 1e-14,
    )


def fixed_point_with_constant_absorber(generator: torch.Generator) -> Finding:
    _, error = _fixed_point(generator, CONSTANT, 1.0)
    return Finding(
        "fixed point",
        "The same formula, at the optimum",
        WHEN,
        "there is a constant absorber (alpha = 0): then the denominator is q_0",
        error,
        "largest difference from the optimum",
        error < 1e-7,
    )


def fixed_point_with_growing_absorber(generator: torch.Generator) -> Finding:
    ratio, error = _fixed_point(generator, THIRD, 2.0)
    return Finding(
        "fixed point",
        "The same formula, for attempt three",
        FAILS,
        "v is half of it: beta / (alpha + beta)",
        ratio,
        "formula over optimum",
        error < 1e-6,
    )


def raw_iteration(generator: torch.Generator) -> Finding:
    w, a = 2 * normal(generator, 5, 2), simplex(generator, 500, 5)
    v, falls, steps = torch.zeros(500, 2, dtype=F64), 0, 30
    for _ in range(steps):
        pull = a - CONSTANT.log_code(v, w)[0].exp()
        new = pull @ w / pull.sum(1, keepdim=True)
        new = torch.where(new.isfinite(), new.clamp(-1e6, 1e6), v)
        falls += int((CONSTANT.surrogate(new, w, a) < CONSTANT.surrogate(v, w, a) - 1e-9).sum())
        v = new
    return Finding(
        "fixed point",
        "Iterating the formula raises the bound (not proved)",
        FAILS,
        "even with an absorber, where it has a fixed point: q_0 in the denominator may be tiny",
        falls / (500 * steps),
        "share of steps that lower it",
        falls > 0,
    )


def monotone_iteration(generator: torch.Generator) -> Finding:
    falls, largest = 0, 0.0
    for model in range(20):
        kernel = (CONSTANT, THIRD, EmbeddingKernel(prior=0.2))[model % 3]
        w, h, v = normal(generator, 5, 2), 3 * normal(generator, 60, 5), normal(generator, 60, 2)
        last = kernel.objective(v, w, h)
        for _ in range(10):
            v = encode_embedded(kernel.responsibilities(v, w, h), w, kernel, start=v).codes
            value = kernel.objective(v, w, h)
            falls += int((value < last - 1e-12 * (1 + last.abs())).sum())
            last = value
        largest = max(largest, float(encode_exact(h, w, kernel, start=v).gradient_norm.max()))
    return Finding(
        "fixed point",
        "Some iteration may raise L itself",
        HOLDS,
        "r from v by Bayes, then v <- argmax of the bound with A = r: L never falls",
        float(falls),
        "falls in 12 000 steps",
        falls == 0 and largest < 1e-9,
    )


def anchor_gradient(generator: torch.Generator) -> Finding:
    v, w, h = normal(generator, 50, 2), normal(generator, 5, 2).requires_grad_(), normal(generator, 50, 5)
    (by_autograd,) = torch.autograd.grad(THIRD.objective(v, w, h).sum(), w)
    w = w.detach()
    error = float((THIRD.anchor_gradient(v, w, THIRD.responsibilities(v, w, h)) - by_autograd).abs().max())
    return Finding(
        "anchors",
        "w needs an iteration as v does",
        HOLDS,
        "along dL/dw = 2 beta sum (r - q)(v - w); it is not concave in w",
        error,
        "largest difference from automatic differentiation",
        error < 1e-11,
    )


def _fixed_point(generator: torch.Generator, kernel: EmbeddingKernel, factor: float) -> tuple[float, float]:
    """The note's formula at the optimum over the optimum, and how far it is from ``factor`` times it."""
    w, a = normal(generator, 5, 2), simplex(generator, 200, 5)
    v = encode_embedded(a, w, kernel).codes
    pull = a - kernel.log_code(v, w)[0].exp()
    formula = pull @ w / pull.sum(1, keepdim=True)
    return float((formula * v).sum() / v.square().sum()), float((formula - factor * v).abs().max())


def parameters_given_codes(generator: torch.Generator) -> Finding:
    x, a = 2 * normal(generator, 300, 2), 2 * normal(generator, 4, 2)
    v, w = normal(generator, 300, 1), normal(generator, 4, 1)
    trace: list[float] = []
    for _ in range(20):
        h = balls(x, a, 1.0)
        trace.append(float(PLAIN.objective(v, w, h).sum()))
        r = PLAIN.responsibilities(v, w, h)
        a = r.T @ x / r.sum(0)[:, None]
    rises = [after - before for before, after in itertools.pairwise(trace)]
    return Finding(
        "continuous code",
        "Given v and w, the M-step has a closed form",
        WHEN,
        "r = q p / sum q p is given, too; L itself needs r and m in turn, and never falls",
        rises[1],
        "what the second such turn adds to L, in nats",
        rises[1] > 1e-6 and min(rises) > -1e-9,
    )


def mean_without_the_log_sum(generator: torch.Generator) -> Finding:
    w, a = 2 * normal(generator, 5, 2), simplex(generator, 200, 5)
    v = (a @ w).requires_grad_()
    (slope,) = torch.autograd.grad(-(a * (v[:, None] - w).square().sum(2)).sum(), v)
    return Finding(
        "EOL bound",
        "Its last term alone is maximal at a mean of anchors",
        HOLDS,
        "v = sum A w",
        float(slope.abs().max()),
        "largest slope there",
        float(slope.abs().max()) < 1e-12,
    )


def log_sum_is_the_nearest(generator: torch.Generator) -> Finding:
    v, w = 3 * normal(generator, 5000, 2), 2 * normal(generator, 5, 2)
    squares = torch.cdist(v, w, compute_mode="donot_use_mm_for_euclid_dist").square()
    less = squares.amin(1) + torch.logsumexp(-squares, 1)
    return Finding(
        "EOL bound",
        "The logsumexp wants the nearest anchor to be far",
        HOLDS,
        "-logsumexp(-|v - w|^2) is the least square distance, less log k at most (1.609 for 5 anchors)",
        float(less.max()),
        "largest difference from the least square distance",
        float(less.min()) >= -1e-12 and float(less.max()) <= math.log(5) + 1e-12,
    )


CLAIMS: tuple[Claim, ...] = (
    derivative_of_softargmax,
    parameters_given_codes,
    gradient_of_the_code,
    bound_is_valid,
    mean_without_the_log_sum,
    log_sum_is_the_nearest,
    bound_is_concave,
    bound_copies_its_targets,
    denominator,
    fixed_point_with_constant_absorber,
    fixed_point_with_growing_absorber,
    raw_iteration,
    monotone_iteration,
    anchor_gradient,
)
