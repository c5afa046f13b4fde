"""Anchors for given targets: Newton's method on the objective of codes that are always the best ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixcoder.ops.embedding import CodeKernel
from mixcoder.ops.embedding.base import weighted
from mixcoder.sources import Block, RowValues, Source
from mixcoder.statistics import Gathered, Statistics

TargetsOf = Callable[[Block], Tensor]
"""The targets of the rows of a block, on the simplex, float64, shape (n, k)."""

# Numbers in the largest array of a block, which is (rows e k e).
_BLOCK_NUMBERS = 1 << 18

_LEAST_RADIUS = 1e-9
_LARGEST_RADIUS = 1e9

# Curvatures below this share of the largest belong to turns of the map, along which nothing changes.
_FLAT = 1e-9


@dataclass(frozen=True)
class AnchorSums(Statistics):
    """What the rows say about the anchors.

    Parameters
    ----------
    gradient : Tensor, shape (k, e)
    curvature : Tensor, shape (k e, k e)
        Minus the Hessian, or what stands in for it.
    """

    gradient: Tensor
    curvature: Tensor

    @classmethod
    def of(
        cls, kernel: CodeKernel, codes: Tensor, anchors: Tensor, targets: Tensor, weights: Tensor | None
    ) -> AnchorSums:
        """Return the sums of some rows, whose codes are the best for their targets."""
        return cls(
            kernel.anchor_gradient(codes, anchors, targets, weights),
            kernel.anchor_curvature(codes, anchors, targets, weights),
        )

    def with_prior(self, anchors: Tensor, prior: float) -> AnchorSums:
        r"""Return the sums with :math:`-\rho \sum_k |w_k|^2` added to the objective."""
        curvature = self.curvature.clone()
        curvature.diagonal().add_(2 * prior)
        return AnchorSums(self.gradient - 2 * prior * anchors, curvature)


@dataclass
class AnchorStep:
    """Newton steps within a radius, which grows while steps keep their promises and shrinks when they do not.

    The radius bounds the step along each axis of the curvature by itself, so that a few flat axes do not hold back the
    others. A curvature counts by its size, so that every step is one of ascent; what it promises is the gain of the
    quadratic model. No step turns the map: a straight line leaves the circle along which nothing changes.

    Parameters
    ----------
    radius : float
        In units of the map.

    References
    ----------
    Conn, Gould & Toint, Trust-Region Methods (2000), chapter 6 for the rule of the radius.
    """

    radius: float
    promised: float = 0.0

    @classmethod
    def first(cls, kernel: CodeKernel) -> AnchorStep:
        """Return the rule before any step: half the width of the kernel."""
        return cls(0.5 / math.sqrt(kernel.beta))

    def propose(self, sums: AnchorSums, anchors: Tensor) -> Tensor:
        """Return a step of the anchors, shape (k, e)."""
        turns = turns_of(anchors)
        still = torch.eye(anchors.numel()).to(anchors) - turns.T @ turns
        curvature = still @ ((sums.curvature + sums.curvature.T) / 2) @ still
        values, axes = torch.linalg.eigh(curvature)
        tiny = torch.finfo(values.dtype).tiny
        least = (_FLAT * values.abs().amax()).clamp_min(tiny)
        slopes = axes.T @ (still @ sums.gradient.flatten())
        steps = (slopes / torch.maximum(values.abs(), least)).clamp(-self.radius, self.radius)
        # Which axes span a flat space is rounding: there the radius bounds the step as a whole, whatever the axes.
        flat = values.abs() <= least
        size = slopes[flat].norm()
        steps[flat] = slopes[flat] * torch.where(size > self.radius * least, self.radius / size, 1 / least)
        self.promised = float((slopes * steps - 0.5 * values * steps.square()).sum())
        return (still @ (axes @ steps)).view_as(sums.gradient)

    def judge(self, gain: float) -> None:
        """Learn from what the last step gained."""
        share = gain / self.promised if self.promised > 0 else 1.0
        if not share > 0:
            self.radius /= 4
        elif share < 0.25:
            self.radius /= 2
        elif share > 0.75:
            self.radius = min(2 * self.radius, _LARGEST_RADIUS)

    @property
    def exhausted(self) -> bool:
        """Whether steps have become too short to try."""
        return self.radius < _LEAST_RADIUS


@dataclass(frozen=True)
class AnchorFit:
    """Anchors and codes, and how they were reached.

    Parameters
    ----------
    anchors : Tensor, shape (k, e)
    codes : Tensor, shape (n, e)
    history : list of float
        The objective per row after each step; it never falls.
    gradient_norm : float
        Length of the gradient in the anchors, per row.
    radius : float
        That of the next step.
    n_steps : Tensor of int64, shape (n,)
        Newton steps of each row's first code.
    converged : bool
    """

    anchors: Tensor
    codes: Tensor
    history: list[float]
    gradient_norm: float
    radius: float
    n_steps: Tensor
    converged: bool


@dataclass(frozen=True)
class _Turn(Statistics):
    value: Tensor
    anchors: AnchorSums
    codes: Gathered
    n_steps: Gathered


@dataclass(frozen=True)
class _Visit:
    """Climbs to the best codes of a block; a value, so that it can be sent wherever rows are read.

    Parameters
    ----------
    kernel : CodeKernel
    targets_of : callable
    anchors : Tensor, shape (k, e)
    corners : Tensor
        Those of the kernel at these anchors.
    code_tol : float
    before : RowValues, optional
        Codes of the last turn, shape (n, e).
    """

    kernel: CodeKernel
    targets_of: TargetsOf
    anchors: Tensor
    corners: Tensor
    code_tol: float
    before: RowValues | None

    def __call__(self, block: Block, /) -> _Turn:
        kernel, anchors, a = self.kernel, self.anchors, self.targets_of(block)
        everyone = torch.ones(len(a), dtype=torch.bool, device=a.device)
        begin = kernel.first_codes(a, anchors, self.corners)[0]
        if self.before is not None:
            before = self.before(block)
            # After a long step of the anchors the codes before are no start; after a short one there is no better.
            stay = kernel.surrogate(before, anchors, a) >= kernel.surrogate(begin, anchors, a)
            begin = torch.where(stay[:, None], before, begin)
        climb = kernel.climb(begin, a, anchors, everyone, self.code_tol, 100)
        value = weighted(kernel.surrogate(climb.codes, anchors, a)[:, None], block.weights).sum()
        sums = AnchorSums.of(kernel, climb.codes, anchors, a, block.weights)
        return _Turn(value, sums, Gathered((climb.codes,)), Gathered((climb.steps,)))

    def of_rows(self, start: int, stop: int) -> _Visit:
        """Return the visit of rows ``start`` to ``stop``, with their own codes alone."""
        if self.before is None:
            return self
        return replace(self, before=self.before.of_rows(start, stop))


def fit_anchors(
    source: Source,
    targets_of: TargetsOf,
    start: Tensor,
    kernel: CodeKernel,
    *,
    prior: float,
    tol: float,
    max_iter: int,
    code_tol: float = 1e-10,
    radius: float | None = None,
) -> AnchorFit:
    r"""Return anchors and codes that maximise :math:`\sum_n G_n(v_n; A_n) - \rho \sum_k |w_k|^2`.

    Every step sees the codes at their best, and knows how they will follow (:meth:`CodeKernel.anchor_curvature`): with
    squared distances it is Newton's on the objective of the anchors alone. One pass over the rows a step; nothing of
    size (n, k) is kept.

    Parameters
    ----------
    source : Source
        What ``targets_of`` makes targets of.
    targets_of : callable
    start : Tensor, shape (k, e)
        First anchors.
    kernel : CodeKernel
    prior : float
        rho of the anchors.
    tol : float
        Gain in nats per row below which to stop.
    max_iter : int
        Steps at most.
    code_tol : float
        Length of its gradient at which a code is done.
    radius : float, optional
        Of the first step; that of an earlier fit where this one goes on.

    Raises
    ------
    ValueError
        If the first anchors are so far apart that no step finds the codes between them.
    """
    k, e = start.shape
    kernel.require_near(start)
    rows = max(64, _BLOCK_NUMBERS // (k * e * e))

    def turn(anchors: Tensor, before: Tensor | None) -> tuple[_Turn, Tensor]:
        known = None if before is None else RowValues(before)
        visit = _Visit(kernel, targets_of, anchors, kernel.corners(anchors), code_tol, known)
        found = source.map_reduce(visit, rows)
        value = found.value - prior * anchors.square().sum()
        return replace(found, value=value, anchors=found.anchors.with_prior(anchors, prior)), found.codes.rows

    anchors = start
    stepper = AnchorStep.first(kernel) if radius is None else AnchorStep(radius)
    seen, codes = turn(anchors, None)
    n_steps = seen.n_steps.rows
    total = source.total_weight
    history, converged = [float(seen.value) / total], False
    for _ in range(max_iter):
        moved = anchors + stepper.propose(seen.anchors, anchors)
        there, followed = turn(moved, codes)
        gain = float(there.value - seen.value)
        stepper.judge(gain)
        if gain > 0:
            anchors, seen, codes = moved, there, followed
            history.append(float(seen.value) / total)
        small = max(gain, stepper.promised) <= tol * total
        if (gain >= 0 and small) or stepper.exhausted:
            converged = True
            break
    norm = float(seen.anchors.gradient.norm()) / total
    return AnchorFit(anchors, codes, history, norm, stepper.radius, n_steps, converged)


def first_anchors(targets: Tensor, e: int, weights: Tensor | None = None) -> Tensor:
    """Return the components in the principal axes of the targets, shape (k, e), of mean square length one."""
    w = targets.new_ones(len(targets)) if weights is None else weights.to(targets)
    share = (w / w.sum())[:, None]
    centred = targets - (share * targets).sum(dim=0)
    values, axes = torch.linalg.eigh(centred.T @ (share * centred))
    anchors = targets.new_zeros(targets.shape[1], e)
    leading = axes.flip(1)[:, :e] * values.flip(0)[:e].clamp_min(0).sqrt()
    anchors[:, : leading.shape[1]] = leading
    size = anchors.square().sum(dim=1).mean().sqrt()
    return anchors / size if float(size) > 1e-12 else anchors


def turns_of(anchors: Tensor) -> Tensor:
    """Return orthonormal directions, shape (m, k e), in which the anchors move when the map turns around its origin.

    Of the e (e - 1) / 2 planes only those count in which some anchor moves at all.
    """
    e = anchors.shape[1]
    one, other = torch.triu_indices(e, e, offset=1, device=anchors.device)
    plane = torch.arange(len(one), device=anchors.device)
    moved = anchors.new_zeros(len(one), *anchors.shape)
    moved[plane, :, one] = anchors.T[other]
    moved[plane, :, other] = -anchors.T[one]
    _, sizes, directions = torch.linalg.svd(moved.flatten(1), full_matrices=False)
    return directions[sizes > _FLAT * anchors.norm()]


def principal_axes(anchors: Tensor) -> Tensor:
    """Return the turn, shape (e, e), to the axes along which the anchors spread most, the farthest one positive."""
    centred = anchors - anchors.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes.flip(1)
    turned = centred @ axes
    far = turned.abs().argmax(dim=0)
    signs = turned.gather(0, far[None])[0].sign()
    return axes * torch.where(signs == 0, 1.0, signs)
