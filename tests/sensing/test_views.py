"""Low rank priors, codebooks and masks, against the dense oracle; every form of the same posterior agrees."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from mixcoder import FactorAnalyzerMixture, GaussianMixture, KMeans, PPCAMixture
from mixcoder.errors import DataError
from mixcoder.sensing import GaussianPrior, GaussianRandom, Matrix, RowMasks, Rows, posterior
from mixcoder.sensing.dense import DenseView
from mixcoder.sensing.low_rank import LowRankView

K, D, Q = 3, 8, 2

SPREADS = {
    "round": lambda r: r.uniform(0.1, 0.4, (K, 1)),
    "one round": lambda r: r.uniform(0.1, 0.4, (1, 1)),
    "diagonal": lambda r: r.uniform(0.1, 0.4, (K, D)),
    "one diagonal": lambda r: r.uniform(0.1, 0.4, (1, D)),
    "dense": lambda r: np.stack([0.3 * np.eye(D) + a @ a.T for a in 0.3 * r.standard_normal((K, D, D))]),
    "one dense": lambda r: np.stack([0.3 * np.eye(D) + a @ a.T for a in 0.3 * r.standard_normal((1, D, D))]),
}

OPERATORS = {
    "fewer": GaussianRandom(3, D, seed=1),
    "as many": GaussianRandom(D, D, seed=4),
    "more": GaussianRandom(12, D, seed=2),
    "rows": Rows.of([3, 0, 6, 7, 1], D),
    "a row twice": Rows.of([3, 0, 3], D),
}


def make_prior(kind: str, q: int = Q, seed: int = 0) -> GaussianPrior:
    rng = np.random.default_rng(seed)
    t = torch.as_tensor
    return GaussianPrior(
        t(np.log([0.5, 0.3, 0.2])),
        t(20 + rng.standard_normal(D)),
        t(1.5 * rng.standard_normal((K, D))),
        t(SPREADS[kind](rng)),
        t(rng.standard_normal((K, D, q))) if q else None,
    )


def dense(prior: GaussianPrior) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return weights, means and covariances written out."""
    spreads = prior.spreads
    if spreads.ndim == 2:
        spreads = torch.diag_embed(spreads.expand(-1, D))
    spreads = spreads.expand(K, D, D)
    if prior.loadings is not None:
        spreads = spreads + prior.loadings @ prior.loadings.mT
    means = (prior.shift + prior.means).numpy()
    return list(zip(prior.log_weights.exp().numpy(), means, spreads.numpy(), strict=True))


def oracle(parts, y, h, s2):
    """Return log_joint, component means and covariances for one observation, from the joint Gaussian."""
    log_joint, means, covariances = [], [], []
    for weight, mean, covariance in parts:
        seen = h @ covariance @ h.T + s2 * np.eye(len(h))
        apart = y - h @ mean
        norm = apart @ np.linalg.solve(seen, apart)
        log_det = np.linalg.slogdet(2 * np.pi * seen)[1]
        log_joint.append(np.log(weight) - 0.5 * (norm + log_det))
        gain = np.linalg.solve(seen, h @ covariance).T
        means.append(mean + gain @ (y - h @ mean))
        covariances.append(covariance - gain @ h @ covariance)
    return np.array(log_joint), np.stack(means), np.stack(covariances)


def check(seen, parts, y, h_of, s2, tolerance=1e-9):
    """Compare all that a posterior answers with the oracle, row by row."""
    had = max(np.diag(c).max() for _, _, c in parts)
    answers = [seen.weights, seen.log_evidence, seen.component_means, seen.mean, seen.variance]
    rows, index = seen.hard()
    joint_rows, joint = seen.hard("joint")
    for n in range(len(y)):
        h, row = h_of(n)
        log_joint, means, covariances = oracle(parts, row, h, s2)
        evidence = logsumexp(log_joint)
        weights = np.exp(log_joint - evidence)
        mean = weights @ means
        apart = means - mean
        variance = weights @ (np.diagonal(covariances, axis1=1, axis2=2) + apart**2)
        for got, expected in zip(answers, [weights, evidence, means, mean, variance], strict=True):
            np.testing.assert_allclose(got[n].numpy(), expected, rtol=tolerance, atol=tolerance * had)
        assert int(index[n]) == weights.argmax()
        np.testing.assert_allclose(rows[n].numpy(), means[weights.argmax()], rtol=tolerance)
        dets = [np.linalg.slogdet(h @ c @ h.T + s2 * np.eye(len(h)))[1] for _, _, c in parts]
        own = [np.linalg.slogdet(c)[1] if np.any(c) else 0.0 for _, _, c in parts]
        best = (log_joint + 0.5 * np.array(dets) - 0.5 * np.array(own)).argmax()
        assert int(joint[n]) == best
        np.testing.assert_allclose(joint_rows[n].numpy(), means[best], rtol=tolerance)


def draw(prior: GaussianPrior, n: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(n) % K
    return prior.shift + prior.means[index] + prior.deviations(index, generator)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("q", [0, Q])
@pytest.mark.parametrize("kind", SPREADS)
def test_every_prior_equals_the_dense_oracle(kind, q, operator):
    prior = make_prior(kind, q)
    y = operator.apply(draw(prior, 3))
    h = operator.matrix().numpy()
    for s2 in (0.3, 1e-4):
        check(posterior(prior, y, operator, s2), dense(prior), y, lambda n: (h, y[n].numpy()), s2)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("kind", ["round", "one round", "one dense", "one diagonal"])
def test_both_views_of_one_prior_agree(kind, operator):
    prior = make_prior(kind)
    y = operator.apply(draw(prior, 6)) - operator.apply(prior.shift[None])
    answers = []
    for view in (DenseView.of(prior, operator, 0.1), LowRankView.of(prior, operator, 0.1)):
        seen, rest = view.see(y, slice(None))
        residual = seen - view.expect(prior.means)[1]
        answers.append(
            (
                view.log_density(1, residual, slice(None)) + rest,
                view.correction(1, residual, slice(None)),
                view.variances(1, slice(None)),
            )
        )
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_view_is_chosen_by_cost():
    def view(kind, q, operator):
        return type(posterior(make_prior(kind, q), torch.zeros(1, operator.shape[0]), operator, 1.0).view)

    square = OPERATORS["as many"]
    assert view("round", 0, square) is LowRankView
    assert view("round", 1, square) is LowRankView
    assert view("round", 2, OPERATORS["fewer"]) is DenseView
    assert view("diagonal", 0, OPERATORS["rows"]) is LowRankView
    assert view("diagonal", 0, square) is DenseView
    assert view("one dense", 0, square) is DenseView
    assert view("one dense", 1, square) is LowRankView


@pytest.mark.parametrize("q", [0, Q])
@pytest.mark.parametrize("kind", SPREADS)
def test_a_mask_a_row_equals_the_dense_oracle(kind, q):
    prior = make_prior(kind, q)
    y = draw(prior, 9)
    observed = torch.rand(9, D, generator=torch.Generator().manual_seed(1)) < 0.6
    observed[2], observed[3], observed[4] = False, True, observed[5]
    masks = RowMasks(observed)
    assert masks.unseen.tolist() == [2]
    shown = torch.where(observed, y, torch.nan)
    seen = posterior(prior, shown, masks, 0.2)
    parts = dense(prior)

    def one(n):
        columns = observed[n].numpy()
        return np.eye(D)[columns], y[n].numpy()[columns]

    check(seen, parts, y, one, 0.2)
    # A row that shows nothing is answered with the prior.
    torch.testing.assert_close(seen.weights[2], prior.log_weights.exp())
    assert float(seen.log_evidence[2]) == pytest.approx(0.0, abs=1e-12)
    cold = seen.at(0.0)
    torch.testing.assert_close(cold.mean, seen.hard()[0])


@pytest.mark.parametrize("kind", ["round", "dense"])
def test_one_mask_for_all_is_a_choice_of_rows(kind):
    prior = make_prior(kind)
    mask = torch.tensor([True, False, True, True, False, False, True, True])
    y = draw(prior, 5)
    through = posterior(prior, y, RowMasks(mask.expand(5, D)), 0.2)
    chosen = posterior(prior, y[:, mask], Rows.observed(mask), 0.2)
    for name in ("weights", "mean", "variance", "log_evidence"):
        torch.testing.assert_close(getattr(through, name), getattr(chosen, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("how", ["low rank", "dense", "masks", "groups"])
def test_draws_have_the_moments_of_the_posterior(how):
    prior = make_prior("one dense" if how in ("dense", "groups") else "round")
    y = draw(prior, 2)
    operator = OPERATORS["as many"]
    if how in ("masks", "groups"):
        operator = RowMasks(torch.tensor([[True, True, False, True, False, True, True, True], [True] * D]))
        seen = posterior(prior, y, operator, 0.5)
    else:
        seen = posterior(prior, operator.apply(y), operator, 0.5)
    draws, index = seen.sample(20_000, torch.Generator().manual_seed(0))
    assert index.shape == draws.shape[:2]
    error = (draws.mean(0) - seen.mean) / (seen.variance / len(draws)).sqrt()
    assert float(error.abs().max()) < 4.5
    assert float((draws.var(0) / seen.variance - 1).abs().max()) < 0.06
    share = torch.nn.functional.one_hot(index, K).double().mean(0)
    assert float((share - seen.weights).abs().max()) < 0.02


@pytest.mark.parametrize("estimator", [PPCAMixture, FactorAnalyzerMixture])
def test_fitted_low_rank_mixtures_are_priors_in_the_units_of_the_rows(estimator):
    rng = np.random.default_rng(0)
    units = np.array([1.0, 1.0, 1.0, 1.0] if estimator is PPCAMixture else [1.0, 30.0, 0.1, 4.0])
    rows = rng.standard_normal((300, 2)) @ rng.standard_normal((2, 4)) + 0.3 * rng.standard_normal((300, 4))
    rows = (rows + 3 * (np.arange(300) % 2)[:, None] + 7) * units
    model = estimator(2, 1, random_state=0).fit(rows)
    seen = model.posterior(rows[:5], np.eye(4), 0.0)
    np.testing.assert_allclose(seen.log_evidence.numpy(), model.score_samples(rows[:5]), rtol=1e-9)
    np.testing.assert_allclose(seen.weights.numpy(), model.predict_proba(rows[:5]), atol=1e-9)
    np.testing.assert_allclose(seen.mean.numpy(), rows[:5], rtol=1e-9)


def test_a_codebook_is_a_prior_of_points():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, D)) + 5 * rng.integers(0, 3, 200)[:, None]
    model = KMeans(4, random_state=0).fit(rows)
    h, s2 = rng.standard_normal((3, D)), 0.7
    y = rows[:6] @ h.T
    centres, shares = model.cluster_centers_, model.weights_
    level = np.log(shares) - ((y[:, None] - centres @ h.T) ** 2).sum(2) / (2 * s2)
    weights = np.exp(level - logsumexp(level, axis=1, keepdims=True))
    points = model.posterior(y, h, s2, within_variance=0.0)
    np.testing.assert_allclose(points.weights.numpy(), weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(points.mean.numpy(), weights @ centres, rtol=1e-9)
    evidence = logsumexp(level, axis=1) - 1.5 * math.log(2 * math.pi * s2)
    np.testing.assert_allclose(points.log_evidence.numpy(), evidence, rtol=1e-9)
    spread = weights @ centres**2 - (weights @ centres) ** 2
    np.testing.assert_allclose(points.variance.numpy(), spread, rtol=1e-7, atol=1e-9)
    rows_, index = points.hard("joint")
    assert (index.numpy() == weights.argmax(1)).all()
    np.testing.assert_allclose(rows_.numpy(), centres[index.numpy()], rtol=1e-12)
    cold = model.posterior(y, h, s2, within_variance=0.0, temperature=0.0)
    np.testing.assert_allclose(cold.mean.numpy(), centres[weights.argmax(1)], rtol=1e-12)
    # By default the centres are balls of the size that the fit left.
    balls = model.posterior(y, h, s2)
    v = model.inertia_ / rows.size
    parts = [(w, c, v * np.eye(D)) for w, c in zip(shares, centres, strict=True)]
    check(balls, parts, y, lambda n: (h, y[n]), s2)


def test_a_codebook_says_what_it_lacks():
    rows = np.arange(12.0).reshape(6, 2)
    model = KMeans(2, random_state=0).partial_fit(rows)
    with pytest.raises(ValueError, match="give within_variance"):
        model.posterior([[0.0]], [[1.0, 0.0]], 1.0)
    assert model.posterior([[0.0]], [[1.0, 0.0]], 1.0, within_variance=0.0).mean.shape == (1, 2)
    with pytest.raises(ValueError, match="non-negative"):
        model.posterior([[0.0]], [[1.0, 0.0]], 1.0, within_variance=-1.0)
    with pytest.raises(ValueError, match="singular"):
        model.posterior([[0.0]], [[1.0, 0.0]], 0.0, within_variance=0.0)


def test_no_error_floor_once_there_are_more_measurements_than_axes():
    """Renna et al. (2014): the error vanishes with the noise from one measurement above the largest rank on."""
    rng = np.random.default_rng(0)
    prior = GaussianPrior(
        torch.log(torch.tensor([0.5, 0.5], dtype=torch.float64)),
        torch.zeros(32, dtype=torch.float64),
        torch.as_tensor(rng.standard_normal((2, 32))),
        torch.full((2, 1), 1e-12, dtype=torch.float64),
        torch.as_tensor(rng.standard_normal((2, 32, 4))),
    )
    index = torch.arange(200) % 2
    x = prior.means[index] + prior.deviations(index, torch.Generator().manual_seed(0))
    errors = {}
    for m in (3, 6):
        operator = Matrix(torch.linalg.qr(GaussianRandom(32, m, seed=1).matrix())[0].T)
        for s2 in (1e-4, 1e-8):
            noise = torch.randn(200, m, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            seen = posterior(prior, operator.apply(x) + math.sqrt(s2) * noise, operator, s2)
            errors[m, s2] = float((seen.mean - x).square().sum(1).mean())
    assert errors[6, 1e-4] > 50**2 * errors[6, 1e-8]
    assert errors[3, 1e-4] < 2 * errors[3, 1e-8]


def test_answers_do_not_depend_on_the_blocks(monkeypatch):
    prior = make_prior("round")
    y = draw(prior, 30)
    masks = RowMasks(torch.rand(30, D, generator=torch.Generator().manual_seed(1)) < 0.6)
    before = posterior(prior, y, masks, 0.2)
    answers = [before.mean, before.variance, before.log_evidence]
    monkeypatch.setattr(sys.modules[posterior.__module__], "_BLOCK", 4 * D)
    after = posterior(prior, y, masks, 0.2)
    for one, other in zip(answers, [after.mean, after.variance, after.log_evidence], strict=True):
        torch.testing.assert_close(one, other)


def test_bad_masks_are_named():
    prior, y = make_prior("round"), torch.zeros(2, D)
    with pytest.raises(ValueError, match=r"bool of shape \(n_rows, n_features\)"):
        RowMasks(torch.ones(2, D))
    with pytest.raises(ValueError, match="masks have 7 features, but this model has 8"):
        posterior(prior, y[:, 1:], RowMasks(torch.ones(2, 7, dtype=torch.bool)), 1.0)
    masks = RowMasks(torch.ones(2, D, dtype=torch.bool))
    with pytest.raises(DataError, match=r"shape \(1, 8\), expected that of its masks, \(2, 8\)"):
        posterior(prior, y[:1], masks, 1.0)
    hole = y.clone()
    hole[1, 3] = torch.nan
    with pytest.raises(DataError, match=r"first at row 1, column 3; RowMasks.of_present"):
        posterior(prior, hole, masks, 1.0)
    points = replace(prior, spreads=torch.zeros(1, 1, dtype=torch.float64), loadings=None)
    with pytest.raises(ValueError, match="singular"):
        posterior(points, y, masks, 0.0)


def test_a_mixture_takes_masks_and_answers_in_the_dtype_of_y():
    model = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    y = torch.tensor([[2.0, torch.nan], [torch.nan, torch.nan]])
    masks = RowMasks.of_present(y)
    seen = model.posterior(y, masks, 0.0)
    assert seen.mean.tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert seen.variance.dtype == torch.float32
    codebook = KMeans(1).fit(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert codebook.posterior(y, masks, 1.0).mean.dtype == torch.float32
