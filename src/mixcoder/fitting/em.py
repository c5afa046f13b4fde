"""One pass of the alternation: encode every row, add up what the M-step needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mixcoder._typing import Code
from mixcoder.autoencoder import MixtureAutoencoder, block_rows
from mixcoder.components.base import Family, Kernel, Params, PassSetting
from mixcoder.encoders import Argmax, Encoder
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import log_simplex
from mixcoder.ops.workspace import Workspace
from mixcoder.sources import Block, RowFunction, Source
from mixcoder.statistics import Statistics

FIT_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Largest error in nats that a fitting pass may make on a row of typical size, by the dtype of the rows."""

# Features up to which that is the tolerance. The log-density of more is a sum of as many terms, and may be wrong by as
# much more: it is the same share of the bound, and components are as much farther apart.
_FEATURES = 100


@dataclass(frozen=True)
class Totals(Statistics):
    """What one pass adds up: the family's sums, the bound, the weight.

    The bound travels inside the sums, so that a block that is computed twice is still counted once.
    """

    statistics: Statistics
    bound: Tensor
    weight: Tensor


# What a pass does with a block, as values that can be sent to whoever holds the rows.


@dataclass(frozen=True)
class _Pass:
    """One E-step: the sums of a block."""

    kernel: Kernel[Any, Any]
    frame: Frame
    encoder: Encoder

    def __call__(self, block: Block) -> Totals:
        rows = self.kernel.expand(block.x, self.frame)
        code, bound = self.encoder.encode_with_bound_(self.kernel.log_joint(rows))
        weights = block.weights
        if weights is None:
            total = bound.sum(dtype=torch.float64)
            weight = total.new_full((), len(bound))
        else:
            weights64 = weights.double()
            total, weight = weights64 @ bound.double(), weights64.sum()
        return Totals(self.kernel.statistics(rows, code, weights), total, weight)


@dataclass(frozen=True)
class _RowBounds:
    """The bound of each row of a block."""

    kernel: Kernel[Any, Any]
    frame: Frame
    encoder: Encoder

    def __call__(self, block: Block) -> Tensor:
        rows = self.kernel.expand(block.x, self.frame)
        bound = self.encoder.encode_with_bound_(self.kernel.log_joint(rows))[1]
        offset = self.kernel.row_offset(rows)
        return bound if offset is None else bound + offset


@dataclass(frozen=True)
class _Pooled:
    """The sums of a block that no code weighs."""

    family: Family[Any, Any]
    frame: Frame

    def __call__(self, block: Block) -> Tensor:
        result = self.family.pooled(self.frame.apply(block.x.double()), block.weights)
        assert result is not None
        return result


@dataclass(frozen=True)
class FirstSums:
    """The sums of a block whose code is given."""

    family: Family[Any, Any]
    frame: Frame
    code_of: Callable[[Block], Code]

    def __call__(self, block: Block) -> Statistics:
        """Return the sums."""
        rows = self.frame.apply(block.x.to(torch.float64))
        return self.family.statistics(None, rows, self.code_of(block), block.weights)

    def of_rows(self, start: int, stop: int) -> FirstSums:
        """Return the sums of some rows only: a code of every row is cut to them."""
        if isinstance(self.code_of, RowFunction):
            return replace(self, code_of=self.code_of.of_rows(start, stop))
        return self


def everyone(block: Block) -> Code:
    """Return the code of one component."""
    return block.x.new_ones(len(block.x), 1).double()


@dataclass(frozen=True)
class Problem:
    """Rows and how they are to be read: everything about a fit that does not change while it runs.

    Parameters
    ----------
    source : Source
    family : Family
        In working units.
    frame : Frame
    magnitude, variances : Tensor, shape (d,)
        Root mean square and variance of each feature in working coordinates.
    total_weight : float
    pooled : Tensor, optional
        The family's sums that no code weighs.
    fixed_weights : bool
        Whether the weights of the components stay as they start (k-means: all equal).
    reference : Tensor, shape (d,), optional
        Variances that floors are relative to, where a few rows far away make those of all rows misleading.
    """

    source: Source
    family: Family[Any, Any]
    frame: Frame
    magnitude: Tensor
    variances: Tensor
    total_weight: float
    pooled: Tensor | None = None
    fixed_weights: bool = False
    reference: Tensor | None = None
    workspace: Workspace = field(default_factory=Workspace, repr=False, compare=False)

    refills: ClassVar[bool] = True
    """Whether a component that lost its rows is given new ones; under a prior it rests on that."""

    tolerance: ClassVar[dict[torch.dtype, float]] = FIT_TOLERANCE
    """Largest error in nats that a pass may make on a row of typical size, by the dtype of the rows."""

    @classmethod
    def of(cls, problem: Problem, **changes: Any) -> Self:
        """Return a problem of this kind on what another knows, some of it changed, and what this kind adds."""
        known = {entry.name: getattr(problem, entry.name) for entry in fields(Problem)}
        return cls(**(known | changes))

    def with_pooled(self) -> Problem:
        """Return the problem with its pooled sums added up, one pass over the rows."""
        no_rows = self.magnitude.new_empty(0, self.source.n_features)
        if self.family.pooled(no_rows) is None:
            return self
        rows = block_rows(0, 8 * self.source.n_features, 8)  # a few copies of two megabytes
        return replace(self, pooled=self.source.map_reduce(_Pooled(self.family, self.frame), rows))

    def totals(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Totals:
        """Return the sums of one pass over all rows, and the bound at the given parameters."""
        return self._pass(params, log_weights, encoder)

    def _pass(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Totals:
        """Return what ``totals`` does; a problem that knows a shorter way has its own."""
        source, frame = self.source, self.frame
        setting = PassSetting(
            source.dtype,
            self.workspace,
            self.magnitude,
            self.tolerance[source.dtype] * max(1.0, source.n_features / _FEATURES),
            column_major=not isinstance(encoder, Argmax),
        )
        kernel = self.family.kernel(params, log_weights, setting)

        n_rows = block_rows(params.n_components, self.width, torch.finfo(source.dtype).bits // 8)
        totals = source.map_reduce(_Pass(kernel, frame, encoder), n_rows)
        offset = totals.weight * frame.log_scale
        common = kernel.offset(self.pooled)
        if common is not None:
            offset = offset + common[0]
        statistics = self.with_pooled_sums(totals.statistics)
        log_prior = self.family.log_prior(params, statistics, self.reference)
        if log_prior is not None:
            offset = offset + log_prior.sum()
        return replace(totals, bound=totals.bound + offset, statistics=statistics)

    def parameters(self, statistics: Statistics) -> Params:
        """Return parameters that maximise the bound at the given sums."""
        if self.reference is None:
            return self.family.maximize(statistics)
        return self.family.maximize(statistics, self.reference)  # type: ignore[call-arg]

    def maximize(self, statistics: Statistics, log_weights: Tensor) -> tuple[Params, Tensor]:
        """Return parameters and log-weights that maximise the bound at the given sums."""
        params = self.parameters(statistics)
        if self.fixed_weights:
            return params, log_weights
        counts: Tensor = statistics.counts  # type: ignore[attr-defined]
        return params, log_simplex(counts.clamp_min(0))

    def maximize_code(self, code_of: Callable[[Block], Code], n_components: int) -> tuple[Params, Tensor]:
        """Return the first parameters, from a code given block by block."""
        rows = block_rows(n_components, self.width, 8)
        equal = self.magnitude.new_full((n_components,), -math.log(n_components))
        first = FirstSums(self.family, self.frame, code_of)
        return self.maximize(self.source.map_reduce(first, rows), equal)

    def row_bounds(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Callable[[Block], Tensor]:
        """Return what gives the bound of each row of a block in float64, shape (n,), in working units.

        A value, like all that a pass does with a block.
        """
        setting = PassSetting(
            torch.float64,
            self.workspace.child("bounds"),
            self.magnitude,
            FIT_TOLERANCE[torch.float64],
            column_major=False,
        )
        return _RowBounds(self.family.kernel(params, log_weights, setting), self.frame, encoder)

    def log_likelihood(self, params: Params, rows: Tensor) -> Tensor:
        """Return log p(x | k) of rows in working coordinates, shape (n, k)."""
        return self.family.log_likelihood(params, rows)

    def statistics(self, params: Params, rows: Tensor, code: Code, weights: Tensor | None) -> Statistics:
        """Return the sums of rows in working coordinates."""
        return self.family.statistics(params, rows, code, weights)

    def filled(self, params: Params, rows: Tensor, code: Code) -> Tensor:
        """Return rows in working coordinates with what is missing as the code expects it, shape (n, d)."""
        del params, code
        return rows

    def completed(self) -> Problem:
        """Return the problem of the same rows without any missing entry, to find starts for."""
        return self

    def rows(self, index: Tensor) -> Tensor:
        """Return some rows in working coordinates and float64, shape (m, d)."""
        return self.frame.apply(self.source.take(index).to(torch.float64))

    def weights(self, index: Tensor) -> Tensor | None:
        """Return the weights of some rows."""
        return self.source.take_weights(index)

    def model(self, params: Params, log_weights: Tensor, encoder: Encoder) -> MixtureAutoencoder:
        """Return the mixture with these parameters."""
        return MixtureAutoencoder(self.family, params, log_weights, encoder, self.frame, self.magnitude)

    def example(self, params: Params) -> Params:
        """Return parameters of the class that is alternated, given an example of the family's."""
        return params

    def without_prior(self) -> Problem:
        """Return the problem of maximum likelihood on the same rows."""
        return self

    def adopt(self, params: Params, log_weights: Tensor, encoder: Encoder) -> tuple[Params, Tensor]:
        """Return a start of ``without_prior()`` as one of this problem."""
        del encoder
        return params, log_weights

    @property
    def floor_variances(self) -> Tensor:
        """Variances that floors are relative to, shape (d,)."""
        return self.variances if self.reference is None else self.reference

    @property
    def width(self) -> int:
        """Number of features that a pass multiplies, for sizing blocks and budgets."""
        return self.family.width(self.source.n_features)

    def with_pooled_sums(self, statistics: Statistics) -> Statistics:
        """Return the sums of a pass with the pooled ones, which no pass adds up, put in."""
        return statistics if self.pooled is None else replace(statistics, pooled=self.pooled)  # type: ignore[call-arg]
