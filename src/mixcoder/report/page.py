"""The page: HTML that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from mixcoder import __version__, plot
from mixcoder.report.analysis import Analysis

# As many columns of the table as the page lists.
_LISTED = 40

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .7rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .5rem 0; }
.lead { color: #555; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1.4rem 0; padding: 0; }
.facts div { margin: 0; }
.facts dt { font-size: .8rem; color: #666; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0; }
th, td { text-align: right; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid #eee; }
td { font-variant-numeric: tabular-nums; }
th { color: #666; font-weight: 500; }
th:first-child, td:first-child, .text { text-align: left; }
.wide { overflow-x: auto; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #666; }
pre { background: #f5f5f5; padding: .9rem 1rem; overflow-x: auto; font-size: .82rem; line-height: 1.45; }
.bar { display: inline-block; height: .62rem; background: #0072B2; vertical-align: baseline; }
.bar.less { background: repeating-linear-gradient(45deg, #E69F00 0 3px, #fff 3px 5px); outline: 1px solid #E69F00; }
.warning { border-left: 3px solid #E69F00; padding-left: .8rem; }
nav a { margin-right: 1rem; color: #0060a0; }
footer { margin-top: 3rem; font-size: .85rem; color: #666; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Health:
    """What was seen of a table before any fit.

    Parameters
    ----------
    path : str
        What the table is called.
    columns : sequence of mapping
        ``name``, ``dtype``, ``min``, ``max``, ``mean``, ``std`` and ``remark`` of each.
    n_duplicates : int
        Rows that repeat an earlier one.
    warnings : sequence of str
    reading : mapping of str to str
        The options by which it was read, as words of the command line.
    """

    path: str
    columns: Sequence[Mapping[str, Any]]
    n_duplicates: int = 0
    warnings: Sequence[str] = ()
    command: str = ""
    reading: Mapping[str, str] = field(default_factory=dict)


def render(
    analysis: Analysis, health: Health, values: np.ndarray, image: tuple[int, int] | None = None
) -> str:
    """Return the page.

    Parameters
    ----------
    analysis : Analysis
    health : Health
    values : ndarray, shape (n, d)
        All columns of the table, also those that were left out of the fit.
    image : (int, int), optional
        Height and width of rows that are images.
    """
    sections = [
        ("health", "The data", _health(analysis, health)),
        ("model", "The model, and why", _model(analysis)),
        ("map", "Map", _map(analysis)),
        ("clusters", "Clusters", _clusters(analysis)),
        ("outliers", "Outliers", _outliers(analysis)),
    ]
    if image is not None:
        sections.append(("images", "Reconstructions", _images(analysis, values, image)))
    sections.append(("code", "Code to reproduce", _code(analysis, health)))
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections)
    body = "\n".join(
        f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{content}\n</section>'
        for name, title, content in sections
    )
    n, d = values.shape
    best = analysis.selection.best
    facts = [
        ("rows", _number(n)),
        ("columns", _number(d)),
        ("clusters", str(len(analysis.clusters))),
        ("covariance", str(best.settings["covariance_type"])),
        ("BIC", _number(best.bic)),
        ("log-density, nats per row", _number(best.log_likelihood / analysis.n_selection_rows)),
    ]
    head = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(told)}</dd></div>" for name, told in facts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(health.path)}: report</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(health.path)}</h1>
<p class="lead">{escape(_lead(analysis))}</p>
<dl class="facts">{head}</dl>
<nav>{links}</nav>
</header>
<main>
{body}
</main>
<footer>Made by mixcoder {escape(__version__)}. This page loads nothing and runs nothing.</footer>
</body>
</html>
"""


def _lead(analysis: Analysis) -> str:
    k = len(analysis.clusters)
    if k == 1:
        return "One cloud describes these rows best: they fall into no clusters."
    shares = ", ".join(f"{100 * c.share:.0f} %" for c in analysis.clusters[:8])
    return f"These rows fall into {k} clusters, of {shares}{' and smaller' if k > 8 else ''} of the rows."


# Sections


def _health(analysis: Analysis, health: Health) -> str:
    parts = [f'<p class="warning">{escape(text)}</p>' for text in health.warnings]
    if not parts:
        parts.append("<p>Nothing stands in the way of a fit: no cell is missing or infinite.</p>")
    n = len(analysis.x)
    if health.n_duplicates:
        parts.append(f"<p>{_number(health.n_duplicates)} of {_number(n)} rows repeat an earlier one.</p>")
    if analysis.constant:
        shown = ", ".join(analysis.constant[:10]) + (", ..." if len(analysis.constant) > 10 else "")
        parts.append(f"<p>Left out of the fit, the same in every row: {escape(shown)}.</p>")
    listed = list(health.columns)[:_LISTED]
    rows = [
        (
            c["name"],
            c["dtype"],
            *(_number(c[key]) for key in ("min", "max", "mean", "std")),
            c.get("remark", ""),
        )
        for c in listed
    ]
    parts.append(_table(("column", "type", "least", "largest", "mean", "std", "remark"), rows, text=(1, 6)))
    if len(health.columns) > _LISTED:
        parts.append(f"<p>... and {_number(len(health.columns) - _LISTED)} more columns.</p>")
    return "\n".join(parts)


def _model(analysis: Analysis) -> str:
    selection = analysis.selection
    best, tried = selection.best, selection.candidates
    others = [c for c in selection.ranked[1:] if c.failure is None]
    failed = [c for c in tried if c.failure is not None]
    text = (
        f"Of {len(tried)} Gaussian mixtures the one with the least BIC was chosen: {best.label()}. BIC weighs how "
        "well rows are explained against the number of parameters; a difference of 10 is strong evidence."
    )
    if others:
        text += f" The next best, {others[0].label()}, is {_number(others[0].bic - best.bic)} behind."
    parts = [f"<p>{escape(text)}</p>"]
    sizes = {c.n_components for c in tried}
    if len(sizes) > 1 and best.n_components == max(sizes):
        parts.append(
            f'<p class="warning">{best.n_components} components are the most that were tried: more may be better.</p>'
        )
    if analysis.n_selection_rows < len(analysis.x):
        rows = f"{_number(analysis.n_selection_rows)} rows drawn at random"
        parts.append(f"<p>Models were compared on {rows}; the chosen one was then fitted to all.</p>")
    if failed:
        reasons = "; ".join(f"{c.label()}: {c.failure}" for c in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        parts.append(f"<p>Not to be chosen: {escape(reasons + more)}.</p>")
    parts += [f'<p class="warning">{escape(text)}</p>' for text in analysis.warnings]
    parts.append(
        _figure(
            plot.SelectionDisplay.from_selection(selection),
            "BIC of every model tried, by number of components",
            "Less is better; the ring is the model chosen.",
        )
    )
    rows = [
        (
            c.label(),
            _number(c.n_parameters),
            _number(c.log_likelihood),
            _number(c.bic),
            _number(c.bic - best.bic),
            _number(c.icl),
        )
        for c in selection.ranked[:5]
        if c.failure is None
    ]
    parts.append(_table(("model", "parameters", "log-likelihood", "BIC", "behind", "ICL"), rows))
    return "\n".join(parts)


def _map(analysis: Analysis) -> str:
    if analysis.x.shape[1] == 1:
        display: Any = plot.DensityDisplay.from_estimator(analysis.model, analysis.x)
        display.ax_.set_xlabel(analysis.columns[0])
        return _figure(
            display, "Density along the only column", "The density of the mixture and of each component."
        )
    display = plot.EllipseDisplay.from_estimator(analysis.model, analysis.x)
    if analysis.x.shape[1] == 2:
        display.ax_.set_xlabel(analysis.columns[0])
        display.ax_.set_ylabel(analysis.columns[1])
        plane = "Both columns."
    else:
        plane = "The plane along which the rows spread most, each column in units of its standard deviation."
    caption = f"{plane} Each ellipse holds 90 % of its component; shades hold 50, 90 and 99 % of the mixture."
    return _figure(display, "Rows and components on a plane", caption)


def _clusters(analysis: Analysis) -> str:
    parts = [
        (
            "<p>What sets each cluster apart: the difference of its mean from that of all other rows, in standard "
            "deviations within the two (0.2 is small, 0.5 medium, 0.8 large).</p>"
        ),
    ]
    for c in analysis.clusters:
        parts.append(
            f"<h3>Cluster {c.number}: {_number(c.n_rows)} rows, {100 * c.share:.1f} %, "
            f"mean certainty {100 * c.certainty:.0f} %</h3>"
        )
        if len(analysis.clusters) == 1:
            parts.append("<p>The only one: there is nothing to compare it with.</p>")
            continue
        rows = [
            (f.name, _bar(f.effect), f"{f.effect:+.2f}", _number(f.inside), _number(f.outside))
            for f in c.features
        ]
        heads = ("column", "", "effect", "mean here", "mean elsewhere")
        parts.append(_table(heads, rows, text=(1,), raw=(1,)))
    return "\n".join(parts)


def _outliers(analysis: Analysis) -> str:
    rows = [
        (str(o.row), f"{o.log_density:.2f}", str(o.cluster), o.name, _number(o.value), f"{o.deviation:+.1f}")
        for o in analysis.outliers
    ]
    median = float(np.median(np.asarray(analysis.model.score_samples(analysis.x), dtype=np.float64)))
    text = (
        f"The rows of lowest log-density, in nats (the median is {median:.2f}), with the column that lies "
        "farthest from the mean of its cluster, in standard deviations of the cluster. Rows count from 0."
    )
    heads = ("row", "log-density", "cluster", "farthest column", "value", "deviations")
    return f"<p>{escape(text)}</p>\n" + _table(heads, rows, text=(3,))


def _images(analysis: Analysis, values: np.ndarray, shape: tuple[int, int]) -> str:
    model, kept = analysis.model, analysis.kept

    def whole(rows: Any) -> np.ndarray:
        """Rows with the columns that were left out, which are the same everywhere."""
        full = np.tile(values[0].astype(np.float64), (len(rows), 1))
        full[:, kept] = rows
        return full.reshape(-1, *shape)

    prototypes = plot.PrototypeDisplay(
        prototypes=whole(model.means_), weights=np.asarray(model.weights_)
    ).plot()
    chosen = np.linspace(0, len(values) - 1, min(12, len(values))).astype(int)
    left = plot.ReconstructionDisplay(
        originals=whole(analysis.x[chosen]), reconstructions=whole(model.reconstruct(analysis.x[chosen]))
    ).plot()
    rate, distortion = model.rate(analysis.x), model.distortion(analysis.x)
    text = f"A code takes {rate:.2f} bits a row and leaves a squared error of {_number(distortion)} a row."
    return (
        f"<p>{escape(text)}</p>\n"
        + _figure(
            prototypes,
            "The mean image of each component",
            "What each component generates, the heaviest first.",
        )
        + _figure(
            left, "Images and their reconstructions", "Some rows, what is left of them, and the difference."
        )
    )


def _code(analysis: Analysis, health: Health) -> str:
    best = analysis.selection.best
    drop = ""
    if analysis.constant:
        drop = "\nX = X[:, np.ptp(X, axis=0) > 0]  # constant columns say nothing"
    options = "".join(f", {name}={value}" for name, value in health.reading.items())
    loader = f"open_table({health.path!r}{options}).read().values"
    snippet = f"""import numpy as np

import mixcoder
from mixcoder.cli.tables import open_table

X = {loader}{drop}
model = mixcoder.GaussianMixture(
    n_components={best.n_components},
    covariance_type={best.settings["covariance_type"]!r},
    n_init={analysis.model.n_init},
    random_state={analysis.model.random_state},
).fit(X)
labels = model.predict(X)
odd = np.argsort(model.score_samples(X))[:{len(analysis.outliers)}]
"""
    command = f"<p>This page again:</p>\n<pre>{escape(health.command)}</pre>\n" if health.command else ""
    return f"{command}<p>The model alone:</p>\n<pre>{escape(snippet)}</pre>"


# Pieces


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[int] = (), raw: Sequence[int] = ()
) -> str:
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


def _bar(effect: float) -> str:
    """Return a bar as long as an effect is large, hatched where the cluster has less."""
    length = min(abs(effect), 6.0) * 1.2
    side = "" if effect >= 0 else " less"
    return f'<span class="bar{side}" style="width:{length:.2f}rem"></span>'


def _figure(display: Any, alt: str, caption: str) -> str:
    """Return a picture as part of the page; its figure is closed."""
    from matplotlib import pyplot as plt

    stream = io.BytesIO()
    display.figure_.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    plt.close(display.figure_)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _number(value: float | None) -> str:
    """Return a number for people, as the command line writes it."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}".replace(",", " ")
        return text.replace(" ", "") if abs(value) < 10_000 else text
    return f"{value:.5g}" if abs(value) < 1e4 else f"{value:,.1f}".replace(",", " ")


__all__ = ["Health", "render"]
