"""Covariances: floors that are exact constrained maximisers, factors, packing of symmetric matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)

_TINY = torch.finfo(torch.float64).tiny


def total_variances(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Return the variance of each feature over all rows, shape (d,), from sums and sums of squares."""
    total = counts.sum().clamp_min(_TINY)
    mean = sums.sum(0) / total
    return torch.addcmul(squares / total, mean, mean, value=-1).clamp_min_(0)


def variance_floor(variances: Tensor, relative: float) -> Tensor:
    """Return the smallest variance that a component may have along each feature, shape (d,).

    It is ``relative`` times the variance of that feature over all rows, so that it moves with the units
    of a column; a constant feature takes the mean of the others, or one.
    """
    if float(variances.amin()) > 0:
        return relative * variances
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
    bound = torch.linalg.vector_norm(whiteners * floor.sqrt(), dim=(1, 2))
    if ok is None and float(bound.amax()) <= 1:
        return covariances, whiteners
    fine = bound <= 1 if ok is None else (bound <= 1) & ok
    suspects = (~fine).nonzero()[:, 0]
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


def whitening_factors(covariances: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return lower-triangular W with W' W = inverse of each covariance, and which exist; ``None``: all."""
    factors, info = torch.linalg.cholesky_ex(covariances)
    identity = _identity(covariances.shape[-1], factors.dtype, factors.device)
    whiteners = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    return whiteners, None if int(info.amax()) == 0 else info == 0


@lru_cache(maxsize=64)
def _identity(n_features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # what is kept must serve everybody
        return torch.eye(n_features, dtype=dtype, device=device)


def log_det_whitener(whiteners: Tensor) -> Tensor:
    """Return log |W| = -log|Sigma|/2 of lower-triangular factors, shape (k,)."""
    return whiteners.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@dataclass(frozen=True)
class _Packing:
    """Where the entries of a symmetric matrix lie.

    Parameters
    ----------
    upper : Tensor, shape (d(d+1)/2,)
        Of each packed entry, in the matrix.
    place : Tensor, shape (d^2,)
        Of each entry of the matrix, among the packed ones.
    diagonal : Tensor, shape (d,)
        Of the diagonal, among the packed ones.
    halves : Tensor, shape (d(d+1)/2,)
        -1/2 for an entry of the diagonal, -1 for one that stands for two.
    """

    upper: Tensor
    place: Tensor
    diagonal: Tensor
    halves: Tensor


@lru_cache(maxsize=64)
def _packing(n_features: int, device: torch.device) -> _Packing:
    with torch.inference_mode(mode=False):  # what is kept must serve everybody
        rows, columns = torch.triu_indices(n_features, n_features).unbind()
        place = torch.empty(n_features, n_features, dtype=torch.int64)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
        halves = torch.where(rows == columns, -0.5, -1.0).double()
        parts = (rows * n_features + columns, place.flatten(), place.diagonal().clone(), halves)
        return _Packing(*(part.to(device) for part in parts))


def pack(matrices: Tensor) -> Tensor:
    """Return the upper triangles of symmetric matrices, row by row, shape (..., d(d+1)/2)."""
    return matrices.flatten(-2).index_select(-1, _packing(matrices.shape[-1], matrices.device).upper)


def unpack(packed: Tensor, n_features: int) -> Tensor:
    """Return symmetric matrices from their upper triangles, shape (..., d, d)."""
    full = packed.index_select(-1, _packing(n_features, packed.device).place)
    return full.unflatten(-1, (n_features, n_features))


def packed_diagonal(packed: Tensor, n_features: int) -> Tensor:
    """Return the diagonals of packed symmetric matrices, shape (..., d)."""
    return packed.index_select(-1, _packing(n_features, packed.device).diagonal)


def quadratic_form(precisions: Tensor) -> Tensor:
    """Return the weights a of -x'Px/2 = <a, pack(xx')>, shape (..., d(d+1)/2)."""
    return pack(precisions).mul_(_packing(precisions.shape[-1], precisions.device).halves)


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
    """Return sums / counts, shape (..., k, d); the overall mean for a component without rows."""
    means = sums / counts.clamp_min(EMPTY)[..., None]
    if float(counts.amin()) > EMPTY:
        return means
    total = counts.sum(-1, keepdim=True).clamp_min(torch.finfo(counts.dtype).tiny)
    overall = (sums.sum(-2) / total)[..., None, :]
    return torch.where((counts <= EMPTY)[..., None], overall, means)


def products_sum(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the packed X'X in float64, shape (1, d(d+1)/2): the sums of tied covariances that no code weighs."""
    x = x.to(torch.float64)
    return pack(x.T @ (x if weights is None else x * weights.to(x.dtype)[:, None]))[None]


def pooled_covariance(pooled: Tensor, counts: Tensor, sums: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the covariance of rows about the means of their components, and about the mean of all.

    Parameters
    ----------
    pooled : Tensor, shape (g, d(d+1)/2)
        Sum of the packed x x'.
    counts, sums, means : Tensor, shapes (g, k/g), (g, k/g, d) and (g, k/g, d)

    Returns
    -------
    within, overall : Tensor, shape (g, d, d)
        The diagonal of what is about the mean of all is not negative.
    """
    total = counts.sum(1)[:, None, None]
    scatter = unpack(pooled, means.shape[2]) / total
    mean = sums.sum(1) / total[:, 0]
    overall = scatter - mean[:, :, None] * mean[:, None, :]
    overall.diagonal(dim1=1, dim2=2).clamp_min_(0)
    within = scatter - means.mT @ (means * (counts / total[:, 0])[:, :, None])
    return 0.5 * (within + within.mT), overall


# What is no more than this share of the floor stands on it.
_NEARLY = 1.01

EMPTY = 1e-10
"""Fewer rows than this are none."""


def by_group(values: Tensor, of_groups: Tensor) -> Tensor:
    """Return per-component values, shape (k, ...), split by group, shape (g, k/g, ...)."""
    return values.unflatten(0, (of_groups.shape[0], -1))


def stands_on_floor(covariances: Tensor, floor: Tensor) -> Tensor:
    """Return which covariances have an eigenvalue on ``diag(floor)``, shape (k,) bool."""
    return _on_floor(covariances, floor) > 0


def stands_alone_on_floor(covariances: Tensor, means: Tensor, floor: Tensor) -> Tensor:
    """Return which covariances have more eigenvalues on ``diag(floor)`` than that of all components, shape (k,) bool.

    Directions in which no rows vary, those of a constant column or of one that copies others, are nobody's collapse.
    """
    centred = means - means.mean(0)
    whole = covariances.mean(0) + centred.T @ centred / len(means)
    return _on_floor(covariances, floor) > _on_floor(whole[None], floor)


def _on_floor(covariances: Tensor, floor: Tensor) -> Tensor:
    """Return the number of eigenvalues on ``diag(floor)``, shape (k,)."""
    root = floor.sqrt()
    return (torch.linalg.eigvalsh(covariances / (root[:, None] * root)) <= _NEARLY).sum(1)


def variances_alone_on_floor(variances: Tensor, means: Tensor, floor: Tensor) -> Tensor:
    """Return which components have a variance on the floor where those of all do not stand, shape (k,) bool."""
    whole = variances.mean(0) + means.var(0, correction=0)
    return ((variances <= _NEARLY * floor) & (whole > _NEARLY * floor)).any(1)
