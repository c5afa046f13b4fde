"""What every section of the page is made of: tables, bars, pictures, numbers."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[int] = (), raw: Sequence[int] = ()
) -> str:
    """Return a table; columns in ``text`` are set to the left, those in ``raw`` are markup already."""

    def cell(tag: str, j: int, content: str) -> str:
        mark = ' class="text"' if j in text else ""
        return f"<{tag}{mark}>{content if j in raw and tag == 'td' else escape(str(content))}</{tag}>"

    head = "".join(cell("th", j, name) for j, name in enumerate(heads))
    body = "\n".join(
        "<tr>" + "".join(cell("td", j, content) for j, content in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def bar(effect: float) -> str:
    """Return a bar as long as an effect is large, hatched where the cluster has less."""
    length = min(abs(effect), 6.0) * 1.2
    side = "" if effect >= 0 else " less"
    return f'<span class="bar{side}" style="width:{length:.2f}rem"></span>'


def figure(display: Any, alt: str, caption: str) -> str:
    """Return a picture as part of the page; its figure is closed.

    A name that the font of pictures cannot draw is no warning: the page itself has it.
    """
    from matplotlib import pyplot as plt

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        display.figure_.savefig(
            stream, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None}
        )
    plt.close(display.figure_)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def number(value: float | None) -> str:
    """Return a number for people, as the command line writes it."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}".replace(",", " ")
        return text.replace(" ", "") if abs(value) < 10_000 else text
    return f"{value:.5g}" if abs(value) < 1e4 else f"{value:,.1f}".replace(",", " ")


__all__ = ["bar", "figure", "number", "table"]
