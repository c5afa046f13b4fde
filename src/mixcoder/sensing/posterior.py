"""What y = H x + e says about x: the posterior of a mixture of Gaussians, again a mixture, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mixcoder.encoders.argmax import rowwise_argmax
from mixcoder.errors import DataError
from mixcoder.sensing.given import as_generator, as_variance
from mixcoder.sensing.grouped import GroupedPosterior
from mixcoder.sensing.low_rank import view_of
from mixcoder.sensing.masks import MaskedView, RowMasks
from mixcoder.sensing.operators import Operator, Rows, as_operator
from mixcoder.sensing.prior import GaussianPrior
from mixcoder.sensing.views import Index, View, singular

# Numbers in the widest array of a block of rows.
_BLOCK = 1 << 20

_HORIZON = 1e300

# Below this share of a row a component is not asked for its mean: less than rounding.
_NEGLIGIBLE = 2.0**-60


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
    view : View
        H and the components of the prior in coordinates in which S_k is cheap: dense, low rank or masked.
    seen : Tensor, shape (n, r)
        y less H times the shift of the prior, in coordinates of the view.
    expected : Tensor, shape (k, r)
        H mu_k in coordinates of the view.
    log_joint : Tensor, shape (n, k)
        log pi_k + log N(y; H mu_k, S_k), in nats.

    References
    ----------
    Yu & Sapiro (2011), "Statistical compressed sensing of Gaussian mixture models", section III.

    Examples
    --------
    >>> from mixcoder import GaussianMixture
    >>> mixture = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> seen = posterior(mixture.model_, torch.tensor([[2.0]]), [[1.0, 0.0]], noise_variance=1.0)
    >>> seen.mean, seen.variance
    (tensor([[1.0000, 0.5000]]), tensor([[0.5000, 0.8750]]))
    """

    y: Tensor
    operator: Operator | RowMasks
    noise_variance: float
    temperature: float
    prior: GaussianPrior
    view: View
    seen: Tensor
    expected: Tensor
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
                chosen = self._chosen(r, k, rows)
                place = chosen - rows.start
                apart = self._component(k, chosen) - mean[place]
                total[place] += r[place, k, None] * (apart.square_() + self.view.variances(k, chosen))
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
            score = score.clone()
            # One covariance for all is no reason to prefer a component; a codebook's has no determinant.
            for k in [] if self.prior.has_one_covariance else self.prior.used:
                score[:, k] += 0.5 * (self.view.log_det(k, slice(None)) - self.prior.log_det(k))
        index = rowwise_argmax(score)
        result = self._empty()
        for k in self.prior.used:
            rows = (index == k).nonzero()[:, 0]
            result[rows] = (self._component(k, rows) + self.prior.shift).to(result.dtype)
        return result, index

    def sample(self, n_draws: int, generator: torch.Generator | int | None = None) -> tuple[Tensor, Tensor]:
        r"""Return draws from the posterior, shape (n_draws, n, d), and the component of each, shape (n_draws, n).

        A draw of the prior and of its observation is corrected by what it got wrong, so that no :math:`C_k` is ever
        factorised (Matheron's rule):

        .. math:: x = x_0 + \Sigma_k H' S_k^{-1} (y - H x_0 - e_0), \quad x_0 \sim N(\mu_k, \Sigma_k),\
                  e_0 \sim N(0, s^2 I)

        A seed stands for a generator; by default one is drawn by torch's own.
        """
        if n_draws < 1:
            raise ValueError(f"n_draws must be at least 1, got {n_draws!r}.")
        generator = as_generator(generator, self.y.device)
        index = torch.multinomial(self._weights(), n_draws, replacement=True, generator=generator).T
        draws = self.y.new_empty(n_draws * self.n_rows, self.prior.n_features)
        components = index.flatten()
        for block in row_blocks(len(draws), self.prior, self.seen):
            rows = torch.arange(block.start, block.stop, device=draws.device) % self.n_rows
            draws[block] = self._draw(components[block], rows, generator).to(draws.dtype)
        return draws.unflatten(0, (n_draws, self.n_rows)), index

    # One block of rows

    def _blocks(self) -> Iterator[slice]:
        return row_blocks(self.n_rows, self.prior, self.seen)

    def _empty(self) -> Tensor:
        return self.y.new_empty(self.n_rows, self.prior.n_features)

    def _weights(self) -> Tensor:
        if self.temperature == 0:
            return torch.nn.functional.one_hot(
                rowwise_argmax(self.log_joint), self.log_joint.shape[1]
            ).double()
        level = self.log_joint - self.log_joint.amax(1, keepdim=True)
        return torch.softmax(level / self.temperature, 1)

    def _chosen(self, weights: Tensor, k: int, rows: slice) -> Tensor:
        """Return which rows of a block component k has a share in, by number."""
        return (weights[:, k] > _NEGLIGIBLE).nonzero()[:, 0] + rows.start

    def _component(self, k: int, rows: Index) -> Tensor:
        """Return m_k less the shift of the prior, shape (n, d)."""
        return self.prior.means[k] + self.view.correction(k, self.seen[rows] - self.expected[k], rows)

    def _mean(self, weights: Tensor, rows: slice) -> Tensor:
        """Return the mean less the shift of the prior, shape (n, d)."""
        if self.prior.has_one_covariance:
            apart = self.seen[rows] - weights @ self.expected
            return weights @ self.prior.means + self.view.correction(0, apart, rows)
        mean = torch.zeros(len(weights), self.prior.n_features, dtype=weights.dtype, device=weights.device)
        for k in self.prior.used:
            chosen = self._chosen(weights, k, rows)
            if len(chosen):
                place = chosen - rows.start
                mean[place] += weights[place, k, None] * self._component(k, chosen)
        return mean

    def _draw(self, index: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        prior = self.prior
        deviation = prior.deviations(index, generator)
        noise = torch.randn(
            len(index), self.y.shape[1], generator=generator, dtype=deviation.dtype, device=deviation.device
        )
        noise = self.view.see(math.sqrt(self.noise_variance) * noise, rows)[0]
        apart = self.seen[rows] - self.expected[index] - self.view.expect(deviation) - noise
        draw = prior.shift + prior.means[index] + deviation
        for k in torch.unique(index).tolist():
            chosen = (index == k).nonzero()[:, 0]
            draw[chosen] += self.view.correction(k, apart[chosen], rows[chosen])
        return draw


def posterior(
    model: Any,
    y: Tensor,
    operator: Any,
    noise_variance: float,
    *,
    temperature: float = 1.0,
) -> Posterior | GroupedPosterior:
    r"""Return the posterior of x given y = H x + e under a fitted mixture of Gaussians.

    Parameters
    ----------
    model : MixtureAutoencoder, GaussianPrior or fitted estimator
        The prior, of any Gaussian family, low rank ones included. Its encoder plays no part.
    y : Tensor, shape (n, m)
        One observation a row, float32 or float64.
    operator : Operator, matrix or LinearOperator, shape (m, d), or RowMasks
        H, the same for all rows; with masks each row has its own, and y the shape (n, d).
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

    >>> from mixcoder.autoencoder import MixtureAutoencoder
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
    temperature = checked_temperature(temperature)
    noise_variance = as_variance("noise_variance", noise_variance)
    if not isinstance(operator, RowMasks):
        operator = as_operator(operator)
        y = checked_observation(y, operator, prior.n_features)
        view = view_of(prior, operator, noise_variance)
        return _posterior(
            y,
            y.double() - operator.apply(prior.shift[None]),
            operator,
            view,
            prior,
            noise_variance,
            temperature,
        )
    y = checked_masked(y, operator, prior.n_features)
    if noise_variance == 0 and prior.is_diagonal and not bool((prior.spreads > 0).all()):
        raise ValueError(singular("some component", noise_variance))
    if prior.is_diagonal:
        view = MaskedView(prior, noise_variance, *operator.patterns())
        return _posterior(y, y.double() - prior.shift, operator, view, prior, noise_variance, temperature)

    def through(y: Tensor, columns: Tensor, temperature: float) -> Posterior:
        shown = Rows(columns, prior.n_features)
        view = view_of(prior, shown, noise_variance)
        centred = y.double() - prior.shift[columns]
        return _posterior(y, centred, shown, view, prior, noise_variance, temperature)

    return GroupedPosterior(y, operator, temperature, len(prior.means), through)


def _posterior(
    y: Tensor,
    centred: Tensor,
    operator: Operator | RowMasks,
    view: View,
    prior: GaussianPrior,
    noise_variance: float,
    temperature: float,
) -> Posterior:
    """Return the posterior of observations, and of them less H times the shift of the prior, through a view."""
    seen, rest = view.see(centred, slice(None))
    expected = view.expect(prior.means)  # (k, r)
    log_joint = seen.new_full((len(y), len(expected)), -torch.inf)
    for rows in row_blocks(len(y), prior, seen):
        for k in prior.used:
            log_density = view.log_density(k, seen[rows] - expected[k], rows)
            # A row beyond all horizons is as far from everything as a number can say.
            log_joint[rows, k] = prior.log_weights[k] + (log_density + rest[rows]).clamp_min(-_HORIZON)
    return Posterior(y, operator, noise_variance, temperature, prior, view, seen, expected, log_joint)


def row_blocks(n_rows: int, prior: GaussianPrior, seen: Tensor) -> Iterator[slice]:
    """Yield blocks of rows whose widest array has some fixed number of entries."""
    size = max(1, _BLOCK // max(prior.n_features, seen.shape[1], prior.n_latent**2, 1))
    return (slice(at, min(at + size, n_rows)) for at in range(0, n_rows, size))


def checked_observation(y: Any, operator: Operator, n_features: int) -> Tensor:
    """Return the observations, floating, of the width of an operator that fits the model."""
    _require_tensor(y)
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


def _require_tensor(y: Any) -> None:
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}; use torch.as_tensor.")


def checked_masked(y: Any, masks: RowMasks, n_features: int) -> Tensor:
    """Return observations of the shape of their masks, floating, zero where nothing is shown."""
    _require_tensor(y)
    if masks.observed.shape[1] != n_features:
        raise ValueError(
            f"The masks have {masks.observed.shape[1]} features, but this model has {n_features}; they must have shape "
            f"(n_rows, {n_features})."
        )
    if y.shape != masks.observed.shape:
        raise DataError(
            f"y has shape {tuple(y.shape)}, expected that of its masks, {tuple(masks.observed.shape)}: with a mask "
            "a row an observation keeps the width of the rows."
        )
    if not y.is_floating_point() or y.dtype.itemsize < 4:
        y = y.to(torch.float64)
    bad = ~torch.isfinite(y) & masks.observed
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise DataError(
            f"y contains NaN or infinity where its mask says that it is seen, {int(bad.sum())} values, first at row "
            f"{row}, column {column}; RowMasks.of_present(y) is the mask of what is there."
        )
    return y.masked_fill(~masks.observed, 0.0)


def checked_temperature(temperature: float) -> float:
    """Return a temperature that is a non-negative finite number."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be non-negative and finite, got {temperature!r}.")
    return float(temperature)


__all__ = ["Posterior", "checked_temperature", "posterior"]
