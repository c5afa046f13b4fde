"""``mixcoder impute``: rows with missing cells in, whole rows out."""

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
    seed_option,
)

__all__ = ["command"]


@click.command("impute", short_help="Fill in missing cells.")
@click.argument("data", metavar="DATA")
@click.option("-m", "--model", metavar="MODEL", required=True, help="The model that knows the columns.")
@out_option(True, "Where the whole rows go")
@click.option(
    "--rule",
    type=click.Choice(["mean", "sample"]),
    default="mean",
    show_default=True,
    help="What stands for a missing cell: its expectation, or a draw, given the rest of the row.",
)
@seed_option
@reading_options
@json_option
@force_option
@quiet_option
@debug_option
def command(
    data: str,
    model: str,
    out: str,
    rule: str,
    seed: int,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write the rows of DATA with every missing cell filled in from what the row does hold.

    What is there stays as it is. The columns of the model are written, found by name if the model and the file have
    names.
    """
    target = outputs.claim_table(out, force=force, as_json=as_json, inputs=(model, data))

    import numpy as np

    from mixcoder.cli import models, tables

    fitted = models.load(model)
    if not models.allows_missing(fitted):
        raise click.UsageError(
            f"this {type(fitted).__name__} has no rule for missing cells: fit --model gaussian instead."
        )
    table = models.rows_for(fitted, tables.open_table(data, key=key, header=header), columns)
    missing = np.isnan(table.values)
    generator = np.random.RandomState(seed)
    parts: list[np.ndarray] = []
    with progress("imputing", len(missing), quiet=quiet) as advance, models.about(table.path):
        for block in models.blocks(table.values):
            if rule == "mean":
                parts.append(np.asarray(fitted.impute(block)))
            else:
                parts.append(np.asarray(fitted.sample_missing(block, random_state=generator)))
            advance(len(block))
    filled = np.concatenate(parts)
    if target is None:
        tables.write_table("-", filled, table.columns)
        return
    with outputs.replace_atomically(target, force=force) as draft:
        tables.write_table(draft, filled, table.columns, kind=tables.extension(out))
    record = {
        "data": table.path,
        "rows": len(missing),
        "n_columns": len(table.columns),
        "columns": list(table.columns),
        "missing": int(missing.sum()),
        "incomplete_rows": int(missing.any(axis=1).sum()),
        "empty_rows": int(missing.all(axis=1).sum()),
        "rule": rule,
        "seed": seed if rule == "sample" else None,
        "out": click.format_filename(out),
    }
    share = 100 * record["missing"] / max(1, missing.size)
    lines = [
        ("data", f"{table.path}: {count(record['rows'], 'row')}, {count(record['n_columns'], 'column')}"),
        (
            "missing",
            f"{count(record['missing'], 'cell')} ({number(share, 3)} %) in {count(record['incomplete_rows'], 'row')}",
        ),
        ("filled", "by expectation" if rule == "mean" else f"by a draw, seed {seed}"),
        ("saved", str(record["out"])),
    ]
    if record["empty_rows"]:
        lines.insert(2, ("empty", f"{count(record['empty_rows'], 'row')} without any value"))
    emit("mixcoder.impute/1", record, align(lines), as_json=as_json)
