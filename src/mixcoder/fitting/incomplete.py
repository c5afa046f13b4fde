"""Fits of rows of which some entries are missing: the exact E-step, and rows completed to begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder.components.base import Family, Params
from mixcoder.components.observed import observed_parts
from mixcoder.encoders import Encoder, Posterior
from mixcoder.fitting.em import Problem, Totals
from mixcoder.ops.frame import Frame
from mixcoder.sources import Block, RowFunction, Source, TensorSource
from mixcoder.sources.base import A
from mixcoder.statistics import Statistics

R = TypeVar("R")

# Rows from which the one component that completes the others is learned, and its EM steps.
_SAMPLE = 1000
_STEPS = 10

# Blocks of a pass: enough to share out among threads, large enough for patterns to repeat.
_MIN_BLOCK, _MAX_BLOCK, _BLOCKS = 128, 8192, 16


@dataclass(frozen=True)
class _Pass:
    """One exact E-step: the sums of a block of which entries are missing."""

    family: Family[Any, Any]
    params: Params
    log_weights: Tensor
    frame: Frame
    encoder: Encoder

    def __call__(self, block: Block) -> Totals:
        x, log_scale = self.frame.apply(block.x.double()), self.frame.scale.log()
        seen = ~x.isnan()
        weights = seen.any(1).double()
        if block.weights is not None:
            weights = weights * block.weights.double()
        total: Totals | None = None
        for rows, view in observed_parts(self.family, self.params, x):
            code, bound = self.encoder.encode_with_bound_(view.log_likelihood + self.log_weights)
            bound = bound + seen[rows].double() @ log_scale
            share = weights[rows]
            part = Totals(view.statistics(code, share), share @ bound, share.sum())
            total = part if total is None else total + part
        assert total is not None
        return total


@dataclass(frozen=True)
class _RowBounds:
    """The bound of what each row of a block shows."""

    family: Family[Any, Any]
    params: Params
    log_weights: Tensor
    frame: Frame
    encoder: Encoder

    def __call__(self, block: Block) -> Tensor:
        rows = self.frame.apply(block.x.double())
        log_joint = _log_likelihood(self.family, self.params, rows) + self.log_weights
        bound = self.encoder.encode_with_bound_(log_joint)[1]
        return bound.masked_fill(rows.isnan().all(1), torch.inf)


@final
@dataclass(frozen=True)
class IncompleteProblem(Problem):
    r"""The problem of rows with missing entries, NaN.

    A pass integrates them out: with a the entries of a row that are seen, the bound is that of
    :math:`\log p(x_a)`, and the sums are expectations over :math:`p(x_b | x_a, k)`. EM on these never lowers the
    likelihood of what was seen. A row without any entry has no weight.

    Parameters
    ----------
    filler : Tensor, shape (d,)
        A row of the family's domain in the units of the rows, to begin with.

    References
    ----------
    Ghahramani & Jordan (1994), "Supervised learning from incomplete data via an EM approach".
    """

    filler: Tensor = field(kw_only=True)

    def with_pooled(self) -> IncompleteProblem:
        """Return the problem itself: sums that no code weighs depend on the code where entries are missing."""
        return self

    def _pass(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Totals:
        n_rows = max(_MIN_BLOCK, min(_MAX_BLOCK, -(-self.source.n_rows // _BLOCKS)))
        work = _Pass(self.family, params, log_weights, self.frame, encoder)
        totals = self.source.map_reduce(work, n_rows)
        log_prior = self.family.log_prior(params, totals.statistics, self.floor_variances)
        return totals if log_prior is None else replace(totals, bound=totals.bound + log_prior.sum())

    def parameters(self, statistics: Statistics) -> Params:
        """Return parameters that maximise the bound at the given sums."""
        return _parameters(self, statistics)

    def with_pooled_sums(self, statistics: Statistics) -> Statistics:
        """Return the sums themselves: a pass adds all of them up."""
        return statistics

    def row_bounds(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Callable[[Block], Tensor]:
        """Return what gives the bound of what each row shows; that of a row without any entry is infinite."""
        return _RowBounds(self.family, params, log_weights, self.frame, encoder)

    def log_likelihood(self, params: Params, rows: Tensor) -> Tensor:
        """Return log p(x_a | k) of rows in working coordinates, shape (n, k)."""
        return _log_likelihood(self.family, params, rows)

    def statistics(self, params: Params, rows: Tensor, code: Code, weights: Tensor | None) -> Statistics:
        """Return the expected sums of rows in working coordinates."""
        return self.family.observe(params, rows).statistics(code, weights)

    def filled(self, params: Params, rows: Tensor, code: Code) -> Tensor:
        """Return rows in working coordinates with what is missing as the code expects it, shape (n, d)."""
        return self.family.observe(params, rows).expected(code)

    def completed(self) -> Problem:
        """Return the problem of the rows completed by what one component makes of them.

        Starts are found there: seeding, short fits and codes given by the user need whole rows.
        """
        family, params = self._one_component()
        source = CompletedSource(self.source, family, params, self.frame)
        return _CompletedProblem.of(self, source=source).with_pooled()

    def _one_component(self) -> tuple[Family[Any, Any], Params]:
        """Return the family and parameters of one component, of the first rows or a stride of many."""
        family: Any = self.family
        if isinstance(getattr(family, "n_latent", None), tuple):
            family = replace(family, n_latent=max(family.n_latent))
        n = self.source.n_rows
        index = torch.arange(0, n, max(1, n // _SAMPLE))[:_SAMPLE] if n > _SAMPLE else torch.arange(n)
        x = self.source.take(index)
        few = replace(self, family=family, source=TensorSource(x, self.source.take_weights(index)))
        whole = self.frame.apply(torch.where(x.isnan(), self.filler, x.double()))
        zero = torch.zeros(1, dtype=torch.float64, device=x.device)
        everyone = HardCode(torch.zeros(len(x), dtype=torch.int64, device=x.device), 1)
        start = family.statistics(None, whole, everyone, few.source.take_weights(torch.arange(len(x))))
        params, _ = few.maximize(start, zero)
        for _ in range(_STEPS):
            params, _ = few.maximize(few.totals(params, zero, Posterior()).statistics, zero)
        return family, params


class _CompletedProblem(Problem):
    """The problem of completed rows, under the same constraints as that of the incomplete ones."""

    def parameters(self, statistics: Statistics) -> Params:
        """Return parameters that maximise the bound at the given sums."""
        return _parameters(self, statistics)


def _log_likelihood(family: Family[Any, Any], params: Params, rows: Tensor) -> Tensor:
    result = rows.new_empty(len(rows), params.n_components)
    for index, view in observed_parts(family, params, rows):
        result[index] = view.log_likelihood
    return result


def _parameters(problem: Problem, statistics: Statistics) -> Params:
    """Return parameters whose floors keep to the variances of what was seen.

    Sums of expected or completed rows tell other variances, and other ones in every iteration: the set over which
    the bound is maximised would move, and the bound could fall.
    """
    if problem.family.floors_variances:
        return problem.family.maximize(statistics, problem.floor_variances)  # type: ignore[call-arg]
    return problem.family.maximize(statistics)


@dataclass(frozen=True)
class _Completion:
    """Fills in what rows miss as one component expects it."""

    family: Family[Any, Any]
    params: Params
    frame: Frame

    def __call__(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        if not bool(missing.any()):
            return x
        z = self.frame.apply(x.double())
        filled = torch.empty_like(z)
        for rows, view in observed_parts(self.family, self.params, z):
            code = HardCode(torch.zeros(len(rows), dtype=torch.int64, device=x.device), 1)
            filled[rows] = view.expected(code)
        return torch.where(missing, self.frame.undo(filled).to(x.dtype), x)


@dataclass(frozen=True)
class _OfCompleted(Generic[R]):
    """A function of completed blocks, as one of the blocks that are there."""

    function: Callable[[Block], R]
    completion: _Completion

    def __call__(self, block: Block) -> R:
        return self.function(replace(block, x=self.completion(block.x)))


@dataclass(frozen=True)
class _OfCompletedRows(_OfCompleted[R]):
    """The same of a function that holds something of every row."""

    def of_rows(self, start: int, stop: int) -> _OfCompleted[R]:
        assert isinstance(self.function, RowFunction)
        return _OfCompleted(self.function.of_rows(start, stop), self.completion)


@final
class CompletedSource(Source):
    """Rows with their missing entries filled in, block by block, as they are read.

    Parameters
    ----------
    source : Source
    family : Family
    params : Params
        Of one component, in working coordinates.
    frame : Frame
    """

    def __init__(self, source: Source, family: Family[Any, Any], params: Params, frame: Frame) -> None:
        self.source, self.completed = source, _Completion(family, params, frame)
        self.n_rows, self.n_features = source.n_rows, source.n_features
        self.dtype, self.device = source.dtype, source.device

    def map_reduce(self, function: Callable[[Block], A], block_rows: int) -> A:
        """Return the sum of ``function(block)`` over all blocks."""
        if isinstance(function, RowFunction):
            return self.source.map_reduce(_OfCompletedRows(function, self.completed), block_rows)
        return self.source.map_reduce(_OfCompleted(function, self.completed), block_rows)

    def map_rows(self, function: Callable[[Block], None], block_rows: int) -> None:
        """Call ``function`` on every block."""
        self.source.map_rows(_OfCompleted(function, self.completed), block_rows)

    def blocks(self, block_rows: int) -> Iterator[Block]:
        """Yield the blocks in order, one at a time."""
        for block in self.source.blocks(block_rows):
            yield replace(block, x=self.completed(block.x))

    def place(self, row: int) -> str:
        """Return how a message says where a row is."""
        return self.source.place(row)

    def take(self, index: Tensor) -> Tensor:
        """Return some rows."""
        return self.completed(self.source.take(index))

    def take_weights(self, index: Tensor) -> Tensor | None:
        """Return the weights of some rows."""
        return self.source.take_weights(index)

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return self.source.total_weight
