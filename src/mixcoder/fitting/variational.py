"""Variational Bayes as the same alternation: the E-step of tilted weights, the M-step of a conjugate prior."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import Gaussian
from mixcoder.components.base import Params
from mixcoder.components.exponential import ExponentialFamily
from mixcoder.components.gaussian import GaussianParams
from mixcoder.encoders import Encoder
from mixcoder.fitting.em import FIT_TOLERANCE, Problem, Totals
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.priors import MixturePosterior, MixturePrior
from mixcoder.statistics import Moments, Statistics


@dataclass(frozen=True)
class VariationalProblem(Problem):
    r"""A fit of q(Z) q(weights, means, precisions) instead of parameters.

    Its parameters are a :class:`~mixcoder.priors.MixturePosterior`, its log-weights those of
    ``MixturePrior.log_weights``, which sum to less than one. With them a pass over the rows is the one of
    the plug-in Gaussians, whatever the encoder: at temperature T the code is the softargmax of 1/T times
    the expected log-joint.

    A pass gives the lower bound after the M-step that its sums call for, as scikit-learn counts:

    .. math:: F = \tfrac1\beta H(Z) + t \log Z\!\left(\tfrac{\eta_0 + S}{t}\right) - \log Z(\eta_0)
              - \tfrac{ND}2 \log 2\pi

    and H(Z)/beta is what the encoder's bound exceeds the expected log-joint by.

    Parameters
    ----------
    prior : MixturePrior
        In working units.
    row_weight : float
        How many rows a unit of weight stands for: against a prior the scale of weights matters.
    log_start : float
        log Z(eta_0).
    """

    prior: MixturePrior = field(kw_only=True)
    row_weight: float = field(kw_only=True)
    log_start: float = field(kw_only=True)

    refills: ClassVar[bool] = False

    # The bound is that of all rows, and a step that changes it by less than a nat counts: float32 cannot tell.
    tolerance: ClassVar[dict[torch.dtype, float]] = dict.fromkeys(FIT_TOLERANCE, FIT_TOLERANCE[torch.float64])

    @classmethod
    def over(cls, problem: Problem, prior: MixturePrior, n_components: int, row_weight: float) -> Self:
        """Return the problem with a prior for so many components."""
        log_start = float(prior.log_normalizer_without_rows(n_components))
        return cls.of(problem, prior=prior, row_weight=row_weight, log_start=log_start)

    def _pass(self, params: Params, log_weights: Tensor, encoder: Encoder) -> Totals:
        """Return the sums of one pass and the lower bound that they lead to, in units of ``row_weight`` nats."""
        gaussians = cast("MixturePosterior", params).gaussians[0]
        totals = super()._pass(gaussians, log_weights, encoder)
        sums = cast("Moments", totals.statistics)
        family = cast("ExponentialFamily[Any]", self.family)
        explained = family.expected_log_joint(gaussians, log_weights, sums)
        entropy = totals.bound - totals.weight * self.frame.log_scale - explained
        n_rows = totals.weight * self.row_weight
        posterior = self.prior.posterior(sums.scaled(self.row_weight))
        evidence = self.prior.log_normalizer(posterior) - self.log_start
        evidence = evidence + n_rows * (self.frame.log_scale - 0.5 * self.source.n_features * LOG_2PI)
        return replace(totals, bound=entropy + evidence / self.row_weight)

    def maximize(self, statistics: Statistics, log_weights: Tensor) -> tuple[Params, Tensor]:
        """Return the posterior of the sums, and its log-weights."""
        del log_weights
        posterior = self.prior.posterior(cast("Moments", statistics.scaled(self.row_weight)))
        return posterior, self.prior.log_weights(posterior)

    def model(self, params: Params, log_weights: Tensor, encoder: Encoder) -> MixtureAutoencoder:
        """Return the mixture that codes rows as the posterior does: its weights are tilted, made to sum to one."""
        gaussians = cast("MixturePosterior", params).gaussians[0]
        return super().model(gaussians, log_weights - torch.logsumexp(log_weights, 0), encoder)

    def example(self, params: Params) -> MixturePosterior:
        """Return a posterior of some components."""
        none = self.magnitude
        return MixturePosterior((cast("GaussianParams", params),), none, none, none)

    def without_prior(self) -> Problem:
        """Return the problem of maximum likelihood on the same rows, with a floor where the prior was."""
        family = replace(cast("Gaussian[Any]", self.family), min_variance=Gaussian.min_variance)
        return Problem.of(self, family=family)

    def adopt(self, params: Params, log_weights: Tensor, encoder: Encoder) -> tuple[Params, Tensor]:
        """Return the posterior of the code that a mixture of plain parameters gives."""
        totals = self.without_prior()._pass(params, log_weights, encoder)
        return self.maximize(totals.statistics, log_weights)
