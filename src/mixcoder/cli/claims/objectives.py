"""The foreword and the four objectives."""

import math

import torch
from torch import Tensor

from mixcoder.cli.claims.base import (
    F64,
    FAILS,
    HOLDS,
    PLAIN,
    WHEN,
    Claim,
    Finding,
    balls,
    masses,
    normal,
    simplex,
)
from mixcoder.objectives import eol, leop, leop_gap, loe, loe_gap

__all__ = ["CLAIMS"]


def low_temperature(generator: torch.Generator) -> Finding:
    h = normal(generator, 500, 4)
    best = torch.nn.functional.one_hot(h.argmax(1), 4).to(F64)
    cold = float((_tempered(h, 1e-4) - best).abs().mean())
    limit = float((_tempered(h, -1e12) - 0.25).abs().max())
    return Finding(
        "generative autoencoder",
        "MAP is the limit of temperature -> -infinity",
        FAILS,
        "it is T -> 0 from above; at T = -infinity all components weigh the same",
        limit,
        "largest distance of the code at T = -1e12 from an even one",
        cold < 1e-2 and limit < 1e-9,
    )


def compact_domain(generator: torch.Generator) -> Finding:
    w = normal(generator, 5, 2)
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


def eol_below_leop(generator: torch.Generator) -> Finding:
    h, u = 3 * normal(generator, 5000, 4), simplex(generator, 5000, 4)
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
    x, a = 2 * normal(generator, 20_000, 1), 2 * normal(generator, 20_000, 3)
    u = masses(generator, 20_000, 3)
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
    x, a, u = normal(generator, 3000, 3), 2 * normal(generator, 5, 3), simplex(generator, 3000, 5)
    h = balls(x, a, 0.7)
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
    x, a, u = normal(generator, 3000, 2), 2 * normal(generator, 3, 2), simplex(generator, 3000, 3)
    above = float((loe(x, a, u, 1.0) > leop(balls(x, a, 1.0), u)).double().mean())
    return Finding(
        "generative autoencoder",
        "EOL is the lower bound of both, LEOP and LOE",
        HOLDS,
        "of these two neither bounds the other",
        above,
        "share of random draws with LOE above LEOP",
        0.02 < above < 0.98,
    )


def _tempered(h: Tensor, temperature: float) -> Tensor:
    return (h / temperature).softmax(1)


def cold_posterior(generator: torch.Generator) -> Finding:
    h = normal(generator, 500, 4)
    best = torch.nn.functional.one_hot(h.argmax(1), 4).to(F64)
    trace = [float((_tempered(h, t) - best).abs().mean()) for t in (1.0, 1e-1, 1e-2, 1e-3, 1e-6)]
    return Finding(
        "foreword",
        "MAP is the low-temperature limit of Bayes",
        HOLDS,
        "the posterior softargmax(log(pi p) / T) tends to the best component as T falls to 0",
        trace[-1],
        "mean distance of the code at T = 1e-6 from it",
        trace == sorted(trace, reverse=True) and trace[-1] < 1e-4,
    )


def eop_is_a_density(generator: torch.Generator) -> Finding:
    spread = 1 + 0.1 * float(torch.rand(1, generator=generator, dtype=F64))  # means at +- spread
    x = torch.linspace(-12, 12, 48_001, dtype=F64)
    h = balls(x[:, None], torch.tensor([[-spread], [spread]], dtype=F64), 1.0)
    fixed = float(torch.trapezoid(leop(h, torch.full_like(h, 0.5)).exp(), x))
    chosen = torch.nn.functional.one_hot(h.argmax(1), 2).to(F64)
    best = float(torch.trapezoid(leop(h, chosen).exp(), x))
    return Finding(
        "generative autoencoder",
        "EOP is a strict probability density",
        WHEN,
        "the weights do not depend on x, as the p(c) of a mixture; with the best code of every x it is none",
        best,
        "integral of the EOP of the best codes, of two unit Gaussians about two apart",
        abs(fixed - 1) < 1e-9 and abs(best - 1 - math.erf(spread / math.sqrt(2))) < 1e-6,
    )


CLAIMS: tuple[Claim, ...] = (
    low_temperature,
    cold_posterior,
    compact_domain,
    eop_is_a_density,
    eol_below_leop,
    eol_below_unscaled_loe,
    eol_below_scaled_loe,
    leop_against_loe,
)
