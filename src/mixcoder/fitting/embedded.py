"""A family and an embedding fitted together: codes, components and anchors in turn, one exact objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components.base import Kernel, Params, PassSetting
from mixcoder.encoders import Posterior
from mixcoder.errors import FitError
from mixcoder.fitting.anchors import AnchorStep, AnchorSums, first_anchors, fit_anchors
from mixcoder.fitting.em import FIT_TOLERANCE, Problem
from mixcoder.ops.embedding import CodeKernel, EmbeddingKernel
from mixcoder.ops.embedding.base import bayes
from mixcoder.ops.frame import Frame
from mixcoder.ops.simplex import log_simplex
from mixcoder.sources import Block, RowValues, TensorSource
from mixcoder.statistics import Gathered, Statistics

# Numbers in the largest array of a block, which is (rows e k e).
_BLOCK_NUMBERS = 1 << 19

# Rows on which the first anchors are found, and steps that this may take.
_FIRST_ROWS = 2000
_FIRST_STEPS = 30

# The bound is a sum of rounded terms: a fall by less than this share of its size is no fall.
_ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-12}

_CODE_STEPS = 50


@dataclass(frozen=True)
class Embedded:
    """Where a joint fit stands: what is fitted, and the code of every row.

    Parameters
    ----------
    params : Params
    anchors : Tensor, shape (k, e)
    codes : Tensor, shape (n, e)
    """

    params: Params
    anchors: Tensor
    codes: Tensor


@dataclass(frozen=True)
class Totals(Statistics):
    """What one pass adds up.

    Parameters
    ----------
    statistics : Statistics
        The family's sums under the responsibilities.
    anchors : AnchorSums
    bound, weight, absorbed : Tensor
        The objective, the weight of the rows, and the absorber's share of it.
    codes : Gathered
        The code of every row, shape (n, e).
    """

    statistics: Statistics
    anchors: AnchorSums
    bound: Tensor
    weight: Tensor
    absorbed: Tensor
    codes: Gathered


@dataclass(frozen=True)
class _Visit:
    """Climbs to better codes of a block; a value, so that it can be sent wherever rows are read.

    Parameters
    ----------
    decoder : Kernel
    frame : Frame
    kernel : CodeKernel
    anchors : Tensor, shape (k, e)
    corners : Tensor
        Those of the kernel at these anchors.
    code_tol : float
    before : RowValues, optional
        Codes of the last turn, shape (n, e).
    """

    decoder: Kernel[Any, Any]
    frame: Frame
    kernel: CodeKernel
    anchors: Tensor
    corners: Tensor
    code_tol: float
    before: RowValues | None

    def __call__(self, block: Block, /) -> Totals:
        kernel, anchors = self.kernel, self.anchors
        rows = self.decoder.expand(block.x, self.frame)
        h = self.decoder.log_joint(rows).double()
        if self.before is None:
            begin = kernel.first_codes(bayes(h), anchors, self.corners)[0]
        else:
            begin = self.before(block)
        climbs = kernel.exact_outlook(h, anchors).possible
        v = kernel.climb_exact(begin, h, anchors, climbs, self.code_tol, _CODE_STEPS).codes
        log_q, log_q_0 = kernel.log_code(v, anchors)
        value = torch.logsumexp(log_q + h, dim=1) - kernel.prior * v.square().sum(dim=1)
        r = bayes(log_q + h)
        weights = None if block.weights is None else block.weights.double()
        w = value.new_ones(len(value)) if weights is None else weights
        anchor_sums = AnchorSums.of(kernel, v, anchors, r, weights)
        statistics = self.decoder.statistics(rows, r.to(rows.dtype), block.weights)
        return Totals(statistics, anchor_sums, w @ value, w.sum(), w @ log_q_0.exp(), Gathered((v,)))

    def of_rows(self, start: int, stop: int) -> _Visit:
        """Return the visit of rows ``start`` to ``stop``, with their own codes alone."""
        if self.before is None:
            return self
        return replace(self, before=self.before.of_rows(start, stop))


@dataclass(frozen=True)
class JointFit:
    """A fitted family with its embedding.

    Parameters
    ----------
    model : MixtureAutoencoder
        The components, weighted by their mean responsibility.
    anchors, codes : Tensor, shapes (k, e) and (n, e)
    history : list of float
        The objective per unit of weight after each turn; it never falls.
    converged : bool
    reason : str
    absorbed : float
        Mean share of the absorber.
    empty : tuple of int
        Components that no row uses.
    """

    model: MixtureAutoencoder
    anchors: Tensor
    codes: Tensor
    history: list[float]
    converged: bool
    reason: str
    absorbed: float
    empty: tuple[int, ...]


class JointProblem:
    r"""The objective :math:`\sum_n L_n(v_n) - \rho \sum_k |w_k|^2`, and how a turn raises it.

    Parameters
    ----------
    problem : Problem
        The rows, and the family in working coordinates.
    kernel : CodeKernel
    prior : float
        rho of the anchors.
    row_weight : float
        How many rows a unit of weight stands for.
    code_tol : float
        Length of its gradient at which a code is done.
    """

    def __init__(
        self,
        problem: Problem,
        kernel: CodeKernel,
        prior: float,
        row_weight: float = 1.0,
        code_tol: float = 1e-10,
    ) -> None:
        self.problem, self.kernel, self.prior = problem, kernel, prior
        self.row_weight, self.code_tol = row_weight, code_tol

    def start(self, params: Params, log_weights: Tensor, e: int) -> Tensor:
        """Return first anchors: those of the map that copies the posteriors of some rows, shape (k, e)."""
        source = self.problem.source
        rows, weights = self._some_rows()
        log_joint = self.problem.family.log_likelihood(params, self.problem.rows(rows)) + log_weights
        targets = bayes(log_joint)
        copies = EmbeddingKernel(beta=self.kernel.beta, prior=max(self.kernel.prior, 0.01))
        first = first_anchors(targets, e, weights)
        found = fit_anchors(
            TensorSource(targets, weights),
            _rows_of,
            first,
            copies,
            prior=max(self.prior, 1e-4 * source.total_weight),
            tol=1e-4,
            max_iter=_FIRST_STEPS,
        )
        return found.anchors

    def _some_rows(self) -> tuple[Tensor, Tensor | None]:
        """Return the numbers of all rows, or of some evenly spaced in weight, and their weights.

        A row of weight two is a row twice: the same rows come out either way.
        """
        source, everyone = self.problem.source, torch.arange(self.problem.source.n_rows)
        weights, total = self.problem.weights(everyone), float(source.total_weight)
        if max(source.n_rows, total * self.row_weight) <= _FIRST_ROWS:
            return everyone, weights
        # Off the middle of each interval: a place that falls between two rows would be for rounding to decide.
        places = (torch.arange(_FIRST_ROWS, dtype=torch.float64) + 0.618) * (total / _FIRST_ROWS)
        ends = everyone + 1.0 if weights is None else weights.double().cpu().cumsum(0)
        rows = torch.searchsorted(ends.double(), places, right=True).clamp_max(source.n_rows - 1)
        return rows, torch.full(
            (_FIRST_ROWS,), total / _FIRST_ROWS, dtype=torch.float64, device=source.device
        )

    def encode(self, params: Params, anchors: Tensor, before: Tensor | None) -> tuple[Embedded, Totals]:
        """Climb from the codes before to better ones, block by block, and add up what the next turn needs."""
        source, frame, kernel = self.problem.source, self.problem.frame, self.kernel
        k, e = anchors.shape
        decoder = self._decoder(params, k)
        known = None if before is None else RowValues(before)
        visit = _Visit(decoder, frame, kernel, anchors, kernel.corners(anchors), self.code_tol, known)
        found = source.map_reduce(visit, max(64, _BLOCK_NUMBERS // (k * e * e)))
        offset = found.weight * frame.log_scale - self.prior * anchors.square().sum()
        common = decoder.offset(self.problem.pooled)
        if common is not None:
            offset = offset + common[0]
        totals = replace(
            found,
            bound=found.bound + offset,
            statistics=self.problem.with_pooled_sums(found.statistics),
            anchors=found.anchors.with_prior(anchors, self.prior),
        )
        return Embedded(params, anchors, found.codes.rows), totals

    def fit(self, params: Params, anchors: Tensor, *, tol: float, max_iter: int) -> JointFit:
        """Alternate from given components and anchors.

        A turn takes the components to their best for the responsibilities (which never lowers the objective), the
        anchors by a bounded Newton step of the lower bound that touches there, and each code uphill from where it was.
        A turn that lowers the objective is taken back, and repeated with the anchors left alone.

        Parameters
        ----------
        tol : float
            Gain in nats per row below which to stop.
        max_iter : int
            Passes over the rows.
        """
        at, totals = self.encode(params, anchors, None)
        history, stepper = [float(totals.bound / totals.weight)], AnchorStep.first(self.kernel)
        if not math.isfinite(history[0]):
            raise FitError(
                f"The objective is {history[0]} at the start of the fit: no component explains some row. Check the "
                "rows for values far outside of all others."
            )
        converged, reason, waits = False, f"max_iter={max_iter} passes were used up", False
        for _ in range(max_iter):
            following = self.problem.family.maximize(totals.statistics)
            step = torch.zeros_like(at.anchors) if waits else stepper.propose(totals.anchors, at.anchors)
            there, sums = self.encode(following, at.anchors + step, at.codes)
            bound = float(sums.bound / sums.weight)
            gain = bound - history[-1]
            if not waits:
                stepper.judge(gain * float(totals.weight))
            if not gain >= 0:
                falls = waits and not -gain <= self._noise(bound)  # also with the anchors where they were
                if falls or stepper.exhausted:
                    converged, reason = True, "no turn raises the objective any more"
                    break
                # The anchors went too far: what the components gain alone, then a shorter step. Where they gain nothing
                # but rounding the shorter step comes at once, so that rounding does not decide where a fit ends.
                waits = not waits
                continue
            at, totals = there, sums
            history.append(bound)
            if gain <= tol and not waits:
                converged, reason = (
                    True,
                    f"the objective rose by {gain:.2g} nats per row, less than tol={tol:g}",
                )
                break
            waits = False
        counts: Tensor = totals.statistics.counts  # type: ignore[attr-defined]
        model = self.problem.model(at.params, log_simplex(counts.clamp_min(0)), Posterior())
        empty = tuple(torch.nonzero(counts < 1e-3)[:, 0].tolist())
        absorbed = float(totals.absorbed / totals.weight)
        return JointFit(model, at.anchors, at.codes, history, converged, reason, absorbed, empty)

    def _decoder(self, params: Params, k: int) -> Kernel[Any, Any]:
        dtype = self.problem.source.dtype
        setting = PassSetting(dtype, self.problem.workspace, self.problem.magnitude, FIT_TOLERANCE[dtype])
        return self.problem.family.kernel(params, self.problem.magnitude.new_zeros(k), setting)

    def _noise(self, bound: float) -> float:
        return _ROUNDING[self.problem.source.dtype] * (1 + abs(bound))


def _rows_of(block: Block) -> Tensor:
    return block.x
