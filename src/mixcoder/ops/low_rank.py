"""Gaussians whose covariance is low rank plus diagonal: W W' + Psi, never written out."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from mixcoder.ops.gaussian import LOG_2PI

# Axes: k components, d features, q latent axes. Noise variances have shape (k, d), or (k, 1) where all
# features share one.


def posterior(loadings: Tensor, noise_variances: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return what turns a centred row into its latent mean, and the latent precision's Cholesky factor.

    .. math:: M_k = I + W_k'\Psi_k^{-1}W_k, \qquad z|x,k \sim N(M_k^{-1}W_k'\Psi_k^{-1}(x-\mu_k),\, M_k^{-1})

    Parameters
    ----------
    loadings : Tensor, shape (k, d, q)
        W.
    noise_variances : Tensor, shape (k, d) or (k, 1)
        The diagonal of Psi, positive.

    Returns
    -------
    projections : Tensor, shape (k, q, d)
        M^-1 W' Psi^-1.
    factors : Tensor, shape (k, q, q)
        Lower triangular L with L L' = M.

    References
    ----------
    Tipping & Bishop (1999), equation 6; Ghahramani & Hinton (1996), equation 2.
    """
    scaled = loadings / noise_variances[:, :, None]  # (k, d, q)
    identity = torch.eye(loadings.shape[2], dtype=loadings.dtype, device=loadings.device)
    precisions = identity + loadings.mT @ scaled  # (k, q, q)
    factors = torch.linalg.cholesky(precisions)
    return torch.cholesky_solve(scaled.mT, factors), factors


def log_det(noise_variances: Tensor, factors: Tensor, n_features: int) -> Tensor:
    r"""Return :math:`\log|WW'+\Psi| = \log|\Psi| + \log|M|`, shape (k,)."""
    noise = noise_variances.expand(-1, n_features).log().sum(1)
    return noise + 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)


def latent_means(x: Tensor, means: Tensor, projections: Tensor) -> Tensor:
    """Return E[z | x_n, k], shape (n, k, q)."""
    out = x.new_empty(x.shape[0], means.shape[0], projections.shape[1])
    for k, (mean, projection) in enumerate(zip(means.to(x.dtype), projections.to(x.dtype), strict=True)):
        out[:, k] = (x - mean) @ projection.T
    return out


def log_density(x: Tensor, means: Tensor, loadings: Tensor, noise_variances: Tensor) -> Tensor:
    r"""Return the log-density of N(mu_k, W_k W_k' + Psi_k), shape (n, k).

    .. math:: y'(WW'+\Psi)^{-1}y = \min_z\, (y-Wz)'\Psi^{-1}(y-Wz) + z'z

    The minimum is at the latent mean (Woodbury). Squares are added, where the usual form subtracts two
    numbers that grow with the signal: what is left is exact however small the noise. O(n k d q).
    """
    projections, factors = posterior(loadings, noise_variances)
    d = x.shape[1]
    constants = -0.5 * (log_det(noise_variances, factors, d) + d * LOG_2PI)
    scales = noise_variances.rsqrt()
    out = x.new_empty(x.shape[0], means.shape[0])
    for k in range(means.shape[0]):
        centred = x - means[k].to(x.dtype)
        z = centred @ projections[k].to(x.dtype).T  # (n, q)
        rest = (centred - z @ loadings[k].to(x.dtype).T).mul_(scales[k].to(x.dtype))
        out[:, k] = rest.square().sum(1) + z.square().sum(1)
    return out.mul_(-0.5).add_(constants.to(x.dtype))


def largest_terms(magnitude: Tensor, means: Tensor, noise_variances: Tensor) -> float:
    """Return how large the terms of a square norm are before they cancel, for a row of typical size."""
    reach = magnitude + means.abs()  # (k, d)
    return float((reach.square() / noise_variances).sum(1).max())


def precision_matrices(loadings: Tensor, noise_variances: Tensor) -> Tensor:
    r"""Return :math:`\Psi^{-1} - \Psi^{-1} W M^{-1} W' \Psi^{-1}`, shape (k, d, d)."""
    projections, _ = posterior(loadings, noise_variances)
    reduced = -(loadings / noise_variances[:, :, None]) @ projections
    reduced = 0.5 * (reduced + reduced.mT)
    reduced.diagonal(dim1=1, dim2=2).add_(noise_variances.reciprocal())
    return reduced


def principal_axes(covariances: Tensor, n_latent: int, floor: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return loadings, shape (k, d, q), and the noise variance, shape (k,), most likely for covariances.

    .. math:: s^2 = \frac1{d-q}\sum_{j>q} l_j, \qquad W = U_q (L_q - s^2 I)^{1/2}

    With s^2 below the floor, it is the floor, and axes whose variance is no larger have no loadings: the exact
    maximiser under that constraint, because the likelihood of s^2 has no other peak. Every axis points to
    where its largest entry is positive.

    Parameters
    ----------
    covariances : Tensor, shape (k, d, d)
        Symmetric; may be singular.
    n_latent : int
        q, less than d.
    floor : Tensor, shape (1,)
        Smallest s^2, positive.

    References
    ----------
    Tipping & Bishop (1999), equations 7 and 8.
    """
    values, vectors = torch.linalg.eigh(covariances)  # ascending
    values, vectors = values.flip(1), vectors.flip(2)[:, :, :n_latent]
    noise = torch.maximum(values[:, n_latent:].mean(1), floor)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))  # (k, 1, q)
    vectors = torch.where(largest < 0, -vectors, vectors)
    signal = (values[:, :n_latent] - noise[:, None]).clamp_min(0)
    return vectors * signal.sqrt()[:, None, :], noise


def draw(
    means: Tensor, loadings: Tensor, noise_variances: Tensor, index: Tensor, generator: torch.Generator
) -> Tensor:
    """Return mu_k + W_k z + Psi_k^(1/2) e for each k of ``index``, z and e standard normal, shape (n, d)."""
    q, d = loadings.shape[2], loadings.shape[1]
    normal = torch.randn(len(index), q + d, generator=generator, dtype=means.dtype, device=means.device)
    noise = normal[:, q:] * noise_variances.sqrt()[index]
    return decode_latent(means, loadings, index, normal[:, :q]) + noise


def decode_latent(means: Tensor, loadings: Tensor, index: Tensor, z: Tensor) -> Tensor:
    """Return mu_k + W_k z_n for the component k of each row, shape (n, d)."""
    rows = means[index].to(z.dtype)
    for k in range(means.shape[0]):
        chosen = index == k
        rows[chosen] += z[chosen] @ loadings[k].to(z.dtype).T
    return rows


def require_rank(family: str, n_latent: int, n_features: int) -> None:
    """Raise a ValueError unless there are more features than latent axes."""
    if n_latent >= n_features:
        remedy = (
            f"take n_latent <= {n_features - 1}, or GaussianFull"
            if n_features > 1
            else "one feature has no room for a latent axis; take GaussianSpherical"
        )
        raise ValueError(
            f"{family}(n_latent={n_latent}) needs more features than latent axes, the rows have {n_features} "
            f"feature(s): {remedy}."
        )


def require_whole(n_latent: object) -> None:
    """Raise a ValueError unless the number of latent axes is a whole number of at least one."""
    if isinstance(n_latent, bool) or not isinstance(n_latent, Integral) or int(n_latent) < 1:
        raise ValueError(f"n_latent must be a whole number of at least 1, got {n_latent!r}.")
