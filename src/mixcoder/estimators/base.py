"""The scikit-learn contract, once: rows in, codes and rows out, whatever the mixture."""

from __future__ import annotations

import math
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mixcoder._typing import Code, HardCode
from mixcoder._user_warnings import warn_user
from mixcoder.autoencoder import MixtureAutoencoder, code_length
from mixcoder.components import Params
from mixcoder.errors import (
    DataError,
    DataTypeError,
    DegenerateComponentWarning,
    DegenerateFeatureWarning,
    EmptyRowWarning,
    OverfitWarning,
    PrecisionWarning,
)
from mixcoder.estimators._callbacks import (
    CallbackSupportMixin,
    IterationTask,
    all_or_nothing,
    current_watcher,
)
from mixcoder.estimators._checkpoint import Checkpoint
from mixcoder.estimators._lazy import lazily, rows_anywhere
from mixcoder.estimators._validation import (
    SIMPLEX_TOLERANCE,
    check_domain,
    label_of,
    like_input,
    numbers_of,
    require_finite,
    require_no_infinity,
    require_seen_columns,
    rows_of,
    source_of,
    unit_of,
    weights_of,
)
from mixcoder.fitting.alternate import FitResult, Step
from mixcoder.fitting.em import Problem
from mixcoder.fitting.fit import describe
from mixcoder.fitting.scan import Range, Scan, observed_range, scan_range
from mixcoder.ops.threads import single_threaded_kernels
from mixcoder.sources import DaskSource, FileSource, IterableSource, Source, TensorSource

# Beyond this many standard deviations from zero, float32 has fewer than two digits left for the data.
_FLOAT32_OFFSET = 1e5

# A spread of fewer of float32's smallest normal numbers has too few digits to tell rows by, and one over it overflows.
_LEAST_SPREAD = 16

_NAMED_COMPONENTS = 10

_BLOCK = 1 << 14

# Iterations from one line of a verbose fit to the next, where the estimator does not say.
_VERBOSE_INTERVAL = 10

_ONE_THREAD_NUMBERS = 1e6

# Parameters, natural parameters, and the sums of two blocks, in float64.
_BYTES_A_NUMBER = 32


class _Scratch(threading.local):
    """A random state of each thread, seeded before every use: to make one takes as long as a pass over small data."""

    def __init__(self) -> None:
        self.state = np.random.RandomState(0)


_scratch = _Scratch()

# How to store a fit is the caller's business, none that scikit-learn could route metadata to. For the classes whose
# ``fit`` takes these alone: scikit-learn refuses to forget what a method does not take.
NOT_ROUTED = dict.fromkeys(("checkpoint", "checkpoint_every", "resume"), UNUSED)


class AutoencoderEstimator(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Base of the estimators: everything that a fitted :class:`MixtureAutoencoder` can be asked.

    A concrete estimator says how a fit begins and ends; ``model_`` is what it leaves behind.
    """

    model_: MixtureAutoencoder
    history_: dict[str, Any]

    _checkpoint: Checkpoint | None = None  # of the fit that is running

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        # scikit-learn reads the signature again for every fit: a tenth of what a small one takes.
        return super()._get_param_names()

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except AttributeError:
            if not isinstance(getattr(type(self), name, None), property):
                raise
            kind = type(self).__name__
            makers = [way for way in ("from_parameters", "from_codebook") if hasattr(type(self), way)]
            remedy = (
                f"make a model with {kind}.{makers[0]}(...)" if makers else "fit from a start of your own"
            )
            raise AttributeError(
                f"{name} of {kind} is what a fit has found, and cannot be set: {remedy}."
            ) from None

    @property
    @abstractmethod
    def _n_fitted_components(self) -> int:
        """Number of components asked for."""

    @property
    @abstractmethod
    def weights_(self) -> Any:
        """Weights of the components, shape (n_components,), summing to one."""

    @property
    def n_effective_components_(self) -> int:
        """Number of components with a weight: the others the rows do not need."""
        return int((self.weights_ > 0).sum())

    # What a fitted model answers

    @lazily
    def encode(self, X: Any) -> Any:
        """Return the code of each row.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)

        Returns
        -------
        code : array
            Responsibilities, shape (n_samples, n_components), or, for a hard encoder, the component of
            each row, int64, shape (n_samples,).
        """
        model, x = self._asked(X)
        code = model.encode(x)
        return like_input(code.index if isinstance(code, HardCode) else code, X)

    def decode(self, code: Any) -> Any:
        r"""Return the expected row of each code, :math:`\sum_k u_{nk} E[x|k]`.

        Parameters
        ----------
        code : array-like, shape (n_samples, n_components) or (n_samples,)
            Points of the simplex, or component numbers.

        Returns
        -------
        rows : array, shape (n_samples, n_features)
        """
        model = self._fitted()
        values = self._code(code)
        rows = on_device(model, (values.index if isinstance(values, HardCode) else values).device).decode(
            values
        )
        return like_input(rows.to(self._dtype()), code)

    @lazily
    def reconstruct(self, X: Any) -> Any:
        """Return decode(encode(X)), shape (n_samples, n_features), without keeping the codes."""
        model, x = self._asked(X)
        return like_input(model.reconstruct(x), X)

    @lazily
    def predict(self, X: Any) -> Any:
        """Return the most probable component of each row, shape (n_samples,)."""
        model, x = self._asked_rows(X)
        return like_input(model.assign(x), X)

    def inverse_transform(self, X: Any) -> Any:
        """Return the decoded rows of codes; the inverse of ``transform`` as far as there is one."""
        return self.decode(X)

    def rate(self, X: Any, *, flat: bool = False) -> float:
        r"""Return the mean length of the rows' codes, in bits.

        A hard code costs :math:`-\log_2 \pi_k` (an entropy coder); a soft one its divergence from the
        weights, what bits-back coding pays.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
        flat : bool
            Whether to count log2 K bits for every row instead, as for a codebook without entropy coder.
        """
        model, source = self._asked_rows(X)
        if flat:
            return math.log2(model.n_components)
        log_weights = self._coding_log_weights(model)
        total = 0.0
        for block in source.blocks(_BLOCK):
            total += float(code_length(model.encode(block.x), log_weights).double().sum())
        return total / source.n_rows

    def distortion(self, X: Any) -> float:
        """Return the mean squared error of the reconstructions, summed over the features that are there."""
        model, source = self._asked_rows(X)
        total = 0.0
        for block in source.blocks(_BLOCK):
            x = block.x
            errors = x.double() - model.decode(model.encode(x)).double()
            total += float(errors.square().nansum())  # a missing entry has no error
        return total / source.n_rows

    def save(self, path: Any, *, overwrite: bool = True) -> str:
        """Write the fitted estimator to one file and return the SHA-256 of its content.

        The file is replaced whole or not at all. Read it back with :func:`mixcoder.load`.

        Functions and random states have no place in a file that never runs code: a parameter that is one (a callable
        ``init`` or ``init_params``, a ``RandomState``) has its default after ``load``, as in ``"auto"`` or ``None``.
        What was fitted is the same to the last bit.
        """
        from mixcoder.estimators._persistence import save

        check_is_fitted(self)
        return save(self, path, overwrite=overwrite)

    def encode_to(
        self, X: Any, folder: Any, *, hard: bool = False, overwrite: bool = False
    ) -> dict[str, Any]:
        """Write the code of each row to a folder of NPY files, block by block, and return what is in it.

        The folder appears once every part is on the disk, whole, or not at all. Read the codes back, in the order of
        the rows, with ``mixcoder.open_blocks(folder)``.

        Parameters
        ----------
        X : array-like, Source, or Dask array or DataFrame
            Files give a part each, other rows one for every million.
        folder : path
        hard : bool, default=False
            Whether to write the most probable component, int64, shape (n, 1), also where the codes are soft.
        overwrite : bool, default=False
            Whether a folder that this method has written may be replaced.

        Returns
        -------
        manifest : dict
            ``rows``, ``columns``, ``dtype``, and of each part ``file``, ``rows``, ``sha256`` and, for rows of files,
            ``source``; also in ``manifest.json``.
        """
        from mixcoder.estimators._codes import write_codes

        model, source = self._asked_rows(X)
        return write_codes(model, source, folder, hard=hard or model.is_hard, overwrite=overwrite)

    @property
    def _n_features_out(self) -> int:
        return self._fitted().n_components

    # Shared machinery

    def _fitted(self) -> MixtureAutoencoder:
        check_is_fitted(self, "model_")
        return self.model_

    def _dtype(self) -> torch.dtype:
        return getattr(torch, self._dtype_name)

    def _asked(self, X: Any) -> tuple[MixtureAutoencoder, Tensor]:
        """Return the model, on the device of the rows, and the rows that it is asked about, in memory."""
        if isinstance(X, Source):
            self._fitted()
            raise DataTypeError(
                "The answer is as large as the rows, which are in files: ask for one block at a time (for block in "
                "X.blocks(10_000): ... block.x), or for predict, score_samples, score, rate or distortion."
            )
        model, source = self._asked_rows(X)
        assert isinstance(source, TensorSource)
        return model, source.x

    def _asked_rows(self, X: Any) -> tuple[MixtureAutoencoder, Source]:
        """Return the model, on the device of the rows, and the rows, wherever they live."""
        model = self._fitted()
        X = rows_anywhere(X)
        if isinstance(X, Source):
            source = source_of(self, X, reset=False)
        else:
            source = TensorSource(rows_of(self, X, reset=False))
        self._admissible_range(source, model.family)
        return on_device(model, source.device), source

    def _code(self, code: Any) -> Code:
        k = self._fitted().n_components
        values = numbers_of(code, "code")
        if values.ndim == 1:
            index = values.to(torch.int64)
            if bool(((index != values) | (index < 0) | (index >= k)).any()):
                raise DataError(f"A one-dimensional code holds component numbers, whole and in 0..{k - 1}.")
            return HardCode(index, k)
        if values.ndim != 2 or values.shape[1] != k:
            raise DataError(
                f"code has shape {tuple(values.shape)}, expected (n_samples, {k}) responsibilities or "
                "(n_samples,) component numbers."
            )
        off = ((values.sum(1) - 1).abs() > SIMPLEX_TOLERANCE) | (values < -SIMPLEX_TOLERANCE).any(1)
        if bool(off.any()):
            row = int(torch.nonzero(off)[0, 0])
            raise DataError(
                f"Responsibilities are non-negative and sum to one, but row {row} of code has a sum of "
                f"{float(values[row].sum()):.4g} and a smallest entry of {float(values[row].min()):.4g}."
            )
        return values

    def _coding_log_weights(self, model: MixtureAutoencoder) -> Tensor:
        """Return the log-probabilities that an entropy coder of the codes would use."""
        return model.log_weights

    def _source(
        self, X: Any, sample_weight: Any, *, reset: bool = True, min_rows: int = 2
    ) -> tuple[Source, float]:
        """Return the rows with their weights in a unit that belongs to them, and that unit."""
        if isinstance(X, Source):
            return self._source_of_files(X, sample_weight, reset=reset, min_rows=min_rows)
        x = rows_of(self, X, reset=reset, min_rows=min_rows)
        self._dtype_name = str(x.dtype).removeprefix("torch.")
        self._from_torch = isinstance(X, Tensor)
        weights = weights_of(sample_weight, x)
        if weights is None:
            return TensorSource(x), 1.0
        unit = unit_of(weights)
        return TensorSource(x, weights / unit), float(unit)

    def _source_of_files(
        self, source: Source, sample_weight: Any, *, reset: bool, min_rows: int
    ) -> tuple[Source, float]:
        source_of(self, source, reset=reset, min_rows=min_rows)
        self._dtype_name, self._from_torch = str(source.dtype).removeprefix("torch."), False
        weights = weights_of(sample_weight, source)
        if weights is None:
            return source, 1.0
        if not isinstance(source, FileSource | DaskSource | IterableSource):
            raise DataTypeError(f"{type(source).__name__} brings its own weights: leave sample_weight out.")
        unit = unit_of(weights)
        return source.weighted(weights / unit), float(unit)

    def _admissible_range(self, source: Source, family: Any) -> Range:
        """Return the range of rows that the family knows, after checks of every one."""
        limits = scan_range(source)
        if not limits.finite and limits.has_nan and self._allows_missing(family):
            limits = observed_range(source)
            require_no_infinity(self, source, limits)
        else:
            require_finite(self, source, limits)
        check_domain(self, family.check_rows, source, limits)
        return limits

    def _allows_missing(self, family: Any) -> bool:
        """Return whether rows may miss entries, NaN."""
        del family
        return False

    def _checked_range(self, source: Source, family: Any, *, first: bool = True) -> Range:
        limits = self._admissible_range(source, family)
        if limits.incomplete and first:
            require_seen_columns(self, limits)
        self._require_memory(family.in_domain(limits.lowest.double(), limits.highest.double()), source)
        return limits

    def _require_memory(self, family: Any, source: Source) -> None:
        """Raise a MemoryError, before anything is allocated, where parameters and sums alone cannot fit."""
        k, d = self._n_fitted_components, source.n_features
        needed, there = _BYTES_A_NUMBER * k * family.width(d), _memory_of(source.device)
        if needed > there:
            raise MemoryError(
                f"{type(self).__name__} with {k} components of {type(family).__name__} on {d} features needs "
                f"about {needed / 2**30:.1f} GiB, but there are {there / 2**30:.1f} GiB. Use fewer components, or "
                "components with fewer parameters (diagonal instead of full covariances)."
            )

    def _require_representable(self, problem: Problem, dtype: torch.dtype) -> None:
        """Raise a DataError where squares of the rows, in their own units, or the rows are beyond their dtype."""
        spread, limit = 1.0 / problem.frame.scale, torch.finfo(dtype)
        name = str(dtype).removeprefix("torch.")
        worst, least = int(spread.argmax()), int(spread.argmin())
        if bool(spread[worst].square() > limit.max / 64):
            raise DataError(
                f"{label_of(self, worst).capitalize()} has a spread near {float(spread[worst]):.1e}, whose square "
                f"overflows {name}: rescale the data, for example divide by {float(spread[worst]):.0e}."
            )
        single = torch.finfo(torch.float32)
        if problem.source.dtype == torch.float32 and bool(spread[least] < _LEAST_SPREAD * single.tiny):
            raise DataError(
                f"{label_of(self, least).capitalize()} has a spread near {float(spread[least]):.1e}, where float32 has "
                "lost its digits: before the data are stored so, keep them in float64 or rescale them."
            )
        if bool(spread[least].square() < 64 * limit.tiny):
            warn_user(
                f"{label_of(self, least).capitalize()} has a spread near {float(spread[least]):.1e}, whose square "
                f"underflows {name}: codes and scores are right, but (co)variances may read as zero and precisions "
                "as infinite. Rescale the data.",
                PrecisionWarning,
            )

    @contextmanager
    def _fitting(self, X: Any, checkpoint: Any, every: float, *, resume: bool) -> Generator[Any]:
        """Change the estimator by a fit as a whole or not at all; yields the rows, wherever they are."""
        with all_or_nothing(self):
            X = rows_anywhere(X)
            with few_threads(X):
                self._checkpoint = Checkpoint.at(checkpoint, every, resume=resume)
                yield X
            self.__dict__.pop("_checkpoint", None)

    def _generator(self) -> torch.Generator:
        """Return randomness of the parameter ``random_state``, which a checkpoint may keep."""
        given = self._seed()
        if isinstance(given, Integral):
            state = _scratch.state
            state.seed(int(given))
        else:
            state = check_random_state(given)
        generator = torch.Generator().manual_seed(int(state.randint(np.iinfo(np.int32).max)))
        if self._checkpoint is not None:
            self._checkpoint.generators.append(generator)
        return generator

    def _random_numbers(self) -> np.random.RandomState:
        """Return the same for functions of the user, who know NumPy."""
        numbers = check_random_state(self._seed())
        if self._checkpoint is not None:
            self._checkpoint.generators.append(numbers)
        return numbers

    def _seed(self) -> Any:
        return self.random_state if self._checkpoint is None else self._checkpoint.seed  # type: ignore[attr-defined]

    def _attribute(self, value: Tensor) -> Any:
        """Return a fitted quantity in the dtype and kind of the training rows, in memory of the caller's own.

        Not a read-only view of it: libraries in C, and torch, want arrays that they may write to.
        """
        value = value.to(self._dtype(), copy=True)
        return value if self._from_torch else value.numpy(force=True)

    def _keep(self, result: FitResult) -> None:
        """Set the attributes that every fit leaves."""
        self.model_ = stored(result.model)
        self.converged_ = result.converged
        self.stop_reason_ = result.reason
        self.n_iter_ = result.n_iter
        self.history_ = result.history.as_dict()

    def _tell(self, result: FitResult, problem: Problem, seen: Scan, *, n_parameters: int) -> None:
        """Warn of what the user should know about the fit."""
        for category, message in self._remarks(result, problem, seen, n_parameters):
            warn_user(message, category)

    def _remarks(
        self, result: FitResult, problem: Problem, seen: Scan, n_parameters: int
    ) -> list[tuple[type[Warning], str]]:
        name, source = type(self).__name__, problem.source
        remarks: list[tuple[type[Warning], str]] = []

        def labels(columns: Tensor) -> str:
            return ", ".join(label_of(self, int(i)) for i in torch.nonzero(columns)[:, 0])

        constant = seen.constant
        if bool(constant.any()) and source.n_rows > 1:
            told = f"Constant: {labels(constant)}. Such columns tell no component from another."
            remarks.append((DegenerateFeatureWarning, told))
        if source.dtype == torch.float32 and bool((far := seen.beyond(_FLOAT32_OFFSET)).any()):
            told = (
                f"More than {_FLOAT32_OFFSET:.0e} standard deviations from zero: {labels(far)}. float32 has no "
                "digits left there. Subtract an offset in float64."
            )
            remarks.append((PrecisionWarning, told))
        if result.refilled:
            told = (
                f"{components_in_words(result.refilled)} lost their rows during the fit and were given those that "
                f"the others explained worst; {name} may do with fewer components."
            )
            remarks.append((DegenerateComponentWarning, told))
        unused = torch.nonzero(result.model.log_weights.isneginf())[:, 0].tolist()
        if unused:
            told = f"{components_in_words(unused)} are not needed: their weight is zero. Ask for fewer components."
            remarks.append((DegenerateComponentWarning, told))
        collapsed = describe(result.model, problem.floor_variances)
        if collapsed:
            remarks.append((DegenerateComponentWarning, collapse_of(collapsed)))
        if seen.n_empty:
            told = f"Rows without any value: {seen.n_empty} of {source.n_rows}. They are left out of the fit."
            remarks.append((EmptyRowWarning, told))
        if n_parameters > source.n_rows * source.n_features - seen.n_missing:
            less = f", {seen.n_missing} values missing" if seen.n_missing else ""
            told = (
                f"{name} has {n_parameters} parameters for {source.n_rows} rows of {source.n_features} "
                f"features{less}: it repeats the data rather than describing it."
            )
            remarks.append((OverfitWarning, told))
        if not result.converged:
            told = f"The fit did not converge: {result.reason}. Raise max_iter or tol, or check the data."
            remarks.append((ConvergenceWarning, told))
        return remarks

    def _aside(self, params: Params, problem: Problem) -> dict[str, Any]:
        """Return the attributes that belong to what a fit alternates and are no part of ``model_``."""
        del params, problem
        return {}

    def _on_step(self, task: IterationTask, problem: Problem, told: Callable[[float], str]) -> Any:
        """Return the function that tells callbacks of each step, and prints every few of them as they happen.

        Parameters
        ----------
        told : callable
            From the mean bound of a step to the words for what rises or falls.
        """
        verbose = bool(getattr(self, "verbose", 0))
        interval = int(getattr(self, "verbose_interval", _VERBOSE_INTERVAL))
        began, passes, shown = time.perf_counter(), 0, (0, 0)
        watcher = current_watcher()

        def on_step(attempt: int, step: Step) -> bool:
            nonlocal passes, shown
            passes += 1
            if watcher is not None:
                watcher(f"iteration {step.iteration}, {told(step.bound)}")
            # A leap takes the place of an iteration: what it jumps over is told with the next one.
            reached = (attempt, step.iteration // interval)
            if verbose and reached[1] > (shown[1] if shown[0] == attempt else 0):
                shown = reached
                rate = problem.source.n_rows * passes / max(time.perf_counter() - began, 1e-9)
                line = f"  start {attempt + 1}, iteration {step.iteration}: {told(step.bound)}"
                print(f"{line}, {rate:.3g} rows a second", flush=True)  # noqa: T201

            def attributes() -> dict[str, Any]:
                params, log_weights = step.following.clone(), step.log_weights.clone()
                model = problem.model(params, log_weights, step.encoder)
                return {"model_": model, "n_iter_": step.iteration} | self._aside(params, problem)

            return task(attempt, attributes)

        return on_step

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.allow_nan = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def collapse_of(components: Sequence[int]) -> str:
    """Return what is said of components on the variance floor."""
    return (
        f"{components_in_words(components)} collapsed onto the variance floor in some direction: their rows hardly "
        "vary there (few rows, copies of one, or a column that is constant among them). Fewer components, a simpler "
        "covariance or a larger floor avoid it."
    )


def components_in_words(components: Sequence[int]) -> str:
    """Return the numbers of components as a message names them: the first ten, and how many there are beside.

    Examples
    --------
    >>> components_in_words([0, 2])
    'Components [0, 2]'
    >>> components_in_words(range(12))
    'Components [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] and 2 more'
    """
    shown, more = list(components)[:_NAMED_COMPONENTS], len(components) - _NAMED_COMPONENTS
    return f"Components {shown}" + (f" and {more} more" if more > 0 else "")


def _memory_of(device: torch.device) -> float:
    """Return the bytes of memory of a device; infinity where that cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def few_threads(X: Any) -> AbstractContextManager[Any]:
    """Return the context to fit in: a small table is done before a second kernel thread has woken up."""
    shape = (X.n_rows, X.n_features) if isinstance(X, Source) else getattr(X, "shape", ())
    small = math.prod(shape) < _ONE_THREAD_NUMBERS
    return single_threaded_kernels() if small else nullcontext()


def stored(model: MixtureAutoencoder) -> MixtureAutoencoder:
    """Return the model as a file would give it back, to the last bit of its answers."""
    return replace(model, params=model.params.contiguous())


def on_device(model: MixtureAutoencoder, device: torch.device) -> MixtureAutoencoder:
    """Return the model where the rows are."""
    return model if model.device == device else model.to(device)


__all__ = [
    "NOT_ROUTED",
    "AutoencoderEstimator",
    "collapse_of",
    "components_in_words",
    "few_threads",
    "on_device",
    "stored",
]
