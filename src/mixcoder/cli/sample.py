"""``mixcoder sample``: rows that a model generates."""

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit
from mixcoder.cli.options import (
    IntegerWithin,
    debug_option,
    force_option,
    json_option,
    out_option,
    seed_option,
)

__all__ = ["command"]


@click.command("sample", short_help="Rows that a model generates.")
@click.argument("model", metavar="MODEL")
@click.option("-n", "--rows", type=IntegerWithin(min=1), default=1000, show_default=True, help="How many.")
@out_option(True, "Where the rows go")
@click.option("--codes", metavar="FILE", help="Where the component of each row goes.")
@seed_option
@json_option
@force_option
@debug_option
def command(
    model: str, rows: int, out: str, codes: str | None, seed: int, as_json: bool, force: bool
) -> None:
    """Draw rows from the model: a component by its weight, then a row from the component."""
    if codes == "-":
        raise click.UsageError("--codes wants a file: stdout is for the rows.")
    target = outputs.claim_table(out, force=force, as_json=as_json, inputs=(model,))
    codes_target = None
    if codes is not None:
        codes_target = outputs.claim_table(codes, force=force, inputs=(model,))
        if codes_target == target:
            raise click.UsageError("-o and --codes name the same file.")

    import numpy as np

    from mixcoder.cli import models, tables

    fitted = models.load(model)
    if not models.has_density(fitted):
        raise click.UsageError(
            f"{type(fitted).__name__} has no density to sample from: fit --model gaussian instead."
        )
    drawn, labels = fitted.set_params(random_state=seed).sample(rows)
    names = models.column_names(fitted)
    if codes is not None and codes_target is not None:
        with outputs.replace_atomically(codes_target, force=force) as draft:
            kind = tables.extension(codes)
            tables.write_table(draft, np.asarray(labels), ["component"], kind=kind, key="codes")
    if target is None:
        tables.write_table("-", np.asarray(drawn), names)
        return
    with outputs.replace_atomically(target, force=force) as draft:
        tables.write_table(draft, np.asarray(drawn), names, kind=tables.extension(out))
    record = {
        "rows": rows,
        "n_columns": len(names),
        "columns": list(names),
        "seed": seed,
        "out": click.format_filename(out),
        "codes": None if codes is None else click.format_filename(codes),
    }
    lines = [("saved", f"{record['out']}: {count(rows, 'row')}, {count(len(names), 'column')}")]
    if codes is not None:
        lines.append(("codes", str(record["codes"])))
    emit("mixcoder.sample/1", record, align(lines), as_json=as_json)
