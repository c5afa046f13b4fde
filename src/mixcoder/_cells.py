"""What the cells of a CSV say: numbers, missing values, names of columns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

__all__ = ["MISSING", "fast_rows", "header_of", "is_blank", "number_in", "semicolons"]

# What spreadsheets, R, pandas and SQL write for "no value"; NaN itself is read by float().
MISSING = frozenset({"", "NA", "N/A", "<NA>", "NULL", "null", "None"})

# As Python, R and JSON write truth; 1 and 0, as the booleans of a Parquet file are.
TRUTH = {
    word: value
    for value, name in ((1.0, "true"), (0.0, "false"))
    for word in (name, name.title(), name.upper())
}


def number_in(cell: str) -> float | None:
    """Return a cell's number, NaN if there is none, None if it is text.

    Examples
    --------
    >>> number_in(" 1e3"), number_in("NA"), number_in("1_0"), number_in("x")
    (1000.0, nan, None, None)
    >>> number_in("True"), number_in("FALSE")
    (1.0, 0.0)
    """
    cell = cell.strip()
    if cell in MISSING:
        return math.nan
    if cell in TRUTH:
        return TRUTH[cell]
    if "_" in cell or not cell.isascii():  # `float` itself takes 1_0, and digits of any script
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def is_blank(row: Sequence[str]) -> bool:
    """Return whether a line is no row. Neither commas nor "" alone are blank: those are rows of missing values."""
    return not row or (len(row) == 1 and row[0].isspace())


def semicolons(cells: Sequence[str]) -> str:
    """Return a sentence to end a complaint about a line with: what to do where semicolons separate its cells.

    Examples
    --------
    >>> semicolons(["1", "2"])
    ''
    """
    if not any(";" in cell for cell in cells):
        return ""
    return (
        " Do semicolons separate its cells? Write commas between cells and points as decimal marks, as "
        "pandas.read_csv(path, sep=';', decimal=',') followed by to_csv does."
    )


def header_of(first: Sequence[str]) -> tuple[bool, str | None]:
    """Return whether the cells of a first line name the columns, and what leaves that open.

    Examples
    --------
    >>> header_of(["height", "width"]), header_of(["1.5", "NA"])
    ((True, None), (False, None))
    >>> header_of(["height", "1.5"])[1]
    "has both text ('height') and numbers ('1.5')"
    """
    texts = [cell for cell in first if cell not in MISSING and number_in(cell) is None]
    numbers = [cell for cell in first if cell not in MISSING and number_in(cell) is not None]
    if texts and numbers:
        return False, f"has both text ({texts[0]!r}) and numbers ({numbers[0]!r})"
    if all(cell in TRUTH for cell in first):  # a table of booleans, or one with a column for each
        return False, f"holds truth values alone ({', '.join(first[:3])})"
    counted = [[str(j + by) for j in range(len(first))] for by in (0, 1)]
    if len(first) > 1 and list(first) in counted:
        return False, f"counts {first[0]}, {first[1]}, ..."
    return bool(texts), None


def fast_rows(text: TextIO, width: int, chosen: Sequence[int], delimiter: str) -> np.ndarray | None:
    """Return the chosen columns of all lines by `numpy.loadtxt`, or None if it objects to anything.

    It is told nothing of quotes, which it would take too lightly ("2"3 as 23), so that a quoted number is text to
    it; and it takes an empty cell alone on its line for a blank line, so that a single column is not for it.
    """
    if width == 1:
        return None
    every, wanted = list(chosen) == list(range(width)), set(chosen)
    # One character of a column that is not wanted is enough to step over it and still count the cells of a line.
    kind: Any = float if every else [(f"f{j}", "f8" if j in wanted else "U1") for j in range(width)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "input contained no data" is said better by the caller
        try:
            raw: Any = np.loadtxt(text, kind, None, delimiter, ndmin=2 if every else 1)
        except UnicodeDecodeError:
            raise
        except ValueError:
            return None
    if not raw.size:
        return np.empty((0, len(chosen)))
    if every:
        return raw if raw.shape[1] == width else None
    if any((raw[f"f{j}"] == '"').any() for j in range(width) if j not in wanted):
        return None
    return np.column_stack([np.asarray(raw[f"f{j}"]) for j in chosen])
