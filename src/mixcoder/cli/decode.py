"""``mixcoder decode``: codes in, rows out."""

from typing import Any

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit, progress
from mixcoder.cli.options import (
    debug_option,
    force_option,
    json_option,
    out_option,
    quiet_option,
    reading_options,
)
from mixcoder.errors import DataError

__all__ = ["command"]


@click.command("decode", short_help="Codes to rows.")
@click.argument("model", metavar="MODEL")
@click.argument("codes", metavar="CODES")
@out_option(True, "Where the rows go")
@reading_options
@json_option
@force_option
@quiet_option
@debug_option
def command(
    model: str,
    codes: str,
    out: str,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write the row that each code stands for.

    CODES has one column of component numbers, counted from 0, or one column of responsibilities per component.
    """
    target = outputs.claim_table(out, force=force, as_json=as_json, inputs=(model, codes))

    import numpy as np

    from mixcoder.cli import models, tables

    fitted = models.load(model)
    k = models.n_components(fitted)
    source = tables.open_table(codes, key=key, header=header, vector=True)
    if columns is None:
        _require_width(source.path, len(source.columns), k)
    table = source.read(columns)
    tables.require_finite(table)
    code = as_code(table, k)
    rows: list[np.ndarray] = []
    with progress("decoding", len(code), quiet=quiet) as advance:
        for block in models.blocks(code):
            rows.append(np.asarray(fitted.decode(block)))
            advance(len(block))
    decoded = np.concatenate(rows)
    names = models.column_names(fitted)
    if target is None:
        tables.write_table("-", decoded, names)
        return
    with outputs.replace_atomically(target, force=force) as draft:
        tables.write_table(draft, decoded, names, kind=tables.extension(out))
    record = {
        "codes": table.path,
        "code": "hard" if code.ndim == 1 else "soft",
        "rows": len(decoded),
        "n_columns": len(names),
        "columns": list(names),
        "out": click.format_filename(out),
    }
    text = align(
        [
            ("codes", f"{table.path}: {count(len(code), 'row')}, {record['code']}"),
            ("saved", f"{record['out']}: {count(len(names), 'column')}"),
        ]
    )
    emit("mixcoder.decode/1", record, text, as_json=as_json)


def as_code(table: Any, k: int) -> Any:
    """The table as component numbers (n,), or as responsibilities (n k).

    Raises
    ------
    DataError
        If it is neither: the wrong number of columns, no such component, or responsibilities that do not sum to 1.
    """
    import numpy as np

    values = table.values.astype(np.float64)
    if values.shape[1] == k and (k > 1 or bool((values == 1).all())):
        sums = values.sum(axis=1)  # of float32 codes, or of codes written with few digits, not exactly 1
        wrong = np.flatnonzero((values < 0).any(axis=1) | (np.abs(sums - 1) > 1e-4))
        if len(wrong):
            row = int(wrong[0])
            what = (
                f"sum to {sums[row]:.6g}" if (values[row] >= 0).all() else f"include {values[row].min():.6g}"
            )
            raise DataError(
                f"{table.path} row {row} (from 0): its responsibilities {what}; each is 0 or more and they sum to 1."
            )
        return values
    _require_width(table.path, values.shape[1], k)
    wrong = np.flatnonzero(
        (values[:, 0] != np.floor(values[:, 0])) | (values[:, 0] < 0) | (values[:, 0] >= k)
    )
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{table.path} row {row} (from 0): there is no component {values[row, 0]:.6g}; "
            f"they are numbered 0 to {k - 1}."
        )
    return values[:, 0].astype(np.int64)


def _require_width(path: str, width: int, k: int) -> None:
    if width not in (1, k):
        raise DataError(
            f"{path} has {count(width, 'column')}, but a code of {count(k, 'component')} has 1 (a number) or {k} "
            "(responsibilities): choose them with --columns."
        )
