"""``mixcoder fit``: rows in, model file out."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mixcoder.cli import outputs
from mixcoder.cli.console import align, count, emit, number, status
from mixcoder.cli.options import (
    IntegerWithin,
    NumberWithin,
    debug_option,
    engine_options,
    force_option,
    json_option,
    quiet_option,
    reading_options,
    seed_option,
)

__all__ = ["command"]

COVARIANCES = ("full", "tied", "diag", "spherical", "tied_diag", "tied_spherical")


@click.command("fit", short_help="Rows to a model file.")
@click.argument("data", metavar="DATA...", nargs=-1, required=True)
@click.option("-k", "--components", type=IntegerWithin(min=1), required=True, help="How many components.")
@click.option(
    "--model",
    default="gaussian",
    show_default=True,
    help="gaussian, kmeans, or any family of mixcoder.Mixture: bernoulli, poisson, categorical, ...",
)
@click.option("--covariance", type=click.Choice(COVARIANCES), help="Of --model gaussian (default: full).")
@click.option(
    "-o", "--out", metavar="FILE", default="model.mixcoder", show_default=True, help="Where the model goes."
)
@seed_option
@click.option("--max-iter", type=IntegerWithin(min=1), help="Stop after so many iterations.")
@click.option("--tol", type=NumberWithin(min=0.0), help="Stop when the bound rises by less.")
@click.option("--n-init", type=IntegerWithin(min=1), help="Starts, of which the best is kept.")
@click.option(
    "--temperature",
    type=NumberWithin(min=0.0),
    help="Of the codes: 1 is EM, 0 is hard EM, between and above softargmax (default: 1).",
)
@click.option(
    "--weights", metavar="COLUMN", help="The column that says how much each row counts; it is not fitted."
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="Where the state of the fit goes, so that it can go on after a crash.",
)
@click.option(
    "--checkpoint-every",
    metavar="SECONDS",
    type=NumberWithin(min=0.0),
    default=60.0,
    show_default=True,
    help="How often.",
)
@click.option("--resume", is_flag=True, help="Go on from --checkpoint, where there is one.")
@engine_options
@reading_options
@json_option
@force_option
@quiet_option
@debug_option
def command(
    data: tuple[str, ...],
    components: int,
    model: str,
    covariance: str | None,
    out: str,
    seed: int,
    max_iter: int | None,
    tol: float | None,
    n_init: int | None,
    temperature: float | None,
    weights: str | None,
    checkpoint: str | None,
    checkpoint_every: float,
    resume: bool,
    engine: str,
    workers: int | None,
    scheduler: str | None,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Fit a mixture to the rows of DATA, print a summary and save the model.

    Several files, a folder or a quoted pattern ("day-*.parquet"), and HDF5, Zarr or Arrow files, are read block by
    block, and may be larger than memory.
    """
    if out == "-":
        raise click.UsageError("a model goes to a file: give --out a name.")
    target = outputs.claim(out, force=force, inputs=data)
    if checkpoint is not None and outputs.claim(checkpoint, force=True, inputs=data) == target:
        raise click.UsageError(
            f"{click.format_filename(out)} is --out and --checkpoint: choose another name."
        )

    from mixcoder.cli import models, streams, tables
    from mixcoder.estimators._callbacks import watched

    settings = {
        "covariance_type": covariance,
        "random_state": seed,
        "max_iter": max_iter,
        "tol": tol,
        "n_init": n_init,
        "temperature": temperature,
    }
    estimator = models.build(model, components, settings)
    if resume and checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint FILE, the state to go on from.")
    if streams.are_streamed(data):
        rows = streams.open_rows(data, columns, weights=weights, header=header, key=key)
        sample_weight, n_rows, told = None, rows.n_rows, streams.shown(data)
        names = tuple(rows.names or (f"x{j}" for j in range(rows.n_features)))
        named = False  # the source has brought its names itself
    else:
        table, sample_weight = _read(tables.open_table(data[0], key=key, header=header), columns, weights)
        tables.require_finite(table, allow_missing=models.allows_missing(estimator))
        rows, n_rows, told, names, named = (
            table.values,
            len(table.values),
            table.path,
            table.columns,
            table.named,
        )
    _require_rows(told, n_rows, components)

    start = time.perf_counter()
    task = f"fitting {count(components, 'component')} to {count(n_rows, 'row')}"
    state = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "resume": resume}
    with (
        _told_of_checkpoint(checkpoint),
        status(task, quiet=quiet) as say,
        watched(lambda words: say(f"{task}: {words}")),
        models.about(told),
        streams.engine_of(engine, workers, scheduler),
    ):
        estimator.fit(rows, sample_weight=sample_weight, **state)
    seconds = time.perf_counter() - start
    if named:
        # What scikit-learn does with a data frame's names; the rows travel as an array, without pandas.
        import numpy as np

        estimator.feature_names_in_ = np.asarray(names, dtype=object)

    with outputs.replace_atomically(target, force=force) as draft:
        estimator.save(draft)
    record = {
        "data": told,
        "rows": n_rows,
        "n_columns": len(names),
        "columns": list(names),
        "model": model,
        "estimator": type(estimator).__name__,
        "covariance": estimator.get_params().get("covariance_type"),
        "components": components,
        "seed": seed,
        "seconds": seconds,
        "out": click.format_filename(out),
        "bytes": target.stat().st_size,
        **summarise(estimator, rows, sample_weight),
    }
    emit("mixcoder.fit/1", record, _text(record), as_json=as_json)


@contextmanager
def _told_of_checkpoint(path: str | None) -> Iterator[None]:
    """Where the block ends before its time, say which file the fit can go on from."""
    before = _written_at(path)
    try:
        yield
    except BaseException as error:
        if path is not None and _written_at(path) != before and not isinstance(error, Exception):
            click.echo(
                f"\nmixcoder: the state of the fit is kept in {click.format_filename(path)}; the same command with "
                "--resume goes on from it.",
                err=True,
            )
        raise


def _written_at(path: str | None) -> int | None:
    """When a file was last written; None if it is not there."""
    return os.stat(path).st_mtime_ns if path is not None and os.path.exists(path) else None


def summarise(model: Any, rows: Any, sample_weight: Any = None) -> dict[str, Any]:
    """What a fit reports about a fitted model on its own rows."""
    import numpy as np

    from mixcoder.cli.models import has_density, n_components

    density = has_density(model)
    if density:
        shares = np.asarray(model.weights_, dtype=float)
    else:
        shares = np.bincount(model.labels_, weights=sample_weight, minlength=n_components(model))
        shares = shares / shares.sum()
    n_rows = rows.n_rows if hasattr(rows, "n_rows") else len(rows)
    total = n_rows if sample_weight is None else float(np.sum(sample_weight))
    return {
        "bound_per_row": float(model.lower_bound_) if density else None,
        "inertia_per_row": None if density else float(model.inertia_) / total,
        "mean_log_density": float(model.score(rows)) if density else None,
        "bic": float(model.bic(rows)) if density else None,
        "rate_bits": float(model.rate(rows)),
        "distortion": float(model.distortion(rows)),
        "iterations": int(model.n_iter_),
        "converged": bool(model.converged_),
        "stop_reason": str(model.stop_reason_),
        "weights": shares.tolist(),
    }


def _read(source: Any, columns: tuple[str, ...] | None, weights: str | None) -> tuple[Any, Any]:
    """The rows, and the weights apart from them (None if no column holds any)."""
    from mixcoder.errors import DataError

    if weights is None:
        return source.read(columns), None
    if columns is not None and weights in columns:
        raise click.UsageError(f"column {weights!r} is in --columns and is --weights: choose one.")
    chosen = columns or tuple(name for name in source.columns if name != weights)
    if not chosen:
        raise DataError(f"{source.path} has no column but the weights.")
    table = source.read(chosen)
    counts = source.read([weights]).values[:, 0].astype(float)
    wrong = [row for row, value in enumerate(counts.tolist()) if not 0 <= value < float("inf")]
    if wrong:
        raise DataError(
            f"{source.path} row {wrong[0]} (from 0), column {weights!r}: {counts[wrong[0]]} is no weight; "
            "a weight is a finite number, 0 or more."
        )
    if not counts.any():
        raise DataError(f"{source.path} column {weights!r} is all 0: no row counts.")
    return table, counts


def _require_rows(path: str, n_rows: int, components: int) -> None:
    from mixcoder.errors import DataError

    if n_rows < max(2, components):
        needed = count(max(2, components), "row")
        raise DataError(
            f"{path} has {count(n_rows, 'row')}, but {count(components, 'component')} "
            f"need at least {needed}: use a smaller -k."
        )


def _text(record: dict[str, Any]) -> list[str]:
    weights = record["weights"]
    shown = " ".join(f"{weight:.3f}" for weight in sorted(weights, reverse=True)[:10])
    rest = f" and {len(weights) - 10} smaller" if len(weights) > 10 else ""
    kind = f", {record['covariance']} covariances" if record["covariance"] else ""
    rows = [
        ("data", f"{record['data']}: {count(record['rows'], 'row')}, {count(record['n_columns'], 'column')}"),
        ("model", f"{record['model']}, {count(record['components'], 'component')}{kind}"),
    ]
    if record["bound_per_row"] is None:
        rows.append(("inertia", f"{number(record['inertia_per_row'])} per row"))
    else:
        rows.append(("bound", f"{number(record['bound_per_row'])} nats per row"))
        rows.append(
            (
                "log-density",
                f"{number(record['mean_log_density'])} nats per row (BIC {number(record['bic'])})",
            )
        )
    rows += [
        ("rate", f"{number(record['rate_bits'], 4)} bits per row"),
        ("distortion", f"{number(record['distortion'], 4)}, squared error per row"),
        (
            "iterations",
            f"{record['iterations']} in {record['seconds']:.2f} s; stopped: {record['stop_reason']}",
        ),
        ("weights", shown + rest),
        ("saved", f"{record['out']} ({number(record['bytes'])} bytes)"),
    ]
    return align(rows)
