"""Lloyd's pass that remembers: rows whose nearest centre cannot have changed are not looked at again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mixcoder.components.base import Kernel, Params, PassSetting
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.encoders import Encoder
from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.engines import LocalEngine, current_engine
from mixcoder.fitting.em import Problem, Totals
from mixcoder.fitting.seeding import plus_plus_batch
from mixcoder.fitting.start import hard_start
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.ops.products import biased_product
from mixcoder.ops.threads import map_in_order, single_threaded_kernels
from mixcoder.sources import Source, TensorSource
from mixcoder.statistics import Moments

# Neighbouring centres share one lower bound: smaller groups make sharper bounds, and more of them to keep.
_GROUP = 10
_MAX_GROUPS = 10

# With fewer features than this a row's distances are cheaper than several bounds.
_GROUPED_FEATURES = 64

# Rows whose bounds are moved at a time: few large operations.
_BOUND_ROWS = 1 << 16

# Scores computed at a time stay in a core's cache, and the rows they are of in the one that cores share: those that
# are gathered are read again. Rows of which there are at least so many are shared out.
_SCORE_BYTES = 2 << 20
_ROW_BYTES = 8 << 20
_SHARED_ROWS = 512

# Pieces of work that a pass is cut into, whatever the number of threads.
_MAX_JOBS = 8

# Bytes of rows that are widened to float64 at a time.
_WIDE_BYTES = 1 << 19

# Rounding of a squared distance, in units of the squares it is the difference of, that bounds allow for.
_ROUNDING = 16.0


@dataclass
class _Memory:
    """What the last pass knew of every row.

    Parameters
    ----------
    centres : Tensor, shape (k, d)
        That the bounds belong to.
    labels : Tensor, shape (n,), int32
        -1 for a row not seen yet.
    upper : Tensor, shape (n,)
        No less than the distance to the row's centre.
    lower : Tensor, shape (g, n)
        No more than the distance to any other centre of each group.
    squares : Tensor, shape (n,)
        |z|^2, the same in every pass.
    moments : Moments
        Sums of the rows of each centre.
    order : Tensor, shape (k,)
        The centres, group after group.
    sizes : list of int
        Of the groups.
    """

    centres: Tensor
    labels: Tensor
    upper: Tensor
    lower: Tensor
    squares: Tensor
    moments: Moments
    order: Tensor
    sizes: list[int]


@dataclass
class _Notebook:
    memory: _Memory | None = None


@dataclass(frozen=True)
class LloydProblem(Problem):
    r"""The problem of k-means, whose passes cost what has changed since the one before.

    The family has one fixed variance of one working unit, the weights of the components are equal. A row at
    most u away from its centre and at least l from every other keeps its label while u < l, where a pass adds to
    u how far the row's centre has moved and takes from l the farthest move of the others. The rows that are left
    get exact distances, and those that change their label move from one sum to another:

    .. math:: S_k \leftarrow S_k + \sum_{n \to k} w_n z_n - \sum_{n \leftarrow k} w_n z_n

    The bound follows from the sums. Labels are those of Lloyd's algorithm, up to ties within rounding.

    References
    ----------
    Hamerly (2010), "Making k-means even faster"; Ding et al. (2015), "Yinyang k-means", section 3, for the groups.
    """

    notebook: _Notebook = field(default_factory=_Notebook, init=False, repr=False, compare=False)

    def _pass(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Totals:
        del encoder  # the one that takes the nearest centre
        assert isinstance(params, GaussianTiedSphericalParams)
        source, centres, k = self.source, params.means, params.n_components
        memory = self.notebook.memory
        if memory is None or memory.centres.shape != centres.shape:
            memory = self._blank(centres)
        # While a pass runs its notes are neither old nor new: an interrupted one leaves none.
        self.notebook.memory = None
        moves = (centres - memory.centres).square().sum(1).sqrt().to(memory.upper.dtype)
        farthest = torch.stack([part.amax() for part in moves[memory.order].split(memory.sizes)])[:, None]
        # Group after group, so that the scores of a group stand side by side.
        nearness = _Nearness.of(self, params.take(memory.order), log_weights)
        engine = current_engine()
        with single_threaded_kernels() as allowed:
            chosen = engine.n_threads if isinstance(engine, LocalEngine) else None
            workers = (chosen or allowed) if source.device.type == "cpu" else 1
            active = self._doubtful(memory, moves, farthest, workers)
            visit = _Visit(self, memory, nearness, len(active) == source.n_rows)
            sums = memory.moments
            for changes in map_in_order(visit, _jobs(active, k, source), workers):
                sums = sums if changes is None else sums + changes
        self.notebook.memory = replace(memory, centres=centres, moments=sums)
        # sum_n w_n (c + z_n a_n - |a_n|^2 / 2 - |z_n|^2 / 2), a_n the centre of the row's label
        assert self.pooled is not None
        products = (centres * sums.sums).sum() - 0.5 * (sums.counts * centres.square().sum(1)).sum()
        weight = centres.new_tensor(self.total_weight)
        constant = float(log_weights[0]) - 0.5 * source.n_features * LOG_2PI
        bound = products - 0.5 * self.pooled[0, 0] + weight * (constant + self.frame.log_scale)
        return Totals(self.with_pooled_sums(sums), bound, weight)

    def _doubtful(self, memory: _Memory, moves: Tensor, farthest: Tensor, workers: int) -> Tensor:
        """Return the rows whose nearest centre may have changed, all bounds moved along with the centres."""
        n = self.source.n_rows
        if math.isinf(float(memory.upper[0])):
            return torch.arange(n, device=moves.device)

        def move(start: int) -> Tensor:
            part = slice(start, min(start + _BOUND_ROWS, n))
            labels, upper, lower = memory.labels[part], memory.upper[part], memory.lower[:, part]
            # Rounded outwards, so that bounds stay bounds however many moves they add up.
            upper.add_(moves.index_select(0, labels)).mul_(1 + _eps(upper))
            lower.sub_(farthest).mul_(1 - _eps(lower))
            return torch.nonzero(upper >= lower.amin(0))[:, 0].add_(start)

        return torch.cat(list(map_in_order(move, range(0, n, _BOUND_ROWS), workers)))

    def _blank(self, centres: Tensor) -> _Memory:
        """Return the memory of a pass that has seen nothing."""
        n, k, d = self.source.n_rows, centres.shape[0], centres.shape[1]
        order, sizes = _neighbours(centres, min(k // _GROUP, _MAX_GROUPS) if d >= _GROUPED_FEATURES else 1)
        dtype = self.source.dtype
        return _Memory(
            centres,
            torch.full((n,), -1, dtype=torch.int32, device=centres.device),
            centres.new_full((n,), math.inf, dtype=dtype),
            centres.new_zeros(len(sizes), n, dtype=dtype),
            centres.new_empty(n, dtype=dtype),
            Moments(centres.new_zeros(k), centres.new_zeros(k, d)),
            order,
            sizes,
        )


def _neighbours(centres: Tensor, n_groups: int) -> tuple[Tensor, list[int]]:
    """Return the centres in groups of neighbours, one after another, and the sizes of the groups.

    Where few centres move far, only the bounds of their groups suffer.
    """
    if n_groups <= 1:
        return torch.arange(centres.shape[0], device=centres.device), [centres.shape[0]]
    equal = centres.new_ones(centres.shape[0])
    seeds = plus_plus_batch(centres, equal, n_groups, 1, torch.Generator().manual_seed(0))
    group = hard_start(centres, equal, seeds, 3)[0]
    sizes: list[int] = torch.unique(group, return_counts=True)[1].tolist()
    return torch.argsort(group, stable=True), sizes


def _jobs(active: Tensor, k: int, source: Source) -> list[Sequence[Tensor]]:
    """Return rows to look at in pieces, and the pieces in jobs, cut by their number alone."""
    n = len(active)
    if n == 0:
        return []
    size = source.dtype.itemsize
    most = max(_SHARED_ROWS, min(_SCORE_BYTES // (k * size), _ROW_BYTES // (source.n_features * size)))
    n_pieces = max(-(-n // most), min(2, n // _SHARED_ROWS), 1)
    pieces = active.split(-(-n // n_pieces))
    size = -(-len(pieces) // _MAX_JOBS)
    return [pieces[at : at + size] for at in range(0, len(pieces), size)]


@dataclass(frozen=True)
class _Nearness:
    r"""How near rows are to each centre: :math:`|z - a_k|^2 = \ell - 2 s_k`.

    Where rounding allows, the scores s come from the rows as they are, one product and no copy:

    .. math:: s_k = x \cdot \varphi a_k - \varphi\, t \cdot a_k - \tfrac12 |a_k|^2, \qquad \ell = |z|^2,

    with :math:`z = \varphi (x - t)` the working coordinates. Elsewhere they are the family's own.

    Parameters
    ----------
    weights, bias : Tensor, shape (k, d) and (k,), optional
        Of the product, in the dtype of the rows.
    kernel : Kernel, optional
        The family's pass.
    constant : float
        What it adds to every score.
    size : float
        Of the squares that scores are the difference of.
    """

    weights: Tensor | None
    bias: Tensor | None
    kernel: Kernel[GaussianTiedSphericalParams, Moments] | None
    constant: float
    size: float

    @classmethod
    def of(cls, problem: LloydProblem, params: GaussianTiedSphericalParams, log_weights: Tensor) -> _Nearness:
        """Return the cheapest way that keeps within the tolerance of a fit."""
        centres, frame, dtype = params.means, problem.frame, problem.source.dtype
        tolerance = problem.tolerance[dtype]
        half_squares = 0.5 * centres.square().sum(1)
        weights = centres * frame.scale
        bias = -(weights @ frame.shift) - half_squares
        typical = problem.magnitude / frame.scale + frame.shift.abs()
        size = float((weights.abs() @ typical + bias.abs()).amax())
        kind, scale = torch.finfo(dtype), float(frame.scale[0])
        # Of very large or small units the weights would be subnormal, or their products overflow.
        if size * kind.eps <= tolerance and kind.tiny**0.25 < scale < kind.tiny**-0.25:
            return cls(weights.to(dtype), bias.to(dtype), None, 0.0, 2.0 * size)
        setting = PassSetting(dtype, problem.workspace, problem.magnitude, tolerance, column_major=False)
        kernel = problem.family.kernel(params, log_weights, setting)
        constant = float(log_weights[0]) - 0.5 * centres.shape[1] * LOG_2PI
        return cls(None, None, kernel, constant, 2.0 * float(half_squares.amax()))

    def scores(self, x: Tensor, frame: Frame, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Return s, shape (n, k), in the order of the centres given, and l, shape (n,)."""
        if self.kernel is None:
            assert self.weights is not None
            assert self.bias is not None
            return biased_product(x, self.weights.T, self.bias), squares
        rows = self.kernel.expand(x, frame)
        scores = self.kernel.log_joint(rows)
        level = squares.to(scores.dtype).add(2.0 * self.constant)
        if self.kernel.row_offset(rows) is None:  # the scores hold -|z|^2 / 2 already
            level = torch.full_like(level, 2.0 * self.constant)
        return scores, level


@dataclass(frozen=True)
class _Visit:
    """One pass's work on the rows that it has to look at."""

    problem: LloydProblem
    memory: _Memory
    nearness: _Nearness
    everyone: bool

    def __call__(self, pieces: Sequence[Tensor]) -> Moments | None:
        """Return how the rows change the sums, if they do, their notes brought up to date."""
        total: Moments | None = None
        for active in pieces:
            total = self._look(active, total)
        return total

    def _look(self, active: Tensor, total: Moments | None) -> Moments | None:
        """Give active rows their labels and exact bounds; return the changes with those of rows that change theirs."""
        memory, source = self.memory, self.problem.source
        assert isinstance(source, TensorSource)
        place: slice | Tensor = active
        if self.everyone:
            place = slice(int(active[0]), int(active[-1]) + 1)
            x = source.x[place]
            if int(memory.labels[place.start]) < 0:
                self._measure(x, memory.squares[place])
        else:
            x = self.problem.workspace.take(
                "gathered", len(active), source.n_features, source.dtype, source.device
            )
            torch.index_select(source.x, 0, active, out=x)
        labels = memory.labels[place]
        scores, level = self.nearness.scores(x, self.problem.frame, memory.squares[place])
        best = rowwise_argmax(scores)
        self._note(place, scores, level, best)
        fresh = memory.order[best]
        changed = torch.nonzero(labels != fresh)[:, 0]
        if len(changed) == 0:
            return total
        total = _nothing(memory.centres) if total is None else total
        for some in changed.split(max(1, _WIDE_BYTES // (8 * source.n_features))):
            moved, before, after = active[some], labels[some].long(), fresh[some]
            gone = self.problem.frame.apply(x[some].to(torch.float64))
            weights = None if source.weights is None else source.weights[moved].to(torch.float64)
            _move(gone, weights, before, after, total)
        memory.labels[place] = fresh.to(memory.labels.dtype)
        return total

    def _measure(self, x: Tensor, squares: Tensor) -> None:
        """Write |z|^2 of rows seen for the first time."""
        size = max(1, _WIDE_BYTES // (8 * x.shape[1]))
        for rows, out in zip(x.split(size), squares.split(size), strict=True):
            out.copy_(self.problem.frame.apply(rows.to(torch.float64)).square_().sum(1))

    def _note(self, place: slice | Tensor, scores: Tensor, level: Tensor, best: Tensor) -> None:
        """Write exact bounds of the active rows; ``scores`` is overwritten."""
        memory = self.memory
        slack = _ROUNDING * _eps(scores) * (level.abs() + self.nearness.size)
        highest = scores.gather(1, best[:, None])[:, 0]
        upper = (level + slack).sub_(highest, alpha=2.0).clamp_min_(0).sqrt_().to(memory.upper.dtype)
        scores.scatter_(1, best[:, None], -math.inf)
        nearest = torch.stack([part.amax(1) for part in scores.split(memory.sizes, 1)])
        lower = (level - slack).sub(nearest, alpha=2.0).clamp_min_(0).sqrt_().to(memory.lower.dtype)
        memory.upper[place], memory.lower[:, place] = upper, lower


def _move(rows: Tensor, weights: Tensor | None, before: Tensor, after: Tensor, total: Moments) -> None:
    """Take rows from the sums of one label and bring them to those of another; ``rows`` is overwritten."""
    unit = rows.new_ones(len(rows)) if weights is None else weights
    if weights is not None:
        rows *= unit[:, None]
    total.counts.index_add_(0, after, unit)
    total.sums.index_add_(0, after, rows)
    if int(before.amin()) < 0:  # the first pass: nobody loses them
        seen = before >= 0
        rows, unit, before = rows[seen], unit[seen], before[seen]
    total.counts.index_add_(0, before, unit, alpha=-1)
    total.sums.index_add_(0, before, rows, alpha=-1)


def _nothing(centres: Tensor) -> Moments:
    return Moments(centres.new_zeros(centres.shape[0]), torch.zeros_like(centres))


def _eps(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps
