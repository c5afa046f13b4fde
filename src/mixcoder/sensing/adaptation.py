"""A prior that comes to know the rows at hand, though they are noisy; and what it then expects of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.ops.gaussian import log_det_whitener, whitened_square_norms, whitening_factors
from mixcoder.sensing.given import as_tensor, as_variance
from mixcoder.sensing.prior import GaussianPrior

# Rows in a block: their distances to a component stay in cache.
_BLOCK = 1 << 13

# Components that are less probable than this share of a row's most probable one are left out: less than rounding.
_NEGLIGIBLE = 2.0**-60


def adapted_prior(
    prior: Any,
    y: Any,
    noise_variance: float,
    *,
    strength: float = 50.0,
    n_steps: int = 3,
    negligible: float = _NEGLIGIBLE,
    on_step: Callable[[int], None] | None = None,
) -> GaussianPrior:
    r"""Return a mixture moved towards rows that are seen through white noise, y = x + e.

    Each step is one of EM under a prior of the parameters (Dirichlet and normal-inverse-Wishart) that counts for
    kappa rows like those of the mixture it began with, :math:`\pi^0, \mu^0, \Sigma^0`: the log-evidence of the rows and
    the log-density of the parameters never fall together. With r the posterior of the components, m and C those of a
    row under each, and :math:`N_k = \sum_n r_{nk}`,

    .. math::
        \pi_k = \frac{N_k + \kappa \pi_k^0}{N + \kappa}, \qquad
        \mu_k = \frac{\sum_n r_{nk} m_{nk} + \kappa \mu_k^0}{N_k + \kappa}, \qquad
        \Sigma_k = \frac{\sum_n r_{nk} [(m_{nk} - \mu_k)(\cdot)' + C_k] + \kappa [\Sigma_k^0 +
        (\mu_k - \mu_k^0)(\cdot)']}{N_k + \kappa}

    Parameters
    ----------
    prior : GaussianPrior, MixtureAutoencoder or fitted estimator
    y : Tensor or array, shape (n, d)
    noise_variance : float
        Positive.
    strength : float
        kappa, positive.
    n_steps : int
        Zero returns the prior with its covariances written out.
    negligible : float
        Components whose posterior is below this share of a row's most probable one are left out of its expectations,
        and the others share their weight; from 0 up to 1. By default less than rounding; 1e-3 takes less time.
    on_step : callable, optional
        Told after each step how many there have been.

    References
    ----------
    Luo, Chan & Nguyen (2016), "Adaptive image denoising by mixture adaptation".

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> prior = GaussianPrior(0 * one, 0 * one, 0 * one[None], one[None])
    >>> y = 5 + 2 * torch.randn(10_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> found = adapted_prior(prior, y, 1.0, strength=1.0, n_steps=50)
    >>> found.means.round(decimals=1), found.spreads.round(decimals=1)  # 2^2 - 1
    (tensor([[5.]], dtype=torch.float64), tensor([[[3.]]], dtype=torch.float64))
    """
    prior, y = GaussianPrior.of(prior), as_tensor("y", y)
    y = y if y.is_floating_point() else y.double()
    if y.ndim != 2 or y.shape[1] != prior.n_features or not bool(torch.isfinite(y).all()):
        raise DataError(
            f"Rows of {prior.n_features} features were expected, all finite, got shape {tuple(y.shape)} or a row "
            "with NaN or infinity."
        )
    noise_variance = as_variance("noise_variance", noise_variance, positive=True)
    strength = as_variance("strength", strength, positive=True)
    if n_steps < 0:
        raise ValueError(f"n_steps must be non-negative, got {n_steps!r}.")
    if not 0 <= negligible < 1:
        raise ValueError(f"negligible must be at least 0 and less than 1, got {negligible!r}.")
    first = current = _written_out(prior)
    for done in range(1, n_steps + 1):
        current = _maximised(current, first, _sums(current, y, noise_variance, negligible), strength)
        if on_step is not None:
            on_step(done)
    return current


def expected_rows(
    prior: GaussianPrior, y: Tensor, noise_variance: float, negligible: float = _NEGLIGIBLE
) -> tuple[Tensor, Tensor]:
    """Return the posterior mean of each row of y = x + e, and its mean variance a feature, shapes (n, d) and (n,).

    ``negligible`` is that of :func:`adapted_prior`.
    """
    means, variances = torch.empty_like(y), y.new_empty(len(y))
    for at, block in _blocks(prior, y, noise_variance, negligible):
        size = len(block.rows)
        mean, square = torch.zeros_like(block.rows), block.rows.new_zeros(size)
        for k, chosen, r, moved in block.parts():
            estimate = block.means[k] + moved
            mean.index_add_(0, chosen, r[:, None] * estimate)
            square.index_add_(0, chosen, r * (estimate.square().sum(1) + block.traces[k]))
        means[at : at + size] = mean
        variances[at : at + size] = (square - mean.square().sum(1)).clamp_min(0) / y.shape[1]
    return means, variances


@dataclass(frozen=True)
class _Seen:
    """Rows of a block with the components that may have made them."""

    rows: Tensor
    weights: Tensor
    means: Tensor
    gains: Tensor
    traces: Tensor

    def parts(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield each component, its rows, their (renormalised) weights and m - mu of each."""
        for k in range(len(self.means)):
            chosen = (self.weights[:, k] > 0).nonzero()[:, 0]
            if len(chosen):
                yield (
                    k,
                    chosen,
                    self.weights[chosen, k],
                    (self.rows[chosen] - self.means[k]) @ self.gains[k].T,
                )


def _blocks(
    prior: GaussianPrior, y: Tensor, noise_variance: float, negligible: float
) -> Iterator[tuple[int, _Seen]]:
    covariances = prior.covariances().double()
    noisy = covariances.clone()
    noisy.diagonal(dim1=1, dim2=2).add_(noise_variance)
    white, _ = whitening_factors(noisy)
    gains = covariances @ white.mT @ white
    left = covariances - gains @ covariances
    constants = prior.log_weights[prior.used] + log_det_whitener(white)
    means = (prior.means + prior.shift)[prior.used].to(y)
    traces = left.diagonal(dim1=1, dim2=2).sum(1).to(y)
    gains, white, constants = gains.to(y), white.to(y), constants.to(y)
    for at in range(0, len(y), _BLOCK):
        rows = y[at : at + _BLOCK]
        log_joint = constants - 0.5 * whitened_square_norms(rows, means, white)
        weights = torch.softmax(log_joint, 1)
        # A share of the largest: among many components none may be probable by itself.
        weights = torch.where(weights < negligible * weights.amax(1, keepdim=True), 0.0, weights)
        weights = weights / weights.sum(1, keepdim=True)
        yield at, _Seen(rows, weights, means, gains, traces)


@dataclass
class _Sums:
    """Expected sums of the rows; firsts and seconds about the means of the components."""

    counts: Tensor
    firsts: Tensor
    seconds: Tensor


def _sums(prior: GaussianPrior, y: Tensor, noise_variance: float, negligible: float) -> _Sums:
    k, d = prior.means.shape
    new = prior.means.new_zeros
    sums = _Sums(new(k), new(k, d), new(k, d, d))
    gains = new(k, d, d)
    for _, block in _blocks(prior, y, noise_variance, negligible):
        for c, _, r, moved in block.parts():
            sums.counts[c] += r.double().sum()
            sums.firsts[c] += (r @ moved).double()
            sums.seconds[c] += ((moved * r[:, None]).T @ moved).double()
        gains = block.gains.double()
    # What each row adds of its own posterior is C = (I - G) Sigma = s^2 G, with the gain G = Sigma (Sigma + s^2 I)^-1.
    sums.seconds += sums.counts[:, None, None] * noise_variance * 0.5 * (gains + gains.mT)
    return sums


def _maximised(current: GaussianPrior, first: GaussianPrior, sums: _Sums, strength: float) -> GaussianPrior:
    total = sums.counts + strength
    apart = first.means - current.means
    moved = (sums.firsts + strength * apart) / total[:, None]
    back = apart - moved
    # About the new means: of the rows, and of those that the prior counts for.
    cross = sums.firsts[:, :, None] * moved[:, None, :]
    own = sums.seconds - cross - cross.mT + sums.counts[:, None, None] * moved[:, :, None] * moved[:, None, :]
    prior = strength * (first.spreads + back[:, :, None] * back[:, None, :])
    spreads = (own + prior) / total[:, None, None]
    weights = sums.counts + strength * first.log_weights.exp()
    return replace(
        current,
        log_weights=(weights / weights.sum()).log(),
        means=current.means + moved,
        spreads=0.5 * (spreads + spreads.mT),
    )


def _written_out(prior: GaussianPrior) -> GaussianPrior:
    """Return the components that have a weight, with covariances of their own, in float64."""
    used = prior.used
    return GaussianPrior(
        prior.log_weights[used].double(),
        prior.shift.double(),
        prior.means[used].double(),
        prior.covariances().double(),
    )


__all__ = ["adapted_prior", "expected_rows"]
