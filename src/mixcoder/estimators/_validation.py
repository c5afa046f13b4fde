"""Rows in: what is accepted, and what is said about what is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from mixcoder.errors import DataError, PrecisionWarning
from mixcoder.fitting.scan import Range

_LARGEST_EXACT_INT = 2**53


def rows_of(estimator: Any, x: Any, *, reset: bool, min_rows: int = 1) -> Tensor:
    """Return validated rows as a tensor: the input's own memory where its layout allows.

    Parameters
    ----------
    reset : bool
        Whether the number and names of features are learned (fit) or compared (predict).
    min_rows : int
        Fewest rows that make sense.
    """
    if isinstance(x, Tensor):
        return _rows_of_tensor(estimator, x, reset=reset, min_rows=min_rows)
    _refuse(x)
    _warn_of_rounded_integers(x)
    array = validate_data(
        estimator,
        x,
        reset=reset,
        dtype=[np.float64, np.float32],
        ensure_all_finite=False,
        ensure_min_samples=min_rows,
    )
    return as_tensor(array)


def as_tensor(array: Any) -> Tensor:
    """Return a NumPy array as a tensor over the same memory where that is possible."""
    array = np.asarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides) or not array.flags.aligned:
        array = np.array(array, order="C")
    with warnings.catch_warnings():
        # torch warns that writing to read-only memory is undefined; nothing here writes to its input.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def like_input(result: Tensor, x: Any) -> Any:
    """Return a result in the kind of array that came in: a tensor for a tensor, else NumPy."""
    return result if isinstance(x, Tensor) else result.numpy(force=True)


def weights_of(sample_weight: Any, x: Tensor) -> Tensor | None:
    """Return row weights scaled to a mean of one, or ``None``; the scale of weights means nothing."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Tensor):
        weights = sample_weight.detach().to(device=x.device, dtype=torch.float64)
    elif np.isscalar(sample_weight):
        weights = torch.full((x.shape[0],), float(sample_weight), dtype=torch.float64, device=x.device)  # type: ignore[arg-type]
    else:
        array = np.asarray(sample_weight)
        if array.dtype.kind not in "biuf":
            raise DataError(f"sample_weight must be numbers, got dtype {array.dtype}.")
        weights = as_tensor(array.astype(np.float64)).to(x.device)
    if weights.ndim != 1:
        raise ValueError(f"Sample weights must be 1D array or scalar, got {weights.ndim}D array.")
    if weights.shape[0] != x.shape[0]:
        raise ValueError(
            f"sample_weight.shape == {tuple(weights.shape)}, expected {(x.shape[0],)}: one weight a row."
        )
    if not bool(torch.isfinite(weights).all()):
        row = int(torch.nonzero(~torch.isfinite(weights))[0, 0])
        raise DataError(f"sample_weight contains NaN or infinity, first at row {row}; remove those rows.")
    if bool((weights < 0).any()):
        row = int(torch.nonzero(weights < 0)[0, 0])
        raise DataError(f"Negative values in data passed to `sample_weight`, first at row {row}.")
    total = weights.sum()
    if not float(total) > 0:
        raise DataError("Sample weights must not all be zero: there is nothing to fit.")
    mean = total / torch.count_nonzero(weights)
    return weights / mean


def require_finite(estimator: Any, x: Tensor, limits: Range, name: str = "X") -> None:
    """Raise a DataError that names the first value that is not finite."""
    if limits.finite:
        return
    raise DataError(describe_not_finite(x, getattr(estimator, "feature_names_in_", None), name))


def describe_not_finite(x: Tensor, names: Any, what: str) -> str:
    """Return the message about the values of ``x`` that are not finite."""
    bad = ~torch.isfinite(x)
    count = int(bad.sum())
    row, column = (int(i) for i in torch.nonzero(bad)[0])
    value = float(x[row, column])
    kind = "NaN" if value != value else "infinity or a value too large for its dtype"
    label = f"column {column}" if names is None else f"column {column} ({str(names[column])!r})"
    return (
        f"Input {what} contains {kind}: {count} of {x.numel()} values are not finite, first at row {row}, "
        f"{label}. Remove or impute them before fitting."
    )


def check_domain(family_check: Callable[[Tensor], str | None], x: Tensor, block: int = 1 << 14) -> None:
    """Raise a DataError where rows are outside a family's domain."""
    for at in range(0, x.shape[0], block):
        message = family_check(x[at : at + block])
        if message is not None:
            where = "" if at == 0 else f" (in the rows from {at} on)"
            raise DataError(message + where)


def _rows_of_tensor(estimator: Any, x: Tensor, *, reset: bool, min_rows: int) -> Tensor:
    x = x.detach()
    if x.is_complex():
        raise ValueError("Complex data not supported: X must be real numbers.")
    if x.layout != torch.strided:
        raise TypeError("Sparse data was passed for X, but dense data is required. Use X.to_dense().")
    if x.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {x.ndim}D tensor of shape {tuple(x.shape)} instead. Reshape to "
            "(n_rows, n_features)."
        )
    if not x.is_floating_point() or x.dtype in (torch.float16, torch.bfloat16):
        x = x.to(torch.float64)
    if x.shape[0] < min_rows:
        raise ValueError(
            f"Found array with {x.shape[0]} sample(s) (shape={tuple(x.shape)}) while a minimum of "
            f"{min_rows} is required by {type(estimator).__name__}."
        )
    if x.shape[1] < 1:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={tuple(x.shape)}) while a minimum of 1 is required by "
            f"{type(estimator).__name__}."
        )
    if reset:
        estimator.n_features_in_ = x.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    elif x.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {x.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return x


def _refuse(x: Any) -> None:
    """Raise for inputs that NumPy would turn into numbers that mean something else."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        count = int(np.ma.getmaskarray(x).sum())
        raise DataError(
            f"X is a masked array with {count} masked values, which would silently be used as data. Fill or "
            "impute them, or pass X.data if the mask means nothing."
        )
    if isinstance(x, str | bytes | dict) or x is None:
        hint = " Read the file first." if isinstance(x, str | bytes) else ""
        raise TypeError(f"X must be a table of numbers (rows, features), got {type(x).__name__}.{hint}")
    dtypes = getattr(x, "dtypes", None)
    kinds: list[tuple[str, Any]] = []
    if hasattr(x, "columns") and dtypes is not None:
        kinds = list(zip((str(name) for name in x.columns), list(dtypes), strict=False))
    elif hasattr(x, "dtype"):
        kinds = [("", x.dtype)]
    for name, dtype in kinds:
        text = str(dtype).lower()
        if "datetime" in text or "timedelta" in text or text in ("date", "time", "duration"):
            where = f"column {name!r} of X" if name else "X"
            raise TypeError(
                f"{where} has dtype {dtype}: dates are not numbers. Convert them first, for example to days "
                "since a start."
            )
        if text.startswith(("<u", ">u", "|s", "str", "string", "utf8")) and not text.startswith("struct"):
            where = f"column {name!r} of X" if name else "X"
            raise DataError(
                f"could not convert string to float: {where} has dtype {dtype}. Convert it to numbers first."
            )
    if isinstance(x, np.ndarray) and x.dtype == object:
        for index, value in np.ndenumerate(x):
            if isinstance(value, str | bytes):
                raise DataError(
                    f"could not convert string to float: X holds {value!r} at row {index[0]}"
                    + (f", column {index[1]}" if len(index) > 1 else "")
                    + ". Convert it to numbers first."
                )
    elif isinstance(x, list | tuple):
        for i, row in enumerate(x):
            for j, value in enumerate(row if isinstance(row, list | tuple) else [row]):
                if isinstance(value, str | bytes):
                    raise DataError(
                        f"could not convert string to float: X holds {value!r} at row {i}, column {j}. "
                        "Convert it to numbers first."
                    )


def _warn_of_rounded_integers(x: Any) -> None:
    array = x if isinstance(x, np.ndarray) else None
    if array is None or array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or array.size == 0:
        return
    largest = max(abs(int(array.max())), abs(int(array.min())))
    if largest > _LARGEST_EXACT_INT:
        warnings.warn(
            f"X holds integers up to {largest}, beyond 2**53: float64 rounds them. Subtract an offset first.",
            PrecisionWarning,
            stacklevel=4,
        )


__all__ = [
    "as_tensor",
    "check_domain",
    "describe_not_finite",
    "like_input",
    "require_finite",
    "rows_of",
    "weights_of",
]
