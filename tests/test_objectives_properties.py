"""Every inequality between the objectives, and its exact gap, over random models of every family."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcoder import components
from mixcoder._typing import HardCode
from mixcoder.checks.case import Case
from mixcoder.checks.discovery import discover
from mixcoder.components import Family, GaussianTied, GaussianTiedDiagonal
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.objectives import (
    eol,
    eop,
    free_energy,
    free_energy_gap,
    leop,
    leop_gap,
    loe,
    loe_gap,
)

F64 = torch.float64

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 7)
scales = st.floats(1e-3, 1e3)
betas = st.floats(1e-2, 1e2)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes(n: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """Points of the simplex from near its centre to near its corners; some with exact zeros."""
    masses = -torch.rand(n, k, generator=generator, dtype=F64).log()
    masses = masses.pow(torch.randint(1, 8, (n, 1), generator=generator))
    masses *= torch.rand(n, k, generator=generator) > 0.2
    masses[:, 0] += (masses.sum(1) == 0).double()
    return masses / masses.sum(1, keepdim=True)


def covariance(d: int, scale: float, generator: torch.Generator) -> torch.Tensor:
    root = torch.randn(d, d, generator=generator, dtype=F64)
    return scale * (root @ root.T + 0.1 * torch.eye(d, dtype=F64))


def near(a: torch.Tensor, b: torch.Tensor, size: torch.Tensor) -> None:
    """Equal, up to the rounding of terms of some size that cancelled."""
    assert bool(((a - b).abs() <= 1e-11 * (1 + size)).all()), float((a - b).abs().max())


@settings(max_examples=60, deadline=None)
@given(sizes, scales, seeds)
def test_eol_lies_below_leop_by_a_divergence(k, scale, seed):
    """LEOP - EOL = KL(u || r), r = u p / EOP, for any log-likelihoods whatever."""
    generator = draws(seed)
    h, u = scale * torch.randn(20, k, generator=generator, dtype=F64), codes(20, k, generator)
    r = torch.where(u > 0, u * (h - leop(h, u)[:, None]).exp(), 0.0)
    written_out = torch.where(u > 0, u * (torch.where(u > 0, u / r.clamp_min(1e-300), 1.0)).log(), 0.0).sum(1)
    gap, size = leop(h, u) - eol(h, u), h.abs().amax(1)
    assert bool((gap >= -1e-12 * (1 + size)).all())
    near(gap, leop_gap(h, u), size)
    exact = r.where(u > 0, 1.0).amin(1) > 1e-290
    near(written_out[exact], leop_gap(h, u)[exact], size[exact])
    torch.testing.assert_close(eop(h, u), leop(h, u).exp())


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 5), scales, st.sampled_from(["number", "diagonal", "full"]), seeds)
def test_eol_lies_below_loe_by_the_weighted_variance_of_the_prototypes(k, d, scale, kind, seed):
    """LOE - EOL = sum u (a - abar)' S^-1 (a - abar) / 2 for one S in common, of any shape."""
    generator = draws(seed)
    x, means = (torch.randn(n, d, generator=generator, dtype=F64) for n in (20, k))
    u = codes(20, k, generator)
    full = covariance(d, scale, generator)
    if kind == "number":
        full = torch.eye(d, dtype=F64) * scale
    elif kind == "diagonal":
        full = torch.diag(full.diagonal())
    given_as = {"number": scale, "diagonal": full.diagonal(), "full": full}[kind]
    h = torch.stack([torch.distributions.MultivariateNormal(mean, full).log_prob(x) for mean in means], 1)
    gap, size = loe(x, means, u, given_as) - eol(h, u), h.abs().amax(1)
    assert bool((gap >= -1e-10 * (1 + size)).all())
    apart = means - (u @ means)[:, None]
    spread = 0.5 * (u * ((apart @ full.inverse()) * apart).sum(2)).sum(1)
    torch.testing.assert_close(loe_gap(means, u, given_as), spread, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gap, spread, rtol=1e-7, atol=1e-8)
    exact = torch.distributions.MultivariateNormal(u @ means, full.expand(20, d, d)).log_prob(x)
    torch.testing.assert_close(loe(x, means, u, given_as), exact, rtol=1e-8, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(sizes, scales, betas, seeds)
def test_the_free_energy_lies_below_its_maximum_by_a_divergence_over_beta(k, scale, beta, seed):
    """max F - F(u) = KL(u || q) / beta, zero at the code of the encoder."""
    generator = draws(seed)
    h, u = scale * torch.randn(20, k, generator=generator, dtype=F64), codes(20, k, generator)
    size = h.abs().amax(1) + math.log(k) / beta
    best = torch.logsumexp(beta * h, 1) / beta
    near(best - free_energy(h, u, beta), free_energy_gap(h, u, beta), size)
    assert bool((free_energy_gap(h, u, beta) >= 0).all())
    own = Tempered(beta).encode(h)
    near(free_energy_gap(h, own, beta), torch.zeros(20, dtype=F64), size)
    near(h.amax(1) - free_energy(h, u, math.inf), free_energy_gap(h, u, math.inf), size)
    assert free_energy_gap(h, Argmax().encode(h), math.inf).tolist() == [0.0] * 20
    # Between two temperatures, at one code: the entropy is worth less, never more.
    assert bool((free_energy(h, u, beta) >= free_energy(h, u, 2 * beta) - 1e-12 * size).all())
    assert bool((free_energy(h, u, 2 * beta) >= free_energy(h, u, math.inf) - 1e-12 * size).all())


@settings(max_examples=40, deadline=None)
@given(sizes, scales, seeds)
def test_the_evidence_lies_between_its_bound_and_its_best_component(k, scale, seed):
    """F_1(u) <= log p(x) = LEOP(pi), and LEOP of any code <= the best component's log-likelihood."""
    generator = draws(seed)
    h, u = scale * torch.randn(20, k, generator=generator, dtype=F64), codes(20, k, generator)
    pi = codes(1, k, generator)[0] + 1e-9
    pi = pi / pi.sum()
    evidence, size = leop(h, pi), h.abs().amax(1)
    joint = h + pi.log()
    assert bool((free_energy(joint, u) <= evidence + 1e-11 * (1 + size)).all())
    near(free_energy(joint, Posterior().encode(joint)), evidence, size)
    assert bool((leop(h, u) <= h.amax(1) + 1e-11 * (1 + size)).all())


@settings(max_examples=30, deadline=None)
@given(sizes, seeds)
def test_component_numbers_are_codes_like_any_other(k, seed):
    generator = draws(seed)
    h, means = (torch.randn(n, k, generator=generator, dtype=F64) for n in (15, k))
    hard = HardCode(torch.randint(0, k, (15,), generator=generator), k)
    soft, x = hard.dense(F64), h
    for one, two in (
        (eop(h, hard), eop(h, soft)),
        (leop(h, hard), leop(h, soft)),
        (eol(h, hard), eol(h, soft)),
        (loe(x, means, hard, 0.5), loe(x, means, soft, 0.5)),
        (leop_gap(h, hard), torch.zeros(15, dtype=F64)),
        (loe_gap(means, hard, 0.5), torch.zeros(15, dtype=F64)),
        (free_energy(h, hard, 2.0), free_energy(h, soft, 2.0)),
        (free_energy_gap(h, hard, 2.0), free_energy_gap(h, soft, 2.0)),
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def every_case():
    for kind in discover(components, Family):
        for number, (family, params) in enumerate(kind.examples()):
            yield pytest.param(Case(family, params, kind.__name__), id=f"{kind.__name__}-{number}")


@pytest.mark.parametrize("case", list(every_case()))
def test_the_inequalities_hold_in_every_family(case):
    x, _ = case.rows(60, seed=91)
    h = case.family.log_likelihood(case.params, x)
    u = codes(60, case.n_components, draws(92))
    finite = torch.where(u > 0, h, 0.0).isfinite().all(1)
    gap, size = leop(h, u) - eol(h, u), h.nan_to_num(neginf=0.0).abs().amax(1)
    assert bool((gap[finite] >= -1e-11 * (1 + size[finite])).all())
    near(gap[finite], leop_gap(h, u)[finite], size[finite])
    assert bool((leop_gap(h, u)[~finite] == math.inf).all())


@pytest.mark.parametrize("family", [GaussianTied, GaussianTiedDiagonal])
def test_families_that_share_a_covariance_keep_eol_below_loe(family):
    model, params = family.examples()[0]
    shared = params.covariance[0] if isinstance(params, GaussianTiedParams) else params.variances[0]
    x = model.sample(params, torch.arange(50) % params.n_components, draws(1))
    u = codes(50, params.n_components, draws(2))
    gap = loe(x, params.means, u, shared) - eol(model.log_likelihood(params, x), u)
    torch.testing.assert_close(gap, loe_gap(params.means, u, shared), rtol=1e-9, atol=1e-10)


def test_without_one_covariance_eol_may_exceed_loe():
    """The same S in every component is needed: two widths at one place are a counter-example."""
    x = torch.tensor([[3.0]], dtype=F64)
    u = torch.tensor([[0.0, 1.0]], dtype=F64)
    h = torch.stack([torch.distributions.Normal(0.0, s).log_prob(x[:, 0]) for s in (1.0, 3.0)], 1)
    assert eol(h, u) > loe(x, torch.zeros(2, 1, dtype=F64), u, 1.0)


def test_a_covariance_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="variance must be a number"):
        loe_gap(torch.zeros(2, 3), torch.ones(1, 2) / 2, torch.ones(2))


def test_far_rows_keep_their_gap():
    h, u = torch.randn(50, 4, generator=draws(3), dtype=F64), codes(50, 4, draws(4))
    torch.testing.assert_close(
        free_energy_gap(h - 2.0**40, u, 0.7), free_energy_gap(h, u, 0.7), rtol=1e-2, atol=1e-3
    )
    impossible = torch.tensor([[-1.0, -math.inf]], dtype=F64)
    half = torch.tensor([[0.5, 0.5]], dtype=F64)
    assert free_energy_gap(impossible, half).item() == math.inf
    assert free_energy_gap(impossible, half, math.inf).item() == math.inf
    assert free_energy_gap(impossible, torch.tensor([[1.0, 0.0]], dtype=F64)).item() == 0.0
