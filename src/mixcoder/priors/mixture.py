"""The prior of a whole mixture, and its posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mixcoder.components.base import Params
from mixcoder.components.gaussian import GaussianParams
from mixcoder.priors.normal_wishart import NormalWishart
from mixcoder.priors.weights import WeightPrior
from mixcoder.statistics import Moments


@dataclass(frozen=True)
class MixturePosterior(Params):
    """Hyper-parameters of q(weights) q(means, precisions).

    Parameters
    ----------
    gaussians : tuple of one GaussianParams
        Means m_k and covariances V_k / nu_k.
    mean_precisions, degrees_of_freedom : Tensor, shape (k,)
        beta_k and nu_k.
    concentrations : Tensor, shape (k, c)
        alpha_k of a Dirichlet distribution (c = 1), or the two parameters of each stick (c = 2).

    Examples
    --------
    >>> import torch
    >>> from mixcoder.priors import Dirichlet, conjugate_prior
    >>> from mixcoder.components import GaussianSpherical
    >>> prior = conjugate_prior(
    ...     GaussianSpherical(),
    ...     mean=torch.zeros(2, dtype=torch.float64),
    ...     mean_precision=1.0,
    ...     degrees_of_freedom=2.0,
    ...     scatter=torch.ones(1, dtype=torch.float64),
    ...     floor=torch.full((2,), 1e-12, dtype=torch.float64),
    ... )
    >>> x = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    >>> sums = GaussianSpherical().statistics(None, x, torch.ones(2, 1, dtype=torch.float64))
    >>> posterior = MixturePrior(Dirichlet(1.0), prior).posterior(sums)
    >>> posterior.mean_precisions, posterior.concentrations
    (tensor([3.], dtype=torch.float64), tensor([[3.]], dtype=torch.float64))
    """

    gaussians: tuple[GaussianParams, ...]
    mean_precisions: Tensor
    degrees_of_freedom: Tensor
    concentrations: Tensor


@dataclass(frozen=True)
class MixturePrior:
    r"""Independent conjugate priors of weights and components, and the temperature of their posterior.

    With eta_0 the hyper-parameters and S the expected sums of the rows,

    .. math::
        q(\theta) \propto \left[ p(\theta)\, e^{\langle S, T(\theta) \rangle} \right]^{1/t}, \qquad
        F = \tfrac1\beta H(Z) + t \log Z\!\left(\tfrac{\eta_0 + S}{t}\right) - \log Z(\eta_0)
            - \tfrac{ND}2 \log 2\pi

    is the greatest value over q of the evidence lower bound in which the entropy of q(theta) counts t
    times: variational Bayes at t = 1, the log-posterior at its mode (MAP) at t = 0.

    Parameters
    ----------
    weights : WeightPrior
    components : NormalWishart
    temperature : float
        t, in [0, 1].

    References
    ----------
    Bishop (2006), section 10.2. MacKay (1998), "Choice of basis for Laplace approximation", for what a
    mode depends on.

    Examples
    --------
    >>> import torch
    >>> from mixcoder.priors import Dirichlet, conjugate_prior
    >>> from mixcoder.components import GaussianSpherical
    >>> prior = conjugate_prior(
    ...     GaussianSpherical(),
    ...     mean=torch.zeros(2, dtype=torch.float64),
    ...     mean_precision=1.0,
    ...     degrees_of_freedom=2.0,
    ...     scatter=torch.ones(1, dtype=torch.float64),
    ...     floor=torch.full((2,), 1e-12, dtype=torch.float64),
    ... )
    >>> x = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    >>> sums = GaussianSpherical().statistics(None, x, torch.ones(2, 1, dtype=torch.float64))
    >>> posterior = MixturePrior(Dirichlet(1.0), prior).posterior(sums)
    >>> posterior.mean_precisions, posterior.concentrations
    (tensor([3.], dtype=torch.float64), tensor([[3.]], dtype=torch.float64))
    """

    weights: WeightPrior
    components: NormalWishart[Any]
    temperature: float = 1.0

    def posterior(self, statistics: Moments) -> MixturePosterior:
        """Return what the expected sums of the rows make of the prior."""
        gaussians, precisions, degrees = self.components.posterior(statistics)
        return MixturePosterior((gaussians,), precisions, degrees, self.weights.posterior(statistics.counts))

    def log_weights(self, posterior: MixturePosterior) -> Tensor:
        r"""Return the log-weights at which the plug-in Gaussians give the expected log-joint, shape (k,).

        They sum to less than one: :math:`E[\log \pi_k]` and what expectation takes from the log-density.
        """
        expected = self.weights.expected_log_weights(posterior.concentrations, self.temperature)
        return expected + self.components.tilts(
            posterior.mean_precisions, posterior.degrees_of_freedom, self.temperature
        )

    def log_normalizer(self, posterior: MixturePosterior) -> Tensor:
        """Return t log Z((eta_0 + S) / t), shape ()."""
        components = self.components.log_normalizer(
            posterior.gaussians[0], posterior.mean_precisions, posterior.degrees_of_freedom, self.temperature
        )
        return self.weights.log_normalizer(posterior.concentrations, self.temperature) + components.sum()

    def log_normalizer_without_rows(self, n_components: int) -> Tensor:
        """Return log Z(eta_0) for so many components, shape ()."""
        no_rows = self.components.no_rows()
        components = self.components.log_normalizer(*self.components.posterior(no_rows), 1.0)
        concentrations = self.weights.posterior(no_rows.counts.expand(n_components))
        return self.weights.log_normalizer(concentrations, 1.0) + n_components * components[0]
