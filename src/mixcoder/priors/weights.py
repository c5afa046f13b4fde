"""Priors of the weights of a mixture: the Dirichlet distribution and the stick-breaking of a Dirichlet process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from mixcoder.ops.tempered import tempered_digamma, tempered_log_gamma


@dataclass(frozen=True)
class WeightPrior(ABC):
    """A conjugate prior of the weights.

    Parameters
    ----------
    concentration : float
        Positive; in units of rows.

    Examples
    --------
    >>> isinstance(Dirichlet(concentration=0.5), WeightPrior)
    True
    """

    concentration: float

    @abstractmethod
    def posterior(self, counts: Tensor) -> Tensor:
        """Return the concentrations after rows were counted, shape (k, c)."""

    @abstractmethod
    def expected_log_weights(self, concentrations: Tensor, temperature: float) -> Tensor:
        """Return E[log pi_k] under the posterior raised to the power 1/temperature, shape (k,)."""

    @abstractmethod
    def log_normalizer(self, concentrations: Tensor, temperature: float) -> Tensor:
        """Return temperature times the log-normaliser of that power, shape ()."""


@final
@dataclass(frozen=True)
class Dirichlet(WeightPrior):
    r"""A symmetric Dirichlet distribution.

    .. math:: \alpha_k = \alpha_0 + N_k, \qquad
              E[\log \pi_k] = \psi(\alpha_k) - \psi({\textstyle\sum_{j} \alpha_j}), \qquad
              \log Z = \sum_k \log\Gamma(\alpha_k) - \log\Gamma({\textstyle\sum_{k} \alpha_k})

    References
    ----------
    Bishop (2006), equations 10.58, 10.66 and B.16.

    Examples
    --------
    >>> after = Dirichlet(concentration=1.0).posterior(torch.tensor([7.0, 0.0]))
    >>> mean_weights(after)
    tensor([0.8889, 0.1111])
    """

    def posterior(self, counts: Tensor) -> Tensor:
        """Return alpha_k, shape (k, 1)."""
        return (self.concentration + counts)[:, None]

    def expected_log_weights(self, concentrations: Tensor, temperature: float) -> Tensor:
        """Return psi(alpha_k) - psi(sum alpha), shape (k,)."""
        alpha = concentrations[:, 0]
        return tempered_digamma(alpha, temperature) - tempered_digamma(alpha.sum(), temperature)

    def log_normalizer(self, concentrations: Tensor, temperature: float) -> Tensor:
        """Return sum log Gamma(alpha_k) - log Gamma(sum alpha)."""
        alpha = concentrations[:, 0]
        each = tempered_log_gamma(alpha, temperature).sum()
        return each - tempered_log_gamma(alpha.sum(), temperature)


@final
@dataclass(frozen=True)
class StickBreaking(WeightPrior):
    r"""A Dirichlet process, of which the posterior uses the first K components.

    .. math:: \pi_k = v_k \prod_{j<k} (1 - v_j), \qquad v_k \sim \mathrm{Beta}(1, \gamma_0), \qquad
              q(v_k) = \mathrm{Beta}(1 + N_k,\ \gamma_0 + {\textstyle\sum_{j>k} N_j})

    References
    ----------
    Blei & Jordan (2006), equations 17-19.

    Examples
    --------
    >>> after = StickBreaking(concentration=1.0).posterior(torch.tensor([7.0, 0.0]))
    >>> after
    tensor([[8., 1.],
            [1., 1.]])
    """

    def posterior(self, counts: Tensor) -> Tensor:
        """Return the two parameters of each stick, shape (k, 2)."""
        after = torch.cat([counts.flip(0).cumsum(0).flip(0)[1:], counts.new_zeros(1)])
        return torch.stack([1.0 + counts, self.concentration + after], 1)

    def expected_log_weights(self, concentrations: Tensor, temperature: float) -> Tensor:
        """Return E[log v_k] + sum_{j<k} E[log(1 - v_j)], shape (k,)."""
        taken, left = tempered_digamma(concentrations, temperature).unbind(1)
        whole = tempered_digamma(concentrations.sum(1), temperature)
        return taken - whole + _before(left - whole)

    def log_normalizer(self, concentrations: Tensor, temperature: float) -> Tensor:
        """Return the sum of the log-beta functions of the sticks."""
        each = tempered_log_gamma(concentrations, temperature).sum()
        return each - tempered_log_gamma(concentrations.sum(1), temperature).sum()


def mean_weights(concentrations: Tensor) -> Tensor:
    """Return the posterior mean of the weights, shape (k,).

    What the sticks leave to components beyond the last one is given to those that there are, in proportion.

    Parameters
    ----------
    concentrations : Tensor, shape (k, 1) of a Dirichlet distribution or (k, 2) of sticks

    Examples
    --------
    >>> mean_weights(torch.tensor([[8.0], [1.0], [1.0]]))
    tensor([0.8000, 0.1000, 0.1000])
    """
    if concentrations.shape[1] == 1:
        weights = concentrations[:, 0]
    else:
        shares = concentrations / concentrations.sum(1, keepdim=True)
        weights = shares[:, 0] * _before(shares[:, 1].log()).exp()
    return weights / weights.sum()


def _before(values: Tensor) -> Tensor:
    """Return the sum of what comes before each entry."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)[:-1]])
