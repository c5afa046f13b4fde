"""Greedy k-means++, for several starts at once, and the coordinates to do it in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Directions with less than this share of the largest spread hold rounding, not data.
_RANK_TOLERANCE = 1e-10


def whitening(x: Tensor, weights: Tensor, geometry: str) -> Tensor:
    """Return the rows in the coordinates of a geometry, shape (m, e).

    Parameters
    ----------
    x : Tensor, shape (m, d)
    weights : Tensor, shape (m,)
    geometry : {"affine", "units", "rotation"}
        What must not change distances: any invertible linear map (whitened rows), the units of each column
        (standardised rows), or rotations and one unit for all (the rows themselves).
    """
    total = weights.sum()
    centred = x - (weights @ x) / total
    variances = (weights @ centred.square()) / total
    if geometry == "rotation":
        size = variances.mean().sqrt()
        return centred / size if float(size) > 0 else centred
    stds = variances.sqrt()
    standard = centred[:, stds > 0] / stds[stds > 0]
    if geometry == "units" or standard.shape[1] == 0:
        return standard
    covariance = standard.T @ (standard * weights[:, None]) / total
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > _RANK_TOLERANCE * values[-1]
    return standard @ (vectors[:, kept] / values[kept].sqrt())


def assign_batch(view: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest centre of each row in each set of centres, shape (r, m).

    Parameters
    ----------
    view : Tensor, shape (m, e)
    centres : Tensor, shape (r, k, e)
    """
    n_starts, k, e = centres.shape
    flat = centres.reshape(-1, e)
    # |x - c|^2 without |x|^2, which every centre shares.
    scores = torch.addmm(-0.5 * flat.square().sum(1), view, flat.T)  # (m, r k)
    return scores.view(len(view), n_starts, k).argmax(2).T


def plus_plus_batch(
    view: Tensor, weights: Tensor, n_centres: int, n_starts: int, generator: torch.Generator
) -> Tensor:
    """Return several sets of greedy k-means++ centres, shape (r, k, e).

    Each new centre is the best of 2 + log k rows drawn in proportion to their squared distance from the
    centres so far. Once every row is a centre, further centres repeat the last.

    References
    ----------
    Arthur & Vassilvitskii (2007); the greedy variant is their section 5.
    """
    m, e = view.shape
    n_trials = 2 + int(math.log(n_centres))
    square_norms = view.square().sum(1)
    centres = view.new_empty(n_starts, n_centres, e)
    first = _draw(weights.expand(n_starts, m), 1, generator)[:, 0]
    centres[:, 0] = view[first]
    nearest = _square_distances(view, square_norms, centres[:, :1])[:, 0]  # (r, m)
    starts = torch.arange(n_starts, device=view.device)
    for place in range(1, n_centres):
        trials = _draw(nearest * weights, n_trials, generator)  # (r, t)
        gaps = _square_distances(view, square_norms, view[trials])  # (r, t, m)
        gaps = torch.minimum(gaps, nearest[:, None, :])
        best = (gaps @ weights).argmin(1)
        nearest = gaps[starts, best]
        centres[:, place] = view[trials[starts, best]]
    return centres


def _square_distances(view: Tensor, square_norms: Tensor, points: Tensor) -> Tensor:
    """Return |x_m - p_rt|^2, shape (r, t, m)."""
    n_starts, n_points, e = points.shape
    flat = points.reshape(-1, e)
    products = torch.addmm(square_norms[None, :], flat, view.T, alpha=-2.0)
    gaps = (products + flat.square().sum(1, keepdim=True)).clamp_min_(0)
    # A row's distance from itself is rounding: make it nothing, so that it is not drawn again.
    gaps[gaps <= 1e-13 * square_norms.max()] = 0.0
    return gaps.view(n_starts, n_points, -1)


def _draw(masses: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
    """Return indices drawn in proportion to masses, shape (r, t), by inverting their running sum."""
    cumulative = masses.cumsum(1)
    uniform = torch.rand(masses.shape[0], n_draws, generator=generator, dtype=masses.dtype)
    targets = uniform.to(masses.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).clamp_(max=masses.shape[1] - 1)
