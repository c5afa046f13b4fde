"""What a model's ``predict_proba`` gave, once it is known to be probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from mixcoder.errors import DataError
from mixcoder.estimators._validation import SIMPLEX_TOLERANCE, as_tensor

_BLOCK = 1 << 14


def probabilities_of(model: Any, X: Any, n_rows: int, n_classes: int | None = None) -> Tensor:
    """Return the class probabilities that a model gives to rows, shape (n_rows, n_classes).

    Entries are in [0, 1] and rows sum to one, both up to ``SIMPLEX_TOLERANCE``.

    Parameters
    ----------
    model : estimator with ``predict_proba``
    X : array-like
        As the model takes it.
    n_rows : int
    n_classes : int, optional
        How many there must be; any number but 0 by default.

    Raises
    ------
    DataError
        If that is not what ``predict_proba`` returned; says which model, what was expected, and what it gave.
    """
    named = model.estimator if isinstance(model, FrozenEstimator) else model
    name = f"{type(named).__name__}.predict_proba(X)"
    wanted = f"expected probabilities of shape ({n_rows}, {n_classes or 'n_classes'}), whose rows sum to one"
    found = _numbers(model.predict_proba(X), name, wanted)
    if found.ndim != 2 or found.shape[0] != n_rows or found.shape[1] < 1:
        raise DataError(f"{name} returned shape {tuple(found.shape)}, {wanted}.")
    if n_classes is not None and found.shape[1] != n_classes:
        raise DataError(
            f"{name} returned {found.shape[1]} classes, but the map was fitted with {n_classes}: the model has been "
            "fitted again since. Fit the map again, too."
        )
    first = 0
    for block in found.split(_BLOCK):
        p = block.double()
        least, largest, totals = p.amin(dim=1), p.amax(dim=1), p.sum(dim=1)
        # Written so that NaN is wrong, too.
        right = (least >= -SIMPLEX_TOLERANCE) & (largest <= 1 + SIMPLEX_TOLERANCE)
        wrong = ~(right & ((totals - 1).abs() <= SIMPLEX_TOLERANCE))
        if bool(wrong.any()):
            row = int(torch.nonzero(wrong)[0, 0])
            raise DataError(
                f"{name}: {wanted}, but row {first + row} has entries from {float(least[row]):.4g} to "
                f"{float(largest[row]):.4g} and a sum of {float(totals[row]):.4g}."
            )
        first += len(block)
    return found


def _numbers(given: Any, name: str, wanted: str) -> Tensor:
    if isinstance(given, Tensor):
        if given.is_complex():
            raise DataError(f"{name} returned a tensor of dtype {given.dtype}, {wanted}.")
        return given.detach()
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise DataError(
            f"{name} returned a {type(given).__name__} that is no array ({error}), {wanted}."
        ) from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} returned a {type(given).__name__} of dtype {array.dtype}, {wanted}.")
    return as_tensor(array.astype(np.float64) if array.dtype.itemsize > 8 else array)


__all__ = ["probabilities_of"]
