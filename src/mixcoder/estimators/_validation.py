"""Rows, weights and numbers in: what is accepted, and what is said about what is not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import validate_data
from torch import Tensor

from mixcoder.components.base import Family
from mixcoder.errors import DataError, DataTypeError
from mixcoder.estimators._tables import checked_table
from mixcoder.fitting.scan import Range
from mixcoder.sources import Block, Source, TensorSource

# How far the entries of a code may sum from one: the rounding of float16.
SIMPLEX_TOLERANCE = 1e-3


class Number(Interval):
    """An interval of numbers that holds no boolean, though Python counts True as 1."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Return whether the value is a number of the interval."""
        return not isinstance(val, bool) and bool(super().is_satisfied_by(val))


def rows_of(estimator: Any, x: Any, *, reset: bool, min_rows: int = 1) -> Tensor:
    """Return validated rows as a tensor: the input's own memory where its layout allows.

    Parameters
    ----------
    reset : bool
        Whether the number and names of features are learned (fit) or compared (predict).
    min_rows : int
        Fewest rows that make sense.

    Raises
    ------
    DataError
        With scikit-learn's own words where it is scikit-learn that refuses them.
    """
    if isinstance(x, Tensor):
        return _rows_of_tensor(estimator, x, reset=reset, min_rows=min_rows)
    table = checked_table(x)
    try:
        array = validate_data(
            estimator,
            table,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=min_rows,
        )
    except TypeError as error:
        raise DataTypeError(str(error)) from error
    except ValueError as error:
        raise DataError(str(error)) from error
    return as_tensor(array)


def as_tensor(array: Any) -> Tensor:
    """Return a NumPy array as a tensor over the same memory where that is possible."""
    array = np.asarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides) or not array.flags.aligned:
        array = np.array(array, order="C")
    with warnings.catch_warnings():
        # torch warns that writing to read-only memory is undefined; nothing here writes to its input.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def like_input(result: Tensor, x: Any) -> Any:
    """Return a result in the kind of array that came in: a tensor for a tensor, else NumPy."""
    return result if isinstance(x, Tensor) else result.numpy(force=True)


def numbers_of(values: Any, name: str) -> Tensor:
    """Return finite numbers, given in any shape, as a float64 tensor.

    Raises
    ------
    DataError
        If something is not a number, NaN or infinite.
    """
    if isinstance(values, Tensor):
        if values.is_complex():
            raise DataTypeError(f"{name} must be real numbers, got dtype {values.dtype}.")
        numbers = values.detach().to(torch.float64)
    else:
        array = np.asarray(values)
        if values is None or array.dtype.kind not in "biufO":
            raise DataTypeError(f"{name} must be numbers, got dtype {array.dtype}.")
        try:
            numbers = torch.from_numpy(array.astype(np.float64, order="C"))
        except (TypeError, ValueError) as error:
            raise DataTypeError(f"{name} must be numbers: {error}.") from error
    finite = torch.isfinite(numbers)
    if not bool(finite.all()):
        place = torch.nonzero(~finite)[0].tolist()
        raise DataError(f"{name} contains NaN or infinity, first at index {place}; give finite numbers.")
    return numbers


def weights_of(sample_weight: Any, x: Tensor | Source) -> Tensor | None:
    """Return row weights as given, float64, shape (n,), or ``None``."""
    if sample_weight is None:
        return None
    n_rows = x.n_rows if isinstance(x, Source) else x.shape[0]
    weights = numbers_of(sample_weight, "sample_weight").to(x.device)
    if weights.ndim == 0:
        weights = weights.expand(n_rows)
    if weights.ndim != 1:
        raise DataError(f"Sample weights must be 1D array or scalar, got {weights.ndim}D array.")
    if weights.shape[0] != n_rows:
        raise DataError(
            f"sample_weight.shape == {tuple(weights.shape)}, expected {(n_rows,)}: one weight a row."
        )
    if bool((weights < 0).any()):
        row = int(torch.nonzero(weights < 0)[0, 0])
        raise DataError(f"Negative values in data passed to `sample_weight`, first at row {row}.")
    if not bool((weights > 0).any()):
        raise DataError("Sample weights must not all be zero: there is nothing to fit.")
    return weights


def unit_of(weights: Tensor) -> Tensor:
    """Return the mean of the weights that are not zero: what a fit, to which their scale means nothing, divides by."""
    largest = weights.max()
    return largest * ((weights / largest).sum() / torch.count_nonzero(weights))


@dataclass(frozen=True)
class _NotFinite:
    """How many values are not finite, and the first of them."""

    count: int
    row: int = -1
    column: int = -1
    nan: bool = False

    def __add__(self, other: _NotFinite) -> _NotFinite:
        return replace(self if self.count else other, count=self.count + other.count)


@dataclass(frozen=True)
class _LookForBad:
    """Counts the values of a block that are infinite, or NaN where no entry may be missing."""

    may_miss: bool

    def __call__(self, block: Block) -> _NotFinite:
        bad = torch.isinf(block.x) if self.may_miss else ~torch.isfinite(block.x)
        count = int(bad.sum())
        if count == 0:
            return _NotFinite(0)
        row, column = (int(i) for i in torch.nonzero(bad)[0])
        return _NotFinite(count, block.start + row, column, bool(block.x[row, column].isnan()))


def require_finite(
    estimator: Any, source: Source, limits: Range, remedy: str = "Remove or impute them first."
) -> None:
    """Raise a DataError that names the first value that is not finite."""
    if limits.finite:
        return
    _refuse(estimator, source, _LookForBad(may_miss=False), remedy)


def require_no_infinity(estimator: Any, source: Source, limits: Range) -> None:
    """Raise a DataError that names the first infinite value of rows that may miss entries."""
    if not (bool(limits.lowest.isneginf().any()) or bool(limits.highest.isposinf().any())):
        return
    remedy = "A missing entry is NaN; any other value must be finite."
    _refuse(estimator, source, _LookForBad(may_miss=True), remedy)


def require_seen_columns(estimator: Any, limits: Range) -> None:
    """Raise a DataError where a column has no value in any row."""
    unseen = (limits.lowest > limits.highest).nonzero()[:, 0].tolist()
    if unseen:
        names = ", ".join(label_of(estimator, column) for column in unseen)
        raise DataError(
            f"No row has a value in {names}: nothing can be learned about what is never seen. Leave such columns out."
        )


def _refuse(estimator: Any, source: Source, look: _LookForBad, remedy: str) -> None:
    """Raise a DataError that counts the bad values and names the first."""
    bad = source.map_reduce(look, 1 << 14)
    kind = "NaN" if bad.nan else "infinity or a value too large for its dtype"
    raise DataError(
        f"Input X contains {kind}: {bad.count} of {source.n_rows * source.n_features} values are not finite, first at "
        f"{source.place(bad.row)}, {label_of(estimator, bad.column)}. {remedy}"
    )


def label_of(estimator: Any, column: int) -> str:
    """Return how a message calls a column: by number, and by name where it has one."""
    names = getattr(estimator, "feature_names_in_", None)
    return f"column {column}" if names is None else f"column {column} ({str(names[column])!r})"


def check_domain(
    estimator: Any,
    family_check: Callable[[Tensor], str | None],
    source: Source,
    limits: Range,
    block_rows: int = 1 << 14,
) -> None:
    """Raise a DataError where rows are outside a family's domain; a missing entry is outside of none."""
    if getattr(family_check, "__func__", None) is Family.check_rows:
        return  # a family that takes any numbers: nothing to read the rows for
    look = _Outside(family_check, limits.incomplete)
    found = source.map_reduce(look, block_rows)
    if found.message is None:
        return
    if isinstance(source, TensorSource):
        message = str(look.complaint(source.x))  # once more with all rows: it numbers them from the first
    else:
        message = f"In the rows from {source.place(found.start)} on: {found.message}"
    raise DataError(re.sub(r"column (\d+)", lambda m: label_of(estimator, int(m[1])), message))


@dataclass(frozen=True)
class _Complaint:
    """What a family says of the first block that it does not take."""

    start: int
    message: str | None

    def __add__(self, other: _Complaint) -> _Complaint:
        return self if self.message is not None else other


@dataclass(frozen=True)
class _Outside:
    """Looks for rows outside a domain."""

    check: Callable[[Tensor], str | None]
    incomplete: bool

    def __call__(self, block: Block) -> _Complaint:
        return _Complaint(block.start, self.complaint(block.x))

    def complaint(self, x: Tensor) -> str | None:
        """Return what the family says of rows."""
        if self.incomplete:
            x = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # zero is in every such domain
        return self.check(x)


def source_of(estimator: Any, source: Source, *, reset: bool, min_rows: int = 1) -> Source:
    """Return a source that the caller made, after the checks that rows in memory go through.

    Parameters
    ----------
    reset : bool
        Whether the number and names of features are learned (fit) or compared (predict).
    min_rows : int
        Fewest rows that make sense.
    """
    name, names = type(estimator).__name__, getattr(source, "names", None)
    if source.n_rows < min_rows:
        raise DataError(
            f"Found {source.n_rows} sample(s) while a minimum of {min_rows} is required by {name}."
        )
    if reset:
        estimator.n_features_in_ = source.n_features
        estimator.__dict__.pop("feature_names_in_", None)
        if names is not None:
            estimator.feature_names_in_ = np.asarray(names, dtype=object)
        return source
    if source.n_features != estimator.n_features_in_:
        raise DataError(
            f"X has {source.n_features} features, but {name} is expecting {estimator.n_features_in_} features as input."
        )
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None and names is not None and list(known) != list(names):
        raise DataError(
            f"The columns of X are {list(names)}, but {name} was fitted with {list(known)}: open the files with "
            "columns=[...] in that order."
        )
    return source


def _rows_of_tensor(estimator: Any, x: Tensor, *, reset: bool, min_rows: int) -> Tensor:
    x, name = x.detach(), type(estimator).__name__
    if x.is_complex():
        raise DataTypeError("Complex data not supported: X must be real numbers.")
    if x.is_meta:
        raise DataTypeError(
            "X is on the device 'meta', which keeps shapes and no numbers: give rows that have some."
        )
    if x.layout != torch.strided:
        raise DataTypeError("Sparse data was passed for X, but dense data is required. Use X.to_dense().")
    if x.ndim != 2:
        raise DataError(
            f"Expected 2D array, got {x.ndim}D tensor of shape {tuple(x.shape)} instead. Reshape it to "
            "(n_rows, n_features)."
        )
    if x.dtype == torch.int64:
        checked_table(x.numpy(force=True))
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.float64)
    for axis, (kind, least) in enumerate((("sample(s)", min_rows), ("feature(s)", 1))):
        if x.shape[axis] < least:
            raise DataError(
                f"Found array with {x.shape[axis]} {kind} (shape={tuple(x.shape)}) while a minimum of {least} is "
                f"required by {name}."
            )
    if reset:
        estimator.n_features_in_ = x.shape[1]
        estimator.__dict__.pop("feature_names_in_", None)
    elif x.shape[1] != estimator.n_features_in_:
        raise DataError(
            f"X has {x.shape[1]} features, but {name} is expecting {estimator.n_features_in_} features as input."
        )
    return x


__all__ = [
    "SIMPLEX_TOLERANCE",
    "Number",
    "as_tensor",
    "check_domain",
    "label_of",
    "like_input",
    "numbers_of",
    "require_finite",
    "require_no_infinity",
    "require_seen_columns",
    "rows_of",
    "source_of",
    "unit_of",
    "weights_of",
]
