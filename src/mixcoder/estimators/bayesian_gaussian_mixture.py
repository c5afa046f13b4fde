"""Variational Bayes of Gaussian mixtures, with scikit-learn's parameters and results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import torch
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import Family, Gaussian, Params
from mixcoder.errors import DataError
from mixcoder.estimators._gaussian_estimator import ROUNDING_FLOOR, GaussianEstimator
from mixcoder.estimators._gaussian_parameters import FAMILIES, check_spreads, covariances_of
from mixcoder.estimators._lazy import lazily
from mixcoder.estimators._validation import Number, like_input, numbers_of
from mixcoder.estimators.gaussian_mixture import GaussianMixture
from mixcoder.fitting.em import FirstSums, Problem, everyone
from mixcoder.fitting.fit import Start
from mixcoder.fitting.variational import VariationalProblem
from mixcoder.ops.frame import Frame
from mixcoder.ops.gaussian import variance_floor
from mixcoder.priors import (
    Dirichlet,
    MixturePosterior,
    MixturePrior,
    NormalWishart,
    StickBreaking,
    WeightPrior,
    conjugate_prior,
    log_predictive,
    mean_weights,
)
from mixcoder.sources import Block
from mixcoder.statistics import Moments

_COVARIANCES = ("full", "tied", "diag", "spherical")

# One covariance is as large as one that all components share.
_ONE_COVARIANCE = {"full": "tied", "tied": "tied", "diag": "tied_diag", "spherical": "tied_spherical"}

_WEIGHT_PRIORS: dict[str, type[WeightPrior]] = {
    "dirichlet_distribution": Dirichlet,
    "dirichlet_process": StickBreaking,
}

_BLOCK = 1 << 12

# Sums of weights between which prior and rows can be added without losing one or the other to rounding.
_FEWEST_ROWS, _MOST_ROWS = 1e-3, 1e13

# The bound is a difference of numbers as large as a prior of so many rows, times their logarithm: up to here it keeps
# six digits of a nat. The precision of a mean is in it by its logarithm alone.
_LARGEST_PRIOR = 1e8
_LARGEST_MEAN_PRECISION = 1e13

_MOST_VARIANCES = 1e100

# Squared standard deviations between rows and the prior of the mean, times its precision in rows, that a scatter may
# hold beside the rows' own: rounding then takes no more than 1e-4 of a variance.
_MOST_SQUARED_DISTANCE = 1e12


class _NotOffered:
    """An attribute of the base class that has no meaning here: asking for it says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        raise AttributeError(f"BayesianGaussianMixture has no {self.name}: {self.reason}")


class BayesianGaussianMixture(GaussianEstimator):
    r"""Variational Bayesian Gaussian mixture.

    Not one set of parameters is fitted but a distribution over them, q(weights) q(means, precisions), with
    conjugate priors, so that components that the rows do not need fade away. Each iteration raises the
    evidence lower bound

    .. math:: \log p(X) \ge F = E_q[\log p(X, Z, \pi, \mu, \Lambda)] - E_q[\log q(Z)\, q(\pi, \mu, \Lambda)]

    The parameters are those of :class:`sklearn.mixture.BayesianGaussianMixture`; from the same start the fit
    takes the same steps, to rounding. What differs by default is the start (several short fits), SQUAREM
    acceleration where no start is given, and that nothing is added to the covariances.

    Parameters
    ----------
    n_components : int, default=1
        Largest number of components.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
    tol : float, default=1e-3
        The fit stops when an iteration changes the lower bound by less than this, in nats of all rows.
    reg_covar : float, optional
        Added to every covariance in the M-step, in squared units of the rows, as in scikit-learn, whose
        default is 1e-6. By default nothing is added: the prior does what it is there for.
    max_iter : int, default=100
    n_init : int, default=1
    init_params : {"auto", "kmeans", "k-means++", "random", "random_from_data"}, array-like or callable
        As in :class:`GaussianMixture`. "kmeans" labels and arrays of labels or responsibilities start with an
        M-step, as in scikit-learn.
    weight_concentration_prior_type : {"dirichlet_process", "dirichlet_distribution"}
        Default "dirichlet_process".
    weight_concentration_prior : float > 0, optional
        Concentration of each component, or gamma of the process; default 1 / n_components. At most 1e8, or the number
        of rows: beyond, the bound would be rounding.
    mean_precision_prior : float > 0, optional
        beta_0, how many rows the prior of a mean counts for; default 1, at most 1e13.
    mean_prior : array-like, shape (n_features,), optional
        Default: the mean of the rows. As many standard deviations away from it as cost the covariances their digits,
        1e6 / sqrt(mean_precision_prior), it is refused with a DataError.
    degrees_of_freedom_prior : float > n_features - 1, optional
        Default n_features; at most 1e8, or the number of rows.
    covariance_prior : array-like or float, optional
        Scatter of the Wishart prior, shape (d, d) for "full" and "tied", (d,) for "diag", a number for
        "spherical"; default the covariance of the rows, in any direction at least 1e-6 of their variances.
    precision_prior_type : {"wishart", "gamma"}, default="wishart"
        What "diag" and "spherical" take the expected log-determinant of a precision from. "wishart" is
        scikit-learn's choice, whose bound is valid and not tight; "gamma" is exact.
    posterior_temperature : float in [0, 1], default=1.0
        t. The entropy of q(weights, means, precisions) counts t times: 1 is variational Bayes, 0 puts q on
        its mode, which is EM for the posterior mode (MAP), and tends to maximum likelihood as the rows
        outnumber the prior.
    random_state : int, RandomState or None
    warm_start : bool, default=False
    verbose, verbose_interval : int
    temperature : float, default=1.0
        Of the codes: 1 is variational Bayes, 0 hard codes, else softargmax(1/temperature) of the expected
        log-joint. A number: a schedule :class:`mixcoder.encoders.Annealed` is for the other mixtures.
    acceleration : {"auto", "squarem", "none"}, default="auto"
        "auto" accelerates unless a start is given.
    on_interrupt : {"raise", "keep"}, default="raise"

    Attributes
    ----------
    weights_ : array, shape (n_components,)
        Posterior mean.
    means_ : array, shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : array
        Inverses of the expected precisions, and those.
    weight_concentration_ : array, shape (n_components,), or tuple of two
        The two parameters of each stick for a Dirichlet process. With ``posterior_temperature`` t those of q
        are these, ``mean_precision_`` and ``degrees_of_freedom_`` over t.
    mean_precision_, degrees_of_freedom_ : array, shape (n_components,)
        ``degrees_of_freedom_`` is a number for "tied".
    weight_concentration_prior_, mean_precision_prior_, degrees_of_freedom_prior_ : float
    mean_prior_, covariance_prior_ : array
    lower_bound_ : float
        F after the last M-step, in nats of all rows. scikit-learn's lacks the constants: ours is theirs plus

        .. math:: -\log Z(\eta_0) - \tfrac{ND}2 \log 2\pi + K \left[\tfrac D2 \log 2\pi
                  + \tfrac{D(D-1)}4 \log \pi \right]

        With ``reg_covar`` it is the bound for rows blurred by that variance, which is lower.
    lower_bounds_ : list of float
    mixture_ : GaussianMixture
        The mixture of posterior means, to ask what any Gaussian mixture can be asked.
    converged_, stop_reason_, n_iter_, history_, model_
        As in :class:`GaussianMixture`; ``model_`` codes rows as q does.

    Notes
    -----
    ``sample_weight`` counts how often a row was seen: against a prior its scale matters.

    ``score_samples`` gives scikit-learn's number, :math:`\log \sum_k \exp E[\log \pi_k p(x|k)]`, which is less than
    the logarithm of a density; ``log_predictive`` integrates the parameters out.

    For "tied", q gives every component a precision of its own and makes their posteriors the same; for "diag" and
    "spherical" with precision_prior_type="wishart" F is a bound by Hadamard's inequality,
    :math:`|\Lambda| \le \prod_d \Lambda_{dd}`.

    References
    ----------
    Bishop (2006), section 10.2. Blei & Jordan (2006). Attias (2000).

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import BayesianGaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7.0]])
    >>> bgm = BayesianGaussianMixture(n_components=2, random_state=0).fit(X)
    >>> bgm.predict([[0, 0], [9, 3]]).tolist() in ([0, 1], [1, 0])
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **GaussianEstimator._parameter_constraints,
        "n_components": [
            Number(Integral, 1, None, closed="left")
        ],  # components without rows lose their weight
        "covariance_type": [StrOptions(set(_COVARIANCES))],
        "weight_concentration_prior_type": [StrOptions(set(_WEIGHT_PRIORS))],
        "weight_concentration_prior": [None, Number(Real, 0.0, math.inf, closed="neither")],
        "mean_precision_prior": [None, Number(Real, 0.0, math.inf, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Number(Real, 0.0, math.inf, closed="neither")],
        "covariance_prior": [None, "array-like", Number(Real, 0.0, math.inf, closed="neither")],
        "precision_prior_type": [StrOptions({"wishart", "gamma"})],
        # No schedule: annealing splits components of plain parameters, and knows no posterior of them.
        "temperature": [Number(Real, 0.0, math.inf, closed="left")],
        "posterior_temperature": [Number(Real, 0.0, 1.0, closed="both")],
    }
    _parameter_constraints.pop("step_exponent")

    def _allows_missing(self, family: Family[Any, Any]) -> bool:
        del family  # the posterior's sums are those of complete rows
        return False

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | None = None,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: Any = "auto",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        precision_prior_type: str = "wishart",
        posterior_temperature: float = 1.0,
        temperature: float = 1.0,
        acceleration: str = "auto",
        on_interrupt: str = "raise",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.precision_prior_type = precision_prior_type
        self.posterior_temperature = posterior_temperature
        self.temperature = temperature
        self.acceleration = acceleration
        self.on_interrupt = on_interrupt

    partial_fit = _NotOffered(
        "how much a stream outweighs its prior depends on its length; fit open_blocks(...)."
    )
    set_partial_fit_request = _NotOffered("there is no partial_fit here.")
    bic = _NotOffered("lower_bound_ already pays for every parameter; compare that.")
    aic = _NotOffered("lower_bound_ already pays for every parameter; compare that.")
    icl = _NotOffered("lower_bound_ already pays for every parameter; compare that.")

    # The fit

    def _family(self) -> Gaussian[Any]:
        return FAMILIES[self.covariance_type](
            min_variance=ROUNDING_FLOOR, added_variance=float(self.reg_covar or 0.0)
        )

    @property
    def _exact_maximiser(self) -> bool:
        return not self.reg_covar

    def _given_start(self, problem: Problem) -> Start | Callable[[int], Start] | None:
        return self._start_by_init_params(problem)

    def _problem(self, problem: Problem, row_weight: float) -> Problem:
        n_rows = problem.total_weight * row_weight
        if not _FEWEST_ROWS <= n_rows <= _MOST_ROWS:
            raise DataError(
                f"sample_weight says how often each row was seen, but sums to {n_rows:.3g}, which weighs against no "
                f"prior: give numbers of rows, {_FEWEST_ROWS:g} to {_MOST_ROWS:g} in all."
            )
        self._check_sizes(n_rows)
        components = self._component_prior(problem, row_weight)
        concentration = self.weight_concentration_prior
        weights = _WEIGHT_PRIORS[self.weight_concentration_prior_type](
            1.0 / self.n_components if concentration is None else float(concentration)
        )
        prior = MixturePrior(weights, components, float(self.posterior_temperature))
        return VariationalProblem.over(problem, prior, self.n_components, row_weight)

    def _check_sizes(self, n_rows: float) -> None:
        """Raise a ValueError where a prior is so large that the bound would have no digits."""
        sizes = {
            "weight_concentration_prior": max(_LARGEST_PRIOR, n_rows),
            "degrees_of_freedom_prior": max(_LARGEST_PRIOR, n_rows),
            "mean_precision_prior": _LARGEST_MEAN_PRECISION,
        }
        for name, most in sizes.items():
            value = getattr(self, name)
            if value is not None and float(value) > most:
                raise ValueError(
                    f"{name}={float(value):.3g} counts as that many rows, so that rounding hides what the {n_rows:.3g} "
                    f"given change. Give at most {most:.3g}, which says the same as firmly."
                )

    def _component_prior(self, problem: Problem, row_weight: float) -> NormalWishart[Any]:
        """Return the prior of means and precisions in working units, from the parameters and the rows."""
        d, kind = problem.source.n_features, self.covariance_type
        degrees = float(d if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior)
        if not degrees > d - 1:
            raise ValueError(
                "The parameter 'degrees_of_freedom_prior' should be greater than "
                f"{d - 1} (n_features - 1), but got {degrees:.3f}."
            )
        if self.precision_prior_type == "gamma" and kind not in ("diag", "spherical"):
            raise ValueError(
                f"precision_prior_type='gamma' is for covariance_type 'diag' or 'spherical', got {kind!r}; the "
                "Wishart prior of full and tied covariances is exact as it is."
            )
        mean, scatter = self._spread_of_rows(problem, row_weight)
        device = problem.source.device
        if self.mean_prior is not None:
            given = numbers_of(self.mean_prior, "The parameter 'mean_prior'").to(device)
            if tuple(given.shape) != (d,):
                raise ValueError(
                    f"The parameter 'mean_prior' should have the shape of {(d,)}, but got {tuple(given.shape)}"
                )
            _check_distance(given, mean, problem.frame, self.mean_precision_prior)
            mean = problem.frame.apply(given[None])[0]
        if self.covariance_prior is not None:
            shape = _ONE_COVARIANCE[kind]
            given = check_spreads(self.covariance_prior, shape, 1, d, "covariance_prior").to(device)
            scatter = given * _unit_of_scatter(kind, problem.frame)
            _check_scale("covariance_prior", scatter)
        if self.reg_covar:
            _check_scale("reg_covar", float(self.reg_covar) * problem.frame.scale.square())
        return conjugate_prior(
            problem.family,  # type: ignore[arg-type]
            mean=mean,
            mean_precision=1.0 if self.mean_precision_prior is None else float(self.mean_precision_prior),
            degrees_of_freedom=degrees,
            scatter=scatter,
            floor=variance_floor(problem.variances, ROUNDING_FLOOR),
            exact=self.precision_prior_type == "gamma",
        )

    def _spread_of_rows(self, problem: Problem, row_weight: float) -> tuple[Tensor, Tensor]:
        """Return the mean of the rows, shape (d,), and their covariance, in working units."""
        gaussian, zero = replace(problem.family, added_variance=0.0), torch.zeros_like(problem.variances)  # type: ignore[type-var]
        total = problem.total_weight * row_weight
        relative = 1e-6 if self.reg_covar is None else ROUNDING_FLOOR
        # The posterior of no prior at all, with one row less for the mean.
        flat = conjugate_prior(
            gaussian,  # type: ignore[arg-type]
            mean=zero,
            mean_precision=0.0,
            degrees_of_freedom=-min(1.0, 0.5 * total),
            scatter=zero.new_zeros(()),
            floor=variance_floor(problem.variances, relative),
        )
        sums = problem.source.map_reduce(FirstSums(gaussian, problem.frame, everyone), 4096)  # type: ignore[arg-type]
        params = flat.posterior(cast("Moments", sums.scaled(row_weight)))[0]
        identity = Frame.identity(len(zero), zero.device)
        spread = covariances_of(self.covariance_type, params, identity)
        return params.means[0], spread if self.covariance_type == "tied" else spread[0]

    def _bound_unit(self, problem: Problem) -> float:
        assert isinstance(problem, VariationalProblem)
        return problem.total_weight * problem.row_weight

    def _last_start(self, previous: MixtureAutoencoder) -> Start:
        return self._posterior(previous), previous.log_weights + self._log_mass

    def _aside(self, params: Params, problem: Problem) -> dict[str, Any]:
        """Return what says what q is, and what was believed before."""
        assert isinstance(params, MixturePosterior)
        assert isinstance(problem, VariationalProblem)
        prior, frame = problem.prior, problem.frame
        components = prior.components
        return {
            "_sums": None,  # a posterior goes on from its own hyper-parameters
            "_mean_precisions": params.mean_precisions.contiguous(),
            "_degrees_of_freedom": params.degrees_of_freedom.contiguous(),
            "_concentrations": params.concentrations.contiguous(),
            "_log_mass": float(torch.logsumexp(prior.log_weights(params), 0)),
            "_posterior_temperature": prior.temperature,
            "_mean_prior": frame.undo(components.mean),
            "_covariance_prior": components.scatter / _unit_of_scatter(self.covariance_type, frame),
            "weight_concentration_prior_": prior.weights.concentration,
            "mean_precision_prior_": components.mean_precision,
            "degrees_of_freedom_prior_": components.degrees_of_freedom,
        }

    def _n_parameters(self) -> int:
        return 0  # none that no prior holds

    def _posterior(self, model: MixtureAutoencoder) -> MixturePosterior:
        """Return the hyper-parameters of q, in the working units and on the device of a model."""
        device = model.device
        return MixturePosterior(
            (model.params,),  # type: ignore[arg-type]
            self._mean_precisions.to(device),
            self._degrees_of_freedom.to(device),
            self._concentrations.to(device),
        )

    # What q answers

    @property
    def _tied(self) -> bool:
        return self.covariance_type == "tied"

    @property
    def weights_(self) -> Any:
        """Posterior means of the weights, shape (n_components,), summing to one."""
        return self._attribute(mean_weights(self._asked_of_q("_concentrations")))

    @property
    def weight_concentration_(self) -> Any:
        """alpha_k, shape (n_components,), or the two parameters of each stick."""
        columns = self._asked_of_q("_concentrations").unbind(1)
        return tuple(map(self._attribute, columns)) if len(columns) == 2 else self._attribute(columns[0])

    @property
    def mean_precision_(self) -> Any:
        """beta_k, shape (n_components,), in rows."""
        return self._attribute(self._asked_of_q("_mean_precisions"))

    @property
    def degrees_of_freedom_(self) -> Any:
        """nu_k, shape (n_components,); a number for "tied"."""
        degrees = self._asked_of_q("_degrees_of_freedom")
        return float(degrees[0]) if self._tied else self._attribute(degrees)

    @property
    def mean_prior_(self) -> Any:
        """m_0, shape (n_features,)."""
        return self._attribute(self._asked_of_q("_mean_prior"))

    @property
    def covariance_prior_(self) -> Any:
        """V_0, in the shape of one covariance."""
        value = self._asked_of_q("_covariance_prior")
        return float(value) if value.ndim == 0 else self._attribute(value)

    @property
    def n_effective_components_(self) -> int:
        """Number of components that expect at least half a row."""
        counts = self._asked_of_q("_mean_precisions") - self.mean_precision_prior_
        return int((counts >= 0.5).sum())

    @property
    def mixture_(self) -> GaussianMixture:
        """The Gaussian mixture of the posterior means."""
        model = self._generative()
        other = GaussianMixture.from_parameters(
            model.log_weights.exp(),
            model.frame.undo(model.params.means),  # type: ignore[attr-defined]
            covariances_of(self.covariance_type, model.params, model.frame),
            self.covariance_type,
        )
        other._dtype_name, other._from_torch = self._dtype_name, self._from_torch
        if hasattr(self, "feature_names_in_"):
            other.feature_names_in_ = self.feature_names_in_
        return other

    def marginal(self, columns: Any) -> Any:
        """Return the marginal of ``mixture_``: see :meth:`GaussianMixture.marginal`."""
        return self.mixture_.marginal(columns)

    def condition(self, columns: Any, values: Any) -> Any:
        """Return ``mixture_`` given some features: see :meth:`GaussianMixture.condition`."""
        return self.mixture_.condition(columns, values)

    @lazily
    def log_predictive(self, X: Any) -> Any:
        r"""Return the log-density of each row with the parameters integrated out, shape (n_samples,), in nats.

        .. math:: \log \sum_k E[\pi_k]\, t_{\nu_k-D+1}\!\left(x;\ m_k,\
                  \tfrac{\beta_k+1}{\beta_k(\nu_k-D+1)} V_k\right)

        for "full" and "tied"; see :func:`mixcoder.priors.log_predictive` for the others. It is a density: its
        exponential integrates to one.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features), Source, or Dask array or DataFrame

        References
        ----------
        Bishop (2006), equation 10.81.
        """
        model, source = self._asked_rows(X)
        posterior = self._posterior(model)
        log_weights = mean_weights(posterior.concentrations).log()
        result = torch.empty(source.n_rows, dtype=source.dtype, device=source.device)

        def write(block: Block) -> None:
            rows = model.frame.apply(block.x.double())
            each = log_predictive(posterior, self._posterior_temperature, rows) + log_weights
            result[block.start : block.stop] = torch.logsumexp(each, 1) + model.frame.log_scale

        source.map_rows(write, _BLOCK)
        return like_input(result, X)

    def _asked_of_q(self, name: str) -> Tensor:
        self._fitted()
        return getattr(self, name)

    def _generative(self) -> MixtureAutoencoder:
        """Return the mixture of the posterior means."""
        model = self._fitted()
        return replace(model, log_weights=mean_weights(self._concentrations).log().to(model.device))

    def _log_prob(self, X: Any) -> Tensor:
        return super()._log_prob(X) + self._log_mass

    def _coding_log_weights(self, model: MixtureAutoencoder) -> Tensor:
        return mean_weights(self._concentrations).log().to(model.device)


def _check_distance(given: Tensor, mean: Tensor, frame: Frame, precision: float | None) -> None:
    """Raise a DataError where the prior of the mean is so far from the rows that their spread is lost beside it.

    Parameters
    ----------
    given : Tensor, shape (d,)
        Prior of the mean, in the units of the rows.
    mean : Tensor, shape (d,)
        Mean of the rows, in working units.
    precision : float, optional
        In rows; one by default.
    """
    distance = float(torch.linalg.vector_norm(frame.apply(given[None])[0] - mean))
    rows = 1.0 if precision is None else float(precision)
    most = math.sqrt(_MOST_SQUARED_DISTANCE / rows)
    if not distance <= most:
        raise DataError(
            f"mean_prior is {distance:.3g} standard deviations from the mean of the rows, with the precision of "
            f"{rows:.3g} rows: no digit of the rows' own covariances is safe beside that. Give a mean_prior in the "
            f"units of the rows, at most {most:.3g} standard deviations away, or a smaller mean_precision_prior."
        )


def _check_scale(name: str, variances: Tensor) -> None:
    """Raise a DataError where a parameter is no covariance in the units of the rows, its powers overflowing."""
    ratio = float(variances.abs().amax())
    if not ratio <= _MOST_VARIANCES:
        raise DataError(
            f"{name} is {ratio:.3g} times the variance of the rows, more than arithmetic can square: give it in "
            "squared units of the rows."
        )


def _unit_of_scatter(covariance_type: str, frame: Frame) -> Tensor:
    """Return what a covariance in squared units of the rows is multiplied by to be in working units."""
    if covariance_type in ("full", "tied"):
        return frame.scale[:, None] * frame.scale
    return frame.scale.square() if covariance_type == "diag" else frame.scale[0].square()


__all__ = ["BayesianGaussianMixture"]
