"""Where a fit begins: several short fits from different starts on some of the rows, the best continued.

Everything here happens in coordinates that belong to the data (whitened, or standardised, or as they are,
as the family's own geometry asks), and every random choice is made along an order that belongs to the
data: neither the units of the columns, nor the order of the rows, nor whether a row is repeated or
weighted, changes a start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.components.base import Params
from mixcoder.encoders import Encoder
from mixcoder.fitting.em import Problem
from mixcoder.fitting.seeding import assign_batch, plus_plus_batch, whitening
from mixcoder.ops.simplex import softargmax_

# Rows per centre in the sample that seeds a fit: at 20-50 the final fit is as good as from all rows.
_ROWS_PER_CENTRE = 50
_MIN_SAMPLE = 2000
_MAX_SAMPLE = 50_000


@dataclass(frozen=True)
class Sample:
    """Rows to start on, in an order that belongs to the data.

    Parameters
    ----------
    index : Tensor, shape (m,)
        Rows of the source.
    rows : Tensor, shape (m, d)
        In working coordinates, float64.
    weights : Tensor, shape (m,)
        Row weights, summing to the number of rows drawn.
    view : Tensor, shape (m, e)
        The rows in the coordinates in which distances are taken.
    """

    index: Tensor
    rows: Tensor
    weights: Tensor
    view: Tensor


def draw_sample(problem: Problem, n_components: int, geometry: str, generator: torch.Generator) -> Sample:
    """Return the rows to start on: all of a small source, random ones of a large one."""
    source = problem.source
    size = min(_MAX_SAMPLE, max(_MIN_SAMPLE, _ROWS_PER_CENTRE * n_components))
    if source.n_rows <= 2 * size:
        index = torch.arange(source.n_rows)
    else:
        index = torch.randint(source.n_rows, (size,), generator=generator)
    rows, weights = problem.rows(index), problem.weights(index)
    weights = torch.ones(len(rows), dtype=rows.dtype) if weights is None else weights.to(rows.dtype)
    index, rows, weights = index.to(rows.device), rows, weights.to(rows.device)
    keep = weights > 0
    if not bool(keep.all()):
        index, rows, weights = index[keep], rows[keep], weights[keep]
    view = whitening(problem.family.seeding_view(rows), weights, geometry)
    order = torch.argsort(view.square().sum(1), stable=True)
    return Sample(index[order], rows[order], weights[order], view[order])


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


def candidate_codes(
    sample: Sample, n_components: int, n_starts: int, generator: torch.Generator
) -> Tensor:
    """Return first codes of several starts, deliberately different in kind, shape (m, r, k).

    In turn: greedy k-means++ and a few Lloyd steps; slabs across a random direction; soft assignment to
    random rows, all components beginning near the overall spread.
    """
    view, weights, k = sample.view, sample.weights, n_components
    kinds = [("centres", "centres", "slabs", "soft")[i % 4] for i in range(n_starts)]
    codes = view.new_zeros(len(view), n_starts, k)
    n_centres = kinds.count("centres")
    centre_labels: list[Tensor] = []
    if n_centres:
        centres = plus_plus_batch(view, weights, k, n_centres, generator)
        centre_labels = list(hard_start(view, weights, centres, 3))
    cumulative = weights.cumsum(0)
    for start, kind in enumerate(kinds):
        if kind == "centres":
            labels = centre_labels.pop(0)
            codes[:, start].scatter_(1, labels[:, None], 1.0)
        elif kind == "slabs":
            pair = _draw_rows(cumulative, (2,), generator)
            along = view @ (view[pair[0]] - view[pair[1]])
            order = torch.argsort(along, stable=True)
            share = weights[order].cumsum(0) - 0.5 * weights[order]
            slab = (share * (k / float(weights.sum()))).long().clamp_(0, k - 1)
            codes[:, start].scatter_(1, torch.empty_like(slab).index_copy_(0, order, slab)[:, None], 1.0)
        else:
            seeds = view[_draw_rows(cumulative, (k,), generator)]
            gaps = torch.cdist(view, seeds, compute_mode="use_mm_for_euclid_dist").square_()
            codes[:, start] = softargmax_(gaps.mul_(-0.5))[0]
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

    Successive halving: every start runs a little, the best third runs on, the best one is returned.
    Components of different starts do not touch, so all starts run as one long list of components.
    """
    codes = candidate_codes(sample, n_components, n_starts, generator)
    if not problem.family.independent:
        return _search_in_turn(problem, sample, codes, encoder)
    params, log_weights = _maximize_groups(problem, sample, codes, None)
    alive = n_starts
    for n_steps, n_kept in ((10, max(1, n_starts // 3)), (20, 1)):
        if alive == 1:
            break
        bounds = params_bounds = None
        for _ in range(n_steps):
            codes, params_bounds = _encode_groups(problem, sample, params, log_weights, alive, encoder)
            params, log_weights = _maximize_groups(problem, sample, codes, params)
        bounds = params_bounds
        assert bounds is not None
        kept = torch.argsort(bounds, descending=True, stable=True)[:n_kept]
        columns = (kept[:, None] * n_components + torch.arange(n_components, device=kept.device)).reshape(-1)
        params, log_weights = params.take(columns), log_weights[kept]
        alive = n_kept
    return params, log_weights[0]


def _encode_groups(
    problem: Problem, sample: Sample, params: Params, log_weights: Tensor, n_starts: int, encoder: Encoder
) -> tuple[Tensor, Tensor]:
    """Return the codes of every start, shape (m, r, k), and the bound of each, shape (r,)."""
    m = len(sample.rows)
    log_joint = _group_log_likelihood(problem, params, sample.rows).view(m, n_starts, -1) + log_weights
    k = log_joint.shape[2]
    code, bound = encoder.encode_with_bound_(log_joint.view(m * n_starts, k))
    dense = code if isinstance(code, Tensor) else code.dense(log_joint.dtype)
    return dense.view(m, n_starts, k), sample.weights @ bound.view(m, n_starts)


def _group_log_likelihood(problem: Problem, params: Params, rows: Tensor) -> Tensor:
    from mixcoder.components.exponential import ExponentialFamily

    family = problem.family
    if isinstance(family, ExponentialFamily):
        # One product for all components of all starts; common terms shift every start alike.
        return ExponentialFamily.log_likelihood(family, params, rows)
    return family.log_likelihood(params, rows)


def _maximize_groups(
    problem: Problem, sample: Sample, codes: Tensor, params: Params | None
) -> tuple[Params, Tensor]:
    """Return the parameters of all components of all starts, and log-weights per start, shape (r, k)."""
    m, n_starts, k = codes.shape
    flat: Code = codes.reshape(m, n_starts * k)
    statistics = problem.family.statistics(params, sample.rows, flat, sample.weights)
    counts: Tensor = statistics.counts.view(n_starts, k)
    if problem.fixed_weights:
        log_weights = torch.full_like(counts, -math.log(k))
    else:
        log_weights = (counts / counts.sum(1, keepdim=True)).log()
    return problem.family.maximize(statistics), log_weights


def _search_in_turn(
    problem: Problem, sample: Sample, codes: Tensor, encoder: Encoder
) -> tuple[Params, Tensor]:
    """Return the best of several starts of a family whose components share parameters."""
    runs: list[tuple[Params, Tensor]] = [
        _maximize_groups(problem, sample, codes[:, start : start + 1], None) for start in range(codes.shape[1])
    ]
    for n_steps, n_kept in ((10, max(1, len(runs) // 3)), (20, 1)):
        if len(runs) == 1:
            break
        scored: list[tuple[float, int, tuple[Params, Tensor]]] = []
        for place, (params, log_weights) in enumerate(runs):
            bound = -math.inf
            for _ in range(n_steps):
                code, bounds = _encode_groups(problem, sample, params, log_weights, 1, encoder)
                bound = float(bounds[0])
                params, log_weights = _maximize_groups(problem, sample, code, params)
            scored.append((bound, -place, (params, log_weights)))
        runs = [run for _, _, run in sorted(scored, key=lambda item: item[:2], reverse=True)[:n_kept]]
    params, log_weights = runs[0]
    return params, log_weights[0]


def _draw_rows(cumulative: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return rows drawn in proportion to their weights, along the order that belongs to the data."""
    uniform = torch.rand(shape, generator=generator, dtype=cumulative.dtype).to(cumulative.device)
    index = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return index.clamp_(max=len(cumulative) - 1)
