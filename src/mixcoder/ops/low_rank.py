"""Gaussians whose covariance is low rank plus diagonal: W W' + Psi, never written out."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from mixcoder.ops.gaussian import LOG_2PI

# Steps of the subspace iteration that finds the first axes of many features, and axes beyond those asked for.
_STEPS, _SPARE = 3, 8

# Up to so many features all of them are found.
_ALL_DIRECTIONS = 160

# Axes: k components, d features, q latent axes. Noise variances have shape (k, d), or (k, 1) where all
# features share one. A component of lower rank than q has columns of zeros behind its own.


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


def principal_axes(
    covariances: Tensor,
    n_latent: int | tuple[int, ...],
    floor: Tensor,
    *,
    shares: Tensor | None = None,
    n_groups: int | None = None,
    prior: tuple[float, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return loadings, shape (k, d, q), and the noise variance, shape (k,), most likely for covariances.

    .. math:: s^2 = \frac1{d-q}\sum_{j>q} l_j, \qquad W = U_q (L_q - s^2 I)^{1/2}

    With s^2 below the floor, it is the floor, and axes whose variance is no larger have no loadings: the exact
    maximiser under that constraint, because the likelihood of s^2 has no other peak. Every axis points to
    where its largest entry is positive.

    Parameters
    ----------
    covariances : Tensor, shape (k, d, d)
        Symmetric; may be singular.
    n_latent : int or tuple of int
        q, less than d, or one a component.
    floor : Tensor, shape (1,)
        Smallest s^2, positive.
    shares : Tensor, shape (k,), optional
        Rows of each component, relative to an average one.
    n_groups : int, optional
        Components share one s^2 in each of so many groups of equal size; by default none do.
    prior : (float, Tensor), optional
        Rows of noise added to each component, relative to an average one's, and their variance.

    References
    ----------
    Tipping & Bishop (1999), equations 7 and 8.
    """
    k = covariances.shape[0]
    q = largest_rank(n_latent)
    values, vectors = leading_directions(covariances, q)
    has_axis = axis_mask(n_latent, k, covariances.device)
    if shares is None and prior is None and has_axis is None:
        noise = torch.maximum(values[:, q:].mean(1), floor)
    else:
        every = torch.ones(k, q, dtype=torch.bool, device=values.device)
        shares = values.new_ones(k) if shares is None else shares
        noise = left_out(values, every if has_axis is None else has_axis, shares, n_groups, prior)
        noise = torch.maximum(noise, floor)
    signal = (values[:, :q] - noise[:, None]).clamp_min(0)
    if has_axis is not None:
        signal = signal * has_axis
    return vectors * signal.sqrt()[:, None, :], noise


def orthogonal(loadings: Tensor) -> Tensor:
    """Return loadings of the same W W' with orthogonal columns by falling length, shape (k, d, q)."""
    axes, sizes, _ = torch.linalg.svd(loadings, full_matrices=False)
    found = axes * sizes[:, None]
    return torch.nn.functional.pad(found, (0, loadings.shape[2] - found.shape[2]))


def leading_directions(covariances: Tensor, n_latent: int) -> tuple[Tensor, Tensor]:
    """Return all eigenvalues, falling, shape (k, d), and the first eigenvectors, shape (k, d, q).

    Every eigenvector points to where its largest entry is positive.
    """
    values, vectors = torch.linalg.eigh(covariances)  # ascending
    values, vectors = values.flip(1), vectors.flip(2)[:, :, :n_latent]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))  # (k, 1, q)
    return values, torch.where(largest < 0, -vectors, vectors)


def strongest(covariance: Tensor, n_latent: int) -> tuple[Tensor, Tensor]:
    """Return K R for the strongest directions R of a covariance K, shape (d, q), and their variances, shape (q,).

    Of many features by subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4): all directions would cost
    more than the rest of the fit.
    """
    d = len(covariance)
    if d <= _ALL_DIRECTIONS:
        values, directions = leading_directions(covariance[None], n_latent)
        values, directions = values[0, :n_latent], directions[0]
    else:
        generator = torch.Generator().manual_seed(0)
        wide = min(d, n_latent + _SPARE)
        directions = torch.randn(d, wide, generator=generator, dtype=covariance.dtype).to(covariance.device)
        for _ in range(_STEPS):
            directions = torch.linalg.qr(covariance @ directions)[0]
        values, turn = torch.linalg.eigh(directions.T @ covariance @ directions)
        values = values.flip(0)[:n_latent]
        directions = directions @ turn.flip(1)[:, :n_latent]
    return covariance @ directions, values


def left_out(
    values: Tensor,
    has_axis: Tensor,
    shares: Tensor,
    n_groups: int | None,
    prior: tuple[float, Tensor] | None,
) -> Tensor:
    r"""Return the noise variance most likely for spectra, shape (k,).

    The likelihood is stationary in s^2 where it is the mean of all variances that no axis carries, those of axes
    that carry less than s^2 among them,

    .. math:: \sum_k n_k \Bigl[\sum_{j>q_k} (s^2 - l_{kj}) + \sum_{j\le q_k} (s^2 - l_{kj})_+\Bigr]
              + \sum_k m d\, (s^2 - v) = 0.

    The left side rises with s^2: there is one such place, and it is the smallest mean that taking further axes in,
    the weakest first, can give.

    Parameters
    ----------
    values : Tensor, shape (k, d)
        Eigenvalues, falling.
    has_axis : Tensor, shape (k, q)
    shares : Tensor, shape (k,)
        n, relative to an average component.
    n_groups : int or None
        Groups of components that share s^2; ``None``: none do.
    prior : (float, Tensor) or None
        m and v.
    """
    k, d = values.shape
    q = has_axis.shape[1]
    mass, variance = (0.0, values.new_zeros(())) if prior is None else prior
    top = values[:, :q]
    free = d - has_axis.sum(1)
    base = shares * free + mass * d  # (k,)
    total = shares * (values[:, q:].sum(1) + (top * ~has_axis).sum(1)) + mass * d * variance
    n_pools = k if n_groups is None else n_groups
    candidates, order = torch.where(has_axis, top, torch.inf).view(n_pools, -1).sort(1)
    weights = (shares[:, None] * has_axis).view(n_pools, -1).gather(1, order)
    base, total = base.view(n_pools, -1).sum(1, keepdim=True), total.view(n_pools, -1).sum(1, keepdim=True)
    taken = torch.where(weights > 0, weights * candidates, 0.0)
    means = torch.cat([total, total + taken.cumsum(1)], 1) / torch.cat([base, base + weights.cumsum(1)], 1)
    return means.amin(1).repeat_interleave(k // n_pools)


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


def largest_rank(n_latent: int | tuple[int, ...]) -> int:
    """Return q, the number of columns of the loadings."""
    return max(n_latent) if isinstance(n_latent, tuple) else n_latent


def axis_mask(
    n_latent: int | tuple[int, ...], n_components: int, device: torch.device | None = None
) -> Tensor | None:
    """Return which latent axes each component has, shape (k, q) bool; ``None``: all.

    Several mixtures side by side have the same ranks in turn.
    """
    if not isinstance(n_latent, tuple):
        return None
    if n_components % len(n_latent):
        raise ValueError(
            f"n_latent={n_latent} has {len(n_latent)} ranks, one a component, for {n_components} components."
        )
    ranks = torch.tensor(n_latent, device=device).repeat(n_components // len(n_latent))
    return torch.arange(max(n_latent), device=device) < ranks[:, None]


def n_free_loadings(n_latent: int | tuple[int, ...], n_components: int, n_features: int) -> int:
    """Return how many free parameters the loadings of all components have: a rotation of z changes nothing."""
    ranks = n_latent if isinstance(n_latent, tuple) else (n_latent,) * n_components
    return sum(n_features * q - q * (q - 1) // 2 for q in ranks)


def n_traded(ranks: Sequence[int], n_features: int) -> int:
    r"""Return in how many directions S_0 and W_k can change while no S_0 + W_k W_k' does, for W in general position.

    They are the symmetric matrices :math:`dS_0` that vanish on what is orthogonal to W_k, for each k:

    .. math:: v' \, dS_0 \, v = 0 \quad \text{for all } v \text{ with } W_k'v = 0.

    Each component asks for as many things as such a matrix on d - q features has entries, less those that others have
    asked for already, where they meet. One component trades all of W, two q_1 q_2 numbers, three or more nothing where
    d is no less than q_1 + q_2 + q_3.
    """
    ranks = sorted(ranks)
    if len(ranks) > 2 and n_features >= sum(ranks[:3]):
        return 0
    left = _entries(n_features)
    for place, rank in enumerate(ranks):
        met = sum(_entries(n_features - rank - other) for other in ranks[:place])
        left = max(0, left - max(0, _entries(n_features - rank) - met))
    return left


def even_axes(variances: Tensor, n_latent: int | tuple[int, ...], n_components: int) -> Tensor:
    """Return loadings that give every feature the same variances, shape (d,), by an axis in turn, shape (k, d, q)."""
    d, q = len(variances), largest_rank(n_latent)
    ranks = n_latent if isinstance(n_latent, tuple) else (n_latent,)
    features = torch.arange(d, device=variances.device)
    loadings = variances.new_zeros(len(ranks), d, q)
    for place, rank in enumerate(ranks):
        loadings[place, features, features % rank] = variances.sqrt()
    return loadings.repeat(n_components // len(ranks), 1, 1)


def require_rank(family: str, n_latent: int | tuple[int, ...], n_features: int) -> None:
    """Raise a ValueError unless there are more features than latent axes."""
    if largest_rank(n_latent) >= n_features:
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
    """Raise a ValueError unless the number of latent axes, or each of several, is a whole number of at least one."""
    ranks: Sequence[object] = n_latent if isinstance(n_latent, tuple) and n_latent else (n_latent,)
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, Integral) or int(rank) < 1:
            raise ValueError(
                f"n_latent must be a whole number of at least 1, or a tuple of them, one a component, got "
                f"{n_latent!r}."
            )


def _entries(size: int) -> int:
    return size * (size + 1) // 2 if size > 0 else 0
