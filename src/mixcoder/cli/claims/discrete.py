"""Codes that are one component, and annealing towards them."""

import itertools
import math

import torch
from torch import Tensor

from mixcoder.cli.claims.base import F64, FAILS, HOLDS, WHEN, Claim, Finding, balls, normal, simplex
from mixcoder.objectives import free_energy, leop

__all__ = ["CLAIMS"]


def best_code_is_a_vertex(generator: torch.Generator) -> Finding:
    h, u = 2 * normal(generator, 20_000, 5), simplex(generator, 20_000, 5)
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
        x = normal(generator, 300, 2) * 2
        a = x[torch.randperm(300, generator=generator)[:6]]
        trace: list[float] = []
        for _ in range(30):
            h = balls(x, a, 0.5)
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
    h = normal(generator, 500, 4)
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
    h, error, excess = 2 * normal(generator, 2000, 4), 0.0, -math.inf
    for beta in (0.1, 1.0, 10.0):
        best = torch.logsumexp(beta * h, 1) / beta
        error = max(error, float((free_energy(h, (beta * h).softmax(1), beta) - best).abs().max()))
        excess = max(excess, float((free_energy(h, simplex(generator, 2000, 4), beta) - best).max()))
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
        u = (beta * balls(x, together, 1.0)).softmax(1)
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
    x = normal(generator, 4000, 2) * torch.tensor([2.0, 1.0], dtype=F64)
    x = x - x.mean(0)
    values, axes = torch.linalg.eigh(x.T @ x / len(x))
    errors: list[float] = []
    for beta in (0.9 / float(values[1]), 1.1 / float(values[1])):
        a = 1e-4 * torch.stack([axes[:, 1], -axes[:, 1]])
        u = (beta * balls(x, a, 1.0)).softmax(1)
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
    u = simplex(generator, 1, 4)
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


def _grid(generator: torch.Generator) -> Tensor:
    """Sixteen round clusters on a 4 x 4 grid."""
    side = torch.arange(4, dtype=F64) * 5
    centres = torch.cartesian_prod(side, side)
    return centres.repeat(20, 1) + 0.5 * normal(generator, 320, 2)


def maximised_over_codes_again(generator: torch.Generator) -> Finding:
    least, moved = math.inf, 0.0
    for _ in range(20):
        x, a = 2 * normal(generator, 200, 2), 2 * normal(generator, 5, 2)
        h = balls(x, a, 0.5)
        code = torch.nn.functional.one_hot(h.argmax(1), 5).to(F64)
        now = leop(h, code).sum()
        moved = max(moved, float(leop(h, torch.nn.functional.one_hot(h.argmax(1), 5).to(F64)).sum() - now))
        a = torch.where(code.sum(0)[:, None] > 0, code.T @ x / code.sum(0)[:, None].clamp_min(1), a)
        least = min(least, float(leop(balls(x, a, 0.5), code).sum() - now))
    return Finding(
        "discrete code",
        "M-step: m = argmax_C L(X, C, m)",
        FAILS,
        "a slip of the pen: the argmax is over m; one more over C moves nothing",
        least,
        "least rise of L by the argmax over m, of 20 random starts, in nats",
        least > 0 and moved == 0,
    )


def as_many_components_as_rows(generator: torch.Generator) -> Finding:
    x, new = normal(generator, 300, 3), normal(generator, 300, 3)
    code = balls(new, x, 0.5).argmax(1)
    nearest = torch.stack([(x - row).square().sum(1).argmin() for row in new])
    shares = torch.bincount(code, minlength=300).to(F64) / 300
    entropy = float(-torch.special.xlogy(shares, shares).sum())
    return Finding(
        "discrete code",
        "A discrete code holds any amount of information, like 1-nn",
        WHEN,
        "k may grow without end: a code holds log k nats at most; with a component on every row it is 1-nn",
        entropy / math.log(300),
        "entropy of the codes of 300 new rows over log k at k = 300, all of them the nearest row",
        bool((code == nearest).all()) and entropy <= math.log(300),
    )


def worst_component(generator: torch.Generator) -> Finding:
    x = _grid(generator)
    a = x[torch.randperm(len(x), generator=generator)[:16]]
    for _ in range(20):
        code = torch.nn.functional.one_hot(balls(x, a, 0.5).argmax(1), 16).to(F64)
        a = torch.where(code.sum(0)[:, None] > 0, code.T @ x / code.sum(0)[:, None].clamp_min(1), a)
    h = balls(x, a, 0.5)
    least = float((leop(h, simplex(generator, len(x), 16)) - h.amin(1)).min())
    best, worst = ((x - a[code]).square().sum(1).mean() for code in (h.argmax(1), h.argmin(1)))
    none = (x - x.mean(0)).square().sum(1).mean()
    return Finding(
        "discrete code",
        "The worst component bounds L from below, and as a code it means nothing",
        HOLDS,
        "decoding it is worse than decoding the mean of all rows, which needs no code",
        float(worst / none),
        "its squared error over that of the mean, after a fit to 16 clusters",
        least >= 0 and bool(best < none < worst),
    )


CLAIMS: tuple[Claim, ...] = (
    best_code_is_a_vertex,
    worst_component,
    hard_alternation_rises,
    maximised_over_codes_again,
    as_many_components_as_rows,
    annealing_by_reparametrisation,
    annealing_by_entropy,
    coincident_components,
    splitting_temperature,
    multiplier_iteration,
)
