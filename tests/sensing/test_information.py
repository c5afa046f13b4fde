"""Mutual information of measurements: quadrature, closed forms and finite differences; ascent to known maxima."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from mixcoder import GaussianMixture
from mixcoder.sensing import (
    GaussianPrior,
    designed_operator,
    gaussian_information,
    informative_operator,
    mixture_information,
    total_covariance,
)
from mixcoder.sensing.information import _Draws

D = 5


def prior_of(k: int = 3, seed: int = 0, apart: float = 1.5) -> GaussianPrior:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(5 * np.ones(k))
    factors = rng.standard_normal((k, D, D)) * np.array([1.5, 1.0, 0.6, 0.3, 0.1])
    return GaussianPrior(
        torch.as_tensor(np.log(weights)),
        torch.as_tensor(rng.standard_normal(D)),
        torch.as_tensor(apart * rng.standard_normal((k, D))),
        torch.as_tensor(factors @ factors.transpose(0, 2, 1) + 0.05 * np.eye(D)),
    )


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_quadrature(prior: GaussianPrior, row: np.ndarray, s2: float) -> float:
    """I(x; y) = h(y) - h(e) of one measurement y = a'x + e, by numerical integration."""
    weights = prior.log_weights.exp().numpy()
    means = (prior.means + prior.shift).numpy() @ row
    stds = np.sqrt(np.einsum("d,kde,e->k", row, prior.spreads.numpy(), row) + s2)

    def minus_p_log_p(y: float) -> float:
        p = float(weights @ norm.pdf(y, means, stds))
        return -p * math.log(p) if p > 0 else 0.0

    low, high = (means - 12 * stds).min(), (means + 12 * stds).max()
    entropy = quad(minus_p_log_p, low, high, limit=500, points=sorted(means), epsabs=1e-11)[0]
    return entropy - 0.5 * math.log(2 * math.pi * math.e * s2)


@pytest.mark.parametrize("seed", [0, 1])
def test_of_one_measurement_it_is_the_integral_and_the_gradient_its_differences(seed):
    prior, s2 = prior_of(seed=seed), 0.3
    row = np.random.default_rng(seed + 5).standard_normal(D)
    found = mixture_information(prior, row[None], s2, n_draws=100_000, generator=draw())
    exact = by_quadrature(prior, row, s2)
    assert 0 < found.standard_error < 0.01 * exact
    assert abs(found.value - exact) < 4 * found.standard_error
    step = 1e-4
    differences = [
        (by_quadrature(prior, row + step * axis, s2) - by_quadrature(prior, row - step * axis, s2))
        / (2 * step)
        for axis in np.eye(D)
    ]
    np.testing.assert_allclose(found.gradient[0], differences, atol=0.01 * np.abs(differences).max())


def test_of_one_gaussian_it_is_exact():
    """I = 1/2 log |I + H Sigma H'/s^2|, and its gradient S^-1 H Sigma."""
    prior, s2 = prior_of(1), 0.3
    matrix = torch.as_tensor(np.random.default_rng(1).standard_normal((3, D))).requires_grad_()
    exact = 0.5 * torch.logdet(torch.eye(3).double() + matrix @ prior.spreads[0] @ matrix.T / s2)
    (gradient,) = torch.autograd.grad(exact, matrix)
    found = mixture_information(prior, matrix.detach(), s2, n_draws=2, generator=draw())
    assert found.value == pytest.approx(float(exact.detach()), rel=1e-12)
    assert found.standard_error == 0
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-10, atol=1e-10)
    closed = gaussian_information(total_covariance(prior), matrix.detach(), s2)
    assert found.value == pytest.approx(float(closed), rel=1e-12)


def test_the_gradient_over_given_draws_is_that_of_their_mean():
    """What the climb follows is exact for its draws, and by many draws the gradient by the theorem."""
    prior, s2 = prior_of(), 0.3
    matrix = torch.as_tensor(np.random.default_rng(1).standard_normal((2, D)))
    draws = _Draws.of(prior, 2, s2, 200, draw())

    def value(at: torch.Tensor) -> float:
        known, entropies, _, _ = draws.entropies(at)
        return float(known - entropies.mean())

    power = float(matrix.square().sum())
    _, slope = draws.climb(matrix, power)
    across = torch.as_tensor(np.random.default_rng(2).standard_normal((2, D)))
    across -= (across * matrix).sum() / power * matrix
    difference = (value(matrix + 1e-5 * across) - value(matrix - 1e-5 * across)) / 2e-5
    assert float((slope * across).sum()) == pytest.approx(difference, rel=1e-6)
    many = _Draws.of(prior, 2, s2, 100_000, draw(1)).climb(matrix, power)[1]
    theorem = mixture_information(prior, matrix, s2, n_draws=100_000, generator=draw(2)).gradient
    theorem = theorem - (theorem * matrix).sum() / power * matrix
    torch.testing.assert_close(many, theorem, rtol=0, atol=0.02 * float(theorem.abs().max()))


def test_far_components_say_their_number_and_no_more():
    """Components that cannot be mistaken: I(k; y) = H(pi)."""
    prior = prior_of(apart=1000.0)
    operator = torch.eye(D).double()
    found = mixture_information(prior, operator, 0.1, generator=draw())
    weights = prior.log_weights.exp()
    within = sum(
        float(w) * float(gaussian_information(s, operator, 0.1))
        for w, s in zip(weights, prior.spreads, strict=True)
    )
    assert found.value == pytest.approx(within + float(torch.special.entr(weights).sum()), rel=1e-9)


@pytest.mark.parametrize("power", [None, 4.0])
def test_for_one_gaussian_the_climb_reaches_the_closed_form(power):
    """From a random start: the principal axes, or water filling."""
    prior, s2 = prior_of(1), 0.3
    start = np.random.default_rng(3).standard_normal((2, D))
    found = informative_operator(
        prior, 2, s2, power=power, start=start, n_draws=2, max_iter=2000, tol=1e-12, generator=draw()
    )
    best = designed_operator(prior, 2, s2, power)
    assert found.values[-1] == pytest.approx(
        float(gaussian_information(total_covariance(prior), best, s2)), rel=1e-6
    )
    gram = found.operator.values @ found.operator.values.T
    if power is None:
        torch.testing.assert_close(gram, torch.eye(2).double())
    else:
        assert float(gram.trace()) == pytest.approx(power)


def test_the_climb_only_rises_and_beats_principal_axes():
    """A rare component of large variance rules the principal axes, but measuring its axis mostly says nothing."""
    rng = np.random.default_rng(0)
    spreads = np.stack([np.diag([1.0, 1.0, 1e-3, 1e-3, 1e-3]), np.diag([1e-3, 1e-3, 30.0, 1e-3, 1e-3])])
    weights = np.log([0.9, 0.1])
    prior = GaussianPrior(
        *(torch.as_tensor(values) for values in (weights, np.zeros(D), np.zeros((2, D)), spreads))
    )
    s2 = 0.05
    axes = designed_operator(prior, 2)
    assert axes.values[0, 2].abs() > 0.99
    start = axes.values + 0.1 * torch.as_tensor(rng.standard_normal((2, D)))
    found = informative_operator(prior, 2, s2, start=start, generator=draw())
    assert (np.diff(found.values) >= 0).all()
    before, after = (mixture_information(prior, h, s2, generator=draw(9)) for h in (axes, found.operator))
    assert after.value > before.value + 5 * (after.standard_error + before.standard_error)
    # The best that axes can do is to look where the frequent component is.
    assert after.value > mixture_information(prior, torch.eye(D)[:2], s2, generator=draw(9)).value - 1e-2


def test_models_and_low_rank_priors():
    x = np.random.default_rng(0).standard_normal((300, 4)) * [3, 2, 1, 1] + 10
    model = GaussianMixture(2, random_state=0).fit(x).model_
    found = informative_operator(model, 2, 0.5, generator=draw(), n_draws=500)
    assert found.values[-1] >= found.values[0]
    full = prior_of()
    low = GaussianPrior(
        full.log_weights, full.shift, full.means, torch.full((1, D), 0.2).double(), full.spreads[:, :, :2]
    )
    written = GaussianPrior(full.log_weights, full.shift, full.means, low.covariances())
    a, b = (
        mixture_information(p, torch.eye(D)[:2], 0.3, n_draws=50_000, generator=draw())
        for p in (low, written)
    )
    assert abs(a.value - b.value) < 4 * (a.standard_error + b.standard_error)


def test_bad_input_is_named():
    prior = prior_of()
    with pytest.raises(ValueError, match="noise_variance must be positive"):
        mixture_information(prior, torch.eye(D), 0.0, generator=draw())
    with pytest.raises(ValueError, match="sees 4 features"):
        mixture_information(prior, torch.eye(4), 0.1, generator=draw())
    with pytest.raises(ValueError, match="n_draws must be at least 2"):
        mixture_information(prior, torch.eye(D), 0.1, n_draws=1, generator=draw())
    with pytest.raises(ValueError, match="power must be positive"):
        informative_operator(prior, 2, 0.1, power=-1.0, generator=draw())
    with pytest.raises(ValueError, match=r"A start has shape \(2, 5\)"):
        informative_operator(prior, 2, 0.1, start=torch.eye(3, D), generator=draw())
    with pytest.raises(ValueError, match=r"n_measurements must be in 1\.\.5"):
        informative_operator(prior, 6, 0.1, generator=draw())
