"""The posterior of x given y = H x + e, against a dense oracle that knows only Bayes' rule and Gaussians."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from mixcoder import Mixture
from mixcoder.errors import DataError
from mixcoder.sensing import GaussianRandom, Matrix, Rows, posterior

from .conftest import COVARIANCE_TYPES, D, K, make_case

OPERATORS = {
    "fewer": GaussianRandom(3, D, seed=1),
    "more": GaussianRandom(8, D, seed=2),
    "rows": Rows.of([3, 0], D),
}


def observations(case, operator, noise_variance, n=7, seed=5):
    rng = np.random.default_rng(seed)
    h = operator.matrix().numpy()
    x = case.means[rng.integers(K, size=n)] + rng.standard_normal((n, D))
    return x @ h.T + np.sqrt(noise_variance) * rng.standard_normal((n, len(h)))


def oracle(case, y, h, noise_variance):
    """Return weights, component means, means, covariances and evidence, from the joint Gaussian of x and y."""
    log_joint, means, covariances = [], [], []
    for weight, mean, covariance in case.dense:
        seen = h @ covariance @ h.T + noise_variance * np.eye(len(h))
        log_joint.append(np.log(weight) + multivariate_normal(h @ mean, seen).logpdf(y).reshape(len(y)))
        gain = np.linalg.solve(seen, h @ covariance).T
        means.append(mean + (y - h @ mean) @ gain.T)
        covariances.append(covariance - gain @ h @ covariance)
    log_joint, means, covariances = np.stack(log_joint, 1), np.stack(means, 1), np.stack(covariances)
    evidence = logsumexp(log_joint, axis=1)
    weights = np.exp(log_joint - evidence[:, None])
    mean = np.einsum("nk,nkd->nd", weights, means)
    apart = means - mean[:, None]
    total = np.einsum("nk,kde->nde", weights, covariances) + np.einsum(
        "nk,nkd,nke->nde", weights, apart, apart
    )
    return weights, means, mean, total, evidence


def close(actual, expected, tolerance=1e-9, least=0.0):
    atol = max(least, tolerance * np.abs(expected).max())
    np.testing.assert_allclose(actual.numpy(), expected, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("noise_variance", [0.3, 1e-4])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_posterior_equals_the_dense_oracle(case, operator, noise_variance):
    y = observations(case, operator, noise_variance)
    weights, component_means, mean, covariance, evidence = oracle(
        case, y, operator.matrix().numpy(), noise_variance
    )
    seen = case.estimator.posterior(y, operator, noise_variance)
    close(seen.weights, weights)
    close(seen.component_means, component_means)
    close(seen.mean, mean)
    # What is left of a variance is a difference: exact to 1e-9 of what the prior had.
    had = np.diagonal(case.covariances, axis1=1, axis2=2).max(0)
    close(seen.variance / torch.as_tensor(had), np.diagonal(covariance, axis1=1, axis2=2) / had, 1e-9, 1e-9)
    close(seen.log_evidence, evidence)
    rows, index = seen.hard()
    assert (index.numpy() == weights.argmax(1)).all()
    close(rows, component_means[np.arange(len(y)), weights.argmax(1)])


@pytest.mark.parametrize("operator", [Matrix(torch.zeros(2, D)), Rows.of([], D)], ids=["zero", "nothing"])
def test_posterior_is_the_prior_where_nothing_is_seen(case, operator):
    y = torch.randn(
        4, operator.n_measurements, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    seen = posterior(case.model, y, operator, 0.7)
    close(seen.weights, np.tile(case.weights, (4, 1)))
    mean = case.weights @ case.means
    close(seen.mean, np.tile(mean, (4, 1)))
    variance = case.weights @ (np.diagonal(case.covariances, axis1=1, axis2=2) + np.square(case.means - mean))
    close(seen.variance, np.tile(variance, (4, 1)))


def test_evidence_of_everything_seen_is_the_log_density(case):
    x = case.estimator.sample(50)[0]
    seen = case.estimator.posterior(x, Rows.of(list(range(D)), D), 0.0)
    close(seen.log_evidence, case.estimator.score_samples(x))
    close(seen.weights, case.estimator.predict_proba(x))
    close(seen.mean, x)
    assert float(seen.variance.max()) < 1e-9


def test_evidence_of_some_columns_is_their_marginal_density(case):
    columns = [4, 1]
    x = case.estimator.sample(20)[0]
    seen = case.estimator.posterior(x[:, columns], Rows.of(columns, D), 0.0)
    expected = logsumexp(
        [
            np.log(w) + multivariate_normal(m[columns], c[np.ix_(columns, columns)]).logpdf(x[:, columns])
            for w, m, c in case.dense
        ],
        axis=0,
    )
    close(seen.log_evidence, expected)


def test_draws_have_the_mean_variance_and_weights_of_the_posterior(case):
    operator, noise_variance, n_draws = OPERATORS["fewer"], 0.5, 20_000
    y = observations(case, operator, noise_variance, n=2)
    seen = case.estimator.posterior(y, operator, noise_variance)
    draws, index = seen.sample(n_draws, torch.Generator().manual_seed(0))
    assert draws.shape == (n_draws, 2, D)
    covariance = oracle(case, y, operator.matrix().numpy(), noise_variance)[3]
    error = (draws.mean(0) - seen.mean) / (seen.variance / n_draws).sqrt()
    assert float(error.abs().max()) < 4.5
    for row in range(2):
        std = np.sqrt(np.diag(covariance[row]))
        apart = (np.cov(draws[:, row].numpy().T) - covariance[row]) / np.outer(std, std)
        assert np.abs(apart).max() < 0.06
    share = torch.nn.functional.one_hot(index, K).double().mean(0)
    assert float((share - seen.weights).abs().max()) < 0.02


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_joint_rule_is_the_most_probable_component_with_its_best_row(kind):
    case, noise_variance = make_case(kind, seed=3), 0.5
    operator = OPERATORS["fewer"]
    h = operator.matrix().numpy()
    y = observations(case, operator, noise_variance, n=200)
    seen = case.estimator.posterior(y, operator, noise_variance)
    costs = []
    for k, (weight, mean, covariance) in enumerate(case.dense):
        estimate = seen.component_means[:, k].numpy()
        residual, apart = y - estimate @ h.T, estimate - mean
        first_two = (residual**2).sum(1) / noise_variance + (apart @ np.linalg.inv(covariance) * apart).sum(1)
        direct = y - h @ mean
        inverse = np.linalg.inv(h @ covariance @ h.T + noise_variance * np.eye(3))
        np.testing.assert_allclose(first_two, (direct @ inverse * direct).sum(1), rtol=1e-8)
        costs.append(first_two + np.linalg.slogdet(covariance)[1] - 2 * np.log(weight))
    best = np.argmin(costs, axis=0)
    rows, index = seen.hard("joint")
    assert (index.numpy() == best).all()
    close(rows, seen.component_means.numpy()[np.arange(len(y)), best])


def test_temperature_goes_from_the_argmax_to_even_weights(case):
    y = observations(case, OPERATORS["fewer"], 1.0)
    bayes = case.estimator.posterior(y, OPERATORS["fewer"], 1.0)
    cold, warm = bayes.at(0.0), bayes.at(1e9)
    rows, index = bayes.hard()
    assert torch.equal(cold.weights, torch.nn.functional.one_hot(index, K).double())
    torch.testing.assert_close(cold.mean, rows)
    torch.testing.assert_close(bayes.at(1e-4).mean, rows)
    torch.testing.assert_close(warm.weights, torch.full_like(warm.weights, 1 / K))
    half = case.estimator.posterior(y, OPERATORS["fewer"], 1.0, temperature=0.5)
    squares = bayes.weights.square()
    torch.testing.assert_close(half.weights, squares / squares.sum(1, keepdim=True))
    torch.testing.assert_close(half.log_evidence, bayes.log_evidence)


def test_a_component_without_weight_plays_no_part(case):
    kind = case.estimator.covariance_type
    two, three = make_case(kind, weights=(0.6, 0.4, 0.0)), make_case(kind, weights=(0.6, 0.4, 0.0))
    y = observations(two, OPERATORS["fewer"], 0.2)
    seen = three.estimator.posterior(y, OPERATORS["fewer"], 0.2)
    assert (seen.weights[:, 2] == 0).all()
    with np.errstate(divide="ignore"):
        *_, mean, covariance, evidence = oracle(two, y, OPERATORS["fewer"].matrix().numpy(), 0.2)
    close(seen.mean, mean)
    close(seen.variance, np.diagonal(covariance, axis1=1, axis2=2))
    close(seen.log_evidence, evidence)
    assert bool(seen.sample(5, torch.Generator().manual_seed(0))[0].isfinite().all())


def test_a_common_offset_costs_no_digits():
    near, far = make_case("full"), make_case("full", offset=2.0**30)
    moved = torch.as_tensor(far.means[0] - near.means[0])
    y = torch.as_tensor(observations(near, OPERATORS["rows"], 0.1))
    here = posterior(near.model, y, OPERATORS["rows"], 0.1)
    there = posterior(far.model, y + moved[OPERATORS["rows"].columns], OPERATORS["rows"], 0.1)
    torch.testing.assert_close(there.weights, here.weights, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.variance, here.variance, rtol=1e-4, atol=1e-5)


def test_answers_come_in_the_dtype_of_y_and_blocks_change_nothing(case, monkeypatch):
    y = torch.as_tensor(observations(case, OPERATORS["fewer"], 0.3, n=50))
    whole = posterior(case.model, y, OPERATORS["fewer"], 0.3)
    narrow = posterior(case.model, y.float(), OPERATORS["fewer"], 0.3)
    for name in ("weights", "component_means", "mean", "variance", "log_evidence"):
        assert getattr(narrow, name).dtype == torch.float32
    assert narrow.hard()[0].dtype == narrow.sample(1, torch.Generator())[0].dtype == torch.float32
    monkeypatch.setattr(sys.modules[posterior.__module__], "_BLOCK", 8 * D)
    for name in ("component_means", "mean", "variance"):
        torch.testing.assert_close(
            getattr(whole, name), getattr(posterior(case.model, y, OPERATORS["fewer"], 0.3), name)
        )


def test_a_row_beyond_all_horizons_has_a_finite_answer(case):
    seen = posterior(case.model, torch.full((1, 3), 1e200, dtype=torch.float64), OPERATORS["fewer"], 0.3)
    assert bool(seen.mean.isfinite().all())
    assert bool(seen.weights.isfinite().all())


def test_bad_input_is_named():
    model = make_case("full").model
    y, rows = torch.zeros(2, 2, dtype=torch.float64), Rows.of([0, 1], D)
    with pytest.raises(DataError, match=r"first at row 1, measurement 0.*leave it out"):
        posterior(model, torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]), rows, 1.0)
    with pytest.raises(DataError, match=r"shape \(2, 3\), expected \(n_rows, 2\)"):
        posterior(model, torch.zeros(2, 3), rows, 1.0)
    with pytest.raises(DataError, match=r"y\[None\]"):
        posterior(model, torch.zeros(2), rows, 1.0)
    with pytest.raises(ValueError, match=r"sees 4 features .* but this model has 5"):
        posterior(model, y, torch.ones(2, 4), 1.0)
    for noise_variance in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="non-negative and finite"):
            posterior(model, y, rows, noise_variance)
    with pytest.raises(ValueError, match=r"singular.*larger noise_variance"):
        posterior(model, y, Rows.of([1, 1], D), 0.0)
    with pytest.raises(ValueError, match=r"singular.*larger noise_variance"):
        posterior(model, torch.zeros(1, 8), GaussianRandom(8, D), 0.0)
    with pytest.raises(ValueError, match="temperature"):
        posterior(model, y, rows, 1.0, temperature=-1.0)
    seen = posterior(model, y, rows, 1.0)
    with pytest.raises(ValueError, match="'marginal' or 'joint'"):
        seen.hard("best")
    with pytest.raises(ValueError, match="at least 1"):
        seen.sample(0, torch.Generator())
    poisson = Mixture("poisson", 1, random_state=0).fit(np.arange(8.0).reshape(4, 2))
    with pytest.raises(TypeError, match="this model has Poisson"):
        poisson.posterior([[1.0]], [[1.0, 0.0]], 1.0)
