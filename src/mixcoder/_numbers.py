"""Numbers that settings are made of: a clear word where something else is given."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def real_number(name: str, value: Any) -> float:
    """Return a setting as a float.

    Raises
    ------
    TypeError
        If it is no real number: a truth value, text and ``None`` are none.

    Examples
    --------
    >>> real_number("beta", 2)
    2.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.")
    return float(value)


def positive_number(name: str, value: Any, *, or_inf: bool = False, hint: str = "") -> float:
    """Return a setting as a positive float, finite unless infinity has a meaning.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is NaN, not positive, or infinite without leave.
    """
    number = real_number(name, value)
    if not number > 0 or (math.isinf(number) and not or_inf):
        wanted = "a positive number or inf" if or_inf else "a positive, finite number"
        raise ValueError(f"{name} must be {wanted}, got {value!r}{hint}.")
    return number


__all__ = ["positive_number", "real_number"]
