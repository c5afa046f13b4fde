"""Greedy k-means++, for several starts at once, and the coordinates to do it in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixcoder.encoders.argmax import rowwise_argmax

# Directions with less than this share of the largest spread hold rounding, not data.
_RANK_TOLERANCE = 1e-10

# Numbers that differ by less than this share of the largest may be equal but for rounding.
_TIE_TOLERANCE = 1e-9


def tied_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, shape (m,); values that only rounding tells apart share theirs.

    What is chosen by rank does not change with the order in which sums were taken.
    """
    ordered, order = torch.sort(values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf))
    size = values.abs().nan_to_num(nan=0.0, posinf=0.0).max()
    apart = (ordered[1:] - ordered[:-1]) > _TIE_TOLERANCE * size
    ranks = torch.nn.functional.pad(apart.cumsum(0), (1, 0))
    return torch.empty_like(ranks).index_copy_(0, order, ranks)


def tied_order(values: Tensor) -> Tensor:
    """Return the stable order of :func:`tied_ranks`, shape (m,); one sort where nothing is tied.

    Examples
    --------
    >>> tied_order(torch.tensor([2.0, 1.0 + 1e-15, 1.0]))
    tensor([1, 2, 0])
    """
    ordered, order = torch.sort(values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf))
    # The gap that rounding may make, from the ends: the largest size is at one of them.
    size = max(abs(float(ordered[0])), abs(float(ordered[-1]))) if len(ordered) else 0.0
    if math.isfinite(size) and bool(((ordered[1:] - ordered[:-1]) > _TIE_TOLERANCE * size).all()):
        return order
    return torch.argsort(tied_ranks(values), stable=True)


def own_order(standard: Tensor) -> Tensor:
    """Return an order of the rows that belongs to them: that of their places along one fixed direction."""
    d = standard.shape[1]
    # Multiples of the golden ratio, modulo one: no two different sets of features add up to the same place.
    direction = (
        1
        + torch.arange(1, d + 1, dtype=standard.dtype, device=standard.device).mul(0.6180339887498949).frac()
    )
    return tied_order((standard * direction).sum(1))


def draw_distinct(weights: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
    """Return different rows drawn in proportion to their weights; all of them again where they are too few.

    References
    ----------
    Efraimidis & Spirakis (2006): the n rows with the smallest e_i / w_i, e_i standard exponential.
    """
    uniform = torch.rand(len(weights), generator=generator, dtype=weights.dtype).to(weights.device)
    order = torch.argsort(-torch.log1p(-uniform) / weights, stable=True)
    return order[torch.arange(n_draws, device=order.device) % len(order)]


def standardised(x: Tensor, weights: Tensor) -> Tensor:
    """Return the rows in the coordinates of ``whitening(x, weights, "units")``, shape (m, e)."""
    total = weights.sum()
    centred = x - (weights @ x) / total
    stds = ((weights @ centred.square()) / total).sqrt_()
    varying = stds > 0
    if bool(varying.all()):
        return centred.div_(stds)
    return centred[:, varying] / stds[varying]


def whitening(x: Tensor, weights: Tensor, geometry: str, standard: Tensor | None = None) -> Tensor:
    """Return the rows in the coordinates of a geometry, shape (m, e).

    Parameters
    ----------
    x : Tensor, shape (m, d)
    weights : Tensor, shape (m,)
    geometry : {"affine", "units", "rotation"}
        What must not change distances: any invertible linear map (whitened rows), the units of each column
        (standardised rows), or rotations and one unit for all (the rows themselves).
    standard : Tensor, shape (m, e), optional
        The standardised rows, where they are known.
    """
    total = weights.sum()
    if geometry == "rotation":
        centred = x - (weights @ x) / total
        size = ((weights @ centred.square()) / total).mean().sqrt()
        return centred / size if float(size) > 0 else centred
    if standard is None:
        standard = standardised(x, weights)
    if geometry == "units" or standard.shape[1] == 0:
        return standard
    covariance = standard.T @ (standard * weights[:, None]) / total
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > _RANK_TOLERANCE * values[-1]
    if int(kept.sum()) >= len(x) - 1:
        # As many directions as rows: whitened, every row is as far from every other. Nothing is to be seen.
        return standard
    return standard @ (vectors[:, kept] / values[kept].sqrt())


def assign_batch(view: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest centre of each row in each set of centres, shape (..., r, m).

    Parameters
    ----------
    view : Tensor, shape (..., m, e)
    centres : Tensor, shape (..., r, k, e)
        Leading axes are separate views of the rows, each with its own sets.
    """
    n_starts, k = centres.shape[-3:-1]
    flat = centres.flatten(-3, -2)  # (..., r k, e)
    # |x - c|^2 without |x|^2, which every centre shares. A tie must not be decided by rounding: the first wins.
    half_norms = flat.square().sum(-1).mul_(0.5)
    places = torch.arange(k, dtype=view.dtype, device=view.device).repeat(n_starts)
    bias = torch.addcmul(half_norms, places, half_norms.max(), value=_TIE_TOLERANCE).neg_()
    scores = _plus_product(bias.unsqueeze(-2), view, flat.mT)  # (..., m, r k)
    return rowwise_argmax(scores.unflatten(-1, (n_starts, k))).mT


def plus_plus_batch(
    view: Tensor, weights: Tensor, n_centres: int, n_starts: int, generator: torch.Generator
) -> Tensor:
    """Return several sets of greedy k-means++ centres, shape (..., r, k, e).

    Each new centre is the best of 2 + log k rows drawn in proportion to their squared distance from the
    centres so far. Once every row is a centre, further centres repeat the last.

    Parameters
    ----------
    view : Tensor, shape (..., m, e)
        Leading axes are separate views of the rows, each with its own sets.
    weights : Tensor, shape (m,)
    n_centres, n_starts : int
        k and r.

    References
    ----------
    Arthur & Vassilvitskii (2007); the greedy variant is their section 5.
    """
    *views, m, e = view.shape
    n_trials = 2 + int(math.log(n_centres))
    square_norms = view.square().sum(-1)
    # Rows of all views as one list, and where each view begins in it.
    rows = view.reshape(-1, e)
    begins = torch.arange(0, len(rows), m, device=view.device).view(*views, 1, 1)
    smallest = 1e-13 * float(square_norms.max())
    centres = view.new_empty(*views, n_starts, n_centres, e)
    centres[..., :1, :] = rows[_draw(weights.expand(*views, n_starts, m), 1, generator) + begins]
    nearest = _square_distances(view, square_norms, centres[..., :1, :], smallest)[..., 0, :]  # (..., r, m)
    starts = torch.arange(nearest[..., 0].numel(), device=view.device)
    for place in range(1, n_centres):
        trials = rows[_draw(nearest * weights, n_trials, generator) + begins]  # (..., r, t, e)
        gaps = _square_distances(view, square_norms, trials, smallest)  # (..., r, t, m)
        torch.minimum(gaps, nearest.unsqueeze(-2), out=gaps)
        left = gaps @ weights
        # The first of the best: a tie must not be decided by rounding.
        best = (
            (left <= left.amin(-1, keepdim=True).mul_(1 + _TIE_TOLERANCE))
            .to(torch.uint8)
            .argmax(-1)
            .flatten()
        )
        nearest = gaps.view(-1, n_trials, m)[starts, best].view_as(nearest)
        centres[..., place, :] = trials.view(-1, n_trials, e)[starts, best].view(*views, n_starts, e)
    return centres


def _square_distances(view: Tensor, square_norms: Tensor, points: Tensor, smallest: float) -> Tensor:
    """Return |x_m - p_rt|^2, shape (..., r, t, m), and nothing where it is not more than ``smallest``."""
    flat = points.flatten(-3, -2)
    gaps = _plus_product(square_norms.unsqueeze(-2), flat, view.mT, alpha=-2.0)
    gaps.add_(flat.square().sum(-1, keepdim=True))
    # A row's distance from itself is rounding: make it nothing, so that it is not drawn again.
    return torch.threshold_(gaps, smallest, 0.0).unflatten(-2, points.shape[-3:-1])


def _plus_product(added: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """Return added + alpha a b, of one pair of matrices or of one a view."""
    return (torch.addmm if a.ndim == 2 else torch.baddbmm)(added, a, b, alpha=alpha)


def _draw(masses: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
    """Return indices drawn in proportion to masses, shape (..., t), by inverting their running sum."""
    cumulative = masses.cumsum(-1)
    uniform = torch.rand(*masses.shape[:-1], n_draws, generator=generator, dtype=masses.dtype)
    targets = uniform.to(masses.device).mul_(cumulative[..., -1:])
    return torch.searchsorted(cumulative, targets, right=True).clamp_(max=masses.shape[-1] - 1)
