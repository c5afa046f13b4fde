"""Where a fit begins: several short fits from different starts on some of the rows, the best continued.

Everything here happens in coordinates that belong to the data (whitened, or standardised, or as they are,
as the family's own geometry asks), and every random choice is made along an order that belongs to the
data: neither the units of the columns, nor the order of the rows, nor whether a row is repeated or
weighted, changes a start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixcoder.components.base import Params, PassSetting
from mixcoder.encoders import Encoder
from mixcoder.fitting.em import Problem
from mixcoder.fitting.plane_seeding import affordable, plane_labels
from mixcoder.fitting.seeding import (
    assign_batch,
    own_order,
    plus_plus_batch,
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

# Lloyd steps of a start from centres. Few centres keep the starts different, and EM does the rest; of many, some
# are always misplaced at first, which EM repairs slowly.
_LLOYD_STEPS = 2
_MANY_CENTRES = 16
_MANY_LLOYD_STEPS = 8

# EM steps of every start, then of the best third.
_FIRST_STEPS = 5
_SECOND_STEPS = 10

# EM steps after which two starts that agree are believed.
_SURE_STEPS = 3

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
    views : tuple of Tensor, shapes (m, e)
        The rows in the coordinates in which distances are taken, the family's own geometry first.
    """

    rows: Tensor
    weights: Tensor
    views: tuple[Tensor, ...]

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
    order = own_order(whitening(problem.family.seeding_view(rows), weights, "units"))
    rows, weights = _merged(rows[order], weights[order])
    points = problem.family.seeding_view(rows)
    view = whitening(points, weights, geometry)
    order = tied_order(view.square().sum(1))
    # Whitening hides clusters that a few directions tell apart well: no single geometry wins everywhere.
    others = ("units",) if geometry == "affine" and points.shape[1] > 1 else ()
    views = (view, *(whitening(points, weights, other) for other in others))
    return Sample(rows[order], weights[order], tuple(v[order] for v in views))


def _merged(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted rows without repetitions, and their summed weights."""
    fresh = torch.nn.functional.pad((rows[1:] != rows[:-1]).any(1), (1, 0), value=True)
    if bool(fresh.all()):
        return rows, weights
    group = fresh.cumsum(0) - 1
    return rows[fresh], weights.new_zeros(int(group[-1]) + 1).index_add_(0, group, weights)


def hard_start(view: Tensor, weights: Tensor, centres: Tensor, n_steps: int) -> Tensor:
    """Return labels of R sets of centres after a few Lloyd steps, shape (r, m).

    Parameters
    ----------
    view : Tensor, shape (m, e)
    weights : Tensor, shape (m,)
    centres : Tensor, shape (r, k, e)
    """
    n_starts, n_components, _ = centres.shape
    labels = assign_batch(view, centres)
    for _ in range(n_steps):
        # One list of r * k centres: a component of start r is the (r k + k')-th.
        offsets = torch.arange(n_starts, device=view.device)[:, None] * n_components
        flat = (labels + offsets).reshape(-1)
        weighted = view * weights[:, None]
        sums = view.new_zeros(n_starts * n_components, view.shape[1])
        sums.index_add_(0, flat, weighted.repeat(n_starts, 1))
        counts = view.new_zeros(n_starts * n_components).index_add_(0, flat, weights.repeat(n_starts))
        moved = sums / counts.clamp_min(1e-300)[:, None]
        kept = (counts > 0).view(n_starts, n_components, 1)
        centres = torch.where(kept, moved.view_as(centres), centres)
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
    codes = view.new_zeros(len(view), n_starts, k)
    n_centres = kinds.count("centres")
    centre_labels: list[Tensor] = []
    n_steps = _LLOYD_STEPS if k < _MANY_CENTRES else _MANY_LLOYD_STEPS
    for place, seen in enumerate(sample.views):
        share = len(range(place, n_centres, len(sample.views)))
        if share:
            centres = plus_plus_batch(seen, weights, k, share, generator)
            centre_labels.extend(hard_start(seen, weights, centres, n_steps))
    cumulative = weights.cumsum(0)
    for start, kind in enumerate(kinds):
        if kind == "centres":
            labels = centre_labels.pop(0)
            codes[:, start].scatter_(1, labels[:, None], 1.0)
        elif kind == "planes":
            assert rank is not None
            labels = plane_labels(view, weights, k, rank, generator)
            codes[:, start].scatter_(1, labels[:, None], 1.0)
        elif kind == "slabs":
            pair = _draw_rows(cumulative, (2,), generator)
            along = view @ (view[pair[0]] - view[pair[1]])
            order = tied_order(along)
            share = weights[order].cumsum(0) - 0.5 * weights[order]
            slab = (share * (k / float(weights.sum())) + 1e-9).long().clamp_(0, k - 1)
            codes[:, start].scatter_(1, torch.empty_like(slab).index_copy_(0, order, slab)[:, None], 1.0)
        else:
            seeds = view[_draw_rows(cumulative, (k,), generator)]
            # -|x - c|^2 / 2 without |x|^2, which no code sees.
            codes[:, start] = softargmax_(torch.addmm(-0.5 * seeds.square().sum(1), view, seeds.T))[0]
    # Smoothed a little towards even shares, no component starts without any say in a row.
    return codes.mul_(0.98).add_(0.02 / k)


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
    params, log_weights = _first_step(problem, sample, codes)
    if n_starts == 1:
        return params, log_weights[0]
    race = _Race(problem, sample, encoder)
    for n_steps, n_kept in ((_FIRST_STEPS, max(1, n_starts // 3)), (_SECOND_STEPS, 1)):
        params, log_weights, bounds = race.run(params, log_weights, n_steps)
        order = torch.argsort(tied_ranks(bounds), descending=True, stable=True)
        kept = order[: 1 if race.agreed(bounds) else n_kept]
        columns = kept[:, None] * n_components + torch.arange(n_components, device=kept.device)
        params, log_weights = params.take(columns.flatten()), log_weights[kept]
        if len(kept) == 1:
            break
    return params, log_weights[0]


class _Race:
    """EM steps of several starts at once, on the sample.

    The features of the sample are written once; a step is then two products, whatever the family.
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
        self.expanded: Tensor | None = None

    def run(self, params: Params, log_weights: Tensor, n_steps: int) -> tuple[Params, Tensor, Tensor]:
        """Return parameters, log-weights, and bounds before the last step, after some steps."""
        bounds = log_weights.new_zeros(log_weights.shape[0])
        for n_done in range(1, n_steps + 1):
            params, log_weights, bounds = self.step(params, log_weights)
            if n_done >= _SURE_STEPS and self.agreed(bounds):
                break
        return params, log_weights, bounds

    def agreed(self, bounds: Tensor) -> bool:
        """Return whether the two best starts, of different kinds, have most likely found one best place."""
        if len(bounds) < 2:
            return True
        best, second = bounds.topk(2).values.tolist()
        return best - second < _AGREEMENT * self.total

    def step(self, params: Params, log_weights: Tensor) -> tuple[Params, Tensor, Tensor]:
        """Return parameters, log-weights, shape (r, k), and bounds before the step, shape (r,)."""
        n_starts, k = log_weights.shape
        kernel = self.problem.family.kernel(params, log_weights.flatten(), self.setting)
        if self.expanded is None:
            self.expanded = kernel.expand(self.rows, self.identity).clone()
        log_joint = kernel.log_joint(self.expanded)  # (m, r k)
        by_start = log_joint.unflatten(1, (n_starts, k)).transpose(0, 1)  # (r, m, k), the same memory
        code, bound = self.encoder.encode_with_bound_(by_start)
        bounds = bound.sum(1) if self.row_weights is None else bound @ self.weights
        offset = kernel.offset(self.pooled)
        if offset is not None:
            bounds = bounds + offset
        if isinstance(code, Tensor):
            flat = log_joint
        else:
            flat = code.dense(log_joint.dtype).transpose(0, 1).flatten(1)
        statistics = kernel.statistics(self.expanded, flat, self.row_weights)
        if self.pooled is not None:
            statistics = replace(statistics, pooled=self.pooled.expand(n_starts, -1))  # type: ignore[call-arg]
        log_prior = self.problem.family.log_prior(params, statistics)
        if log_prior is not None:
            bounds = bounds + log_prior.view(n_starts, k).sum(1)
        return *_maximize(self.problem, statistics, self.pooled, n_starts, log_weights), bounds


def _first_step(problem: Problem, sample: Sample, codes: Tensor) -> tuple[Params, Tensor]:
    """Return the first parameters of every start from its code, shape (m, r, k)."""
    _, n_starts, k = codes.shape
    statistics = problem.family.statistics(None, sample.rows, codes.flatten(1), sample.weights)
    pooled = getattr(statistics, "pooled", None)
    equal = codes.new_full((n_starts, k), -math.log(k))
    return _maximize(problem, statistics, pooled, n_starts, equal)


def _maximize(
    problem: Problem, statistics: Statistics, pooled: Tensor | None, n_starts: int, log_weights: Tensor
) -> tuple[Params, Tensor]:
    """Return parameters of all starts and log-weights per start, shape (r, k)."""
    if pooled is not None:
        shared = pooled.expand(n_starts, -1)
        statistics = replace(statistics, pooled=shared)  # type: ignore[call-arg]
    if not problem.fixed_weights:
        counts: Tensor = statistics.counts.view(n_starts, -1)  # type: ignore[attr-defined]
        log_weights = (counts / counts.sum(1, keepdim=True)).log()
    return problem.parameters(statistics), log_weights


def _draw_rows(cumulative: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return rows drawn in proportion to their weights, along the order that belongs to the data."""
    uniform = torch.rand(shape, generator=generator, dtype=cumulative.dtype).to(cumulative.device)
    index = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return index.clamp_(max=len(cumulative) - 1)
