"""Where the plain kernel has a code: a moment in the relative interior of the hull of the anchors."""

from __future__ import annotations

import torch
from torch import Tensor

# The facets of a hull of k points grow like k^(e / 2).
_FACET_AXES = 4

# Anchors, scaled to the unit ball, that stretch less along an axis do not span it.
_FLAT = 1e-10

_ROWS = 1 << 14


def code_exists(targets: Tensor, anchors: Tensor, tolerance: float = 1e-9) -> Tensor:
    r"""Return for which targets G has a maximum with the plain kernel (no absorber, no prior), shape (n,), bool.

    It has one iff the moment :math:`m = \sum_k A_k w_k` lies in the relative interior of the hull of the anchors: the
    existence of a maximum-likelihood estimate in an exponential family. In a few axes the facets of the hull tell; in
    many, or where they cannot be found, a linear program a row:

    .. math:: t^* = \max \{t : c_k \ge t,\ \textstyle\sum_k c_k = 1,\ \sum_k c_k w_k = m\} > 0

    Parameters
    ----------
    targets : Tensor, shape (n, k)
        A. Where every entry exceeds the tolerance, A itself is the proof and nothing else is asked.
    anchors : Tensor, shape (k, e)
        w.
    tolerance : float
        Smallest t that counts as positive; smallest distance to a facet, the anchors scaled to the unit ball.

    References
    ----------
    Barndorff-Nielsen, Information and Exponential Families (1978), theorem 9.13.

    Examples
    --------
    >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    >>> code_exists(torch.eye(4), corners)
    tensor([False, False, False,  True])
    """
    exists = targets.amin(dim=1) > tolerance
    open_ = (~exists).nonzero()[:, 0]
    if len(open_) == 0:
        return exists
    # In the axes that the anchors span, where their hull is solid.
    w = _unit(anchors)
    _, sizes, axes = torch.linalg.svd(w, full_matrices=False)
    w = w @ axes[sizes > _FLAT].T
    facets = _facets(w)
    if facets is not None:
        normals, offsets = facets
        for rows in open_.split(_ROWS):
            above = (targets[rows].to(w) @ w) @ normals.T + offsets
            exists[rows] = (above.amax(dim=1) < -tolerance).to(exists.device)
        return exists
    different, which = torch.unique(
        targets[open_], dim=0, return_inverse=True
    )  # hard codes: k programs, not n
    depths = [_depth(row @ w, w) for row in different.to(w)]
    exists[open_] = (torch.tensor(depths, device=targets.device) > tolerance)[which]
    return exists


def hull_vertices(anchors: Tensor) -> Tensor:
    r"""Return which anchors are vertices of their hull, shape (k,), bool.

    w_k is one iff it cannot be mixed without itself. Anchors that coincide count as one.

    .. math:: \min \{c_k : c \ge 0,\ \textstyle\sum_j c_j = 1,\ \sum_j c_j w_j = w_k\} = 1

    Examples
    --------
    >>> hull_vertices(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([ True, False,  True])
    """
    from scipy.optimize import linprog

    w = _unit(anchors)
    corners = _corners(w)
    if corners is not None:
        same = torch.cdist(w, w[corners], compute_mode="donot_use_mm_for_euclid_dist") < 1e-12
        return same.any(dim=1).to(anchors.device)
    k = len(w)
    equal = torch.cat([torch.ones(1, k, dtype=w.dtype), w.T]).numpy()
    outer: list[bool] = []
    for row in w:
        own = (w - row).norm(dim=1) < 1e-12
        side = torch.cat([torch.ones(1, dtype=w.dtype), row]).numpy()
        solved = linprog(own.to(w.dtype).numpy(), A_eq=equal, b_eq=side, bounds=(0, None), method="highs")
        # c = (w_k alone) is feasible, so a failure is one of rounding: then nothing else mixes it.
        outer.append(solved.fun is None or float(solved.fun) > 1 - 1e-7)
    return torch.tensor(outer, device=anchors.device)


def _corners(anchors: Tensor) -> Tensor | None:
    """Return the numbers of the hull's vertices, of anchors that coincide but one; ``None`` for many axes."""
    from scipy.spatial import ConvexHull, QhullError

    _, sizes, axes = torch.linalg.svd(anchors, full_matrices=False)
    w = anchors @ axes[sizes > _FLAT].T
    if w.shape[1] == 0:
        return torch.tensor([0])
    if w.shape[1] == 1:
        return torch.stack([w[:, 0].argmin(), w[:, 0].argmax()])
    if w.shape[1] > _FACET_AXES:
        return None
    try:
        return torch.from_numpy(ConvexHull(w.numpy()).vertices).to(torch.int64)
    except QhullError:
        return None


def _facets(anchors: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return normals (f, e) and offsets (f,) of the hull's facets: inside, normal . m + offset < 0; or ``None``."""
    from scipy.spatial import ConvexHull, QhullError

    e = anchors.shape[1]
    if e == 0:
        return anchors.new_zeros(1, 0), anchors.new_full((1,), -1.0)  # a point is its own interior
    if e == 1:
        normals = anchors.new_tensor([[1.0], [-1.0]])
        return normals, -(normals @ anchors.T).amax(dim=1)
    if e > _FACET_AXES:
        return None
    try:
        equations = torch.from_numpy(ConvexHull(anchors.numpy()).equations)
    except QhullError:
        return None
    return equations[:, :-1], equations[:, -1]


def _depth(moment: Tensor, anchors: Tensor) -> float:
    """Return the largest t such that weights of at least t each mix the anchors to the moment."""
    from scipy.optimize import linprog

    k = len(anchors)
    # c = t + s with s >= 0: one variable a component and t, no inequality but the signs.
    rows = torch.cat([torch.ones(1, k, dtype=anchors.dtype), anchors.T])  # (1 + e, k)
    equal = torch.cat([rows, rows.sum(dim=1, keepdim=True)], dim=1).numpy()
    side = torch.cat([torch.ones(1, dtype=anchors.dtype), moment]).numpy()
    solved = linprog([0.0] * k + [-1.0], A_eq=equal, b_eq=side, bounds=(0, None), method="highs")
    return (
        0.0 if solved.fun is None else -float(solved.fun)
    )  # on the boundary rounding can make it infeasible


def _unit(anchors: Tensor) -> Tensor:
    """Return the anchors centred and scaled to the unit ball, in float64 on the CPU: tolerances have no unit."""
    w = anchors.detach().to("cpu", torch.float64)
    w = w - w.mean(dim=0)
    return w / w.norm(dim=1).amax().clamp_min(torch.finfo(w.dtype).tiny)


def require_spanning(anchors: Tensor) -> None:
    """Raise a ValueError where the anchors span fewer axes than they have."""
    k, e = anchors.shape
    spanned = int(torch.linalg.matrix_rank(_unit(anchors), rtol=1e-10))
    if spanned < e:
        raise ValueError(
            f"Expected anchors that span all {e} axes, but the {k} given span {spanned}: without absorber and prior "
            "the code is free along the others; move the anchors apart, use fewer axes, or set absorber or prior."
        )
