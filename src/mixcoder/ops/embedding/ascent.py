"""All rows of a block climb their own hill at once: damped Newton steps, each row until its own gradient is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_HALVINGS = 60


class Local(NamedTuple):
    """A function at one point a row: value (n,), gradient (n, e), and a step (n, e) along which it rises."""

    value: Tensor
    gradient: Tensor
    step: Tensor


class Climb(NamedTuple):
    """Where the rows arrived: codes (n, e), length of the gradient there (n,), and steps taken (n,)."""

    codes: Tensor
    norms: Tensor
    steps: Tensor


Landscape = Callable[[Tensor, Tensor], Local]
"""Looks around at the codes (m, e) of the rows with the numbers (m,)."""


def _straight(codes: Tensor, step: Tensor) -> Tensor:
    return codes + step


def ascend(
    start: Tensor,
    look: Landscape,
    climbs: Tensor,
    tol: float,
    max_iter: int,
    *,
    move: Callable[[Tensor, Tensor], Tensor] = _straight,
    rival: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Climb:
    """Climb from the start, in the rows that ``climbs`` marks; no value falls by more than rounding.

    Parameters
    ----------
    start : Tensor, shape (n, e)
    look : Landscape
    climbs : Tensor of bool, shape (n,)
    tol : float
        A row is done when its gradient is not longer.
    max_iter : int
        Steps at most.
    move : callable
        Takes a step from codes and stays in their domain.
    rival : callable, optional
        Another place for the rows to be, taken where it is higher: for functions with kinks.
    """
    codes, running = start.clone(), climbs.clone()
    everyone = torch.arange(len(codes), device=codes.device)
    steps = torch.zeros_like(everyone)
    here = Local(*(part.clone() for part in look(codes, everyone)))
    norms = here.gradient.norm(dim=1)

    def settle(rows: Tensor, new: Tensor, there: Local) -> None:
        codes[rows] = new
        for whole, part in zip(here, there, strict=True):
            whole[rows] = part
        norms[rows] = there.gradient.norm(dim=1)

    for _ in range(max_iter):
        running &= norms > tol
        rows = running.nonzero()[:, 0]
        if len(rows) == 0:
            break
        v, at = codes[rows], Local(*(part[rows] for part in here))
        slope = (at.step * at.gradient).sum(dim=1)
        noise = rounding(at.value)
        new, there = _backtrack(v, rows, at, slope, noise, look, move)
        # Once a step promises less than rounding, only a shorter gradient shows progress.
        better = (slope > noise) | (there.gradient.norm(dim=1) < norms[rows])
        better &= (there.value >= at.value - noise) & (new != v).any(dim=1)
        settle(rows[better], new[better], Local(*(part[better] for part in there)))
        if rival is not None:
            other = rival(codes[rows], rows)
            seen = look(other, rows)
            summit = (seen.value >= here.value[rows] - noise) & (seen.gradient.norm(dim=1) <= tol)
            higher = (seen.value > here.value[rows] + noise) | summit
            settle(rows[higher], other[higher], Local(*(part[higher] for part in seen)))
            better |= higher
        steps[rows[better]] += 1
        running[rows[~better]] = False
    return Climb(codes, norms, steps)


def _backtrack(
    v: Tensor,
    rows: Tensor,
    at: Local,
    slope: Tensor,
    noise: Tensor,
    look: Landscape,
    move: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Local]:
    """Halve each row's step until it gains a tenth of what its slope promises (Armijo)."""
    size = torch.ones_like(slope)
    new = move(v, at.step)
    there = look(new, rows)
    for halving in range(_HALVINGS):
        short = there.value < at.value + 0.1 * size * slope - noise
        if not bool(short.any()):
            break
        # The last is none at all: never a step that does not gain.
        size = torch.where(short, size / 2 if halving < _HALVINGS - 1 else 0.0, size)
        tried = short.nonzero()[:, 0]
        new = new.index_copy(0, tried, move(v[tried], size[tried, None] * at.step[tried]))
        again = look(new[tried], rows[tried])
        there = Local(*(whole.index_copy(0, tried, part) for whole, part in zip(there, again, strict=True)))
    return new, there


def newton(curvature: Tensor, gradient: Tensor, reach: Tensor) -> Tensor:
    """Return the solution of curvature @ step = gradient, not longer than ``reach``; an ascent direction always.

    Where the function is not concave, each of its curvatures counts by its size: Newton's step would go for the saddle,
    this one away from it.

    Parameters
    ----------
    curvature : Tensor, shape (n, e, e)
        Negative Hessian.
    gradient : Tensor, shape (n, e)
    reach : Tensor, shape (n,)

    References
    ----------
    Gill, Murray & Wright, Practical Optimization (1981), section 4.4.2.
    """
    factor, info = torch.linalg.cholesky_ex(curvature)
    step = torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    lost = ((info != 0) | ~step.isfinite().all(dim=1)).nonzero()[:, 0]
    if len(lost) > 0:
        values, axes = torch.linalg.eigh(curvature[lost])
        # Flat to rounding along an axis: not further than the reach.
        least = gradient[lost].norm(dim=1) / reach[lost] + torch.finfo(step.dtype).tiny
        sizes = torch.maximum(values.abs(), least[:, None])
        turned = (axes.mT @ gradient[lost, :, None]) / sizes[..., None]
        step[lost] = (axes @ turned)[..., 0]
    length = step.norm(dim=1).clamp_min(torch.finfo(step.dtype).tiny)
    return step * (reach / length).clamp_max(1.0)[:, None]


def rounding(value: Tensor) -> Tensor:
    """Return by how much values of an objective may differ for no reason but rounding."""
    return 64 * torch.finfo(value.dtype).eps * (1 + value.abs())
