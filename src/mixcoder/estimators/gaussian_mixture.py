"""Gaussian mixtures with scikit-learn's parameters and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, Self

import torch
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import Family
from mixcoder.encoders import Annealed, Argmax, Posterior
from mixcoder.estimators._exchange import from_sklearn, from_torch, to_sklearn, to_torch
from mixcoder.estimators._gaussian_estimator import ROUNDING_FLOOR, GaussianEstimator
from mixcoder.estimators._gaussian_parameters import (
    FAMILIES,
    check_means,
    check_spreads,
    check_weights,
    params_of,
)
from mixcoder.estimators._validation import numbers_of
from mixcoder.estimators.mixture import encoder_at
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Start, found_start, start_around


class GaussianMixture(GaussianEstimator):
    r"""Gaussian mixture, fitted by expectation-maximisation.

    .. math:: p(x) = \sum_k \pi_k\, \mathcal N(x;\ \mu_k, \Sigma_k)

    The parameters are those of :class:`sklearn.mixture.GaussianMixture`; from the same start the fit gives
    the same result. What differs by default is the start (several short fits, invariant to the units of the
    columns), SQUAREM acceleration where no start is given, and a covariance floor that follows the scale of
    the data instead of an absolute ``reg_covar``.

    Parameters
    ----------
    n_components : int or "auto", default=1
        "auto" fits one component, two, and so on, until BIC has not improved three times in a row, and keeps the best;
        see ``selection_`` and, for covariance types too, :func:`mixcoder.select`.
    covariance_type : {"full", "tied", "diag", "spherical", "tied_diag", "tied_spherical"}, default="full"
    tol : float, default=1e-3
        The fit stops when an EM step changes the mean log-likelihood by less than this, in nats per row.
    reg_covar : float, optional
        Added to the diagonal of every covariance, in squared units of the rows, as in scikit-learn. By
        default nothing is added; instead no covariance is smaller, in any direction, than 1e-6 of the
        variance of the data.
    max_iter : int, default=100
    n_init : int, default=1
    init_params : {"auto", "annealed", "kmeans", "k-means++", "random", "random_from_data"}, array-like or callable
        "auto" continues the best of several short fits on some of the rows. "annealed" begins with one component
        at a high temperature, which splits as it cools down to ``temperature``. "k-means++" and
        "random_from_data" begin at chosen rows, each with the covariance of all data. Arrays and callables
        give labels or responsibilities, as ``init`` of :class:`Mixture`.
    weights_init : array-like, shape (n_components,), optional
    means_init : array-like, shape (n_components, n_features), optional
        Weights and covariances that are not given too are those of the rows nearest to each mean; with another
        ``init_params`` than "auto" they are those that it gives, as in scikit-learn.
    precisions_init : array-like, optional
        In the shape of ``precisions_``.
    random_state : int, RandomState or None
    warm_start : bool, default=False
    verbose, verbose_interval : int
    temperature : float or Annealed, default=1.0
        1 is soft EM, 0 hard EM, other values softargmax(1/temperature); a schedule as for :class:`Mixture`.
    acceleration : {"auto", "squarem", "none"}, default="auto"
        "auto" accelerates unless a start is given, so that a given start takes the same steps as
        scikit-learn's.
    on_interrupt : {"raise", "keep"}, default="raise"
        Whether Ctrl-C during ``fit`` leaves the estimator as it was, or keeps the best model so far.
    step_exponent : float in (0.5, 1], default=0.6
        How fast ``partial_fit`` forgets.

    Attributes
    ----------
    weights_ : array, shape (n_components,)
    means_ : array, shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : array
        (k, d, d) for "full", (d, d) for "tied", (k, d) for "diag", (k,) for "spherical", (d,) for
        "tied_diag", () for "tied_spherical".
    lower_bound_ : float
        Mean log-likelihood in the last E-step, in nats per row.
    lower_bounds_ : list of float
    converged_ : bool
    stop_reason_ : str
    n_iter_ : int
    history_ : dict of lists
    model_ : MixtureAutoencoder

    References
    ----------
    Dempster, Laird & Rubin (1977). McLachlan & Peel (2000), section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0.0]])
    >>> gm = GaussianMixture(n_components=2, covariance_type="spherical", random_state=0).fit(X)
    >>> sorted(gm.means_[:, 0].round(3).tolist())
    [1.0, 10.0]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **GaussianEstimator._parameter_constraints,
        "covariance_type": [StrOptions(set(FAMILIES))],
        "init_params": [
            StrOptions({"auto", "annealed", "kmeans", "k-means++", "random", "random_from_data"}),
            "array-like",
            callable,
        ],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", Real, None],
    }

    def __init__(
        self,
        n_components: int | str = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | None = None,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Any = "auto",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        temperature: float | Annealed = 1.0,
        acceleration: str = "auto",
        on_interrupt: str = "raise",
        step_exponent: float = 0.6,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.temperature = temperature
        self.acceleration = acceleration
        self.on_interrupt = on_interrupt
        self.step_exponent = step_exponent

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, covariances: Any, covariance_type: str = "full"
    ) -> Self:
        """Return a fitted estimator with given parameters.

        Parameters
        ----------
        weights : array-like, shape (n_components,)
            Non-negative, summing to one.
        means : array-like, shape (n_components, n_features)
        covariances : array-like
            In the shape of ``covariances_`` for the covariance type.
        """
        means = numbers_of(means, "means").cpu()
        if means.ndim != 2 or 0 in means.shape:
            raise ValueError(f"means must have shape (n_components, n_features), got {tuple(means.shape)}.")
        k, d = means.shape
        estimator = cls(n_components=k, covariance_type=covariance_type)
        estimator._validate_params()
        log_weights = check_weights(weights, k, "weights").cpu().log()
        covariances = check_spreads(covariances, covariance_type, k, d, "covariances").cpu()
        family = FAMILIES[covariance_type]()
        spread = means.std(0, correction=0)
        variances = _diagonal_of(covariance_type, covariances).expand(k, d)
        frame = family.frame(means.mean(0), (spread.square() + variances.mean(0)).sqrt())
        params = params_of(covariance_type, means, covariances, frame, precision=False)
        estimator._dtype_name, estimator._from_torch = "float64", False
        estimator.model_ = MixtureAutoencoder(
            family, params, log_weights, Posterior(), frame, torch.ones(d, dtype=torch.float64)
        )
        estimator.n_features_in_ = d
        estimator.converged_, estimator.stop_reason_ = True, "the parameters were given"
        estimator.n_iter_, estimator.history_ = 0, {}
        estimator.lower_bound_, estimator.lower_bounds_, estimator._sums = float("-inf"), [], None
        return estimator

    # To and from other libraries

    def to_sklearn(self) -> Any:
        """Return a fitted :class:`sklearn.mixture.GaussianMixture` with these parameters, in float64.

        It has no tied covariances without correlations: "tied_diag" becomes "diag", "tied_spherical" "spherical", each
        with the same density.
        """
        self._fitted()
        return to_sklearn(self)

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Return a fitted estimator with the parameters of a fitted :class:`sklearn.mixture.GaussianMixture`."""
        return from_sklearn(cls, model)

    def to_torch(self) -> Any:
        """Return the density as a :class:`torch.distributions.MixtureSameFamily`, in float64.

        Examples
        --------
        >>> from mixcoder import GaussianMixture
        >>> model = GaussianMixture.from_parameters([1.0], [[0.0]], [[[4.0]]])
        >>> model.to_torch().stddev.item()
        2.0
        """
        self._fitted()
        return to_torch(self)

    @classmethod
    def from_torch(cls, distribution: Any) -> Self:
        """Return a fitted estimator with the parameters of a :class:`torch.distributions.MixtureSameFamily`.

        Its components are ``MultivariateNormal``, ``LowRankMultivariateNormal`` or ``Independent(Normal, 1)``.
        """
        return from_torch(cls, distribution)

    # The fit

    def _family(self) -> Family[Any, Any]:
        family = FAMILIES[self.covariance_type]
        if self.reg_covar is None:
            return family()
        return family(min_variance=ROUNDING_FLOOR, added_variance=float(self.reg_covar))

    @property
    def _exact_maximiser(self) -> bool:
        return not self.reg_covar

    @property
    def _how_to_begin(self) -> Any:
        return self.init_params

    def _schedule(self) -> Annealed | None:
        schedule = super()._schedule()
        given = [
            name for name in ("weights", "means", "precisions") if getattr(self, f"{name}_init") is not None
        ]
        if schedule is not None and given:
            raise ValueError(
                f"An annealed fit begins with one component: leave out {given[0]}_init, or do not anneal."
            )
        return schedule

    def _given_start(self, problem: Problem) -> Start | Callable[[int], Start] | None:
        k, d = self.n_components, problem.source.n_features
        device = problem.source.device
        kind = self.covariance_type
        weights = None if self.weights_init is None else check_weights(self.weights_init, k).to(device)
        means = None if self.means_init is None else check_means(self.means_init, k, d).to(device)
        precisions = (
            None
            if self.precisions_init is None
            else check_spreads(self.precisions_init, kind, k, d).to(device)
        )
        if weights is None and means is None and precisions is None:
            return self._start_by_init_params(problem)
        if weights is not None and means is not None and precisions is not None:
            return params_of(kind, means, precisions, problem.frame, precision=True), weights.log()
        return lambda attempt: self._completed(problem, attempt, weights, means, precisions)

    def _completed(
        self,
        problem: Problem,
        attempt: int,
        weights: Tensor | None,
        means: Tensor | None,
        precisions: Tensor | None,
    ) -> Start:
        """Return a start whose missing parts come from the data: rows nearest to given means, or ``init_params``."""
        searched = isinstance(self.init_params, str) and self.init_params == "auto"
        if means is not None and searched:
            params, log_weights = start_around(problem, problem.frame.apply(means), Argmax())
        else:
            begun = self._start_by_init_params(problem)
            if callable(begun):
                begun = begun(attempt)
            if begun is None:
                encoder = encoder_at(self.temperature)
                begun = found_start(problem, self.n_components, encoder, self._generator())
            params, log_weights = begun
        if means is not None:
            params = replace(params, means=problem.frame.apply(means))  # type: ignore[call-arg]
        if precisions is not None:
            means_now = problem.frame.undo(params.means)  # type: ignore[attr-defined]
            params = params_of(self.covariance_type, means_now, precisions, problem.frame, precision=True)
        return params, log_weights if weights is None else weights.log()


def _diagonal_of(covariance_type: str, covariances: Tensor) -> Tensor:
    if covariance_type in ("full", "tied"):
        return covariances.diagonal(dim1=-2, dim2=-1)
    return covariances[:, None] if covariance_type == "spherical" else covariances
