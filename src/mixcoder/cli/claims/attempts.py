"""Push-away, and the three attempts to stop it."""

import math

import torch
from torch import Tensor

from mixcoder.cli.claims.base import F64, FAILS, HOLDS, PLAIN, THIRD, WHEN, Claim, Finding, normal, simplex
from mixcoder.ops.embedding import EmbeddingKernel, code_exists, encode_embedded

__all__ = ["CLAIMS"]


def plain_codes_run_away(generator: torch.Generator) -> Finding:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.25, 0.25]], dtype=F64)
    exists = code_exists(torch.eye(4, dtype=F64), corners).tolist()
    soft = bool(code_exists(simplex(generator, 100, 4), corners).all())
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
    v, w = 5 * normal(generator, 100, 1), torch.tensor([[1.0], [-1.0]], dtype=F64)
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
    w = normal(generator, 2, 2)
    v = 5 * normal(generator, 5000, 2)
    odds = (v - w[1]).norm(dim=1) - (v - w[0]).norm(dim=1)
    length = (w[0] - w[1]).norm()
    behind = w[0] + torch.tensor([[0.0], [1.0], [100.0]], dtype=F64) * (w[0] - w[1])
    ray = (behind - w[1]).norm(dim=1) - (behind - w[0]).norm(dim=1)
    spread = float((ray - length).abs().max())
    return Finding(
        "attempt one",
        "With the distance unsquared the odds are bounded",
        HOLDS,
        "by |w_1 - w_2|, which they reach all along a ray behind w_1: the best v is not unique",
        spread,
        "how much they vary along it",
        bool((odds <= length + 1e-12).all()) and spread < 1e-9,
    )


def additive_term_cancels(generator: torch.Generator) -> Finding:
    v, w = 3 * normal(generator, 2000, 2), normal(generator, 5, 2)
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
    w = normal(generator, 5, 2)
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
    w, hot = 2 * normal(generator, 6, 2), torch.eye(6, dtype=F64)
    first = encode_embedded(hot, w, THIRD)
    error = 0.0
    for _ in range(20):
        other = encode_embedded(hot, w, THIRD, start=10 * normal(generator, 6, 2))
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
    w = 1.5 * normal(generator, 6, 2)
    excess, short = -math.inf, 0.0
    for mass in (0.1, 1.0, 5.0):
        kernel = EmbeddingKernel(absorber=mass, alpha=1.0)
        ceiling = 1 / (1 + mass * torch.exp(w.square().sum(1) / 2))
        q = kernel.log_code(3 * normal(generator, 5000, 2), w)[0].exp()
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
    w = 1.5 * normal(generator, 6, 2)
    kernel = EmbeddingKernel(absorber=0.1)
    q = kernel.log_code(3 * normal(generator, 20_000, 2), w)[0].exp()
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


def _best_alone(first: float, second: float) -> tuple[float, float]:
    """Attempt three for two anchors on the line: the code that favours the first, and its share."""
    w = torch.tensor([[first], [second]], dtype=F64)
    found = encode_embedded(torch.tensor([[1.0, 0.0]], dtype=F64), w, THIRD)
    return found.codes.item(), _share(found.codes, w)


def _share(codes: Tensor, anchors: Tensor) -> float:
    """The first component's share of one code under attempt three."""
    return THIRD.log_code(codes, anchors)[0][0, 0].exp().item()


def level_sets(generator: torch.Generator) -> Finding:
    # Points whose distances from (-1, 0) and (1, 0) differ by one.
    t = 2 * normal(generator, 500)
    v = torch.stack([0.5 * t.cosh(), math.sqrt(0.75) * t.sinh()], dim=1)
    foci = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    euclid, city = ((v - foci[0]).norm(p, dim=1) - (v - foci[1]).norm(p, dim=1) for p in (2, 1))
    return Finding(
        "attempt one",
        "Points of equal odds lie on a hyperbola",
        WHEN,
        "the distance is Euclid's, unsquared; the note calls it L1, of which it is not true",
        float(city.max() - city.min()),
        "how much the difference of L1 distances varies along a hyperbola; of Euclid's it does not",
        float((euclid - 1).abs().max()) < 1e-9 and float(city.max() - city.min()) > 0.1,
    )


def outside_of_the_anchors(generator: torch.Generator) -> Finding:
    w = torch.tensor([[1.0], [-1.0]], dtype=F64)
    behind = w[:1] + torch.rand(200, 1, generator=generator, dtype=F64) * 5
    squared = [(v - w[1]).square() - (v - w[0]).square() for v in (w[0], 2 * w[0] - w[1])]
    gain = float(squared[1] - squared[0])
    flat = float(((behind - w[1]).abs() - (behind - w[0]).abs() - 2).abs().max())
    return Finding(
        "attempt two",
        "Under both distances the best v is outside of the anchors",
        WHEN,
        "the distance is squared, and then further is better; unsquared, w_1 itself is as good as all behind it",
        gain,
        "gain in log-odds from w_1 to 2 w_1 - w_2, squared, for w = (1, -1)",
        abs(gain - 8) < 1e-9 and flat < 1e-12,
    )


def normaliser_left_out(generator: torch.Generator) -> Finding:
    v, w, h = normal(generator, 1000, 2), normal(generator, 4, 2), 2 * normal(generator, 1000, 4)
    squares = torch.cdist(v, w, compute_mode="donot_use_mm_for_euclid_dist").square()
    first = torch.logsumexp(h - squares, 1)
    total = torch.logsumexp(torch.cat([-squares, v.square().sum(1, keepdim=True)], 1), 1)
    above = first - THIRD.objective(v, w, h)
    error = float((above - total).abs().max())
    return Finding(
        "attempt three",
        "L = log(exp(v.v) 0 + sum exp(-|v - w|^2) p), the first of its lines",
        FAILS,
        "the denominator of the second line is missing: they differ by its logarithm, which is positive",
        float(above.min()),
        "least difference, in nats",
        error < 1e-10 and float(above.min()) > 0,
    )


def written_out(generator: torch.Generator) -> Finding:
    v, w = normal(generator, 200).requires_grad_(), normal(generator, 2)
    far, near = v.square() + (v - w[0]).square(), (v - w[0]).square() - (v - w[1]).square()
    f = -(far.exp() + near.exp()).log()
    log_q, _ = THIRD.log_code(v.detach()[:, None], w[:, None])
    (by_autograd,) = torch.autograd.grad(f.sum(), v)
    pulls = far.exp() * (4 * v - 2 * w[0]) + near.exp() * (-2 * w[0] + 2 * w[1])
    slope = -pulls / (far.exp() + near.exp())
    apart = torch.stack([f.sigmoid().log() - log_q[:, 0], slope - by_autograd]).detach()
    error = float(apart.abs().max())
    return Finding(
        "attempt three",
        "u_1 = 1 / (1 + exp(-f)), f and df/dv written out for two anchors",
        HOLDS,
        "",
        error,
        "largest difference from the code and from automatic differentiation",
        error < 1e-10,
    )


def one_component_alone(generator: torch.Generator) -> Finding:
    w, error = 1.5 * normal(generator, 6, 2), 0.0
    for alpha, beta in ((1.0, 1.0), (0.0, 1.0), (0.5, 2.0)):
        kernel = EmbeddingKernel(absorber=0.7, alpha=alpha, beta=beta)
        for k in range(6):
            found = encode_embedded(torch.ones(1, 1, dtype=F64), w[k : k + 1], kernel).codes
            error = max(error, float((found - beta / (alpha + beta) * w[k]).abs().max()))
    return Finding(
        "attempt three",
        "argmax f has no closed form",
        WHEN,
        "other components take part; one alone has v = beta w / (alpha + beta)",
        error,
        "largest difference from that v",
        error < 1e-9,
    )


CLAIMS: tuple[Claim, ...] = (
    plain_codes_run_away,
    log_odds_are_a_line,
    unsquared_distance,
    level_sets,
    outside_of_the_anchors,
    additive_term_cancels,
    prior_outside,
    absorber_confines,
    normaliser_left_out,
    written_out,
    worked_example,
    pictured_example,
    one_component_alone,
    ceiling_of_the_growing_absorber,
    ceiling_of_the_constant_absorber,
)
