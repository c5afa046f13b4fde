"""``mixcoder inspect``: what a model file or a table holds."""

import json
from collections.abc import Mapping
from typing import Any

import click

from mixcoder.cli.console import align, count, emit, number
from mixcoder.cli.options import debug_option, json_option, reading_options
from mixcoder.errors import ModelFileError

__all__ = ["command"]


@click.command("inspect", short_help="What a model file or a table holds.")
@click.argument("file", metavar="FILE")
@reading_options
@json_option
@debug_option
def command(
    file: str,
    columns: tuple[str, ...] | None,
    header: bool | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Print what FILE holds: the metadata of a model, or the columns of a table.

    A model file is verified, but no model is built from it.
    """
    from mixcoder.cli.stored import is_stored
    from mixcoder.cli.tables import extension

    if extension(file) is not None or is_stored(file):
        _inspect_table(file, columns, header, key, as_json)
    elif columns is not None or header is not None or key is not None:
        raise click.UsageError(
            "--columns, --header and --key are for tables, and this is read as a model file."
        )
    else:
        _inspect_model(file, as_json)


def _inspect_table(
    file: str, columns: tuple[str, ...] | None, header: bool | None, key: str | None, as_json: bool
) -> None:
    from mixcoder.cli.columns import as_records, as_text, describe
    from mixcoder.cli.tables import open_table

    survey = open_table(file, key=key, header=header).survey(columns)
    described = describe(survey)
    n, d = survey.table.values.shape
    record = {
        "data": survey.table.path,
        "rows": n,
        "n_columns": d,
        "named": survey.table.named,
        "columns": as_records(described),
    }
    remarks = {
        c.name: "text" if c.text else f"{number(c.missing)} missing" for c in described if c.text or c.missing
    }
    text = [f"{survey.table.path}: {count(n, 'row')}, {count(d, 'column')}", "", *as_text(described, remarks)]
    emit("mixcoder.inspect.table/1", record, text, as_json=as_json)


def _inspect_model(file: str, as_json: bool) -> None:
    from mixcoder import modelfile

    shown = click.format_filename(file)
    try:
        about = modelfile.inspect(file)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ModelFileError(f"{shown}: {reason}.") from error
    arrays = {name: {"dtype": a["dtype"], "shape": list(a["shape"])} for name, a in about["arrays"].items()}
    facts = [
        ("kind", str(about["kind"])),
        ("written by", f"mixcoder {about['library_version']} (format {about['format_version']})"),
        ("size", f"{number(about['n_bytes'])} bytes"),
        ("sha256", str(about["sha256"])),
        *_flatten(about["metadata"]),
    ]
    text = [f"{shown}: a model", "", *align(facts), ""]
    text += align(
        [("array", "dtype", "shape")]
        + [(name, a["dtype"], " x ".join(map(str, a["shape"])) or "scalar") for name, a in arrays.items()]
    )
    emit("mixcoder.inspect.model/1", {**about, "arrays": arrays, "file": shown}, text, as_json=as_json)


def _flatten(metadata: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested metadata as (dotted name, short value) pairs; what is empty is left out, long lists are counted."""
    pairs: list[tuple[str, str]] = []
    for name, value in metadata.items():
        if isinstance(value, Mapping) and set(value) == {"value"}:  # how the file marks a plain parameter
            pairs += _flatten({name: value["value"]}, prefix)
        elif value is None or value == []:
            continue
        elif isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list) and len(value) > 8:
            pairs.append((prefix + name, f"{len(value)} values, last {json.dumps(value[-1])[:60]}"))
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            pairs.append((prefix + name, text if len(text) <= 80 else text[:77] + "..."))
    return pairs
