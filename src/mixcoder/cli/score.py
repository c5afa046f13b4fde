"""``mixcoder score``: how well a model explains rows."""

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


@click.command("score", short_help="How well a model explains rows.")
@click.argument("model", metavar="MODEL")
@click.argument("data", metavar="DATA")
@out_option(False, "Where each row's score goes (default: print the mean only)")
@reading_options
@json_option
@force_option
@quiet_option
@debug_option
def command(
    model: str,
    data: str,
    out: str | None,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Print the mean log-density of the rows of DATA in nats, the rate of their codes and their distortion.

    With -o, each row's log-density is written; of a k-means model, which has no density, its squared error.
    """
    target = None
    if out is not None:
        target = outputs.claim_table(out, force=force, as_json=as_json, inputs=(model, data))

    import numpy as np

    from mixcoder.cli import models, tables

    fitted = models.load(model)
    table = models.rows_for(fitted, tables.open_table(data, key=key, header=header), columns)
    density = models.has_density(fitted)
    n = len(table.values)
    parts: list[np.ndarray] = []
    bits = squares = 0.0
    with progress("scoring", n, quiet=quiet) as advance, models.about(table.path):
        for block in models.blocks(table.values):
            errors = ((block - np.asarray(fitted.reconstruct(block))) ** 2).sum(axis=1)
            parts.append(np.asarray(fitted.score_samples(block)) if density else errors)
            bits += float(fitted.rate(block)) * len(block)
            squares += float(fitted.distortion(block)) * len(block)
            advance(len(block))
    scores = np.concatenate(parts)
    name = "log_density" if density else "squared_error"
    if out is not None:
        if target is None:
            tables.write_table("-", scores, [name])
            return
        with outputs.replace_atomically(target, force=force) as draft:
            tables.write_table(draft, scores, [name], kind=tables.extension(out), key="scores")
    lowest = int(scores.argmin() if density else scores.argmax())
    record = {
        "data": table.path,
        "rows": n,
        "score": name,
        "mean_log_density": float(scores.mean()) if density else None,
        "rate_bits": bits / n,
        "distortion": squares / n,
        "worst_row": lowest,
        "worst_score": float(scores[lowest]),
        "out": None if out is None else click.format_filename(out),
    }
    lines = [("data", f"{table.path}: {count(n, 'row')}")]
    if density:
        lines.append(("log-density", f"{number(record['mean_log_density'])} nats per row"))
    lines += [
        ("rate", f"{number(bits / n, 4)} bits per row"),
        ("distortion", f"{number(squares / n, 4)}, squared error per row"),
        ("worst", f"row {lowest} (from 0), {name.replace('_', ' ')} {number(record['worst_score'])}"),
    ]
    if out is not None:
        lines.append(("saved", click.format_filename(out)))
    emit("mixcoder.score/1", record, align(lines), as_json=as_json)
