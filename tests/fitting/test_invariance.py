"""What must not change a fit: units, the order of rows, threads, runs."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from mixcoder.components import (
    PPCA,
    FactorAnalyzer,
    GaussianDiagonal,
    GaussianFull,
    GaussianLowRankTied,
    GaussianSpherical,
    GaussianTied,
    GaussianTiedDiagonal,
    GaussianTiedSpherical,
    Poisson,
    StudentT,
)
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.fitting.alternate import FitResult, alternate, gain_below
from mixcoder.fitting.fit import found_start, start_from_code
from mixcoder.fitting.kmeans import kmeans_problem, lloyd, searched_centres
from mixcoder.fitting.scan import scan_range
from mixcoder.fitting.start import draw_sample
from mixcoder.sources import TensorSource

F64 = torch.float64
FAMILIES = [
    GaussianFull(),
    GaussianDiagonal(),
    GaussianSpherical(),
    GaussianTied(),
    GaussianTiedDiagonal(),
    GaussianTiedSpherical(),
    StudentT(),
]
by_name = {type(family).__name__: family for family in FAMILIES}


def fitted(problem, k: int, encoder=None, *, max_iter: int = 25, seed: int = 0) -> FitResult:
    encoder = encoder or Posterior()
    start = found_start(problem, k, encoder, torch.Generator().manual_seed(seed))
    return alternate(problem, *start, encoder, max_iter=max_iter, stop=gain_below(1e-7), accelerate=True)


def assert_same_bits(one: FitResult, two: FitResult) -> None:
    assert one.n_iter == two.n_iter
    mine, theirs = one.model, two.model
    assert bool((mine.log_weights == theirs.log_weights).all())
    for field in fields(mine.params):
        assert bool((getattr(mine.params, field.name) == getattr(theirs.params, field.name)).all()), (
            field.name
        )


# Units


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("p", [-100, 100])
@pytest.mark.parametrize("name", by_name)
def test_a_fit_in_other_powers_of_two_is_bit_for_bit_the_rescaled_fit(name, p, dtype, clouds, problem_of):
    x = (clouds() + 3).to(dtype)
    y = torch.ldexp(x, torch.tensor(p)).to(dtype)
    one, two = fitted(problem_of(by_name[name], x), 3), fitted(problem_of(by_name[name], y), 3)
    assert_same_bits(one, two)
    prototypes = torch.ldexp(one.model.prototypes(), torch.tensor(p))
    assert bool((prototypes == two.model.prototypes()).all())
    assert bool((one.model.encode(x) == two.model.encode(y)).all())
    assert two.bound == pytest.approx(one.bound - 2 * p * math.log(2), rel=1e-12)
    here, there = one.model.log_prob(x), two.model.log_prob(y)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(there, here - 2 * p * math.log(2), rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("p", [-100, 100])
def test_k_means_in_other_powers_of_two_is_bit_for_bit_the_rescaled_one(p, clouds):
    results = []
    for x in (clouds(), torch.ldexp(clouds(), torch.tensor(p))):
        source = TensorSource(x)
        problem, _ = kmeans_problem(source, scan_range(source))
        centres = searched_centres(problem, 3, torch.Generator().manual_seed(0))
        results.append(lloyd(problem, centres, max_iter=50, tol=0.0))
    assert_same_bits(*results)
    assert bool(
        (torch.ldexp(results[0].model.prototypes(), torch.tensor(p)) == results[1].model.prototypes()).all()
    )


@pytest.mark.parametrize("name", by_name)
def test_other_units_and_another_origin_for_every_column_change_nothing_but_rounding(
    name, clouds, problem_of
):
    family, x = by_name[name], clouds()
    units = torch.tensor([1e-3, 1e-3] if "Spherical" in name else [1e-6, 1e5], dtype=F64)
    y = x * units + torch.tensor([40.0, -7.0], dtype=F64) * units
    one, two = fitted(problem_of(family, x), 3, max_iter=100), fitted(problem_of(family, y), 3, max_iter=100)
    assert two.bound == pytest.approx(one.bound - float(units.log().sum()), abs=1e-6)
    back = two.model.prototypes() / units - torch.tensor([40.0, -7.0], dtype=F64)
    torch.testing.assert_close(back, one.model.prototypes(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("offset", [1e4, 1e8])
@pytest.mark.parametrize("name", by_name)
def test_far_from_the_origin_a_fit_finds_what_it_finds_near_it(name, offset, clouds, problem_of):
    x = clouds()
    y = x + offset
    near, far = (fitted(problem_of(by_name[name], rows), 3, max_iter=100) for rows in (y - offset, y))
    assert far.bound == pytest.approx(near.bound, abs=1e-6)
    torch.testing.assert_close(far.model.prototypes() - offset, near.model.prototypes(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e200])
@pytest.mark.parametrize("name", by_name)
def test_no_scale_overflows(name, scale, clouds, problem_of):
    result = fitted(problem_of(by_name[name], clouds() * scale), 3)
    plain = fitted(problem_of(by_name[name], clouds()), 3)
    assert result.bound == pytest.approx(plain.bound - 2 * math.log(scale), rel=1e-6)
    torch.testing.assert_close(
        result.model.prototypes() / scale, plain.model.prototypes(), rtol=1e-3, atol=1e-3
    )


def test_rows_of_a_map_are_fitted_to_the_map_of_the_fit(clouds, problem_of):
    """Full covariances know no axes: any invertible map of the rows maps the fit."""
    x = clouds()
    turn = torch.tensor([[0.3, 2.0], [-1.0, 0.4]], dtype=F64)
    one, two = (fitted(problem_of(GaussianFull(), rows), 3, max_iter=200) for rows in (x, x @ turn.T))
    assert two.bound == pytest.approx(one.bound - math.log(abs(float(torch.linalg.det(turn)))), abs=1e-5)


# Rows


def test_a_start_belongs_to_the_rows_not_to_their_order_their_number_or_their_units(clouds, problem_of):
    x = clouds()
    order = torch.randperm(600, generator=torch.Generator().manual_seed(5))
    tables = {
        "as it is": (x, None),
        "shuffled": (x[order], None),
        "twice": (x.repeat(2, 1), None),
        "weighted": (x, torch.full((600,), 2.5, dtype=F64)),
        "in other units": (x * torch.tensor([1e-3, 40.0], dtype=F64), None),
    }
    bounds = {}
    for what, (rows, weights) in tables.items():
        problem = problem_of(GaussianFull(), rows, weights)
        start = found_start(problem, 3, Posterior(), torch.Generator().manual_seed(1))
        reached = alternate(problem, *start, Posterior(), max_iter=1, stop=lambda step: None).bound
        bounds[what] = reached + (math.log(0.04) if "units" in what else 0.0)
    assert list(bounds.values()) == pytest.approx([bounds["as it is"]] * len(bounds), abs=1e-6)


def test_the_sample_of_a_small_table_is_the_table(clouds, problem_of):
    problem = problem_of(GaussianFull(), clouds())
    sample = draw_sample(problem, 3, "affine", torch.Generator().manual_seed(0))
    assert len(sample.rows) == 600
    assert float(sample.weights.sum()) == 600.0
    mine = sample.rows[sample.rows[:, 0].argsort()]
    theirs = problem.frame.apply(clouds())
    assert bool((mine == theirs[theirs[:, 0].argsort()]).all())


@pytest.mark.parametrize(
    "family",
    [GaussianFull(), StudentT(), GaussianTied(), PPCA(1), FactorAnalyzer(1)],
    ids=lambda f: type(f).__name__,
)
def test_weights_are_repetitions_from_start_to_end(family, clouds, problem_of):
    x = clouds()
    times = 1 + torch.arange(600) % 3
    code = (0.9 * torch.nn.functional.one_hot(torch.arange(600) // 200, 3) + 0.1 / 3).double()
    one = problem_of(family, x, times.double())
    two = problem_of(family, x.repeat_interleave(times, 0))
    results = [
        alternate(
            problem, *start_from_code(problem, own, 3), Posterior(), max_iter=30, stop=lambda step: None
        )
        for problem, own in ((one, code), (two, code.repeat_interleave(times, 0)))
    ]
    assert results[0].bound == pytest.approx(results[1].bound, rel=1e-12)
    torch.testing.assert_close(
        results[0].model.prototypes(), results[1].model.prototypes(), rtol=1e-8, atol=1e-10
    )


# Threads and runs


def wide(n: int, d: int, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(k, d, generator=generator, dtype=F64)
    return (
        torch.randn(n, d, generator=generator, dtype=F64)
        + centres[torch.randint(k, (n,), generator=generator)]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("family", "d", "k"),
    [
        (GaussianFull(), 3, 4),
        (GaussianFull(), 16, 12),
        (GaussianDiagonal(), 8, 16),
        (GaussianTied(), 6, 5),
        (StudentT(), 2, 3),
        (PPCA(2), 5, 3),
        (FactorAnalyzer(2), 6, 3),
        (GaussianLowRankTied(2), 6, 3),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_one_thread_and_two_give_the_same_bits_from_start_to_end(family, d, k, dtype, problem_of):
    x = wide(30_000 if d < 10 else 12_000, d, k, seed=7).to(dtype)
    results = []
    for n_threads in (1, 2, 2):
        torch.set_num_threads(n_threads)
        results.append(fitted(problem_of(family, x), k, max_iter=4))
        assert torch.get_num_threads() == n_threads
    for other in results[1:]:
        assert_same_bits(results[0], other)
        assert results[0].history.bound == other.history.bound


def test_one_thread_and_two_give_the_same_k_means():
    source = TensorSource(wide(40_000, 8, 20, seed=8))
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        problem, _ = kmeans_problem(source, scan_range(source))
        centres = searched_centres(problem, 20, torch.Generator().manual_seed(0))
        results.append(lloyd(problem, centres, max_iter=10, tol=0.0))
    assert_same_bits(*results)


def test_one_thread_and_two_give_the_same_log_densities(problem_of):
    x = wide(40_000, 4, 5, seed=9)
    result = fitted(problem_of(GaussianFull(), x[:3000]), 5)
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found.append((result.model.log_prob(x), result.model.encode(x), result.model.reconstruct(x)))
    for one, two in zip(*found, strict=True):
        assert bool((one == two).all())


@pytest.mark.parametrize("encoder", [Posterior(), Argmax(), Tempered(0.5)], ids=repr)
def test_runs_are_repeated_exactly_and_seeds_matter(encoder, problem_of):
    x = torch.poisson(torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=F64) * 9)
    problem = problem_of(Poisson(), x)
    assert_same_bits(
        fitted(problem, 6, encoder, seed=1), fitted(problem_of(Poisson(), x.clone()), 6, encoder, seed=1)
    )
    other = fitted(problem, 6, encoder, seed=2)
    assert not bool(
        (other.model.params.rates == fitted(problem, 6, encoder, seed=1).model.params.rates).all()
    )


def test_a_fit_changes_neither_rows_nor_weights_nor_the_global_generator(clouds, problem_of):
    x, weights = clouds(), torch.rand(600, generator=torch.Generator().manual_seed(0), dtype=F64)
    rows, own, state = x.clone(), weights.clone(), torch.random.get_rng_state()
    fitted(problem_of(GaussianFull(), x, weights), 3)
    assert bool((x == rows).all())
    assert bool((weights == own).all())
    assert bool((torch.random.get_rng_state() == state).all())
