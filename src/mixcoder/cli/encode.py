"""``mixcoder encode``: rows in, codes out."""

from pathlib import Path
from typing import Any

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit, number, progress
from mixcoder.cli.options import (
    debug_option,
    force_option,
    json_option,
    out_option,
    quiet_option,
    reading_options,
)

__all__ = ["command"]

_BLOCK_ROWS = 1 << 16


@click.command("encode", short_help="Rows to codes.")
@click.argument("model", metavar="MODEL")
@click.argument("data", metavar="DATA...", nargs=-1, required=True)
@out_option(True, "Where the codes go, one line per row")
@click.option(
    "--soft", is_flag=True, help="The model's soft codes: a column of responsibilities per component."
)
@reading_options
@json_option
@force_option
@quiet_option
@debug_option
def command(
    model: str,
    data: tuple[str, ...],
    out: str,
    soft: bool,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write the code of each row of DATA: its likeliest component, counted from 0, or with --soft a share of each.

    Columns are found by the names that the model was fitted to, if the model and the file have names. Several files,
    a folder or a quoted pattern of files, and HDF5, Zarr or Arrow files, are read, and their codes written, block by
    block.
    """
    target = outputs.claim_table(out, force=force, as_json=as_json, inputs=(model, *data))

    import numpy as np

    from mixcoder.cli import models, streams, tables

    fitted = models.load(model)
    if streams.are_streamed(data):
        if target is None:
            raise click.UsageError("codes of several files go to a file: give --out a name.")
        rows = streams.open_rows(data, columns, names=models.names_of(fitted), header=header, key=key)
        record = _encode_stream(
            fitted, rows, target, str(tables.extension(out)), soft=soft, force=force, quiet=quiet
        )
        record = {"data": streams.shown(data), **record, "out": click.format_filename(out)}
        emit("mixcoder.encode/1", record, _text(record), as_json=as_json)
        return
    table = models.rows_for(fitted, tables.open_table(data[0], key=key, header=header), columns)
    n, k = len(table.values), models.n_components(fitted)
    encode = fitted.encode if soft else fitted.predict
    if soft and np.ndim(encode(table.values[:1])) == 1:
        raise click.UsageError(f"the codes of this {type(fitted).__name__} are hard: leave --soft out.")
    codes: list[np.ndarray] = []
    bits = 0.0
    with progress("encoding", n, quiet=quiet) as advance, models.about(table.path):
        for block in models.blocks(table.values):
            codes.append(np.asarray(encode(block)))
            bits += fitted.rate(block) * len(block) if soft else models.hard_bits(fitted, block, codes[-1])
            advance(len(block))
    code = np.concatenate(codes) if soft else np.concatenate(codes).astype(np.int64)
    names = [f"component_{j}" for j in range(k)] if soft else ["component"]
    if target is None:
        tables.write_table("-", code, names)
        return
    with outputs.replace_atomically(target, force=force) as draft:
        tables.write_table(draft, code, names, kind=tables.extension(out), key="codes")
    used = len(np.unique(code.argmax(axis=1) if soft else code))
    record = {
        "data": table.path,
        "rows": n,
        "components": k,
        "components_used": used,
        "code": "soft" if soft else "hard",
        "rate_bits": bits / n,
        "out": click.format_filename(out),
    }
    emit("mixcoder.encode/1", record, _text(record), as_json=as_json)


def _encode_stream(
    fitted: Any, rows: Any, target: Path, kind: str, *, soft: bool, force: bool, quiet: bool
) -> dict[str, Any]:
    """Write the codes of rows in files as they are read; return what there is to tell."""
    import numpy as np

    from mixcoder.cli import models, streams
    from mixcoder.estimators._validation import require_finite, source_of
    from mixcoder.fitting.scan import scan_range

    k = models.n_components(fitted)
    require_finite(fitted, source_of(fitted, rows, reset=False), scan_range(rows))
    names = [f"component_{j}" for j in range(k)] if soft else ["component"]
    used, bits = np.zeros(k, bool), 0.0
    nameless = models.without_names(fitted)
    encode = nameless.encode if soft else nameless.predict
    with (
        progress("encoding", rows.n_rows, quiet=quiet) as advance,
        outputs.replace_atomically(target, force=force) as draft,
        streams.TableWriter(draft, kind, rows.n_rows, names, vector=not soft) as writer,
    ):
        for block in rows.blocks(_BLOCK_ROWS):
            values = block.x.numpy()
            code = np.asarray(encode(values))
            if soft and code.ndim == 1:
                raise click.UsageError(
                    f"the codes of this {type(fitted).__name__} are hard: leave --soft out."
                )
            code = code if soft else code.astype(np.int64)
            bits += nameless.rate(values) * len(values) if soft else models.hard_bits(nameless, values, code)
            used[np.unique(code.argmax(axis=1) if soft else code)] = True
            writer.write(code)
            advance(len(values))
    return {
        "rows": rows.n_rows,
        "components": k,
        "components_used": int(used.sum()),
        "code": "soft" if soft else "hard",
        "rate_bits": bits / rows.n_rows,
    }


def _text(record: dict[str, Any]) -> list[str]:
    return align(
        [
            ("data", f"{record['data']}: {count(record['rows'], 'row')}"),
            (
                "code",
                f"{record['code']}, {record['components_used']} of {count(record['components'], 'component')} used",
            ),
            ("rate", f"{number(record['rate_bits'], 4)} bits per row"),
            ("saved", str(record["out"])),
        ]
    )
