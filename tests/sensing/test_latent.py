"""Latent recovery: exact where the decoder is linear, stationary where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import aslinearoperator

from mixcoder.errors import DataError
from mixcoder.sensing import (
    GaussianPrior,
    GaussianRandom,
    decoder_variance,
    posterior,
    recover_latent,
)

D, Q, M = 12, 3, 5


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def linear(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return double(D, seed=seed + 7), double(Q, D, seed=seed)


def bent(seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, D)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


@pytest.mark.parametrize("t2", [0.0, 0.3])
@pytest.mark.parametrize("n_steps", [0, 200])
def test_of_a_linear_decoder_it_is_ppca(t2, n_steps):
    """z is ridge regression's, and the row the exact posterior mean under N(mu, W W' + t^2 I)."""
    mean, axes = linear()
    operator, s2, y = GaussianRandom(M, D, seed=0), 0.2, double(4, M, seed=1)
    found = recover_latent(
        y,
        operator,
        lambda z: mean + z @ axes,
        Q,
        s2,
        decoder_variance=t2,
        n_starts=2,
        n_steps=n_steps,
        generator=torch.Generator().manual_seed(0),
    )
    matrix = operator.matrix()
    noise = s2 * torch.eye(M).double() + t2 * matrix @ matrix.T
    seen = matrix @ axes.T
    apart = y - matrix @ mean
    ridge = torch.eye(Q).double() + seen.T @ torch.linalg.solve(noise, seen)
    z = torch.linalg.solve(ridge, seen.T @ torch.linalg.solve(noise, apart.T)).T
    torch.testing.assert_close(found.latent, z, rtol=1e-9, atol=1e-9)
    one = torch.zeros(1, dtype=torch.float64)
    prior = GaussianPrior(
        one, mean, torch.zeros(1, D).double(), torch.full((1, 1), t2, dtype=torch.float64), axes.T[None]
    )
    torch.testing.assert_close(found.rows, posterior(prior, y, operator, s2).mean, rtol=1e-9, atol=1e-9)
    residual = apart - found.latent @ seen.T
    least = (residual * torch.linalg.solve(noise, residual.T).T).sum(1) + z.square().sum(1)
    torch.testing.assert_close(found.objectives, least)


def test_adam_alone_finds_the_same():
    mean, axes = linear()
    operator, y = GaussianRandom(M, D, seed=0), double(4, M, seed=1)
    start = torch.zeros(4, Q, dtype=torch.float64)
    exact, steps = (
        recover_latent(
            y,
            operator,
            lambda z: mean + z @ axes,
            Q,
            0.5,
            start=start,
            n_steps=n,
            n_polish=p,
            learning_rate=0.1,
        )
        for n, p in ((0, 1), (800, 0))
    )
    torch.testing.assert_close(steps.latent, exact.latent, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("t2", [0.0, 0.1])
def test_of_a_bent_decoder_it_is_no_worse_than_quasi_newton_from_many_starts(t2):
    network, operator, s2 = bent(), GaussianRandom(M, D, seed=0), 0.3
    z = double(3, 2, seed=3)
    y = (operator.apply(network(z)) + 0.3 * double(3, M, seed=4)).detach()
    found = recover_latent(
        y,
        operator,
        network,
        2,
        s2,
        decoder_variance=t2,
        n_starts=20,
        n_steps=150,
        learning_rate=0.05,
        generator=torch.Generator().manual_seed(0),
    )
    assert all(parameter.grad is None for parameter in network.parameters())
    matrix = operator.matrix()
    precision = torch.linalg.inv(s2 * torch.eye(M).double() + t2 * matrix @ matrix.T)

    def objective(code: np.ndarray, row: int) -> float:
        with torch.no_grad():
            left = y[row] - operator.apply(network(torch.as_tensor(code)[None]))[0]
        return float(left @ precision @ left) + float(code @ code)

    rng = np.random.default_rng(0)
    for row in range(3):
        assert objective(found.latent[row].numpy(), row) == pytest.approx(
            float(found.objectives[row]), rel=1e-9
        )
        best = min(minimize(objective, rng.standard_normal(2), args=(row,)).fun for _ in range(15))
        assert float(found.objectives[row]) <= best * (1 + 1e-6)


def test_starts_are_a_batch_of_which_each_row_keeps_its_best():
    network, operator, y = bent(), GaussianRandom(M, D, seed=0), double(3, M, seed=5)
    starts = double(4, 3, 2, seed=6)
    common = {"n_steps": 50, "n_polish": 5}
    together = recover_latent(y, operator, network, 2, 0.3, start=starts, **common)
    alone = [recover_latent(y, operator, network, 2, 0.3, start=start, **common) for start in starts]
    objectives = torch.stack([one.objectives for one in alone])
    torch.testing.assert_close(together.objectives, objectives.amin(0))
    chosen = objectives.argmin(0)
    for row in range(3):
        torch.testing.assert_close(together.latent[row], alone[int(chosen[row])].latent[row])


def test_blocks_of_codes_change_nothing(monkeypatch):
    network, operator, y = bent(), GaussianRandom(M, D, seed=0), double(5, M, seed=5)
    start = double(5, 2, seed=6)
    whole = recover_latent(y, operator, network, 2, 0.3, start=start, n_steps=5)
    monkeypatch.setattr("mixcoder.sensing.latent._ENTRIES", 1)
    parts = recover_latent(y, operator, network, 2, 0.3, start=start, n_steps=5)
    torch.testing.assert_close(parts.latent, whole.latent)


def test_the_error_of_a_decoder_is_measured():
    """Rows x = mu + W z + t r leave t^2 to a linear decoder that knows W: unbiased, 3 standard errors."""
    mean, axes = linear()
    n, t2 = 400, 0.2
    x = mean + double(n, Q, seed=1) @ axes + math.sqrt(t2) * double(n, D, seed=2)
    found = decoder_variance(
        lambda z: mean + z @ axes, x, Q, n_starts=1, n_steps=0, generator=torch.Generator().manual_seed(0)
    )
    assert abs(found - t2) < 3 * t2 * math.sqrt(2 / (n * (D - Q)))


def test_the_calibrated_weight_beats_the_others_on_average():
    """With t^2 measured no weight has to be chosen: half and twice the code's weight recover rows less well."""
    mean, axes = linear()
    t2, s2, n = 0.3, 0.05, 2000
    x = mean + double(n, Q, seed=1) @ axes + math.sqrt(t2) * double(n, D, seed=2)
    operator = GaussianRandom(M, D, seed=3)
    y = operator.apply(x) + math.sqrt(s2) * double(n, M, seed=4)

    def error(factor: float) -> float:
        """The code counts ``factor`` times as much: the same as noise and residual of as many times the variance."""
        found = recover_latent(
            y,
            operator,
            lambda z: mean + z @ axes,
            Q,
            factor * s2,
            decoder_variance=factor * t2,
            start=torch.zeros(n, Q).double(),
            n_steps=0,
        )
        return float((found.rows - x).square().mean())

    assert error(1.0) < min(error(0.3), error(3.0))


def test_scipy_operators_and_float32():
    mean, axes = linear()
    matrix, y = double(M, D), double(2, M, seed=1)
    start = torch.zeros(2, Q).double()
    ours = recover_latent(y, matrix, lambda z: mean + z @ axes, Q, 0.5, start=start, n_steps=3)
    scipys = recover_latent(
        y, aslinearoperator(matrix.numpy()), lambda z: mean + z @ axes, Q, 0.5, start=start, n_steps=3
    )
    torch.testing.assert_close(scipys.rows, ours.rows)
    single = recover_latent(
        y.float(), matrix, lambda z: mean.float() + z @ axes.float(), Q, 0.5, start=start, n_steps=3
    )
    assert single.rows.dtype == single.latent.dtype == torch.float32
    torch.testing.assert_close(single.rows.double(), ours.rows, rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    y, operator, start = torch.zeros(2, 3), torch.ones(3, 4), torch.zeros(2, 1)
    decode = lambda z: z.expand(len(z), 4)  # noqa: E731
    with pytest.raises(DataError, match=r"expected \(n_rows, 3\)"):
        recover_latent(y[:, :2], operator, decode, 1, 0.1, start=start)
    with pytest.raises(DataError, match="NaN"):
        recover_latent(y * torch.nan, operator, decode, 1, 0.1, start=start)
    with pytest.raises(ValueError, match="noise_variance must be positive"):
        recover_latent(y, operator, decode, 1, 0.0, start=start)
    with pytest.raises(ValueError, match="decoder_variance must be non-negative"):
        recover_latent(y, operator, decode, 1, 0.1, decoder_variance=-1.0, start=start)
    with pytest.raises(ValueError, match="n_starts must be at least 1"):
        recover_latent(y, operator, decode, 1, 0.1, n_starts=0, start=start)
    with pytest.raises(ValueError, match="Give a generator"):
        recover_latent(y, operator, decode, 1, 0.1)
    with pytest.raises(DataError, match=r"start is finite, of shape \(2, 1\)"):
        recover_latent(y, operator, decode, 1, 0.1, start=torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"decoder made \(1, 1\).*expected \(1, 4\)"):
        recover_latent(y, operator, lambda z: z, 1, 0.1, start=start)
    with pytest.raises(ValueError, match="no derivative"):
        recover_latent(y, operator, lambda z: z.detach(), 1, 0.1, start=start)
    with pytest.raises(DataError, match="more than n_latent=4"):
        decoder_variance(decode, torch.zeros(3, 4), 4, generator=torch.Generator())
    with pytest.raises(DataError, match="do not vary"):
        decoder_variance(decode, torch.zeros(3, 4), 1, generator=torch.Generator())
