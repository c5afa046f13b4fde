"""What callers hand over, as what this package works with, or a clear word where it is something else."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixcoder._numbers import real_number
from mixcoder.autoencoder import MixtureAutoencoder
from mixcoder.errors import DataError, DataTypeError


def as_model(value: Any) -> MixtureAutoencoder:
    """Return a fitted model: one as it is, or that of a fitted estimator.

    Raises
    ------
    TypeError
        If it is neither.
    """
    model = getattr(value, "model_", value)
    if isinstance(model, MixtureAutoencoder):
        return model
    unfitted = "; fit it first" if hasattr(value, "fit") else ""
    raise TypeError(
        f"A fitted estimator or its model_ (a MixtureAutoencoder) was expected, got {type(value).__name__}{unfitted}."
    )


def as_tensor(name: str, value: Any) -> Tensor:
    """Return an array, or whatever NumPy makes one of, as a tensor; a tensor as it is.

    Raises
    ------
    DataTypeError
        If its entries are no numbers.

    Examples
    --------
    >>> as_tensor("mask", np.array([True, False]))
    tensor([ True, False])
    """
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataTypeError(
            f"{name} must be a torch.Tensor or an array of numbers, got {type(value).__name__} of dtype {array.dtype}."
        )
    # Torch knows neither arrays that are read-only nor negative strides nor another byte order.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def as_rows(value: Any, width: int) -> Tensor:
    """Return rows of numbers of some width, shape (n, width).

    Raises
    ------
    DataError
        If they are of another shape.
    """
    rows = as_tensor("An operator's argument", value)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise DataError(
            f"Rows of shape (n_rows, {width}) were expected, got {tuple(rows.shape)}; a single one is x[None], an "
            "image is one row, flattened."
        )
    return rows


def as_variance(name: str, value: Any, *, positive: bool = False, hint: str = "") -> float:
    """Return a finite number that is not negative, or positive.

    Raises
    ------
    TypeError
        If it is no number, or several.
    ValueError
        If it is out of range.

    Examples
    --------
    >>> as_variance("noise_variance", torch.tensor(0.5))
    0.5
    """
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim:
            raise TypeError(
                f"{name} must be one number, got {type(value).__name__} of shape {tuple(value.shape)}. Where "
                "measurements are not equally exact, divide each, and its row of the operator, by its standard "
                "deviation: then the variance is 1."
            )
        value = value.item()
    number = real_number(name, value)
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(
            f"{name} must be {'positive' if positive else 'non-negative'} and finite{hint}, got {value!r}."
        )
    return number


def as_generator(value: Any, device: torch.device) -> torch.Generator:
    """Return a generator: one as it is, one with a seed, or by default one that is seeded by torch's own.

    Raises
    ------
    TypeError
        If it is something else.

    Examples
    --------
    >>> as_generator(3, torch.device("cpu")).initial_seed()
    3
    """
    if isinstance(value, torch.Generator):
        return value
    if value is None:
        value = int(torch.randint(2**62, ()))
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"generator must be a torch.Generator, a seed (an integer) or None, got {value!r} of type "
            f"{type(value).__name__}."
        )
    return torch.Generator(device=device).manual_seed(int(value))


__all__ = ["as_generator", "as_model", "as_rows", "as_tensor", "as_variance"]
