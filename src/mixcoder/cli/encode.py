"""``mixcoder encode``: rows in, codes out."""

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


@click.command("encode", short_help="Rows to codes.")
@click.argument("model", metavar="MODEL")
@click.argument("data", metavar="DATA")
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
    data: str,
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

    Columns are found by the names that the model was fitted to, if the model and the file have names.
    """
    target = outputs.claim_table(out, force=force, as_json=as_json, inputs=(model, data))

    import numpy as np

    from mixcoder.cli import models, tables

    fitted = models.load(model)
    table = models.rows_for(fitted, tables.open_table(data, key=key, header=header), columns)
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
    text = align(
        [
            ("data", f"{table.path}: {count(n, 'row')}"),
            ("code", f"{record['code']}, {used} of {count(k, 'component')} used"),
            ("rate", f"{number(bits / n, 4)} bits per row"),
            ("saved", str(record["out"])),
        ]
    )
    emit("mixcoder.encode/1", record, text, as_json=as_json)
