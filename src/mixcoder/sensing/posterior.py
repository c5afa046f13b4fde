"""What y = H x + e says about x: the posterior of a mixture of Gaussians, again a mixture, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.errors import DataError
from mixcoder.ops.gaussian import LOG_2PI
from mixcoder.sensing.operators import Operator, as_operator
from mixcoder.sensing.prior import GaussianPrior, cholesky_of

# Numbers in the widest array of a block of rows.
_BLOCK = 1 << 20

_HORIZON = 1e300


@dataclass(frozen=True)
class Posterior:
    r"""The posterior of x given y, for every row of y at once.

    With :math:`y = Hx + e`, :math:`e \sim N(0, s^2 I)` and :math:`x \sim \sum_k \pi_k N(\mu_k, \Sigma_k)`:

    .. math::
        S_k &= H \Sigma_k H' + s^2 I \\
        r_k &\propto \pi_k\, N(y;\ H\mu_k, S_k) \\
        m_k &= \mu_k + \Sigma_k H' S_k^{-1} (y - H\mu_k) \\
        C_k &= \Sigma_k - \Sigma_k H' S_k^{-1} H \Sigma_k \\
        p(x|y) &= \sum_k r_k\, N(x;\ m_k, C_k)

    Made by :func:`posterior`. Everything is computed in float64, in blocks of rows, and answered in the dtype of y;
    what depends on the operator only is factorised once.

    Parameters
    ----------
    y : Tensor, shape (n, m)
        Observations as they came.
    operator : Operator, shape (m, d)
    noise_variance : float
        s^2, in squared units of y.
    temperature : float
        T in the weights, proportional to :math:`(\pi_k N(y; H\mu_k, S_k))^{1/T}`: 1 is Bayes, 0 the argmax.
    prior : GaussianPrior
    centred : Tensor, shape (n, m)
        y less H times the shift of the prior.
    measured : Tensor, shape (k, m)
        H mu_k.
    gains : Tensor, shape (g, m, d)
        Transposes of Sigma_k H' S_k^-1, one a component, or one for all.
    variances : Tensor, shape (g, d)
        Diagonals of C_k.
    log_dets : Tensor, shape (g,)
        log |S_k|.
    log_joint : Tensor, shape (n, k)
        log pi_k + log N(y; H mu_k, S_k), in nats.

    References
    ----------
    Yu & Sapiro (2011), "Statistical compressed sensing of Gaussian mixture models", section III.
    """

    y: Tensor
    operator: Operator
    noise_variance: float
    temperature: float
    prior: GaussianPrior
    centred: Tensor
    measured: Tensor
    gains: Tensor
    variances: Tensor
    log_dets: Tensor
    log_joint: Tensor

    @property
    def n_rows(self) -> int:
        """Number of observations."""
        return int(self.y.shape[0])

    def at(self, temperature: float) -> Self:
        """Return the posterior with the weights of another temperature."""
        return replace(self, temperature=checked_temperature(temperature))

    @property
    def weights(self) -> Tensor:
        r"""The weights of the components, softargmax(log_joint / T), shape (n, k)."""
        return self._weights().to(self.y.dtype)

    @property
    def log_evidence(self) -> Tensor:
        r"""The log-density of each observation, :math:`\log \sum_k \pi_k N(y; H\mu_k, S_k)`, in nats, shape (n,)."""
        return torch.logsumexp(self.log_joint, 1).to(self.y.dtype)

    @property
    def component_means(self) -> Tensor:
        """The mean of each component of the posterior, m_k, shape (n, k, d)."""
        means = self.y.new_empty(self.n_rows, *self.prior.means.shape)
        for rows in self._blocks():
            for k in range(means.shape[1]):
                means[rows, k] = (self._component(k, rows) + self.prior.shift).to(means.dtype)
        return means

    @property
    def mean(self) -> Tensor:
        r"""The posterior mean :math:`\sum_k r_k m_k`, the estimate of least squared error, shape (n, d)."""
        result, weights = self._empty(), self._weights()
        for rows in self._blocks():
            result[rows] = (self._mean(weights[rows], rows) + self.prior.shift).to(result.dtype)
        return result

    @property
    def variance(self) -> Tensor:
        r"""The variance of each feature, :math:`\sum_k r_k \left[C_k + (m_k - m)^2\right]`, shape (n, d)."""
        result, weights = self._empty(), self._weights()
        for rows in self._blocks():
            r = weights[rows]
            mean = self._mean(r, rows)
            total = torch.zeros_like(mean)
            for k in self.prior.used:
                apart = self._component(k, rows) - mean
                total += r[:, k, None] * (apart.square_() + self.variances[self.prior.group(k)])
            result[rows] = total.to(result.dtype)
        return result

    def hard(self, rule: str = "marginal") -> tuple[Tensor, Tensor]:
        r"""Return the mean m_k of one component a row, shape (n, d), and that component, int64, shape (n,).

        "marginal" takes the largest weight. "joint" takes the component that is most probable together with its best
        row, the rule of piecewise linear estimation (PLE):

        .. math:: \arg\min_k \frac{|y - H m_k|^2}{s^2} + (m_k-\mu_k)' \Sigma_k^{-1} (m_k-\mu_k)
                  + \log|\Sigma_k| - 2\log\pi_k

        The first two terms are :math:`(y-H\mu_k)' S_k^{-1} (y-H\mu_k)`, so the rules differ only in
        :math:`\log|\Sigma_k|` against :math:`\log|S_k|`.

        References
        ----------
        Yu, Sapiro & Mallat (2012), "Solving inverse problems with piecewise linear estimators", equation 7.
        """
        if rule not in ("marginal", "joint"):
            raise ValueError(f"rule must be 'marginal' or 'joint', got {rule!r}.")
        score = self.log_joint
        if rule == "joint":
            score = score + 0.5 * (self.log_dets - self.prior.log_dets())
        index = rowwise_argmax(score)
        result = self._empty()
        for k in self.prior.used:
            rows = (index == k).nonzero()[:, 0]
            result[rows] = (self._component(k, rows) + self.prior.shift).to(result.dtype)
        return result, index

    def sample(self, n_draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        r"""Return draws from the posterior, shape (n_draws, n, d), and the component of each, shape (n_draws, n).

        A draw of the prior and of its observation is corrected by what it got wrong, so that no :math:`C_k` is ever
        factorised (Matheron's rule):

        .. math:: x = x_0 + \Sigma_k H' S_k^{-1} (y - H x_0 - e_0), \quad x_0 \sim N(\mu_k, \Sigma_k),\
                  e_0 \sim N(0, s^2 I)
        """
        if n_draws < 1:
            raise ValueError(f"n_draws must be at least 1, got {n_draws!r}.")
        index = torch.multinomial(self._weights(), n_draws, replacement=True, generator=generator).T
        draws = self.y.new_empty(n_draws, self.n_rows, self.prior.means.shape[1])
        for draw, component in zip(draws, index, strict=True):
            for rows in self._blocks():
                draw[rows] = self._draw(component[rows], rows, generator).to(draw.dtype)
        return draws, index

    # One block of rows

    def _blocks(self) -> Iterator[slice]:
        size = max(1, _BLOCK // max(self.prior.means.shape[1], self.centred.shape[1]))
        return (slice(at, at + size) for at in range(0, self.n_rows, size))

    def _empty(self) -> Tensor:
        return self.y.new_empty(self.n_rows, self.prior.means.shape[1])

    def _weights(self) -> Tensor:
        if self.temperature == 0:
            return torch.nn.functional.one_hot(
                rowwise_argmax(self.log_joint), self.log_joint.shape[1]
            ).double()
        level = self.log_joint - self.log_joint.amax(1, keepdim=True)
        return torch.softmax(level / self.temperature, 1)

    def _component(self, k: int, rows: slice | Tensor) -> Tensor:
        """Return m_k less the shift of the prior, shape (n, d)."""
        return self.prior.means[k] + (self.centred[rows] - self.measured[k]) @ self.gains[self.prior.group(k)]

    def _mean(self, weights: Tensor, rows: slice) -> Tensor:
        """Return the mean less the shift of the prior, shape (n, d)."""
        y = self.centred[rows]
        mean = weights @ self.prior.means
        if len(self.gains) == 1:
            return mean + (y - weights @ self.measured) @ self.gains[0]
        for k in self.prior.used:
            mean += (weights[:, k, None] * (y - self.measured[k])) @ self.gains[k]
        return mean

    def _draw(self, index: Tensor, rows: slice, generator: torch.Generator) -> Tensor:
        prior = self.prior
        deviation = prior.deviations(index, generator)
        y = self.centred[rows] - self.measured[index] - self.operator.apply(deviation)
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
        y -= math.sqrt(self.noise_variance) * noise
        draw = prior.shift + prior.means[index] + deviation
        if len(self.gains) == 1:
            return draw + y @ self.gains[0]
        for k in prior.used:
            chosen = index == k
            draw[chosen] += y[chosen] @ self.gains[k]
        return draw


def posterior(
    model: MixtureAutoencoder, y: Tensor, operator: Any, noise_variance: float, *, temperature: float = 1.0
) -> Posterior:
    r"""Return the posterior of x given y = H x + e under a fitted mixture of Gaussians.

    Parameters
    ----------
    model : MixtureAutoencoder
        The prior, of any Gaussian family. Its encoder plays no part.
    y : Tensor, shape (n, m)
        One observation a row, float32 or float64.
    operator : Operator, matrix or LinearOperator, shape (m, d)
        H, the same for all rows.
    noise_variance : float
        Variance of each entry of e, in squared units of y; 0 where no covariance of y is singular.
    temperature : float
        1 is Bayes, 0 the argmax, in between and above softargmax(log_joint / temperature).

    Raises
    ------
    DataError
        If y has the wrong width or holds a value that is not finite.
    ValueError
        If the operator has the wrong width, or there is too little noise for an operator with dependent rows.
    TypeError
        If the components are not Gaussian.

    Examples
    --------
    One number is seen, the sum of two features; its noise is as large as their spread:

    >>> from mixcoder.components.gaussian_tied_spherical import (
    ...     GaussianTiedSpherical,
    ...     GaussianTiedSphericalParams,
    ... )
    >>> from mixcoder.encoders import Posterior as Bayes
    >>> from mixcoder.ops.frame import Frame
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> params = GaussianTiedSphericalParams(torch.zeros(1, 2, dtype=torch.float64), one)
    >>> model = MixtureAutoencoder(
    ...     GaussianTiedSpherical(), params, one.log(), Bayes(), Frame.identity(2), torch.ones(2)
    ... )
    >>> seen = posterior(model, torch.tensor([[4.0]]), [[1.0, 1.0]], noise_variance=2.0)
    >>> seen.mean, seen.variance
    (tensor([[1., 1.]]), tensor([[0.7500, 0.7500]]))
    """
    prior = GaussianPrior.of(model)
    operator = as_operator(operator)
    temperature = checked_temperature(temperature)
    y = checked_observation(y, operator, model.n_features)
    if not 0 <= noise_variance < math.inf:
        raise ValueError(f"noise_variance must be non-negative and finite, got {noise_variance!r}.")
    centred = y.double() - operator.apply(prior.shift[None])
    measured = operator.apply(prior.means)  # (k, m)
    crosses = prior.crosses(operator)  # (g, d, m)
    g, d, m = crosses.shape
    covariances = operator.apply(crosses.mT.reshape(g * m, d)).reshape(g, m, m)
    covariances = 0.5 * (covariances + covariances.mT)
    covariances.diagonal(dim1=1, dim2=2).add_(noise_variance)
    factors = cholesky_of(covariances, prior.used, noise_variance)
    white = torch.linalg.solve_triangular(factors, crosses.mT, upper=False)  # (g, m, d)
    log_dets = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    constants = prior.log_weights - 0.5 * (log_dets + m * LOG_2PI)  # (k,)
    log_joint = centred.new_full((len(y), len(measured)), -torch.inf)
    for k in prior.used:
        log_joint[:, k] = constants[k] - 0.5 * _square_norms(centred - measured[k], factors[prior.group(k)])
    return Posterior(
        y=y,
        operator=operator,
        noise_variance=float(noise_variance),
        temperature=temperature,
        prior=prior,
        centred=centred,
        measured=measured,
        gains=torch.linalg.solve_triangular(factors.mT, white, upper=True),
        variances=(prior.variances() - white.square().sum(1)).clamp_min(0),
        log_dets=log_dets,
        log_joint=log_joint,
    )


def _square_norms(residuals: Tensor, factor: Tensor) -> Tensor:
    """Return |L^-1 r|^2 of each row, shape (n,); of a row beyond all horizons, the largest that is a number."""
    whitened = torch.linalg.solve_triangular(factor, residuals.T, upper=False)
    return whitened.square().sum(0).clamp_max(_HORIZON)


def checked_observation(y: Tensor, operator: Operator, n_features: int) -> Tensor:
    """Return the observations, floating, of the width of an operator that fits the model."""
    m, d = operator.shape
    if d != n_features:
        raise ValueError(
            f"The operator sees {d} features (shape {(m, d)}), but this model has {n_features}; its matrix must have "
            f"shape (n_measurements, {n_features})."
        )
    if y.ndim != 2 or y.shape[1] != m:
        raise DataError(
            f"y has shape {tuple(y.shape)}, expected (n_rows, {m}): one observation of {m} measurements a row. A "
            "single one is y[None]."
        )
    if not y.is_floating_point() or y.dtype.itemsize < 4:
        y = y.to(torch.float64)
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise DataError(
            f"y contains NaN or infinity, {int(bad.sum())} of {y.numel()} values, first at row {row}, measurement "
            f"{column}. What was not measured has no row in the operator: leave it out, or use impute for rows with "
            "missing entries."
        )
    return y


def checked_temperature(temperature: float) -> float:
    """Return a temperature that is a non-negative finite number."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be non-negative and finite, got {temperature!r}.")
    return float(temperature)


__all__ = ["Posterior", "posterior"]
