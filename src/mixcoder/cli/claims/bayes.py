"""Vanilla EM as the note derives it, and its closing remarks on distributions of the parameters."""

import torch
from torch import Tensor

from mixcoder.cli.claims.base import (
    F64,
    FAILS,
    HOLDS,
    WHEN,
    Claim,
    Finding,
    alternate,
    balls,
    normal,
    simplex,
)
from mixcoder.objectives import eol

__all__ = ["CLAIMS"]

SECTION = "vanilla EM"


def em_integrates_the_code(generator: torch.Generator) -> Finding:
    log_joint = 2 * normal(generator, 2000, 4)
    r = log_joint.softmax(1)
    exact = (r * log_joint).sum(1)
    entropy = -(r * r.log()).sum(1)
    error = float((exact + entropy - torch.logsumexp(log_joint, 1)).abs().max())
    drawn = torch.multinomial(r, 100, replacement=True, generator=generator)
    noise = float((log_joint.gather(1, drawn).mean(1) - exact).square().mean().sqrt())
    return Finding(
        "foreword",
        "EM integrates the code out by sampling it",
        FAILS,
        "its E-step sums over all k codes exactly; draws (Monte Carlo EM) put noise in place of the sum",
        noise,
        "root mean square error of 100 draws a row, in nats; the sum is exact",
        error < 1e-12 and noise > 1e-3,
    )


def bound_of_em_is_not_eol(generator: torch.Generator) -> Finding:
    h, log_weights = 2 * normal(generator, 5000, 4), simplex(generator, 5000, 4).log()
    total = torch.logsumexp(h + log_weights, 1)  # LEOP at the weights
    r = (h + log_weights).softmax(1)
    pull = (r * (r.log() - log_weights)).sum(1)
    error = float((eol(h, r) - pull - total).abs().max())
    slack = total - eol(h, log_weights.exp())
    above = eol(h, r) - total
    return Finding(
        "foreword",
        "The bound inside EM is EOL, as a bound of LEOP",
        FAILS,
        "it is EOL(Q) - KL(Q || pi); EOL at Q = pi is looser, and EOL at the posterior lies above log p(x), by that KL",
        float(above.mean()),
        "mean excess of EOL at the posterior over log p(x), in nats",
        error < 1e-10 and bool((slack >= -1e-12).all()) and bool((above >= -1e-12).all()),
    )


def half_bayes(generator: torch.Generator) -> Finding:
    x = normal(generator, 200, 2) * 2
    slopes: list[float] = []
    for strength in (0.0, 5.0):  # of a prior N(0, I / strength) of every mean
        a, trace = alternate(x, x[:4], 500, strength=strength)
        a = a.requires_grad_()
        bound = torch.logsumexp(balls(x, a, 1.0), 1).sum() - strength / 2 * a.square().sum()
        (slope,) = torch.autograd.grad(bound, a)
        rises = all(after >= before - 1e-9 for before, after in zip(trace, trace[1:], strict=False))
        slopes.append(float(slope.abs().max()) if rises else float("inf"))
    return Finding(
        "foreword",
        "Vanilla EM is half Bayes (of the code), half MAP (of the parameters)",
        WHEN,
        "the parameters have a prior; without one the point that EM finds is that of maximum likelihood",
        max(slopes),
        "largest slope of what it maximises at its end, with a prior and without",
        max(slopes) < 1e-3,
    )


def em_and_its_start(generator: torch.Generator) -> Finding:
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [16.0, 4.0]], dtype=F64)
    x = centres.repeat(40, 1) + normal(generator, 200, 2)
    ends: list[float] = []
    for _ in range(40):
        start = x[torch.randperm(len(x), generator=generator)[:5]]
        ends.append(alternate(x, start, 100)[1][-1] / len(x))
    worse = sum(end < max(ends) - 0.05 for end in ends) / len(ends)
    return Finding(
        "foreword",
        "EM may get stuck, and depends on its start",
        HOLDS,
        "on five clusters that could not be clearer",
        worse,
        "share of 40 random starts that end 0.05 nats a row or more below the best",
        0 < worse < 1,
    )


def bound_of_the_evidence(generator: torch.Generator) -> Finding:
    log_joint, q = 2 * normal(generator, 5000, 4), simplex(generator, 5000, 4)
    gap = torch.logsumexp(log_joint, 1) - (q * (log_joint - q.log())).sum(1)
    divergence = (q * (q.log() - log_joint.log_softmax(1))).sum(1)
    error = float((gap - divergence).abs().max())
    return Finding(
        SECTION,
        "log p(x) >= sum Q(z) log(p(x, z) / Q(z))",
        HOLDS,
        "the gap is KL(Q || p(z|x))",
        error,
        "largest error of that gap, in nats",
        bool((gap >= 0).all()) and error < 1e-10,
    )


def posterior_closes_the_gap(generator: torch.Generator) -> Finding:
    log_joint = 2 * normal(generator, 5000, 4)
    total = torch.logsumexp(log_joint, 1)

    def gap(q: Tensor) -> Tensor:
        return total - (q * (log_joint - q.log())).sum(1)

    r = log_joint.softmax(1)
    aside = 0.9 * r + 0.1 * simplex(generator, 5000, 4)
    closed = float(gap(r).abs().max())
    return Finding(
        SECTION,
        "Q = p(z|x) alone makes them equal",
        HOLDS,
        "Gibbs' inequality: Q is c p(x, z), and c follows from sum Q = 1",
        closed,
        "largest gap at the posterior, in nats",
        closed < 1e-12 and bool((gap(aside) > 0).all()),
    )


def inverted_without_prior(generator: torch.Generator) -> Finding:
    h, weights = 2 * normal(generator, 1000, 4), torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=F64)
    note = h.exp() / h.exp().sum(1, keepdim=True)
    even = float((note - (h + torch.full((4,), 0.25, dtype=F64).log()).softmax(1)).abs().max())
    uneven = float((note - (h + weights.log()).softmax(1)).abs().max())
    return Finding(
        SECTION,
        "p(z|x) = p(x|z) / sum p(x|z)",
        WHEN,
        "p(z) is even; otherwise p(z) stands in both sums",
        uneven,
        "largest error at p(z) = (0.7, 0.1, 0.1, 0.1)",
        even < 1e-12 and uneven > 0.1,
    )


def decoded_posterior(generator: torch.Generator) -> Finding:
    h = 2 * normal(generator, 2000, 4)
    p, r = h.exp(), h.softmax(1)
    error = float(((p * r).sum(1) / (p.square().sum(1) / p.sum(1)) - 1).abs().max())
    logs = float(((h * r).sum(1) - (p * h).sum(1) / p.sum(1)).abs().max())
    above = bool(((p * r).sum(1) >= p.mean(1) * (1 - 1e-12)).all())
    return Finding(
        SECTION,
        "sum p(x|z) p(z|x) = sum p(x|z)^2 / sum p(x|z), and so for log p(x|z)",
        HOLDS,
        "for even p(z): EOP and EOL at the posterior; the first is never below the even mean of p(x|z)",
        error,
        "largest relative error",
        error < 1e-12 and logs < 1e-11 and above,
    )


def code_under_uncertain_models(generator: torch.Generator) -> Finding:
    h = 2 * normal(generator, 500, 3, 4)  # (n, m, z)
    models = simplex(generator, 1, 3)[0]
    note = torch.einsum("nmz,m->nz", h.exp(), models)
    note = note / note.sum(1, keepdim=True)
    errors: list[float] = []
    for weights in ([0.25] * 4, [0.7, 0.1, 0.1, 0.1]):
        # Bayes' theorem on the whole joint distribution of code and model, then a sum over models.
        joint = h + models.log()[:, None] + torch.tensor(weights, dtype=F64).log()
        errors.append(float((joint.flatten(1).softmax(1).view_as(joint).sum(1) - note).abs().max()))
    return Finding(
        SECTION,
        "p(z) = sum_m p(m) p(x|z, m) / sum_z sum_m p(m) p(x|z, m)",
        WHEN,
        "p(z) was even before, and the row alone is asked; otherwise the old p(z) stands in both sums",
        errors[1],
        "largest error at p(z) = (0.7, 0.1, 0.1, 0.1)",
        errors[0] < 1e-12 and errors[1] > 0.1,
    )


def rows_multiply(generator: torch.Generator) -> Finding:
    log_rows = _evidence(generator, 200)  # (n, m)
    note = log_rows.exp().sum(0)
    posterior = log_rows.sum(0).softmax(0)
    share = float(note[0] / note.sum())
    return Finding(
        SECTION,
        "p(m) = sum_b sum_z p(x_b|z, m) p(z) / sum_m sum_b sum_z p(x_b|z, m) p(z)",
        FAILS,
        "rows multiply: p(m|X) prop. to p(m) prod_n p(x_n|m); over fitted models this is Bayesian model averaging",
        share,
        f"what it leaves the true one of three models after 200 rows; the posterior is {float(posterior[0]):.3f}",
        float(posterior[0]) > 0.99 and share < 0.8,
    )


def averaged_models(generator: torch.Generator) -> Finding:
    weights = _evidence(generator, 10).sum(0).softmax(0)
    new = _evidence(generator, 2000)
    gain = torch.logsumexp(new + weights.log(), 1) - new @ weights
    return Finding(
        SECTION,
        "A distribution over m gains something on a point",
        HOLDS,
        "log p(x|X) under the average is at least the average of log p(x|m), by Jensen; it may be below the best one's",
        float(gain.mean()),
        "mean gain on new rows after 10 rows, in nats",
        float(gain.min()) >= -1e-12 and float(gain.mean()) > 0,
    )


def _evidence(generator: torch.Generator, n: int) -> Tensor:
    """Log p(x_n | m), shape (n, 3), of three mixtures of two components, for rows that the first generates."""
    means = torch.tensor([[-1.0, 1.0], [-1.6, 1.6], [-0.2, 0.2]], dtype=F64)
    side = torch.randint(2, (n,), generator=generator)
    x = means[0, side][:, None] + normal(generator, n, 1)
    return torch.stack(
        [torch.logsumexp(balls(x, pair[:, None], 1.0), 1) - torch.log(torch.tensor(2.0)) for pair in means],
        dim=1,
    )


CLAIMS: tuple[Claim, ...] = (
    em_integrates_the_code,
    bound_of_em_is_not_eol,
    half_bayes,
    em_and_its_start,
    bound_of_the_evidence,
    posterior_closes_the_gap,
    inverted_without_prior,
    decoded_posterior,
    code_under_uncertain_models,
    rows_multiply,
    averaged_models,
)
