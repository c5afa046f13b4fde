"""Warnings that point at the line of the user, however many calls lie between."""

from __future__ import annotations

import inspect
import warnings

# What lies between the user and us: decorators and wrappers of methods among them.
_BETWEEN = frozenset({"mixcoder", "sklearn", "joblib", "torch", "contextlib"})


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither ours nor scikit-learn's.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     warn_user("the rows are few")
    >>> str(told[0].message)
    'the rows are few'
    """
    # Python 3.12 has skip_file_prefixes for this; a name is also right for code that comes from no file.
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_back is not None and _package_of(frame.f_globals) in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _package_of(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]


__all__ = ["warn_user"]
