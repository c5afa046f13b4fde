"""Projected gradient: against least squares on a plane and brute force over a codebook."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixcoder import KMeans, PPCAMixture
from mixcoder.errors import DataError
from mixcoder.sensing import Blur, GaussianRandom, Matrix, posterior, projected_gradient
from mixcoder.sensing.projected import squared_norm

D, Q, M = 12, 3, 7


@pytest.fixture(scope="module")
def planes():
    """Three planes of three dimensions in twelve, and rows on them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    axes, means = rng.standard_normal((3, Q, D)), 4 * rng.standard_normal((3, D))
    x = np.einsum("nq,nqd->nd", rng.standard_normal((300, Q)), axes[labels]) + means[labels]
    x += 0.05 * rng.standard_normal(x.shape)
    return torch.as_tensor(x), labels


def test_onto_one_plane_it_is_least_squares(planes):
    """With one plane mu + W z: z = (H W)^+ (y - H mu)."""
    x, labels = planes
    x = x[labels == 0]
    model = PPCAMixture(1, Q).fit(x.numpy())
    operator = GaussianRandom(10, D, seed=0, scale=0.3)
    y = operator.apply(x[:5]) + 0.1
    found = projected_gradient(y, operator, model.reconstruct, max_iter=800, tol=1e-12)
    mean, axes = torch.tensor(model.means_[0]), torch.tensor(model.loadings_[0])
    seen = operator.apply(axes.T).T
    z = torch.linalg.lstsq(seen, (y - operator.apply(mean[None])).T).solution
    expected = mean + (axes @ z).T
    torch.testing.assert_close(found.rows, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.errors, (y - operator.apply(expected)).square().sum(1))
    assert found.converged


@pytest.mark.parametrize("kind", ["codebook", "planes"])
def test_no_step_onto_a_nearest_point_raises_the_error(planes, kind):
    x, _ = planes
    if kind == "codebook":
        project = KMeans(20, random_state=0).fit(x).reconstruct
    else:
        model = PPCAMixture(3, Q, random_state=0).fit(x)
        project = lambda rows: model.reconstruct(rows, rule="nearest")  # noqa: E731
    operator = GaussianRandom(M, D, seed=1)
    y = operator.apply(x[:40])
    errors = [
        projected_gradient(y, operator, project, start=x[40:80], max_iter=n, tol=-0.0).errors
        for n in (1, 2, 4, 8, 16)
    ]
    for before, after in zip(errors, errors[1:], strict=False):
        assert (after <= before * (1 + 1e-12) + 1e-12).all()
    # What is found is in the range of the projection.
    found = projected_gradient(y, operator, project, start=x[40:80], max_iter=20).rows
    torch.testing.assert_close(project(found), found, rtol=1e-9, atol=1e-9)


def test_measurements_of_codewords_find_the_codewords():
    rng = np.random.default_rng(0)
    codebook = torch.as_tensor(rng.standard_normal((30, 64)))
    project = lambda x: codebook[torch.cdist(x, codebook).argmin(1)]  # noqa: E731
    operator = GaussianRandom(48, 64, seed=0, scale=48**-0.5)
    y = operator.apply(codebook) + 0.05 * torch.as_tensor(rng.standard_normal((30, 48)))
    best = torch.cdist(y, operator.apply(codebook)).argmin(1)
    found = projected_gradient(y, operator, project, step=1.0)
    torch.testing.assert_close(found.rows, codebook[best], rtol=0, atol=0)
    assert found.n_iter < 50


def test_rows_on_planes_are_recovered_from_fewer_measurements(planes):
    """From the middle of each plane: what is found is as near as the noise that lies off the planes."""
    x, _ = planes
    model = PPCAMixture(3, Q, random_state=0, n_init=5).fit(x)
    operator = GaussianRandom(9, D, seed=2, scale=1 / 3)
    starts = torch.as_tensor(model.means_)[:, None].expand(3, 50, D)
    y = operator.apply(x[:50])
    found = projected_gradient(y, operator, model.reconstruct, start=starts, max_iter=300)
    assert float((found.rows - x[:50]).norm(dim=1).max()) < 0.05 * float(x[:50].norm(dim=1).mean())
    for start in starts:
        alone = projected_gradient(y, operator, model.reconstruct, start=start, max_iter=300)
        assert (found.errors <= alone.errors * (1 + 1e-6) + 1e-9).all()


def test_a_denoiser_in_the_place_of_a_projection(planes):
    """Plug and play: the posterior mean of the mixture as the denoiser."""
    x, _ = planes
    model = PPCAMixture(3, Q, random_state=0, n_init=5).fit(x).model_
    operator = GaussianRandom(9, D, seed=2, scale=1 / 3)
    y = operator.apply(x[:20])
    starts = model.prototypes()[:, None].expand(3, 20, D)
    denoise = lambda rows: posterior(model, rows, torch.eye(D), 0.05).mean  # noqa: E731
    found = projected_gradient(y, operator, denoise, start=starts)
    assert float((found.rows - x[:20]).square().mean()) < 0.1 * float(x[:20].var(0).mean())


def test_the_norm_of_an_operator(monkeypatch):
    operator = GaussianRandom(20, 30, seed=3)
    exact = float(torch.linalg.matrix_norm(operator.matrix(), 2)) ** 2
    like = torch.zeros(1, dtype=torch.float64)
    assert squared_norm(operator, like) == pytest.approx(exact, rel=1e-10)
    blur = Blur(torch.tensor([[0.2, 0.5, 0.3]]), (5, 6))
    assert squared_norm(blur, like) == pytest.approx(1.0)
    monkeypatch.setattr("mixcoder.sensing.projected._SMALL", 1)
    assert exact <= squared_norm(operator, like) <= 1.03 * exact
    with pytest.raises(ValueError, match="operator is zero"):
        squared_norm(Matrix(torch.zeros(2, 3)), like)


def test_float32_stays_float32():
    found = projected_gradient(torch.ones(2, 1), torch.tensor([[1.0, 0.0]]), lambda x: x.double())
    assert found.rows.dtype == torch.float32


def test_bad_input_is_named():
    y, operator, same = torch.zeros(2, 3), torch.ones(3, 4), lambda x: x
    with pytest.raises(DataError, match=r"expected \(n_rows, 3\)"):
        projected_gradient(y[:, :2], operator, same)
    with pytest.raises(DataError, match="NaN"):
        projected_gradient(y * torch.nan, operator, same)
    with pytest.raises(DataError, match=r"start is finite, of shape \(2, 4\) or"):
        projected_gradient(y, operator, same, start=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="step must be positive"):
        projected_gradient(y, operator, same, step=0.0)
    with pytest.raises(ValueError, match="max_iter must be at least 1"):
        projected_gradient(y, operator, same, max_iter=0)
    with pytest.raises(ValueError, match="must keep it"):
        projected_gradient(y, operator, lambda x: x[:, :1])
    with pytest.raises(ValueError, match="operator is zero"):
        projected_gradient(y, torch.zeros(3, 4), same)
