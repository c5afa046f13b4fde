"""Components that lose their rows are given new ones: those that the mixture explains worst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.components.base import Params
from mixcoder.encoders import Encoder
from mixcoder.fitting.em import Problem, Totals
from mixcoder.sources import Block
from mixcoder.statistics import Statistics

# Fewer effective rows than this is no component: its parameters are rounding.
_EMPTY_ROWS = 1e-3


def empty_components(problem: Problem, totals: Totals) -> list[int]:
    """Return the components with (next to) no rows, where that is a fault."""
    if not problem.refills:
        return []
    counts: Tensor = totals.statistics.counts  # type: ignore[attr-defined]
    if float(counts.amin()) >= _EMPTY_ROWS:
        return []
    return torch.nonzero(counts < _EMPTY_ROWS)[:, 0].tolist()


@dataclass(frozen=True)
class _Worst:
    """The rows with the lowest bounds, lowest first; ties by index."""

    values: Tensor
    index: Tensor

    def __add__(self, other: _Worst) -> _Worst:
        values, index = torch.cat([self.values, other.values]), torch.cat([self.index, other.index])
        keep = torch.argsort(values, stable=True)[: max(len(self.values), len(other.values))]
        return _Worst(values[keep], index[keep])


def refill(
    problem: Problem,
    params: Params,
    log_weights: Tensor,
    encoder: Encoder,
    totals: Totals,
    lost: list[int],
) -> tuple[Statistics, list[int]]:
    """Return the sums after lost components took rows over, and which components found some.

    A component takes over a small group of badly explained rows, so that it has a shape; where it needs none
    and the code is hard, the row farthest from its prototype, as in k-means.
    """
    if not lost:
        return totals.statistics, []
    hard = isinstance(encoder.encode(torch.zeros(1, 1, dtype=torch.float64)), HardCode)
    n_components = params.n_components
    shapeless = hard and problem.family.collapsed(params, problem.variances) is None
    group = 1 if shapeless else max(1, min(1000, problem.source.n_rows // (10 * n_components)))
    worst = _worst_rows(problem, params, log_weights, encoder, group * len(lost))
    # A row that its own component explains as well as any row can be has nothing to give.
    rows = problem.rows(worst.index)
    weights = problem.weights(worst.index)
    log_joint = problem.log_likelihood(params, rows) + log_weights
    old_code = encoder.encode(log_joint)
    statistics, filled = totals.statistics, []
    centres = torch.where(rows.isnan(), rows, problem.family.decode(params, old_code))
    best = problem.log_likelihood(params, centres)
    reachable = best.amax(1) - problem.log_likelihood(params, rows).amax(1)
    whole = problem.filled(params, rows, old_code)
    for place, k in enumerate(lost):
        chosen = torch.arange(place, len(worst.index), len(lost), device=rows.device)
        if len(chosen) == 0 or bool((reachable[chosen] <= 1e-12).all()):
            continue
        chosen_weights = None if weights is None else weights[chosen]
        index = torch.full((len(chosen),), k, device=rows.device)
        given = problem.statistics(params, whole[chosen], HardCode(index, n_components), chosen_weights)
        code = (
            HardCode(old_code.index[chosen], n_components)
            if isinstance(old_code, HardCode)
            else old_code[chosen]
        )
        taken = problem.statistics(params, rows[chosen], code, chosen_weights)
        statistics = statistics + _unpooled(given, statistics) + _unpooled(taken, statistics).scaled(-1.0)
        filled.append(k)
    return problem.with_pooled_sums(statistics), filled


def _unpooled(part: Statistics, like: Statistics) -> Statistics:
    """Return sums of some rows that can be added to those of all rows."""
    pooled = getattr(like, "pooled", None)
    if hasattr(part, "pooled"):
        part = replace(part, pooled=None if pooled is None else torch.zeros_like(pooled))  # type: ignore[call-arg]
    return part


def _worst_rows(
    problem: Problem, params: Params, log_weights: Tensor, encoder: Encoder, n_rows: int
) -> _Worst:
    """Return the rows with the lowest bound."""
    return problem.source.map_reduce(_Look(problem.row_bounds(params, log_weights, encoder), n_rows), 4096)


@dataclass(frozen=True)
class _Look:
    """The worst rows of a block."""

    bounds: Callable[[Block], Tensor]
    n_rows: int

    def __call__(self, block: Block) -> _Worst:
        bound = self.bounds(block)
        if block.weights is not None:
            bound = torch.where(block.weights > 0, bound, torch.inf)
        lowest, index = torch.topk(bound, min(self.n_rows, len(bound)), largest=False)
        order = torch.argsort(lowest, stable=True)
        return _Worst(lowest[order], index[order] + block.start)
