"""Lloyd's pass that remembers: rows whose nearest centre cannot have changed are not looked at again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mixcoder.autoencoder import block_rows
from mixcoder.components.base import Kernel, Params, PassSetting
from mixcoder.components.gaussian_tied_spherical import GaussianTiedSphericalParams
from mixcoder.encoders import Encoder
from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.fitting.em import FIT_TOLERANCE, Problem, Totals
from mixcoder.fitting.seeding import plus_plus_batch
from mixcoder.fitting.start import hard_start
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sources import Block
from mixcoder.statistics import Moments

# Neighbouring centres share one lower bound: smaller groups make sharper bounds, and more of them to keep.
_GROUP = 10
_MAX_GROUPS = 10

# With fewer features than this a row's distances are cheaper than several bounds.
_GROUPED_FEATURES = 64

# Rows whose bounds are moved at a time, and blocks that even a short source is cut into: few large operations on
# bounds, many blocks for the threads.
_BOUND_ROWS = 1 << 16
_MIN_BLOCKS = 8

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
    offsets : Tensor, shape (n,)
        What the row itself adds to its log-density, -|z|^2 / 2: the same in every pass.
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
    offsets: Tensor
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
        setting = PassSetting(
            source.dtype, self.workspace, self.magnitude, FIT_TOLERANCE[source.dtype], column_major=False
        )
        kernel = self.family.kernel(params, log_weights, setting)
        moves = (centres - memory.centres).square().sum(1).sqrt().to(memory.upper.dtype)
        farthest = torch.stack([part.amax() for part in moves[memory.order].split(memory.sizes)])[:, None]
        constant = float(log_weights[0]) - 0.5 * source.n_features * LOG_2PI
        chunk = block_rows(k, self.width, torch.finfo(source.dtype).bits // 8)
        visit = _Visit(self, memory, kernel, moves, farthest, constant, centres, chunk)
        changes = source.map_reduce(
            visit, max(visit.chunk, min(_BOUND_ROWS, -(-source.n_rows // _MIN_BLOCKS)))
        )
        sums = memory.moments + changes
        self.notebook.memory = replace(memory, centres=centres, moments=sums)
        # sum_n w_n (c + z_n a_n - |a_n|^2 / 2 - |z_n|^2 / 2), a_n the centre of the row's label
        assert self.pooled is not None
        products = (centres * sums.sums).sum() - 0.5 * (sums.counts * centres.square().sum(1)).sum()
        weight = centres.new_tensor(self.total_weight)
        bound = products - 0.5 * self.pooled[0, 0] + weight * (constant + self.frame.log_scale)
        return Totals(self.with_pooled_sums(sums), bound, weight)

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
            centres.new_zeros(n, dtype=dtype),
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


@dataclass(frozen=True)
class _Visit:
    """One pass's work on a block of rows."""

    problem: LloydProblem
    memory: _Memory
    kernel: Kernel[GaussianTiedSphericalParams, Moments]
    moves: Tensor
    farthest: Tensor
    constant: float
    centres: Tensor
    chunk: int

    def __call__(self, block: Block) -> Moments:
        """Return what the block adds to the sums, its notes brought up to date."""
        memory, part = self.memory, slice(block.start, block.stop)
        labels, upper, lower = memory.labels[part], memory.upper[part], memory.lower[:, part]
        seen = math.isfinite(float(upper[0]))
        if seen:
            # Rounded outwards, so that bounds stay bounds however many moves they add up.
            upper.add_(self.moves.index_select(0, labels)).mul_(1 + _eps(upper))
            lower.sub_(self.farthest).mul_(1 - _eps(lower))
        total = _nothing(self.centres)
        for active in torch.nonzero(upper >= lower.amin(0))[:, 0].split(self.chunk):
            if len(active):
                self._look(block, active, seen, total)
        return total

    def _look(self, block: Block, active: Tensor, seen: bool, total: Moments) -> None:
        """Give active rows their labels and exact bounds, and move those that change from sum to sum."""
        memory, part = self.memory, slice(block.start, block.stop)
        labels, upper, lower = memory.labels[part], memory.upper[part], memory.lower[:, part]
        offsets = memory.offsets[part]
        first, last = int(active[0]), int(active[-1])
        if last - first + 1 == len(active):
            x = block.x[first : last + 1]
        else:
            shape = len(active), block.x.shape[1]
            x = self.problem.workspace.take("gathered", *shape, block.x.dtype, block.x.device)
            torch.index_select(block.x, 0, active, out=x)
        rows = self.kernel.expand(x, self.problem.frame)
        scores = self.kernel.log_joint(rows)
        fresh = rowwise_argmax(scores)
        if seen:
            offset = offsets[active]
        else:
            own = self.kernel.row_offset(rows)
            offset = scores.new_zeros(len(active)) if own is None else own
            offsets[active] = offset.to(offsets.dtype)
        self._note(active, scores, offset, fresh, upper, lower)
        before = labels[active]
        changed = torch.nonzero(before != fresh)[:, 0]
        if len(changed) == 0:
            return
        before, after, moved = before[changed].long(), fresh[changed], active[changed]
        labels[moved] = after.to(labels.dtype)
        weights = None if block.weights is None else block.weights[moved].to(torch.float64)
        gone = self.problem.frame.apply(x[changed].to(torch.float64))
        _move(gone, weights, before, after, total)

    def _note(
        self,
        active: Tensor,
        scores: Tensor,
        offset: Tensor,
        fresh: Tensor,
        upper: Tensor,
        lower: Tensor,
    ) -> None:
        """Write exact bounds of the active rows; ``scores`` is overwritten."""
        # |z - a|^2 = -2 (log p(z, k) - c), the row's own square being in the offset.
        level = -2.0 * (offset - self.constant)
        slack = _ROUNDING * _eps(scores) * (level.abs() + float(self.centres.square().sum(1).amax()))
        best = scores.gather(1, fresh[:, None])[:, 0]
        upper[active] = (level - 2.0 * best + slack).clamp_min_(0).sqrt_().to(upper.dtype)
        scores.scatter_(1, fresh[:, None], -math.inf)
        sizes = self.memory.sizes
        parts = (scores,) if len(sizes) == 1 else scores.index_select(1, self.memory.order).split(sizes, 1)
        nearest = torch.stack([part.amax(1) for part in parts])
        lower[:, active] = (level - slack - 2.0 * nearest).clamp_min_(0).sqrt_().to(lower.dtype)


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
