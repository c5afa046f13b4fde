"""``mixcoder check``: whether a fit would accept these rows, and what it would cost."""

from collections.abc import Callable
from typing import Any

import click

from mixcoder.cli.console import align, count, emit, number
from mixcoder.cli.options import (
    IntegerWithin,
    debug_option,
    json_option,
    reading_options,
)

__all__ = ["command"]

# |mean| / std from which fewer than three digits of the spread are left, in float32 (7 digits) and float64 (16).
OFFSET_FLOAT32 = 1e4
OFFSET_FLOAT64 = 1e12

# Squares of larger numbers overflow float32.
LARGEST_FLOAT32 = 1e18

# Components that memory is planned for where nobody says how many.
PLANNED = 8


@click.command("check", short_help="Would a fit accept these rows?")
@click.argument("data", metavar="DATA")
@click.option(
    "-k",
    "--components",
    type=IntegerWithin(min=1),
    help="Components of the fit planned: whether the rows are enough, and what it needs.",
)
@reading_options
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    data: str,
    components: int | None,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Look a table over before a fit: shape, missing and infinite cells, scales, duplicates, memory.

    Exits with 3 if a fit would refuse it.
    """
    from mixcoder.cli.columns import as_records, as_text, describe
    from mixcoder.cli.tables import open_table

    survey = open_table(data, key=key, header=header).survey(columns)
    table = survey.table
    described = describe(survey)
    remarks, problems, warnings = judge(described)
    n, d = table.values.shape
    distinct = count_distinct(table.values)
    if n < 2:
        problems.append(f"{count(n, 'row')}: a fit needs two at least")
    elif components is not None and n < components:
        problems.append(f"{number(n)} rows are too few for {components} components")
    elif components is not None and distinct < components:
        warnings.append(f"only {number(distinct)} rows are distinct, fewer than {components} components")
    if not problems:
        refused, remarked = asked_of_a_fit(table)
        problems += refused
        warnings += remarked
    planned = min(PLANNED, max(1, n)) if components is None else components
    memory = plan_memory(n, d, planned)
    available = memory["available"]
    if available is not None and (memory["total"] or 0) > available:
        problems.append(f"a fit needs about {_size(memory['total'])}, but {_size(available)} are there")

    record = {
        "data": table.path,
        "rows": n,
        "n_columns": d,
        "columns": as_records(described),
        "named": table.named,
        "components": planned,
        "distinct_rows": distinct,
        "duplicate_rows": n - distinct,
        "memory_bytes": memory,
        "problems": problems,
        "warnings": warnings,
        "ok": not problems,
    }
    text = [f"{table.path}: {count(n, 'row')}, {count(d, 'column')}", "", *as_text(described, remarks), ""]
    needs = f"about {_size(memory['total'])} to fit {count(planned, 'component')}"
    kinds = {"rows": "rows", "full covariances": "parameters", "blocks": "blocks"}
    parts = ", ".join(f"{words} {_size(memory[kind])}" for words, kind in kinds.items())
    text += align(
        [
            ("duplicates", f"{count(n - distinct, 'row repeats', 'rows repeat')} an earlier one"),
            ("memory", f"{needs}: {parts}" + (f"; {_size(available)} in this machine" if available else "")),
        ]
    )
    text += [f"warning: {line}" for line in warnings]
    text += [f"problem: {line}" for line in problems]
    text.append("a fit would refuse these rows" if problems else "ok: a fit accepts these rows")
    emit("mixcoder.check/1", record, text, as_json=as_json)
    if problems:
        ctx.exit(3)


def judge(columns: list[Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """Remarks by column, what a fit refuses, and what it only suffers from; one line a kind of trouble."""
    from mixcoder.cli.columns import FAR

    remarks: dict[str, list[str]] = {}
    problems: list[str] = []
    warnings: list[str] = []

    def tell(
        into: list[str], troubled: list[Any], remark: Callable[[Any], str], detail: Callable[[Any], str]
    ) -> None:
        for c in troubled:
            remarks.setdefault(c.name, []).append(remark(c))
        if len(troubled) == 1:
            into.append(f"column {troubled[0].name!r} {detail(troubled[0])}")
        elif troubled:
            names = ", ".join(c.name for c in troubled[:5])
            more = f" and {number(len(troubled) - 5)} more" if len(troubled) > 5 else ""
            first = f"the first, {troubled[0].name!r}, {detail(troubled[0])}"
            into.append(f"{number(len(troubled))} columns ({names}{more}); {first}")

    def place(row: int | None, line: int | None = None) -> str:
        if line is not None:
            return f", first at line {line}"
        return "" if row is None else f", first at row {row}"

    tell(
        problems,
        [c for c in columns if c.text],
        lambda c: "text",
        lambda c: (
            f"has {count(c.text.count, 'cell that is not a number', 'cells that are not numbers')} "
            f"({c.text.example!r}{place(c.text.row, c.text.line)})"
        ),
    )
    tell(
        problems,
        [c for c in columns if c.missing and not c.text and c.min is None and not c.infinite],
        lambda c: "empty",
        lambda c: "holds no value at all",
    )
    tell(
        warnings,
        [c for c in columns if c.missing and (c.min is not None or c.text)],
        lambda c: f"{number(c.missing)} missing",
        lambda c: (
            f"has {count(c.missing, 'missing cell')}{place(c.first_missing_row)}: mixtures integrate them out, "
            "kmeans refuses them"
        ),
    )
    tell(
        problems,
        [c for c in columns if c.infinite],
        lambda c: f"{number(c.infinite)} infinite",
        lambda c: f"has {count(c.infinite, 'infinite cell')}{place(c.first_infinite_row)}",
    )
    tell(
        warnings,
        [c for c in columns if c.constant],
        lambda c: "constant",
        lambda c: f"is constant ({number(c.min)}): it says nothing about the rows",
    )
    offsets = [(c, c.offset_ratio or 0.0) for c in columns]
    tell(
        warnings,
        [c for c, ratio in offsets if OFFSET_FLOAT32 < ratio <= OFFSET_FLOAT64],
        lambda c: "offset",
        lambda c: (
            f"has a mean {c.offset_ratio:.0e} times its spread: "
            + (
                "float32 has lost its digits, subtract a constant before it is stored so"
                if c.dtype == "float32"
                else "float32 would lose its digits, keep it in float64"
            )
        ),
    )
    tell(
        warnings,
        [c for c, ratio in offsets if ratio > OFFSET_FLOAT64],
        lambda c: "offset",
        lambda c: (
            f"has a mean {c.offset_ratio:.0e} times its spread: float64 has lost its digits, subtract a constant"
        ),
    )
    tell(
        warnings,
        [
            c
            for c in columns
            if c.dtype != "float32" and c.min is not None and max(abs(c.min), abs(c.max)) > LARGEST_FLOAT32
        ],
        lambda c: "huge",
        lambda c: "has numbers above 1e18: squares overflow float32, keep it in float64",
    )
    tell(
        warnings,
        [c for c in columns if c.far],
        lambda c: f"{number(c.far)} far away",
        lambda c: (
            f"has {count(c.far, 'cell')} more than {FAR:.0f} interquartile ranges from its median "
            f"({number(c.first_far)}{place(c.first_far_row)}): if that stands for a missing value, leave the cell empty"
        ),
    )
    spreads = [c for c in columns if c.std]
    if spreads:
        widest, narrowest = max(spreads, key=lambda c: c.std), min(spreads, key=lambda c: c.std)
        if widest.std > 1e3 * narrowest.std:
            warnings.append(
                f"column {widest.name!r} spreads {widest.std / narrowest.std:.0e} times as wide as {narrowest.name!r}: "
                "k-means will see the wide one only; Gaussian models do not mind"
            )
    return {name: ", ".join(words) for name, words in remarks.items()}, problems, warnings


def asked_of_a_fit(table: Any) -> tuple[list[str], list[str]]:
    """What a fit of Gaussians says of the rows before it begins: why it refuses them, and what it warns of."""
    import warnings

    from mixcoder import GaussianMixture
    from mixcoder.errors import DataError
    from mixcoder.estimators.mixture import require_fittable

    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        try:
            require_fittable(GaussianMixture(), table.values, table.columns if table.named else None)
        except DataError as error:
            return [_within_a_sentence(str(error))], []
    return [], [_within_a_sentence(str(remark.message)) for remark in remarks]


def _within_a_sentence(text: str) -> str:
    return text[:1].lower() + text[1:].removesuffix(".")


def count_distinct(values: Any) -> int:
    """How many different rows there are; +0 and -0 are the same, as are all NaN."""
    import numpy as np

    rows = np.ascontiguousarray(values, dtype=np.float64) + 0.0  # -0 + 0 = +0
    rows[np.isnan(rows)] = np.nan
    return len(np.unique(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))))


def plan_memory(n: int, d: int, k: int) -> dict[str, int | None]:
    """About how many bytes a fit of k full covariances to n rows of d columns holds at its peak.

    The rows once as read and once as the fit wants them; parameters, their factors, sums and their successors; and in
    each thread a block of rows with its codes and the products of its columns. Nothing grows with n times k.
    """
    import os

    from mixcoder.cli.tables import physical_memory

    rows = 2 * 8 * n * d
    parameters = 6 * 8 * k * (1 + d + d * d)
    width = 1 + d + d * (d + 1) // 2 if d <= 160 else 2 * d
    block = min(n, max(1024, (4 << 20) // (16 * (k + width))))
    blocks = (os.cpu_count() or 1) * 8 * block * 2 * (k + width)
    return {
        "rows": rows,
        "parameters": parameters,
        "blocks": blocks,
        "total": rows + parameters + blocks,
        "available": physical_memory(),
    }


def _size(count: int | None) -> str:
    from mixcoder.cli.tables import bytes_text

    return "-" if count is None else bytes_text(count)
