"""Tables as they come: refused where NumPy would make other numbers of them without a word."""

from __future__ import annotations

import datetime as dt
from numbers import Integral
from typing import Any

import numpy as np
from scipy.sparse import issparse

from mixcoder._user_warnings import warn_user
from mixcoder.errors import DataError, DataTypeError, PrecisionWarning

_LARGEST_EXACT_INT = 2**53
_TABLES = ("shape", "__len__", "__array__", "__dataframe__")
_DATES = ("datetime", "timedelta", "date", "time", "duration", "period")
_TEXT = ("str", "large_string", "utf8", "<u", ">u", "|s", "categorical", "enum")
_NESTED = ("[(", "(numpy.record", "struct", "list", "array", "binary")
_NOT_REAL = (
    *(str, bytes, complex, np.complexfloating),
    *(dt.date, dt.time, dt.timedelta, np.datetime64, np.timedelta64),
)


def checked_table(x: Any) -> Any:
    """Return the rows as something that NumPy reads right: an array, or the data frame they are in.

    Raises
    ------
    DataTypeError
        For dates, complex numbers, sparse matrices, records, and what is no table at all.
    DataError
        For text, masked values, and a wrong number of axes.
    """
    if issparse(x):
        raise DataTypeError(
            "Sparse data was passed for X, but dense data is required. Use X.toarray() to convert it."
        )
    if isinstance(x, str | bytes | dict | set) or not any(hasattr(x, name) for name in _TABLES):
        hint = " Read the file first." if isinstance(x, str | bytes) else ""
        raise DataTypeError(f"X must be a table of numbers (rows, features), got {type(x).__name__}.{hint}")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise DataError(
            f"X is a masked array with {np.ma.count_masked(x)} masked values, which would silently be used as "
            "data. Fill or impute them, or pass X.data if the mask means nothing."
        )
    if hasattr(x, "columns") and hasattr(x, "dtypes"):
        return _checked_frame(x)
    if isinstance(x, list | tuple):
        x = _array_of(x)
    if hasattr(x, "dtype"):
        x = _checked_column(x, "X")
    _require_two_axes(x)
    return x


def _array_of(rows: list[Any] | tuple[Any, ...]) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(rows)
    except ValueError as error:
        lengths = sorted({len(row) if hasattr(row, "__len__") else 1 for row in rows})
        raise DataTypeError(
            f"X must be a table of numbers (rows, features), got a list whose rows have {lengths} entries."
        ) from error
    # NumPy makes text of every number that stands beside a text.
    return np.asarray(rows, dtype=object) if array.dtype.kind in "US" else array


def _require_two_axes(x: Any) -> None:
    n_axes = getattr(x, "ndim", 2)
    if n_axes < 2:
        got = "scalar" if n_axes == 0 else f"{n_axes}D"
        raise DataError(
            f"Expected 2D array, got {got} array of shape {tuple(x.shape)} instead. Reshape your data either "
            "using array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if it contains a "
            "single sample."
        )
    if n_axes > 2:
        raise DataError(
            f"Found array with dim {n_axes}, while dim <= 2 is required: X has shape {tuple(x.shape)}. Reshape "
            "it to (n_rows, n_features)."
        )


def _checked_frame(frame: Any) -> Any:
    """Return a data frame whose columns are numbers."""
    for name in frame.columns:
        column = frame[name]
        if getattr(column, "ndim", 1) != 1:  # several columns of one name: NumPy may look at them all
            continue
        where = f"column {str(name)!r} of X"
        numbers = _checked_column(column, where)
        if numbers is not column:
            frame = frame.copy(deep=False)
            frame[name] = numbers
    return frame


def _checked_column(x: Any, where: str) -> Any:
    """Return an array or a column of a data frame, objects made into float64."""
    dtype = str(x.dtype).lower()
    if dtype.startswith(_DATES) or dtype[1:3] == "m8":
        raise DataTypeError(
            f"{where} has dtype {x.dtype}: dates are not numbers. Convert them first, for example to days since "
            "a start."
        )
    if dtype.startswith("complex"):
        raise DataTypeError(f"Complex data not supported: {where} has dtype {x.dtype}. Use its real part.")
    if dtype.startswith("sparse"):
        raise DataTypeError(
            f"{where} has dtype {x.dtype}, but dense data is required. Use X.sparse.to_dense()."
        )
    if dtype.startswith(_NESTED):
        raise DataTypeError(f"{where} has dtype {x.dtype}: X must be a table of numbers (rows, features).")
    if dtype.startswith(_TEXT) or (
        dtype == "category" and np.asarray(x.dtype.categories).dtype.kind not in "biuf"
    ):
        raise DataError(
            f"could not convert string to float: {where} has dtype {x.dtype}. Make it numbers first."
        )
    if dtype == "object":
        return _numbers_of(np.asarray(x), where)
    if dtype.startswith(("int64", "uint64", ">i8", ">u8")) and 0 not in x.shape:
        extremes = [abs(int(value)) for value in (x.max(), x.min()) if isinstance(value, Integral)]
        _warn_if_rounded(max(extremes, default=0), where)
    return x


def _numbers_of(objects: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    """Return Python objects as float64, missing ones as NaN."""
    numbers = np.empty(objects.shape)
    for index, value in np.ndenumerate(objects):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            numbers[index] = np.nan
            continue
        try:
            if isinstance(value, _NOT_REAL):
                raise TypeError("no real number")
            numbers[index] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            place = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), index, strict=False))
            told = f"{where} holds {value!r} at {place} ({error}). Make it a number first."
            if isinstance(value, str | bytes):
                raise DataError(f"could not convert string to float: {told}") from error
            raise DataTypeError(told) from error
        if isinstance(value, Integral):
            _warn_if_rounded(abs(int(value)), where)
    return numbers


def _warn_if_rounded(largest: int, where: str) -> None:
    if largest > _LARGEST_EXACT_INT:
        warn_user(
            f"{where} holds integers up to {largest}, beyond 2**53: float64 rounds them. Subtract an offset first.",
            PrecisionWarning,
        )


__all__ = ["checked_table"]
