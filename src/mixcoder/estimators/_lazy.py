"""Dask collections: fitted through a source, answered lazily, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mixcoder.errors import DataError
from mixcoder.sources import DaskSource, is_dask


def rows_anywhere(X: Any) -> Any:
    """Return a Dask collection as a source of rows, anything else as it is."""
    return DaskSource(X) if is_dask(X) else X


def lazily(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of rows that answers a Dask collection by a Dask array, computed when it is asked for."""

    @wraps(method)
    def ask(self: Any, X: Any, **options: Any) -> Any:
        return _asked_later(self, method.__name__, X, options) if is_dask(X) else method(self, X, **options)

    return ask


@dataclass(frozen=True)
class _Answer:
    """What an estimator says of a chunk."""

    estimator: Any
    method: str
    options: dict[str, Any]
    width: int | None
    dtype: np.dtype

    def __call__(self, rows: Any) -> Any:
        if len(rows) == 0:
            return np.empty((0,) if self.width is None else (0, self.width), self.dtype)
        return getattr(self.estimator, self.method)(np.asarray(rows), **self.options)


def _asked_later(estimator: Any, method: str, X: Any, options: dict[str, Any]) -> Any:
    check_is_fitted(estimator, "model_")
    model, name = estimator.model_, type(estimator).__name__
    rows = X
    if hasattr(X, "to_dask_array"):
        known = getattr(estimator, "feature_names_in_", None)
        columns = [str(column) for column in X.columns]
        if known is not None and columns != [str(column) for column in known]:
            raise DataError(f"The columns of X are {columns}, but {name} was fitted with {list(known)}.")
        rows = X.to_dask_array()
    if rows.ndim != 2 or rows.shape[1] != estimator.n_features_in_:
        raise DataError(
            f"X has shape {rows.shape}, but {name} is expecting (n_samples, {estimator.n_features_in_})."
        )
    if len(rows.chunks[1]) > 1:
        rows = rows.rechunk({1: -1})
    kind = np.dtype(np.float32 if rows.dtype == np.float32 else np.float64)
    width: int | None = model.n_components
    if method in ("reconstruct", "impute"):
        width = model.n_features
    elif method == "transform":
        width = estimator._n_features_out
    elif method in ("score_samples", "log_predictive"):
        width = None
    elif method == "predict" or (method == "encode" and model.is_hard):
        width, kind = None, np.dtype(np.int32 if hasattr(estimator, "n_clusters") else np.int64)
        if method == "encode":
            kind = np.dtype(np.int64)
    nameless = copy(estimator)  # chunks are arrays: their names have been compared
    nameless.__dict__.pop("feature_names_in_", None)
    nameless.__dict__.pop(
        "_sklearn_output_config", None
    )  # what comes of chunks is an array, whatever else is asked for
    answer = _Answer(nameless, method, options, width, kind)
    meta = np.empty((0,) if width is None else (0, 0), kind)
    if width is None:
        return rows.map_blocks(answer, dtype=kind, drop_axis=1, meta=meta)
    return rows.map_blocks(answer, dtype=kind, chunks=(rows.chunks[0], (width,)), meta=meta)
