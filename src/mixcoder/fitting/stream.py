"""Stepwise EM: one step a batch, the sums of earlier batches fading."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components.base import Params
from mixcoder.encoders import Encoder
from mixcoder.fitting.em import Problem
from mixcoder.sources import Source
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
        a, in (0.5, 1]; ``None`` adds all batches up with equal weight per row.
    average : Statistics or None
        s, per row; sums where ``exponent`` is ``None``.
    bounds : tuple of float
        Mean bound of each batch before its step, in nats per row.

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

    @classmethod
    def begin(
        cls, problem: Problem, params: Params, log_weights: Tensor, encoder: Encoder, *, exponent: float | None
    ) -> Stream:
        """Return a stream that has seen nothing yet."""
        return cls(problem, params, log_weights, encoder, exponent)

    @property
    def n_steps(self) -> int:
        """Number of batches seen."""
        return len(self.bounds)

    @property
    def model(self) -> MixtureAutoencoder:
        """The mixture as it stands."""
        return self.problem.model(self.params, self.log_weights, self.encoder)

    def step(self, batch: Source) -> Stream:
        """Return the stream after one more batch."""
        problem = replace(self.problem, source=batch, pooled=None).with_pooled()
        totals = problem.totals(self.params, self.log_weights, self.encoder.at(self.n_steps))
        weight = float(totals.weight)
        if self.exponent is None:
            fresh = totals.statistics
            average = fresh if self.average is None else self.average + fresh
        else:
            fresh = totals.statistics.scaled(1.0 / weight)
            # The first batch has nothing to be averaged with.
            eta = 1.0 if self.average is None else (self.n_steps + 2) ** -self.exponent
            average = fresh if self.average is None else self.average.scaled(1.0 - eta) + fresh.scaled(eta)
        params, log_weights = problem.maximize(average, self.log_weights)
        return replace(
            self,
            params=params,
            log_weights=log_weights,
            average=average,
            bounds=(*self.bounds, float(totals.bound) / weight),
        )
