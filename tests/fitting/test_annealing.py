"""Deterministic annealing: critical temperatures against brute force, free energy, splits that keep their promise."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from mixcoder import components
from mixcoder.checks.case import Case
from mixcoder.checks.discovery import discover
from mixcoder.components import (
    Family,
    GaussianDiagonal,
    GaussianFull,
    GaussianSpherical,
    GaussianTied,
    GaussianTiedDiagonal,
    GaussianTiedSpherical,
)
from mixcoder.components.gaussian_full import GaussianFullParams
from mixcoder.encoders import Annealed
from mixcoder.fitting import annealing
from mixcoder.fitting.annealing import anneal
from mixcoder.fitting.axes import flattest_places, principal_axes
from mixcoder.fitting.bath import Bath, Mix
from mixcoder.fitting.kmeans import annealed_centres, kmeans_problem
from mixcoder.fitting.scan import scan_range
from mixcoder.fitting.splitting import _cost_of_joins, candidates
from mixcoder.fitting.start import draw_sample
from mixcoder.sources import TensorSource

F64 = torch.float64


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(n: int = 300, seed: int = 0) -> torch.Tensor:
    """One cloud with a long axis that is no column's."""
    rows = torch.randn(n, 3, generator=random(seed), dtype=F64)
    return rows @ torch.tensor([[2.0, 1.0, 0.0], [-0.5, 0.8, 0.2], [0.1, 0.0, 0.6]], dtype=F64) + 5.0


def two_blobs(n: int = 300, gap: float = 2.0) -> torch.Tensor:
    rows = 0.7 * torch.randn(n, 2, generator=random(1), dtype=F64)
    rows[: n // 3] += gap * torch.tensor([1.0, 0.5], dtype=F64)
    return rows


def bath_of(problem, n_components: int = 2) -> Bath:
    sample = draw_sample(problem, n_components, problem.family.geometry, random())
    return Bath.of(problem, sample, n_components, random())


def pair_parts(x: np.ndarray, beta: float, variance: float) -> bool:
    """Whether two round components with free masses, next to each other, drift apart at beta: plain NumPy EM."""
    mean, axes = x.mean(0), np.linalg.svd(x - x.mean(0), full_matrices=False)[2]
    centres = mean + np.array([[1e-3], [-1e-3]]) * axes[:2].sum(0)
    masses = np.array([0.5, 0.5])
    before = np.linalg.norm(centres[0] - centres[1])
    for _ in range(600):
        energy = -beta * ((x[:, None] - centres) ** 2).sum(2) / (2 * variance)
        code = masses * np.exp(energy - energy.max(1, keepdims=True))
        code /= code.sum(1, keepdims=True)
        masses, centres = code.mean(0), code.T @ x / code.sum(0)[:, None]
        if np.linalg.norm(centres[0] - centres[1]) > 10 * before:
            return True
    return False


def brute_critical_beta(x: np.ndarray, variance: float, guess: float) -> float:
    low, high = guess / 3, 3 * guess
    assert pair_parts(x, high, variance)
    assert not pair_parts(x, low, variance)
    for _ in range(9):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if pair_parts(x, middle, variance) else (middle, high)
    return math.sqrt(low * high)


# Critical temperatures


@pytest.mark.parametrize("rows", [blob, two_blobs])
def test_the_first_split_is_where_theory_and_brute_force_put_it(rows, problem_of):
    """beta_c = s2 / lambda_max(Cov): EM on a pair, from next to each other, parts above it and not below."""
    x, variance = rows(), 0.3
    covariance = torch.cov(x.T, correction=0)
    theory = variance / float(torch.linalg.eigvalsh(covariance)[-1])
    assert brute_critical_beta(x.numpy(), variance, theory) == pytest.approx(theory, rel=0.02)
    problem = problem_of(GaussianTiedSpherical(variance=variance), x)
    betas = tuple(theory * factor for factor in (0.9, 0.999, 1.02))
    trace = anneal(problem, 2, Annealed(betas=betas, tol=1e-7), random())[1]
    assert trace.beta == list(betas)
    assert trace.n_components == [1, 1, 2]


@pytest.mark.parametrize("rows", [blob, two_blobs])
def test_squared_distances_split_at_twice_beta_times_the_largest_variance(rows):
    """k-means: u = exp(-beta |x - a|^2) becomes unstable at 2 beta lambda_max = 1."""
    x = rows()
    source = TensorSource(x)
    problem, _ = kmeans_problem(source, scan_range(source))
    theory = 0.5 / float(torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[-1])
    betas = (0.999 * theory, 1.02 * theory)
    trace = annealed_centres(problem, 2, Annealed(betas=betas, tol=1e-7), random())[1]
    assert trace.n_components == [1, 2]
    first = annealed_centres(problem, 4, Annealed(stop=math.inf, ratio=1.3), random())[1]
    assert first.beta[0] == pytest.approx(theory / math.sqrt(1.3))
    assert first.n_components[0] == 1
    assert first.n_components[-1] == 4


def test_below_the_critical_temperature_all_is_one_component(problem_of):
    x = two_blobs()
    for family, stop in ((GaussianTiedSpherical(variance=50.0), 1.0), (GaussianFull(), 0.05)):
        mix, trace = anneal(problem_of(family, x), 3, Annealed(start=0.01, stop=stop), random())
        assert set(trace.n_components) == {1}
        assert trace.entropy[-1] == pytest.approx(0.0, abs=1e-12)
        assert mix.n_components == 3  # what was asked for, so that a fit can begin


def test_the_second_split_belongs_to_the_component_with_the_larger_variance(problem_of):
    tight = 0.1 * torch.randn(200, 2, generator=random(2), dtype=F64)
    wide = torch.randn(200, 2, generator=random(3), dtype=F64) + 20.0
    problem = problem_of(GaussianTiedSpherical(variance=1.0), torch.cat([tight, wide]))
    lambda_wide = float(torch.linalg.eigvalsh(torch.cov(wide.T, correction=0))[-1])
    betas = (0.01, 0.9 / lambda_wide, 1.2 / lambda_wide)
    mix, trace = anneal(problem, 3, Annealed(betas=betas), random())
    assert trace.n_components == [2, 2, 3]
    means = problem.frame.undo(mix.params.means)
    assert int((means[:, 0] > 10).sum()) == 2


@pytest.mark.parametrize(
    "family", [GaussianFull(), GaussianDiagonal(), GaussianSpherical()], ids=lambda f: type(f).__name__
)
def test_a_family_with_spreads_of_its_own_splits_where_two_components_are_better(family, problem_of):
    """The transition is of first order. Never where one is better; where some start finds better, at the next beta."""
    x = two_blobs(150, gap=4.0)
    problem = problem_of(family, x)
    bath = bath_of(problem)
    one = bath.one_component()
    betas = tuple(0.08 * 1.3**i for i in range(10))

    def best_of_two(beta: float) -> float:
        reached = -math.inf
        for seed in range(4):
            along = bath.view @ torch.randn(bath.view.shape[1], generator=random(seed), dtype=F64)
            mix = bath.maximized(
                torch.stack([share := (along > along.quantile(0.3 + 0.1 * seed)).double(), 1 - share], 1)
            )
            for _ in range(25):
                value, mix = bath.step(mix, beta)
            reached = max(reached, value)
        return reached

    alone = [bath.step(one, beta)[0] for beta in betas]
    better = [best_of_two(beta) > value + 1e-3 / beta for beta, value in zip(betas, alone, strict=True)]
    trace = anneal(problem, 2, Annealed(betas=betas), random())[1]
    split = [n == 2 for n in trace.n_components]
    assert not split[0]
    assert better[-1]
    assert split.index(True) <= better.index(True) + 1
    for parted, reached, value in zip(split, trace.free_energy, alone, strict=True):
        assert (reached > value) if parted else reached == pytest.approx(value, abs=1e-9)


# Free energy


FAMILIES = [
    GaussianTiedSpherical(variance=0.3),
    GaussianFull(),
    GaussianDiagonal(),
    GaussianSpherical(),
    GaussianTied(),
    GaussianTiedDiagonal(),
    GaussianTiedSpherical(),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_at_fixed_beta_the_free_energy_never_falls(family, clouds, problem_of):
    steps = []
    anneal(problem_of(family, clouds(80)), 4, Annealed(ratio=1.4), random(), on_step=steps.append)
    assert len(steps) > 10
    for before, after in itertools.pairwise(steps):
        if before.beta == after.beta and after.settled and before.n_components == after.n_components:
            assert after.free_energy >= before.free_energy - 1e-9 * (1 + abs(after.free_energy))


def test_a_trace_holds_the_formulas(clouds, problem_of):
    """F = 1/(beta N) sum log sum pi p^beta and the entropy of the code, written out; F rises with beta."""
    x, family = clouds(80), GaussianFull()
    problem = problem_of(family, x)
    mix, trace = anneal(problem, 3, Annealed(tol=1e-9), random())
    beta = trace.beta[-1]
    assert beta == 1.0
    h = family.log_likelihood(mix.params, problem.frame.apply(x)) + problem.frame.log_scale
    joint = mix.log_masses + beta * h
    assert trace.free_energy[-1] == pytest.approx(float(torch.logsumexp(joint, 1).mean()) / beta, abs=1e-6)
    code = joint.softmax(1)
    assert trace.entropy[-1] == pytest.approx(float(torch.special.entr(code).sum(1).mean()), abs=1e-3)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(trace.free_energy))
    assert all(a <= b for a, b in itertools.pairwise(trace.n_components))
    for n, entropy in zip(trace.n_components, trace.entropy, strict=True):
        assert 0 <= entropy <= math.log(n) + 1e-12
    assert all(n >= 1 for n in trace.n_steps)


def test_the_free_energy_of_k_means_tends_to_minus_the_squared_distances():
    x = two_blobs(gap=6.0)
    source = TensorSource(x)
    problem, _ = kmeans_problem(source, scan_range(source))
    betas = tuple(0.02 * 2.0**i for i in range(12))
    centres, trace = annealed_centres(problem, 2, Annealed(betas=betas), random())
    centres = problem.frame.undo(centres)
    nearest = torch.cdist(x, centres).square().amin(1).mean()
    assert trace.free_energy[-1] == pytest.approx(-float(nearest), rel=0.02)


@pytest.mark.parametrize("family", FAMILIES[:4], ids=lambda f: type(f).__name__)
def test_copies_of_a_component_change_nothing_and_are_counted_once(family, clouds, problem_of):
    bath = bath_of(problem_of(family, clouds(60)), 3)
    mix = bath.split(bath.one_component(), 1.0, {0: (bath.view[:, 0] > 0).double()})
    twice = torch.tensor([0, 1, 1])
    shares = torch.tensor([0.0, math.log(0.3), math.log(0.7)], dtype=F64)
    copied = Mix(mix.params.take(twice), mix.log_masses[twice] + shares)
    for beta in (0.3, 1.0, 2.0):
        one, two = bath.step(mix, beta), bath.step(copied, beta)
        assert two[0] == pytest.approx(one[0], rel=1e-12)
        joined = bath.joined(copied, beta)
        assert joined.n_components == 2
        torch.testing.assert_close(joined.log_masses, mix.log_masses, rtol=1e-12, atol=1e-12)
        assert bath.joined(mix, beta).n_components == 2


@pytest.mark.parametrize("family", FAMILIES[1:4], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("beta", [0.2, 0.6, 1.0])
def test_a_split_raises_the_free_energy_by_no_less_than_its_trial_promised(family, beta, clouds, problem_of):
    """Jensen: F(split) >= F + (1/beta) sum w u log sum rho (p_half / p)^beta."""
    bath = bath_of(problem_of(family, clouds(80)), 4)
    mix = bath.split(bath.one_component(), beta, {0: (bath.view[:, 0] > 0.2).double()})
    for _ in range(5):
        before, mix = bath.step(mix, beta)
    before = bath.step(mix, beta)[0]
    found = candidates(bath, mix, beta, 1e-4)
    for k in range(mix.n_components):
        after = bath.step(bath.split(mix, beta, {k: found.shares[:, k]}), beta)[0]
        assert after >= before + float(found.gains[k]) / bath.total - 1e-9


# Symmetries


@pytest.mark.parametrize(
    "family",
    [GaussianTiedSpherical(variance=0.3), GaussianFull(), GaussianTied()],
    ids=lambda f: type(f).__name__,
)
def test_rotation_and_shift_change_nothing_but_the_coordinates(family, clouds, problem_of):
    x = clouds(70)
    turn = torch.linalg.qr(torch.randn(2, 2, generator=random(5), dtype=F64))[0]
    moved = x @ turn + torch.tensor([300.0, -20.0], dtype=F64)
    schedule = Annealed(betas=(0.05, 0.1, 0.2, 0.4, 0.8, 1.0))
    one, trace = anneal(problem_of(family, x), 3, schedule, random())
    two, same = anneal(problem_of(family, moved), 3, schedule, random())
    assert trace.n_components == same.n_components
    torch.testing.assert_close(
        torch.tensor(trace.free_energy), torch.tensor(same.free_energy), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        one.log_masses.sort().values, two.log_masses.sort().values, rtol=1e-5, atol=1e-5
    )


def test_a_change_of_units_scales_the_temperatures_of_k_means():
    x, c = two_blobs(), 37.0
    traces = []
    for rows in (x, c * x):
        source = TensorSource(rows)
        problem, _ = kmeans_problem(source, scan_range(source))
        centres, trace = annealed_centres(problem, 3, Annealed(stop=math.inf), random())
        traces.append((problem.frame.undo(centres), trace))
    (one, first), (two, second) = traces
    assert first.n_components == second.n_components
    assert np.allclose(np.array(first.beta), c * c * np.array(second.beta))
    assert np.allclose(c * c * np.array(first.free_energy), np.array(second.free_energy))
    gaps = torch.cdist(c * one, two)
    assert float(gaps.amin(1).max()) < 1e-6 * c


def test_row_weights_are_rows_that_often(clouds, problem_of):
    x = clouds(40)
    weights = torch.randint(1, 4, (120,), generator=random(6)).double()
    repeated = x.repeat_interleave(weights.long(), 0)
    for family in (GaussianTiedSpherical(variance=0.3), GaussianDiagonal()):
        one = anneal(problem_of(family, x, weights), 3, Annealed(betas=(0.1, 0.3, 1.0)), random())
        two = anneal(problem_of(family, repeated), 3, Annealed(betas=(0.1, 0.3, 1.0)), random())
        assert one[1].n_components == two[1].n_components
        torch.testing.assert_close(
            torch.tensor(one[1].free_energy), torch.tensor(two[1].free_energy), rtol=1e-6, atol=1e-6
        )


# Principal axes


@pytest.mark.parametrize(("dtype", "e"), [(F64, 5), (F64, 60), (torch.float32, 60)])
def test_principal_axes_are_those_of_the_weighted_covariances(dtype, e):
    points = (
        torch.randn(400, e, generator=random(7), dtype=F64) * torch.linspace(0.2, 3.0, e, dtype=F64) + 4.0
    )
    code = torch.rand(400, 3, generator=random(8), dtype=F64).pow(6)
    code[:, 2] *= points[:, -1] > 5
    variances, axes, centres = principal_axes(points.to(dtype), code.to(dtype))
    for k in range(3):
        w = code[:, k] / code[:, k].sum()
        mean = w @ points
        covariance = (points - mean).T @ ((points - mean) * w[:, None])
        values, vectors = torch.linalg.eigh(covariance)
        assert float(variances[k]) == pytest.approx(float(values[-1]), rel=1e-9 if e <= 8 else 0.02)
        assert float(variances[k]) <= float(values[-1]) * (1 + 1e-5)
        torch.testing.assert_close(centres[k].double(), mean, rtol=1e-4, atol=1e-4)
        if e <= 8:
            assert abs(float(axes[k].double() @ vectors[:, -1])) == pytest.approx(1.0, abs=1e-9)


def test_the_flattest_axis_finds_two_clusters_that_variance_does_not_show():
    """Two sheets of rows a little apart, across two long axes: the axis is the one between them, in any units."""
    rows = torch.randn(600, 3, generator=random(10), dtype=F64)
    side = (torch.arange(600) % 2).double()
    rows[:, 2] = 0.2 * rows[:, 2] + side
    for mix in (torch.eye(3, dtype=F64), torch.randn(3, 3, generator=random(11), dtype=F64)):
        places = flattest_places((rows * torch.tensor([30.0, 5.0, 1.0])) @ mix, torch.ones(600, 1, dtype=F64))
        right = ((places[:, 0] > 0) == (side > 0)).double().mean()
        assert float(torch.maximum(right, 1 - right)) > 0.98
        assert float(places.square().mean()) == pytest.approx(1.0)


def test_many_rows_have_the_principal_axes_of_few():
    """Large products take another road, and arrive at the same place."""
    points = torch.randn(5000, 150, generator=random(12)) * torch.linspace(0.1, 2.0, 150)
    code = torch.rand(5000, 12, generator=random(13))
    large, small = principal_axes(points, code), principal_axes(points.double(), code.double())
    torch.testing.assert_close(large[0], small[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(large[2].double(), small[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_join_costs_what_the_free_energy_falls_by(weighted, problem_of):
    x, beta = two_blobs(150, gap=4.0), 0.7
    weights = torch.rand(150, generator=random(14), dtype=F64) + 0.5 if weighted else None
    bath = bath_of(problem_of(GaussianFull(), x, weights), 4)
    mix = bath.maximized(torch.rand(len(bath.rows), 4, generator=random(15), dtype=F64).pow(2))
    code, here = bath.code(mix, beta), bath.step(mix, beta)[0]
    costs = _cost_of_joins(bath, mix, beta, code)
    assert torch.equal(costs, costs.T)
    seen = 0
    for j, k in itertools.combinations(range(4), 2):
        if not math.isfinite(costs[j, k]):
            continue
        joined = bath.maximized((code[:, j] + code[:, k])[:, None]).params
        others = [i for i in range(4) if i not in (j, k)]
        params = GaussianFullParams(
            *(
                torch.cat([getattr(joined, entry.name), getattr(mix.params, entry.name)[others]])
                for entry in fields(joined)
            )
        )
        masses = mix.log_masses.exp()
        log_masses = torch.cat([(masses[j] + masses[k])[None], masses[others]]).log()
        fall = here - bath.step(Mix(params, log_masses), beta)[0]
        assert float(costs[j, k]) / bath.total == pytest.approx(fall, rel=1e-9)
        seen += 1
    assert seen == 4


@pytest.mark.parametrize(
    "family", [GaussianFull(), GaussianSpherical(), GaussianDiagonal()], ids=lambda f: type(f).__name__
)
def test_exchanges_at_the_end_never_lower_the_free_energy(family, problem_of, monkeypatch):
    rows = torch.cat(
        [two_blobs(120), two_blobs(90) @ torch.tensor([[0.2, 1.0], [1.0, -0.3]], dtype=F64) + 2.0]
    )
    reached = []
    for tried in (0, 3):
        monkeypatch.setattr(annealing, "_LAST_TRIALS", tried)
        reached.append(anneal(problem_of(family, rows), 4, Annealed(), random())[1].free_energy[-1])
    assert reached[1] >= reached[0]


# Every family, and awkward rows


def every_case():
    for kind in discover(components, Family):
        for number, (family, params) in enumerate(kind.examples()):
            yield pytest.param(
                Case(family, params, f"{kind.__name__} {number}"), id=f"{kind.__name__}-{number}"
            )


@pytest.mark.parametrize("case", list(every_case()))
def test_every_family_can_be_annealed(case):
    x, _ = case.rows(200, seed=90)
    if isinstance(getattr(case.family, "n_latent", None), tuple):
        with pytest.raises(ValueError, match="one rank for all"):
            anneal(case.problem(x), 3, Annealed(ratio=2.0), random())
        return
    mix, trace = anneal(case.problem(x), 3, Annealed(ratio=2.0), random())
    assert mix.n_components == 3
    assert float(mix.log_masses.exp().sum()) == pytest.approx(1.0)
    assert all(math.isfinite(value) for value in trace.free_energy)
    assert trace.n_components[0] == 1
    assert bool(
        torch.isfinite(case.family.log_likelihood(mix.params, case.problem(x).rows(torch.arange(200)))).any()
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_equal_rows_and_few_rows_lead_to_finite_centres(dtype):
    ten = torch.randn(10, 3, generator=random(9), dtype=F64)
    for x, k in ((torch.ones(50, 3), 4), (ten, 10), (ten[:2].repeat(40, 1), 5), (ten[:, :1], 3)):
        source = TensorSource(x.to(dtype))
        problem, _ = kmeans_problem(source, scan_range(source))
        centres, _ = annealed_centres(problem, k, Annealed(stop=math.inf), random())
        assert centres.shape == (min(k, len(x)) if len(x) <= k else k, x.shape[1])
        assert bool(centres.isfinite().all())
