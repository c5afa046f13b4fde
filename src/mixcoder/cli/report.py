"""``mixcoder report``: one page on a table, made to be read by people."""

import math
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit, number, progress
from mixcoder.cli.options import (
    IntegerWithin,
    debug_option,
    force_option,
    json_option,
    quiet_option,
    reading_options,
    seed_option,
)

__all__ = ["command"]

COVARIANCES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")

# Rows of at least so many columns, if it is a square number, are taken for images.
SQUARE = 64


@click.command("report", short_help="A page on a table: clusters, outliers, a map.")
@click.argument("data", metavar="DATA")
@click.option(
    "-o", "--out", metavar="FILE", default="report.html", show_default=True, help="Where the page goes."
)
@click.option(
    "-k", "--components", type=IntegerWithin(min=1), help="How many components (default: chosen by BIC)."
)
@click.option(
    "--most",
    type=IntegerWithin(min=1, max=100),
    help="The largest number of components to try (default: 9, up to 20 while more are better).",
)
@click.option("--covariance", type=click.Choice(COVARIANCES), help="Of the mixture (default: chosen by BIC).")
@click.option(
    "--image",
    metavar="HxW",
    help=f"Rows are images of that height and width (default: seen from a square number of columns, {SQUARE} or more).",
)
@seed_option
@reading_options
@json_option
@force_option
@quiet_option
@debug_option
def command(
    data: str,
    out: str,
    components: int | None,
    most: int | None,
    covariance: str | None,
    image: str | None,
    seed: int,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Look DATA over, choose a Gaussian mixture, and write a page: health, model and why, clusters, outliers, a map.

    Columns that are not numbers are left out, unless --columns asks for them; missing cells are integrated out.
    The page is one file that loads nothing and runs nothing.
    """
    if out == "-":
        raise click.UsageError("a page goes to a file: give --out a name.")
    target = outputs.claim(out, force=force, inputs=(data,))
    asked = _shape(image)

    from mixcoder.cli import models, tables
    from mixcoder.cli.check import count_distinct, judge
    from mixcoder.cli.columns import as_records, describe
    from mixcoder.errors import DataError

    start = time.perf_counter()
    source = tables.open_table(data, key=key, header=header)
    survey = source.survey(columns)
    described = describe(survey)
    remarks, problems, warned = judge(described)
    left_out = _left_out(described)
    if columns is None and all(c.min is None and not c.infinite for c in described):
        names = _names(list(survey.table.columns))
        raise DataError(
            f"{survey.table.path}: no column holds numbers ({names}). A report describes numbers: write categories "
            "as 0 and 1, and dates as days since one of them."
        )
    if survey.text and (columns is not None or len(left_out) == len(described)):
        source.read(columns)  # which says it as a fit does
    table = _without(survey.table, left_out)
    tables.require_finite(table, allow_missing=True)
    _require_rows(table, components)
    shape = _image_shape(table, asked)
    warned = [*(f"{problem}: left out" for problem in problems), *warned]

    import matplotlib as mpl

    mpl.use("agg")
    from mixcoder.report import Health, analyse, render

    values = table.values
    with progress(f"reading {count(len(values), 'row')}", quiet=quiet), models.about(table.path):
        found = analyse(
            values,
            table.columns,
            covariances=_covariances(covariance, shape),
            most_components=most,
            components=components,
            seed=seed,
        )
        warned += _told_of_empty(found.x)
        records = [c | {"remark": remarks.get(c["name"], "")} for c in as_records(described)]
        health = Health(
            table.path,
            records,
            len(values) - count_distinct(values),
            warned,
            _again(click.get_current_context()),
            _reading(header, key),
            table.columns if columns is not None or left_out else None,
        )
        page = render(found, health, values, shape)
    with outputs.replace_atomically(target, force=force) as draft:
        Path(draft).write_text(page, encoding="utf-8")
    best = found.selection.best
    record = {
        "data": table.path,
        "rows": len(values),
        "n_columns": values.shape[1],
        "constant_columns": list(found.constant),
        "left_out_columns": list(left_out),
        "covariance": best.settings["covariance_type"],
        "components": best.n_components,
        "bic": best.bic,
        "mean_log_density": float(found.model.score(found.x)),
        "candidates": [
            {
                "covariance": c.settings["covariance_type"],
                "components": c.n_components,
                "bic": c.bic,
                "failure": c.failure,
            }
            for c in found.selection.candidates
        ],
        "clusters": [
            {
                "component": c.number,
                "rows": c.n_rows,
                "share": c.share,
                "certainty": c.certainty,
                "features": [
                    {"name": f.name, "effect": f.effect, "mean": f.inside, "mean_elsewhere": f.outside}
                    for f in c.features
                ],
            }
            for c in found.clusters
        ],
        "outliers": [
            {
                "row": o.row,
                "log_density": o.log_density,
                "component": o.cluster,
                "column": o.name,
                "deviations": o.deviation,
            }
            for o in found.outliers
        ],
        "image": None if shape is None else list(shape),
        "warnings": [*warned, *found.warnings],
        "seed": seed,
        "seconds": time.perf_counter() - start,
        "out": click.format_filename(out),
        "bytes": target.stat().st_size,
    }
    emit("mixcoder.report/1", record, _text(record), as_json=as_json)


def _left_out(described: list[Any]) -> list[str]:
    """The columns that hold text, or nothing at all."""
    return [c.name for c in described if c.text or (c.min is None and not c.infinite)]


def _names(columns: list[str]) -> str:
    return ", ".join(columns[:5]) + (f" and {number(len(columns) - 5)} more" if len(columns) > 5 else "")


def _told_of_empty(x: Any) -> list[str]:
    """What is to be said of rows without any value in the columns that are fitted."""
    import numpy as np

    n = int(np.isnan(x).all(axis=1).sum())
    if not n:
        return []
    told = f"{count(n, 'row holds', 'rows hold')} no value at all: the fit leaves {'it' if n == 1 else 'them'} out"
    return [f"{told}, and the cluster of the largest weight counts such rows as its own"]


def _without(table: Any, names: list[str]) -> Any:
    """A table without some columns."""
    if not names:
        return table
    kept = [j for j, name in enumerate(table.columns) if name not in names]
    return replace(table, values=table.values[:, kept], columns=tuple(table.columns[j] for j in kept))


def _text(record: dict[str, Any]) -> list[str]:
    rows = [
        ("data", f"{record['data']}: {count(record['rows'], 'row')}, {count(record['n_columns'], 'column')}"),
        (
            "model",
            (
                f"{count(record['components'], 'component')}, {record['covariance']} covariances, "
                f"BIC {number(record['bic'])}"
            ),
        ),
    ]
    for cluster in record["clusters"][:10]:
        apart = ", ".join(f"{f['name']} {f['effect']:+.2f}" for f in cluster["features"][:3])
        told = f"{100 * cluster['share']:.1f} %" + (f": {apart}" if record["components"] > 1 else "")
        rows.append((f"cluster {cluster['component']}", told))
    if len(record["clusters"]) > 10:
        rows.append(("", f"and {count(len(record['clusters']) - 10, 'smaller cluster')}, on the page"))
    if record["left_out_columns"]:
        rows.insert(1, ("left out", f"no numbers: {', '.join(record['left_out_columns'][:10])}"))
    odd = ", ".join(str(o["row"]) for o in record["outliers"][:5])
    more = ", ..." if len(record["outliers"]) > 5 else ""
    rows += [
        ("outliers", f"rows {odd}{more}"),
        ("page", f"{record['out']} ({number(record['bytes'])} bytes, {record['seconds']:.1f} s)"),
    ]
    return align(rows)


def _covariances(asked: str | None, shape: tuple[int, int] | None) -> tuple[str, ...] | None:
    """The covariance types to compare; all pixels of an image have one unit, and some hardly vary."""
    if asked is not None:
        return (asked,)
    return None if shape is None else ("spherical", "tied_spherical")


def _shape(image: str | None) -> tuple[int, int] | None:
    """``28x28`` as two numbers."""
    if image is None:
        return None
    height, cross, width = image.lower().partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise click.UsageError(f"--image {image}: give height and width, for example --image 28x28.")
    return int(height), int(width)


def _image_shape(table: Any, asked: tuple[int, int] | None) -> tuple[int, int] | None:
    d = table.values.shape[1]
    if asked is not None:
        if asked[0] * asked[1] != d:
            raise click.UsageError(
                f"--image {asked[0]}x{asked[1]} has {asked[0] * asked[1]} pixels, but {table.path} has "
                f"{count(d, 'column')}."
            )
        return asked
    side = math.isqrt(d)
    return (side, side) if side * side == d and d >= SQUARE else None


def _require_rows(table: Any, components: int | None) -> None:
    from mixcoder.errors import DataError

    needed = max(2, components or 0)
    if len(table.values) < needed:
        raise DataError(
            f"{table.path} has {count(len(table.values), 'row')}: a report needs at least {needed}."
        )


def _reading(header: bool | None, key: str | None) -> dict[str, str]:
    """The options of reading as Python words."""
    given = {"header": header, "key": key}
    return {name: repr(value) for name, value in given.items() if value is not None}


def _again(ctx: click.Context) -> str:
    """The command line that makes the same page."""
    words = ["mixcoder", "report", ctx.params["data"]]
    for name, option in (
        ("out", "--out"),
        ("components", "--components"),
        ("most", "--most"),
        ("covariance", "--covariance"),
        ("image", "--image"),
        ("seed", "--seed"),
        ("key", "--key"),
    ):
        value = ctx.params[name]
        if value is not None:
            words += [option, str(value)]
    if ctx.params["columns"]:
        words += ["--columns", ",".join(ctx.params["columns"])]
    if ctx.params["header"] is not None:
        words.append("--header" if ctx.params["header"] else "--no-header")
    return shlex.join(words)
