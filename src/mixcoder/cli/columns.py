"""What can be said about each column of a table before any model sees it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mixcoder.cli.console import align, number
from mixcoder.cli.tables import Survey, TextCells

__all__ = ["Column", "as_records", "as_text", "describe"]


FAR = 100.0


@dataclass(frozen=True)
class Column:
    """One column's summary; the numbers are over its finite cells, None if it has none. Rows count from 0.

    ``far`` counts the finite cells more than :data:`FAR` interquartile ranges from the median.
    """

    name: str
    dtype: str
    missing: int
    infinite: int
    text: TextCells | None
    first_missing_row: int | None
    first_infinite_row: int | None
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    far: int = 0
    first_far_row: int | None = None
    first_far: float | None = None

    @property
    def constant(self) -> bool:
        return self.min is not None and self.min == self.max

    @property
    def offset_ratio(self) -> float | None:
        """|mean| / std: its decimal logarithm is the number of digits that a distance between rows loses."""
        if self.mean is None or not self.std:
            return None
        return abs(self.mean) / self.std


def describe(survey: Survey) -> list[Column]:
    """Summaries of the columns of a surveyed table, in their order."""
    table = survey.table
    return [
        _describe(name, dtype, table.values[:, j], survey.text.get(name))
        for j, (name, dtype) in enumerate(zip(table.columns, survey.dtypes, strict=True))
    ]


def _describe(name: str, dtype: str, cells: np.ndarray, text: TextCells | None) -> Column:
    finite, infinite = np.isfinite(cells), np.isinf(cells)
    missing = np.isnan(cells).sum() - (text.count if text else 0)
    summary: tuple[float | None, ...] = (None, None, None, None)
    if finite.any():
        values = cells[finite].astype(np.float64)
        # Divided by the largest first: sums and squares of 1e200 overflow. Shifted next: E[x^2] - m^2 cancels.
        scale = float(np.abs(values).max()) or 1.0
        mean = float((values / scale).mean()) * scale
        std = float(np.sqrt(np.mean(((values - mean) / scale) ** 2))) * scale
        low, high = float(values.min()), float(values.max())
        # A mean rounds: that of equal cells may miss them by one bit, and they would seem to vary.
        summary = (low, high, low, 0.0) if low == high else (low, high, mean, std)
    far = _far(cells, finite)
    return Column(
        name,
        dtype,
        int(missing),
        int(infinite.sum()),
        text,
        # Text cells are NaN in the array too, so beside them the first missing one cannot be told.
        int(np.isnan(cells).argmax()) if missing and not text else None,
        int(infinite.argmax()) if infinite.any() else None,
        *summary,
        far=len(far),
        first_far_row=int(far[0]) if len(far) else None,
        first_far=float(cells[far[0]]) if len(far) else None,
    )


def _far(cells: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Rows of the finite cells that are nowhere near the others; of none where half of them are the same."""
    if not finite.any():
        return np.empty(0, dtype=int)
    scale = float(np.abs(cells[finite]).max()) or 1.0
    values = cells[finite].astype(np.float64) / scale
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    if low == high:
        return np.empty(0, dtype=int)
    return np.flatnonzero(finite)[np.abs(values - middle) / (high - low) > FAR]


def as_records(columns: list[Column]) -> list[dict[str, Any]]:
    """The summaries as JSON objects."""
    return [asdict(c) | {"constant": c.constant, "offset_ratio": c.offset_ratio} for c in columns]


def as_text(columns: list[Column], remarks: dict[str, str], *, limit: int = 20) -> list[str]:
    """The summaries as lines; of a wide table those with a remark come first, and the rest is counted."""
    shown = columns
    if len(columns) > limit:
        shown = sorted(columns, key=lambda c: c.name not in remarks)[:limit]
    rows = [("column", "dtype", "min", "max", "mean", "std", "remark" if remarks else "")]
    rows += [
        (c.name, c.dtype, *(number(v, 5) for v in (c.min, c.max, c.mean, c.std)), remarks.get(c.name, ""))
        for c in shown
    ]
    lines = align(rows, right=(2, 3, 4, 5))
    if len(shown) < len(columns):
        lines.append(f"... and {number(len(columns) - len(shown))} more columns")
    return lines
