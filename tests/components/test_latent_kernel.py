"""PPCA over many features: the densities, sums and optima of the closed form, without d x d matrices."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats

import mixcoder
from mixcoder._typing import HardCode
from mixcoder.components import PPCA
from mixcoder.components.base import PassSetting
from mixcoder.components.latent_kernel import LatentKernel, LatentMoments
from mixcoder.ops.workspace import Workspace

F64 = torch.float64


def random(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def no_scatters(monkeypatch):
    monkeypatch.setattr(PPCA, "max_packed", 0)


@pytest.fixture(params=range(2))
def example(request):
    return PPCA.examples()[request.param]


@pytest.fixture(params=range(3))
def mixture(request):
    """Return any example, that with a rank a component and one noise for all included."""
    return PPCA.examples()[request.param]


def kernel_of(family, params, log_weights):
    d = params.means.shape[1]
    setting = PassSetting(F64, Workspace(), torch.ones(d, dtype=F64), 1e-6)
    return family.kernel(params, log_weights, setting)


@pytest.mark.usefixtures("no_scatters")
def test_the_log_joint_is_that_of_the_dense_normal(mixture):
    family, params = mixture
    d = params.means.shape[1]
    x = 3 * torch.randn(50, d, generator=random(0), dtype=F64)
    log_weights = torch.tensor([0.3, 0.7], dtype=F64).log()
    kernel = kernel_of(family, params, log_weights)
    assert isinstance(kernel, LatentKernel)
    found = kernel.log_joint(x)
    for k in range(2):
        w = params.loadings[k].numpy()
        covariance = w @ w.T + float(params.noise_variances[k]) * np.eye(d)
        dense = stats.multivariate_normal(params.means[k].numpy(), covariance).logpdf(x.numpy())
        assert np.allclose(found[:, k].numpy(), dense + float(log_weights[k]), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("no_scatters")
@pytest.mark.parametrize("kind", ["soft", "sparse", "hard"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_their_definition_and_add_over_blocks(mixture, kind, weighted):
    family, params = mixture
    d, q = params.loadings.shape[1:]
    x = torch.randn(60, d, generator=random(1), dtype=F64) + params.means[0]
    weights = torch.rand(60, generator=random(2), dtype=F64) if weighted else None
    if kind == "soft":
        dense = torch.rand(60, 2, generator=random(3), dtype=F64)
        dense = dense / dense.sum(1, keepdim=True)
    else:
        dense = torch.nn.functional.one_hot(torch.randint(2, (60,), generator=random(4)), 2).double()
        if kind == "sparse":  # few enough responsibilities to go through each component's own rows
            dense[30:] = 0.0
    code = HardCode(dense.argmax(1), 2) if kind == "hard" else dense
    share = dense if weights is None else dense * weights[:, None]
    found = family.statistics(params, x, code, weights)
    assert isinstance(found, LatentMoments)
    for k in range(2):
        w, noise, r = params.loadings[k], params.noise_variances[k], share[:, k]
        factor = torch.linalg.cholesky(torch.eye(q, dtype=F64) + w.T @ w / noise)
        t = (
            torch.linalg.solve_triangular(factor, w.T / noise, upper=False) @ (x - params.means[k]).T
        )  # (q, n)
        expected = {
            "counts": r.sum(),
            "sums": r @ x,
            "squares": r @ x.square().sum(1),
            "latent_sums": t @ r,
            "latent_products": (t * r) @ t.T + r.sum() * torch.eye(q, dtype=F64),
            "cross_products": (t * r) @ x,
        }
        for name, value in expected.items():
            assert torch.allclose(getattr(found, name)[k], value, rtol=1e-12, atol=1e-12), name
    halves = [
        family.statistics(
            params,
            x[part],
            HardCode(code.index[part], 2) if kind == "hard" else code[part],
            None if weights is None else weights[part],
        )
        for part in (slice(0, 25), slice(25, 60))
    ]
    whole = halves[0] + halves[1]
    assert all(torch.allclose(getattr(whole, n), getattr(found, n), rtol=1e-12, atol=1e-12) for n in expected)


def test_the_closed_form_is_where_the_steps_come_to_rest(example, monkeypatch):
    family, params = example
    x = family.sample(params, torch.zeros(500, dtype=torch.int64), random(5))
    code = torch.ones(500, 1, dtype=F64)
    best = family.maximize(family.statistics(None, x, code))
    monkeypatch.setattr(PPCA, "max_packed", 0)
    step = family.maximize(family.statistics(best, x, code))
    for name in ("means", "noise_variances"):
        assert torch.allclose(getattr(step, name), getattr(best, name), rtol=1e-9, atol=1e-12), name
    product = lambda p: p.loadings @ p.loadings.mT  # noqa: E731
    assert torch.allclose(product(step), product(best), rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("no_scatters")
def test_every_step_raises_the_likelihood_and_the_last_one_reaches_the_closed_form(example, monkeypatch):
    family, params = example
    x = family.sample(params, torch.zeros(300, dtype=torch.int64), random(6))
    code = torch.ones(300, 1, dtype=F64)
    now = family.maximize(family.statistics(None, x, code))
    values = []
    for _ in range(400):
        values.append(float(family.log_likelihood(now, x).mean()))
        now = family.maximize(family.statistics(now, x, code))
    assert min(b - a for a, b in zip(values, values[1:], strict=False)) > -1e-12
    monkeypatch.undo()
    best = family.maximize(family.statistics(None, x, code))
    assert values[-1] == pytest.approx(float(family.log_likelihood(best, x).mean()), abs=1e-8)


def planes(n, d, q, seed, spread=6.0):
    """Return rows of three planes, and which plane each is on."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(3, d)) * spread / np.sqrt(d)
    loadings = rng.normal(size=(3, d, q)) / np.sqrt(d) * np.linspace(6, 3, q)
    labels = rng.integers(3, size=n)
    z = rng.normal(size=(n, q))
    x = means[labels] + np.einsum("ndq,nq->nd", loadings[labels], z) + 0.1 * rng.normal(size=(n, d))
    return x, labels


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("temperature", [0, 1])
def test_planes_of_many_features_are_found(dtype, temperature):
    from sklearn.metrics import adjusted_rand_score

    x, labels = planes(1500, 200, 4, seed=0)
    model = mixcoder.Mixture(PPCA(4), 3, temperature=temperature, random_state=0, tol=1e-6, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x.astype(dtype))
    assert adjusted_rand_score(labels, model.predict(x.astype(dtype))) > 0.99
    noise = model.model_.params.noise_variances / model.model_.frame.scale[0] ** 2
    assert torch.allclose(noise, torch.full_like(noise, 0.01), rtol=0.05)
    bounds = np.array(model.history_["bound"])
    # What the alternation takes for rounding in each dtype.
    rounding = 1e-5 if dtype == np.float32 else 1e-10
    assert (np.diff(bounds) > -rounding * (1 + abs(bounds[-1]))).all()


def test_float32_rows_far_from_zero_give_the_model_of_float64():
    x, _ = planes(800, 200, 3, seed=1)
    fit = lambda data: mixcoder.Mixture(PPCA(3), 3, random_state=0, max_iter=20, tol=0.0).fit(data)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide, narrow = fit(x + 100.0), fit((x + 100.0).astype(np.float32))
    assert np.abs(wide.score_samples(x + 100.0) - narrow.score_samples(x + 100.0)).mean() < 0.1
    assert wide.lower_bound_ == pytest.approx(narrow.lower_bound_, abs=0.05)


@pytest.mark.usefixtures("no_scatters")
def test_an_empty_component_gets_axes_to_start_with():
    family = PPCA(2)
    x = torch.randn(30, 5, generator=random(8), dtype=F64)
    code = torch.zeros(30, 2, dtype=F64)
    code[:, 0] = 1.0
    params = family.maximize(family.statistics(None, x, code))
    assert all(
        bool(value.isfinite().all()) for value in (params.means, params.loadings, params.noise_variances)
    )
    assert float(params.loadings[1].abs().sum()) > 0
