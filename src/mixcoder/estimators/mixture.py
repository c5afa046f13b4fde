"""The generic estimator: any family, any encoder, one temperature."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import MISSING, fields, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.base import _fit_context as fit_context  # type: ignore[attr-defined]
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metadata_routing import UNUSED
from torch import Tensor

from mixcoder import components
from mixcoder._typing import HardCode
from mixcoder._user_warnings import warn_user
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import Family
from mixcoder.encoders import Annealed, Argmax, Encoder, Posterior, Tempered
from mixcoder.errors import DataError, DegenerateComponentWarning
from mixcoder.estimators._annealing import Annealing, schedule_of
from mixcoder.estimators._callbacks import IterationTask, all_or_nothing, with_callbacks
from mixcoder.estimators._checkpoint import checkpointed
from mixcoder.estimators._frames import rows_out
from mixcoder.estimators._lazy import lazily, rows_anywhere
from mixcoder.estimators._validation import Number, as_tensor, like_input, numbers_of, rows_of, weights_of
from mixcoder.estimators.base import (
    NOT_ROUTED,
    AutoencoderEstimator,
    collapse_of,
    few_threads,
    on_device,
    stored,
)
from mixcoder.fitting.alternate import FitResult, gain_below
from mixcoder.fitting.em import Problem, Totals
from mixcoder.fitting.fit import Budget, Start, fit, found_start, prepare, start_from_code
from mixcoder.fitting.stream import Stream
from mixcoder.sensing import GroupedPosterior, condition, impute, marginal, posterior, sample_missing
from mixcoder.sensing import Posterior as Sight
from mixcoder.sensing.missing import checked_columns, family_of_columns, require_marginals
from mixcoder.sources import Source, TensorSource


def families() -> dict[str, type[Family[Any, Any]]]:
    """Return every family of the library, by snake-case name."""
    found: dict[str, type[Family[Any, Any]]] = {}
    for name in components.__all__:
        entry = getattr(components, name)
        if isinstance(entry, type) and issubclass(entry, Family) and not entry.__abstractmethods__:
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()  # PPCA is one word
            found[snake] = entry
    return found


def nameable_families() -> dict[str, type[Family[Any, Any]]]:
    """Return the families that a name alone describes: those that need no hyper-parameter."""
    return {
        name: family
        for name, family in families().items()
        if all(
            f.default is not MISSING or f.default_factory is not MISSING for f in fields(cast("Any", family))
        )
    }


def not_a_name(family: Any) -> str:
    """Return why a family cannot be had by this name, and how it can."""
    if family in families():
        kind = families()[family].__name__
        return (
            f"family={family!r} needs numbers that a name does not give: pass an instance, such as "
            f"mixcoder.components.{kind}(...), or take the estimator that has them as parameters."
        )
    return f"family={family!r} is not one of {sorted(nameable_families())}, nor a Family instance."


def encoder_at(temperature: float | Annealed) -> Encoder:
    """Return the encoder of a temperature: 0 is argmax, 1 Bayes' posterior, else softargmax(1/T).

    That of a schedule is the one at its end.
    """
    if isinstance(temperature, Annealed):
        return temperature.end
    if temperature == 0:
        return Argmax()
    return Posterior() if temperature == 1 else Tempered(1.0 / float(temperature))


class DensityEstimator(DensityMixin, AutoencoderEstimator):
    """Base of the estimators that are probability densities."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Number(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "tol": [Number(Real, 0.0, None, closed="left")],
        "max_iter": [Number(Integral, 0, None, closed="left")],
        "n_init": [Number(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Number(Integral, 1, None, closed="left")],
        "temperature": [Number(Real, 0.0, math.inf, closed="left"), Annealed],
        "acceleration": [StrOptions({"auto", "squarem", "none"})],
        "on_interrupt": [StrOptions({"raise", "keep"})],
        "step_exponent": [Number(Real, 0.5, 1.0, closed="right")],
    }

    __metadata_request__fit: ClassVar[dict[str, str]] = NOT_ROUTED
    __metadata_request__partial_fit: ClassVar[dict[str, str]] = {"maximize": UNUSED}

    # Constructor parameters that all of them take
    n_components: Any  # an int, or "auto"
    temperature: float | Annealed
    tol: float
    max_iter: int
    n_init: int
    acceleration: str
    random_state: Any
    warm_start: bool
    verbose: int
    verbose_interval: int
    on_interrupt: str
    step_exponent: float

    _pending: Totals | None = None  # sums of batches that wait for an M-step

    # What the concrete estimators say

    def _family(self) -> Family[Any, Any]:
        raise NotImplementedError

    def _encoder(self) -> Encoder:
        return encoder_at(self.temperature)

    def _given_start(self, problem: Problem) -> Start | Callable[[int], Start] | None:
        """Return the start that the parameters give, or ``None`` to search for one."""
        raise NotImplementedError

    def _problem(self, problem: Problem, row_weight: float) -> Problem:
        """Return the problem to solve; ``row_weight`` rows are one unit of its weights."""
        del row_weight
        return problem

    def _last_start(self, previous: MixtureAutoencoder) -> Start:
        """Return where a fit goes on from."""
        return previous.params, previous.log_weights

    def _bound_unit(self, problem: Problem) -> float:
        """Return what ``tol`` and ``lower_bound_`` count in: 1 for nats per row, or the number of rows."""
        del problem
        return 1.0

    @property
    def _how_to_begin(self) -> Any:
        """What the parameters say of the start."""
        return getattr(self, "init", "auto")

    def _schedule(self) -> Annealed | None:
        """Return the schedule that the fit comes to its temperature by; ``None`` for none."""
        return schedule_of(self.temperature, self._how_to_begin, self._encoder().beta)

    def _searched_start(
        self, problem: Problem, encoder: Encoder, generator: torch.Generator, annealing: Annealing | None
    ) -> Start:
        """Return a start that nobody gave."""
        if annealing is not None:
            return annealing.start(problem, self.n_components, generator)
        return found_start(problem, self.n_components, encoder, generator)

    @property
    def _exact_maximiser(self) -> bool:
        return True

    @property
    def _n_fitted_components(self) -> int:
        return self.n_components_ if isinstance(self.n_components, str) else int(self.n_components)

    @property
    def n_components_(self) -> int:
        """Number of components of the fitted mixture: the one asked for, or the one that "auto" found."""
        return self._fitted().n_components

    def _allows_missing(self, family: Family[Any, Any]) -> bool:
        return family.marginalizes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        try:
            tags.input_tags.allow_nan = self._allows_missing(self._family())
        except (TypeError, ValueError, KeyError):
            tags.input_tags.allow_nan = False  # no such family: ``fit`` says so
        return tags

    # Fitting

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        checkpoint: Any = None,
        checkpoint_every: float = 60.0,
        resume: bool = False,
    ) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like or Tensor, shape (n_samples, n_features), Source, or Dask array or DataFrame
            Rows. Never changed, never copied. Those of :func:`mixcoder.open_blocks` stay in their files, those of Dask
            are computed when they are read; where the sums run is what :func:`mixcoder.engine` says. NaN is a missing
            entry: it is integrated out (see Notes).
        y : ignored
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative row weights; their scale has no effect.
        checkpoint : path, optional
            File that the state of the fit is written to while it runs, and when it is interrupted (Ctrl-C, SIGTERM);
            the one before it stays beside it, as ``checkpoint + ".previous"``.
        checkpoint_every : float, default=60
            Seconds between two checkpoints; 0 for one after every iteration.
        resume : bool, default=False
            Whether to go on from the checkpoint, where there is one. The model is then, to the last bit, that of a
            fit that was never interrupted. Other rows or other parameters are refused.

        Returns
        -------
        self
            If anything fails, the estimator is left exactly as it was.

        Raises
        ------
        DataError
            If rows are no finite numbers or outside of the family's domain, if a column has no value in any row, or
            if an entry is missing and the family cannot integrate it out (Student's t, von Mises-Fisher, products).

        Notes
        -----
        Of rows with missing entries the likelihood of what they hold is maximised, by exact EM: right where
        what is missing may depend on what was seen, but not on itself. A row without any value has no weight, and the
        fit says how many there are. Where nothing is missing, nothing of this is computed.

        References
        ----------
        Ghahramani & Jordan (1994), "Supervised learning from incomplete data via an EM approach".
        """
        with self._fitting(X, checkpoint, checkpoint_every, resume=resume) as rows:
            if not isinstance(self.n_components, str):
                self._fit(rows, y, sample_weight)
            elif self._checkpoint is None:
                self._fit_auto(rows, y, sample_weight)
            else:
                raise ValueError("A checkpoint is of one fit: give n_components a number, not 'auto'.")
        return self

    def _fit_auto(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Become the best of fits with one component, two, and so on."""
        from mixcoder.estimators.selection import grow

        for name in ("init", "init_params", "weights_init", "means_init", "precisions_init"):
            given = getattr(self, name, None)
            if given is not None and not isinstance(given, str) and not callable(given):
                raise ValueError(
                    f"{name} is a start for one number of components, but n_components='auto' tries several: give one "
                    "of the two."
                )
        task = IterationTask(self, 1, 1, X=X, y=y, sample_weight=sample_weight)
        selection = grow(self, X, sample_weight)
        parameters = self.get_params(deep=False)
        best = vars(selection.best_model)
        vars(self).update(
            {n: v for n, v in best.items() if n not in parameters and not n.startswith("_callback")}
        )
        self.selection_ = selection
        if selection.interrupted:
            self.converged_ = False
            self.stop_reason_ = (
                "the search for the number of components was interrupted; the best that was complete is kept"
            )
        task.close()
        if self.verbose:
            print(selection)  # noqa: T201
        for remark in selection.best.remarks:
            warn_user(remark, ConvergenceWarning)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return the most probable component of each row, shape (n_samples,)."""
        return self.fit(X, y, sample_weight=sample_weight).predict(X)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        previous: MixtureAutoencoder | None = getattr(self, "model_", None) if self.warm_start else None
        source, row_weight = self._source(X, sample_weight)
        self._require_rows(source.n_rows)
        family, encoder, schedule = self._family(), self._encoder().at(0), self._schedule()
        limits = self._checked_range(source, family)
        if previous is not None and not self._continues(previous, source.n_features):
            previous = None
        problem, seen = prepare(source, family, limits, frame=None if previous is None else previous.frame)
        self._require_representable(problem, source.dtype)
        problem = self._problem(problem, row_weight)
        unit = self._bound_unit(problem)
        if self._checkpoint is not None:
            self._checkpoint.open(self, problem, seen)
        generator = self._generator()
        annealing = None if schedule is None else Annealing(schedule)
        search = partial(self._searched_start, encoder=encoder, generator=generator, annealing=annealing)
        given: Start | Callable[[int], Start] | None
        is_given = True
        if previous is not None:
            previous = on_device(previous, source.device)
            problem = self._resettled(problem, previous)
            given, whole = self._last_start(previous), problem
        else:
            whole = problem.completed()
            given = self._given_start(whole)
            is_given = given is not None
            settled, given = self._settled(problem, encoder, given, search, row_weight)
            if settled is not problem:
                problem, whole = settled, settled.completed()
        # Of the fit that has found the hyper-parameters, if there was one.
        traces = dict(enumerate(annealing.traces[-1:])) if annealing is not None else {}

        def start(attempt: int) -> Start:
            if callable(given):
                return given(attempt)
            if given is not None:
                return given
            try:
                return search(whole)
            finally:
                if annealing is not None and annealing.traces:
                    traces[attempt] = annealing.traces[-1]

        n_init = 1 if given is not None and not callable(given) else self.n_init
        budget = self._budget(encoder, is_given, unit)
        task = IterationTask(self, n_init, self.max_iter, X=X, y=y, sample_weight=sample_weight)
        nats = "nats per row" if unit == 1.0 else "nats"
        on_step = self._on_step(task, problem, lambda bound: f"bound {unit * bound:.6f} {nats}")
        with checkpointed(self, problem, encoder) as (state, keep):
            result = fit(problem, encoder, start, n_init, budget, on_step, state, keep)
        self._keep(result)
        if result.attempt in traces:  # not of a start that an earlier process made
            self.history_["annealing"] = traces[result.attempt].as_dict()
        self.lower_bound_ = unit * result.bound
        self.lower_bounds_ = [unit * bound for bound in result.history.bound]
        self.history_["bound"] = list(self.lower_bounds_)
        sums = result.statistics
        self._let_wait(None)
        self._sums = None if sums is None else sums.scaled(1.0 / problem.total_weight).contiguous()
        vars(self).update(self._aside(result.params, problem))
        task.close()
        self._report(result, nats)
        self._tell(result, problem, seen, n_parameters=self._n_parameters())

    def _budget(self, encoder: Encoder, is_given: bool, unit: float = 1.0) -> Budget:
        """Return when a fit ends, and what it may try; given starts are followed without leaps."""
        accelerate = self.acceleration == "squarem" or (self.acceleration == "auto" and not is_given)
        return Budget(
            max_iter=self.max_iter,
            stop=gain_below(float(self.tol), unit),
            accelerate=accelerate and not isinstance(encoder, Argmax),
            monotone=self._exact_maximiser,
            keep_on_interrupt=self.on_interrupt == "keep",
        )

    def _settled(
        self,
        problem: Problem,
        encoder: Encoder,
        given: Start | Callable[[int], Start] | None,
        search: Callable[[Problem], Start],
        unit: float,
    ) -> tuple[Problem, Start | Callable[[int], Start] | None]:
        """Return the problem and its start after hyper-parameters that the rows decide have been found.

        Parameters
        ----------
        search : callable
            Returns a start for a problem.
        unit : float
            How many rows one weight of the source stands for.
        """
        del encoder, search, unit
        return problem, given

    def _resettled(self, problem: Problem, previous: MixtureAutoencoder) -> Problem:
        """Return the problem with the hyper-parameters that an earlier fit has found."""
        del previous
        return problem

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, maximize: bool = True) -> Self:
        r"""Take one step of stepwise EM on a batch of rows, in memory, in files or of Dask.

        The running average of the sufficient statistics moves by
        :math:`\eta_t = (t+2)^{-a}` towards those of the batch, a = ``step_exponent``; then the parameters
        are maximised. The first batch starts the mixture, as ``fit`` would; a fitted mixture goes on from its
        own average, every iteration of its fit counting as a step.

        With ``maximize=False`` the parameters stay and the sums of the batch wait; the next call with ``maximize=True``
        maximises what has waited and its own batch together. That is one iteration of EM over all of these rows, to
        rounding, however they are cut into batches.

        Whenever other components than before stand on the variance floor, a DegenerateComponentWarning says which.

        References
        ----------
        Cappe & Moulines (2009), equation 14; Liang & Klein (2009).
        """
        del y
        if isinstance(self.n_components, str):
            raise ValueError(
                "partial_fit sees one batch at a time and cannot choose: give n_components a number."
            )
        X = rows_anywhere(X)
        with all_or_nothing(self), few_threads(X):
            fitted: MixtureAutoencoder | None = getattr(self, "model_", None)
            if fitted is not None and not self._continues(fitted, fitted.n_features):
                fitted = None
            source, unit = self._source(X, sample_weight, reset=fitted is None, min_rows=1)
            stream = (
                self._first_stream(source, unit) if fitted is None else self._resumed_stream(source, fitted)
            )
            before = [] if fitted is None else stream.collapsed
            stream = stream.step(source, maximize=maximize, unit=unit)
            self._let_wait(stream.pending)
            self._sums = None if stream.average is None else stream.average.contiguous()
            self.model_ = stored(stream.model)
            self.n_iter_ = stream.n_steps
            self.converged_ = False
            self.stop_reason_ = "partial_fit takes one step at a time"
            self.lower_bound_ = stream.bound
            self.lower_bounds_ = list(stream.bounds)
            self.history_ = {"bound": list(stream.bounds)}
            after = stream.collapsed if maximize else before
            if after and after != before:  # once, not with every batch
                warn_user(collapse_of(after), DegenerateComponentWarning)
        return self

    def _let_wait(self, pending: Totals | None) -> None:
        """Keep sums that wait; where none do, no attribute tells that there were some."""
        if pending is None:
            self.__dict__.pop("_pending", None)
        else:
            self._pending = pending

    def _resumed_stream(self, source: Source, fitted: MixtureAutoencoder) -> Stream:
        self._checked_range(source, fitted.family, first=False)
        return Stream.resumed(
            on_device(fitted, source.device),
            source,
            self._encoder().at(0),
            exponent=float(self.step_exponent),
            average=None if self._sums is None else self._sums.to(source.device),
            bounds=tuple(self.lower_bounds_),
            pending=None if self._pending is None else self._pending.to(source.device),
        )

    def _first_stream(self, source: Source, unit: float) -> Stream:
        family, encoder, schedule = self._family(), self._encoder().at(0), self._schedule()
        limits = self._checked_range(source, family)
        self._require_rows(source.n_rows)
        problem, _ = prepare(source, family, limits)
        self._require_representable(problem, source.dtype)
        generator, whole = self._generator(), problem.completed()
        annealing = None if schedule is None else Annealing(schedule)
        search = partial(self._searched_start, encoder=encoder, generator=generator, annealing=annealing)
        settled, given = self._settled(problem, encoder, self._given_start(whole), search, unit)
        if settled is not problem:
            whole = settled.completed()
        start = given(0) if callable(given) else given
        if start is None:
            start = search(whole)
        return Stream(whole, *start, encoder, float(self.step_exponent))

    def _continues(self, previous: MixtureAutoencoder, n_features: int) -> bool:
        return (
            previous.n_components == self.n_components
            and previous.n_features == n_features
            and type(previous.family) is type(self._family())
        )

    def _require_rows(self, n_rows: int) -> None:
        if n_rows < self.n_components:
            raise DataError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {n_rows}. Give more rows or ask for fewer components."
            )

    def _report(self, result: FitResult, nats: str) -> None:
        if not self.verbose:
            return
        print(f"  iteration {result.n_iter}: bound {self.lower_bounds_[-1]:.6f} {nats}")  # noqa: T201
        print(f"{type(self).__name__}: {result.reason} ({result.n_iter} iterations)")  # noqa: T201

    # What a density answers

    @property
    def weights_(self) -> Any:
        """Weights of the components, shape (n_components,), summing to one."""
        return self._attribute(self._fitted().log_weights.exp())

    @lazily
    def predict_proba(self, X: Any) -> Any:
        """Return the posterior of each row over the components, shape (n_samples, n_components)."""
        model, x = self._asked(X)
        code = replace(model, encoder=Posterior()).encode(x)
        assert isinstance(code, Tensor)
        return like_input(code, X)

    @lazily
    def transform(self, X: Any) -> Any:
        """Return the code of each row as a point of the simplex, shape (n_samples, n_components)."""
        model, x = self._asked(X)
        code = model.encode(x)
        return like_input(code.dense(x.dtype) if isinstance(code, HardCode) else code, X)

    @lazily
    def score_samples(self, X: Any) -> Any:
        """Return the log-density of each row in nats, shape (n_samples,)."""
        return like_input(self._log_prob(X), X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the mean log-density of the rows, in nats."""
        del y
        values = self._log_prob(X).double()
        if sample_weight is None:
            return float(values.mean())
        weights = weights_of(sample_weight, values[:, None])
        assert weights is not None
        return float(weights @ values / weights.sum())

    def _log_prob(self, X: Any) -> Tensor:
        model, source = self._asked_rows(X)
        return model.log_prob(source)

    def _generative(self) -> MixtureAutoencoder:
        """Return the mixture that generates rows; the one that codes them, unless they differ."""
        return self._fitted()

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Return random rows, shape (n_samples, n_features), and the component of each, shape (n_samples,)."""
        model = self._generative()
        if isinstance(n_samples, bool) or not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be an int of at least 1, got {n_samples!r}.")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        generator = torch.Generator(device=model.device).manual_seed(seed)
        rows, index = model.sample(int(n_samples), generator)
        rows = rows.to(self._dtype())
        return (rows, index) if self._from_torch else (rows.numpy(force=True), index.numpy(force=True))

    # What is seen of a row

    def posterior(
        self, y: Any, operator: Any, noise_variance: float, *, temperature: float = 1.0
    ) -> Sight | GroupedPosterior:
        r"""Return what observations y = H x + e say about x, e ~ N(0, noise_variance I), of Gaussian components.

        Parameters
        ----------
        y : array-like, shape (n_samples, n_measurements)
            One observation a row.
        operator : mixcoder.sensing.Operator, array-like or LinearOperator, shape (n_measurements, n_features)
            H; or :class:`mixcoder.sensing.RowMasks`, a mask a row, with y in the shape of the rows.
        noise_variance : float
            In squared units of y; 0 where the operator has no dependent rows.
        temperature : float, default=1.0
            1 is Bayes, 0 the argmax.

        Returns
        -------
        mixcoder.sensing.Posterior or GroupedPosterior
            With ``mean``, ``variance``, ``weights``, ``component_means``, ``log_evidence``, ``hard`` and ``sample``;
            its answers are tensors, in the dtype of y.

        Examples
        --------
        >>> from mixcoder import GaussianMixture
        >>> prior = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> prior.posterior([[2.0]], [[1.0, 0.0]], noise_variance=0.0).mean.tolist()
        [[2.0, 1.0]]
        """
        model = self._generative()
        rows = y.detach() if isinstance(y, Tensor) else as_tensor(np.asarray(y))
        return posterior(
            on_device(model, rows.device), rows, operator, noise_variance, temperature=temperature
        )

    @lazily
    def impute(self, X: Any) -> Any:
        r"""Return the rows with each NaN replaced by its posterior mean, shape (n_samples, n_features).

        .. math:: E[x_b | x_a] = \sum_k r_k\, E[x_b | x_a, k]

        which for Gaussian components is :math:`\sum_k r_k [\mu_{k,b} + \Sigma_{k,ba} \Sigma_{k,aa}^{-1}
        (x_a - \mu_{k,a})]`, and for categories their most probable one. What is there stays as it is; a row without
        any entry becomes the mean of the mixture. After ``set_output(transform="pandas")`` or ``"polars"`` the rows
        come as a data frame with the columns of X, as from scikit-learn's imputers.

        Raises
        ------
        TypeError
            If the family of the components cannot miss entries.

        Examples
        --------
        >>> from mixcoder import GaussianMixture
        >>> prior = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> prior.impute([[2.0, float("nan")], [float("nan")] * 2]).tolist()
        [[2.0, 1.0], [0.0, 0.0]]
        """
        model, x = self._incomplete_rows(X)
        return rows_out(self, impute(model, x), X)

    def sample_missing(self, X: Any, *, random_state: Any = None) -> Any:
        r"""Return the rows with each NaN replaced by a draw from :math:`p(x_b | x_a)`, shape (n_samples, n_features).

        All entries that a row misses are drawn together: a component from its posterior, then what it generates given
        what is there. Several draws are a multiple imputation (Rubin 1987): what is computed of each shows by its
        spread how much the missing entries matter. The rows come in the container that ``set_output`` asks for.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
        random_state : int, RandomState or None
            By default that of the estimator.

        Raises
        ------
        TypeError
            If the family of the components cannot miss entries.

        Examples
        --------
        >>> from mixcoder import GaussianMixture
        >>> prior = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> drawn = prior.sample_missing([[2.0, float("nan")]] * 10_000, random_state=0)
        >>> float(drawn[:, 1].mean().round(1)), float(drawn[:, 1].var().round(1))
        (1.0, 0.8)
        """
        model, x = self._incomplete_rows(X)
        seed = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator(device=x.device).manual_seed(int(seed.randint(np.iinfo(np.int32).max)))
        return rows_out(self, sample_missing(model, x, generator), X)

    def _incomplete_rows(self, X: Any) -> tuple[MixtureAutoencoder, Tensor]:
        """Return the model, and rows whose missing entries it can fill in."""
        model = self._generative()
        x = rows_of(self, X, reset=False)
        require_marginals(model)
        if self._allows_missing(model.family):  # else a fit refuses them, and ``complete`` does not
            self._admissible_range(TensorSource(x), model.family)
        return on_device(model, x.device), x

    def marginal(self, columns: Any) -> Self:
        """Return the fitted mixture of some of the features, in the order given; the others are integrated out.

        Parameters
        ----------
        columns : sequence of int or str
            Numbers, or names where the mixture was fitted to a table with names.

        Returns
        -------
        estimator
            Of the same class, to ask and to save; ``history_`` and ``lower_bound_`` tell of the fit that it came from.
        """
        model, numbers = self._fitted(), self._columns(columns)
        return self._about(marginal(model, numbers), numbers)

    def condition(self, columns: Any, values: Any) -> Self:
        """Return the fitted mixture of the other features, in their order, given the values of some.

        Parameters
        ----------
        columns : sequence of int or str
            Numbers or names of what is known.
        values : array-like, shape (len(columns),)
            One row of values.

        Returns
        -------
        estimator
            Of the same class, to ask and to save; ``history_`` and ``lower_bound_`` tell of the fit that it came from.

        Examples
        --------
        >>> from mixcoder import GaussianMixture
        >>> prior = GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> given = prior.condition([0], [2.0])
        >>> given.means_.tolist(), given.covariances_.tolist()
        ([[1.0]], [[[0.75]]])

        Regression: the conditional mean is the prediction, the conditional covariance its error. With one component it
        is linear regression; with more, a smooth mixture of such. For many rows at once ask ``impute``.

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.uniform(-2, 2, 500)
        >>> table = np.column_stack([x, np.abs(x) + 0.1 * rng.standard_normal(500)])
        >>> model = GaussianMixture(2, random_state=0).fit(table)
        >>> given = model.condition([0], [1.5])
        >>> (given.weights_ @ given.means_).round(1).tolist()
        [1.5]
        >>> ask = np.array([[-1.0, np.nan], [1.0, np.nan]])
        >>> model.impute(ask)[:, 1].round(1).tolist()
        [1.0, 1.0]
        """
        model, numbers = self._fitted(), self._columns(columns)
        known = values.detach() if isinstance(values, Tensor) else as_tensor(np.asarray(values, np.float64))
        rest = [column for column in range(model.n_features) if column not in set(numbers)]
        return self._about(condition(model, numbers, known), rest)

    def _columns(self, columns: Any) -> list[int]:
        """Return columns, given by number or by name, by number."""
        names = [str(name) for name in getattr(self, "feature_names_in_", [])]
        numbers: list[int] = []
        for column in [columns] if isinstance(columns, str) else columns:
            if not isinstance(column, str):
                numbers.append(int(column))
            elif column in names:
                numbers.append(names.index(column))
            else:
                raise ValueError(
                    f"There is no column {column!r}; this model knows {names or 'numbers only'}."
                )
        return checked_columns(self._fitted(), numbers).tolist()

    def _about(self, model: MixtureAutoencoder, columns: list[int]) -> Self:
        """Return this estimator with the mixture of some of its columns."""
        other = copy(self)
        other.model_, other.n_features_in_, other._sums = model, len(columns), None
        if hasattr(self, "feature_names_in_"):
            other.feature_names_in_ = self.feature_names_in_[columns]
        if isinstance(family := getattr(self, "family", None), Family):
            other.family = family_of_columns(family, columns)
        return other

    def _n_parameters(self) -> int:
        """Return the number of free parameters, weights included."""
        model = self._fitted()
        return model.family.n_parameters(model.params) + model.n_components - 1

    def bic(self, X: Any) -> float:
        """Return the Bayesian information criterion on the rows; lower is better."""
        log_prob = self._log_prob(X).double()
        n_rows = log_prob.shape[0]
        return -2.0 * float(log_prob.sum()) + self._n_parameters() * math.log(n_rows)

    def aic(self, X: Any) -> float:
        """Return the Akaike information criterion on the rows; lower is better."""
        return -2.0 * float(self._log_prob(X).double().sum()) + 2.0 * self._n_parameters()

    def icl(self, X: Any) -> float:
        r"""Return the integrated complete-data likelihood criterion; lower is better.

        .. math:: \mathrm{ICL} = \mathrm{BIC} - 2 \sum_n \log \max_k r_{nk}

        References
        ----------
        Biernacki, Celeux & Govaert (2000).
        """
        model, source = self._asked_rows(X)
        certainty, soft = 0.0, replace(model, encoder=Posterior())
        for block in source.blocks(1 << 14):
            code = soft.encode(block.x)
            assert isinstance(code, Tensor)
            certainty += float(code.double().amax(1).log().sum())
        return self.bic(X) - 2.0 * certainty


class Mixture(DensityEstimator):
    """A mixture of any family, encoded by any rule.

    Parameters
    ----------
    family : str or Family, default="gaussian_full"
        What a component generates: the name of a family of :mod:`mixcoder.components` in snake case, or an
        instance with its hyper-parameters.
    n_components : int or "auto", default=1
        "auto" fits one component, two, and so on, until BIC has not improved three times in a row, and keeps the best;
        see ``selection_``.
    temperature : float or Annealed, default=1.0
        1 is Bayes' posterior (soft EM), 0 the argmax (hard EM), in between and above softargmax at
        beta = 1/temperature. A schedule :class:`mixcoder.encoders.Annealed` begins with one component, which
        splits as it cools, and ends at its last beta. ``encode``, ``transform``, ``reconstruct``, ``rate`` and
        ``distortion`` of the fitted mixture use the temperature at which the fit ended; ``predict`` is the same
        at every temperature, ``predict_proba`` and the scores are those of temperature 1.
    encoder : Encoder, optional
        An encoder instance instead of a temperature, for example a schedule
        ``Tempered(0.2, target_beta=1.0)``.
    init : {"auto", "annealed"} or array-like or callable, default="auto"
        "auto" continues the best of several short fits. "annealed" is ``Annealed()`` with its end at the
        temperature. An integer array of shape (n_samples,) gives first
        labels, a float array of shape (n_samples, n_components) first responsibilities; a callable is
        called as ``init(X, n_components, random_state)`` and returns either.
    tol : float, default=1e-3
        The fit stops when an EM step changes the mean bound by less than this, in nats per row.
    max_iter : int, default=100
        Largest number of passes over the rows.
    n_init : int, default=1
        Number of fits, each from its own start; the best is kept.
    acceleration : {"auto", "squarem", "none"}, default="auto"
        Monotone SQUAREM; "auto" uses it unless a start is given.
    random_state : int, RandomState or None
    warm_start : bool, default=False
        Whether ``fit`` continues from the last fit.
    verbose, verbose_interval : int
    on_interrupt : {"raise", "keep"}, default="raise"
        Whether Ctrl-C during ``fit`` leaves the estimator as it was and goes on up, or keeps the best model
        so far.
    step_exponent : float in (0.5, 1], default=0.6
        How fast ``partial_fit`` forgets.

    Attributes
    ----------
    model_ : MixtureAutoencoder
    weights_ : array, shape (n_components,)
    converged_ : bool
    stop_reason_ : str
    n_iter_ : int
    lower_bound_ : float
        Mean bound in the last E-step, in nats per row.
    history_ : dict of lists
        bound, beta, seconds, and events: repairs of components, the only steps after which a bound may be lower.
        After an annealed start also a dict "annealing" of lists, one entry a temperature: beta, n_components (live
        ones), entropy of the codes and free_energy in nats per row, n_steps.
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import Mixture
    >>> X = np.array([[0.0], [1.0], [0.0], [9.0], [11.0], [10.0]])
    >>> model = Mixture("poisson", n_components=2, random_state=0).fit(X)
    >>> sorted(model.decode([0, 1]).round(2).ravel().tolist())
    [0.33, 10.0]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **DensityEstimator._parameter_constraints,
        "family": [str, Family],
        "encoder": [Encoder, None],
        "init": [StrOptions({"auto", "annealed"}), "array-like", callable],
    }

    def __init__(
        self,
        family: str | Family[Any, Any] = "gaussian_full",
        n_components: int | str = 1,
        *,
        temperature: float | Annealed = 1.0,
        encoder: Encoder | None = None,
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
        self.family = family
        self.n_components = n_components
        self.temperature = temperature
        self.encoder = encoder
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

    def _family(self) -> Family[Any, Any]:
        if isinstance(self.family, Family):
            return self.family
        known = nameable_families()
        if self.family not in known:
            raise ValueError(not_a_name(self.family))
        return known[self.family]()

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            return encoder_at(self.temperature)
        if self.temperature != 1.0:
            raise ValueError(
                f"Give either encoder={self.encoder!r} or temperature={self.temperature!r}, not both."
            )
        return self.encoder

    def _schedule(self) -> Annealed | None:
        rule = self.temperature if getattr(self, "encoder", None) is None else self.encoder
        return schedule_of(rule, self._how_to_begin, self._encoder().beta)

    @property
    def _exact_maximiser(self) -> bool:
        return not _adds_variance(self._family())

    def _given_start(self, problem: Problem) -> Start | Callable[[int], Start] | None:
        if isinstance(self.init, str):
            return None
        if callable(self.init):
            random_state = self._random_numbers()
            source = problem.source
            rows = source.take(torch.arange(source.n_rows))
            shown = rows if self._from_torch else rows.numpy(force=True)
            return lambda attempt: code_start(
                problem, self.init(shown, self.n_components, random_state), self.n_components
            )
        return code_start(problem, self.init, self.n_components)


def require_fittable(estimator: DensityEstimator, X: Any, names: Sequence[str] | None = None) -> None:
    """Raise, or warn of, what ``fit`` finds in the rows before it begins; the estimator then knows their columns.

    Parameters
    ----------
    names : sequence of str, optional
        What messages call the columns.
    """
    source, _ = estimator._source(X, None)
    if names is not None:
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    family = estimator._family()
    problem, _ = prepare(source, family, estimator._checked_range(source, family))
    estimator._require_representable(problem, source.dtype)


def _adds_variance(family: Family[Any, Any]) -> bool:
    """Return whether the M-step of a family, or of a part of it, adds to the variances it finds."""
    parts = getattr(family, "parts", ())
    return getattr(family, "added_variance", 0.0) != 0.0 or any(_adds_variance(part) for part, _ in parts)


def code_start(problem: Problem, code: Any, n_components: int) -> Start:
    """Return the first parameters from labels or responsibilities of every row."""
    values = numbers_of(code, "The start").to(problem.source.device)
    n_rows = problem.source.n_rows
    if values.shape not in ((n_rows,), (n_rows, n_components)):
        raise ValueError(
            f"A start must be labels of shape ({n_rows},) or responsibilities of shape "
            f"({n_rows}, {n_components}), got shape {tuple(values.shape)}."
        )
    if values.ndim == 1:
        index = values.to(torch.int64)
        if int(index.min()) < 0 or int(index.max()) >= n_components or not bool((index == values).all()):
            raise ValueError(f"Labels of a start must be whole numbers in 0..{n_components - 1}.")
        return start_from_code(problem, HardCode(index, n_components), n_components)
    total = values.sum(1, keepdim=True)
    if bool((values < 0).any()) or bool((total <= 0).any()):
        raise ValueError("Responsibilities of a start must be non-negative, and some positive in each row.")
    shares = values / total
    if n_components > 1 and bool((shares == shares[:, :1]).all()):
        raise ValueError(
            "Every row of the start has the same share in every component, so that none will ever differ from another. "
            "Give responsibilities that do, or leave the start out."
        )
    return start_from_code(problem, shares, n_components)


__all__ = [
    "DensityEstimator",
    "Mixture",
    "code_start",
    "encoder_at",
    "families",
    "nameable_families",
    "require_fittable",
]
