"""Mixtures learned from indirect observations: monotone, consistent with direct EM, and honest about what is unseen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixcoder import GaussianMixture
from mixcoder.errors import DataError
from mixcoder.sensing import (
    GaussianPrior,
    GaussianRandom,
    Rows,
    learn_from_measurements,
    posterior,
    total_covariance,
)
from mixcoder.sensing.indirect import IndirectProblem, IndirectSums

D = 4


def truth(k: int = 2, seed: int = 0) -> GaussianPrior:
    rng = np.random.default_rng(seed)
    factors = 0.5 * rng.standard_normal((k, D, D))
    spreads = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(D)
    return GaussianPrior(
        torch.full((k,), -math.log(k), dtype=torch.float64),
        torch.full((D,), 3.0, dtype=torch.float64),
        torch.as_tensor(2.5 * np.array([[1, 1, -1, 0.5], [-1, -1, 1, 0.5]][:k])),
        torch.as_tensor(spreads),
    )


def batches_of(prior, n_batches: int, n: int, m: int, s2: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for b in range(n_batches):
        index = torch.randint(len(prior.means), (n,), generator=generator)
        x = prior.shift + prior.means[index] + prior.deviations(index, generator)
        operator = GaussianRandom(m, D, seed=100 + b)
        noise = torch.randn(n, m, generator=generator, dtype=torch.float64)
        result.append((operator.apply(x) + math.sqrt(s2) * noise, operator))
    return result


def never_falls(bounds):
    steps = np.diff(bounds)
    assert len(steps) > 3
    assert (steps >= -1e-9 * np.abs(bounds[1:])).all()


@pytest.mark.parametrize("noise_variance", [None, 0.05])
@pytest.mark.parametrize("strength", [0.0, 5.0])
def test_the_bound_never_falls(noise_variance, strength):
    batches = batches_of(truth(), 8, 20, 2, 0.05)
    found = learn_from_measurements(
        batches,
        2,
        noise_variance,
        strength=strength,
        generator=torch.Generator().manual_seed(0),
        max_iter=40,
        tol=0.0,
    )
    never_falls(found.bounds)
    if strength == 0:
        evidence = sum(
            float(posterior(found.prior, y, h, found.noise_variance).log_evidence.sum()) for y, h in batches
        )
        assert found.bounds[-1] == pytest.approx(evidence / 160, rel=1e-9)


def test_a_mixture_and_the_noise_are_recovered_from_fewer_measurements_than_features():
    prior, s2 = truth(), 0.04
    batches = batches_of(prior, 12, 400, 2, s2)
    # Two measurements barely tell noise from spread: the evidence is flat along s^2, where plain EM creeps.
    found = learn_from_measurements(
        batches, 2, generator=torch.Generator().manual_seed(1), max_iter=200, tol=1e-7
    )
    assert found.converged
    order = (found.prior.means + found.prior.shift)[:, 0].argsort(descending=True)
    means = (found.prior.means + found.prior.shift)[order]
    torch.testing.assert_close(means, prior.means + prior.shift, atol=0.1, rtol=0)
    torch.testing.assert_close(found.prior.spreads[order], prior.spreads, atol=0.15, rtol=0)
    torch.testing.assert_close(
        found.prior.log_weights.exp(), torch.full((2,), 0.5).double(), atol=0.03, rtol=0
    )
    assert found.noise_variance == pytest.approx(s2, rel=0.15)


def test_leaps_reach_in_few_steps_what_plain_steps_reach_in_many():
    """From one start: the same maximum, noise level included, in less than half the passes over the observations."""
    batches, level = batches_of(truth(1), 6, 50, 3, 0.05), 0.3
    problem = IndirectProblem([(y, h.matrix()) for y, h in batches], 0.0, 1.0, None, 1e-12)
    at, passes = problem.look(truth(1), level), 1
    while True:
        new, passes = problem.look(*problem.maximised(at)), passes + 1
        if new.bound - at.bound < 1e-9:
            break
        at = new
    looks: list[float] = []
    counted = IndirectProblem.look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndirectProblem, "look", lambda *a: (looks.append(0), counted(*a))[1])
        found = learn_from_measurements(batches, 1, start=truth(1), max_iter=2000, tol=1e-9)
    never_falls(found.bounds)
    assert found.converged
    assert found.bounds[-1] >= at.bound - 1e-7
    assert found.noise_variance == pytest.approx(at.level, rel=1e-2)
    assert len(looks) < passes / 2


def test_sums_about_other_centres_are_those_of_moved_rows():
    generator = torch.Generator().manual_seed(0)
    x, r = (torch.rand(size, generator=generator, dtype=torch.float64) for size in [(50, D), (50, 2)])
    moved = torch.rand(2, D, generator=generator, dtype=torch.float64)

    def sums(centres):
        apart = x[:, None] - centres
        return IndirectSums(
            r.sum(0),
            torch.einsum("nk,nkd->kd", r, apart),
            torch.einsum("nk,nkd,nke->kde", r, apart, apart),
            r.sum()[None],
        )

    for one, other in zip(
        vars(sums(moved)).values(), vars(sums(0 * moved).about(moved)).values(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_everything_seen_is_ordinary_maximum_likelihood():
    """Rows with all features seen and next to no noise: one Gaussian has the sample's mean and covariance."""
    x = batches_of(truth(1), 1, 200, D, 0.0)[0][0]
    found = learn_from_measurements(
        [(x, Rows.of(list(range(D)), D))],
        1,
        1e-9,
        generator=torch.Generator().manual_seed(0),
        max_iter=50,
        tol=1e-10,
    )
    torch.testing.assert_close(found.prior.shift + found.prior.means[0], x.mean(0), atol=1e-6, rtol=1e-6)
    covariance = torch.cov(x.T, correction=0)
    torch.testing.assert_close(total_covariance(found.prior), covariance, atol=1e-6, rtol=1e-6)


def test_direct_em_of_the_same_start_gives_the_same_mixture():
    prior = truth()
    x = batches_of(prior, 1, 300, D, 0.0)[0][0]
    x = torch.linalg.solve(GaussianRandom(D, D, seed=100).matrix(), x.T).T
    found = learn_from_measurements(
        [(x[:100], torch.eye(D)), (2 * x[100:], 2 * torch.eye(D))],
        2,
        1e-9,
        start=prior,
        max_iter=60,
        tol=1e-10,
    )
    direct = GaussianMixture(
        2,
        weights_init=prior.log_weights.exp().numpy(),
        means_init=(prior.means + prior.shift).numpy(),
        precisions_init=np.linalg.inv(prior.spreads.numpy()),
        tol=1e-12,
        max_iter=300,
    ).fit(x.numpy())
    np.testing.assert_allclose(found.prior.means + found.prior.shift, direct.means_, atol=1e-4)
    np.testing.assert_allclose(found.prior.spreads, direct.covariances_, atol=1e-4)


def test_stationary_points_of_the_evidence():
    """At convergence no small change of noise, means or covariances raises the evidence."""
    batches = batches_of(truth(1), 6, 100, 3, 0.1)
    found = learn_from_measurements(batches, 1, start=truth(1), max_iter=400, tol=1e-11)

    def evidence(prior, s2):
        return sum(float(posterior(prior, y, h, s2).log_evidence.sum()) for y, h in batches) / 600

    best, prior, s2 = evidence(found.prior, found.noise_variance), found.prior, found.noise_variance
    for factor in (0.97, 1.03):
        assert evidence(prior, s2 * factor) < best
        scaled = GaussianPrior(prior.log_weights, prior.shift, prior.means, factor * prior.spreads)
        assert evidence(scaled, s2) < best
        moved = GaussianPrior(prior.log_weights, prior.shift, prior.means + (factor - 1), prior.spreads)
        assert evidence(moved, s2) < best


def test_what_cannot_be_learned_is_refused():
    y, generator = torch.zeros(5, 2, dtype=torch.float64), torch.Generator()
    fixed = GaussianRandom(2, D, seed=0)
    with pytest.raises(ValueError, match=r"see 2 of 4 directions.*fixed operator.*vary"):
        learn_from_measurements([(y, fixed), (y, fixed)], 1, generator=generator)
    apart = [(y, Rows.of([0, 1], D)), (y, Rows.of([2, 3], D))]
    with pytest.raises(ValueError, match="see 6 of 10 numbers of a covariance"):
        learn_from_measurements(apart, 1, generator=generator)
    varied = [(y, GaussianRandom(2, D, seed=seed)) for seed in range(5)]
    with pytest.raises(ValueError, match="generator"):
        learn_from_measurements(varied, 1)
    with pytest.raises(ValueError, match=r"in 1\.\.25"):
        learn_from_measurements(varied, 26, generator=generator)
    with pytest.raises(ValueError, match="positive and finite, or None"):
        learn_from_measurements(varied, 1, 0.0, generator=generator)
    with pytest.raises(ValueError, match="strength"):
        learn_from_measurements(varied, 1, strength=-1.0, generator=generator)
    with pytest.raises(DataError, match="no batch"):
        learn_from_measurements([], 1, generator=generator)
    with pytest.raises(DataError, match="NaN"):
        learn_from_measurements([(y * torch.nan, fixed)], 1, generator=generator)
    with pytest.raises(DataError, match=r"expected \(n_rows, 2\)"):
        learn_from_measurements([(y[:, :1], fixed)], 1, generator=generator)


def test_observations_that_are_no_tensor_and_operators_that_are_not_finite_are_named():
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(TypeError, match=r"y must be a torch\.Tensor, got ndarray; use torch.as_tensor"):
        learn_from_measurements([(np.zeros((5, D)), np.eye(D))], 1, generator=generator)
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        learn_from_measurements([(torch.zeros(5, D), np.nan * np.eye(D))], 1, generator=generator)
