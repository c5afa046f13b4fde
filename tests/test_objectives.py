"""The identities of the four objectives, the free energy and the code length, executed; tiny cases enumerated."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.autoencoder import MixtureAutoencoder, code_length
from mixcoder.components import GaussianDiagonal, GaussianFull, GaussianTiedSpherical
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.fitting.alternate import alternate, gain_below
from mixcoder.fitting.fit import prepare, start_from_code
from mixcoder.fitting.kmeans import kmeans_problem, lloyd
from mixcoder.fitting.scan import scan_range
from mixcoder.objectives import eol, eop, free_energy, leop, leop_gap, loe, loe_gap
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import entropy, softargmax_
from mixcoder.sources import TensorSource

F64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=F64)


def simplex(n: int, k: int, seed: int) -> Tensor:
    masses = -torch.rand(n, k, generator=generator(seed), dtype=F64).log()
    return masses / masses.sum(1, keepdim=True)


def balls(x: Tensor, means: Tensor, variance: float) -> Tensor:
    """Log-densities of N(a_k, s2 I), shape (n, k)."""
    params = GaussianTiedSphericalParams(means, torch.tensor([variance], dtype=F64))
    return GaussianTiedSpherical().log_likelihood(params, x)


def divergence(u: Tensor, r: Tensor) -> Tensor:
    return torch.where(u > 0, u * (u.log() - r.log()), 0.0).sum(1)


# Section 1: four objectives of one decoder


@pytest.mark.parametrize(("k", "d"), [(2, 1), (3, 2), (6, 5)])
def test_eop_is_a_sum_of_probabilities_and_leop_its_logarithm(k, d):
    h, u = balls(normal(200, d, seed=1), normal(k, d, seed=2), 0.7), simplex(200, k, seed=3)
    expected = (u * h.exp()).sum(1)
    torch.testing.assert_close(eop(h, u), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(leop(h, u), expected.log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(leop(h, u[0]), (u[0] * h.exp()).sum(1).log(), rtol=1e-12, atol=1e-12)


def test_leop_does_not_underflow_where_eop_does():
    h = torch.tensor([[-1000.0, -1001.0]], dtype=F64)
    u = torch.tensor([[0.5, 0.5]], dtype=F64)
    assert eop(h, u).item() == 0.0
    assert leop(h, u).item() == pytest.approx(-1000 + math.log(0.5 + 0.5 / math.e), rel=1e-14)


@pytest.mark.parametrize(("k", "d", "variance"), [(2, 1, 1.0), (3, 2, 0.2), (6, 5, 3.0)])
def test_eol_is_below_leop_by_the_divergence_from_the_posterior_of_the_code(k, d, variance):
    h, u = balls(normal(2000, d, seed=4), 2 * normal(k, d, seed=5), variance), simplex(2000, k, seed=6)
    gap = leop(h, u) - eol(h, u)
    torch.testing.assert_close(gap, leop_gap(h, u), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gap, divergence(u, (u.log() + h).softmax(1)), rtol=1e-9, atol=1e-10)
    assert bool((gap >= 0).all())


@pytest.mark.parametrize(("k", "d", "variance"), [(2, 1, 1.0), (3, 2, 0.2), (6, 5, 3.0)])
def test_eol_is_below_loe_by_the_spread_of_the_prototypes(k, d, variance):
    x, means, u = normal(2000, d, seed=7), 2 * normal(k, d, seed=8), simplex(2000, k, seed=9)
    gap = loe(x, means, u, variance) - eol(balls(x, means, variance), u)
    torch.testing.assert_close(gap, loe_gap(means, u, variance), rtol=1e-9, atol=1e-10)
    spread = (u * (means - (u @ means)[:, None]).square().sum(2)).sum(1)
    torch.testing.assert_close(loe_gap(means, u, variance), spread / (2 * variance), rtol=1e-12, atol=1e-14)
    assert bool((gap >= 0).all())


def test_the_gaps_keep_their_digits_where_the_objectives_have_lost_theirs():
    """Far from everything the objectives are -1e12 nats and their difference is noise; the gap is not."""
    h, u = normal(100, 4, seed=60), simplex(100, 4, seed=61)
    torch.testing.assert_close(leop_gap(h - 2.0**40, u), leop_gap(h, u), rtol=1e-2, atol=1e-3)
    means = normal(4, 3, seed=62)
    torch.testing.assert_close(loe_gap(means + 1e6, u, 0.5), loe_gap(means, u, 0.5), rtol=1e-8, atol=0)


def test_a_vertex_has_no_gap_and_an_impossible_component_an_infinite_one():
    h = torch.tensor([[-3.0, -math.inf]], dtype=F64)
    at, half = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[0.5, 0.5]], dtype=F64)
    assert leop_gap(h, at).item() == 0.0
    assert leop_gap(h, half).item() == math.inf
    assert leop_gap(h, at[0]).item() == 0.0
    assert loe_gap(torch.tensor([[0.0], [5.0]], dtype=F64), at, 1.0).item() == 0.0


def test_at_a_vertex_all_four_agree():
    x, means = normal(60, 3, seed=10), normal(4, 3, seed=11)
    hard = HardCode(torch.arange(60) % 4, 4)
    h, u = balls(x, means, 0.5), hard.dense(F64)
    own = h.gather(1, hard.index[:, None])[:, 0]
    for value in (leop(h, u), eol(h, u), loe(x, means, u, 0.5), eop(h, u).log()):
        torch.testing.assert_close(value, own, rtol=1e-12, atol=1e-12)


def test_zero_times_log_zero_counts_as_zero():
    h = torch.tensor([[-1.0, -math.inf]], dtype=F64)
    u = torch.tensor([[1.0, 0.0]], dtype=F64)
    assert eol(h, u).item() == -1.0
    assert leop(h, u).item() == -1.0
    assert free_energy(h, u).item() == -1.0


def test_loe_and_leop_are_not_comparable():
    x, means, u = normal(500, 2, seed=12), 2 * normal(3, 2, seed=13), simplex(500, 3, seed=14)
    gap = loe(x, means, u, 1.0) - leop(balls(x, means, 1.0), u)
    assert float(gap.max()) > 0.1
    assert float(gap.min()) < -0.1
    # Between two prototypes the reconstruction is perfect; on one of them the mixture is.
    means, half = torch.tensor([[-3.0], [3.0]], dtype=F64), torch.tensor([[0.5, 0.5]], dtype=F64)
    middle, edge = torch.zeros(1, 1, dtype=F64), torch.full((1, 1), 3.0, dtype=F64)
    assert loe(middle, means, half, 1.0) > leop(balls(middle, means, 1.0), half)
    assert loe(edge, means, half, 1.0) < leop(balls(edge, means, 1.0), half)


def test_the_unscaled_loe_of_the_note_bounds_nothing_but_the_unscaled_density():
    """-(x - abar)^2 against N(a, I): the bound fails in 45 % of random draws; against -(x - a)^2 it holds."""
    n, k = 20_000, 3
    x, means, u = 2 * normal(n, 1, seed=15), 2 * normal(n, k, seed=16), simplex(n, k, seed=17)
    square = (x - means).square()
    unscaled = -(x[:, 0] - (u * means).sum(1)).square()
    normalised = (u * (-0.5 * square - 0.5 * math.log(2 * math.pi))).sum(1)
    assert 0.43 < float((normalised > unscaled).double().mean()) < 0.48
    assert bool(((u * -square).sum(1) <= unscaled + 1e-12).all())
    scaled = -0.5 * (x[:, 0] - (u * means).sum(1)).square() - 0.5 * math.log(2 * math.pi)
    assert bool((normalised <= scaled + 1e-12).all())


# Section 2: encoding is maximisation


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 3.0, 40.0])
def test_the_free_energy_is_largest_at_the_softargmax_and_falls_by_the_divergence(beta):
    h = 3 * normal(500, 4, seed=18)
    q, best = softargmax_(h.clone(), beta)
    torch.testing.assert_close(q, (beta * h).softmax(1), rtol=1e-12, atol=1e-250)
    torch.testing.assert_close(best, torch.logsumexp(beta * h, 1) / beta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(free_energy(h, q, beta), best, rtol=1e-10, atol=1e-10)
    for seed in (19, 20, 21):
        u = simplex(500, 4, seed)
        gap = best - free_energy(h, u, beta)
        assert bool((gap >= 0).all())
        expected = (u * (u.log() - (beta * h).log_softmax(1))).sum(1) / beta
        torch.testing.assert_close(gap, expected, rtol=1e-9, atol=1e-9)


def test_at_beta_one_the_free_energy_is_the_evidence():
    weights, h = simplex(1, 4, seed=22)[0], 2 * normal(300, 4, seed=23)
    code, bound = softargmax_(h + weights.log())
    torch.testing.assert_close(bound, leop(h, weights), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(code, (weights * h.exp()) / eop(h, weights)[:, None], rtol=1e-10, atol=1e-12)


def test_beta_leads_from_even_codes_to_argmax():
    h = normal(300, 4, seed=24)
    cold, hot = Tempered(1e6).encode(h), Tempered(1e-6).encode(h)
    torch.testing.assert_close(cold, Argmax().encode(h).dense(F64), rtol=0, atol=1e-6)
    torch.testing.assert_close(hot, torch.full_like(h, 0.25), rtol=0, atol=1e-5)
    limit = free_energy(h, Argmax().encode(h).dense(F64), math.inf)
    torch.testing.assert_close(limit, h.amax(1), rtol=0, atol=0)
    bounds = torch.stack([softargmax_(h.clone(), beta)[1] for beta in (0.1, 0.5, 1.0, 5.0, 100.0)])
    assert bool((bounds.diff(dim=0) <= 1e-12).all())  # H/beta shrinks: each level lies below the last
    assert bool((bounds[-1] >= limit - 1e-12).all())
    for encoder in (Posterior(), Tempered(1.0)):
        torch.testing.assert_close(encoder.encode(h), h.softmax(1), rtol=1e-12, atol=1e-15)


def test_entropy_lies_between_nothing_and_log_k():
    u = simplex(100, 5, seed=25)
    assert bool((entropy(u) >= 0).all())
    assert bool((entropy(u) <= math.log(5)).all())
    assert entropy(torch.full((1, 5), 0.2, dtype=F64)).item() == pytest.approx(math.log(5))
    assert entropy(torch.eye(5, dtype=F64)).abs().max().item() == 0.0


def test_iterated_bayes_climbs_to_the_vertex_at_the_ratio_of_the_two_largest():
    """u <- u p / sum u p raises log sum u p, linearly, at the ratio of the two largest p."""
    p = torch.tensor([0.5, 1.0, 0.8, 0.3], dtype=F64)
    u = torch.tensor([[0.4, 0.1, 0.3, 0.2]], dtype=F64)
    values, distances = [], []
    for _ in range(60):
        values.append(leop(p.log()[None], u).item())
        distances.append(1 - u[0, 1].item())
        u = u * p / (u * p).sum()
    assert all(after >= before for before, after in itertools.pairwise(values))
    assert distances[-1] / distances[-2] == pytest.approx(0.8, abs=1e-3)
    assert u.argmax().item() == 1


def test_a_hard_code_of_equal_balls_is_k_means():
    """-2 s2 times the bound is the sum of squares, up to a constant: at every step of every fit."""
    x = torch.cat([normal(60, 3, seed=26), normal(60, 3, seed=27) + 3, normal(60, 3, seed=28) - 2])
    for variance in (0.3, 1.0, 7.0):
        source = TensorSource(x)
        problem, _ = prepare(
            source, GaussianTiedSpherical(variance=variance), scan_range(source), fixed_weights=True
        )
        start = start_from_code(problem, HardCode(torch.arange(180) % 3, 3), 3)
        constant = 3 * math.log(2 * math.pi * variance) + 2 * math.log(3)
        checked = []

        def compare(step, problem=problem, variance=variance, constant=constant, checked=checked):
            centres = problem.frame.undo(step.params.means)
            inertia = float(torch.cdist(x, centres).square().amin(1).sum())
            assert -2 * variance * step.bound * 180 == pytest.approx(inertia + 180 * variance * constant)
            checked.append(inertia)
            return False

        alternate(problem, *start, Argmax(), max_iter=20, stop=gain_below(0.0), on_step=compare)
        assert len(checked) > 2
        assert all(after <= before + 1e-9 for before, after in itertools.pairwise(checked))


# Section 3: the derivative of softargmax


def test_the_derivative_of_a_softargmax_mean_is_a_covariance():
    """d/dz sum_k t_k q_k = sum_k q_k (t_k - sum_j t_j q_j) dh_k/dz, against differences and autograd."""
    t, h, slope = normal(5, seed=29), normal(5, seed=30), normal(5, seed=31)

    def mean(z: Tensor) -> Tensor:
        return (t * (h + slope * z + 0.3 * (slope * z).square()).softmax(0)).sum()

    z = torch.tensor(0.7, dtype=F64, requires_grad=True)
    (by_autograd,) = torch.autograd.grad(mean(z), z)
    at = z.detach()
    q = (h + slope * at + 0.3 * (slope * at).square()).softmax(0)
    by_formula = (q * (t - (t * q).sum()) * (slope + 0.6 * slope.square() * at)).sum()
    step = 1e-5
    by_differences = (mean(at + step) - mean(at - step)) / (2 * step)
    assert float(by_formula) == pytest.approx(float(by_autograd), rel=1e-12)
    assert float(by_formula) == pytest.approx(float(by_differences), rel=1e-8)


# Section 7: a mixture as a code


def gaussians(n_rows: int) -> tuple[MixtureAutoencoder, Tensor]:
    family, params = GaussianDiagonal.examples()[0]
    log_weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64).log()
    frame = Frame.identity(2)
    model = MixtureAutoencoder(family, params, log_weights, Posterior(), frame, frame.scale)
    return model, model.sample(n_rows, generator(32))[0]


def test_a_hard_code_costs_minus_log_of_its_weight_in_bits():
    log_weights = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=F64).log()
    code = HardCode(torch.tensor([0, 1, 2, 3, 3]), 4)
    expected = torch.tensor([1.0, 2.0, 3.0, 3.0, 3.0], dtype=F64)
    torch.testing.assert_close(code_length(code, log_weights), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(code_length(code.dense(F64), log_weights), expected, rtol=1e-12, atol=0)
    even = torch.full((8,), -math.log(8), dtype=F64)
    assert code_length(HardCode(torch.arange(8), 8), even).tolist() == pytest.approx([3.0] * 8)


def test_the_mean_length_of_components_drawn_is_the_entropy_of_the_weights():
    log_weights = torch.tensor([0.6, 0.3, 0.1], dtype=F64).log()
    every = code_length(HardCode(torch.arange(3), 3), log_weights)
    bits = float(entropy(log_weights.exp()[None])) / math.log(2)
    assert float(every @ log_weights.exp()) == pytest.approx(bits)
    # Kraft: the lengths of a complete code.
    assert float((2.0**-every).sum()) == pytest.approx(1.0)


def test_a_soft_code_costs_its_divergence_from_the_weights():
    weights, u = simplex(1, 4, seed=33)[0], simplex(100, 4, seed=34)
    expected = divergence(u, weights.expand(100, 4)) / math.log(2)
    torch.testing.assert_close(code_length(u, weights.log()), expected, rtol=1e-10, atol=1e-12)
    assert float(code_length(weights[None], weights.log())) == pytest.approx(0.0, abs=1e-14)
    assert bool((code_length(u, weights.log()) >= 0).all())


def test_the_bound_is_minus_rate_minus_distortion():
    """log p(x) = -(divergence of the code from the weights) + its expected log-likelihood."""
    model, x = gaussians(400)
    h = model.log_likelihood(x)
    for encoder in (Posterior(), Tempered(0.5), Tempered(4.0)):
        u = encoder.encode(h + model.log_weights)
        rate = code_length(u, model.log_weights) * math.log(2)
        bound = free_energy(h + model.log_weights, u, 1.0)
        torch.testing.assert_close(bound, eol(h, u) - rate, rtol=1e-9, atol=1e-10)
        assert bool((bound <= model.log_prob(x) + 1e-9).all())
    posterior = Posterior().encode(h + model.log_weights)
    rate = code_length(posterior, model.log_weights) * math.log(2)
    torch.testing.assert_close(eol(h, posterior) - rate, model.log_prob(x), rtol=1e-9, atol=1e-9)


def test_more_components_buy_less_distortion_for_more_rate():
    x = normal(600, 2, seed=35)
    rates, distortions = [], []
    for k in (1, 2, 4, 8, 16):
        source = TensorSource(x)
        problem, _ = kmeans_problem(source, scan_range(source))
        centres = problem.rows(torch.arange(k) * 37)
        model = lloyd(problem, centres, max_iter=100, tol=0.0).model
        code = model.encode(x)
        assert isinstance(code, HardCode)
        shares = torch.bincount(code.index, minlength=k).double() / 600
        rates.append(float(code_length(code, shares.log()).mean()))
        distortions.append(float((x - model.decode(code)).square().sum(1).mean()))
        assert rates[-1] <= math.log2(k) + 1e-12  # an entropy coder beats the flat one
    assert rates[0] == 0.0
    assert all(after > before for before, after in itertools.pairwise(rates))
    assert all(after < before for before, after in itertools.pairwise(distortions))


# Tiny n and k: every code there is


def every_code(n: int, k: int) -> list[HardCode]:
    return [HardCode(torch.tensor(index), k) for index in itertools.product(range(k), repeat=n)]


@pytest.mark.parametrize(("n", "k"), [(5, 2), (4, 3)])
def test_the_argmax_code_is_the_best_of_all_codes(n, k):
    x, means = normal(n, 2, seed=36), normal(k, 2, seed=37)
    h = balls(x, means, 0.5) + simplex(1, k, seed=38)[0].log()
    totals = torch.stack([Argmax().bound(h, code).sum() for code in every_code(n, k)])
    best = Argmax().encode(h)
    assert float(Argmax().bound(h, best).sum()) == float(totals.max())
    assert bool((every_code(n, k)[int(totals.argmax())].index == best.index).all())


@pytest.mark.parametrize(("n", "k"), [(6, 2), (5, 3)])
def test_the_evidence_is_a_sum_over_all_codes_and_the_posterior_its_margin(n, k):
    x, means, log_weights = normal(n, 2, seed=39), normal(k, 2, seed=40), simplex(1, k, seed=41)[0].log()
    h = balls(x, means, 0.5) + log_weights
    codes = every_code(n, k)
    log_joints = torch.stack([Argmax().bound(h, code).sum() for code in codes])
    assert float(torch.logsumexp(log_joints, 0)) == pytest.approx(
        float(Posterior().bound(h, h.softmax(1)).sum())
    )
    shares = log_joints.softmax(0)
    margin = sum(share * code.dense(F64) for share, code in zip(shares, codes, strict=True))
    torch.testing.assert_close(Posterior().encode(h), margin, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0.4, 1.0, 2.5])
def test_no_code_on_a_fine_grid_of_the_simplex_beats_the_tempered_posterior(beta):
    steps = [(i, j, 30 - i - j) for i in range(31) for j in range(31 - i)]
    grid = torch.tensor(steps, dtype=F64) / 30
    for row in 2 * normal(20, 3, seed=42):
        h = row.expand(len(grid), 3)
        code = Tempered(beta).encode(row[None])
        best, bound = float(free_energy(h, grid, beta).max()), float(free_energy(row[None], code, beta))
        assert best <= bound + 1e-12
        nearest = grid[int(free_energy(h, grid, beta).argmax())]
        assert float((nearest - code[0]).abs().max()) < 0.05


@pytest.mark.parametrize(("n", "k"), [(7, 2), (6, 3)])
def test_hard_em_from_every_code_ends_no_lower_and_the_best_is_the_optimum(n, k):
    """k-means over all k^n partitions: each fit improves on its start, and the best start is the global optimum."""
    x = torch.cat([normal(n - n // 2, 2, seed=43), normal(n // 2, 2, seed=44) + 2.5])
    source = TensorSource(x)
    problem, _ = kmeans_problem(source, scan_range(source))

    def inertia(code: HardCode) -> float:
        total = 0.0
        for j in range(k):
            rows = x[code.index == j]
            total += float((rows - rows.mean(0)).square().sum()) if len(rows) else 0.0
        return total

    codes = [code for code in every_code(n, k) if len(code.index.unique()) == k]
    starts = [inertia(code) for code in codes]
    optimum = min(starts)
    ends = []
    for code, before in zip(codes, starts, strict=True):
        centres = torch.stack([problem.frame.apply(x)[code.index == j].mean(0) for j in range(k)])
        model = lloyd(problem, centres, max_iter=50, tol=0.0).model
        ends.append(inertia(HardCode(model.assign(x), k)))
        assert optimum - 1e-9 <= ends[-1] <= before + 1e-9
    assert min(ends) == pytest.approx(optimum)
    assert ends[starts.index(optimum)] == pytest.approx(optimum)


def test_the_maximiser_of_a_code_is_the_best_of_a_grid_of_parameters():
    x = torch.tensor([[-1.0], [0.2], [0.5], [2.0]], dtype=F64)
    u = simplex(4, 2, seed=45)
    family = GaussianFull(min_variance=0.0)
    best = family.maximize(family.statistics(None, x, u))
    means = torch.linspace(-2, 3, 401, dtype=F64)
    variances = torch.linspace(0.05, 3, 400, dtype=F64)
    for k in range(2):
        square = (x - means).square().T @ u[:, k]  # (m,)
        values = -0.5 * (square[:, None] / variances + u[:, k].sum() * (2 * math.pi * variances).log())
        at, of = divmod(int(values.argmax()), len(variances))
        assert float(means[at]) == pytest.approx(float(best.means[k, 0]), abs=0.02)
        assert float(variances[of]) == pytest.approx(float(best.covariances[k, 0, 0]), abs=0.01)
        reached = float(eol(family.log_likelihood(best, x)[:, k : k + 1], u[:, k : k + 1]).sum())
        assert reached >= float(values.max()) - 1e-12
