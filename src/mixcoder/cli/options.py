"""Options that several commands share, each defined once so that it means the same everywhere."""

import csv
import math
from collections.abc import Callable
from typing import Any

import click

__all__ = [
    "IntegerWithin",
    "NumberWithin",
    "columns_option",
    "debug_option",
    "engine_options",
    "force_option",
    "header_option",
    "json_option",
    "key_option",
    "out_option",
    "quiet_option",
    "reading_options",
    "seed_option",
]


class IntegerWithin(click.IntRange):
    """An integer within bounds; click calls the type "integer range", as if ranges could be given."""

    name = "integer"


class NumberWithin(click.FloatRange):
    """A number within bounds, and finite: NaN is beyond none of them."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["mixcoder.debug"] = True


def _split(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """``a,b`` as names; a name with a comma in it is quoted as in CSV."""
    if value is None:
        return None
    names = tuple(name.strip() for name in next(csv.reader([value]), []))
    if not names or not all(names):
        raise click.BadParameter("give names separated by commas, for example --columns height,width.")
    return names


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="On an error print the traceback too.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
force_option = click.option("--force", is_flag=True, help="Write over an existing output.")
columns_option = click.option(
    "--columns",
    metavar="A,B,...",
    callback=_split,
    help="The columns to use, in this order (default: all of them).",
)
key_option = click.option("--key", metavar="NAME", help="Which table of an NPZ, HDF5 or Zarr file.")
header_option = click.option(
    "--header/--no-header",
    default=None,
    help="Whether line 1 of a CSV names the columns (default: seen from its cells).",
)
seed_option = click.option(
    "--seed", type=IntegerWithin(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same result."
)


def out_option(required: bool, help: str) -> Callable[[Any], Any]:
    """``-o FILE``: where the rows go; ``-`` is CSV on stdout."""
    return click.option("-o", "--out", metavar="FILE", required=required, help=f"{help}; - is CSV on stdout.")


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--columns``, ``--header``, ``--key``: how to read a table."""
    return columns_option(header_option(key_option(command)))


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--engine``, ``--workers``, ``--scheduler``: who adds up the sums of a fit."""
    kinds = click.Choice(["threads", "serial", "processes", "dask"])
    engine = click.option(
        "--engine",
        type=kinds,
        default="threads",
        show_default=True,
        help="Who computes; the model is the same.",
    )
    workers = click.option("--workers", type=IntegerWithin(min=1), help="Processes of --engine processes.")
    scheduler = click.option(
        "--scheduler", metavar="ADDRESS", help="Of --engine dask, as in tcp://host:8786."
    )
    return engine(workers(scheduler(command)))
