"""The page: HTML that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from mixcoder import __version__, plot
from mixcoder.report.analysis import Analysis
from mixcoder.report.images import Images
from mixcoder.report.pieces import bar, figure, number, table
from mixcoder.selection import Candidate

# As many columns of the table as the page lists; pixels are seen better than read.
_LISTED, _LISTED_PIXELS = 40, 8

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
        The options by which it was read, as Python words.
    chosen : sequence of str, optional
        The columns that were read, where these are not all.
    """

    path: str
    columns: Sequence[Mapping[str, Any]]
    n_duplicates: int = 0
    warnings: Sequence[str] = ()
    command: str = ""
    reading: Mapping[str, str] = field(default_factory=dict)
    chosen: Sequence[str] | None = None


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
    images = None if image is None else Images(analysis, values, image)
    sections = [
        ("health", "The data", _health(analysis, health, images)),
        ("model", "The model, and why", _model(analysis)),
        ("map", "Map", _map(analysis, images)),
        ("clusters", "Clusters", _clusters(analysis, images)),
        ("outliers", "Outliers", _outliers(analysis, images)),
    ]
    if images is not None:
        sections.append(("images", "Reconstructions", images.reconstructions()))
    sections.append(("code", "Code to reproduce", _code(analysis, health)))
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections)
    body = "\n".join(
        f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{content}\n</section>'
        for name, title, content in sections
    )
    n, d = values.shape
    best = analysis.selection.best
    facts = [
        ("rows", number(n)),
        ("columns", number(d)),
        ("clusters", str(len(analysis.clusters))),
        ("covariance", _covariance(best)),
        ("BIC", number(best.bic)),
        ("log-density, nats per row", number(best.log_likelihood / analysis.n_selection_rows)),
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
    shares = [f"{100 * c.share:.0f} %" for c in analysis.clusters]
    if k > 6:
        return f"These rows fall into {k} clusters; the largest holds {shares[0]} of them, the smallest {shares[-1]}."
    return f"These rows fall into {k} clusters, of {', '.join(shares[:-1])} and {shares[-1]} of them."


def _covariance(candidate: Candidate) -> str:
    return str(candidate.settings["covariance_type"]).replace("_", " ")


def _told(candidate: Candidate) -> str:
    """Return a model in words."""
    k = candidate.n_components
    return f"{k} component{'' if k == 1 else 's'} with {_covariance(candidate)} covariances"


def _kind(candidate: Candidate, n_features: int) -> tuple[int, str]:
    """Return what a model is whatever it is called: one component ties with none, one feature has one shape."""
    k, covariance = candidate.n_components, str(candidate.settings["covariance_type"])
    tied, shape = covariance.startswith("tied") and k > 1, covariance.removeprefix("tied").removeprefix("_")
    shape = "spherical" if n_features == 1 else shape or "full"
    return k, f"tied {shape}" if tied else shape


def _distinct(candidates: Iterable[Candidate], n_features: int) -> list[list[Candidate]]:
    """Return candidates that are the same model under several names together, in the order of the first of each."""
    groups: dict[tuple[int, str], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(_kind(candidate, n_features), []).append(candidate)
    return list(groups.values())


# Sections


def _health(analysis: Analysis, health: Health, images: Images | None) -> str:
    parts = [f'<p class="warning">{escape(text)}</p>' for text in health.warnings]
    if not parts:
        parts.append("<p>Nothing stands in the way of a fit: no cell is missing or infinite.</p>")
    n = len(analysis.x)
    if missing := int(np.isnan(analysis.x).sum()):
        share = f"{100 * missing / analysis.x.size:.2g} %"
        parts.append(
            f"<p>{number(missing)} cells of the columns fitted, {share}, are missing: the model is that of the cells "
            "that are there, with the others integrated out.</p>"
        )
    if health.n_duplicates:
        parts.append(f"<p>{number(health.n_duplicates)} of {number(n)} rows repeat an earlier one.</p>")
    if images is not None:
        parts.append(f"<p>{escape(images.told())}</p>")
    if analysis.constant:
        shown = ", ".join(analysis.constant[:10]) + (", ..." if len(analysis.constant) > 10 else "")
        parts.append(f"<p>Left out of the fit, the same in every row: {escape(shown)}.</p>")
    most = _LISTED if images is None else _LISTED_PIXELS
    listed = list(health.columns)[:most]
    rows = [
        (
            c["name"],
            c["dtype"],
            *(number(c[key]) for key in ("min", "max", "mean", "std")),
            c.get("remark", ""),
        )
        for c in listed
    ]
    parts.append(table(("column", "type", "least", "largest", "mean", "std", "remark"), rows, text=(1, 6)))
    if len(health.columns) > most:
        parts.append(f"<p>... and {number(len(health.columns) - most)} more columns.</p>")
    return "\n".join(parts)


def _model(analysis: Analysis) -> str:
    selection = analysis.selection
    best, tried = selection.best, selection.candidates
    same, *others = _distinct((c for c in selection.ranked if c.failure is None), analysis.x.shape[1])
    failed = [c for c in tried if c.failure is not None]
    text = (
        f"Of {len(tried)} Gaussian mixtures the one with the least BIC was chosen: {_told(best)}. BIC weighs how "
        "well rows are explained against the number of parameters; a difference of 10 is strong evidence."
    )
    if len(same) > 1:
        *names, last = (_covariance(c) for c in same[1:])
        text += f" With {', '.join(names) + ' or ' if names else ''}{last} covariances it is the same model."
    if others:
        text += f" The next best, {_told(others[0][0])}, is {number(others[0][0].bic - best.bic)} behind."
    parts = [f"<p>{escape(text)}</p>"]
    sizes = {c.n_components for c in tried}
    if len(sizes) > 1 and best.n_components == max(sizes):
        parts.append(
            f'<p class="warning">{best.n_components} components are the most that were tried: more may be better.</p>'
        )
    if analysis.n_selection_rows < len(analysis.x):
        rows = f"{number(analysis.n_selection_rows)} rows drawn at random"
        parts.append(f"<p>Models were compared on {rows}; the chosen one was then fitted to all.</p>")
    if failed:
        reasons = "; ".join(f"{_told(c)}: {c.failure}" for c in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        parts.append(f"<p>Not to be chosen: {escape(reasons + more)}.</p>")
    parts += [f'<p class="warning">{escape(text)}</p>' for text in analysis.warnings]
    parts.append(
        figure(
            plot.SelectionDisplay.from_selection(selection),
            "BIC of every model tried, by number of components",
            "Less is better; the ring is the model chosen.",
        )
    )
    rows = [
        (
            str(c.n_components),
            " = ".join(_covariance(one) for one in group),
            number(c.n_parameters),
            number(c.log_likelihood),
            number(c.bic),
            number(c.bic - best.bic),
            number(c.icl),
        )
        for group in [same, *others][:5]
        for c in group[:1]
    ]
    heads = ("components", "covariance", "parameters", "log-likelihood", "BIC", "behind", "ICL")
    parts.append(table(heads, rows, text=(1,)))
    return "\n".join(parts)


def _map(analysis: Analysis, images: Images | None) -> str:
    if analysis.x.shape[1] == 1:
        display: Any = plot.DensityDisplay.from_estimator(analysis.model, analysis.filled)
        display.ax_.set_xlabel(analysis.columns[0])
        return figure(
            display,
            "Density along the only column",
            f"The density of the mixture and of each component, along {analysis.columns[0]}.",
        )
    display = plot.EllipseDisplay.from_estimator(analysis.model, analysis.filled, standardize=images is None)
    if analysis.x.shape[1] == 2:
        display.ax_.set_xlabel(analysis.columns[0])
        display.ax_.set_ylabel(analysis.columns[1])
        plane = f"{analysis.columns[0]} across, {analysis.columns[1]} upwards."
    else:
        units = (
            "each column in units of its standard deviation"
            if images is None
            else "in the unit of the pixels"
        )
        plane = f"The plane along which the rows spread most, {units}."
        if analysis.x.shape[1] > 3 and "spherical" in _covariance(analysis.selection.best):
            plane += " A spherical component is as wide along every axis; its rows may spread more along these two."
    caption = f"{plane} Each ellipse holds 90 % of its component; shades hold 50, 90 and 99 % of the mixture."
    return figure(display, "Rows and components on a plane", caption)


def _clusters(analysis: Analysis, images: Images | None) -> str:
    parts = [
        (
            "<p>What sets each cluster apart: the difference of its mean from that of all other rows, in standard "
            "deviations within the two (0.2 is small, 0.5 medium, 0.8 large).</p>"
        ),
    ]
    if images is not None and len(analysis.clusters) > 1:
        parts.append(
            "<p>Of each cluster: its mean; that difference, orange where pixels are larger and violet where they are "
            "smaller; and some of its rows, from the most typical to the oddest.</p>"
        )
    for c in analysis.clusters:
        parts.append(
            f"<h3>Cluster {c.number}: {number(c.n_rows)} rows, {100 * c.share:.1f} %, "
            f"mean certainty {100 * c.certainty:.0f} %</h3>"
        )
        if len(analysis.clusters) == 1:
            parts.append("<p>The only one: there is nothing to compare it with.</p>")
            continue
        if images is not None:
            parts.append(images.cluster(c))
            continue
        rows = [
            (f.name, bar(f.effect), f"{f.effect:+.2f}", number(f.inside), number(f.outside))
            for f in c.features
        ]
        heads = ("column", "", "effect", "mean here", "mean elsewhere")
        parts.append(table(heads, rows, text=(1,), raw=(1,)))
    return "\n".join(parts)


def _outliers(analysis: Analysis, images: Images | None) -> str:
    rows = [
        (str(o.row), f"{o.log_density:.2f}", str(o.cluster), o.name, number(o.value), f"{o.deviation:+.1f}")
        for o in analysis.outliers
    ]
    median = float(np.median(analysis.log_density))
    text = (
        f"The rows of lowest log-density, in nats (the median is {median:.2f}), with the column that lies "
        "farthest from the mean of its cluster, in standard deviations of the cluster. Rows count from 0."
    )
    if np.isnan(analysis.x).any():
        text += " Of a row with missing cells it is the density of those that are there."
    heads = ("row", "log-density", "cluster", "farthest column", "value", "deviations")
    pictures = "" if images is None else images.outliers()
    return f"<p>{escape(text)}</p>\n" + pictures + table(heads, rows, text=(3,))


def _code(analysis: Analysis, health: Health) -> str:
    best = analysis.selection.best
    drop = ""
    if analysis.constant:
        drop = "\nX = X[:, np.fmax.reduce(X) > np.fmin.reduce(X)]  # constant columns say nothing"
    options = "".join(f", {name}={value}" for name, value in health.reading.items())
    chosen = "" if health.chosen is None else repr(list(health.chosen))
    loader = f"open_table({health.path!r}{options}).read({chosen}).values"
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


__all__ = ["Health", "render"]
