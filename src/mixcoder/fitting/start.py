"""Where a fit begins: several short fits from different starts on some of the rows, the best continued.

Everything here happens in coordinates that belong to the data (whitened, or standardised, or as they are,
as the family's own geometry asks), and every random choice is made along an order that belongs to the
data: neither the units of the columns, nor the order of the rows, nor whether a row is repeated or
weighted, changes a start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.components.base import Kernel, Params, PassSetting
from mixcoder.encoders import Encoder
from mixcoder.fitting.em import Problem
from mixcoder.fitting.plane_seeding import affordable, plane_labels
from mixcoder.fitting.scan import MIDDLE_HALF, quartiles
from mixcoder.fitting.seeding import (
    assign_batch,
    own_order,
    plus_plus_batch,
    standardised,
    tied_order,
    tied_ranks,
    whitening,
)
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import softargmax_
from mixcoder.ops.workspace import Workspace
from mixcoder.statistics import Statistics

# Rows per centre in the sample that seeds a fit: at 20-50 means are as good as from all rows. What else is fitted of
# a component needs its own: with fewer rows than a few times the features a covariance fits the sample only.
_ROWS_PER_CENTRE = 50
_ROWS_PER_PARAMETER = 8
_MIN_SAMPLE = 2000

# Multiplications up to which the distances of all rows of a sample from all centres are cheap enough for more rows.
_SAMPLE_WORK = 1_500_000_000
_MAX_SAMPLE = 50_000

# Standard deviations of the middle of a column beyond which, where some rows are far away, none counts as farther.
_REACH = 20.0

# Lloyd steps of a start from centres. Few centres keep the starts different, and EM does the rest (two steps more
# find no better optimum on real tables, and cost as much as a step of EM); of many, some are always misplaced at
# first, which EM repairs slowly.
_LLOYD_STEPS = 1
_MANY_CENTRES = 16
_MANY_LLOYD_STEPS = 8

# Share of a first code that goes to all components alike.
_SMOOTHING = 0.02

# EM steps of every start, then of the best third.
_FIRST_STEPS = 5
_SECOND_STEPS = 10

# EM steps after which two starts that agree are believed.
_SURE_STEPS = 3

# Features of the sample are written once up to this size, and block by block in every step beyond it.
_FEATURE_BYTES = 64 << 20

# Starts whose bounds differ by less than this, in nats per row, are taken to be the same optimum.
_AGREEMENT = 1e-3


# Kinds of starts, in turn: where components are around points, and where they are planes.
_POINTS = ("centres", "centres", "slabs", "soft")
_PLANES = ("centres", "planes", "planes", "soft")


@dataclass(frozen=True)
class Sample:
    """Different rows to start on, in an order that belongs to the data.

    Parameters
    ----------
    rows : Tensor, shape (m, d)
        In working coordinates, float64.
    weights : Tensor, shape (m,)
        Row weights; that of a row drawn several times is the sum.
    views : Tensor, shape (v, m, e)
        The rows in the coordinates in which distances are taken, the family's own geometry first.
    """

    rows: Tensor
    weights: Tensor
    views: Tensor

    @property
    def view(self) -> Tensor:
        """The rows in the family's own geometry, shape (m, e)."""
        return self.views[0]


def draw_sample(problem: Problem, n_components: int, geometry: str, generator: torch.Generator) -> Sample:
    """Return the rows to start on: all of a small source, random ones of a large one."""
    source = problem.source
    wanted = n_components * (_ROWS_PER_PARAMETER * problem.width // source.n_features)
    cheap = _SAMPLE_WORK // (n_components * source.n_features)
    size = max(_MIN_SAMPLE, _ROWS_PER_CENTRE * n_components, min(wanted, cheap))
    size = min(_MAX_SAMPLE, size)
    if source.n_rows <= 2 * size:
        index = torch.arange(source.n_rows)
    else:
        index = torch.randint(source.n_rows, (size,), generator=generator)
    rows, weights = problem.rows(index), problem.weights(index)
    weights = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
    keep = weights > 0
    if not bool(keep.all()):
        rows, weights = rows[keep], weights[keep]
    # The units of the columns do not change this order, so rows that are equal stand side by side in it.
    order = own_order(standardised(_points(problem, rows, weights), weights))
    rows, weights = _merged(rows[order], weights[order])
    points = _points(problem, rows, weights)
    if math.isfinite(problem.family.reach):
        rows = points  # the first step weighs all rows alike
    standard = standardised(points, weights)
    view = whitening(points, weights, geometry, standard)
    # Standardised rows are in an order of their own already; whitened and turned ones have that of their lengths.
    order = slice(None) if geometry == "units" else tied_order(view.square().sum(1))
    if geometry == "affine" and points.shape[1] > 1:
        # Whitening hides clusters that a few directions tell apart well: no single geometry wins everywhere.
        # Where it leaves directions out, zeros stand for them.
        lacking = standard.shape[1] - view.shape[1]
        views = torch.stack([torch.nn.functional.pad(view, (0, lacking)) if lacking else view, standard])
    else:
        views = view[None]
    return Sample(rows[order], weights[order], views[:, order])


def _points(problem: Problem, rows: Tensor, weights: Tensor) -> Tensor:
    """Return the rows as points, shape (m, e), those far away moved in.

    To a component that bears rows far away they are no place of their own; to others they are, but at any distance
    whatever all other distances would be rounding.
    """
    points, reach = problem.family.seeding_view(rows), problem.family.reach
    if problem.reference is not None:
        reach = min(reach, _REACH)
    if not math.isfinite(reach):
        return points
    low, high = quartiles(points, weights)
    half = torch.where(high > low, reach / MIDDLE_HALF * (high - low), math.inf)
    middle = low + 0.5 * (high - low)
    return torch.minimum(torch.maximum(points, middle - half), middle + half)


def _merged(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted rows without repetitions, and their summed weights."""
    differs = (rows[1:] != rows[:-1]).any(1)
    if bool(differs.all()):
        return rows, weights
    fresh = torch.nn.functional.pad(differs, (1, 0), value=True)
    group = fresh.cumsum(0) - 1
    return rows[fresh], weights.new_zeros(int(group[-1]) + 1).index_add_(0, group, weights)


def hard_start(view: Tensor, weights: Tensor, centres: Tensor, n_steps: int) -> Tensor:
    """Return labels of R sets of centres after a few Lloyd steps, shape (..., r, m).

    Parameters
    ----------
    view : Tensor, shape (..., m, e)
        Leading axes are separate views of the rows, each with its own sets.
    weights : Tensor, shape (m,)
    centres : Tensor, shape (..., r, k, e)
    """
    *views, n_starts, n_components, n_features = centres.shape
    labels = assign_batch(view, centres)
    if n_steps == 0:
        return labels
    # One list of all centres: component k' of the i-th set is the (i k + k')-th.
    n_sets = labels[..., 0].numel()
    offsets = torch.arange(0, n_sets * n_components, n_components, device=view.device).view(
        *views, n_starts, 1
    )
    # The weight stands beside what it weighs: one sum gives the counts as well.
    weighted = torch.cat([view * weights[:, None], weights[:, None].expand_as(view[..., :1])], -1)
    weighted = weighted.unsqueeze(-3).expand(*views, n_starts, -1, -1).reshape(-1, n_features + 1)
    sums = weighted.new_empty(n_sets * n_components, n_features + 1)
    for _ in range(n_steps):
        sums.zero_().index_add_(0, (labels + offsets).flatten(), weighted)
        counts = sums[:, -1:]
        moved = (sums[:, :-1] / counts.clamp_min(1e-300)).view_as(centres)
        centres = torch.where(counts.view(*views, n_starts, n_components, 1) > 0, moved, centres)
        labels = assign_batch(view, centres)
    return labels


def begins_with_planes(sample: Sample, n_components: int, rank: int | None) -> bool:
    """Return whether some starts are planes: the components are, and choosing them costs little."""
    n_rows, n_features = sample.view.shape
    return rank is not None and rank < n_features and affordable(n_rows, n_features, n_components, rank)


def candidate_codes(
    sample: Sample,
    n_components: int,
    n_starts: int,
    generator: torch.Generator,
    rank: int | None = None,
) -> Tensor:
    """Return first codes of several starts, deliberately different in kind, shape (m, r, k).

    In turn: greedy k-means++ and a few Lloyd steps; slabs across a random direction; soft assignment to
    random rows, all components beginning near the overall spread. Where components are planes of some rank,
    greedily chosen local planes take the place of slabs.
    """
    view, weights, k = sample.view, sample.weights, n_components
    if len(view) <= k:
        # No row is left to share: one component each, and the others are not needed.
        return torch.eye(len(view), k, dtype=view.dtype, device=view.device)[:, None].repeat(1, n_starts, 1)
    turns = _PLANES if begins_with_planes(sample, k, rank) else _POINTS
    kinds = [turns[i % len(turns)] for i in range(n_starts)]
    n_centres = kinds.count("centres")
    views = sample.views[:n_centres]
    n_steps = _LLOYD_STEPS if k < _MANY_CENTRES else _MANY_LLOYD_STEPS
    centres = plus_plus_batch(views, weights, k, -(-n_centres // len(views)), generator)
    labels = hard_start(views, weights, centres, n_steps).transpose(0, 1).flatten(0, 1)[:n_centres]
    cumulative = weights.cumsum(0)
    for kind in kinds:
        if kind == "slabs":
            slabs = _slabs(view, weights, k, _draw_rows(cumulative, (2,), generator))
            labels = torch.cat([labels, slabs[None]])
        elif kind == "planes":
            assert rank is not None
            labels = torch.cat([labels, plane_labels(view, weights, k, rank, generator)[None]])
    # Smoothed a little towards even shares, no component starts without any say in a row. Some are left as they are: a
    # single row far away, with a small share in every component, would stretch all of them.
    smoothing = view.new_full((n_starts, 1), _SMOOTHING)
    smoothing[len(views) : n_centres] = 0.0
    codes = (smoothing / k).expand(len(view), n_starts, k).clone()
    sharp = (1 - smoothing + smoothing / k)[: len(labels)].expand(len(view), -1, 1)
    codes[:, : len(labels)].scatter_(2, labels.T[:, :, None], sharp)
    for start in range(len(labels), n_starts):
        seeds = view[_draw_rows(cumulative, (k,), generator)]
        # -|x - c|^2 / 2 without |x|^2, which no code sees.
        code = softargmax_(torch.addmm(-0.5 * seeds.square().sum(1), view, seeds.T))[0]
        codes[:, start].add_(code, alpha=1 - _SMOOTHING)
    return codes


def _slabs(view: Tensor, weights: Tensor, n_slabs: int, pair: Tensor) -> Tensor:
    """Return labels of slabs of equal weight across the direction from one row to another, shape (m,)."""
    order = tied_order(view @ (view[pair[0]] - view[pair[1]]))
    shares = weights[order]
    middles = shares.cumsum(0).sub_(shares, alpha=0.5)
    slab = (middles * (n_slabs / float(weights.sum())) + 1e-9).long().clamp_(0, n_slabs - 1)
    return torch.empty_like(slab).index_copy_(0, order, slab)


def search(
    problem: Problem,
    sample: Sample,
    n_components: int,
    encoder: Encoder,
    *,
    n_starts: int,
    generator: torch.Generator,
) -> tuple[Params, Tensor]:
    """Return the parameters and log-weights that the fit on all rows begins with.

    Successive halving: every start runs a little, the best third runs on, the best one is returned; where the
    two best end in one place, the search is over. Components of different starts do not touch, so all starts
    run as one long list of components.
    """
    codes = candidate_codes(sample, n_components, n_starts, generator, problem.family.seeding_rank)
    race = _Race(problem, sample, encoder)
    params, log_weights = race.first_step(codes)
    if n_starts == 1:
        return params, log_weights[0]
    for n_steps, n_kept in ((_FIRST_STEPS, max(1, n_starts // 3)), (_SECOND_STEPS, 1)):
        params, log_weights, bounds = race.run(params, log_weights, n_steps)
        kept = best_first(bounds)[: 1 if race.agreed(bounds) else n_kept]
        columns = [start * n_components + k for start in kept for k in range(n_components)]
        params = params.take(torch.tensor(columns, device=log_weights.device))
        log_weights = log_weights[kept]
        if len(kept) == 1:
            break
    return params, log_weights[0]


class _Race:
    """EM steps of several starts at once, on the sample.

    The features of a sample are written once, where they are few; a step is then two products, whatever the family.
    """

    def __init__(self, problem: Problem, sample: Sample, encoder: Encoder) -> None:
        self.problem, self.encoder = problem, encoder
        self.rows, self.weights = sample.rows, sample.weights
        self.total = float(sample.weights.sum())
        even = bool((sample.weights == sample.weights[0]).all())
        self.row_weights = None if even else sample.weights
        self.pooled = problem.family.pooled(sample.rows, self.row_weights)
        self.identity = Frame.identity(sample.rows.shape[1], sample.rows.device)
        self.setting = PassSetting(
            torch.float64, Workspace(), problem.magnitude, tolerance=math.inf, column_major=True
        )
        self.blocks = _feature_blocks(problem, len(sample.rows))
        self.expanded: Tensor | None = None

    def first_step(self, codes: Tensor) -> tuple[Params, Tensor]:
        """Return the first parameters of every start from its code, shape (m, r, k)."""
        _, n_starts, k = codes.shape
        flat, family, weights = codes.flatten(1), self.problem.family, self.row_weights
        statistics: Any = None
        for block in self.blocks:
            share = None if weights is None else weights[block]
            part = family.statistics(None, self.rows[block], flat[block], share)
            statistics = part if statistics is None else statistics + part
        return self._maximize(statistics, codes.new_full((n_starts, k), -math.log(k)))

    def run(self, params: Params, log_weights: Tensor, n_steps: int) -> tuple[Params, Tensor, list[float]]:
        """Return parameters, log-weights, and bounds before the last step, after some steps."""
        bounds = [0.0] * len(log_weights)
        for n_done in range(1, n_steps + 1):
            params, log_weights, bounds = self.step(params, log_weights)
            if n_done >= _SURE_STEPS and self.agreed(bounds):
                break
        return params, log_weights, bounds

    def agreed(self, bounds: list[float]) -> bool:
        """Return whether the two best starts, of different kinds, have most likely found one best place."""
        if len(bounds) < 2:
            return True
        *_, second, best = sorted(bounds)
        return best - second < _AGREEMENT * self.total

    def step(self, params: Params, log_weights: Tensor) -> tuple[Params, Tensor, list[float]]:
        """Return parameters, log-weights, shape (r, k), and the bound of each start before the step."""
        n_starts, k = log_weights.shape
        kernel = self.problem.family.kernel(params, log_weights.flatten(), self.setting)
        bounds, statistics = self._sums(kernel, self.blocks[0], n_starts)
        for block in self.blocks[1:]:
            more, others = self._sums(kernel, block, n_starts)
            bounds, statistics = bounds + more, statistics + others
        offset = kernel.offset(self.pooled)
        if offset is not None:
            bounds = bounds + offset
        if self.pooled is not None:
            statistics = replace(statistics, pooled=self.pooled.expand(n_starts, -1))
        log_prior = self.problem.family.log_prior(params, statistics, self.problem.reference)
        if log_prior is not None:
            bounds = bounds + log_prior.view(n_starts, k).sum(1)
        return *self._maximize(statistics, log_weights), bounds.tolist()

    def _maximize(self, statistics: Statistics, log_weights: Tensor) -> tuple[Params, Tensor]:
        """Return parameters of all starts and log-weights per start, shape (r, k)."""
        if self.pooled is not None:
            shared = self.pooled.expand(len(log_weights), -1)
            statistics = replace(statistics, pooled=shared)  # type: ignore[call-arg]
        if not self.problem.fixed_weights:
            counts: Tensor = statistics.counts  # type: ignore[attr-defined]
            counts = counts.view(log_weights.shape)
            log_weights = (counts / counts.sum(1, keepdim=True)).log_()
        return self.problem.parameters(statistics), log_weights

    def _sums(self, kernel: Kernel[Any, Any], block: slice, n_starts: int) -> tuple[Tensor, Any]:
        """Return the bounds, shape (r,), and the statistics of some rows."""
        features, weights = self._features(kernel, block), self.row_weights
        weights = None if weights is None else weights[block]
        log_joint = kernel.log_joint(features)  # (m, r k)
        by_start = log_joint.unflatten(1, (n_starts, -1)).transpose(0, 1)  # (r, m, k), the same memory
        code, bound = self.encoder.encode_with_bound_(by_start)
        bounds = bound.sum(1) if weights is None else bound @ weights
        if isinstance(code, Tensor):
            flat = log_joint
        else:
            flat = code.dense(log_joint.dtype).transpose(0, 1).flatten(1)
        return bounds, kernel.statistics(features, flat, weights)

    def _features(self, kernel: Kernel[Any, Any], block: slice) -> Tensor:
        if len(self.blocks) > 1:
            return kernel.expand(self.rows[block], self.identity)
        if self.expanded is None:
            self.expanded = self.setting.workspace.given_away(kernel.expand(self.rows, self.identity))
        return self.expanded


def _feature_blocks(problem: Problem, n_rows: int) -> list[slice]:
    """Return the rows of which features are written at a time."""
    size = max(_MIN_SAMPLE, _FEATURE_BYTES // (8 * problem.width))
    return [slice(at, at + size) for at in range(0, n_rows, size)]


def best_first(bounds: list[float]) -> list[int]:
    """Return the starts in falling order of their bounds; of those that only rounding tells apart the first is first.

    Examples
    --------
    >>> best_first([1.0, 2.0, 3.0, 2.0 + 1e-15])
    [2, 1, 3, 0]
    """
    ranks: list[int] = tied_ranks(torch.tensor(bounds, dtype=torch.float64)).tolist()
    return sorted(range(len(bounds)), key=ranks.__getitem__, reverse=True)


def _draw_rows(cumulative: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return rows drawn in proportion to their weights, along the order that belongs to the data."""
    uniform = torch.rand(shape, generator=generator, dtype=cumulative.dtype).to(cumulative.device)
    index = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return index.clamp_(max=len(cumulative) - 1)
