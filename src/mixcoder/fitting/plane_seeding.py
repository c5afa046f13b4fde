"""Planes to begin with: greedy local principal component analysis, as k-means++ chooses centres."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rows around a seed through which a plane is laid, as multiples of the fewest that determine one: many average the
# noise out, but no more than a quarter of what a plane has on average.
_FEWEST_NEIGHBOURS = 2
_MOST_NEIGHBOURS = 6
_SHARE_OF_A_PLANE = 4

# Most operations that the choice of one start's planes may take.
_OPERATIONS = 1e9


def plane_labels(
    view: Tensor, weights: Tensor, n_planes: int, n_latent: int, generator: torch.Generator
) -> Tensor:
    """Return the nearest of greedily chosen local planes of each row, int64, shape (m,).

    A seed is drawn in proportion to the squared distance of the rows from the planes so far; through it and its nearest
    neighbours goes the next plane. Of several seeds the one is taken whose plane lowers the sum of squared distances
    most. Distances are taken after projection: where planes cross, rows near the crossing are far from the seeds.

    Parameters
    ----------
    view : Tensor, shape (m, e)
        Rows, in coordinates in which distances mean something.
    weights : Tensor, shape (m,)
    n_planes : int
        K.
    n_latent : int
        q, less than e.

    References
    ----------
    Arthur & Vassilvitskii (2007), section 5, for points; Zhang, Szlam, Wang & Lerman (2012), "Hybrid linear modeling
    via local best-fit flats", for planes.
    """
    m, needed = len(view), n_latent + 1
    wanted = max(
        _FEWEST_NEIGHBOURS * needed, min(_MOST_NEIGHBOURS * needed, m // (_SHARE_OF_A_PLANE * n_planes))
    )
    n_neighbours = min(m, wanted)
    n_trials = 2 + int(math.log(n_planes))
    nearest = view.square().sum(1)
    labels = torch.zeros(m, dtype=torch.int64, device=view.device)
    for place in range(n_planes):
        masses = (weights * nearest).cumsum(0)
        if float(masses[-1]) <= 0:  # nothing is left over
            break
        draws = torch.rand(n_trials, generator=generator, dtype=view.dtype).to(view.device) * masses[-1]
        seeds = torch.searchsorted(masses, draws, right=True).clamp_(max=m - 1)
        gaps = _gaps(view, seeds, n_neighbours, n_latent)  # (t, m)
        left = (gaps if place == 0 else torch.minimum(gaps, nearest)) @ weights
        best = gaps[int(left.argmin())]
        closer = best < nearest if place else torch.ones_like(labels, dtype=torch.bool)
        labels[closer], nearest = place, torch.where(closer, best, nearest)
    return labels


def affordable(n_rows: int, n_features: int, n_planes: int, n_latent: int) -> bool:
    """Return whether ``plane_labels`` takes no more than its share of a search."""
    trials = n_planes * (2 + int(math.log(n_planes)))
    return 2.0 * trials * n_rows * n_features * (2 + n_latent) <= _OPERATIONS


def _gaps(view: Tensor, seeds: Tensor, n_neighbours: int, n_latent: int) -> Tensor:
    """Return squared distances of all rows from the planes through some rows and their neighbours, shape (t, m)."""
    apart = torch.cdist(view[seeds], view)
    around = view[apart.topk(n_neighbours, largest=False).indices]  # (t, h, e)
    centres = around.mean(1, keepdim=True)
    axes = torch.linalg.svd(around - centres, full_matrices=False)[2][:, :n_latent]  # (t, q, e)
    centred = view - centres  # (t, m, e)
    along = centred @ axes.mT
    return (centred.square().sum(2) - along.square().sum(2)).clamp_min_(0)
