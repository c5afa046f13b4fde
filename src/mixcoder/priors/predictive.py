"""What the next row looks like when the parameters are not known but believed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixcoder.components.gaussian_diagonal import GaussianDiagonalParams
from mixcoder.components.gaussian_full import GaussianFullParams
from mixcoder.components.gaussian_spherical import GaussianSphericalParams
from mixcoder.components.gaussian_tied import GaussianTiedParams
from mixcoder.ops.gaussian import LOG_2PI, log_det_whitener, whitened_square_norms
from mixcoder.priors.mixture import MixturePosterior


def log_predictive(posterior: MixturePosterior, temperature: float, x: Tensor) -> Tensor:
    r"""Return the log-density of each row given its component, parameters integrated out, shape (n, k).

    .. math::
        p(x|k) = t_{\nu_k - D + 1}\!\left( x;\ m_k,\ \frac{\beta_k + 1}{\beta_k (\nu_k - D + 1)} V_k \right)

    for full and tied covariances; for diagonal ones a product over the features of univariate Student
    densities with nu_k degrees of freedom; for round ones a Student density with nu_k D. At temperature 0,
    where nothing is left to integrate, the plug-in Gaussian.

    Parameters
    ----------
    posterior : MixturePosterior
    temperature : float
        beta_k and nu_k are divided by it.
    x : Tensor, shape (n, d)

    References
    ----------
    Bishop (2006), equations 10.81 and 10.82.

    Examples
    --------
    >>> from mixcoder.priors import Dirichlet, MixturePrior, conjugate_prior
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
    >>> far = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    >>> bool(
    ...     log_predictive(posterior, 1.0, far) > log_predictive(posterior, 0.0, far)
    ... )  # heavier tails than plugged in
    True
    """
    gaussians = posterior.gaussians[0]
    n, (k, d) = x.shape[0], gaussians.means.shape
    degrees = posterior.degrees_of_freedom
    inflation = 1.0 + temperature / posterior.mean_precisions
    if isinstance(gaussians, GaussianDiagonalParams):
        result = x.new_empty(n, k)
        for j in range(k):
            variances = gaussians.variances[j] * inflation[j]
            squares = (x - gaussians.means[j]).square() / variances
            dof = degrees[j].expand(d)
            result[:, j] = _log_student(squares, variances.log(), dof, temperature, 1).sum(1)
        return result
    if isinstance(gaussians, GaussianSphericalParams):
        # V / nu is the covariance already in units of nu D degrees of freedom.
        squares = torch.cdist(x, gaussians.means, compute_mode="donot_use_mm_for_euclid_dist").square()
        variances = gaussians.variances * inflation
        return _log_student(squares / variances, d * variances.log(), degrees * d, temperature, d)
    if isinstance(gaussians, GaussianFullParams):
        whiteners = gaussians.whiteners
    else:
        assert isinstance(gaussians, GaussianTiedParams)
        whiteners = gaussians.whitener.expand(k, d, d)
    dof = degrees - temperature * (d - 1)  # over the temperature, the degrees of freedom of q
    scale = inflation * degrees / dof
    squares = whitened_square_norms(x, gaussians.means, whiteners) / scale
    log_det = d * scale.log() - 2.0 * log_det_whitener(whiteners)
    return _log_student(squares, log_det, dof, temperature, d)


def _log_student(squares: Tensor, log_det: Tensor, dof: Tensor, temperature: float, d: int) -> Tensor:
    """Return the log-density of a d-variate Student distribution with dof / temperature degrees of freedom.

    Parameters
    ----------
    squares : Tensor, shape (n, k)
        Squared distances in units of the scale matrix.
    log_det : Tensor, shape (k,)
        Of the scale matrix.
    """
    if temperature == 0:
        return -0.5 * (squares + log_det + d * LOG_2PI)
    dof = dof / temperature
    constant = torch.lgamma(0.5 * (dof + d)) - torch.lgamma(0.5 * dof)
    constant = constant - 0.5 * (d * (math.log(math.pi) + dof.log()) + log_det)
    return constant - 0.5 * (dof + d) * torch.log1p(squares / dof)
