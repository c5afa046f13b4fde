"""A mixture seen on a line or a plane: what its components are there, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln
from scipy.stats import chi2, f

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import PPCA, FactorAnalyzer, Gaussian, StudentT
from mixcoder.plot import _ask
from mixcoder.sensing import GaussianPrior


@dataclass(frozen=True)
class Plane:
    """Coordinates of rows on e axes: (x - origin) @ axes.

    Parameters
    ----------
    origin : ndarray, shape (d,)
    axes : ndarray, shape (d, e)
    names : tuple of str, length e
    """

    origin: np.ndarray
    axes: np.ndarray
    names: tuple[str, ...]

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """Return rows (n d) as points (n e); cells that the axes do not show may be missing."""
        shown = self.shown
        return (x[:, shown] - self.origin[shown]) @ self.axes[shown]

    @property
    def shown(self) -> np.ndarray:
        """Which columns have a part in the axes, shape (d,)."""
        return np.asarray(self.axes.any(axis=1))


@dataclass(frozen=True)
class PlanarMixture:
    r"""Gaussian components, or t components, on e axes.

    The image of :math:`N(\mu, \Sigma)` under :math:`A'` is :math:`N(A'\mu, A'\Sigma A)`, and that of a t keeps its
    degrees of freedom.

    Parameters
    ----------
    weights : ndarray, shape (k,)
    means : ndarray, shape (k, e)
    spreads : ndarray, shape (k, e, e)
        Covariances; scale matrices where there are degrees of freedom.
    dofs : ndarray, shape (k,)
        Infinite for a Gaussian.
    """

    weights: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    dofs: np.ndarray

    def densities(self, points: np.ndarray) -> np.ndarray:
        """Return pi_k p(y | k) of points (n e), shape (n, k)."""
        e = self.means.shape[1]
        result = np.empty((len(points), len(self.weights)))
        for k, (weight, mean, spread, nu) in enumerate(
            zip(self.weights, self.means, self.spreads, self.dofs, strict=True)
        ):
            factor = np.linalg.cholesky(spread)
            white = np.linalg.solve(factor, (points - mean).T)
            square = np.einsum("en,en->n", white, white)
            log_det = np.log(np.diagonal(factor)).sum()
            if math.isinf(nu):
                log_density = -0.5 * (square + e * math.log(2 * math.pi)) - log_det
            else:
                constant = gammaln((nu + e) / 2) - gammaln(nu / 2) - e / 2 * math.log(nu * math.pi)
                log_density = constant - log_det - (nu + e) / 2 * np.log1p(square / nu)
            result[:, k] = weight * np.exp(log_density)
        return result

    def radius(self, mass: float) -> np.ndarray:
        r"""Return the Mahalanobis radius within which each component holds a share of its mass, shape (k,).

        :math:`\chi^2_e` of a Gaussian; of a t, :math:`e\,F(e, \nu)`.
        """
        e = self.means.shape[1]
        gaussian = np.isinf(self.dofs)
        with np.errstate(invalid="ignore"):
            squares = np.where(
                gaussian, chi2.ppf(mass, e), e * f.ppf(mass, e, np.where(gaussian, 1.0, self.dofs))
            )
        return np.sqrt(squares)

    def ellipses(self, mass: float) -> tuple[np.ndarray, np.ndarray]:
        """Return half axes, longest first, shape (k, e), and their directions in columns, shape (k, e, e)."""
        values, vectors = np.linalg.eigh(self.spreads)
        return self.radius(mass)[:, None] * np.sqrt(values[:, ::-1].clip(0)), vectors[:, :, ::-1]

    def limits(self, points: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners of a box, each of shape (e,), that holds nearly all mass, and the points."""
        used = self.weights > 1e-4
        # The tails of a t would leave the rest a dot: its bulk is enough.
        mass = np.where(np.isinf(self.dofs), 0.9995, 0.95)
        reach = np.array([self.radius(m)[k] for k, m in enumerate(mass)])
        reach = reach[:, None] * np.sqrt(np.diagonal(self.spreads, axis1=1, axis2=2))
        low, high = (self.means - reach)[used].min(0), (self.means + reach)[used].max(0)
        if points is not None and len(points):
            margin = 0.03 * np.ptp(points, axis=0)
            low, high = np.minimum(low, points.min(0) - margin), np.maximum(high, points.max(0) + margin)
        return low, high


def on_columns(estimator: Any, columns: list[int]) -> Plane:
    """Return the plane of some features."""
    d, names = estimator.n_features_in_, _ask.names_of(estimator)
    return Plane(np.zeros(d), np.eye(d)[:, columns], tuple(names[j] for j in columns))


def principal(estimator: Any, x: np.ndarray | None, *, standardize: bool = True) -> Plane:
    """Return the plane along which the rows, or else the mixture itself, spread most; columns in their own units.

    Unless told otherwise, features are divided by their standard deviations first, so that the picture does not depend
    on their units.
    """
    if x is None or not len(x):
        prior = moments(estimator.model_)
        mean = prior.weights @ prior.means
        apart = prior.means - mean
        covariance = np.einsum("k,kde->de", prior.weights, prior.spreads) + (prior.weights * apart.T) @ apart
    else:
        mean = x.mean(0)
        centred = x - mean
        covariance = centred.T @ centred / len(x)
    stds = np.sqrt(np.diagonal(covariance))
    scale = np.where(stds > 0, stds, 1.0) if standardize else np.ones_like(stds)
    values, vectors = np.linalg.eigh(covariance / scale / scale[:, None])
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), [0, 1]] < 0, -1.0, 1.0)  # eigenvectors have no sign
    shares = values[::-1][:2] / values.sum()
    names = tuple(f"principal axis {i + 1} ({100 * share:.0f} %)" for i, share in enumerate(shares))
    return Plane(mean, axes / scale[:, None], names)


def chosen(
    estimator: Any, x: np.ndarray | None, columns: list[int] | None, *, standardize: bool = True
) -> Plane:
    """Return the plane of two columns; without columns that of both of two, else the principal one."""
    if columns is None and estimator.n_features_in_ > 2:
        return principal(estimator, x, standardize=standardize)
    return on_columns(estimator, [0, 1] if columns is None else columns)


def rows_on(estimator: Any, X: Any, columns: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that have a place on :func:`chosen`, and which of X they are, shape (n,).

    On columns those that have all of them. On the principal plane, on which every column has a part, missing cells are
    as the model expects them, and only rows without any cell have no place.
    """
    x = _ask.rows(estimator, X)
    if columns is None and x.shape[1] > 2:
        there = np.asarray(~np.isnan(x).all(axis=1))
        return _ask.filled(estimator, X, x)[there], there
    there = np.asarray(~np.isnan(x if columns is None else x[:, columns]).any(axis=1))
    return x[there], there


def moments(model: MixtureAutoencoder) -> PlanarMixture:
    """Return the components in the space of the rows, whatever their family, or say which families have a shape.

    Raises
    ------
    TypeError
        If components are neither Gaussian (of low rank or not) nor Student t.
    """
    weights = model.log_weights.exp().numpy(force=True)
    dofs = np.full(len(weights), math.inf)
    params: Any = model.params
    scale = model.frame.scale.numpy(force=True)
    if isinstance(model.family, PPCA | FactorAnalyzer):  # before Gaussian, of which PPCA is one
        loadings, noise = params.loadings.numpy(force=True), params.noise_variances.numpy(force=True)
        noise = noise if noise.ndim == 2 else noise[:, None] * np.ones(model.n_features)
        spreads = loadings @ loadings.transpose(0, 2, 1) + noise[:, :, None] * np.eye(model.n_features)
        spreads = spreads / scale / scale[:, None]
        means = model.frame.undo(params.means).numpy(force=True)
    elif isinstance(model.family, Gaussian):
        prior = GaussianPrior.of(model)
        spreads = prior.spreads.numpy(force=True)
        if spreads.ndim == 2:
            spreads = spreads[:, :, None] * np.eye(model.n_features)  # one for all features, or one each
        means = (prior.shift + prior.means).numpy(force=True)
        spreads = np.broadcast_to(spreads, (len(means), *spreads.shape[1:]))
        if prior.loadings is not None:
            loadings = prior.loadings.numpy(force=True)
            spreads = spreads + loadings @ loadings.transpose(0, 2, 1)
    elif isinstance(model.family, StudentT):
        spreads = params.scale_matrices.numpy(force=True) / scale / scale[:, None]
        means = model.frame.undo(params.means).numpy(force=True)
        dofs = params.degrees_of_freedom.numpy(force=True)
    else:
        raise TypeError(
            f"Ellipses and densities on a plane need Gaussian, low rank or Student t components, but this model has "
            f"{type(model.family).__name__}. Use ResponsibilityDisplay, PrototypeDisplay or CodebookDisplay, which "
            "take any family."
        )
    return PlanarMixture(weights, means, spreads, dofs)


def project(model: MixtureAutoencoder, plane: Plane) -> PlanarMixture:
    """Return the mixture on a plane."""
    whole = moments(model)
    spreads = plane.axes.T @ whole.spreads @ plane.axes
    return PlanarMixture(whole.weights, plane.coordinates(whole.means), spreads, whole.dofs)


def mass_levels(density: np.ndarray, masses: tuple[float, ...]) -> np.ndarray:
    """Return the density above which each share of the mass of a grid lies: the edge of its smallest region.

    Examples
    --------
    >>> mass_levels(np.array([4.0, 3.0, 2.0, 1.0]), (0.4, 0.9))
    array([4., 2.])
    """
    falling = np.sort(density, axis=None)[::-1]
    held = np.cumsum(falling) / falling.sum()
    return falling[np.minimum(np.searchsorted(held, np.asarray(masses) - 1e-12), len(falling) - 1)]
