"""The density sums to one: the only law that sees a missing constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder.checks.case import Case, random, require, whole_numbers
from mixcoder.components import Family

# As many rows as a sum over all of them may have, and as many as stand for them where there are more.
_MOST_ROWS = 200_000
_DRAWS = 40_000

# Where a sum is known to an error, it must be within that error of one, and the error must not be an excuse.
_LARGEST_ERROR = 0.05


@dataclass(frozen=True)
class Rule:
    """Rows with weights: the sum of weight times density estimates the whole, within ``error``.

    Parameters
    ----------
    rows : Tensor, shape (n, d)
    weights : Tensor, shape (n,)
    error : callable
        Takes the terms weight times density, shape (n,); gives the error of their sum.
    name : str
    """

    rows: Tensor
    weights: Tensor
    error: Callable[[Tensor], float]
    name: str


def the_density_sums_to_one(case: Case) -> None:
    """Summed over all rows that there can be, the density of each component is one.

    Whole numbers are enumerated where they are few; one and two real columns are integrated on a grid that
    reaches to their bounds, or a million standard deviations out; directions on the sphere; the rest by
    importance sampling. What the columns are is read off samples, what rows are admissible from ``check_rows``.
    """
    for component in range(case.n_components):
        draws = torch.full((4000,), component)
        x = case.family.sample(case.params, draws, random(200 + component))
        x = x[_admissible(case.family, x)]
        require(len(x) > 0, f"component {component}: check_rows refuses every row that sample draws")
        rule = _rule(case.family, x)
        alone = case.params.take(torch.tensor([component]))
        rows, weights = rule.rows, rule.weights
        inside = _admissible(case.family, rows)
        density = torch.zeros(len(rows), dtype=torch.float64)
        density[inside] = case.family.log_likelihood(alone, rows[inside])[:, 0].double().exp()
        terms = weights * density
        total, error = float(terms.sum()), rule.error(terms)
        require(
            error <= _LARGEST_ERROR,
            f"component {component}: {rule.name} over {len(rows)} rows gives {total:.6g} +- {error:.2g}, too rough to "
            "tell; give an example with fewer columns or less spread",
        )
        require(
            abs(total - 1) <= error,
            f"component {component}: {rule.name} over {len(rows)} rows gives {total:.9g}, expected 1 +- {error:.2g}",
        )


def _rule(family: Family[Any, Any], x: Tensor) -> Rule:
    """Return how to sum over all rows of which ``x`` are some."""
    discrete = whole_numbers(x)
    if bool(discrete.all()):
        supports = [_support(family, x, column) for column in range(x.shape[1])]
        if math.prod(len(support) for support in supports) <= _MOST_ROWS:
            rows = torch.cartesian_prod(*supports).view(-1, x.shape[1])
            return Rule(rows, torch.ones(len(rows), dtype=torch.float64), lambda _: 1e-6, "the sum")
        return _sampled(family, x, discrete)
    norms = torch.linalg.vector_norm(x, dim=1)
    if x.shape[1] >= 2 and bool(((norms - 1).abs() < 1e-9).all()):
        return _sphere(x)
    if x.shape[1] <= 2 and not bool(discrete.any()):
        return _grid(family, x)
    return _sampled(family, x, discrete)


def _grid(family: Family[Any, Any], x: Tensor) -> Rule:
    """Return the trapezoid rule after a change of variable that makes tails light and sends bounds to infinity."""
    d = x.shape[1]
    bounds = [_bounds(family, x, column) for column in range(d)]
    step = 0.05 if d == 1 else 0.1
    if all(math.isinf(low) and math.isinf(high) for low, high in bounds):
        # x = centre + L sinh(u), turned to the axes of the scatter.
        centre, factor = _location_scale(x)
        u = _places(14.0, step)
        axes, masses = [u.sinh()] * d, [step * u.cosh()] * d
        turn = factor.T
    else:
        centre, turn = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
        axes, masses = zip(*(_axis(x[:, c], *bounds[c], step) for c in range(d)), strict=True)
    shape = tuple(len(axis) for axis in axes)
    nodes = torch.cartesian_prod(*axes).view(-1, d)
    weights = torch.cartesian_prod(*masses).view(-1, d).prod(1) * float(turn.diagonal().prod())

    def error(terms: Tensor) -> float:
        # Every other point: a rule that converges this fast errs by far less than the change that doubling makes.
        coarse = terms.view(shape)[(slice(None, None, 2),) * d].sum() * 2**d
        return 1e-6 + abs(float(coarse - terms.sum()))

    return Rule(centre + nodes @ turn, weights, error, "the integral")


def _axis(x: Tensor, low: float, high: float, step: float) -> tuple[Tensor, Tensor]:
    """Return places along a column and their weights: exp(u) from one bound, a logistic curve between two."""
    size = float(x.std()) + 1e-300
    if math.isfinite(low) and math.isfinite(high):
        share = _places(30.0, step).sigmoid()
        return low + (high - low) * share, step * (high - low) * share * (1 - share)
    if math.isfinite(low) or math.isfinite(high):
        away = size * _places(30.0, step).clamp_max(14.0).exp()
        weights = step * away * (_places(30.0, step) <= 14.0)
        return (low + away if math.isfinite(low) else high - away), weights
    u = _places(14.0, step)
    return float(x.median()) + size * u.sinh(), step * size * u.cosh()


def _places(reach: float, step: float) -> Tensor:
    half = 2 * round(reach / step / 2)
    return torch.arange(-half, half + 1, dtype=torch.float64) * step


def _bounds(family: Family[Any, Any], x: Tensor, column: int) -> tuple[float, float]:
    """Return where the admissible values of a column begin and end, infinite where they do not."""
    row, seen = x[:1].clone(), x[:, column]
    size = float(seen.std())

    def end(inside: float, outside: float) -> float:
        for _ in range(200):
            row[0, column] = outside
            if family.check_rows(row) is None:
                return outside
            row[0, column] = middle = 0.5 * (inside + outside)
            if family.check_rows(row) is None:
                inside = middle
            else:
                outside = middle
        return 0.0 if abs(outside) < 1e-12 * size else inside

    lowest, highest = float(seen.min()) - 1e6 * size, float(seen.max()) + 1e6 * size
    low, high = end(float(seen.min()), lowest), end(float(seen.max()), highest)
    return -math.inf if low == lowest else low, math.inf if high == highest else high


def _sphere(x: Tensor) -> Rule:
    """Return the trapezoid rule on the circle, its product with Gauss' on the sphere, importance sampling beyond."""
    d = x.shape[1]
    if d == 2:
        angles = torch.arange(4096, dtype=torch.float64) * (2 * math.pi / 4096)
        weights = torch.full_like(angles, 2 * math.pi / 4096)
        return Rule(torch.stack([angles.cos(), angles.sin()], 1), weights, lambda _: 1e-6, "the integral")
    if d == 3:
        heights, masses = _gauss_legendre(400)
        angles = torch.arange(400, dtype=torch.float64) * (2 * math.pi / 400)
        z, angle = torch.cartesian_prod(heights, angles).unbind(1)
        radius = (1 - z.square()).sqrt()
        rows = torch.stack([radius * angle.cos(), radius * angle.sin(), z], 1)
        weights = masses.repeat_interleave(400) * (2 * math.pi / 400)
        return Rule(rows, weights, lambda _: 1e-6, "the integral")
    # Directions of a Gaussian have the density |L|^-1 |L^-1 x|^-d over the area of the sphere (Tyler 1987).
    factor = torch.linalg.cholesky(x.T @ x / len(x) + 1e-9 * torch.eye(d, dtype=x.dtype))
    rows = torch.randn(_DRAWS, d, generator=random(300), dtype=torch.float64) @ factor.T
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(torch.linalg.solve_triangular(factor, rows.T, upper=False), dim=0)
    log_area = math.log(2) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)
    log_weights = log_area + factor.diagonal().log().sum() + d * lengths.log()
    return Rule(rows, log_weights.exp() / _DRAWS, _sampling_error, "importance sampling")


def _sampled(family: Family[Any, Any], x: Tensor, discrete: Tensor) -> Rule:
    """Return importance sampling: a t around the real columns, each discrete column by itself."""
    generator = random(301)
    rows = torch.empty(_DRAWS, x.shape[1], dtype=torch.float64)
    log_proposal = torch.zeros(_DRAWS, dtype=torch.float64)
    for column in discrete.nonzero()[:, 0].tolist():
        support = _support(family, x, column)
        seen = (x[:, column, None] == support).double().mean(0)
        masses = 0.95 * seen + 0.05 / len(support)
        drawn = torch.multinomial(masses, _DRAWS, replacement=True, generator=generator)
        rows[:, column] = support[drawn]
        log_proposal += masses.log()[drawn]
    real = (~discrete).nonzero()[:, 0]
    if len(real):
        centre, factor = _location_scale(x[:, real])
        d, dof = len(real), 3
        noise = torch.randn(_DRAWS, d, generator=generator, dtype=torch.float64)
        squares = torch.randn(_DRAWS, dof, generator=generator, dtype=torch.float64).square().sum(1)
        z = noise / (squares / dof).sqrt()[:, None]
        rows[:, real] = centre + z @ factor.T
        constant = math.lgamma((dof + d) / 2) - math.lgamma(dof / 2) - d / 2 * math.log(dof * math.pi)
        log_proposal += constant - factor.diagonal().log().sum()
        log_proposal += -(dof + d) / 2 * torch.log1p(z.square().sum(1) / dof)
    return Rule(rows, (-log_proposal).exp() / _DRAWS, _sampling_error, "importance sampling")


def _sampling_error(terms: Tensor) -> float:
    """Return five standard errors of an average that is given as the sum of its terms."""
    return 1e-6 + 5 * float(terms.std()) * len(terms) ** 0.5


def _location_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median and a Cholesky factor of the scatter of rows, tails cut off."""
    lowest, middle, highest = torch.quantile(x, torch.tensor([0.02, 0.5, 0.98], dtype=x.dtype), dim=0)
    cut = torch.minimum(torch.maximum(x, lowest), highest) - middle
    scatter = cut.T @ cut / len(x)
    return middle, torch.linalg.cholesky(scatter + 1e-9 * torch.diag(scatter.diagonal()))


def _support(family: Family[Any, Any], x: Tensor, column: int) -> Tensor:
    """Return the whole numbers that a column may hold, as far out as matters, shape (s,)."""
    seen = x[:, column]
    reach = 10 + 8 * float(seen.std())
    lowest, highest = float(seen.min()), float(seen.max())
    values = torch.arange(math.floor(lowest - reach), math.ceil(highest + reach) + 1, dtype=torch.float64)
    rows = x[:1].repeat(len(values), 1)
    rows[:, column] = values
    return values[_admissible(family, rows)]


def _admissible(family: Family[Any, Any], rows: Tensor) -> Tensor:
    """Return which rows the family accepts, shape (n,) bool."""
    if family.check_rows(rows) is None:
        return torch.ones(len(rows), dtype=torch.bool)
    if len(rows) == 1:
        return torch.zeros(1, dtype=torch.bool)
    half = len(rows) // 2
    return torch.cat([_admissible(family, rows[:half]), _admissible(family, rows[half:])])


def _gauss_legendre(n_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [-1, 1], from the eigenvalues of Jacobi's matrix (Golub & Welsch 1969)."""
    i = torch.arange(1, n_nodes, dtype=torch.float64)
    off = i / (4 * i.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0].square()
