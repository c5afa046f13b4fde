"""Directions along which components are cut in two."""

from __future__ import annotations

import torch
from torch import Tensor

from mixcoder.ops.products import product

# Up to so many features covariances are formed; beyond, they are only multiplied by.
DENSE_FEATURES = 32
_EIGENVECTOR_FEATURES = 16
_BATCH_NUMBERS = 1 << 20

LANCZOS_STEPS = 10
_FLAT_STEPS = 10

# Directions with less than this share of a component's largest variance hold rounding, not rows.
_RANK_TOLERANCE = 1e-10


def principal_axes(
    points: Tensor, code: Tensor, n_steps: int = LANCZOS_STEPS
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest variance of each component, its axis, and its centre.

    Parameters
    ----------
    points : Tensor, shape (m, e)
    code : Tensor, shape (m, k)
        Row weights included.
    n_steps : int
        Of Lanczos' iteration, where there are many features.
    """
    counts = code.sum(0).clamp_min(torch.finfo(code.dtype).tiny)
    centres = (code.T @ points) / counts[:, None]
    if points.shape[1] <= _EIGENVECTOR_FEATURES:
        variances, axes = _by_eigenvectors(points, code, counts, centres)
    else:
        variances, axes = _by_lanczos(points, code, counts, centres, n_steps)
    return variances.double(), axes, centres


def _by_eigenvectors(points: Tensor, code: Tensor, counts: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of all components, as many covariances in one product as memory allows."""
    m, e = points.shape
    variances, axes = [], []
    for ks in torch.arange(code.shape[1], device=code.device).split(max(1, _BATCH_NUMBERS // (m * e))):
        centred = (points - centres[ks, None]).double()  # (k, m, e)
        weighted = centred * (code[:, ks] / counts[ks]).T[:, :, None]
        values, vectors = torch.linalg.eigh(centred.mT @ weighted)
        variances.append(values[:, -1].clamp_min(0))
        axes.append(vectors[:, :, -1].to(points.dtype))
    return torch.cat(variances), _oriented(torch.cat(axes))


def _oriented(axes: Tensor) -> Tensor:
    """Return axes, shape (k, e), whose largest entry is positive: rounding chooses the sign of an eigenvector."""
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -axes, axes)


def _by_lanczos(
    points: Tensor, code: Tensor, counts: Tensor, centres: Tensor, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Return what the eigenvectors would say, from below, all components in one product a step.

    References
    ----------
    Golub & Van Loan (2013), section 10.1, with full reorthogonalisation.
    """
    # From the row that is farthest for its share: a direction that belongs to the rows.
    squares = points.square().sum(1, keepdim=True) - 2 * points @ centres.T + centres.square().sum(1)
    axes = points[(code * squares.clamp_min_(0)).argmax(0)] - centres  # (k, e)
    basis = torch.nn.functional.normalize(axes, dim=1)[:, None]  # (k, s, e)
    along, images = torch.empty_like(code), torch.empty_like(axes)
    applied: list[Tensor] = []
    for _ in range(n_steps):
        axes = basis[:, -1]
        places = product(points, axes.T.contiguous(), along).sub_((centres * axes).sum(1)).mul_(code)
        pulled = product(places.T, points, images).sub(places.sum(0)[:, None] * centres)
        rest = pulled.div_(counts[:, None])
        applied.append(rest)
        for _ in range(2):  # twice is enough (Kahan)
            rest = rest - ((basis @ rest[:, :, None]) * basis).sum(1)
        basis = torch.cat([basis, torch.nn.functional.normalize(rest, dim=1)[:, None]], 1)
    basis = basis[:, :-1]
    small = basis.double() @ torch.stack(applied, 2).double()  # (k, s, s)
    values, vectors = torch.linalg.eigh(0.5 * (small + small.mT))
    axes = (vectors[:, None, :, -1] @ basis.double())[:, 0]
    return values[:, -1].clamp_min(0), torch.nn.functional.normalize(axes, dim=1).to(points.dtype)


def flattest_places(points: Tensor, code: Tensor) -> Tensor:
    r"""Return the places of the rows along the axis that shows a component least like a Gaussian, shape (m, k).

    Where spreads are fitted no axis has more variance than the component itself allows for. With y the rows of a
    component, whitened by its own covariance, the axis is a minimum of

    .. math:: \sum_n w_n u_{nk} (v' y_n)^4 / \sum_n w_n u_{nk}, \qquad |v| = 1

    which is 3 for a Gaussian, 1 for two points, and does not depend on the units or on the axes of the rows.

    Parameters
    ----------
    points : Tensor, shape (m, e)
    code : Tensor, shape (m, k)
        Row weights included.

    References
    ----------
    Hyvarinen & Oja (1997), equation 9, for the fixed point. Pena & Prieto (2001), for clusters by kurtosis.
    """
    places = torch.zeros(len(points), code.shape[1], dtype=points.dtype, device=points.device)
    for k in range(code.shape[1]):
        share = (code[:, k] / code[:, k].sum().clamp_min(torch.finfo(code.dtype).tiny)).double()
        centred = points.double()
        centred = centred - share @ centred
        values, vectors = torch.linalg.eigh(centred.T @ (centred * share[:, None]))
        kept = values > _RANK_TOLERANCE * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
        if not bool(kept.any()):
            continue
        whitener = vectors[:, kept] / values[kept].sqrt()
        y = centred @ whitener  # (m, r)
        axis = _flattest(y, share)
        if float(_oriented((whitener @ axis)[None])[0] @ (whitener @ axis)) < 0:
            axis = -axis
        places[:, k] = (y @ axis).to(places.dtype)
    return places


def _flattest(y: Tensor, share: Tensor) -> Tensor:
    """Return the axis of least kurtosis among those that a few starts lead to, shape (r,)."""
    far = y[(share * y.square().sum(1)).argmax()]
    # Beside the farthest row, the axes of the fourth moments, E[|y|^2 y y']: they belong to the rows as well.
    starts = torch.linalg.eigh(y.T @ (y * (share * y.square().sum(1))[:, None]))[1].T
    axes = torch.nn.functional.normalize(torch.cat([far[None], starts]), dim=1)  # (s, r)
    for _ in range(_FLAT_STEPS):
        along = y @ axes.T  # (m, s)
        pull = (along.pow(3) * share[:, None]).T @ y
        # The fixed point of 3 v - E[y (v'y)^3], damped: the step that ascends minus the kurtosis.
        axes = torch.nn.functional.normalize(axes * 4 - pull, dim=1)
    kurtosis = share @ (y @ axes.T).square().square()
    return axes[int(kurtosis.argmin())]
