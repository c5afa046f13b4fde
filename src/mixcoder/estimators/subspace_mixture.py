"""K-subspaces: rows near one of several planes, every point of which is as good as any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import torch
from sklearn.base import _fit_context as fit_context  # type: ignore[attr-defined]
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import Subspace
from mixcoder.encoders import Argmax
from mixcoder.errors import DataError
from mixcoder.estimators._callbacks import IterationTask, all_or_nothing, with_callbacks
from mixcoder.estimators._checkpoint import checkpointed
from mixcoder.estimators._lazy import lazily, rows_anywhere
from mixcoder.estimators._linear_codes import LinearCodes, projected
from mixcoder.estimators._validation import Number, like_input, weights_of
from mixcoder.estimators.base import NOT_ROUTED, few_threads, on_device, stored
from mixcoder.estimators.k_means import ClusterSums
from mixcoder.estimators.linear_mixtures import N_LATENT, family_ranks, ranks_of
from mixcoder.estimators.mixture import code_start
from mixcoder.fitting.alternate import FitResult
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Budget, Start, fit, found_start, prepare
from mixcoder.fitting.scan import Scan
from mixcoder.fitting.stream import Stream
from mixcoder.fitting.subspaces import distortion_of, fall_below, in_own_units, ranked_planes, scaled_to
from mixcoder.ops.simplex import log_simplex
from mixcoder.sources import Block, Source
from mixcoder.statistics import Statistics

_BLOCK = 1 << 13


class SubspaceMixture(LinearCodes):
    r"""Planes nearest to the rows: K-subspaces, principal component analysis with a choice of planes.

    .. math:: \min_{\mu, U, c} \sum_n w_n\, |(I - U_{c_n}U_{c_n}')(x_n - \mu_{c_n})|^2, \qquad U_k'U_k = I

    The component of a row is that which leaves the smallest squared error, after projection. The M-step is the mean and
    the leading directions of a component's rows; above 160 features one step of orthogonal iteration from the current
    ones, and no d x d matrix. The objective falls in every iteration, except after a component that lost its rows
    was given the worst-explained ones. It is no density, since every point of a plane is as good as any other: it has
    no ``sample``, ``score_samples`` or ``predict_proba``. For these, and where codes near the mean are likelier than
    codes far out, see :class:`PPCAMixture`.

    Parameters
    ----------
    n_components : int, default=1
    n_latent : int, list of int or "auto", default=1
        Dimension of the planes, less than the number of features; one for all, one a component, or chosen as in
        :class:`PPCAMixture`. A plane of higher dimension is nearer to every row: ranks that differ are no contest.
    init : {"auto"} or array-like or callable, default="auto"
        "auto" continues the best of several short fits. An integer array of shape (n_samples,) gives first labels;
        a callable is called as ``init(X, n_components, random_state)`` and returns them.
    tol : float, default=1e-4
        The fit stops when an iteration lowers the squared error by less than this share of it.
    max_iter : int, default=100
        Largest number of passes over the rows.
    n_init : int, default=1
        Number of fits, each from its own start; the best is kept.
    random_state : int, RandomState or None
    verbose : int
    on_interrupt : {"raise", "keep"}, default="raise"
        Whether Ctrl-C during ``fit`` leaves the estimator as it was and goes on up, or keeps the best model so far.
    step_exponent : float, default=0.6
        How fast ``partial_fit`` forgets: in (0.5, 1], see there.

    Attributes
    ----------
    means_ : array, shape (n_components, n_features)
    bases_ : array, shape (n_components, n_features, n_latent)
        U, orthonormal columns; the plane that they span is what has a meaning.
    n_latent_ : array of int, shape (n_components,)
    inertia_ : float
        Weighted sum of squared distances to the nearest plane.
    weights_ : array, shape (n_components,)
        Share of the row weights nearest to each plane.
    model_ : MixtureAutoencoder
    converged_, stop_reason_, n_iter_, history_, n_features_in_
        As in :class:`Mixture`; ``history_["distortion"]`` is the mean squared error of each iteration.

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import SubspaceMixture
    >>> t = np.linspace(-1, 1, 20)
    >>> X = np.vstack([np.c_[t, t, t], np.c_[t, -t, 0 * t + 1]])  # two lines
    >>> model = SubspaceMixture(2, 1, random_state=0).fit(X)
    >>> bool(model.inertia_ < 1e-12)
    True
    >>> component, z = model.encode_latent(X)
    >>> bool(np.allclose(model.decode_latent(component, z), X))
    True

    References
    ----------
    Bradley & Mangasarian (2000), "k-plane clustering"; Tseng (2000), "Nearest q-flat to m points".
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Number(Integral, 1, None, closed="left")],
        "n_latent": N_LATENT,
        "init": [StrOptions({"auto"}), "array-like", callable],
        "tol": [Number(Real, 0.0, None, closed="left")],
        "max_iter": [Number(Integral, 1, None, closed="left")],
        "n_init": [Number(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "on_interrupt": [StrOptions({"raise", "keep"})],
        "step_exponent": [Number(Real, 0.5, 1.0, closed="right")],
    }

    __metadata_request__fit: ClassVar[dict[str, str]] = NOT_ROUTED

    def __init__(
        self,
        n_components: int = 1,
        n_latent: Any = 1,
        *,
        init: Any = "auto",
        tol: float = 1e-4,
        max_iter: int = 100,
        n_init: int = 1,
        random_state: Any = None,
        verbose: int = 0,
        on_interrupt: str = "raise",
        step_exponent: float = 0.6,
    ) -> None:
        self.n_components = n_components
        self.n_latent = n_latent
        self.init = init
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.verbose = verbose
        self.on_interrupt = on_interrupt
        self.step_exponent = step_exponent

    @property
    def _n_fitted_components(self) -> int:
        return int(self.n_components)

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
        """Fit the planes.

        Parameters
        ----------
        X : array-like or Tensor, shape (n_samples, n_features), Source, or Dask array or DataFrame
            Rows. Never changed, never copied. Those of :func:`mixcoder.open_blocks` stay in their files, those of Dask
            are computed when they are read; where the sums run is what :func:`mixcoder.engine` says.
        y : ignored
        sample_weight : array-like, shape (n_samples,), optional
            Non-negative row weights; their scale changes ``inertia_`` only.
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
        """
        with self._fitting(X, checkpoint, checkpoint_every, resume=resume) as rows:
            self._fit(rows, y, sample_weight)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and return the nearest plane of each row, shape (n_samples,)."""
        return self.fit(X, y, sample_weight=sample_weight).predict(X)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        r"""Take one step on a batch of rows, in memory, in files or of Dask.

        .. math:: s \leftarrow (1-\eta_t)\, s + \eta_t\, \bar s(x_t), \qquad \eta_t = (t+2)^{-a}

        The running average of what the M-step needs of each plane, its share of the rows, their mean and their scatter,
        moves towards that of the batch, whose rows go to the planes nearest to them, a = ``step_exponent``; then the
        planes are laid anew. Above 160 features the scatter is that along the bases, which the steps turn. The first
        batch starts the planes, as ``fit`` would; fitted planes go on from their own average, every iteration of
        their fit counting as a step. A plane that a batch does not show stays where it is. ``inertia_`` is that of
        the batch.

        References
        ----------
        Cappe & Moulines (2009), equation 14, with the hard code in the place of the posterior.
        """
        del y
        X = rows_anywhere(X)
        with all_or_nothing(self), few_threads(X):
            begun = hasattr(self, "model_") and self._continues(self.model_)
            source, unit = self._source(X, sample_weight, reset=not begun, min_rows=1)
            stream = self._resumed_stream(source) if begun else self._first_stream(source, unit)
            stream = stream.step(source)
            assert stream.average is not None
            self.model_, self._sums = stored(stream.model), stream.average.contiguous()
            self.n_iter_, self.converged_ = stream.n_steps, False
            self.stop_reason_ = "partial_fit takes one step at a time"
            level = distortion_of(stream.problem, int(self.n_components))
            distortions = [level(bound) for bound in stream.bounds]
            self.history_ = {"bound": list(stream.bounds), "distortion": distortions}
            self._count(source, unit)
            # Shares as the average knows them, in rows of the batch.
            rows = self._cluster_counts.sum()
            self._cluster_counts = rows * self._sums.counts.cpu()  # type: ignore[attr-defined]
        return self

    def _continues(self, previous: MixtureAutoencoder) -> bool:
        family: Any = previous.family
        asked = ranks_of(self.n_latent, int(self.n_components))
        # "auto" goes on with the ranks that were chosen.
        return previous.n_components == self.n_components and asked in (None, family.n_latent)

    def _first_stream(self, source: Source, unit: float) -> Stream:
        problem, _ = self._problem(source)
        problem, starts, _ = self._starts(problem, unit * problem.total_weight)
        first = starts(0)
        return Stream(scaled_to(problem, first), *first, Argmax(), float(self.step_exponent))

    def _resumed_stream(self, source: Source) -> Stream:
        model = on_device(self.model_, source.device)
        self._checked_range(source, model.family, first=False)
        stream = Stream.resumed(
            model,
            source,
            Argmax(),
            exponent=float(self.step_exponent),
            average=None if self._sums is None else self._sums.to(source.device),
            bounds=tuple(self.history_["bound"]),
        )
        return replace(stream, problem=replace(stream.problem, fixed_weights=True))

    def _problem(self, source: Source) -> tuple[Problem, Scan]:
        if source.n_rows < self.n_components:
            raise DataError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {source.n_rows}. Give more rows or ask for fewer components."
            )
        family = Subspace(family_ranks(self.n_latent, int(self.n_components)))
        problem, seen = prepare(source, family, self._checked_range(source, family), fixed_weights=True)
        self._require_representable(problem, source.dtype)
        return in_own_units(problem), seen

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        source, unit = self._source(X, sample_weight)
        problem, seen = self._problem(source)
        if self._checkpoint is not None:
            self._checkpoint.open(self, problem, seen)
        problem, starts, n_init = self._starts(problem, unit * problem.total_weight)
        first = starts(0)
        problem = scaled_to(problem, first)
        task = IterationTask(self, n_init, self.max_iter, X=X, y=y, sample_weight=sample_weight)
        budget = Budget(
            max_iter=self.max_iter,
            stop=fall_below(problem, float(self.tol), int(self.n_components)),
            keep_on_interrupt=self.on_interrupt == "keep",
        )

        def start(attempt: int) -> Start:
            return first if attempt == 0 else starts(attempt)

        level = distortion_of(problem, int(self.n_components))
        on_step = self._on_step(task, problem, lambda bound: f"mean squared distance {level(bound):.6g}")
        with checkpointed(self, problem, Argmax()) as (state, keep):
            result = fit(problem, Argmax(), start, n_init, budget, on_step, state, keep)
        self._keep(result)
        self.history_["distortion"] = [level(bound) for bound in result.history.bound]
        self._sums = _average(result, problem)
        self._count(problem.source, unit)
        task.close()
        if self.verbose:
            told = f"inertia {self.inertia_:.6g}: {result.reason} ({result.n_iter} iterations)"
            print(f"SubspaceMixture: {told}")  # noqa: T201
        self._tell(result, problem, seen, n_parameters=self._n_parameters(result))

    def _n_parameters(self, result: FitResult) -> int:
        return result.model.family.n_parameters(result.model.params)

    def _starts(self, problem: Problem, n_rows: float) -> tuple[Problem, Callable[[int], Start], int]:
        """Return the problem with ranks for all components, its starts, and how many of them to try."""
        generator, k = self._generator(), int(self.n_components)
        random_state = self._random_numbers()

        def given(problem: Problem) -> Start:
            labels = self.init
            if callable(labels):
                rows = problem.source.take(torch.arange(problem.source.n_rows))
                labels = labels(rows if self._from_torch else rows.numpy(force=True), k, random_state)
            return code_start(problem, labels, k)

        def start(problem: Problem) -> Start:
            if isinstance(self.init, str):
                return found_start(problem, k, Argmax(), generator)
            return given(problem)

        one = not isinstance(self.init, str) and not callable(self.init)
        n_init = 1 if one else int(self.n_init)
        asked = ranks_of(self.n_latent, k)
        if isinstance(asked, int):
            return problem, lambda attempt: start(problem), n_init
        problem, first = ranked_planes(problem, start, asked, k, n_init, n_rows)
        return problem, lambda attempt: first, 1

    def _count(self, source: Source, unit: float) -> None:
        """Set ``inertia_`` and the weight of the rows nearest to each plane, from one pass over the rows."""
        found = source.map_reduce(_Nearest(self.model_), max(256, (1 << 18) // source.n_features))
        self.inertia_, self._cluster_counts = float(found.squares) * unit, found.counts

    # Fitted attributes and questions

    @property
    def weights_(self) -> Any:
        """Share of the row weights nearest to each plane, shape (n_components,)."""
        self._fitted()
        return self._attribute(self._cluster_counts / self._cluster_counts.sum())

    @property
    def bases_(self) -> Any:
        """Orthonormal bases of the planes, shape (n_components, n_features, n_latent)."""
        params: Any = self._fitted().params
        return self._attribute(params.loadings)

    @lazily
    def reconstruct(self, X: Any) -> Any:
        r"""Return the point of the nearest plane that is nearest to each row, shape (n_samples, n_features).

        .. math:: \hat x = \mu_k + U_k U_k' (x - \mu_k)
        """
        model, source = self._asked_rows(X)
        result = torch.empty(source.n_rows, source.n_features, dtype=source.dtype, device=source.device)
        for block in source.blocks(_BLOCK):
            result[block.start : block.stop] = projected(model, block.x, "posterior").to(result.dtype)
        return like_input(result, X)

    def distortion(self, X: Any) -> float:
        """Return the mean squared distance of the rows from the nearest plane."""
        return -self.score(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the weighted mean squared distance of the rows from the nearest plane."""
        del y
        model, source = self._asked_rows(X)
        weights = weights_of(sample_weight, source)
        total = 0.0
        for block in source.blocks(_BLOCK):
            errors = (block.x.double() - projected(model, block.x, "posterior")).square().sum(1)
            total += float(
                errors.sum() if weights is None else errors @ weights[block.start : block.stop].double()
            )
        return -total / (source.n_rows if weights is None else float(weights.sum()))

    def _coding_log_weights(self, model: MixtureAutoencoder) -> Tensor:
        # Every plane can be the nearest one of a new row: one pseudo-row spread over the others keeps bits finite.
        counts = self._cluster_counts.to(model.device)
        return log_simplex(counts.clamp_min(1.0 / model.n_components))

    def _latent_unit(self, model: MixtureAutoencoder) -> float:
        return 1.0 / float(model.frame.scale[0])


def _average(result: FitResult, problem: Problem) -> Statistics:
    """Return the sums that the last M-step maximised, for a row."""
    assert result.statistics is not None
    return result.statistics.scaled(1.0 / problem.total_weight).contiguous()


@dataclass(frozen=True)
class _Nearest:
    """Counts the rows of a block nearest to each plane, and adds up their squared distances."""

    model: MixtureAutoencoder

    def __call__(self, block: Block) -> ClusterSums:
        weights = None if block.weights is None else block.weights.double()
        errors = (block.x.double() - projected(self.model, block.x, "posterior")).square_().sum(1)
        labels = self.model.assign(block.x)
        counts = torch.bincount(labels, weights, minlength=self.model.n_components).double()
        return ClusterSums(counts, errors.sum() if weights is None else errors @ weights)


__all__ = ["SubspaceMixture"]
