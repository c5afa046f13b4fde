"""k-means with scikit-learn's parameters and results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import ClusterMixin
from sklearn.base import _fit_context as fit_context  # type: ignore[attr-defined]
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from mixcoder._user_warnings import warn_user
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.components import GaussianTiedSpherical
from mixcoder.encoders import Annealed, Argmax
from mixcoder.errors import DataError, DataTypeError
from mixcoder.estimators._callbacks import IterationTask, all_or_nothing, with_callbacks
from mixcoder.estimators._checkpoint import checkpointed
from mixcoder.estimators._exchange import codebook_of
from mixcoder.estimators._lazy import lazily, rows_anywhere
from mixcoder.estimators._validation import Number, like_input, numbers_of, weights_of
from mixcoder.estimators.base import NOT_ROUTED, AutoencoderEstimator, few_threads, on_device, stored
from mixcoder.fitting.annealing import AnnealingTrace, InterruptedAnnealing
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import Budget, Start, fit
from mixcoder.fitting.kmeans import (
    annealed_centres,
    distortion_of,
    kmeans_problem,
    random_centres,
    searched_centres,
    shift_below,
    start_at_centres,
)
from mixcoder.fitting.scan import Scan
from mixcoder.fitting.stream import Stream
from mixcoder.ops.simplex import log_simplex
from mixcoder.sensing import GaussianPrior, GroupedPosterior, posterior
from mixcoder.sensing import Posterior as Sight
from mixcoder.sources import (
    Block,
    BlockedSource,
    DaskSource,
    FileSource,
    IterableSource,
    RowValues,
    Source,
    TensorSource,
    is_dask,
)
from mixcoder.statistics import Moments, Statistics

_FAR = 2.0**600


class KMeans(ClusterMixin, AutoencoderEstimator):
    r"""k-means clustering: a mixture of equal balls with hard codes.

    .. math:: \min_{a, c} \sum_n w_n\, |x_n - a_{c_n}|^2

    The parameters are those of :class:`sklearn.cluster.KMeans`; from the same start the fit gives the same
    result. By default several greedy k-means++ starts are tried on a sample and the best one is continued
    on all rows, which costs a fraction of seeding on all rows and ends no worse.

    Parameters
    ----------
    n_clusters : int, default=8
    init : {"k-means++", "random", "annealed"}, Annealed, array-like of shape (n_clusters, n_features), or callable
        "annealed" begins with one centre at a high temperature and splits it as it cools;
        :class:`mixcoder.encoders.Annealed` is the same with another schedule, whose beta multiplies squared distances
        and ends in hard codes unless it says otherwise. A callable is called as
        ``init(X, n_clusters, random_state)`` and returns centres.
    n_init : "auto" or int, default="auto"
        Number of fits; "auto" is 1, or 10 for "random" and callables.
    max_iter : int, default=300
    tol : float, default=1e-4
        Relative to the mean variance of the features: the squared move of the centres at which to stop.
    verbose : int, default=0
    random_state : int, RandomState or None
    copy_x : bool, default=True
        The rows are never changed, whatever this says; it is here for scikit-learn's signature.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Both name the same iteration with the same result; rows are always compared with all centres in
        blocked matrix products.
    on_interrupt : {"raise", "keep"}, default="raise"
        Whether Ctrl-C during ``fit`` leaves the estimator as it was, or keeps the best centres so far.

    Attributes
    ----------
    cluster_centers_ : array, shape (n_clusters, n_features)
    labels_ : int32 array, shape (n_samples,)
    inertia_ : float
        Weighted sum of squared distances to the nearest centre.
    n_iter_ : int
    weights_ : array, shape (n_clusters,)
        Share of the row weights in each cluster, what an entropy coder of the labels uses.
    converged_, stop_reason_, history_, model_ : as for :class:`GaussianMixture`
        The "annealing" in ``history_`` has beta in one over squared units of the rows, and a free energy in squared
        units that ends near minus the mean squared distance.

    References
    ----------
    Lloyd (1982). Arthur & Vassilvitskii (2007).

    Examples
    --------
    >>> import numpy as np
    >>> from mixcoder import KMeans
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0.0]])
    >>> km = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> km.inertia_
    16.0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_clusters": [Number(Integral, 1, None, closed="left")],
        "init": [StrOptions({"k-means++", "random", "annealed"}), Annealed, callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Number(Integral, 1, None, closed="left")],
        "max_iter": [Number(Integral, 1, None, closed="left")],
        "tol": [Number(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
        "on_interrupt": [StrOptions({"raise", "keep"})],
    }

    __metadata_request__fit: ClassVar[dict[str, str]] = NOT_ROUTED

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        on_interrupt: str = "raise",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.on_interrupt = on_interrupt

    @property
    def _n_fitted_components(self) -> int:
        return int(self.n_clusters)

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
        """Cluster the rows.

        Parameters
        ----------
        X : array-like or Tensor, shape (n_samples, n_features), Source, or Dask array or DataFrame
            Rows. Never changed, never copied. Those of :func:`mixcoder.open_blocks` stay in their files, those of Dask
            are computed when they are read, and get no ``labels_``.
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

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        source, unit = self._source(X, sample_weight, min_rows=1)
        if source.n_rows < self.n_clusters:
            raise DataError(
                f"n_samples={source.n_rows} should be >= n_clusters={self.n_clusters}. Give more rows or ask "
                "for fewer clusters."
            )
        problem, seen = self._problem(source)
        n_init = self._n_init()
        task = IterationTask(self, n_init, self.max_iter, X=X, y=y, sample_weight=sample_weight)
        budget = Budget(
            max_iter=self.max_iter,
            stop=shift_below(problem, float(self.tol) * float(problem.variances.mean())),
            keep_on_interrupt=self.on_interrupt == "keep",
        )
        if self._checkpoint is not None:
            self._checkpoint.open(self, problem, seen)
        traces: dict[int, AnnealingTrace] = {}
        level = distortion_of(problem, self.n_clusters)
        on_step = self._on_step(task, problem, lambda bound: f"mean squared distance {level(bound):.6g}")
        starts = self._starts(problem, traces)
        with checkpointed(self, problem, Argmax()) as (state, keep):
            result = fit(problem, Argmax(), starts, n_init, budget, on_step, state, keep)
        self._keep(result)
        if result.attempt in traces:  # not of a start that an earlier process made
            self.history_["annealing"] = traces[result.attempt].as_dict()
        self._label(source, unit)
        self._weight_unit = unit
        task.close()
        self._report_distinct()
        # The centres, and the one variance that the rows leave around them.
        self._tell(result, problem, seen, n_parameters=self.n_clusters * source.n_features + 1)
        if self.verbose:
            print(f"KMeans: inertia {self.inertia_:.6g} after {self.n_iter_} iterations: {result.reason}")  # noqa: T201

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take one mini-batch step: every centre is the mean of all rows it has been given so far.

        The first batch starts the centres, as ``fit`` would; fitted centres go on with their counts.

        References
        ----------
        Sculley (2010), "Web-scale k-means clustering".
        """
        del y
        X = rows_anywhere(X)
        with all_or_nothing(self), few_threads(X):
            begun = hasattr(self, "model_") and self.model_.n_components == self.n_clusters
            source, unit = self._source(X, sample_weight, reset=not begun, min_rows=1)
            if begun:
                stream = self._resumed_stream(source)
            else:
                stream, self._weight_unit = self._first_stream(source), unit
            # Batches count by their weights, in the unit of the first.
            scale = unit / self._weight_unit
            own = source.weights if isinstance(source, BlockedSource) else None
            weights = torch.ones(source.n_rows, dtype=torch.float64) if own is None else own
            stream = stream.step(_weighted(source, scale * weights.to(source.device)))
            self.model_ = stored(stream.model)
            self.n_iter_ = stream.n_steps
            self.converged_, self.stop_reason_ = False, "partial_fit takes one step at a time"
            self.history_ = {"bound": list(stream.bounds)}
            self._label(source, unit)
            self._cluster_counts = stream.average.counts  # type: ignore[union-attr]
        return self

    def _first_stream(self, source: Source) -> Stream:
        if source.n_rows < self.n_clusters:
            raise DataError(
                f"The first batch has n_samples={source.n_rows}, which should be >= "
                f"n_clusters={self.n_clusters}."
            )
        problem, _ = self._problem(source)
        params, log_weights = self._starts(problem, {})(0)
        return Stream(problem, params, log_weights, Argmax(), exponent=None)

    def _resumed_stream(self, source: Source) -> Stream:
        """Return the stream in which all rows so far have gone by."""
        model = on_device(self.model_, source.device)
        self._checked_range(source, model.family)
        counts, centres = self._cluster_counts.to(source.device), model.frame.apply(model.prototypes())
        seen = Moments(counts, counts[:, None] * centres, model.family.pooled(centres * 0.0))
        bounds = tuple(self.history_["bound"])
        return Stream.resumed(model, source, Argmax(), exponent=None, average=seen, bounds=bounds)

    def _problem(self, source: Source) -> tuple[Problem, Scan]:
        limits = self._checked_range(source, GaussianTiedSpherical())
        problem, seen = kmeans_problem(source, limits, remembers=self._checkpoint is None)
        self._require_representable(problem, torch.float64)
        return problem, seen

    def _n_init(self) -> int:
        searched = isinstance(self.init, str | Annealed)
        given = not searched and not callable(self.init)
        if given:
            if self.n_init not in ("auto", 1):
                warn_user(
                    f"Explicit initial centres: one fit only, not n_init={self.n_init}.", RuntimeWarning
                )
            return 1
        if self.n_init == "auto":
            return 1 if searched and self.init != "random" else 10
        return int(self.n_init)

    def _starts(self, problem: Problem, traces: dict[int, AnnealingTrace]) -> Any:
        """Return the function of attempts that begins a fit; the trace of an annealed start goes into ``traces``."""
        generator, k = self._generator(), self.n_clusters
        schedule = Annealed() if isinstance(self.init, str) and self.init == "annealed" else self.init
        random_state = self._random_numbers()

        def start(attempt: int) -> Start:
            if isinstance(schedule, Annealed):
                try:
                    found = annealed_centres(problem, k, schedule.ending_at(math.inf), generator)
                except InterruptedAnnealing as stopped:
                    traces[attempt] = stopped.trace
                    raise
                centres, traces[attempt] = found
                return start_at_centres(problem, centres)
            if isinstance(self.init, str):
                if self.init == "k-means++":
                    centres = searched_centres(problem, k, generator)
                else:
                    centres = random_centres(problem, k, generator)
                return start_at_centres(problem, centres)
            centres = self.init
            if callable(centres):
                rows = problem.source.take(torch.arange(problem.source.n_rows))
                shown = rows if self._from_torch else rows.numpy(force=True)
                centres = centres(shown, k, random_state)
            return start_at_centres(problem, self._given_centres(problem, centres))

        return start

    def _given_centres(self, problem: Problem, centres: Any) -> Tensor:
        values = numbers_of(centres, "The initial centers").to(problem.source.device)
        d = problem.source.n_features
        if values.ndim != 2 or values.shape[0] != self.n_clusters:
            raise ValueError(
                f"The shape of the initial centers {tuple(values.shape)} does not match the number of "
                f"clusters {self.n_clusters}."
            )
        if values.shape[1] != d:
            raise ValueError(
                f"The shape of the initial centers {tuple(values.shape)} does not match the number of "
                f"features of the data {d}."
            )
        return problem.frame.apply(values)

    def _label(self, source: Source, unit: float) -> None:
        """Set labels, inertia and counts from one pass over the rows.

        Parameters
        ----------
        unit : float
            What one weight of the source stands for.
        """
        rows = max(256, (1 << 18) // source.n_features)
        if isinstance(source, DaskSource):
            # As many labels as rows have no place here: ``predict`` gives them lazily.
            found = source.map_reduce(_Clustered(self.model_), rows)
            self.inertia_, self._cluster_counts = float(found.squares) * unit, found.counts
            self.__dict__.pop("labels_", None)
            return
        labels, centres = self.model_.assign(source), self.model_.prototypes()
        squares = _Squares(centres, RowValues(labels))
        self.inertia_ = float(source.map_reduce(squares, rows)) * unit
        self._cluster_counts = torch.bincount(labels, _weights_of(source), minlength=self.n_clusters).double()
        self.labels_ = (
            labels.to(torch.int32) if self._from_torch else labels.numpy(force=True).astype(np.int32)
        )

    def _report_distinct(self) -> None:
        distinct = int(torch.count_nonzero(self._cluster_counts))
        if distinct < self.n_clusters:
            warn_user(
                f"Number of distinct clusters ({distinct}) found smaller than n_clusters "
                f"({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
            )

    # Fitted attributes and questions

    @property
    def cluster_centers_(self) -> Any:
        """Centres of the clusters, shape (n_clusters, n_features)."""
        return self._attribute(self._fitted().prototypes())

    @property
    def weights_(self) -> Any:
        """Share of the row weights in each cluster, shape (n_clusters,)."""
        self._fitted()
        return self._attribute(self._cluster_counts / self._cluster_counts.sum())

    def codebook(self) -> Any:
        """Return the centres as FAISS wants vectors: a NumPy array, float32, C-contiguous, (n_clusters, n_features).

        Examples
        --------
        >>> import numpy as np
        >>> from mixcoder import KMeans
        >>> KMeans.from_codebook(np.eye(2)).codebook().dtype
        dtype('float32')
        """
        centres = self._fitted().prototypes().numpy(force=True)
        return np.ascontiguousarray(centres, dtype=np.float32)

    @classmethod
    def from_codebook(cls, codebook: Any, weights: Any = None) -> Self:
        """Return a fitted estimator with given centres.

        Parameters
        ----------
        codebook : array-like of shape (n_clusters, n_features), faiss.Kmeans, or a faiss index that stores its vectors
        weights : array-like, shape (n_clusters,), optional
            How many rows each centre stands for, for ``rate`` and ``partial_fit``; by default one each.
        """
        centres = codebook_of(codebook)
        estimator = cls(n_clusters=len(centres))
        estimator._dtype_name, estimator._from_torch = str(centres.dtype).removeprefix("torch."), False
        counts = weights_of(1.0 if weights is None else weights, centres)
        problem, _ = estimator._problem(TensorSource(centres))
        start = start_at_centres(problem, problem.frame.apply(centres.double()))
        estimator.model_ = stored(problem.model(*start, Argmax()))
        estimator.n_features_in_ = centres.shape[1]
        estimator._cluster_counts, estimator._weight_unit = counts.clone(), 1.0  # type: ignore[union-attr]
        # As after a fit to the centres themselves.
        estimator.labels_ = np.arange(len(centres), dtype=np.int32)
        estimator.inertia_, estimator.n_iter_, estimator.converged_ = 0.0, 0, True
        estimator.stop_reason_, estimator.history_ = "the centres were given", {"bound": []}
        return estimator

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Cluster the rows and return their labels, shape (n_samples,)."""
        self.fit(X, y, sample_weight=sample_weight)
        return self.predict(X) if is_dask(X) else self.labels_

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Cluster the rows and return their distances to the centres, shape (n_samples, n_clusters)."""
        return self.fit(X, y, sample_weight=sample_weight).transform(X)

    @lazily
    def predict(self, X: Any) -> Any:
        """Return the nearest cluster of each row, int32, shape (n_samples,)."""
        model, source = self._asked_rows(X)
        return like_input(model.assign(source).to(torch.int32), X)

    @lazily
    def transform(self, X: Any) -> Any:
        """Return the distance of each row to each centre, shape (n_samples, n_clusters)."""
        model, x = self._asked(X)
        return like_input(distances(model, x), X)

    def inverse_transform(self, X: Any) -> Any:
        """Return the nearest centre of each row, given its distances to the centres or its cluster.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_clusters) or (n_samples,)
            What ``transform`` or ``predict`` returned.
        """
        values = numbers_of(X, "X")
        if values.ndim == 2 and values.shape[1] == self._fitted().n_components:
            values = values.argmin(1)
        return like_input(self.decode(values), X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return minus the weighted sum of squared distances to the nearest centre."""
        del y
        model, source = self._asked_rows(X)
        weights = weights_of(sample_weight, source)
        total = 0.0
        for block in source.blocks(1 << 14):
            x = block.x.double()
            errors = (x - model.decode(model.encode(x))).square().sum(1)
            total += float(errors.sum() if weights is None else errors @ weights[block.start : block.stop])
        return -total

    def posterior(
        self,
        y: Any,
        operator: Any,
        noise_variance: float,
        *,
        temperature: float = 1.0,
        within_variance: float | None = None,
    ) -> Sight | GroupedPosterior:
        r"""Return what observations y = H x + e say about x, with the codebook as the prior of x.

        .. math:: x \sim \sum_k \pi_k\, N(x;\ c_k, v I), \qquad r_k \propto \pi_k\, N(y;\ H c_k, v H H' + s^2 I)

        With v = 0 the rows are taken to be centres, nothing else: the posterior mean is :math:`\sum_k r_k c_k`.

        Parameters
        ----------
        y : array-like, shape (n_samples, n_measurements)
            One observation a row.
        operator : mixcoder.sensing.Operator or RowMasks, array-like or LinearOperator
            H, shape (n_measurements, n_features).
        noise_variance : float
            s^2, in squared units of y; positive where v is 0.
        temperature : float, default=1.0
            1 is Bayes, 0 the nearest centre as seen through H.
        within_variance : float, optional
            v, in squared units of the rows. By default what ``fit`` left of the rows, ``inertia_ / (n d)``.

        Returns
        -------
        mixcoder.sensing.Posterior

        Examples
        --------
        >>> import numpy as np
        >>> from mixcoder import KMeans
        >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0.0]])
        >>> km = KMeans(n_clusters=2, random_state=0).fit(X)
        >>> km.posterior([[9.0]], [[1.0, 0.0]], noise_variance=0.01, within_variance=0.0).mean.tolist()
        [[10.0, 2.0]]
        """
        model = self._fitted()
        if within_variance is None:
            if "partial_fit" in self.stop_reason_:
                raise ValueError(
                    "partial_fit keeps no sum of squares of all its rows: give within_variance, the mean squared "
                    "distance of a row to its centre divided by the number of features, or 0."
                )
            weight = float(self._cluster_counts.sum()) * self._weight_unit
            within_variance = self.inertia_ / (weight * model.n_features)
        if not 0 <= within_variance < math.inf:
            raise ValueError(f"within_variance must be non-negative and finite, got {within_variance!r}.")
        rows = y.detach() if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))
        shares = self._cluster_counts.to(rows.device)
        model = on_device(model, rows.device)
        prior = GaussianPrior(
            (shares / shares.sum()).log(),
            model.frame.shift,
            model.frame.undo(model.params.means) - model.frame.shift,  # type: ignore[attr-defined]
            shares.new_full((1, 1), float(within_variance)),
        )
        return posterior(prior, rows, operator, noise_variance, temperature=temperature)

    def _coding_log_weights(self, model: MixtureAutoencoder) -> Tensor:
        # Every cluster can occur in new rows: one pseudo-row spread over the empty ones keeps bits finite.
        counts = self._cluster_counts.to(model.device)
        return log_simplex(counts.clamp_min(1.0 / model.n_components))


@dataclass(frozen=True)
class _Squares:
    """Summed squared distances of the rows of a block to their centres.

    Parameters
    ----------
    centres : Tensor, shape (k, d)
    labels : RowValues
    """

    centres: Tensor
    labels: RowValues

    def __call__(self, block: Block) -> Tensor:
        own = self.centres.index_select(0, self.labels(block))
        per_row = own.sub_(block.x).square_().sum(1)
        return per_row.sum() if block.weights is None else per_row @ block.weights.double()

    def of_rows(self, start: int, stop: int) -> _Squares:
        return _Squares(self.centres, self.labels.of_rows(start, stop))


@dataclass(frozen=True)
class ClusterSums(Statistics):
    """Row weights of each cluster, and the summed squared distances to the centres."""

    counts: Tensor
    squares: Tensor


@dataclass(frozen=True)
class _Clustered:
    """Labels a block and adds up."""

    model: MixtureAutoencoder

    def __call__(self, block: Block) -> ClusterSums:
        labels, centres = self.model.assign(block.x), self.model.prototypes()
        squares = _Squares(centres, RowValues(labels, block.start))(block)
        weights = None if block.weights is None else block.weights.double()
        counts = torch.bincount(labels, weights, minlength=self.model.n_components).double()
        return ClusterSums(counts, squares)


def _weighted(source: Source, weights: Tensor) -> Source:
    """Return the same rows with other weights."""
    if isinstance(source, TensorSource):
        return TensorSource(source.x, weights)
    if isinstance(source, FileSource | DaskSource | IterableSource):
        return source.weighted(weights)
    raise DataTypeError(f"{type(source).__name__} cannot be weighted, which mini-batches of k-means need.")


def _weights_of(source: Source) -> Tensor | None:
    return source.weights if isinstance(source, BlockedSource) else None


def distances(model: MixtureAutoencoder, x: Tensor) -> Tensor:
    """Return Euclidean distances between rows and prototypes, shape (n, k), in the dtype of ``x``."""
    result = torch.empty(x.shape[0], model.n_components, dtype=x.dtype, device=x.device)
    centres = model.frame.apply(model.prototypes())
    unit = float(model.frame.scale[0])

    def write(block: Block) -> None:
        rows = model.frame.apply(block.x.double())
        gaps = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")
        far = ~gaps.isfinite().all(1)
        if bool(far.any()):  # their squares overflow: once more in larger units
            gaps[far] = torch.cdist(rows[far] / _FAR, centres / _FAR) * _FAR
        result[block.start : block.stop] = gaps / unit

    TensorSource(x).map_rows(write, 1 << 12)
    return result
