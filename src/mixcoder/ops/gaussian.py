"""Covariances: floors that are exact constrained maximisers, factors, packing of symmetric matrices."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def total_variances(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Return the variance of each feature over all rows, shape (d,), from sums and sums of squares."""
    total = counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
    mean = sums.sum(0) / total
    return (squares / total - mean.square()).clamp_min(0)


def variance_floor(variances: Tensor, relative: float) -> Tensor:
    """Return the smallest variance that a component may have along each feature, shape (d,).

    It is ``relative`` times the variance of that feature over all rows, so that it moves with the units
    of a column; a constant feature takes the mean of the others, or one.
    """
    varying = variances > 0
    mean = variances[varying].mean() if bool(varying.any()) else variances.new_ones(())
    return relative * torch.where(varying, variances, mean)


def floor_covariances(covariances: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return covariances no smaller than ``diag(floor)``, and their whitening factors.

    Among all :math:`\Sigma \succeq \mathrm{diag}(f)` the likelihood of a Gaussian with scatter S is
    greatest at the S whose eigenvalues, in units of f, are raised to one: the floor is the exact maximiser
    under its constraint, and the bound still never falls.

    Parameters
    ----------
    covariances : Tensor, shape (k, d, d)
        Symmetric; may be singular.
    floor : Tensor, shape (d,)
        Positive variances.

    Returns
    -------
    covariances : Tensor, shape (k, d, d)
    whiteners : Tensor, shape (k, d, d)
        Lower triangular W with W' W the precision.
    """
    whiteners, ok = whitening_factors(covariances)
    # 1 / |W f^(1/2)|_F^2 bounds the smallest eigenvalue from below: one cheap test spares nearly every
    # component the eigendecomposition. NaN compares false.
    bound = (whiteners * floor.sqrt()).square().sum((1, 2))
    suspects = (~((bound <= 1) & ok)).nonzero()[:, 0]
    if len(suspects) == 0:
        return covariances, whiteners
    root = floor.sqrt()
    scaled = covariances[suspects] / (root[:, None] * root)
    values, vectors = torch.linalg.eigh(scaled)
    below = (values < 1).any(1)
    if bool(below.any()):
        suspects, values, vectors = suspects[below], values[below], vectors[below]
        raised = (vectors * values.clamp_min(1)[:, None, :]) @ vectors.mT
        raised = 0.5 * (raised + raised.mT) * (root[:, None] * root)
        covariances = covariances.index_copy(0, suspects, raised)
        whiteners = whiteners.index_copy(0, suspects, whitening_factors(raised)[0])
    return covariances, whiteners


def whitening_factors(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Return lower-triangular W with W' W = inverse of each covariance, and whether each exists."""
    factors, info = torch.linalg.cholesky_ex(covariances)
    identity = torch.eye(covariances.shape[-1], dtype=factors.dtype, device=factors.device)
    whiteners = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    return whiteners, info == 0


def log_det_whitener(whiteners: Tensor) -> Tensor:
    """Return log |W| = -log|Sigma|/2 of lower-triangular factors, shape (k,)."""
    return whiteners.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@lru_cache(maxsize=64)
def _packed_index(n_features: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(n_features, n_features).unbind()
    return rows, columns


def pack(matrices: Tensor) -> Tensor:
    """Return the upper triangles of symmetric matrices, row by row, shape (..., d(d+1)/2)."""
    rows, columns = _packed_index(matrices.shape[-1])
    return matrices[..., rows, columns]


def unpack(packed: Tensor, n_features: int) -> Tensor:
    """Return symmetric matrices from their upper triangles, shape (..., d, d)."""
    rows, columns = _packed_index(n_features)
    full = packed.new_empty(*packed.shape[:-1], n_features, n_features)
    full[..., rows, columns] = packed
    full[..., columns, rows] = packed
    return full


def quadratic_form(precisions: Tensor) -> Tensor:
    """Return the weights a of -x'Px/2 = <a, pack(xx')>, shape (..., d(d+1)/2)."""
    doubled = -precisions
    doubled.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    return pack(doubled)


def write_products(x: Tensor, out: Tensor) -> None:
    """Write pack(x x') of each row into ``out``, shape (n, d(d+1)/2)."""
    start, d = 0, x.shape[1]
    for i in range(d):
        torch.mul(x[:, i:], x[:, i : i + 1], out=out[:, start : start + d - i])
        start += d - i


def whitened_square_norms(x: Tensor, means: Tensor, whiteners: Tensor) -> Tensor:
    """Return |W_k (x_n - m_k)|^2, shape (n, k): subtracts before it squares."""
    out = x.new_empty(x.shape[0], means.shape[0])
    for k, (mean, whitener) in enumerate(zip(means.to(x.dtype), whiteners.to(x.dtype), strict=True)):
        out[:, k] = ((x - mean) @ whitener.T).square().sum(1)
    return out


def scaled_square_norms(x: Tensor, means: Tensor, precisions: Tensor) -> Tensor:
    """Return sum_d p_kd (x_nd - m_kd)^2, shape (n, k); ``precisions`` has shape (k, d) or (k, 1)."""
    out = x.new_empty(x.shape[0], means.shape[0])
    for k, (mean, precision) in enumerate(zip(means.to(x.dtype), precisions.to(x.dtype), strict=True)):
        out[:, k] = ((x - mean).square() * precision).sum(1)
    return out


def safe_means(counts: Tensor, sums: Tensor) -> Tensor:
    """Return sums / counts, shape (k, d); the overall mean for a component without rows."""
    overall = sums.sum(0) / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
    empty = counts <= EMPTY
    means = sums / counts.clamp_min(EMPTY)[:, None]
    return torch.where(empty[:, None], overall, means) if bool(empty.any()) else means


EMPTY = 1e-10
"""Fewer rows than this are none."""


def pooled_covariance(scatter: Tensor, counts: Tensor, means: Tensor) -> Tensor:
    """Return (X'X - sum_k N_k m_k m_k') / N, symmetric, shape (d, d)."""
    total = counts.sum()
    within = (scatter - means.T @ (means * counts[:, None])) / total
    return 0.5 * (within + within.T)


def stands_on_floor(covariances: Tensor, floor: Tensor) -> Tensor:
    """Return which covariances have an eigenvalue on ``diag(floor)``, shape (k,) bool."""
    root = floor.sqrt()
    return torch.linalg.eigvalsh(covariances / (root[:, None] * root))[:, 0] <= 1.01
