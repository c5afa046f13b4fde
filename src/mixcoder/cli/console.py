"""What the program says and where: results on stdout, everything else on stderr."""

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

__all__ = [
    "align",
    "count",
    "emit",
    "number",
    "open_standard_streams",
    "progress",
    "status",
    "stdout_is_closed",
    "warnings_as_lines",
]


def emit(schema: str, record: Mapping[str, Any], text: Iterable[str], *, as_json: bool) -> None:
    """Print a result: as one JSON object with sorted keys and its schema's name, or as lines of text.

    Numbers that are not finite, which JSON cannot say, become ``null``.
    """
    if as_json:
        payload = _plain({"schema": schema, **record})
        click.echo(json.dumps(payload, sort_keys=True, indent=2, allow_nan=False))
    else:
        for line in text:
            click.echo(line)


def number(value: float | None, digits: int = 6) -> str:
    """A number for people: ``digits`` significant digits, thousands grouped, integers whole.

    Examples
    --------
    >>> number(1437), number(60000), number(0.1 + 0.2), number(None)
    ('1437', '60 000', '0.3', '-')
    """
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}".replace(",", " ")
        return text.replace(" ", "") if abs(value) < 10_000 else text
    return f"{value:.{digits}g}"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """A number of things, in words that agree with it.

    Examples
    --------
    >>> count(1, "row"), count(60000, "missing cell"), count(0, "entry", "entries")
    ('1 row', '60 000 missing cells', '0 entries')
    """
    return f"{number(n)} {noun if n == 1 else plural or noun + 's'}"


def align(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Rows of cells as lines of text whose columns line up, two spaces apart.

    Examples
    --------
    >>> align([("rows", "150"), ("columns", "4")], right=[1])
    ['rows     150', 'columns    4']
    """
    if not rows:
        return []
    widths = [max(len(row[j]) for row in rows if j < len(row)) for j in range(max(len(row) for row in rows))]
    flush_right = set(right)
    return [
        "  ".join(
            cell.rjust(widths[j]) if j in flush_right else cell.ljust(widths[j]) for j, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


@contextmanager
def progress(task: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while the block runs; yields ``advance(n)``. Silent unless stderr is a terminal.

    Without a ``total`` it shows that work goes on, and for how long. NO_COLOR and TERM=dumb are respected (by rich).
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = [SpinnerColumn(), TextColumn("{task.description}")]
    if total is not None:
        columns += [BarColumn(bar_width=30), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        handle = bar.add_task(task, total=total)
        yield lambda done: bar.advance(handle, done)


@contextmanager
def status(task: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A line on stderr while the block runs, with the time it takes; yields ``say(words)``, which changes the words.

    Silent unless stderr is a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda words: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as line:
        handle = line.add_task(task, total=None)
        yield lambda words: line.update(handle, description=words)


_was_closed: set[str] = set()


def open_standard_streams() -> None:
    """Put nothing in the place of standard streams that are closed, as cron and daemons leave them.

    Without it Python has no stream to write to, and the first file opened gets the descriptor of one: what is meant
    for stderr would go into it.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        _was_closed.add(name)
        nothing = os.open(os.devnull, os.O_RDWR)
        if nothing != descriptor and not _is_open(descriptor):
            os.dup2(nothing, descriptor)
            os.close(nothing)
            nothing = descriptor
        setattr(sys, name, os.fdopen(nothing, mode, encoding="utf-8"))


def stdout_is_closed() -> bool:
    """Whether whoever called the program has closed its stdout: rows that are to go there would be lost."""
    return "stdout" in _was_closed


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within the block a ``UserWarning`` (which all of ours and scikit-learn's are) is one line on stderr."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        click.echo(f"mixcoder: warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        if not sys.warnoptions:  # python -W ... has the last word
            warnings.simplefilter("default", UserWarning)
        # The commands match columns by name themselves, and then pass plain arrays.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        warnings.showwarning = show
        yield


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types: NumPy scalars and arrays unpacked, tuples as lists, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)
