"""Mixtures of linear models: a row's code is a component and a few numbers within it."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from mixcoder._typing import HardCode
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import PPCA, FactorAnalyzer, Family
from mixcoder.components.observed import observed_parts
from mixcoder.errors import DataError
from mixcoder.estimators._validation import Number, like_input, numbers_of
from mixcoder.estimators.mixture import DensityEstimator, Mixture, encoder_at
from mixcoder.ops import low_rank

_BLOCK = 1 << 13


class LinearMixture(Mixture):
    """Base of the mixtures of low rank Gaussians; see :class:`PPCAMixture`."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DensityEstimator._parameter_constraints,
        "n_latent": [Number(Integral, 1, None, closed="left")],
        "min_variance": [Number(Real, 0.0, None, closed="neither")],
        "init": [StrOptions({"auto"}), "array-like", callable],
    }

    def __init__(
        self,
        n_components: int = 1,
        n_latent: int = 1,
        *,
        temperature: float = 1.0,
        min_variance: float = 1e-6,
        init: Any = "auto",
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        acceleration: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        on_interrupt: str = "raise",
        step_exponent: float = 0.6,
    ) -> None:
        self.n_components = n_components
        self.n_latent = n_latent
        self.temperature = temperature
        self.min_variance = min_variance
        self.init = init
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.acceleration = acceleration
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.on_interrupt = on_interrupt
        self.step_exponent = step_exponent

    @abstractmethod
    def _family(self) -> Family[Any, Any]:
        """Return the low rank family."""

    def _encoder(self) -> Any:
        return encoder_at(float(self.temperature))

    @property
    def means_(self) -> Any:
        """Means of the components, shape (n_components, n_features)."""
        return self._attribute(self._fitted().prototypes())

    @property
    def loadings_(self) -> Any:
        """W, in units of the rows, shape (n_components, n_features, n_latent)."""
        model = self._fitted()
        params: Any = model.params
        return self._attribute(params.loadings / model.frame.scale[:, None])

    @property
    def noise_variances_(self) -> Any:
        """Noise variances in squared units of the rows, of each component, or of each of its columns."""
        model = self._fitted()
        params: Any = model.params
        noise = _noise_of(params) / model.frame.scale[: _noise_of(params).shape[1]].square()
        return self._attribute(noise.view_as(params.noise_variances))

    # A row's code: a component, and a point within it

    def encode_latent(self, X: Any) -> tuple[Any, Any]:
        r"""Return the code (component, z) of each row.

        Parameters
        ----------
        X : array-like or Source, shape (n_samples, n_features)

        Returns
        -------
        component : array, int64, shape (n_samples,)
            The most probable one.
        z : array, shape (n_samples, n_latent)
            Its latent mean, :math:`E[z|x,k] = M_k^{-1} W_k' \Psi_k^{-1} (x - \mu_k)`.
        """
        model, source = self._asked_rows(X)
        component = model.assign(source)
        z = torch.empty(source.n_rows, self._n_latent(model), dtype=source.dtype, device=source.device)
        for block in source.blocks(_BLOCK):
            rows = slice(block.start, block.stop)
            z[rows] = _latent_of(model, block.x, component[rows]).to(z.dtype)
        return like_input(component, X), like_input(z, X)

    def decode_latent(self, component: Any, z: Any) -> Any:
        r"""Return the rows of codes (component, z), :math:`\mu_k + W_k z`, shape (n_samples, n_features).

        Parameters
        ----------
        component : array-like of int, shape (n_samples,)
        z : array-like, shape (n_samples, n_latent)
        """
        model = self._fitted()
        index, latent = self._code(component), numbers_of(z, "z").to(model.device)
        if isinstance(index, Tensor):
            raise DataError("component holds component numbers, of shape (n_samples,).")
        n, q = len(index.index), self._n_latent(model)
        if latent.shape != (n, q):
            raise DataError(
                f"z has shape {tuple(latent.shape)}, expected ({n}, {q}): one latent point a code."
            )
        family: Any = model.family
        rows = model.frame.undo(family.decode_latent(model.params, index.index.to(model.device), latent))
        return like_input(rows.to(self._dtype()), z)

    def reconstruct(self, X: Any, *, rule: str = "posterior") -> Any:
        r"""Return the rows nearest to X in the affine plane of their component, shape (n_samples, n_features).

        .. math:: \hat x = \mu_k + W_k (W_k' \Psi_k^{-1} W_k)^{-1} W_k' \Psi_k^{-1} (x - \mu_k)

        Parameters
        ----------
        X : array-like or Source, shape (n_samples, n_features)
        rule : {"posterior", "nearest"}
            Whether a row's component is the most probable one, or the one that leaves the smallest squared error.

        Notes
        -----
        A code of n_latent numbers and a component number. ``decode_latent(*encode_latent(X))`` is drawn a little
        towards the mean instead: it is the estimate of the row without its noise.
        """
        model, source = self._asked_rows(X)
        result = torch.empty(source.n_rows, source.n_features, dtype=source.dtype, device=source.device)
        for block in source.blocks(_BLOCK):
            result[block.start : block.stop] = _projected(model, block.x, rule).to(result.dtype)
        return like_input(result, X)

    def distortion(self, X: Any, *, rule: str = "posterior") -> float:
        """Return the mean squared error of ``reconstruct`` by the same rule, summed over features."""
        model, source = self._asked_rows(X)
        total = 0.0
        for block in source.blocks(_BLOCK):
            total += float((block.x.double() - _projected(model, block.x, rule)).square().nansum())
        return total / source.n_rows

    def _n_latent(self, model: MixtureAutoencoder) -> int:
        params: Any = model.params
        return int(params.loadings.shape[2])


class PPCAMixture(LinearMixture):
    r"""A mixture of probabilistic principal component analysers.

    .. math:: p(x) = \sum_k \pi_k N(x; \mu_k, W_k W_k' + s_k^2 I)

    Up to 160 features the M-step is in closed form; above, no d x d matrix is formed and a pass over the rows costs
    4 n k d q operations.

    Parameters
    ----------
    n_components : int, default=1
    n_latent : int, default=1
        q, the dimension of the planes; less than the number of features.
    temperature : float, default=1.0
        1 is Bayes' posterior (soft EM), 0 the argmax (hard EM).
    min_variance : float, default=1e-6
        Smallest noise variance s_k^2, as a fraction of the variance of the data averaged over the features. A
        floor above the noise that the components would find (0.3 for images) makes it the same for all: the fit
        is then one of planes that lie close to the rows (K-subspaces), and no plane can shrink to a few rows.
    init, tol, max_iter, n_init, acceleration, random_state, warm_start, verbose, verbose_interval, \
on_interrupt, step_exponent
        As in :class:`Mixture`.

    Attributes
    ----------
    model_ : MixtureAutoencoder
    weights_ : array, shape (n_components,)
    means_ : array, shape (n_components, n_features)
    loadings_ : array, shape (n_components, n_features, n_latent)
        W; a rotation of the latent axes changes nothing.
    noise_variances_ : array, shape (n_components,)
    converged_, stop_reason_, n_iter_, lower_bound_, history_, n_features_in_
        As in :class:`Mixture`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from mixcoder import PPCAMixture
    >>> X = load_digits().data
    >>> X = X[:, X.std(axis=0) > 0]
    >>> model = PPCAMixture(10, 5, min_variance=0.1, random_state=0).fit(X)
    >>> component, z = model.encode_latent(X)
    >>> component.shape, z.shape
    ((1797,), (1797, 5))
    >>> bool(model.distortion(X) < ((X - model.decode(component)) ** 2).sum(1).mean())
    True

    References
    ----------
    Tipping & Bishop (1999), "Mixtures of probabilistic principal component analysers".
    """

    def _family(self) -> Family[Any, Any]:
        return PPCA(int(self.n_latent), float(self.min_variance))


class FactorAnalyzerMixture(LinearMixture):
    r"""A mixture of factor analysers: planes, and noise of its own in every column.

    .. math:: p(x) = \sum_k \pi_k N(x; \mu_k, W_k W_k' + \Psi_k), \quad \Psi_k \text{ diagonal}

    Parameters
    ----------
    n_components : int, default=1
    n_latent : int, default=1
        q, the number of factors; less than the number of features.
    min_variance : float, default=1e-6
        Smallest noise variance of a column, as a fraction of its variance over all rows.
    temperature, init, tol, max_iter, n_init, acceleration, random_state, warm_start, verbose, verbose_interval, \
on_interrupt, step_exponent
        As in :class:`Mixture`.

    Attributes
    ----------
    means_ : array, shape (n_components, n_features)
    loadings_ : array, shape (n_components, n_features, n_latent)
    noise_variances_ : array, shape (n_components, n_features)

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from mixcoder import FactorAnalyzerMixture
    >>> model = FactorAnalyzerMixture(2, 1, random_state=0).fit(load_iris().data)
    >>> model.noise_variances_.shape
    (2, 4)

    References
    ----------
    Ghahramani & Hinton (1996), "The EM algorithm for mixtures of factor analyzers".
    """

    def _family(self) -> Family[Any, Any]:
        return FactorAnalyzer(int(self.n_latent), float(self.min_variance))


def _noise_of(params: Any) -> Tensor:
    """Return the noise variances, shape (k, d) or (k, 1)."""
    noise: Tensor = params.noise_variances
    return noise if noise.ndim == 2 else noise[:, None]


def _latent_of(model: MixtureAutoencoder, x: Tensor, component: Tensor) -> Tensor:
    """Return E[z | x_n, k_n] of each row, shape (n, q)."""
    params: Any = model.params
    projections, _ = low_rank.posterior(params.loadings, _noise_of(params))
    rows = _whole_rows(model, x, component)
    z = rows.new_empty(len(rows), projections.shape[1])
    for k in torch.unique(component).tolist():
        chosen = component == k
        z[chosen] = (rows[chosen] - params.means[k]) @ projections[k].T
    return z


def _whole_rows(model: MixtureAutoencoder, x: Tensor, component: Tensor) -> Tensor:
    """Return rows in working coordinates, missing entries as their component expects them, shape (n, d).

    The latent mean is linear in the row: that of the expected row is E[z | x_a, k].
    """
    rows = model.frame.apply(x.double())
    for index, seen in observed_parts(model.family, model.params, rows) if bool(rows.isnan().any()) else ():
        rows[index] = seen.expected(HardCode(component[index], model.n_components))
    return rows


def _projected(model: MixtureAutoencoder, x: Tensor, rule: str) -> Tensor:
    """Return the point of a component's plane that is nearest to each row in units of the noise, shape (n, d)."""
    if rule not in ("posterior", "nearest"):
        raise ValueError(f"rule must be 'posterior' or 'nearest', got {rule!r}.")
    component = model.assign(x)
    rows = _whole_rows(model, x, component)
    if rule == "posterior":
        for k in torch.unique(component).tolist():
            chosen = component == k
            rows[chosen] = _on_plane(model, rows[chosen], k)
        return model.frame.undo(rows)
    best = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
    result = rows.clone()
    for k in range(model.n_components):
        found = _on_plane(model, rows, k)
        # In units of the rows: that is what a distortion counts.
        left = ((rows - found) / model.frame.scale).square().sum(1)
        closer = left < best
        result[closer], best = found[closer], torch.minimum(best, left)
    return model.frame.undo(result)


def _on_plane(model: MixtureAutoencoder, rows: Tensor, k: int) -> Tensor:
    """Return rows in working coordinates projected onto one component's plane, shape (n, d)."""
    params: Any = model.params
    stds = _noise_of(params)[k].sqrt()
    # Least squares by singular vectors: loadings may be short of rank.
    axes, sizes, _ = torch.linalg.svd(params.loadings[k] / stds[:, None], full_matrices=False)
    axes = axes[:, sizes > 1e-12 * sizes.amax()]
    return params.means[k] + stds * (((rows - params.means[k]) / stds) @ axes @ axes.T)


__all__ = ["FactorAnalyzerMixture", "PPCAMixture"]
