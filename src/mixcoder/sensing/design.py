"""Which measurements to take: the best operator for one Gaussian, in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixcoder.sensing.operators import Matrix, Operator, as_operator
from mixcoder.sensing.prior import GaussianPrior


def designed_operator(
    model: Any,
    n_measurements: int,
    noise_variance: float = 0.0,
    power: float | None = None,
) -> Matrix:
    r"""Return the operator whose measurements say most about x ~ N(mu, Sigma), and leave the least squared error.

    With Sigma = U diag(l) U', l falling, and e ~ N(0, s^2 I):

    .. math::
        H = U_{1:m}' \quad (HH' = I), \qquad
        H = \mathrm{diag}(\sqrt g)\, U_{1:m}', \quad g_i = (c - s^2/l_i)_+, \quad \sum_i g_i = P

    the first among all H of orthonormal rows, the second among all of at most m rows with tr(HH') = P (water
    filling; c follows from P). One allocation serves both aims. Of a mixture, Sigma is the total covariance: what comes
    out is best for linear estimates, and a good choice for exact ones.

    Parameters
    ----------
    model : MixtureAutoencoder, GaussianPrior or fitted estimator
    n_measurements : int
        m, between 1 and the number of features.
    noise_variance : float
        s^2; it matters only where the power is given.
    power : float, optional
        P; by default the rows are orthonormal.

    Returns
    -------
    Matrix, shape (m, d)
        With a power: of fewer rows where a further one is not worth its power.

    Examples
    --------
    >>> one = GaussianPrior(
    ...     torch.zeros(1, dtype=torch.float64),
    ...     torch.zeros(2, dtype=torch.float64),
    ...     torch.zeros(1, 2, dtype=torch.float64),
    ...     torch.tensor([[4.0, 1.0]], dtype=torch.float64),
    ... )
    >>> designed_operator(one, 2, noise_variance=1.0, power=1.25).values.square().sum(1)
    tensor([1.0000, 0.2500], dtype=torch.float64)

    References
    ----------
    Cover & Thomas (2006), section 9.4; Carson, Chen, Rodrigues, Calderbank & Carin (2012), "Communications-inspired
    projection design with application to compressive sensing".
    """
    prior = GaussianPrior.of(model)
    if not 1 <= n_measurements <= prior.n_features:
        raise ValueError(
            f"n_measurements must be in 1..{prior.n_features}, the number of features, got {n_measurements!r}."
        )
    values, vectors = torch.linalg.eigh(total_covariance(prior))
    values, axes = values.flip(0)[:n_measurements], vectors.flip(1)[:, :n_measurements].T
    if power is None:
        return Matrix(axes.contiguous())
    if not 0 < power < float("inf") or not 0 < noise_variance < float("inf"):
        raise ValueError(
            f"With a power both it and noise_variance must be positive and finite, got {power!r} and "
            f"{noise_variance!r}."
        )
    shares = water_filling(values, noise_variance, power)
    used = shares > 0
    return Matrix(shares[used].sqrt()[:, None] * axes[used])


def water_filling(variances: Tensor, noise_variance: float, power: float) -> Tensor:
    """Return g_i = (c - s^2/l_i)+ with sum P for falling variances l, shape (m,)."""
    depths = torch.where(variances > 0, noise_variance / variances, torch.inf)
    n_used = torch.arange(1, len(depths) + 1, dtype=depths.dtype, device=depths.device)
    levels = (power + depths.cumsum(0)) / n_used
    # As many as stand under water when they are the only ones: the level falls with each until one stays dry.
    used = int((levels > depths).sum())
    return (levels[max(used, 1) - 1] - depths).clamp_min(0)


def total_covariance(prior: GaussianPrior) -> Tensor:
    r"""Return :math:`\sum_k \pi_k (\Sigma_k + (\mu_k - \mu)(\mu_k - \mu)')`, shape (d, d).

    Examples
    --------
    >>> prior = GaussianPrior(
    ...     log_weights=torch.tensor([0.5, 0.5], dtype=torch.float64).log(),
    ...     shift=torch.zeros(2, dtype=torch.float64),
    ...     means=torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64),
    ...     spreads=torch.tensor([[1.0]], dtype=torch.float64),
    ... )
    >>> total_covariance(prior)
    tensor([[2., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    weights = prior.log_weights.exp()
    apart = prior.means - weights @ prior.means
    total = (weights[:, None] * apart).T @ apart
    for k in prior.used:
        spread, loading = prior.spread(k), prior.loading(k)
        total += weights[k] * (torch.diag(spread) if spread.ndim == 1 else spread)
        total += weights[k] * (loading @ loading.T)
    return total


def gaussian_information(covariance: Tensor, operator: Operator | Tensor, noise_variance: float) -> Tensor:
    r"""Return :math:`I(x; y) = \tfrac12 \log|I + H \Sigma H'/s^2|` of one Gaussian, in nats.

    Examples
    --------
    >>> covariance = torch.tensor([[3.0]], dtype=torch.float64)
    >>> gaussian_information(covariance, torch.ones(1, 1, dtype=torch.float64), 1.0).exp()  # sqrt(1 + 3/1)
    tensor(2., dtype=torch.float64)
    """
    seen = _seen(covariance, operator)
    return 0.5 * torch.logdet(torch.eye(len(seen), dtype=seen.dtype) + seen / noise_variance)


def gaussian_error(covariance: Tensor, operator: Operator | Tensor, noise_variance: float) -> Tensor:
    r"""Return the least mean squared error, :math:`\mathrm{tr}\,\Sigma - \mathrm{tr}\,\Sigma H' S^{-1} H \Sigma`.

    Examples
    --------
    >>> covariance = torch.tensor([[3.0]], dtype=torch.float64)
    >>> gaussian_error(covariance, torch.ones(1, 1, dtype=torch.float64), 1.0)  # 3 - 9/4
    tensor(0.7500, dtype=torch.float64)
    """
    matrix = as_operator(operator).matrix(covariance)
    seen = _seen(covariance, operator)
    seen.diagonal().add_(noise_variance)
    factor = torch.linalg.cholesky(seen)
    white = torch.linalg.solve_triangular(factor, matrix @ covariance, upper=False)
    return covariance.trace() - white.square().sum()


def _seen(covariance: Tensor, operator: Operator | Tensor) -> Tensor:
    matrix = as_operator(operator).matrix(covariance)
    return matrix @ covariance @ matrix.T


__all__ = ["designed_operator", "gaussian_error", "gaussian_information", "total_covariance", "water_filling"]
