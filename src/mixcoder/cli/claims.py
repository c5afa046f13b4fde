"""The claims of note CATSMILE-1013 on mixtures as generative autoencoders, each recomputed.

    claims()                        the claims, as functions of a torch.Generator
    claim(generator) -> Finding     its verdict, and the number on which it rests

A verdict is not looked up: a claim ``confirmed`` is one whose number, computed now, is what the verdict needs.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder.objectives import eol, free_energy, leop, leop_gap, loe, loe_gap
from mixcoder.ops.embedding import EmbeddingKernel, code_exists, encode_embedded, encode_exact

__all__ = ["HEADINGS", "VERDICTS", "Claim", "Finding", "claims"]

F64 = torch.float64
HOLDS, WHEN, FAILS = VERDICTS = ("holds", "holds when", "fails")

PLAIN = EmbeddingKernel()
CONSTANT = EmbeddingKernel(absorber=1.0)
THIRD = EmbeddingKernel(absorber=1.0, alpha=1.0, beta=1.0)

# The sections, in the order of the note, and what the note calls them.
HEADINGS = {
    "foreword": "前言",
    "generative autoencoder": "生成式自编码模型",
    "discrete code": "离散隐变量",
    "continuous code": "E-step for v 推导",
    "EOL bound": "EOL下界",
    "fixed point": "E-step for v 结论",
    "anchors": "E-step for w",
    "push-away": "问题在哪?",
    "attempt one": "尝试一",
    "attempt two": "尝试二",
    "attempt three": "尝试三及结论",
    "linear models": "混合的线性模型 (未完成)",
}


@dataclass(frozen=True)
class Finding:
    """What became of one claim.

    Attributes
    ----------
    section : str
        A key of :data:`HEADINGS`.
    claim : str
        What the note says or asks.
    verdict : str
        One of :data:`VERDICTS`.
    because : str
        The condition under which it holds, the counter-example, or nothing.
    number : float
        What was computed.
    meaning : str
        Of the number.
    confirmed : bool
        Whether the number is what the verdict needs.
    """

    section: str
    claim: str
    verdict: str
    because: str
    number: float
    meaning: str
    confirmed: bool


Claim = Callable[[torch.Generator], Finding]


def claims() -> list[Claim]:
    """Return every claim, in the order of the note."""
    return [
        low_temperature,
        eol_below_leop,
        eol_below_unscaled_loe,
        eol_below_scaled_loe,
        leop_against_loe,
        best_code_is_a_vertex,
        hard_alternation_rises,
        annealing_by_reparametrisation,
        annealing_by_entropy,
        coincident_components,
        splitting_temperature,
        multiplier_iteration,
        derivative_of_softargmax,
        gradient_of_the_code,
        bound_is_valid,
        bound_is_concave,
        bound_copies_its_targets,
        denominator,
        fixed_point_with_constant_absorber,
        fixed_point_with_growing_absorber,
        raw_iteration,
        monotone_iteration,
        anchor_gradient,
        plain_codes_run_away,
        log_odds_are_a_line,
        unsquared_distance,
        additive_term_cancels,
        prior_outside,
        absorber_confines,
        worked_example,
        pictured_example,
        ceiling_of_the_growing_absorber,
        ceiling_of_the_constant_absorber,
        compact_domain,
        latent_of_a_plane,
        unscaled_regression,
        shared_latent,
    ]


# ------------------------------------------------------------------------------------------ foreword, four objectives


def low_temperature(generator: torch.Generator) -> Finding:
    h = _normal(generator, 500, 4)
    best = torch.nn.functional.one_hot(h.argmax(1), 4).to(F64)
    cold = float((_tempered(h, 1e-4) - best).abs().mean())
    limit = float((_tempered(h, -1e12) - 0.25).abs().max())
    return Finding(
        "foreword",
        "MAP is the limit of temperature -> -infinity",
        FAILS,
        "it is T -> 0 from above; at T = -infinity all components weigh the same",
        limit,
        "largest distance of the code at T = -1e12 from an even one",
        cold < 1e-2 and limit < 1e-9,
    )


def eol_below_leop(generator: torch.Generator) -> Finding:
    h, u = 3 * _normal(generator, 5000, 4), _simplex(generator, 5000, 4)
    gap = leop(h, u) - eol(h, u)
    error = float((gap - leop_gap(h, u)).abs().max())
    return Finding(
        "generative autoencoder",
        "EOL <= LEOP",
        HOLDS,
        "the gap is KL(u || r), r_k = u_k p_k / EOP",
        error,
        "largest error of that gap, in nats",
        bool((gap >= 0).all()) and error < 1e-10,
    )


def eol_below_unscaled_loe(generator: torch.Generator) -> Finding:
    x, a = 2 * _normal(generator, 20_000, 1), 2 * _normal(generator, 20_000, 3)
    u = _masses(generator, 20_000, 3)
    normalised = (u * (-0.5 * (x - a).square() - 0.5 * math.log(2 * math.pi))).sum(1)
    above = float((normalised > -(x[:, 0] - (u * a).sum(1)).square()).double().mean())
    return Finding(
        "generative autoencoder",
        "EOL <= LOE = -(x - abar)^2",
        FAILS,
        "without the scale and the constant of the density it is no bound of N(a, 1)",
        above,
        "share of random draws that break it",
        0.40 < above < 0.50,
    )


def eol_below_scaled_loe(generator: torch.Generator) -> Finding:
    x, a, u = _normal(generator, 3000, 3), 2 * _normal(generator, 5, 3), _simplex(generator, 3000, 5)
    h = _balls(x, a, 0.7)
    gap = loe(x, a, u, 0.7) - eol(h, u)
    error = float((gap - loe_gap(a, u, 0.7)).abs().max())
    return Finding(
        "generative autoencoder",
        "EOL <= LOE",
        WHEN,
        "LOE = log N(x; abar, S) and every component is N(a_k, S); the gap is the spread of the a_k",
        error,
        "largest error of that gap, in nats",
        bool((gap >= 0).all()) and error < 1e-10,
    )


def leop_against_loe(generator: torch.Generator) -> Finding:
    x, a, u = _normal(generator, 3000, 2), 2 * _normal(generator, 3, 2), _simplex(generator, 3000, 3)
    above = float((loe(x, a, u, 1.0) > leop(_balls(x, a, 1.0), u)).double().mean())
    return Finding(
        "generative autoencoder",
        "EOL is the lower bound of both, LEOP and LOE",
        HOLDS,
        "of these two neither bounds the other",
        above,
        "share of random draws with LOE above LEOP",
        0.02 < above < 0.98,
    )


# ------------------------------------------------------------------------------------------------------- discrete codes


def best_code_is_a_vertex(generator: torch.Generator) -> Finding:
    h, u = 2 * _normal(generator, 20_000, 5), _simplex(generator, 20_000, 5)
    excess = float((leop(h, u) - h.amax(1)).max())
    return Finding(
        "discrete code",
        "c = argmax p(x|k) maximises L over codes",
        HOLDS,
        "L is linear inside the logarithm, so the maximum over the simplex is a vertex",
        excess,
        "most that any of 20 000 random codes gains on it, in nats",
        excess < 0,
    )


def hard_alternation_rises(generator: torch.Generator) -> Finding:
    drops, apart = 0, 0.0
    for _ in range(20):
        x = _normal(generator, 300, 2) * 2
        a = x[torch.randperm(300, generator=generator)[:6]]
        trace: list[float] = []
        for _ in range(30):
            h = _balls(x, a, 0.5)
            code = torch.nn.functional.one_hot(h.argmax(1), 6).to(F64)
            trace.append(float(leop(h, code).sum()))
            # With s2 = 1/2 the objective is minus the sum of squares of k-means, up to a constant.
            squares = float((x - code @ a).square().sum())
            apart = max(apart, abs(trace[-1] + squares + 300 * math.log(math.pi)))
            a = torch.where(code.sum(0)[:, None] > 0, code.T @ x / code.sum(0)[:, None].clamp_min(1), a)
        drops += sum(after < before - 1e-9 for before, after in itertools.pairwise(trace))
    return Finding(
        "discrete code",
        "Alternating c and m raises L always; k-means is the case N(a, s2 I)",
        HOLDS,
        "",
        float(drops),
        "falls in 600 steps",
        drops == 0 and apart < 1e-8,
    )


def annealing_by_reparametrisation(generator: torch.Generator) -> Finding:
    h = _normal(generator, 500, 4)
    hot = torch.nn.functional.one_hot(h.argmax(1), 4).to(F64)
    least = math.inf
    for beta in (0.1, 1.0, 10.0):
        rises = torch.stack([leop(h, (beta * t * hot).softmax(1)) for t in (0.1 / beta, 1 / beta, 10 / beta)])
        least = min(least, float(rises.diff(dim=0).min()))
    return Finding(
        "discrete code",
        "u = softargmax(beta a), beta growing, leads to a solution on delta",
        FAILS,
        "beta only rescales a: at every beta L rises to the vertex as |a| grows, and nothing is annealed",
        least,
        "least rise from |a| to 10 |a| at beta = 0.1, 1, 10, in nats",
        least > 0,
    )


def annealing_by_entropy(generator: torch.Generator) -> Finding:
    h, error, excess = 2 * _normal(generator, 2000, 4), 0.0, -math.inf
    for beta in (0.1, 1.0, 10.0):
        best = torch.logsumexp(beta * h, 1) / beta
        error = max(error, float((free_energy(h, (beta * h).softmax(1), beta) - best).abs().max()))
        excess = max(excess, float((free_energy(h, _simplex(generator, 2000, 4), beta) - best).max()))
    return Finding(
        "discrete code",
        "Raising beta moves the code smoothly to delta",
        WHEN,
        "the entropy H(u) / beta is added: then u = softargmax(beta log p) is the maximiser",
        error,
        "largest error of max F = (1 / beta) log sum p^beta, in nats",
        error < 1e-10 and excess <= 1e-12,
    )


def coincident_components(generator: torch.Generator) -> Finding:
    x = _grid(generator)
    together, spread = x.mean(0).expand(16, 2), 0.0
    for beta in (0.01, 0.1, 1.0, 10.0, 100.0):
        u = (beta * _balls(x, together, 1.0)).softmax(1)
        after = u.T @ x / u.sum(0)[:, None]
        spread = max(spread, float((after - after[0]).abs().max()))
    return Finding(
        "discrete code",
        "Raising beta parts the components by itself",
        FAILS,
        "those that coincide get the same update at every beta: they must be split, or rounding splits them anyhow",
        spread,
        "distance between 16 components after a step from one place, on a grid of 16 clusters",
        spread < 1e-12,
    )


def splitting_temperature(generator: torch.Generator) -> Finding:
    x = _normal(generator, 4000, 2) * torch.tensor([2.0, 1.0], dtype=F64)
    x = x - x.mean(0)
    values, axes = torch.linalg.eigh(x.T @ x / len(x))
    errors: list[float] = []
    for beta in (0.9 / float(values[1]), 1.1 / float(values[1])):
        a = 1e-4 * torch.stack([axes[:, 1], -axes[:, 1]])
        u = (beta * _balls(x, a, 1.0)).softmax(1)
        after = u.T @ x / u.sum(0)[:, None]
        errors.append(float((after[0] - after[1]).norm() / 2e-4) - beta * float(values[1]))
    error = max(abs(value) for value in errors)
    return Finding(
        "discrete code",
        "A pair splits below a critical temperature",
        HOLDS,
        "when the largest eigenvalue of its scatter exceeds s2 / beta: each step multiplies the gap by their ratio",
        error,
        "error of that ratio, at 0.9 and at 1.1",
        error < 1e-4,
    )


def multiplier_iteration(generator: torch.Generator) -> Finding:
    h = torch.tensor([[0.5, 1.0, 0.8, 0.3]], dtype=F64).log()
    u = _simplex(generator, 1, 4)
    trace, left = [leop(h, u).item()], [1 - u[0, 1].item()]
    for _ in range(80):
        u = (u.log() + h).softmax(1)
        trace.append(leop(h, u).item())
        left.append(1 - u[0, 1].item())
    ratio = left[-1] / left[-2]
    return Finding(
        "discrete code",
        "A Lagrange multiplier may give an iteration",
        HOLDS,
        "u <- u p / sum u p: monotone, to the vertex, at the ratio of the two largest p (here 0.8)",
        ratio,
        "ratio of the last two errors",
        abs(ratio - 0.8) < 1e-3 and all(b >= a - 1e-15 for a, b in itertools.pairwise(trace)),
    )


# ----------------------------------------------------------------------------------------------------- continuous codes


def derivative_of_softargmax(generator: torch.Generator) -> Finding:
    t, h, slope = _normal(generator, 6), _normal(generator, 6), _normal(generator, 6)
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
        v, w, h = _normal(generator, 50, 2), _normal(generator, 5, 2), 2 * _normal(generator, 50, 5)
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
    v, w, h = _normal(generator, 5000, 2), _normal(generator, 4, 2), 2 * _normal(generator, 5000, 4)
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
        w, a = 2 * _normal(generator, 5, 2), _simplex(generator, n, 5)
        one, two = 3 * _normal(generator, n, 2), 3 * _normal(generator, n, 2)
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
    w, a = 2 * _normal(generator, 4, 3), _simplex(generator, 300, 4)
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
    v, w, a = _normal(generator, 5000, 2), _normal(generator, 5, 2), _simplex(generator, 5000, 5)
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
    w, a = 2 * _normal(generator, 5, 2), _simplex(generator, 500, 5)
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
    for model in range(60):
        kernel = (CONSTANT, THIRD, EmbeddingKernel(prior=0.2))[model % 3]
        w, h, v = _normal(generator, 5, 2), 3 * _normal(generator, 20, 5), _normal(generator, 20, 2)
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
    v, w, h = _normal(generator, 50, 2), _normal(generator, 5, 2).requires_grad_(), _normal(generator, 50, 5)
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


# ----------------------------------------------------------------------------------------------- push-away and attempts


def plain_codes_run_away(generator: torch.Generator) -> Finding:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.25, 0.25]], dtype=F64)
    exists = code_exists(torch.eye(4, dtype=F64), corners).tolist()
    soft = bool(code_exists(_simplex(generator, 100, 4), corners).all())
    return Finding(
        "push-away",
        "The plain code never converges",
        WHEN,
        "the mean of the anchors under A is not in the relative interior of their hull, as for a vertex",
        float(sum(exists)),
        "of 4 one-hot targets have a code: the one inside the triangle of the others",
        exists == [False, False, False, True] and soft,
    )


def log_odds_are_a_line(generator: torch.Generator) -> Finding:
    v, w = 5 * _normal(generator, 100, 1), torch.tensor([[1.0], [-1.0]], dtype=F64)
    log_q, _ = PLAIN.log_code(v, w)
    slope = (log_q[:, 0] - log_q[:, 1]) / v[:, 0]
    error = float((slope - 4).abs().max())
    return Finding(
        "push-away",
        "u_1 grows with v without end",
        HOLDS,
        "for w = (1, -1) its log-odds are the line 4 v",
        float(slope.mean()),
        "slope of the log-odds",
        error < 1e-8,
    )


def unsquared_distance(generator: torch.Generator) -> Finding:
    w = _normal(generator, 2, 2)
    v = 5 * _normal(generator, 5000, 2)
    odds = (v - w[1]).norm(dim=1) - (v - w[0]).norm(dim=1)
    length = (w[0] - w[1]).norm()
    behind = w[0] + torch.tensor([[0.0], [1.0], [100.0]], dtype=F64) * (w[0] - w[1])
    ray = (behind - w[1]).norm(dim=1) - (behind - w[0]).norm(dim=1)
    spread = float((ray - length).abs().max())
    return Finding(
        "attempt one",
        "With the distance unsquared the odds are bounded",
        WHEN,
        "an optimum need not be unique: the log-odds are at most |w_1 - w_2|, all along a ray behind w_1",
        spread,
        "how much they vary along it",
        bool((odds <= length + 1e-12).all()) and spread < 1e-9,
    )


def additive_term_cancels(generator: torch.Generator) -> Finding:
    v, w = 3 * _normal(generator, 2000, 2), _normal(generator, 5, 2)
    h = -torch.cdist(v, w).square()
    change = float(((h - v.square().sum(1, keepdim=True)).softmax(1) - h.softmax(1)).abs().max())
    return Finding(
        "attempt two",
        "-|v|^2 added in the logits changes nothing",
        HOLDS,
        "it cancels, for every v",
        change,
        "largest change of q",
        change < 1e-12,
    )


def prior_outside(generator: torch.Generator) -> Finding:
    kernel = EmbeddingKernel(prior=0.1)
    w = _normal(generator, 5, 2)
    found = encode_embedded(torch.eye(5, dtype=F64), w, kernel)
    total = float((kernel.log_code(found.codes, w)[0].exp().sum(1) - 1).abs().max())
    return Finding(
        "attempt two",
        "No additive regulariser can work",
        WHEN,
        "it is inside the logits; -rho |v|^2 outside of the softargmax gives unique finite codes, and sum q = 1",
        float(found.codes.norm(dim=1).max()),
        "longest code of a one-hot target, at rho = 0.1",
        float(found.gradient_norm.max()) <= 1e-9 and total < 1e-12,
    )


def absorber_confines(generator: torch.Generator) -> Finding:
    w, hot = 2 * _normal(generator, 6, 2), torch.eye(6, dtype=F64)
    first = encode_embedded(hot, w, THIRD)
    error = 0.0
    for _ in range(20):
        other = encode_embedded(hot, w, THIRD, start=10 * _normal(generator, 6, 2))
        error = max(error, float((other.codes - first.codes).abs().max()))
    return Finding(
        "attempt three",
        "An absorber gives v its bound back",
        HOLDS,
        "if lambda > 0 and alpha + beta > 0 the code exists and is unique",
        error,
        "most that codes from 20 starts differ",
        error < 1e-6 and float(first.gradient_norm.max()) <= 1e-9,
    )


def worked_example(generator: torch.Generator) -> Finding:
    v, q = _best_alone(0.0, -1.0)
    residual = 2 * v * math.exp(2 * v * v + 2 * v + 1) - 1
    return Finding(
        "attempt three",
        "w = (0, -1): 2 v exp(2 v^2 + 2 v + 1) = 1, v = 0.13529",
        HOLDS,
        f"v = {v:.6f} with q = {q:.6f}",
        v,
        "v",
        abs(v - 0.135290) < 1e-6 and abs(q - 0.431415) < 1e-6 and abs(residual) < 1e-8,
    )


def pictured_example(generator: torch.Generator) -> Finding:
    v, q = _best_alone(1.0, -1.0)
    return Finding(
        "attempt three",
        "With w_1 = 1, as in the picture, there is a maximum too",
        HOLDS,
        f"for w = (1, -1): v = {v:.5f} with q = {q:.5f}, between the anchor and the origin",
        v,
        "v",
        abs(v - 0.563233) < 1e-6 and abs(q - 0.361396) < 1e-6,
    )


def ceiling_of_the_growing_absorber(generator: torch.Generator) -> Finding:
    w = 1.5 * _normal(generator, 6, 2)
    excess, short = -math.inf, 0.0
    for mass in (0.1, 1.0, 5.0):
        kernel = EmbeddingKernel(absorber=mass, alpha=1.0)
        ceiling = 1 / (1 + mass * torch.exp(w.square().sum(1) / 2))
        q = kernel.log_code(3 * _normal(generator, 5000, 2), w)[0].exp()
        excess = max(excess, float((q - ceiling).max()))
        for k in range(6):
            alone = encode_embedded(torch.ones(1, 1, dtype=F64), w[k : k + 1], kernel).codes
            reached = float(kernel.log_code(alone, w[k : k + 1])[0].exp())
            short = max(short, abs(reached / float(ceiling[k]) - 1))
    return Finding(
        "attempt three",
        "The best code is close to its anchor",
        WHEN,
        "the anchor is near the origin: q_k <= 1 / (1 + lambda exp(|w_k|^2 / 2)), at lambda = 1 never above 1/2",
        short,
        "relative error of that ceiling, which a component alone reaches",
        excess <= 1e-12 and short < 1e-8,
    )


def ceiling_of_the_constant_absorber(generator: torch.Generator) -> Finding:
    w = 1.5 * _normal(generator, 6, 2)
    kernel = EmbeddingKernel(absorber=0.1)
    q = kernel.log_code(3 * _normal(generator, 20_000, 2), w)[0].exp()
    top = float(kernel.log_code(w[:1], w[:1])[0].exp())
    return Finding(
        "attempt three",
        "The absorber must grow as exp(v.v)",
        FAILS,
        "a constant one is enough (alpha = 0), and then q_k <= 1 / (1 + lambda) wherever the anchor is",
        top,
        "that ceiling at lambda = 0.1",
        float(q.max()) <= 1 / 1.1 + 1e-12 and abs(top - 1 / 1.1) < 1e-12,
    )


def compact_domain(generator: torch.Generator) -> Finding:
    w = _normal(generator, 5, 2)
    angle = torch.linspace(0, 2 * math.pi, 4001, dtype=F64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    q = PLAIN.log_code(circle, w)[0].exp().amax(0)
    best = w / w.norm(dim=1, keepdim=True)
    far = float(PLAIN.log_code(1e3 * best, w)[0].diagonal().exp().max())
    return Finding(
        "foreword",
        "A regulariser makes codes converge; LayerNorm may be one",
        WHEN,
        "one reads it as |v| = 1: on a sphere a maximum always exists, without any absorber",
        float(q.max()),
        "largest share on the unit circle; it is 1 at infinity only",
        float(q.max()) < 1 and far > 1 - 1e-6,
    )


# -------------------------------------------------------------------------------------------- mixtures of linear models


def latent_of_a_plane(generator: torch.Generator) -> Finding:
    x, mu, axes = _normal(generator, 200, 5), _normal(generator, 5), _normal(generator, 5, 2)
    z = torch.linalg.solve(axes.T @ axes, axes.T @ (x - mu).T).T
    slope = float(((x - mu - z @ axes.T) @ axes).abs().max())
    return Finding(
        "linear models",
        "z = (W'W)^-1 W'(x - mu)",
        HOLDS,
        "",
        slope,
        "largest slope of the squared error there",
        slope < 1e-10,
    )


def unscaled_regression(generator: torch.Generator) -> Finding:
    z, axes, mu = _normal(generator, 200, 2), _normal(generator, 5, 2), _normal(generator, 5)
    x = mu + z @ axes.T + 0.1 * _normal(generator, 200, 5)
    summed = (x - mu).T @ z  # the note's (x - mu) z', with the sum over rows that it lacks
    ones = torch.cat([torch.ones(200, 1, dtype=F64), z], dim=1)
    fitted = torch.linalg.lstsq(ones, x).solution
    right = float((x - ones @ fitted).square().mean())
    wrong = float((x - mu - z @ summed.T).square().mean())
    return Finding(
        "linear models",
        "W = (x - mu) z'",
        FAILS,
        "the sum over rows and the inverse Gram matrix of z are missing: it is the regression of x on (1, z)",
        wrong / right,
        "its squared error over that of the regression",
        wrong > 10 * right,
    )


def shared_latent(generator: torch.Generator) -> Finding:
    planes, sets, starts, noise = 4, 3, 40, 0.05
    reached = {True: 0, False: 0}
    for _ in range(sets):
        frames = [torch.linalg.qr(_normal(generator, 6, 2))[0] for _ in range(planes)]
        x = torch.cat(
            [2 * _normal(generator, 6) + 2 * _normal(generator, 100, 2) @ axes.T for axes in frames]
        )
        x = x + noise * _normal(generator, len(x), 6)
        for _ in range(starts):
            # A start: each plane through three random rows.
            through = x[torch.randperm(len(x), generator=generator)[: 3 * planes]].view(planes, 3, 6)
            axes = torch.linalg.qr((through[:, 1:] - through[:, :1]).mT)[0]  # (k, 6, 2)
            away = x - through[:, :1]
            code = (away - away @ axes @ axes.mT).square().sum(2).argmin(0)
            for shared in (True, False):
                # Of six axes two are fitted and four are noise.
                reached[shared] += _planes(x, code, planes, shared=shared) < 1.5 * 4 * noise**2
    share, old = (reached[shared] / (sets * starts) for shared in (False, True))
    return Finding(
        "linear models",
        "The fit depends on its start very much",
        WHEN,
        "k is chosen with the z of the row's old component, which freezes: choose k after the best z for each k",
        share,
        f"share of 120 starts that reach the noise then; with the old z it is {old:.2f}",
        share >= 0.05 and old <= share / 5,
    )


def _planes(x: Tensor, code: Tensor, k: int, *, shared: bool) -> float:
    """Mean squared error of k planes after alternation; z of the old component is kept for all if ``shared``."""
    error = math.inf
    for _ in range(50):
        means: list[Tensor] = []
        axes: list[Tensor] = []
        for j in range(k):
            own = x[code == j] if int((code == j).sum()) > 2 else x
            means.append(own.mean(0))
            axes.append(torch.linalg.svd(own - own.mean(0), full_matrices=False).Vh[:2].T)
        z = torch.stack([(x - m) @ w for m, w in zip(means, axes, strict=True)])  # (k, n, 2)
        if shared:
            z = z[code, torch.arange(len(x))].expand(k, -1, -1)
        squares = [(x - m - at @ w.T).square().sum(1) for at, m, w in zip(z, means, axes, strict=True)]
        new = torch.stack(squares).argmin(0)
        error = float(torch.stack(squares).amin(0).mean())
        if bool((new == code).all()):
            break
        code = new
    return error


# ---------------------------------------------------------------------------------------------------------------- parts


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def _simplex(generator: torch.Generator, n: int, k: int) -> Tensor:
    return (2 * _normal(generator, n, k)).softmax(1)


def _masses(generator: torch.Generator, n: int, k: int) -> Tensor:
    """Uniform on the simplex."""
    masses = -torch.rand(n, k, generator=generator, dtype=F64).log()
    return masses / masses.sum(1, keepdim=True)


def _balls(x: Tensor, means: Tensor, variance: float) -> Tensor:
    """Log-densities of N(a_k, s2 I), shape (n, k)."""
    d = x.shape[1]
    return -0.5 * (torch.cdist(x, means).square() / variance + d * math.log(2 * math.pi * variance))


def _tempered(h: Tensor, temperature: float) -> Tensor:
    return (h / temperature).softmax(1)


def _grid(generator: torch.Generator) -> Tensor:
    """Sixteen round clusters on a 4 x 4 grid."""
    side = torch.arange(4, dtype=F64) * 5
    centres = torch.cartesian_prod(side, side)
    return centres.repeat(20, 1) + 0.5 * _normal(generator, 320, 2)


def _fixed_point(generator: torch.Generator, kernel: EmbeddingKernel, factor: float) -> tuple[float, float]:
    """The note's formula at the optimum over the optimum, and how far it is from ``factor`` times it."""
    w, a = _normal(generator, 5, 2), _simplex(generator, 200, 5)
    v = encode_embedded(a, w, kernel).codes
    pull = a - kernel.log_code(v, w)[0].exp()
    formula = pull @ w / pull.sum(1, keepdim=True)
    return float((formula * v).sum() / v.square().sum()), float((formula - factor * v).abs().max())


def _best_alone(first: float, second: float) -> tuple[float, float]:
    """Attempt three for two anchors on the line: the code that favours the first, and its share."""
    w = torch.tensor([[first], [second]], dtype=F64)
    found = encode_embedded(torch.tensor([[1.0, 0.0]], dtype=F64), w, THIRD)
    return found.codes.item(), _share(found.codes, w)


def _share(codes: Tensor, anchors: Tensor) -> float:
    """The first component's share of one code under attempt three."""
    return THIRD.log_code(codes, anchors)[0][0, 0].exp().item()
