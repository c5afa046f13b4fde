"""Mixtures of linear models: a row's code is a component and a few numbers within it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import PPCA, FactorAnalyzer, Family
from mixcoder.encoders import Annealed, Encoder, Truncated
from mixcoder.estimators._lazy import lazily
from mixcoder.estimators._linear_codes import LinearCodes, noise_of, projected
from mixcoder.estimators._validation import Number, like_input
from mixcoder.estimators.gaussian_mixture import GaussianMixture
from mixcoder.estimators.mixture import DensityEstimator, Mixture, encoder_at
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start, fit
from mixcoder.fitting.ranks import with_chosen_ranks, with_ranks

_BLOCK = 1 << 13

N_LATENT = [Number(Integral, 1, None, closed="left"), StrOptions({"auto"}), "array-like"]
"""What may be said of the number of latent axes."""


class LinearMixture(LinearCodes, Mixture):
    """Base of the mixtures of low rank Gaussians; see :class:`PPCAMixture`."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DensityEstimator._parameter_constraints,
        "n_latent": N_LATENT,
        "min_variance": [Number(Real, 0.0, None, closed="neither")],
        "noise": [StrOptions({"component", "shared"})],
        "shrinkage": [Number(Real, 0.0, None, closed="left")],
        "init": [StrOptions({"auto", "annealed"}), "array-like", callable],
        "n_active": [Number(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        n_components: int | str = 1,
        n_latent: Any = 1,
        *,
        noise: str = "component",
        shrinkage: float = 0.0,
        temperature: float | Annealed = 1.0,
        n_active: int | None = None,
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
        self.noise = noise
        self.shrinkage = shrinkage
        self.temperature = temperature
        self.n_active = n_active
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
        if self.n_active is None:
            return encoder_at(self.temperature)
        if (
            isinstance(self.temperature, Annealed)
            or self.temperature == 0
            or self._how_to_begin == "annealed"
        ):
            raise ValueError(
                f"n_active={self.n_active} components share a row by the temperature, which must be a positive number; "
                f"got temperature={self.temperature!r}, init={self.init!r}."
            )
        return Truncated(int(self.n_active), 1.0 / float(self.temperature))

    def _continues(self, previous: MixtureAutoencoder, n_features: int) -> bool:
        if not super()._continues(previous, n_features):
            return False
        family, asked = previous.family, ranks_of(self.n_latent, int(self.n_components))
        # "auto" goes on with the ranks that were chosen.
        return asked is None or family.n_latent == asked

    def _resettled(self, problem: Problem, previous: MixtureAutoencoder) -> Problem:
        return with_ranks(problem, previous.family.n_latent)

    def _settled(
        self,
        problem: Problem,
        encoder: Encoder,
        given: Start | Callable[[int], Start] | None,
        search: Callable[[Problem], Start],
        unit: float,
    ) -> tuple[Problem, Start | Callable[[int], Start] | None]:
        asked = ranks_of(self.n_latent, int(self.n_components))
        if isinstance(asked, int):
            return problem, given
        n_init = 1 if given is not None and not callable(given) else self.n_init

        def fitted(width: int) -> tuple[Problem, Start]:
            wide = with_ranks(problem, width)
            whole = wide.completed()
            given_wide = None if given is None else self._given_start(whole)

            def starts(attempt: int) -> Start:
                if callable(given_wide):
                    return given_wide(attempt)
                return given_wide or search(whole)

            result = fit(wide, encoder, starts, n_init, self._budget(encoder, given is not None))
            return wide, (result.model.params, result.model.log_weights)

        n_rows, n_features = unit * problem.total_weight, problem.source.n_features
        return with_chosen_ranks(fitted, asked, n_rows, n_features, int(self.n_components))

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
        noise = noise_of(params) / model.frame.scale[: noise_of(params).shape[1]].square()
        return self._attribute(noise.view_as(params.noise_variances))

    def marginal(self, columns: Any) -> Any:
        """Return the fitted mixture of some of the features, in the order given: the others are integrated out.

        As that of :class:`GaussianMixture`, and of this class; of no more features than a plane has axes it is a
        :class:`GaussianMixture`, since nothing is left for noise to be.

        Parameters
        ----------
        columns : sequence of int or str
            Numbers, or names where the mixture was fitted to a table with names.
        """
        numbers = self._columns(columns)
        return (
            super().marginal(numbers)
            if self._leaves_planes(len(numbers))
            else self._dense().marginal(numbers)
        )

    def condition(self, columns: Any, values: Any) -> Any:
        """Return the fitted mixture of the other features, in their order, given the values of some.

        As that of :class:`GaussianMixture`, and of this class; of no more features than a plane has axes, as in
        regression of one on all others, it is a :class:`GaussianMixture`.

        Parameters
        ----------
        columns : sequence of int or str
            Numbers or names of what is known.
        values : array-like, shape (len(columns),)
            One row of values.
        """
        numbers = self._columns(columns)
        if self._leaves_planes(self._fitted().n_features - len(numbers)):
            return super().condition(numbers, values)
        return self._dense().condition(numbers, values)

    def _leaves_planes(self, n_features: int) -> bool:
        """Return whether components of their rank fit into so many features; or none are left, an error of its own."""
        params: Any = self._fitted().params
        return n_features == 0 or n_features > params.loadings.shape[2]

    def _dense(self) -> GaussianMixture:
        """Return the same mixture with covariances written out."""
        model = self._fitted()
        params: Any = model.params
        noise = noise_of(params).expand(-1, model.n_features)
        covariances = params.loadings @ params.loadings.mT + torch.diag_embed(noise)
        covariances = covariances / (model.frame.scale[:, None] * model.frame.scale)
        dense = GaussianMixture.from_parameters(model.log_weights.exp(), model.prototypes(), covariances)
        for name in ("feature_names_in_", "_dtype_name", "_from_torch"):
            if hasattr(self, name):
                setattr(dense, name, getattr(self, name))
        return dense

    @lazily
    def reconstruct(self, X: Any, *, rule: str = "posterior") -> Any:
        r"""Return the rows nearest to X in the affine plane of their component, shape (n_samples, n_features).

        .. math:: \hat x = \mu_k + W_k (W_k' \Psi_k^{-1} W_k)^{-1} W_k' \Psi_k^{-1} (x - \mu_k)

        Parameters
        ----------
        X : array-like or Source, shape (n_samples, n_features), or Dask array or DataFrame
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
            result[block.start : block.stop] = projected(model, block.x, rule).to(result.dtype)
        return like_input(result, X)

    def distortion(self, X: Any, *, rule: str = "posterior") -> float:
        """Return the mean squared error of ``reconstruct`` by the same rule, summed over features."""
        model, source = self._asked_rows(X)
        total = 0.0
        for block in source.blocks(_BLOCK):
            total += float((block.x.double() - projected(model, block.x, rule)).square().nansum())
        return total / source.n_rows


class PPCAMixture(LinearMixture):
    r"""A mixture of probabilistic principal component analysers.

    .. math:: p(x) = \sum_k \pi_k N(x; \mu_k, W_k W_k' + s_k^2 I)

    Up to 160 features the M-step is in closed form; above, no d x d matrix is formed and a pass over the rows costs
    4 n k d q operations.

    Parameters
    ----------
    n_components : int or "auto", default=1
    n_latent : int, list of int or "auto", default=1
        q, the dimension of the planes, less than the number of features; one for all, one a component, or chosen: a fit
        with many axes is followed by one in which each component keeps the number that the Bayesian information
        criterion of its own spectrum prefers, a quarter of the rows of an average component at most.
    noise : {"component", "shared"}, default="component"
        Whether each component has its own s^2, or all have one.
    shrinkage : float, default=0
        Strength of a prior on the noise, against overfitting: each component's s^2 is that of its own rows and of
        ``shrinkage`` times as many as an average component has, whose noise is the variance of the data averaged over
        the features. No component then gains by shrinking to a row or to a few, however small ``min_variance``: 0.01 is
        a weak prior, which still rules that out where an average component has hundreds of rows. The bound
        (``lower_bound_``, ``history_``) counts the log-prior; ``score`` does not.
    temperature : float, default=1.0
        1 is Bayes' posterior (soft EM), 0 the argmax (hard EM).
    n_active : int, optional
        Most components that share a row, the most probable ones (:class:`~mixcoder.encoders.Truncated`); by default all
        do. With a temperature far above 1 they share it nearly evenly, and each component learns from ``n_active``
        times as many rows as are nearest to it: the remedy where planes of many numbers have few rows each. A row is
        still coded by one of them.
    min_variance : float, default=1e-6
        Smallest noise variance s_k^2, as a fraction of the variance of the data averaged over the features. A
        floor above the noise that the components would find (0.3 for images) makes it the same for all: the fit
        is then one of planes that lie close to the rows (K-subspaces), and no plane can shrink to a few rows.
    init, tol, max_iter, n_init, acceleration, random_state
    warm_start, verbose, verbose_interval, on_interrupt, step_exponent
        As in :class:`Mixture`.

    Attributes
    ----------
    model_ : MixtureAutoencoder
    weights_ : array, shape (n_components,)
    means_ : array, shape (n_components, n_features)
    loadings_ : array, shape (n_components, n_features, n_latent)
        W; a rotation of the latent axes changes nothing.
    noise_variances_ : array, shape (n_components,)
    n_latent_ : array of int, shape (n_components,)
        Dimension of the plane of each component.
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
        ranks = family_ranks(self.n_latent, self.n_components)
        return PPCA(ranks, float(self.min_variance), noise=self.noise, shrinkage=float(self.shrinkage))


class FactorAnalyzerMixture(LinearMixture):
    r"""A mixture of factor analysers: planes, and noise of its own in every column.

    .. math:: p(x) = \sum_k \pi_k N(x; \mu_k, W_k W_k' + \Psi_k), \quad \Psi_k \text{ diagonal}

    Parameters
    ----------
    n_components : int or "auto", default=1
    n_latent : int, list of int or "auto", default=1
        q, the number of factors, less than the number of features; as in :class:`PPCAMixture`.
    noise : {"component", "shared"}, default="component"
        Whether each component has its own Psi, or all have one.
    shrinkage : float, default=0
        Strength of a prior on the noise towards the variances of the columns; as in :class:`PPCAMixture`.
    min_variance : float, default=1e-6
        Smallest noise variance of a column, as a fraction of its variance over all rows.
    temperature, n_active, init, tol, max_iter, n_init, acceleration, random_state
    warm_start, verbose, verbose_interval, on_interrupt, step_exponent
        As in :class:`Mixture`.

    Attributes
    ----------
    means_ : array, shape (n_components, n_features)
    loadings_ : array, shape (n_components, n_features, n_latent)
    noise_variances_ : array, shape (n_components, n_features)
    n_latent_ : array of int, shape (n_components,)

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
        ranks = family_ranks(self.n_latent, self.n_components)
        return FactorAnalyzer(
            ranks, float(self.min_variance), noise=self.noise, shrinkage=float(self.shrinkage)
        )


def ranks_of(n_latent: Any, n_components: int) -> int | tuple[int, ...] | None:
    """Return the ranks that ``n_latent`` asks for: one, one a component, or ``None`` where they are to be chosen."""
    if isinstance(n_latent, str):
        return None
    if isinstance(n_latent, Integral):
        return int(n_latent)
    values = np.asarray(n_latent)
    if values.ndim != 1 or len(values) != n_components:
        raise ValueError(
            f"n_latent={n_latent!r} must have one rank for each of n_components={n_components} components; got shape "
            f"{values.shape}."
        )
    if not (
        np.issubdtype(values.dtype, np.number) and (values == values.astype(int)).all() and values.min() >= 1
    ):
        raise ValueError(f"n_latent must hold whole numbers of at least 1, got {n_latent!r}.")
    return tuple(values.astype(int).tolist())


def family_ranks(n_latent: Any, n_components: int | str) -> int | tuple[int, ...]:
    """Return the ranks of a family; those that are to be chosen begin with one, as components do."""
    asked = ranks_of(n_latent, 1 if isinstance(n_components, str) else int(n_components))
    return 1 if asked is None else asked


__all__ = ["FactorAnalyzerMixture", "LinearMixture", "PPCAMixture"]
