"""Rows recovered by projected gradient: whatever can be projected onto, a codebook or planes, is a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.sensing.operators import Operator, as_operator
from mixcoder.sensing.posterior import checked_observation

# The side of a Gram matrix up to which the norm of an operator is computed, not iterated for.
_SMALL = 2048

# Power iterations for a larger one, and the allowance for the digits that they leave open.
_ITERATIONS, _ALLOWANCE = 200, 1.02


@dataclass(frozen=True)
class Projected:
    """What :func:`projected_gradient` found.

    Parameters
    ----------
    rows : Tensor, shape (n, d)
        Of all that were projected onto, for each observation the row that fits it best.
    errors : Tensor, shape (n,)
        |y - H x|^2 of the rows, float64.
    n_iter : int
        Steps taken.
    converged : bool
        Whether the last step lowered every error by less than ``tol`` of it.
    """

    rows: Tensor
    errors: Tensor
    n_iter: int
    converged: bool


def projected_gradient(
    y: Tensor,
    operator: Any,
    project: Callable[[Tensor], Tensor],
    *,
    start: Tensor | None = None,
    step: float | None = None,
    max_iter: int = 200,
    tol: float = 1e-8,
) -> Projected:
    r"""Return rows in the range of a projection whose measurements come close to y.

    .. math:: x \leftarrow P\bigl(x + \eta H'(y - Hx)\bigr), \qquad \eta = 1 / \|H\|^2

    With P the nearest point of a set, and this eta, no step raises |y - Hx|. Onto a codebook (``KMeans.reconstruct``)
    or the planes of a mixture (``PPCAMixture.reconstruct`` by the rule "nearest") that is so; a denoiser in the place
    of P (the mean of a posterior) may raise it, and the best row so far is kept.

    Parameters
    ----------
    y : Tensor, shape (n, m)
        One observation a row, float32 or float64.
    operator : Operator, matrix or LinearOperator, shape (m, d)
        H.
    project : callable
        P, of rows of shape (n, d).
    start : Tensor, shape (n, d) or (r, n, d), optional
        By default zeros. Where the set is no plane there are local minima: of r starts (the components of a mixture,
        say) each observation keeps the one that ends best.
    step : float, optional
        eta; positive.
    max_iter : int
        Most steps, at least one.
    tol : float
        It stops when a step lowers every error by less than this share of it.

    Raises
    ------
    DataError
        If y or the start has the wrong shape, or y a value that is not finite.
    ValueError
        If a setting is out of its range, or P changes the shape of the rows.

    Examples
    --------
    The projection onto the diagonal of the plane, of which one coordinate is seen:

    >>> diagonal = lambda x: x.mean(1, keepdim=True).expand_as(x)
    >>> projected_gradient(torch.tensor([[3.0]]), [[1.0, 0.0]], diagonal).rows
    tensor([[3.0000, 3.0000]])

    References
    ----------
    Shah & Hegde (2018), "Solving linear inverse problems using GAN priors: an algorithm with provable guarantees",
    algorithm 1; Blumensath (2011), "Sampling and reconstructing signals from a union of linear subspaces".
    """
    operator = as_operator(operator)
    y = checked_observation(y, operator, operator.n_features)
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"step must be positive and finite, or None for 1/|H|^2, got {step!r}.")
    if max_iter < 1 or not 0 <= tol < float("inf"):
        raise ValueError(f"max_iter must be at least 1 and tol non-negative, got {max_iter!r} and {tol!r}.")
    n, d = len(y), operator.n_features
    starts = y.new_zeros(1, n, d) if start is None else start.to(y).reshape(-1, *start.shape[-2:])
    if starts.shape[1:] != (n, d) or not len(starts) or not bool(torch.isfinite(starts).all()):
        raise DataError(
            f"A start is finite, of shape {(n, d)} or (n_starts, {n}, {d}), got {tuple(starts.shape)} or one "
            "with NaN or infinity."
        )
    x, y = starts.flatten(0, 1), y.repeat(len(starts), 1)
    eta = 1 / squared_norm(operator, y) if step is None else step
    best, errors = x, torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)
    converged, n_iter = False, 0
    while n_iter < max_iter and not converged:
        n_iter += 1
        moved = project(x + eta * operator.adjoint(y - operator.apply(x)))
        if moved.shape != x.shape:
            raise ValueError(
                f"The projection made rows of shape {tuple(moved.shape)} of {tuple(x.shape)}; it must keep it."
            )
        x = moved.to(y)
        found = (y - operator.apply(x)).double().square().sum(1)
        better = found < errors
        converged = n_iter > 1 and not bool((errors - found > tol * errors).any())
        best, errors = torch.where(better[:, None], x, best), torch.where(better, found, errors)
    place = errors.reshape(-1, n).argmin(0) * n + torch.arange(n, device=y.device)
    return Projected(best[place], errors[place], n_iter, converged)


def squared_norm(operator: Operator, like: Tensor) -> float:
    """Return |H|^2, its largest squared singular value; of a large H by power iteration, rather too large."""
    m, d = operator.shape
    if min(m, d) <= _SMALL and m * d <= _SMALL**2:
        matrix = operator.matrix(like).double()
        gram = matrix @ matrix.T if m <= d else matrix.T @ matrix
        largest = float(torch.linalg.eigvalsh(gram)[-1])
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, d, generator=generator, dtype=torch.float64).to(like.device)
        largest = 0.0
        for _ in range(_ITERATIONS):
            x = operator.adjoint(operator.apply(x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)))
            largest = float(x.norm()) * _ALLOWANCE
    if largest == 0:
        raise ValueError("The operator is zero: its measurements say nothing of the rows.")
    return largest


__all__ = ["Projected", "projected_gradient", "squared_norm"]
