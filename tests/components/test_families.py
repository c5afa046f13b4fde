"""Families against external oracles: densities, samplers, M-steps, and what extreme rows do to them."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import fields, replace

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.components import (
    Bernoulli,
    Categorical,
    GaussianDiagonal,
    GaussianFull,
    GaussianTiedSpherical,
    PassSetting,
    Poisson,
    Product,
    StudentT,
    VonMisesFisher,
)
from mixcoder.components.bernoulli import BernoulliParams
from mixcoder.components.categorical import CategoricalParams
from mixcoder.components.poisson import PoissonParams
from mixcoder.components.product import ProductParams
from mixcoder.components.student_t import StudentTParams
from mixcoder.components.von_mises_fisher import VonMisesFisherParams
from mixcoder.encoders import Argmax, Posterior, Tempered
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import log_simplex
from mixcoder.ops.workspace import Workspace

FAMILIES = (Bernoulli, Poisson, Categorical, VonMisesFisher, StudentT, Product)
EXAMPLES = [
    pytest.param(family, params, id=f"{cls.__name__}-{place}")
    for cls in FAMILIES
    for place, (family, params) in enumerate(cls.examples())
]
F64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # A few hundred rows are no work for two threads: waiting for each other they take a hundred times as long.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=F64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(family, params, n_rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    index = torch.randint(params.n_components, (n_rows,), generator=generator(seed))
    return family.sample(params, index, generator(seed + 1)), index


def soft_code(n_rows: int, n_components: int, seed: int = 3) -> Tensor:
    return torch.rand(n_rows, n_components, generator=generator(seed), dtype=F64).log_softmax(1).exp()


def leaves(value) -> list[Tensor]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else [getattr(value, field.name) for field in fields(value)]
    return [leaf for part in parts for leaf in leaves(part)]


def assert_same(one, two, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    pairs = list(zip(leaves(one), leaves(two), strict=True))
    assert pairs
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


def setting(x: Tensor, tolerance: float = 1e-3) -> PassSetting:
    return PassSetting(x.dtype, Workspace(), x.double().square().mean(0).sqrt(), tolerance)


# Densities


def test_bernoulli_density_is_that_of_scipy():
    family, params = Bernoulli.examples()[0]
    x, _ = drawn(family, params, 50)
    expected = scipy.stats.bernoulli.logpmf(x[:, None].numpy(), params.probabilities[None].numpy()).sum(2)
    torch.testing.assert_close(family.log_likelihood(params, x), tensor(expected))


def test_poisson_density_is_that_of_scipy_at_any_count():
    rates = tensor([[1e-3, 2.0, 30.0, 1e6], [5.0, 0.1, 15.9, 1.001e6]])
    x = tensor([[0, 0, 0, 0], [1, 3, 15, 1e6], [4, 16, 17, 999_000], [0, 2, 1000, 1_002_000]])
    with mpmath.workdps(40):
        expected = [
            [
                float(
                    sum(
                        a * mpmath.log(r) - r - mpmath.loggamma(mpmath.mpf(a) + 1)
                        for a, r in zip(row, rate, strict=True)
                    )
                )
                for rate in rates.tolist()
            ]
            for row in x.tolist()
        ]
    ours = Poisson().log_likelihood(PoissonParams(rates), x)
    torch.testing.assert_close(ours, tensor(expected), rtol=1e-13, atol=1e-9)
    scipys = scipy.stats.poisson.logpmf(x[:, None].numpy(), rates[None].numpy()).sum(2)
    torch.testing.assert_close(ours, tensor(scipys), rtol=1e-9, atol=1e-7)


def test_poisson_density_in_float32_keeps_its_digits_at_large_counts():
    rates = tensor([[1e5], [1.01e5]])
    x = tensor([[100_100.0], [101_000.0]])
    exact = Poisson().log_likelihood(PoissonParams(rates), x)
    narrow = Poisson().log_likelihood(PoissonParams(rates), x.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), exact, rtol=1e-4, atol=1e-4)


def test_categorical_density_is_that_of_torch():
    family, params = Categorical.examples()[1]
    x, _ = drawn(family, params, 50)
    columns = params.log_probabilities.split(list(family.n_categories), 1)
    expected = sum(
        torch.distributions.Categorical(logits=logits).log_prob(x[:, d : d + 1])
        for d, logits in enumerate(columns)
    )
    torch.testing.assert_close(family.log_likelihood(params, x), expected)


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.3, 7.0, 500.0])
def test_von_mises_fisher_density_is_that_of_scipy(d, kappa):
    noise = torch.randn(7, d, generator=generator(), dtype=F64)
    rows = noise / noise.norm(dim=1, keepdim=True)
    ours = VonMisesFisher().log_likelihood(VonMisesFisherParams(rows[:1], tensor([kappa])), rows)[:, 0]
    theirs = scipy.stats.vonmises_fisher(rows[0].numpy(), kappa).logpdf(rows.numpy())
    torch.testing.assert_close(ours, tensor(theirs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("d", [2, 3, 5, 20, 59, 61, 62, 63, 64, 100, 500, 2000])
def test_von_mises_fisher_normaliser_is_that_of_mpmath(d):
    kappas = [1e-6, 1e-2, 1.0, 10.0, 29.9, 30.1, 100.0, 1e3, 1e5, 1e6]
    at_right_angles = torch.zeros(1, d, dtype=F64)
    at_right_angles[0, 1] = 1.0
    direction = at_right_angles.roll(-1, 1).expand(len(kappas), d)
    params = VonMisesFisherParams(direction, tensor(kappas))
    by_differences = VonMisesFisher().log_likelihood(params, at_right_angles)[0]
    by_product = VonMisesFisher().natural(params)[:, 0]
    for kappa, ours, also in zip(kappas, by_differences.tolist(), by_product.tolist(), strict=True):
        with mpmath.workdps(40):
            v, z = mpmath.mpf(d) / 2 - 1, mpmath.mpf(kappa)
            bessel = mpmath.besseli(v, z)
            exact = v * mpmath.log(z) - (v + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel)
            length = mpmath.besseli(v + 1, z) / bessel
        assert ours == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
        assert also == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
        mean = VonMisesFisher().decode(params, torch.eye(len(kappas), dtype=F64))[kappas.index(kappa), 0]
        assert float(mean) == pytest.approx(float(length), rel=1e-12)


def test_von_mises_fisher_without_concentration_is_uniform():
    params = VonMisesFisherParams(tensor([[0.0, 0.0, 1.0]]), tensor([0.0]))
    x = tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    expected = torch.full((2, 1), -math.log(4 * math.pi), dtype=F64)
    torch.testing.assert_close(VonMisesFisher().log_likelihood(params, x), expected)


def test_von_mises_fisher_density_in_float32_keeps_its_digits_near_a_narrow_mode():
    params = VonMisesFisherParams(tensor([[0.6, 0.8, 0.0]]), tensor([1e6]))
    x = tensor([[0.6, 0.8, 1e-3]]) / math.sqrt(1 + 1e-6)
    exact = VonMisesFisher().log_likelihood(params, x)
    narrow = VonMisesFisher().log_likelihood(params, x.float())
    torch.testing.assert_close(narrow.double(), exact, rtol=0, atol=0.02)


def test_student_t_density_is_that_of_scipy():
    family, params = StudentT.examples()[0]
    x, _ = drawn(family, params, 50)
    expected = [
        scipy.stats.multivariate_t.logpdf(x.numpy(), mean.numpy(), scale.numpy(), df=float(dof))
        for mean, scale, dof in zip(
            params.means, params.scale_matrices, params.degrees_of_freedom, strict=True
        )
    ]
    torch.testing.assert_close(family.log_likelihood(params, x), tensor(np.stack(expected, 1)))


@pytest.mark.parametrize("dof", [1e7, 1e12, 1e200])
def test_student_t_of_many_degrees_of_freedom_is_gaussian(dof):
    _, gaussian = GaussianFull.examples()[0]
    params = StudentTParams.build(gaussian.means, gaussian.covariances, torch.full((3,), dof, dtype=F64))
    x = torch.randn(20, 2, generator=generator(), dtype=F64) * 2
    expected = GaussianFull().log_likelihood(gaussian, x)
    torch.testing.assert_close(StudentT().log_likelihood(params, x), expected, rtol=0, atol=1e5 / dof + 1e-12)


@pytest.mark.parametrize("dof", [999.9, 1000.1])
def test_student_t_constant_has_no_seam_where_its_formula_changes(dof):
    params = StudentTParams.build(
        torch.zeros(1, 3, dtype=F64), torch.eye(3, dtype=F64)[None], tensor([2 * dof])
    )
    with mpmath.workdps(40):
        nu = mpmath.mpf(2 * dof)
        exact = mpmath.loggamma((nu + 3) / 2) - mpmath.loggamma(nu / 2) - 1.5 * mpmath.log(nu * mpmath.pi)
    at_centre = float(StudentT().log_likelihood(params, params.means))
    assert at_centre == pytest.approx(float(exact), rel=1e-12)


def test_product_density_is_the_sum_of_its_parts():
    family, params = Product.examples()[1]
    x, _ = drawn(family, params, 30)
    expected = sum(
        part.log_likelihood(own, x[:, list(columns)])
        for (part, columns), own in zip(family.parts, params.parts, strict=True)
    )
    torch.testing.assert_close(family.log_likelihood(params, x), expected)


@pytest.mark.parametrize(
    ("family", "params", "rows"),
    [
        (*Bernoulli.examples()[0], list(itertools.product([0.0, 1.0], repeat=8))),
        (*Categorical.examples()[1], list(itertools.product(*(range(c) for c in (2, 3, 4, 2, 3, 4))))),
        (*Poisson.examples()[1], [[i] for i in range(80)]),
    ],
)
def test_probabilities_of_all_rows_sum_to_one(family, params, rows):
    total = torch.logsumexp(family.log_likelihood(params, tensor(rows)), 0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)


# Precision, and passes


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_rows_keep_their_dtype_and_float32_its_accuracy(family, params):
    x, _ = drawn(family, params, 64)
    wide, narrow = family.log_likelihood(params, x), family.log_likelihood(params, x.float())
    assert (wide.dtype, narrow.dtype) == (F64, torch.float32)
    exact = family.log_likelihood(params, x.float().double())
    torch.testing.assert_close(narrow.double(), exact, rtol=1e-4, atol=1e-3)
    code = soft_code(64, params.n_components)
    assert family.decode(params, code.float()).dtype == torch.float32
    statistics = family.statistics(params, x.float(), code.float())
    assert all(leaf.dtype == F64 for leaf in leaves(statistics))
    assert all(leaf.dtype == F64 for leaf in leaves(family.maximize(statistics)))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_a_pass_gives_what_the_verbs_give(family, params, dtype):
    x, _ = drawn(family, params, 200)
    x = x.to(dtype)
    weights = torch.rand(200, generator=generator(7), dtype=F64) * 3
    n_components, d = params.n_components, x.shape[1]
    log_weights = log_simplex(torch.arange(1.0, n_components + 1, dtype=F64))
    kernel = family.kernel(params, log_weights, setting(x))
    rows = kernel.expand(x, Frame.identity(d))
    log_joint = kernel.log_joint(rows).clone()
    offset = kernel.row_offset(rows)
    complete = log_joint if offset is None else log_joint + offset[:, None]
    expected = family.log_likelihood(params, x.double()) + log_weights
    torch.testing.assert_close(complete.double(), expected, rtol=1e-5, atol=1e-3)
    pooled = family.pooled(x, weights)
    in_total = kernel.offset(pooled)
    assert (in_total is None) == (offset is None)
    if in_total is not None:
        assert in_total.shape == (1,)
        assert float(in_total) == pytest.approx(float(weights @ offset.double()), rel=1e-5, abs=1e-3)
    for code in (soft_code(200, n_components), HardCode(expected.argmax(1), n_components)):
        given = code.to(complete.dtype, copy=True) if isinstance(code, Tensor) else code
        ours = kernel.statistics(rows, given, weights.to(dtype))
        theirs = family.statistics(params, x.double(), code, weights)
        if pooled is not None:
            ours = replace(ours, pooled=pooled)
        assert_same(ours, theirs, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-3)


def test_parts_of_a_product_may_differ_in_precision():
    family = Product([(Bernoulli(), [0, 1]), (Poisson(), [2])])
    x = tensor([[0.0, 1.0, 1e6], [1.0, 0.0, 1.2e6]]).float()
    params = family.maximize(family.statistics(None, x, torch.eye(2)))
    kernel = family.kernel(params, tensor([0.5, 0.5]).log(), setting(x))
    assert [part.dtype for part in kernel.kernels] == [torch.float32, F64]
    rows = kernel.expand(x, Frame.identity(3))
    assert rows.dtype == kernel.log_joint(rows).dtype == F64
    statistics = replace(kernel.statistics(rows, torch.eye(2, dtype=F64), None), pooled=family.pooled(x))
    assert_same(family.maximize(statistics), params)


@pytest.mark.parametrize(
    ("family", "params"), EXAMPLES[:-1]
)  # the last has a Gaussian part, tested elsewhere
def test_log_likelihood_has_finite_gradients(family, params):
    x, _ = drawn(family, params, 40)
    trained = [
        leaf.requires_grad_() for leaf in leaves(params.to(dtype=F64).take(torch.arange(params.n_components)))
    ]
    copies = iter(trained)

    def rebuilt(value):
        if isinstance(value, Tensor):
            return next(copies)
        if isinstance(value, tuple):
            return tuple(rebuilt(part) for part in value)
        return replace(value, **{field.name: rebuilt(getattr(value, field.name)) for field in fields(value)})

    family.log_likelihood(rebuilt(params), x).sum().backward()
    for leaf in trained:
        assert leaf.grad is None or bool(leaf.grad.isfinite().all())


# Samplers


def test_bernoulli_sampler_has_its_means():
    family, params = Bernoulli.examples()[0]
    x = family.sample(params, torch.zeros(20_000, dtype=torch.int64), generator())
    assert family.check_rows(x) is None
    torch.testing.assert_close(x.mean(0), params.probabilities[0], rtol=0, atol=5 * 0.5 / 20_000**0.5)


def test_poisson_sampler_has_its_means_and_variances():
    family, params = Poisson.examples()[0]
    x = family.sample(params, torch.ones(40_000, dtype=torch.int64), generator())
    rates = params.rates[1]
    assert family.check_rows(x) is None
    assert bool(((x.mean(0) - rates).abs() < 5 * (rates / 40_000).sqrt()).all())
    assert bool(((x.var(0) / rates - 1).abs() < 5 * ((2 + 1 / rates) / 40_000).sqrt()).all())


def test_categorical_sampler_has_its_frequencies():
    family, params = Categorical.examples()[1]
    x = family.sample(params, torch.full((20_000,), 2), generator())
    assert family.check_rows(x) is None
    frequencies = family.features(x)[:, 1:].mean(0)
    torch.testing.assert_close(
        frequencies, params.log_probabilities[2].exp(), rtol=0, atol=5 * 0.5 / 20_000**0.5
    )


@pytest.mark.parametrize("d", [2, 3, 40])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 10.0, 1e4])
def test_von_mises_fisher_sampler_has_its_moments(d, kappa):
    n, v = 20_000, mpmath.mpf(d) / 2 - 1
    direction = torch.nn.functional.normalize(torch.ones(1, d, dtype=F64))
    params = VonMisesFisherParams(direction, tensor([kappa]))
    x = VonMisesFisher().sample(params, torch.zeros(n, dtype=torch.int64), generator())
    assert VonMisesFisher().check_rows(x) is None
    cosines = x @ direction[0]
    length = float(mpmath.besseli(v + 1, kappa) / mpmath.besseli(v, kappa)) if kappa else 0.0
    variance = 1 - length**2 - (d - 1) * length / kappa if kappa else 1 / d
    assert abs(float(cosines.mean()) - length) < 5 * math.sqrt(variance / n)
    assert float(cosines.var()) == pytest.approx(variance, rel=0.15)
    # Around the direction nothing is preferred.
    tangents = x - cosines[:, None] * direction
    assert float(tangents.mean(0).norm()) < 5 * math.sqrt((1 - length**2) / n)
    covariance = tangents.T @ tangents / n * (d - 1) / max(1 - length**2 - variance, 1e-300)
    expected = torch.eye(d, dtype=F64) - direction.T @ direction
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.1)


def test_von_mises_fisher_sampler_on_the_circle_is_von_mises():
    params = VonMisesFisherParams(tensor([[0.0, 1.0]]), tensor([2.0]))
    x = VonMisesFisher().sample(params, torch.zeros(5000, dtype=torch.int64), generator(5))
    angles = torch.atan2(-x[:, 0], x[:, 1])
    assert scipy.stats.kstest(angles.numpy(), scipy.stats.vonmises(2.0).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dof", [0.7, 2.5, 60.0])
def test_student_t_sampler_is_t_along_every_axis(dof):
    scale = tensor([[[2.0, 0.6], [0.6, 0.5]]])
    params = StudentTParams.build(tensor([[1.0, -2.0]]), scale, tensor([dof]))
    x = StudentT().sample(params, torch.zeros(5000, dtype=torch.int64), generator(11))
    whitened = (x - params.means) @ params.whiteners[0].T
    for axis in whitened.T:
        assert scipy.stats.kstest(axis.numpy(), scipy.stats.t(dof).cdf).pvalue > 1e-3
    radii = whitened.square().sum(1) / 2
    assert scipy.stats.kstest(radii.numpy(), scipy.stats.f(2, dof).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_samples_repeat_with_their_generator_and_follow_their_index(family, params):
    x, index = drawn(family, params, 300)
    again, _ = drawn(family, params, 300)
    assert torch.equal(x, again)
    best = family.log_likelihood(params, x).argmax(1)
    assert float((best == index).double().mean()) > 0.8


# M-steps


def weighted_rows(family, params, n_rows: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    x, _ = drawn(family, params, n_rows, seed=21)
    weights = torch.rand(n_rows, generator=generator(22), dtype=F64) + 0.1
    return x, soft_code(n_rows, params.n_components) ** 2, weights


def objective(family, params, x, code, weights) -> float:
    return float((weights[:, None] * code * family.log_likelihood(params, x)).sum())


def best_by_brute_force(family, build, start, x, code, weights) -> float:
    def loss(theta):
        point = tensor(theta).requires_grad_()
        value = -(weights[:, None] * code * family.log_likelihood(build(point), x)).sum()
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.numpy()

    result = scipy.optimize.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return -result.fun


def test_bernoulli_maximize_is_the_optimum():
    family, params = Bernoulli.examples()[0]
    x, code, weights = weighted_rows(family, params)
    ours = objective(family, family.maximize(family.statistics(None, x, code, weights)), x, code, weights)
    found = best_by_brute_force(
        family, lambda t: BernoulliParams(t.view(3, 8).sigmoid()), np.zeros(24), x, code, weights
    )
    assert ours == pytest.approx(found, abs=1e-5)
    assert ours >= found - 1e-9


def test_poisson_maximize_is_the_optimum():
    family, params = Poisson.examples()[0]
    x, code, weights = weighted_rows(family, params)
    ours = objective(family, family.maximize(family.statistics(None, x, code, weights)), x, code, weights)
    found = best_by_brute_force(
        family, lambda t: PoissonParams(t.view(3, 3).exp()), np.ones(9), x, code, weights
    )
    assert ours == pytest.approx(found, abs=1e-6)
    assert ours >= found - 1e-9


def test_categorical_maximize_is_the_optimum():
    family, params = Categorical.examples()[1]
    x, code, weights = weighted_rows(family, params, 40)
    ours = objective(family, family.maximize(family.statistics(None, x, code, weights)), x, code, weights)
    found = best_by_brute_force(
        family, lambda t: CategoricalParams(t.view(3, 18)), np.zeros(54), x, code, weights
    )
    assert ours == pytest.approx(found, abs=1e-4)
    assert ours >= found - 1e-9


@pytest.mark.parametrize("floor", [0.01, 0.1, 0.24])
def test_categorical_floor_is_the_constrained_optimum(floor):
    counts = tensor(
        [[50.0, 30.0, 19.0, 1.0], [97.0, 1.0, 1.0, 1.0], [10.0, 9.0, 1.0, 0.0], [0.0, 0.0, 7.0, 0.0]]
    )
    x = torch.arange(4.0, dtype=F64)[:, None]
    family = Categorical(4, min_probability=floor)
    ours = family.maximize(family.statistics(None, x, counts.T)).log_probabilities.exp()
    torch.testing.assert_close(ours.sum(1), torch.ones(4, dtype=F64))
    assert float(ours.min()) >= floor * (1 - 1e-12)
    for shares, mine in zip(counts.numpy(), ours.numpy(), strict=True):
        result = scipy.optimize.minimize(
            lambda p, shares=shares: -(shares * np.log(p)).sum(),
            np.full(4, 0.25),
            bounds=[(floor, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        # SLSQP meets its constraints to about 1e-8.
        assert (shares * np.log(mine)).sum() >= -result.fun - 1e-5
        np.testing.assert_allclose(mine, result.x, atol=1e-4)


@pytest.mark.parametrize("place", [0, 1])
def test_von_mises_fisher_maximize_is_the_optimum(place):
    family, params = VonMisesFisher.examples()[place]
    x, code, weights = weighted_rows(family, params)
    k, d = params.directions.shape
    fitted = family.maximize(family.statistics(None, x, code, weights))
    ours = objective(family, fitted, x, code, weights)

    def build(theta: Tensor) -> VonMisesFisherParams:
        vectors = theta.view(k, d)
        return VonMisesFisherParams(vectors, vectors.norm(dim=1))

    found = best_by_brute_force(family, build, np.ones(k * d), x, code, weights)
    assert ours == pytest.approx(found, abs=1e-7)
    assert ours >= found - 1e-9


@pytest.mark.parametrize("d", [2, 3, 30, 62, 1000])
def test_von_mises_fisher_concentration_solves_its_equation(d):
    lengths = tensor([0.0, 1e-9, 1e-3, 0.3, 0.5, 0.9, 0.999, 1 - 1e-5])
    axes = torch.zeros(len(lengths), d, dtype=F64)
    axes[:, 0] = lengths
    index = torch.arange(len(lengths))
    family = VonMisesFisher(max_concentration=1e9)
    params = family.maximize(
        family.statistics(None, torch.ones(1, d, dtype=F64), torch.ones(1, 8, dtype=F64))
    )
    statistics = family.statistics(None, axes + 1, HardCode(index, len(lengths)))
    params = family.maximize(replace(statistics, sums=axes))
    decoded = family.decode(params, HardCode(index, len(lengths)))[:, 0]
    torch.testing.assert_close(decoded, lengths, rtol=1e-14, atol=0)


def expected_bound(family, params, x, code, weights, precisions, logs) -> Tensor:
    """The bound that StudentT.maximize raises, of latent precisions with given expectations."""
    half = 0.5 * params.degrees_of_freedom
    differences = x[:, None] - params.means
    norms = torch.einsum("nkd,kde,nke->nk", differences, torch.linalg.inv(params.scale_matrices), differences)
    density = -0.5 * torch.logdet(params.scale_matrices) - 0.5 * precisions * norms
    prior = half * half.log() - torch.lgamma(half) + half * (logs - precisions)
    return (weights[:, None] * code * (density + prior)).sum()


def test_student_t_maximize_is_the_optimum_of_its_bound():
    _, params = StudentT.examples()[0]
    family = StudentT(min_dof=0.01)
    x, code, weights = weighted_rows(family, params, 25)
    fitted = family.maximize(family.statistics(params, x, code, weights))
    dof, d = params.degrees_of_freedom, 2
    norms = torch.stack(
        [((x - m) @ w.T).square().sum(1) for m, w in zip(params.means, params.whiteners, strict=True)], 1
    )
    precisions = (dof + d) / (dof + norms)
    logs = precisions.log() + torch.digamma((dof + d) / 2) - ((dof + d) / 2).log()
    given = (x, code, weights, precisions, logs)

    def build(theta: Tensor) -> StudentTParams:
        means, roots, tails = theta[:6].view(3, 2), theta[6:18].view(3, 2, 2), theta[18:]
        scales = roots @ roots.mT
        return StudentTParams(means, scales, roots, tails.exp())

    def loss(theta):
        point = tensor(theta).requires_grad_()
        value = -expected_bound(family, build(point), *given)
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.numpy()

    start = np.concatenate([np.zeros(6), np.tile(np.eye(2).ravel(), 3), np.full(3, 1.5)])
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 2000}
    )
    assert float(fitted.degrees_of_freedom.max()) < family.max_dof
    assert float(expected_bound(family, fitted, *given)) == pytest.approx(-found.fun, abs=1e-6)


def test_student_t_on_the_line_reaches_the_fit_of_scipy():
    x = tensor(scipy.stats.t(3.0, 1.0, 2.0).rvs(400, random_state=3))[:, None]
    family = StudentT(min_dof=0.5)
    code = torch.ones(400, 1, dtype=F64)
    params = family.maximize(family.statistics(None, x, code))
    for _ in range(150):
        params = family.maximize(family.statistics(params, x, code))
    dof, location, scale = scipy.stats.t.fit(x[:, 0].numpy())
    assert float(params.degrees_of_freedom) == pytest.approx(dof, rel=1e-3)
    assert float(params.means) == pytest.approx(location, abs=1e-3)
    assert float(params.scale_matrices.sqrt()) == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize("dof", [1.0, 1.7, 10.0, 60.0, 199.0])
def test_student_t_degrees_of_freedom_solve_their_equation(dof):
    family, params = StudentT.examples()[0]
    statistics = family.statistics(None, params.means, torch.eye(3, dtype=F64))
    gap = math.log(dof / 2) - float(scipy.special.digamma(dof / 2))
    fitted = family.maximize(replace(statistics, gaps=gap * statistics.counts))
    torch.testing.assert_close(
        fitted.degrees_of_freedom, torch.full((3,), dof, dtype=F64), rtol=1e-11, atol=0
    )


def test_student_t_without_parameters_is_the_gaussian_m_step():
    family, params = StudentT.examples()[0]
    x, code, weights = weighted_rows(family, params, 30)
    first = family.maximize(family.statistics(None, x, code, weights))
    gaussian = GaussianFull().maximize(GaussianFull().statistics(None, x, code, weights))
    torch.testing.assert_close(first.means, gaussian.means)
    torch.testing.assert_close(first.scale_matrices, gaussian.covariances)
    torch.testing.assert_close(first.degrees_of_freedom, torch.full((3,), 10.0, dtype=F64))
    fixed = replace(family, degrees_of_freedom=2.5)
    assert fixed.maximize(fixed.statistics(None, x, code, weights)).degrees_of_freedom.tolist() == [2.5] * 3


def test_student_t_is_robust_where_the_gaussian_is_not():
    rows = torch.randn(200, 2, generator=generator(), dtype=F64)
    x = torch.cat([rows, tensor([[500.0, 500.0]])])
    code = torch.ones(201, 1, dtype=F64)
    family = StudentT()
    params = family.maximize(family.statistics(None, x, code))
    for _ in range(50):
        params = family.maximize(family.statistics(params, x, code))
    assert float(params.means.abs().max()) < 0.3
    assert float(GaussianFull().maximize(GaussianFull().statistics(None, x, code)).means.abs().max()) > 2


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_hard_codes_are_one_hot_soft_codes(family, params):
    x, index = drawn(family, params, 60)
    hard = HardCode(index, params.n_components)
    weights = torch.rand(60, generator=generator(8), dtype=F64)
    for current in (None, params):
        assert_same(
            family.statistics(current, x, hard, weights),
            family.statistics(current, x, hard.dense(F64), weights),
        )
    torch.testing.assert_close(family.decode(params, hard), family.decode(params, hard.dense(F64)))


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_weights_are_repetitions_and_codes_are_left_alone(family, params):
    x, _ = drawn(family, params, 40)
    code = soft_code(40, params.n_components)
    kept = code.clone()
    repeats = torch.arange(40) % 4
    weighted = family.statistics(params, x, code, repeats.double())
    assert torch.equal(code, kept)
    repeated = family.statistics(params, x.repeat_interleave(repeats, 0), code.repeat_interleave(repeats, 0))
    assert_same(weighted, repeated)
    assert_same(family.maximize(weighted), family.maximize(repeated), rtol=1e-7)


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_sums_of_blocks_are_the_sum_of_all_rows(family, params):
    x, _ = drawn(family, params, 50)
    code = soft_code(50, params.n_components)
    halves = family.statistics(params, x[:20], code[:20]) + family.statistics(params, x[20:], code[20:])
    assert_same(halves, family.statistics(params, x, code))
    assert halves.counts.shape == (params.n_components,)


# Alternation


def em(family, params, x, encoder, n_steps: int, log_weights=None) -> tuple[list[float], object]:
    """A tiny EM by hand: the bound at every step, and the last parameters."""
    k = params.n_components
    log_weights = torch.full((k,), -math.log(k), dtype=F64) if log_weights is None else log_weights
    trace = []
    for _ in range(n_steps):
        log_joint = family.log_likelihood(params, x) + log_weights
        code = encoder.encode(log_joint)
        trace.append(float(encoder.bound(log_joint, code).sum()))
        statistics = family.statistics(params, x, code)
        params, log_weights = family.maximize(statistics), log_simplex(statistics.counts)
    return trace, params


@pytest.mark.parametrize("encoder", [Posterior(), Argmax(), Tempered(0.5)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_the_bound_never_falls(family, params, encoder):
    x, _ = drawn(family, params, 300)
    start = family.maximize(family.statistics(None, x, soft_code(300, params.n_components) ** 4))
    trace, _ = em(family, start, x, encoder, 30)
    assert trace[-1] > trace[0]
    assert min(np.diff(trace)) >= -1e-9 * abs(trace[0])


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        (Bernoulli(min_probability=0.2), "bits"),
        (Poisson(min_rate=0.8), "counts"),
        (Categorical(3, min_probability=0.2), "categories"),
        (VonMisesFisher(max_concentration=3.0), "directions"),
        (StudentT(min_variance=0.3, min_dof=3.0, max_dof=5.0), "points"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_bound_never_falls_on_the_floor(family, rows):
    example, params = type(family).examples()[0]
    x, _ = drawn(example, params, 200)
    start = family.maximize(family.statistics(None, x, soft_code(200, 3) ** 4))
    trace, fitted = em(family, start, x, Posterior(), 30)
    assert min(np.diff(trace)) >= -1e-9 * abs(trace[0]), rows
    assert all(bool(leaf.isfinite().all()) for leaf in leaves(fitted))


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_parameters_are_recovered(family, params):
    x, index = drawn(family, params, 8000)
    _, fitted = em(family, params, x, Posterior(), 20)
    expected = family.decode(params, HardCode(torch.arange(params.n_components), params.n_components))
    found = family.decode(fitted, HardCode(torch.arange(params.n_components), params.n_components))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.08)
    truth, ours = (family.log_likelihood(p, x).gather(1, index[:, None]).mean() for p in (params, fitted))
    assert float(ours) == pytest.approx(float(truth), abs=0.03)


@pytest.mark.parametrize("fit_tails", [True, False])
def test_student_t_does_not_depend_on_units_and_origin(fit_tails):
    family, params = StudentT.examples()[0]
    family = family if fit_tails else replace(family, degrees_of_freedom=4.0)
    x, _ = drawn(family, params, 300)
    scale, shift = tensor([1e5, 1e-4]), tensor([1e7, -3.0])
    moved = x * scale + shift
    code = soft_code(300, 3) ** 4

    def fitted(rows: Tensor):
        frame = family.frame(rows.mean(0), rows.std(0))
        working, z = family.in_frame(frame), frame.apply(rows)
        start = working.maximize(working.statistics(None, z, code))
        trace, end = em(working, start, z, Posterior(), 15)
        return trace[-1] + 300 * frame.log_scale, frame.undo(end.means), end.degrees_of_freedom

    bound, means, tails = fitted(x)
    moved_bound, moved_means, moved_tails = fitted(moved)
    assert moved_bound + 300 * float(scale.log().sum()) == pytest.approx(bound, abs=1e-4)
    torch.testing.assert_close((moved_means - shift) / scale, means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moved_tails, tails, rtol=1e-4, atol=0)


# Extremes


def assert_sensible(family, x: Tensor, n_components: int = 2):
    """Fit a few steps from an even and from a one-sided code; all must stay finite."""
    for code in (
        torch.full((len(x), n_components), 1 / n_components, dtype=F64),
        HardCode(torch.zeros(len(x), dtype=torch.int64), n_components).dense(F64),
    ):
        params = family.maximize(family.statistics(None, x, code))
        for _ in range(3):
            params = family.maximize(family.statistics(params, x, code))
            assert all(bool(leaf.isfinite().all()) for leaf in leaves(params))
            assert bool(family.log_likelihood(params, x).isfinite().all())
        index = torch.arange(n_components)
        assert bool(family.sample(params, index, generator()).isfinite().all())
        assert bool(family.decode(params, HardCode(index, n_components)).isfinite().all())
        assert family.n_parameters(params) >= 0
    return params


@pytest.mark.parametrize("n_rows", [1, 6])
def test_constant_columns_are_no_trouble(n_rows):
    zeros = torch.zeros(n_rows, 3, dtype=F64)
    params = assert_sensible(Bernoulli(), zeros)
    torch.testing.assert_close(params.probabilities, torch.full((2, 3), 1e-6, dtype=F64))
    assert_sensible(Bernoulli(), zeros + 1)
    params = assert_sensible(Poisson(), zeros)
    torch.testing.assert_close(params.rates, torch.full((2, 3), 1e-6, dtype=F64))
    assert_sensible(Poisson(), zeros + tensor([0.0, 1e9, 3.0]))
    params = assert_sensible(Categorical().in_domain(zeros[0], zeros[0]), zeros)
    torch.testing.assert_close(params.log_probabilities, torch.zeros(2, 3, dtype=F64))
    assert_sensible(Categorical((1, 2, 30)), zeros)
    assert_sensible(StudentT(), zeros)
    assert_sensible(StudentT(), zeros + tensor([5.0, -1e6, 1e-9]))
    params = assert_sensible(VonMisesFisher(max_concentration=1e5), zeros + tensor([0.6, 0.0, 0.8]))
    torch.testing.assert_close(params.concentrations, torch.full((2,), 1e5, dtype=F64))
    assert bool(VonMisesFisher(max_concentration=1e5).collapsed(params, zeros[0]).all())
    mixed = Product([(StudentT(), [0]), (Poisson(), [1]), (Bernoulli(), [2])])
    assert_sensible(mixed, zeros)


def test_opposite_directions_leave_a_uniform_component():
    x = tensor([[1.0, 0.0], [-1.0, 0.0]])
    params = assert_sensible(VonMisesFisher(), x, 1)
    assert params.concentrations.tolist() == [0.0]
    assert params.directions.norm(dim=1).tolist() == [1.0]


def test_parameters_from_outside_may_touch_the_edge():
    bits = BernoulliParams(tensor([[0.0, 1.0]]))
    assert bool(Bernoulli().log_likelihood(bits, tensor([[1.0, 0.0], [0.0, 1.0]])).isfinite().all())
    assert bool(Bernoulli().natural(bits).isfinite().all())
    habits = CategoricalParams(tensor([[0.0, -math.inf]]))
    assert bool(Categorical(2).log_likelihood(habits, tensor([[0.0], [1.0]])).isfinite().all())


def test_a_student_t_component_far_from_its_rows_still_moves():
    family, params = StudentT.examples()[0]
    x = torch.randn(50, 2, generator=generator(), dtype=F64) + 1e7
    fitted = family.maximize(family.statistics(params, x, torch.full((50, 3), 1 / 3, dtype=F64)))
    torch.testing.assert_close(fitted.means, x.mean(0).expand(3, 2), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_sums_that_an_extrapolation_made_up_give_finite_parameters(family, params):
    x, _ = drawn(family, params, 30)
    code = soft_code(30, params.n_components)
    one, two = family.statistics(params, x, code), family.statistics(None, x, code.flip(0))
    leap = one + (two + one.scaled(-1.0)).scaled(-3.0)
    leap = replace(leap, pooled=one.pooled) if hasattr(one, "pooled") else leap
    fitted = family.maximize(leap)
    assert all(bool(leaf.isfinite().all()) for leaf in leaves(fitted))
    assert bool(family.log_likelihood(fitted, x).isfinite().all())


# What the search for a start relies on


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_mixtures_side_by_side_are_fitted_as_each_alone(family, params):
    x, _ = drawn(family, params, 40)
    k = params.n_components
    codes = soft_code(40, k, seed=1), soft_code(40, k, seed=2)
    both = family.statistics(None, x, torch.cat(codes, 1))
    if family.pooled(x) is not None:
        both = replace(both, pooled=family.pooled(x).expand(2, -1))
    together = family.maximize(both)
    kernel = family.kernel(together, torch.zeros(2 * k, dtype=F64), setting(x, math.inf))
    log_joint = kernel.log_joint(kernel.expand(x, Frame.identity(x.shape[1]))).clone()
    offset = kernel.offset(family.pooled(x))
    for place, code in enumerate(codes):
        alone = family.maximize(family.statistics(None, x, code))
        columns = torch.arange(place * k, (place + 1) * k)
        assert_same(together.take(columns), alone)
        complete = log_joint[:, columns].sum() + (
            0.0 if offset is None else k * offset[min(place, len(offset) - 1)]
        )
        torch.testing.assert_close(complete, family.log_likelihood(alone, x).sum())


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_an_expanded_block_knows_no_parameters(family, params):
    x, _ = drawn(family, params, 20)
    other = params.take(torch.arange(params.n_components).flip(0))
    log_weights = torch.zeros(params.n_components, dtype=F64)
    one, two = (
        family.kernel(each, log_weights, setting(x)).expand(x, Frame.identity(x.shape[1])).clone()
        for each in (params, other)
    )
    assert torch.equal(one, two)


# Domains and hyper-parameters


@pytest.mark.parametrize(
    ("family", "rows", "message"),
    [
        (Bernoulli(), [[0.0, 1.0], [1.0, 2.0]], "Row 1, column 1 holds 2, but Bernoulli features are 0 or 1"),
        (Bernoulli(), [[math.nan]], "Row 0, column 0 holds nan"),
        (Poisson(), [[3.0, -1.0]], "Row 0, column 1 holds -1, but Poisson features are counts"),
        (Poisson(), [[2.5]], "Row 0, column 0 holds 2.5"),
        (Poisson(), [[math.inf]], "Row 0, column 0 holds inf"),
        (
            Categorical(3),
            [[0.0, 1.0], [2.0, 3.0]],
            "Row 1, column 1 holds 3, but that column has 3 categories",
        ),
        (
            Categorical((9, 3)),
            [[8.0, 1.0], [7.0, 5.0], [9.0, 0.0]],
            "Row 1, column 1 holds 5, .* 3 categories",
        ),
        (Categorical(), [[0.0, -1.0]], "Row 0, column 1 holds -1, but categories are coded"),
        (Categorical((2, 2)), [[0.0]], "X has 1 features, but n_categories has 2 entries"),
        (VonMisesFisher(), [[0.6, 0.8], [3.0, 4.0]], "Row 1 has norm 5.*divide each row by its norm"),
        (VonMisesFisher(), [[math.nan, 0.0]], "Row 0 has norm nan"),
        (VonMisesFisher(), [[1.0]], "a direction needs at least 2"),
        (Product([(Poisson(), [1]), (Bernoulli(), [0, 2])]), [[0.0, 3.0, 7.0]], r"holds 7.*columns \[0, 2\]"),
        (Product([(Poisson(), [0])]), [[0.0, 3.0]], "X has 2 features, but the parts .* have 1"),
    ],
)
def test_rows_outside_the_domain_are_named(family, rows, message):
    problem = family.check_rows(tensor(rows))
    assert problem is not None
    assert re.search(message, problem), problem


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rows_of_the_domain_are_accepted(family, params, dtype):
    x, _ = drawn(family, params, 200)
    assert family.check_rows(x.to(dtype)) is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Bernoulli(min_probability=0.0), "min_probability"),
        (lambda: Bernoulli(min_probability=0.5), "min_probability"),
        (lambda: Poisson(min_rate=0.0), "min_rate"),
        (lambda: Categorical(0), "n_categories"),
        (lambda: Categorical((2, 30), min_probability=0.05), r"number of categories \(30\)"),
        (lambda: Categorical().width(2), "n_categories is not known yet"),
        (
            lambda: Categorical().in_domain(tensor([0.5]), tensor([3.0])),
            "holds 0.5, but categories are coded",
        ),
        (lambda: VonMisesFisher(max_concentration=math.inf), r"max_concentration must be in \(0, 1e12\]"),
        (lambda: StudentT(degrees_of_freedom=0.0), "degrees_of_freedom"),
        (lambda: StudentT(min_dof=5.0, max_dof=2.0), "min_dof"),
        (lambda: StudentT(min_variance=0.0), "min_variance must be positive"),
        (lambda: Product([]), "no columns"),
        (lambda: Product([(Poisson(), [0, 1]), (Bernoulli(), [1])]), "column 1 is in 2"),
        (lambda: Product([(Poisson(), [0]), (Bernoulli(), [2])]), "column 1 is in 0"),
        (lambda: Product([(Poisson(), [0]), (Bernoulli(), [])]), "Bernoulli has none"),
        (lambda: Product([(Poisson(), slice(0, None))]), "where it stops"),
    ],
)
def test_hyper_parameters_outside_their_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_categories_are_learnt_from_the_range_of_the_columns():
    x = tensor([[0.0, 3.0], [1.0, 0.0]])
    assert Categorical().in_domain(x.amin(0), x.amax(0)) == Categorical((2, 4))
    assert Categorical(7).in_domain(x.amin(0), x.amax(0)) == Categorical(7)
    product = Product([(Categorical(), [1]), (Poisson(), [0])]).in_domain(x.amin(0), x.amax(0))
    assert product == Product([(Categorical((4,)), [1]), (Poisson(), [0])])
    assert hash(product) == hash(Product([(Categorical((4,)), [1]), (Poisson(), [0])]))


def test_categorical_decodes_to_the_most_probable_category_of_the_mixture():
    probabilities = tensor([[0.5, 0.3, 0.2], [0.0, 0.45, 0.55]]).clamp_min(1e-6)
    params = CategoricalParams(probabilities.log())
    family = Categorical(3)
    codes = tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.6]])
    assert family.decode(params, codes)[:, 0].tolist() == [0.0, 2.0, 2.0]
    # 1 is the favourite of neither component, and of their even mixture.
    assert (
        family.decode(
            CategoricalParams(tensor([[0.5, 0.4, 0.1], [0.1, 0.4, 0.5]]).log()), tensor([[0.5, 0.5]])
        )
        == 1
    )


@pytest.mark.parametrize(
    ("family", "params", "count"),
    [
        (*Bernoulli.examples()[0], 24),
        (*Poisson.examples()[0], 9),
        (*Categorical.examples()[0], 3 * 6 * 2),
        (*Categorical.examples()[1], 3 * (1 + 2 + 3 + 1 + 2 + 3)),
        (*VonMisesFisher.examples()[0], 3 * 3),
        (*StudentT.examples()[0], 3 * (2 + 3 + 1)),
        (*StudentT.examples()[1], 2 * (1 + 1)),
        (*Product.examples()[0], 3 * 4 + 9 + 24),
        (*Product.examples()[1], 36 + 6 + 3),
    ],
)
def test_free_parameters_are_counted(family, params, count):
    assert family.n_parameters(params) == count


def test_a_product_delegates():
    tied = Product([(GaussianTiedSpherical(), [0, 2]), (Poisson(), range(1, 2))])
    mean, std = tensor([1e3, 5.0, 2e3]), tensor([8.0, 2.0, 16.0])
    frame = tied.frame(mean, std)
    assert frame.shift.tolist() == [1e3, 0.0, 2e3]
    assert frame.scale[1] == 1.0
    assert frame.scale[0] == frame.scale[2] < 1
    added = Product([(GaussianDiagonal(added_variance=1.0), [1]), (GaussianDiagonal(), [0])])
    (inner, _), _ = added.in_frame(Frame(tensor([0.0, 0.0]), tensor([2.0, 4.0]))).parts
    assert inner.added_variance == (16.0,)
    x = tensor([[0.0, 1.0, 0.5], [1.0, 4.0, 0.1], [2.0, 3.0, 0.9]])
    pooled = tied.pooled(x)
    pieces = tied.split_pooled(pooled)
    torch.testing.assert_close(pieces[0], GaussianTiedSpherical().pooled(x[:, [0, 2]]))
    torch.testing.assert_close(pieces[1], Poisson().pooled(x[:, 1:2]))
    params = tied.maximize(tied.statistics(None, x, torch.eye(3, dtype=F64)))
    torch.testing.assert_close(tied.decode(params, torch.eye(3, dtype=F64)), x)
    assert tied.collapsed(params, x.var(0)).shape == (3,)
    assert Product([(Poisson(), [0])]).collapsed(ProductParams(params.parts[1:]), x.var(0)[:1]) is None


@pytest.mark.parametrize(("family", "params"), EXAMPLES)
def test_components_can_be_taken_in_any_order(family, params):
    order = torch.arange(params.n_components).flip(0)
    x, _ = drawn(family, params, 20)
    turned = params.take(order)
    torch.testing.assert_close(family.log_likelihood(turned, x), family.log_likelihood(params, x)[:, order])
