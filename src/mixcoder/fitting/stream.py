"""Stepwise EM: one step a batch, the sums of earlier batches fading."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder, block_rows
from mixcoder.components import Gaussian
from mixcoder.components.base import Params
from mixcoder.encoders import Encoder
from mixcoder.errors import DataError, FitError
from mixcoder.fitting.em import Problem, Totals
from mixcoder.fitting.fit import describe
from mixcoder.fitting.incomplete import IncompleteProblem
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import EMPTY
from mixcoder.sources import Block, Source
from mixcoder.statistics import Statistics


@dataclass(frozen=True)
class Stream:
    r"""A fit that sees one batch at a time.

    .. math:: s \leftarrow (1-\eta_t)\, s + \eta_t\, \bar s(x_t), \qquad \eta_t = (t+2)^{-a}

    Parameters
    ----------
    problem : Problem
        Working coordinates and family, from the first batch; its source is the batch at hand.
    params : Params
    log_weights : Tensor, shape (k,)
    encoder : Encoder
    exponent : float or None
        a, in (0.5, 1]; ``None`` adds all batches up with equal weight per row, and keeps the weights of the
        components (k-means).
    average : Statistics or None
        s, per row; sums where ``exponent`` is ``None``.
    bounds : tuple of float
        Mean bound of each batch before its step, in nats per row.
    pending : Totals, optional
        Sums of batches at the parameters as they stand, which the next step maximises with its own.

    References
    ----------
    Cappe & Moulines (2009), "On-line expectation-maximization", equation 14.
    """

    problem: Problem
    params: Params
    log_weights: Tensor
    encoder: Encoder
    exponent: float | None
    average: Statistics | None = None
    bounds: tuple[float, ...] = ()
    pending: Totals | None = None

    @classmethod
    def resumed(
        cls,
        model: MixtureAutoencoder,
        batch: Source,
        encoder: Encoder,
        *,
        exponent: float | None,
        average: Statistics | None,
        bounds: tuple[float, ...],
        pending: Totals | None = None,
    ) -> Stream:
        """Return the stream that a fitted model, its sums and its bounds stand for, at a batch."""
        problem = Problem(
            source=batch,
            family=model.family,
            frame=model.frame,
            magnitude=model.magnitude,
            variances=torch.ones_like(model.magnitude),
            total_weight=batch.total_weight,
            fixed_weights=exponent is None,
        )
        return cls(problem, model.params, model.log_weights, encoder, exponent, average, bounds, pending)

    @property
    def n_steps(self) -> int:
        """Number of batches seen."""
        return len(self.bounds)

    @property
    def bound(self) -> float:
        """Mean bound of the last batch, or of all that wait."""
        if self.pending is not None:
            return float(self.pending.bound / self.pending.weight)
        return self.bounds[-1]

    @property
    def model(self) -> MixtureAutoencoder:
        """The mixture as it stands."""
        return self.problem.model(self.params, self.log_weights, self.encoder)

    @property
    def collapsed(self) -> list[int]:
        """Components that stand on the floor of their family, which is relative to the variances of all rows so far."""
        return describe(self.model, self._variances())

    def _variances(self) -> Tensor:
        r"""Return the variance of each feature in working coordinates, as the mixture has it, shape (d,).

        After an M-step that is the one of the sums: :math:`\sum_k \pi_k (\Sigma_k + m_k m_k') - m m'`. Families that
        do not tell their spreads are taken to have that of the first batch.
        """
        own = self._spreads()
        if own is None:
            return self.problem.variances
        means: Tensor = self.params.means  # type: ignore[attr-defined]
        weights = self.log_weights.exp()
        centred = means - weights @ means
        return weights @ (own + centred.square())

    def _spreads(self) -> Tensor | None:
        """Return the variance of each feature in each component, shape (k, d), where the parameters tell it."""
        loadings, noise = (getattr(self.params, name, None) for name in ("loadings", "noise_variances"))
        if isinstance(loadings, Tensor) and isinstance(noise, Tensor):
            return loadings.square().sum(-1) + (noise if noise.ndim == 2 else noise[:, None])
        family = self.problem.family
        if not isinstance(family, Gaussian) or type(family).spreads is Gaussian.spreads:
            return None
        spreads = family.spreads(self.params)
        return spreads.diagonal(dim1=-2, dim2=-1) if spreads.ndim == 3 else spreads

    def step(self, batch: Source, *, maximize: bool = True, unit: float = 1.0) -> Stream:
        """Return the stream after one more batch.

        Parameters
        ----------
        maximize : bool
            Whether the parameters move. Where they do not, the sums wait for a step at which they do, and what it then
            maximises is these sums alone: one iteration of EM over all of these batches, nothing averaged.
        unit : float
            What one weight of the batch stands for, beside those of the batches that wait.
        """
        reach, incomplete = self._reach(batch)
        problem = replace(self.problem, source=batch, pooled=None, magnitude=reach)
        seen = (
            IncompleteProblem.of(problem, filler=problem.frame.shift) if incomplete else problem.with_pooled()
        )
        totals = seen.totals(self.params, self.log_weights, self.encoder.at(self.n_steps))
        if float(totals.weight) == 0:
            raise DataError("No row of this batch holds any value: there is nothing to learn from it.")
        if self.pending is not None or not maximize:
            totals = totals.scaled(unit)
        if self.pending is not None:
            totals = self.pending + totals
        weight = float(totals.weight)
        bound = float(totals.bound) / weight
        if not math.isfinite(bound):
            raise FitError(f"The bound of this batch is {bound}: no component explains some row of it.")
        if not maximize:
            return replace(self, problem=replace(self.problem, magnitude=problem.magnitude), pending=totals)
        if self.exponent is None:
            fresh = totals.statistics
            average = fresh if self.average is None else self.average + fresh
        else:
            fresh = totals.statistics.scaled(1.0 / weight)
            # The first batch has nothing to be averaged with; sums that waited for each other are a whole.
            alone = self.average is None or self.pending is not None
            eta = 1.0 if alone else (self.n_steps + 2) ** -self.exponent
            average = (
                fresh if self.average is None or alone else self.average.scaled(1.0 - eta) + fresh.scaled(eta)
            )
        params, log_weights = problem.maximize(average, self.log_weights)
        counts: Tensor = average.counts  # type: ignore[attr-defined]
        unseen = torch.nonzero(counts <= EMPTY)[:, 0]
        if len(unseen):
            # A component that no batch has shown yet stays as it was: at weight zero none could ever show it.
            params = params.put(unseen, self.params.take(unseen))
            log_weights = log_weights.index_copy(0, unseen, self.log_weights[unseen])
            log_weights = log_weights - torch.logsumexp(log_weights, 0)
        return replace(
            self,
            problem=replace(self.problem, magnitude=problem.magnitude),
            params=params,
            log_weights=log_weights,
            average=average,
            bounds=(*self.bounds, bound),
            pending=None,
        )

    def _reach(self, batch: Source) -> tuple[Tensor, bool]:
        """Return the largest root mean square of each feature so far, and whether entries are missing.

        The first sets the precision of a pass; one over incomplete rows always has that of float64.
        """
        frame, rows = self.problem.frame, block_rows(0, batch.n_features, 8)
        squares = batch.map_reduce(_Squares(frame), rows)
        if bool(squares.isnan().any()):
            return self.problem.magnitude, True
        return torch.maximum(self.problem.magnitude, (squares / batch.n_rows).sqrt()), False


@dataclass(frozen=True)
class _Squares:
    """The summed squares of each feature of a block, in working coordinates."""

    frame: Frame

    def __call__(self, block: Block) -> Tensor:
        return self.frame.apply(block.x.double()).square_().sum(0)
