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
from mixcoder.components.base import Family, Params, PassSetting
from mixcoder.encoders import Argmax, Encoder
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import log_simplex
from mixcoder.ops.workspace import Workspace
from mixcoder.sources import Block, Source
from mixcoder.statistics import Statistics

FIT_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Largest error in nats that a fitting pass may make on a row of typical size, by the dtype of the rows."""


@dataclass(frozen=True)
class Totals(Statistics):
    """What one pass adds up: the family's sums, the bound, the weight.

    The bound travels inside the sums, so that a block that is computed twice is still counted once.
    """

    statistics: Statistics
    bound: Tensor
    weight: Tensor


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
    """

    source: Source
    family: Family[Any, Any]
    frame: Frame
    magnitude: Tensor
    variances: Tensor
    total_weight: float
    pooled: Tensor | None = None
    fixed_weights: bool = False
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
        rows = block_rows(0, self.source.n_features, 8)

        def pooled_of(block: Block) -> Tensor:
            result = self.family.pooled(self.frame.apply(block.x.double()), block.weights)
            assert result is not None
            return result

        return replace(self, pooled=self.source.map_reduce(pooled_of, rows))

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
            self.tolerance[source.dtype],
            column_major=not isinstance(encoder, Argmax),
        )
        kernel = self.family.kernel(params, log_weights, setting)

        def visit(block: Block) -> Totals:
            rows = kernel.expand(block.x, frame)
            code, bound = encoder.encode_with_bound_(kernel.log_joint(rows))
            weights = block.weights
            if weights is None:
                total = bound.sum(dtype=torch.float64)
                weight = total.new_full((), len(bound))
            else:
                weights64 = weights.double()
                total, weight = weights64 @ bound.double(), weights64.sum()
            return Totals(kernel.statistics(rows, code, weights), total, weight)

        n_rows = block_rows(params.n_components, self.width, torch.finfo(source.dtype).bits // 8)
        totals = source.map_reduce(visit, n_rows)
        offset = totals.weight * frame.log_scale
        common = kernel.offset(self.pooled)
        if common is not None:
            offset = offset + common[0]
        return replace(
            totals, bound=totals.bound + offset, statistics=self.with_pooled_sums(totals.statistics)
        )

    def parameters(self, statistics: Statistics) -> Params:
        """Return parameters that maximise the bound at the given sums."""
        return self.family.maximize(statistics)

    def maximize(self, statistics: Statistics, log_weights: Tensor) -> tuple[Params, Tensor]:
        """Return parameters and log-weights that maximise the bound at the given sums."""
        params = self.parameters(statistics)
        if self.fixed_weights:
            return params, log_weights
        counts: Tensor = statistics.counts  # type: ignore[attr-defined]
        return params, log_simplex(counts.clamp_min(0))

    def maximize_code(self, code_of: Callable[[Block], Code], n_components: int) -> tuple[Params, Tensor]:
        """Return the first parameters, from a code given block by block."""

        def visit(block: Block) -> Statistics:
            rows = self.frame.apply(block.x.to(torch.float64))
            return self.family.statistics(None, rows, code_of(block), block.weights)

        rows = block_rows(n_components, self.width, 8)
        equal = self.magnitude.new_full((n_components,), -math.log(n_components))
        return self.maximize(self.source.map_reduce(visit, rows), equal)

    def row_bounds(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Callable[[Block], Tensor]:
        """Return what gives the bound of each row of a block in float64, shape (n,), in working units."""
        setting = PassSetting(
            torch.float64,
            self.workspace.child("bounds"),
            self.magnitude,
            FIT_TOLERANCE[torch.float64],
            column_major=False,
        )
        kernel = self.family.kernel(params, log_weights, setting)

        def bounds(block: Block) -> Tensor:
            rows = kernel.expand(block.x, self.frame)
            bound = encoder.encode_with_bound_(kernel.log_joint(rows))[1]
            offset = kernel.row_offset(rows)
            return bound if offset is None else bound + offset

        return bounds

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

    def without_prior(self) -> Problem:
        """Return the problem of maximum likelihood on the same rows."""
        return self

    def adopt(self, params: Params, log_weights: Tensor, encoder: Encoder) -> tuple[Params, Tensor]:
        """Return a start of ``without_prior()`` as one of this problem."""
        del encoder
        return params, log_weights

    @property
    def width(self) -> int:
        """Number of features that a pass multiplies, for sizing blocks and budgets."""
        return self.family.width(self.source.n_features)

    def with_pooled_sums(self, statistics: Statistics) -> Statistics:
        """Return the sums of a pass with the pooled ones, which no pass adds up, put in."""
        return statistics if self.pooled is None else replace(statistics, pooled=self.pooled)  # type: ignore[call-arg]
