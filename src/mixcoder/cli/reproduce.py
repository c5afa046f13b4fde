"""``mixcoder reproduce``: every claim of the note that this library comes from, recomputed and judged."""

import difflib
import textwrap
import time
from typing import Any

import click

from mixcoder.cli.console import count, emit, progress
from mixcoder.cli.options import debug_option, json_option, quiet_option, seed_option

__all__ = ["command", "figure"]

WIDTH = 100


@click.command("reproduce", short_help="The note's claims, recomputed.")
@click.option(
    "--claim", "names", multiple=True, metavar="ID", help="Only this claim, by its id; may be repeated."
)
@seed_option
@json_option
@quiet_option
@debug_option
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], seed: int, as_json: bool, quiet: bool) -> None:
    """Recompute every claim of the note CATSMILE-1013, on which this library is built, and say what became of it.

    A claim holds, holds under a condition, or fails, with a counter-example; the number says by how much. The seed
    chooses other random models; no number depends on which other claims are asked for. Exits with 6 if a number is not
    what its verdict needs.
    """
    from mixcoder.cli.claims import HEADINGS, claims, judge

    start = time.perf_counter()
    findings: list[dict[str, Any]] = []
    every = claims()
    known = [claim.__name__ for claim in every]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.3)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise click.BadParameter(
                f"no claim has the id {name!r}{hint}. --json lists all.", param_hint="--claim"
            )
    chosen = [claim for claim in every if not names or claim.__name__ in names]
    with progress("recomputing", len(chosen), quiet=quiet) as advance:
        for name, finding in judge(chosen, seed):
            findings.append({"id": name, **vars(finding), "heading": HEADINGS[finding.section]})
            advance(1)
    order = list(HEADINGS)
    findings.sort(key=lambda finding: order.index(finding["section"]))
    wrong = [finding["claim"] for finding in findings if not finding["confirmed"]]
    record: dict[str, Any] = {
        "note": "CATSMILE-1013",
        "seed": seed,
        "findings": findings,
        "not_confirmed": wrong,
        "ok": not wrong,
        "seconds": time.perf_counter() - start,
    }
    emit("mixcoder.reproduce/1", record, _text(record), as_json=as_json)
    if wrong:
        ctx.exit(6)


def _text(record: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    section = None
    for finding in record["findings"]:
        if finding["section"] != section:
            section = finding[
                "section"
            ]  # the note's own heading is in the JSON: not every terminal writes Chinese
            lines += ["", section] if lines else [section]
        lines.append(f"  {finding['verdict']:<10}  {finding['claim']}  [{finding['id']}]")
        # A condition completes "holds when", a counter-example "fails"; the number stands under both.
        told = [finding["because"]] if finding["because"] else []
        told.append(f"{figure(finding['number'])}: {finding['meaning']}")
        if not finding["confirmed"]:
            told.append("NOT CONFIRMED: this number is not what the verdict needs")
        for line in told:
            lines += textwrap.wrap(line, WIDTH, initial_indent=" " * 14, subsequent_indent=" " * 16)
    verdicts = [finding["verdict"] for finding in record["findings"]]
    hold, when, fail = (verdicts.count(verdict) for verdict in ("holds", "holds when", "fails"))
    lines += ["", f"{count(len(verdicts), 'claim')}: {hold} hold, {when} hold under a condition, {fail} fail"]
    if record["not_confirmed"]:
        lines.append(f"{count(len(record['not_confirmed']), 'number')} not as expected")
    else:
        lines.append("ok: every number is what its verdict needs")
    return lines


def figure(value: float) -> str:
    """A number with the digits that matter: whole ones whole, tiny ones as powers of ten.

    Examples
    --------
    >>> figure(0.0), figure(0.1352902), figure(7.12e-15), figure(4.0)
    ('0', '0.13529', '7.1e-15', '4')
    """
    if value == 0 or float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.5g}"
